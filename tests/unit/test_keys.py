"""Static keys: who a credential is, and what it never tells."""

from __future__ import annotations

import hmac
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.access import keys as module
from receiver.access.keys import DEFAULT_ACCOUNT, Keys, generate_key, hash_key
from receiver.errors import Unauthenticated

KEYS = Keys([("acme", hash_key("spt_one")), ("acme", hash_key("spt_two")), ("globex", hash_key("spt_three"))])


@pytest.mark.parametrize(
    ("header", "account"),
    [("Bearer spt_one", "acme"), ("bearer spt_two", "acme"), ("BEARER  spt_three ", "globex"), ("Bearer%20spt_one", "acme")],
)
def test_a_key_names_its_account(header: str, account: str) -> None:
    """An account may have several keys; the scheme is case-insensitive (RFC 9110 11.1)."""
    assert KEYS.required
    assert KEYS.account(header) == account


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer spt_four",
        "Basic spt_one",
        "spt_one",
        "Bearer spt_one\x00",
        "Bearer ' OR 1=1 --",
        "Bearer " + "x" * 1_000_000,
    ],
    ids=lambda h: repr(h)[:24],
)
def test_everything_else_names_none(header: str | None) -> None:
    """Absent, another scheme, unknown, hostile: Unauthenticated, and the message does not repeat what was sent."""
    with pytest.raises(Unauthenticated) as refused:
        KEYS.account(header)
    assert len(str(refused.value)) < 200
    assert "spt_four" not in str(refused.value)
    assert "OR 1=1" not in str(refused.value)


@given(st.text())
def test_no_text_is_too_strange(text: str) -> None:
    """Header bytes that are no text reach us as surrogates; none of it raises anything else."""
    for header in (text, f"Bearer {text}", f"Bearer \udcff{text}"):
        with pytest.raises(Unauthenticated):
            KEYS.account(header)


def test_without_keys_everyone_is_the_default_account() -> None:
    """The first run needs no configuration, and a key that is sent anyway does no harm."""
    assert not Keys().required
    assert Keys().account(None) == Keys().account("Bearer anything") == DEFAULT_ACCOUNT


def test_a_wrong_key_costs_what_a_right_one_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are hashed once and compared once over the same length, so time tells nothing (no wall clock: the work is counted)."""
    compared: list[tuple[int, int]] = []

    def compare(a: Any, b: Any) -> bool:
        compared.append((len(a), len(b)))
        return hmac.compare_digest(a, b)

    class Counting:
        compare_digest = staticmethod(compare)

    monkeypatch.setattr(module, "hmac", Counting)
    KEYS.account("Bearer spt_one")
    with pytest.raises(Unauthenticated):
        KEYS.account("Bearer spt_not")
    assert compared == [(32, 32), (32, 32)]


def test_the_digest_itself_is_no_key() -> None:
    """Who reads the configuration cannot send what it holds."""
    with pytest.raises(Unauthenticated):
        KEYS.account(f"Bearer {hash_key('spt_one')}")


def test_generated_keys_are_long_different_and_fit_a_header() -> None:
    """256 random bits behind a prefix that secret scanners know, in the alphabet of a bearer token (RFC 6750 2.1)."""
    made = {generate_key() for _ in range(100)}
    assert len(made) == 100
    for key in made:
        assert key.startswith("spt_")
        assert len(key) == 47
        assert key.isascii()
        assert Keys([("a", hash_key(key))]).account(f"Bearer {key}") == "a"
