"""Whatever is done to a credential, it is the one that was sold, narrowed by who had it, or none."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receiver.access import macaroon as macaroons
from receiver.access.l402 import written
from receiver.access.macaroon import Macaroon, MalformedMacaroon
from receiver.errors import PermissionDenied, Unauthenticated
from tests.unit.test_l402 import UNIX, header, narrowed, preimage_of, register, token_of

TOKEN = token_of(7)
TOKENS = register(TOKEN, token_of(8))
CAVEAT = f"spantoll_valid_until={UNIX + 60}"
TEXTS = (written(TOKEN), narrowed(TOKEN, CAVEAT), narrowed(TOKEN, "services=spantoll:0", CAVEAT, "spantoll_capabilities=send,read"))


def opens(credential: str) -> bool:
    try:
        return TOKENS.account(credential) == TOKEN.account
    except (Unauthenticated, PermissionDenied):
        return False


def test_the_tokens_open_as_they_are() -> None:
    """Else nothing below could fail."""
    assert all(opens(header(text, 7)) for text in TEXTS)


@settings(max_examples=200)
@given(text=st.sampled_from(TEXTS), flips=st.dictionaries(st.integers(0, 400), st.integers(1, 255), min_size=1, max_size=4))
def test_a_token_with_flipped_bytes_never_opens(text: str, flips: dict[int, int]) -> None:
    """Any byte of the binary form: version, place, identifier, caveats, signature, and the lengths between them."""
    data = bytearray(base64.b64decode(text))
    for at, flip in flips.items():
        data[at % len(data)] ^= flip
    if bytes(data) == base64.b64decode(text):
        return  # two flips of one byte that undid each other
    assert not opens(header(base64.b64encode(data).decode(), 7))


@settings(max_examples=200)
@given(text=st.sampled_from(TEXTS), at=st.integers(0, 2**16), flip=st.integers(1, 255))
def test_a_credential_with_a_flipped_character_never_opens(text: str, at: int, flip: int) -> None:
    """Any character of the header behind the scheme; what only spells the same bytes otherwise is the same credential."""
    credential = header(text, 7)
    begin = len("L402 ")
    at = begin + at % (len(credential) - begin)
    changed = credential[:at] + chr(ord(credential[at]) ^ flip) + credential[at + 1 :]
    spelling = str.maketrans("-_", "+/", "= \t\n\r\v\f\x1c\x1d\x1e\x1f\x85\xa0")

    def plain(text: str) -> tuple[str, str]:
        token, _, preimage = text[begin:].rpartition(":")
        return token.translate(spelling), preimage.strip().lower()

    assert opens(changed) <= (plain(changed) == plain(credential))


@settings(max_examples=100)
@given(flips=st.dictionaries(st.integers(0, 31), st.integers(1, 255), min_size=1))
def test_another_preimage_never_opens(flips: dict[int, int]) -> None:
    """Nor with any of the narrowed tokens."""
    preimage = bytearray(preimage_of(7))
    for at, flip in flips.items():
        preimage[at] ^= flip
    assert not any(opens(f"L402 {text}:{preimage.hex()}") for text in TEXTS)


@settings(max_examples=100)
@given(
    caveats=st.lists(st.binary(max_size=80), max_size=8),
    identifier=st.binary(max_size=300),
    location=st.text(st.characters(codec="utf-8"), min_size=1, max_size=20),
    key=st.binary(max_size=64),
)
def test_what_is_written_is_read_again(caveats: list[bytes], identifier: bytes, location: str, key: bytes) -> None:
    """Also with fields of more than 127 bytes; and the chain verifies with its key and with no other."""
    made = macaroons.mint(key, identifier, location=location)
    for caveat in caveats:
        made = macaroons.restrict(made, caveat)
    assert macaroons.decode(made.encode()) == made
    assert macaroons.verify(made, key)
    assert not macaroons.verify(made, key + b"\x01")
    for at in range(len(caveats)):
        assert not macaroons.verify(replace(made, caveats=(*caveats[:at], *caveats[at + 1 :])), key)


@settings(max_examples=200)
@given(data=st.binary(max_size=200) | st.binary(max_size=120).map(lambda rest: b"\x02\x01\x01l\x02\x01i\x00" + rest))
def test_noise_is_none_or_one_token(data: bytes) -> None:
    """No bytes make the reader fail otherwise, and what it reads has no second spelling."""
    try:
        found = macaroons.of_bytes(data)
    except MalformedMacaroon:
        return
    assert isinstance(found, Macaroon)
    assert found.to_bytes() == data


@settings(max_examples=200)
@given(st.text(max_size=200))
def test_any_header_is_answered(text: str) -> None:
    """With a refusal."""
    with pytest.raises(Unauthenticated):
        TOKENS.account(f"L402 {text}")
