"""BOLT-11 invoices: read with their signature checked, and written and signed by the development wallet.

Source: BOLT #11, "Invoice Protocol for Lightning Payments" (github.com/lightning/bolts). What a reader must skip is skipped, what
he must refuse is refused: then every text that passes here passes at a payer's wallet too. Routing hints and fallback
addresses are of use to payers only and are not kept.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from receiver.errors import ReceiverError
from receiver.lightning import bech32, secp256k1

#: The currency in the prefix, and what the network is called by nodes. Longer ones first: "bc" begins "bcrt".
CURRENCIES: Final = {"bcrt": "regtest", "bc": "bitcoin", "tbs": "signet", "tb": "testnet"}
#: The largest QR code that holds letters and digits in upper case; nobody can pay a longer one with a phone.
MAX_LENGTH: Final = 7_089
DEFAULT_EXPIRY_SECONDS: Final = 3_600
DEFAULT_MIN_FINAL_CLTV_EXPIRY: Final = 18
#: Longest description that fits its field: 1,023 groups of 5 bits.
MAX_DESCRIPTION_BYTES: Final = 639

_PREFIX: Final = re.compile(rf"ln({'|'.join(CURRENCIES)})(?:([1-9][0-9]{{0,19}})([munp]?))?")
#: Millisatoshi in a bitcoin, and in its parts that still hold one; a pico-bitcoin is a tenth of a millisatoshi.
_UNITS_MSAT: Final = {"": 10**11, "m": 10**8, "u": 10**5, "n": 10**2}
#: Feature bits that a payer may be required to know (BOLT #9): onion, secret, multi-part, blinded route, AMP, metadata, trampoline.
_KNOWN_FEATURES: Final = frozenset({8, 14, 16, 24, 30, 48, 56})
_SIGNATURE_WORDS: Final = 104  # 520 bits
_TIMESTAMP_WORDS: Final = 7  # 35 bits
_HASH_WORDS: Final = 52  # 256 bits, filled up to 260
_KEY_WORDS: Final = 53  # 264 bits, filled up to 265
_MAX_NUMBER: Final = 2**63 - 1


class MalformedInvoice(ReceiverError):
    """The text is no BOLT-11 invoice, or nobody signed it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bolt11:
    """What an invoice says, signed by `payee`."""

    network: str  #: a value of CURRENCIES
    amount_msat: int | None  #: None: the payer chooses
    timestamp: int  #: when it was made, seconds since 1970
    payment_hash: bytes
    payee: str  #: the node's compressed public key in hex, stated or recovered
    description: str | None = None
    description_hash: bytes | None = None
    expiry_seconds: int = DEFAULT_EXPIRY_SECONDS
    min_final_cltv_expiry: int = DEFAULT_MIN_FINAL_CLTV_EXPIRY
    payment_secret: bytes | None = None
    features: int = 0  #: bit vector

    @property
    def expires_unix(self) -> int:
        """When a payee should refuse it, seconds since 1970."""
        return self.timestamp + self.expiry_seconds


def decode(text: str) -> Bolt11:
    """Read an invoice; `lightning:` before it is allowed. The signature is checked, the expiry is not.

    Raises:
        MalformedInvoice: it is none, or it must not be paid (a required feature that nobody here knows).
    """
    text = text.strip()
    if text[:10].lower() == "lightning:":
        text = text[10:]
    if len(text) > MAX_LENGTH:
        raise MalformedInvoice(f"no invoice is longer than {MAX_LENGTH:,} characters, this has {len(text):,}")
    try:
        prefix, words = bech32.decode(text)
    except ValueError as error:
        raise MalformedInvoice(f"this is no Lightning invoice: {error}") from error
    match = _PREFIX.fullmatch(prefix)
    if match is None:
        raise MalformedInvoice(f"{prefix[:64]!r} is no prefix of a Lightning invoice: lnbc, lntb, lntbs or lnbcrt, and an amount")
    if len(words) < _TIMESTAMP_WORDS + _SIGNATURE_WORDS:
        raise MalformedInvoice("the invoice is too short to be signed")
    signed, signature_words = words[:-_SIGNATURE_WORDS], words[-_SIGNATURE_WORDS:]
    fields = _fields(signed[_TIMESTAMP_WORDS:])
    payment_hash = _sized(fields, "p", _HASH_WORDS)
    if payment_hash is None:
        raise MalformedInvoice("the invoice has no payment hash")
    features = bech32.to_int(fields.get("9", [[]])[0])
    unknown = [bit for bit in range(0, features.bit_length(), 2) if features >> bit & 1 and bit not in _KNOWN_FEATURES]
    if unknown:
        raise MalformedInvoice(f"the invoice requires feature {unknown[0]}, which is not known here")
    description = fields.get("d")
    return Bolt11(
        network=CURRENCIES[match[1]],
        amount_msat=None if match[2] is None else _amount_msat(int(match[2]), match[3]),
        timestamp=bech32.to_int(signed[:_TIMESTAMP_WORDS]),
        payment_hash=payment_hash,
        payee=_payee(prefix, signed, signature_words, _sized(fields, "n", _KEY_WORDS)),
        description=None if description is None else bech32.to_bytes(description[0]).decode("utf-8", "replace"),
        description_hash=_sized(fields, "h", _HASH_WORDS),
        expiry_seconds=_number(fields, "x", DEFAULT_EXPIRY_SECONDS),
        min_final_cltv_expiry=_number(fields, "c", DEFAULT_MIN_FINAL_CLTV_EXPIRY),
        payment_secret=_sized(fields, "s", _HASH_WORDS),
        features=features,
    )


def encode(
    *,
    secret: int,
    network: str,
    amount_msat: int | None,
    timestamp: int,
    payment_hash: bytes,
    description: str | bytes,
    payment_secret: bytes | None = None,
    expiry_seconds: int | None = None,
    min_final_cltv_expiry: int | None = None,
    features: int = 0,
) -> str:
    """An invoice signed with `secret`. `description`: text, or the 32-byte hash of one. None leaves a field, and so its default, out.

    Raises:
        ValueError: the description does not fit.
    """
    assert len(payment_hash) == 32
    assert 0 <= timestamp < 2**35
    currency = next(code for code, name in CURRENCIES.items() if name == network)
    prefix = f"ln{currency}{'' if amount_msat is None else _amount_text(amount_msat)}"
    words = [timestamp >> 5 * at & 31 for at in range(_TIMESTAMP_WORDS - 1, -1, -1)]
    words += _tagged("p", bech32.to_words(payment_hash))
    if isinstance(description, bytes):
        assert len(description) == 32
        words += _tagged("h", bech32.to_words(description))
    else:
        text = description.encode()
        if len(text) > MAX_DESCRIPTION_BYTES:
            raise ValueError(f"a description has at most {MAX_DESCRIPTION_BYTES} bytes, this has {len(text)}")
        words += _tagged("d", bech32.to_words(text))
    if payment_secret is not None:
        assert len(payment_secret) == 32
        words += _tagged("s", bech32.to_words(payment_secret))
    if expiry_seconds is not None:
        words += _tagged("x", bech32.from_int(expiry_seconds))
    if min_final_cltv_expiry is not None:
        words += _tagged("c", bech32.from_int(min_final_cltv_expiry))
    if features:
        words += _tagged("9", bech32.from_int(features))
    signature, recovery = secp256k1.sign(_digest(prefix, words), secret)
    return bech32.encode(prefix, [*words, *bech32.to_words(signature + bytes((recovery,)))])


def _payee(prefix: str, signed: list[int], signature_words: list[int], stated: bytes | None) -> str:
    """Who signed: the key that the invoice states, if it does and the signature is its own, else the one recovered."""
    signature = bech32.to_bytes(signature_words)
    digest = _digest(prefix, signed)
    if stated is not None:
        if not secp256k1.verify(digest, signature[:64], stated):
            raise MalformedInvoice("the invoice is not signed by the node that it names")
        return stated.hex()
    recovered = secp256k1.recover(digest, signature[:64], signature[64])
    if recovered is None:
        raise MalformedInvoice("the invoice's signature is nobody's")
    return recovered.hex()


def _digest(prefix: str, words: list[int]) -> bytes:
    """What is signed: the prefix as text and the words as bits, filled up with zeros to whole bytes."""
    size = -(-len(words) * 5 // 8)
    return hashlib.sha256(prefix.encode() + (bech32.to_int(words) << size * 8 - len(words) * 5).to_bytes(size)).digest()


def _fields(words: list[int]) -> dict[str, list[list[int]]]:
    """Tagged fields in the order they come: tag -> the data of each."""
    fields: dict[str, list[list[int]]] = {}
    at = 0
    while at < len(words):
        if at + 3 > len(words):
            raise MalformedInvoice("the invoice ends within a field")
        tag, size = bech32.CHARSET[words[at]], words[at + 1] << 5 | words[at + 2]
        at += 3
        if at + size > len(words):
            raise MalformedInvoice(f"field {tag!r} of the invoice is longer than the invoice")
        fields.setdefault(tag, []).append(words[at : at + size])
        at += size
    return fields


def _sized(fields: dict[str, list[list[int]]], tag: str, size: int) -> bytes | None:
    """The first field of this tag and size; those of another size are skipped (BOLT #11, "A reader")."""
    return next((bech32.to_bytes(data) for data in fields.get(tag, ()) if len(data) == size), None)


def _number(fields: dict[str, list[list[int]]], tag: str, default: int) -> int:
    found = fields.get(tag)
    if found is None:
        return default
    number = bech32.to_int(found[0])
    if number > _MAX_NUMBER:
        raise MalformedInvoice(f"field {tag!r} of the invoice is beyond reason")
    return number


def _tagged(tag: str, data: list[int]) -> list[int]:
    return [bech32.CHARSET.index(tag), len(data) >> 5, len(data) & 31, *data]


def _amount_msat(amount: int, multiplier: str) -> int:
    if multiplier != "p":
        msat = amount * _UNITS_MSAT[multiplier]
    else:
        msat, rest = divmod(amount, 10)
        if rest:
            raise MalformedInvoice("the amount has a fraction of a millisatoshi, which cannot be paid")
    if msat > _MAX_NUMBER:
        raise MalformedInvoice("the amount is more than all bitcoin")
    return msat


def _amount_text(amount_msat: int) -> str:
    assert amount_msat > 0
    for multiplier, unit_msat in _UNITS_MSAT.items():
        if amount_msat % unit_msat == 0:
            return f"{amount_msat // unit_msat}{multiplier}"
    return f"{amount_msat * 10}p"
