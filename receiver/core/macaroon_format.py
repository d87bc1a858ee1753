"""How macaroons are written: libmacaroons' binary format, version 2 (github.com/rescrv/libmacaroons, doc/format.txt).

A version byte, then fields in sections. A field is its type, the size of what it holds and that, both numbers as varints; END ends a
section. Two kinds of macaroon are read here, ours and those of a Lightning node; what they mean is told where each is read.
"""

from __future__ import annotations

from typing import Final

VERSION: Final = 2
#: Types of fields.
END, LOCATION, IDENTIFIER, VERIFICATION, SIGNATURE = 0, 1, 2, 4, 6

_VARINT_BITS: Final = 28  #: of a number that is read; 256 MB is beyond any token


def field(data: bytes, at: int) -> tuple[int, bytes, int]:
    """Type and content of the field that begins at `at`, and where the next one begins. Raises IndexError where the data ends too early."""
    kind, at = _varint(data, at)
    size, at = _varint(data, at)
    if at + size > len(data):
        raise IndexError
    return kind, data[at : at + size], at + size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > _VARINT_BITS:
            raise IndexError
