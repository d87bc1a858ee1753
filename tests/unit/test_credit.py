"""Credit at the door: who is let in, what is held for it, and what a refused client is told."""

from __future__ import annotations

import math

import pytest

from receiver.core import ledger
from receiver.core.books import Balances
from receiver.core.credit import (
    Answer,
    Burn,
    Credit,
    CreditPolicy,
    LowBalance,
    Marks,
    OnExhausted,
    OnLedgerError,
    explain,
    explain_low,
    format_sat,
    refusal,
)
from receiver.core.ledger import Totals
from receiver.errors import AccountDisabled, CreditExhausted, CreditHeld, ReceiverError

URL = "http://127.0.0.1:8101/"


def balances(msat: int, account: str = "a") -> Balances:
    return Balances({ledger.customer(account): Totals(0, msat) if msat >= 0 else Totals(-msat, 0)})


def desk(msat: int, policy: CreditPolicy) -> tuple[Credit, Balances]:
    books = balances(msat)
    return Credit(books, lambda _: policy), books


#: (balance, policy, new spans) -> (answer on headers alone, answer, spans stored, held)
CASES = [
    (0, CreditPolicy(), 7, None, Answer.ACCEPTED, 7, 70),
    (-500, CreditPolicy(), 7, None, Answer.ACCEPTED, 7, 70),
    (70, CreditPolicy(enforce=True), 7, None, Answer.ACCEPTED, 7, 70),
    (69, CreditPolicy(enforce=True), 7, None, Answer.EXHAUSTED, 0, 0),
    (69, CreditPolicy(enforce=True, partial=True), 7, None, Answer.PARTIAL, 6, 60),
    (9, CreditPolicy(enforce=True, partial=True), 7, Answer.EXHAUSTED, Answer.EXHAUSTED, 0, 0),
    (0, CreditPolicy(enforce=True), 7, Answer.EXHAUSTED, Answer.EXHAUSTED, 0, 0),
    (0, CreditPolicy(enforce=True), 0, Answer.EXHAUSTED, Answer.ACCEPTED, 0, 0),
    (-500, CreditPolicy(enforce=True), 0, Answer.EXHAUSTED, Answer.ACCEPTED, 0, 0),
    (0, CreditPolicy(enforce=True, price_per_span_msat=0), 7, None, Answer.ACCEPTED, 7, 0),
    (-50, CreditPolicy(enforce=True, price_per_span_msat=0), 7, None, Answer.ACCEPTED, 7, 0),
    (0, CreditPolicy(enforce=True, credit_limit_msat=70), 7, None, Answer.ACCEPTED, 7, 70),
    (0, CreditPolicy(enforce=True, credit_limit_msat=69), 7, None, Answer.EXHAUSTED, 0, 0),
    (0, CreditPolicy(enforce=True, on_exhausted=OnExhausted.HOLD), 7, Answer.HELD, Answer.HELD, 0, 0),
    (69, CreditPolicy(enforce=True, on_exhausted=OnExhausted.HOLD, partial=True), 7, None, Answer.HELD, 0, 0),
    (0, CreditPolicy(enforce=True, on_exhausted=OnExhausted.ACCEPT, max_debt_msat=70), 7, None, Answer.IN_DEBT, 7, 70),
    (70, CreditPolicy(enforce=True, on_exhausted=OnExhausted.ACCEPT, max_debt_msat=70), 7, None, Answer.ACCEPTED, 7, 70),
    (0, CreditPolicy(enforce=True, on_exhausted=OnExhausted.ACCEPT, max_debt_msat=69), 7, None, Answer.EXHAUSTED, 0, 0),
    (-70, CreditPolicy(enforce=True, on_exhausted=OnExhausted.ACCEPT, max_debt_msat=70), 1, Answer.EXHAUSTED, Answer.EXHAUSTED, 0, 0),
    (0, CreditPolicy(enforce=True, max_debt_msat=70), 7, Answer.EXHAUSTED, Answer.EXHAUSTED, 0, 0),
    (999, CreditPolicy(enabled=False), 7, Answer.DISABLED, Answer.DISABLED, 0, 0),
]


@pytest.mark.parametrize(("msat", "policy", "spans", "on_headers", "answer", "stored", "held"), CASES)
def test_what_a_request_hears(
    *, msat: int, policy: CreditPolicy, spans: int, on_headers: Answer | None, answer: Answer, stored: int, held: int
) -> None:
    """Each policy at its edge: what the headers alone decide, what is stored, and exactly its price is held."""
    credit, books = desk(msat, policy)
    early = credit.admit("a")
    assert (early.answer if early else None) is on_headers
    grant = credit.reserve("a", spans)
    assert (grant.answer, grant.spans, grant.amount_msat, books.balance("a").held_msat) == (answer, stored, held, held)
    assert grant.answer.refusal == (answer in {Answer.EXHAUSTED, Answer.HELD, Answer.DISABLED})
    credit.release(grant)
    assert books.balance("a").available_msat == msat


@pytest.mark.parametrize("partial", [True, False])
def test_the_last_credit_is_spent_once(*, partial: bool) -> None:
    """Of 64 requests that were judged before any was stored, exactly as many spans are granted as the credit pays."""
    credit, books = desk(10_000, CreditPolicy(enforce=True, partial=partial))
    grants = [credit.reserve("a", 30) for _ in range(64)]
    assert sum(grant.spans for grant in grants) == (1_000 if partial else 990)
    for grant in grants:
        if not grant.answer.refusal:
            credit.commit(grant, now=0.0)
    assert books.balance("a") == ledger.Balance(10_000 if partial else 9_900, 10_000, 0)


def test_a_failed_commit_gives_its_price_back() -> None:
    """A grant whose spans were not stored costs nothing, and the next request may have them."""
    credit, books = desk(10, CreditPolicy(enforce=True))
    grant = credit.reserve("a", 1)
    assert credit.reserve("a", 1).answer is Answer.EXHAUSTED
    credit.release(grant)
    assert credit.reserve("a", 1).answer is Answer.ACCEPTED
    assert books.balance("a").posted_msat == 10


@pytest.mark.parametrize(("choice", "answer"), [(OnLedgerError.HOLD, Answer.BOOKS_UNAVAILABLE), (OnLedgerError.ACCEPT, Answer.ACCEPTED)])
def test_books_that_cannot_be_asked_are_not_an_empty_account(choice: OnLedgerError, answer: Answer) -> None:
    """While the books cannot be asked, nobody hears of missing credit: the operator's choice decides, and debits are still held."""
    credit, books = desk(0, CreditPolicy(enforce=True, on_ledger_error=choice))
    credit.fault = "the ledger does not answer"
    early, grant = credit.admit("a"), credit.reserve("a", 3)
    assert (early is None) == (choice is OnLedgerError.ACCEPT)
    assert grant.answer is answer
    assert "credit" not in explain(grant, topup_url=URL)
    assert books.balance("a").held_msat == (30 if choice is OnLedgerError.ACCEPT else 0)
    credit.fault = None
    assert credit.reserve("a", 1).answer is Answer.EXHAUSTED


def test_a_mark_is_told_once_a_dip() -> None:
    """A warning comes once per mark on the way down, not again while the balance hovers, and again after it recovered."""
    marks, levels = Marks(), (1_000, 100)
    told = [marks.passed(balance, levels) for balance in (2_000, 999, 998, 1_050, 999, 99, 50, 105, 99, 1_100, 999, 0)]
    assert told == [None, 1_000, None, None, None, 100, None, None, None, None, 1_000, 100]
    assert Marks().passed(5, levels) == 100  # a fall past both is one warning


def test_low_balance_is_noticed_at_the_commit_and_after_a_topup() -> None:
    """The commit that passes a mark says so; where nothing is refused there is nothing to warn of."""
    policy = CreditPolicy(enforce=True, low_balance_marks_msat=(50,))
    credit, books = desk(60, policy)
    assert credit.commit(credit.reserve("a", 1), now=0.0) is None
    assert credit.commit(credit.reserve("a", 1), now=0.0) == LowBalance("a", 50, 40)
    assert credit.commit(credit.reserve("a", 1), now=0.0) is None
    books.posted(ledger.adjust("a", client_id="x", amount_msat=100, unix_nano=0))
    assert credit.observe("a") is None
    assert credit.commit(credit.reserve("a", 9), now=0.0) == LowBalance("a", 50, 40)
    metered, _ = desk(60, CreditPolicy(low_balance_marks_msat=(50,)))
    assert metered.commit(metered.reserve("a", 5), now=0.0) is None


def test_runway_is_balance_over_pace() -> None:
    """A steady pace gives the true number of seconds early on, silence lengthens it, an empty account has none."""
    credit, _ = desk(1_000_000, CreditPolicy(enforce=True))
    assert credit.runway_seconds("a", now=0.0) == math.inf
    for second in range(30):
        credit.commit(credit.reserve("a", 10), now=float(second))
    runway = credit.runway_seconds("a", now=30.0)
    assert runway == pytest.approx((1_000_000 - 3_000) / 100, rel=0.05)
    assert credit.runway_seconds("a", now=3_000.0) > 10 * runway
    assert credit.runway_seconds("nobody", now=0.0) == 0.0
    assert Burn(0.0).msat_per_second(now=0.5) == 0.0


def test_a_refusal_says_what_to_do() -> None:
    """Every answer but a plain yes has a sentence with the balance in satoshis and the page where one tops up."""
    credit, _ = desk(1_500, CreditPolicy(enforce=True, price_per_span_msat=1_000))
    refused = explain(credit.reserve("a", 2), topup_url=URL)
    assert refused == f"credit of account 'a' is exhausted (the balance is 1.5 sat), nothing was stored: top up at {URL}"
    partial, _ = desk(1_500, CreditPolicy(enforce=True, price_per_span_msat=1_000, partial=True))
    assert "4 spans were not stored" in explain(partial.reserve("a", 5), topup_url=URL, rejected=4)
    held, _ = desk(0, CreditPolicy(enforce=True, on_exhausted=OnExhausted.HOLD))
    assert "send again in 30 s" in explain(held.reserve("a", 5), topup_url=URL)
    debt, _ = desk(0, CreditPolicy(enforce=True, on_exhausted=OnExhausted.ACCEPT, max_debt_msat=100))
    assert "metered as debt" in explain(debt.reserve("a", 5), topup_url=URL)
    off, _ = desk(0, CreditPolicy(enabled=False))
    assert "disabled" in explain(off.reserve("a", 5), topup_url=URL)
    free, _ = desk(0, CreditPolicy())
    assert not explain(free.reserve("a", 5), topup_url=URL)
    assert explain_low(LowBalance("a", 100_000, 99_990), topup_url=URL).endswith(f"fell below 100 sat, 99.99 sat are left: top up at {URL}")


@pytest.mark.parametrize(
    ("policy", "kind", "reason"),
    [
        (CreditPolicy(enforce=True), CreditExhausted, None),
        (CreditPolicy(enforce=True, on_exhausted=OnExhausted.HOLD), CreditHeld, "credit_exhausted"),
        (CreditPolicy(enabled=False), AccountDisabled, None),
    ],
)
def test_every_refusal_is_an_error_with_the_facts(policy: CreditPolicy, kind: type[ReceiverError], reason: str | None) -> None:
    """Its type decides the codes, its facts are those of the grant; a hold is the one that asks to come again."""
    credit, _ = desk(0, policy)
    error = refusal(credit.reserve("a", 1), topup_url=URL)
    assert type(error) is kind
    assert getattr(error, "account", "") == "a"
    assert getattr(error, "reason", None) == reason
    assert getattr(error, "retry_after_seconds", None) == (30 if reason else None)
    if kind is not AccountDisabled:
        assert (error.balance_msat, error.topup_url) == (0, URL)  # type: ignore[attr-defined]  # both kinds have them


def test_where_nothing_is_refused_there_is_no_error() -> None:
    """To make one of a grant is a bug of ours."""
    credit, _ = desk(10, CreditPolicy(enforce=True))
    with pytest.raises(AssertionError):
        refusal(credit.reserve("a", 1), topup_url=URL)


def test_without_a_page_the_operator_is_named() -> None:
    """A daemon whose customers' listener is off has no page to send people to."""
    credit, _ = desk(0, CreditPolicy(enforce=True))
    assert explain(credit.reserve("a", 1), topup_url="").endswith("nothing was stored: ask the operator for more")
    assert explain_low(LowBalance("a", 2, 1), topup_url="").endswith("ask the operator for more")


def test_headers_alone_refuse_only_where_no_credit_was_ever_left() -> None:
    """What is held may come back, and what it is held for may be this request's own resend: such a one is read."""
    credit, _ = desk(10, CreditPolicy(enforce=True))
    grant = credit.reserve("a", 1)
    assert credit.admit("a") is None
    credit.commit(grant, now=0.0)
    assert credit.admit("a") is not None


def test_a_refusal_is_the_first_until_money_comes_in() -> None:
    """For a log that says it once; spending changes nothing about it."""
    credit, books = desk(20, CreditPolicy(enforce=True))
    assert [credit.first_refusal("a"), credit.first_refusal("a")] == [True, False]
    credit.commit(credit.reserve("a", 1), now=0.0)
    assert not credit.first_refusal("a")
    books.posted(ledger.adjust("a", client_id="x", amount_msat=1, unix_nano=0))
    assert [credit.first_refusal("a"), credit.first_refusal("a"), credit.first_refusal("b")] == [True, False, True]


@pytest.mark.parametrize(("msat", "text"), [(0, "0"), (1, "0.001"), (-1_500, "-1.5"), (100_000, "100"), (1_234_567_000, "1,234,567")])
def test_satoshis_are_written_exactly(msat: int, text: str) -> None:
    """Money is shown without rounding and without an exponent."""
    assert format_sat(msat) == text
