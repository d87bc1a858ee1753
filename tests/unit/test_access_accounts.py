"""The register: whose key it is, until when, at what cost, and on what terms."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.access import accounts as module
from receiver.access.accounts import Accounts, Limits
from receiver.access.keys import DEFAULT_ACCOUNT, KeyNeed, digest, hash_key
from receiver.config import Credit
from receiver.core.accounts import Account, AccountKey
from receiver.core.credit import CreditPolicy, OnExhausted, OnLedgerError
from receiver.errors import AccountDisabled, Unauthenticated
from tests.fakes import ManualClock

HOUR_NANO = 3_600 * 10**9


def register(*, credit: Credit | None = None, static: tuple[tuple[str, str], ...] = (), clock: ManualClock | None = None) -> Accounts:
    return Accounts(credit or Credit(), clock=clock or ManualClock(), static=static)


def key_of(account: str, key: str, *, expires_unix_nano: int | None = None) -> AccountKey:
    return AccountKey(sha256=digest(key), account=account, hint=key[:8], created_unix_nano=1, expires_unix_nano=expires_unix_nano)


def test_without_any_key_everyone_is_the_default_account() -> None:
    """The first run needs no configuration; a key that is sent anyway does no harm."""
    accounts = register()
    assert not accounts.required
    assert accounts.account(None) == accounts.account("Bearer anything") == DEFAULT_ACCOUNT
    assert [account.name for account in accounts.known()] == [DEFAULT_ACCOUNT]


def test_a_door_that_is_always_closed_lets_nobody_in_while_there_is_no_key() -> None:
    """`access.required`: a listener that others reach is safe before the first `account add`."""
    accounts = Accounts(Credit(), clock=ManualClock(), required=True)
    assert accounts.required
    for header in (None, "Bearer ", "Bearer anything"):
        with pytest.raises(Unauthenticated):
            accounts.account(header)
    accounts.put_key(key_of("acme", "spt_one"))
    assert accounts.account("Bearer spt_one") == "acme"


def test_whether_a_key_is_asked_for_and_anybody_has_one() -> None:
    """What a start tells: a key in the books is asked for as one in the configuration is; a closed door without keys lets nobody in."""
    accounts = register()
    assert accounts.asked is KeyNeed.NOT_ASKED
    accounts.put_key(key_of("acme", "spt_one"))
    assert accounts.asked is KeyNeed.ASKED
    assert register(static=(("acme", hash_key("spt_one")),)).asked is KeyNeed.ASKED
    closed = Accounts(Credit(), clock=ManualClock(), required=True)
    assert closed.asked is KeyNeed.NOBODY_HAS_ONE
    closed.put_key(key_of("acme", "spt_one"))
    assert closed.asked is KeyNeed.ASKED


def test_configured_and_stored_keys_open_their_accounts() -> None:
    """Both kinds at once; the accounts that only the configuration names exist without a book."""
    accounts = register(static=(("acme", hash_key("spt_one")),))
    accounts.load([Account(name="globex", created_unix_nano=5)], [key_of("globex", "spt_two")])
    assert accounts.required
    assert accounts.account("Bearer spt_one") == "acme"
    assert accounts.account("bearer spt_two ") == "globex"
    assert [account.name for account in accounts.known()] == ["acme", "default", "globex"]
    for header in (None, "", "Bearer", "Bearer spt_three", "Basic spt_one", f"Bearer {hash_key('spt_one')}"):
        with pytest.raises(Unauthenticated):
            accounts.account(header)


def test_a_key_that_is_made_closes_the_door_to_those_without() -> None:
    """From the first key on, nobody is `default` by saying nothing."""
    accounts = register()
    accounts.put(Account(name="acme", created_unix_nano=5))
    assert accounts.account(None) == DEFAULT_ACCOUNT
    accounts.put_key(key_of("acme", "spt_new"))
    with pytest.raises(Unauthenticated):
        accounts.account(None)


def test_a_replaced_key_ends_with_its_grace_by_the_clock_that_is_passed_in() -> None:
    """The moment itself is outside: [created, expires)."""
    clock = ManualClock()
    accounts = register(clock=clock)
    accounts.put_key(key_of("acme", "spt_old", expires_unix_nano=clock.unix_nano() + HOUR_NANO))
    assert accounts.account("Bearer spt_old") == "acme"
    clock.advance(3_599)
    assert accounts.account("Bearer spt_old") == "acme"
    clock.advance(1)
    with pytest.raises(Unauthenticated, match="expired"):
        accounts.account("Bearer spt_old")
    assert accounts.required, "an expired key is still a sign that keys are asked for"


def test_a_disabled_account_is_refused_at_once_and_may_come_back() -> None:
    """With its key, and as `default` without any: the refusal names the account, never the key."""
    accounts = register()
    accounts.put(Account(name=DEFAULT_ACCOUNT, created_unix_nano=5, enabled=False))
    with pytest.raises(AccountDisabled):
        accounts.account(None)
    accounts.put_key(key_of("acme", "spt_one"))
    acme = Account(name="acme", created_unix_nano=5)
    accounts.put(replace(acme, enabled=False))
    with pytest.raises(AccountDisabled, match="acme") as refused:
        accounts.account("Bearer spt_one")
    assert "spt_one" not in str(refused.value)
    assert not accounts.policy("acme").enabled
    accounts.put(acme)
    assert accounts.account("Bearer spt_one") == "acme"


def test_a_removed_key_opens_nothing_but_a_configured_one_stays() -> None:
    """What the configuration says is only taken away there."""
    accounts = register(static=(("acme", hash_key("spt_static")),))
    accounts.put_key(key_of("globex", "spt_gone"))
    accounts.remove_key(digest("spt_gone"))
    accounts.remove_key(digest("spt_static"))
    with pytest.raises(Unauthenticated):
        accounts.account("Bearer spt_gone")
    assert accounts.account("Bearer spt_static") == "acme"


@pytest.mark.parametrize("header", ["Bearer spt_right", "Bearer spt_wrong", "Bearer spt_ended", "Bearer spt_" + "x" * 10_000, "Bearer "])
def test_a_wrong_key_costs_what_a_right_one_costs(header: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One digest, one comparison of 32 bytes and one look at the clock, whatever is sent: the work is counted, not timed."""
    work: list[Any] = []

    class Counting:
        @staticmethod
        def compare_digest(one: bytes, other: bytes) -> bool:
            work.append(("compare", len(one), len(other)))
            return hmac.compare_digest(one, other)

    def counted(key: str) -> bytes:
        work.append("digest")
        return hashlib.sha256(key.encode()).digest()

    class Looking(ManualClock):
        def unix_nano(self) -> int:
            work.append("clock")
            return super().unix_nano()

    accounts = Accounts(Credit(), clock=Looking())
    accounts.put_key(key_of("acme", "spt_right"))
    accounts.put_key(key_of("acme", "spt_ended", expires_unix_nano=1))
    monkeypatch.setattr(module, "hmac", Counting)
    monkeypatch.setattr(module, "digest", counted)
    try:
        accounts.account(header)
    except Unauthenticated:
        assert header != "Bearer spt_right"
    assert work == ["digest", "clock", ("compare", 32, 32)]


@given(st.text())
def test_no_text_is_too_strange(text: str) -> None:
    """Header bytes that are no text reach us as surrogates; none of it raises anything else, nor is it repeated."""
    accounts = register(static=(("acme", hash_key("spt_one")),))
    for header in (text, f"Bearer {text}", f"Bearer \udcff{text}"):
        with pytest.raises(Unauthenticated) as refused:
            accounts.account(header)
        assert len(str(refused.value)) < 200


CREDIT = Credit(
    enforce=True,
    price_per_span_msat=7,
    on_exhausted="hold",
    on_ledger_error="accept",
    at_last_span="partial",
    credit_limit_msat=3,
    low_balance_marks_msat=(50, 10),
)


def test_the_terms_are_those_of_everyone_where_an_account_has_none_of_its_own() -> None:
    """Also for an account that nobody knows, such as one of an old journal."""
    accounts = register(credit=CREDIT)
    expected = CreditPolicy(
        price_per_span_msat=7,
        enforce=True,
        on_exhausted=OnExhausted.HOLD,
        on_ledger_error=OnLedgerError.ACCEPT,
        partial=True,
        credit_limit_msat=3,
        low_balance_marks_msat=(50, 10),
    )
    assert accounts.policy(DEFAULT_ACCOUNT) == accounts.policy("nobody") == expected
    assert accounts.limits("nobody") == Limits()


def test_what_is_an_accounts_own_goes_before_what_is_everyones() -> None:
    """Also where it is 0 or false, which are values like any other."""
    accounts = register(credit=CREDIT)
    own = Account(
        name="acme",
        created_unix_nano=1,
        enforce=False,
        price_per_span_msat=0,
        credit_limit_msat=0,
        on_exhausted=OnExhausted.ACCEPT,
        max_debt_msat=9,
        max_in_flight=1_024,
        max_open_spans=5,
        max_series=10,
    )
    accounts.put(own)
    policy = accounts.policy("acme")
    assert (policy.enforce, policy.price_per_span_msat, policy.credit_limit_msat) == (False, 0, 0)
    assert (policy.on_exhausted, policy.max_debt_msat) == (OnExhausted.ACCEPT, 9)
    assert accounts.limits("acme") == Limits(max_in_flight=1_024, max_open_spans=5, max_series=10)
    accounts.put(Account(name="acme", created_unix_nano=1))
    assert accounts.policy("acme") == accounts.policy("nobody"), "a change is in force from the next request on"
    assert accounts.limits("acme") == Limits()


def test_nothing_of_a_key_is_in_a_repr() -> None:
    """Objects end up in tracebacks and logs."""
    accounts = register(static=(("acme", hash_key("spt_canary-canary")),))
    key = key_of("acme", "spt_canary-canary")
    accounts.put_key(key)
    for text in (repr(key), repr(accounts), repr(accounts.keys("acme"))):
        assert "canary-canary" not in text
        assert hash_key("spt_canary-canary") not in text
        assert repr(digest("spt_canary-canary")) not in text
