"""Bech32 (BIP-173) without its length limit, as BOLT-11 uses it: text to and from 5-bit groups, guarded by a checksum."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

CHARSET: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_VALUES: Final = {char: value for value, char in enumerate(CHARSET)}
_GENERATOR: Final = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


def encode(prefix: str, words: Sequence[int]) -> str:
    """`prefix`, the separator, the 5-bit `words` and the checksum; in lower case."""
    check = _polymod([*_expanded(prefix), *words, 0, 0, 0, 0, 0, 0]) ^ 1
    checksum = [check >> 5 * (5 - at) & 31 for at in range(6)]
    return f"{prefix}1{''.join(CHARSET[word] for word in (*words, *checksum))}"


def decode(text: str) -> tuple[str, list[int]]:
    """(prefix in lower case, words without the checksum).

    Raises:
        ValueError: mixed case, no separator, a foreign character, or a wrong checksum.
    """
    lower = text.lower()
    if text not in (lower, text.upper()):
        raise ValueError("upper and lower case are mixed")
    prefix, separator, data = lower.rpartition("1")
    if not separator or not prefix or len(data) < 6:
        raise ValueError("there is no separator between prefix and data")
    if not all(33 <= ord(char) <= 126 for char in prefix):
        raise ValueError("the prefix holds a character that is not printable ASCII")
    try:
        words = [_VALUES[char] for char in data]
    except KeyError as error:
        raise ValueError(f"{error.args[0]!r} is no character of bech32") from error
    if _polymod([*_expanded(prefix), *words]) != 1:
        raise ValueError("the checksum is wrong: the text was changed or cut")
    return prefix, words[:-6]


def to_words(data: bytes) -> list[int]:
    """Bytes as 5-bit groups, filled up with zero bits."""
    bits = -(-len(data) * 8 // 5)
    number = int.from_bytes(data) << bits * 5 - len(data) * 8
    return [number >> 5 * at & 31 for at in range(bits - 1, -1, -1)]


def to_bytes(words: Sequence[int]) -> bytes:
    """Whole bytes of 5-bit groups; the bits that are left over are dropped."""
    size = len(words) * 5 // 8
    return (to_int(words) >> len(words) * 5 - size * 8).to_bytes(size)


def to_int(words: Sequence[int]) -> int:
    """5-bit groups as one big-endian number."""
    number = 0
    for word in words:
        number = number << 5 | word
    return number


def from_int(number: int) -> list[int]:
    """A number as the fewest 5-bit groups, at least one."""
    size = max(1, -(-number.bit_length() // 5))
    return [number >> 5 * at & 31 for at in range(size - 1, -1, -1)]


def _expanded(prefix: str) -> list[int]:
    return [ord(char) >> 5 for char in prefix] + [0] + [ord(char) & 31 for char in prefix]


def _polymod(words: Iterable[int]) -> int:
    check = 1
    for word in words:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ word
        for bit, generator in enumerate(_GENERATOR):
            if top >> bit & 1:
                check ^= generator
    return check
