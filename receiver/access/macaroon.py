"""Macaroons: a token that whoever holds it can narrow and nobody can widen.

A signature is a chain of HMAC-SHA256: the first link signs the identifier with a root key that only its maker has, each further link
signs a caveat with the link before it. So a caveat can be added by anyone who has the token, and taken away by no one.

Read and written is libmacaroons' binary format, version 2 (github.com/rescrv/libmacaroons, doc/format.txt), in standard base64 as
Lightning Labs' aperture has it. There is one spelling of each token: what does not read back as it was written is none. Caveats for a
third party to discharge are not known here and make a token none.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import hmac
from dataclasses import dataclass, replace
from typing import Final

from receiver.core.macaroon_format import END, IDENTIFIER, LOCATION, SIGNATURE, VERSION, field
from receiver.errors import ReceiverError

#: libmacaroons never signs with the key itself but with one made of it.
_KEY_GENERATOR: Final = b"macaroons-key-generator"
_DIGEST_BYTES: Final = 32

#: A token of ours has about 110 bytes, a caveat 40. Beyond this it is somebody's attempt to make us work.
MAX_BYTES: Final = 2_048
MAX_CAVEATS: Final = 16


class MalformedMacaroon(ReceiverError):
    """The text is no macaroon, or not of the one form that is read here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Macaroon:
    """A token. `location` is a hint for people and is signed by nobody."""

    location: str
    identifier: bytes
    caveats: tuple[bytes, ...] = ()
    signature: bytes = dataclasses.field(repr=False)

    def to_bytes(self) -> bytes:
        parts = [bytes((VERSION,)), _field(LOCATION, self.location.encode()), _field(IDENTIFIER, self.identifier), _EOS]
        for caveat in self.caveats:
            parts += [_field(IDENTIFIER, caveat), _EOS]
        return b"".join([*parts, _EOS, _field(SIGNATURE, self.signature)])

    def encode(self) -> str:
        """In standard base64 with padding, which is what strict decoders (Go's) take."""
        return base64.b64encode(self.to_bytes()).decode()


def mint(root_key: bytes, identifier: bytes, *, location: str) -> Macaroon:
    """A new token without caveats."""
    return Macaroon(location=location, identifier=identifier, signature=_sign(_derived(root_key), identifier))


def restrict(macaroon: Macaroon, caveat: bytes) -> Macaroon:
    """The same token with one more caveat; needs no key."""
    return replace(macaroon, caveats=(*macaroon.caveats, caveat), signature=_sign(macaroon.signature, caveat))


def verify(macaroon: Macaroon, root_key: bytes) -> bool:
    """Whether the chain begins with `root_key`; what the caveats say is not judged. The time does not depend on the keys."""
    signature = _sign(_derived(root_key), macaroon.identifier)
    for caveat in macaroon.caveats:
        signature = _sign(signature, caveat)
    return hmac.compare_digest(signature, macaroon.signature)


def decode(text: str) -> Macaroon:
    """Read a token: base64, with either alphabet and with or without padding, since clients encode anew.

    Raises:
        MalformedMacaroon: it is none.
    """
    plain = text.rstrip("=").replace("-", "+").replace("_", "/")
    if len(plain) > MAX_BYTES * 4 // 3:
        raise MalformedMacaroon(f"a token has at most {MAX_BYTES:,} bytes")
    try:
        data = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedMacaroon("the token is no base64") from error
    if base64.b64encode(data).decode().rstrip("=") != plain:
        raise MalformedMacaroon("the token's base64 has bits too many")  # two texts would be one token
    return of_bytes(data)


def of_bytes(data: bytes) -> Macaroon:
    """Read a token in binary. Raises MalformedMacaroon."""
    try:
        macaroon = _read(data)
    except (IndexError, UnicodeDecodeError):
        raise MalformedMacaroon("the token ends too early, or is something else") from None
    if macaroon.to_bytes() != data:
        raise MalformedMacaroon("the token is not written as version 2 of the format is")
    return macaroon


def _read(data: bytes) -> Macaroon:
    if data[0] != VERSION:
        raise MalformedMacaroon("the token is no macaroon of version 2")
    head, at = _section(data, 1)
    caveats: list[bytes] = []
    while data[at] != END:
        if len(caveats) == MAX_CAVEATS:
            raise MalformedMacaroon(f"a token has at most {MAX_CAVEATS} caveats")
        caveat, at = _section(data, at)
        caveats.append(caveat[IDENTIFIER])
    kind, signature, at = field(data, at + 1)
    if kind != SIGNATURE or len(signature) != _DIGEST_BYTES or at != len(data):
        raise MalformedMacaroon("the token has no signature at its end")
    return Macaroon(location=head.get(LOCATION, b"").decode(), identifier=head[IDENTIFIER], caveats=tuple(caveats), signature=signature)


def _section(data: bytes, at: int) -> tuple[dict[int, bytes], int]:
    """The fields of a section by kind, and where the next one begins."""
    fields: dict[int, bytes] = {}
    while data[at] != END:
        kind, value, at = field(data, at)
        if kind not in (LOCATION, IDENTIFIER):
            raise MalformedMacaroon("the token has a caveat for a third party, or a field that is not known")
        fields[kind] = value
    if IDENTIFIER not in fields:
        raise MalformedMacaroon("the token has a part without an identifier")
    return fields, at + 1


def _field(kind: int, data: bytes) -> bytes:
    size, length = bytearray(), len(data)
    while length >= 0x80:
        size.append(length & 0x7F | 0x80)
        length >>= 7
    size.append(length)
    return bytes((kind, *size)) + data


_EOS: Final = bytes((END,))


def _derived(root_key: bytes) -> bytes:
    return hmac.new(_KEY_GENERATOR, root_key, hashlib.sha256).digest()


def _sign(key: bytes, message: bytes) -> bytes:
    return hmac.new(key, message, hashlib.sha256).digest()
