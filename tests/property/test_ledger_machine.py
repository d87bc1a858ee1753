"""Requests, payments, corrections, failed commits, resends and crashes in any order, against a model of two numbers per account."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Coroutine
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from receiver.core import ledger
from receiver.core.books import MemoryLedger
from receiver.core.credit import Answer, Credit, CreditPolicy, Grant, OnExhausted
from receiver.core.ledger import Outcome, Terms, Transfer, customer

Result = TypeVar("Result")
ACCOUNTS = st.sampled_from(["a", "b", "c"])
PRICE_MSAT = 10

POLICIES = st.builds(
    CreditPolicy,
    price_per_span_msat=st.just(PRICE_MSAT),
    enforce=st.just(True),
    on_exhausted=st.sampled_from(OnExhausted),
    partial=st.booleans(),
    credit_limit_msat=st.integers(0, 100),
    max_debt_msat=st.integers(0, 100),
    enabled=st.booleans(),
)


def at_once(step: Coroutine[Any, Any, Result]) -> Result:
    """The result of a coroutine that never waits."""
    try:
        step.send(None)
    except StopIteration as done:
        result: Result = done.value
        return result
    raise AssertionError("it waited")


class LedgerMachine(RuleBasedStateMachine):
    """The books as intake and the operator use them."""

    grants: Bundle[Grant] = Bundle("grants")
    adjustments: Bundle[Transfer] = Bundle("adjustments")

    def __init__(self) -> None:
        super().__init__()
        self.books = MemoryLedger()
        self.policies: dict[str, CreditPolicy] = defaultdict(lambda: CreditPolicy(enforce=True, price_per_span_msat=PRICE_MSAT))
        self.credit = Credit(self.books, lambda account: self.policies[account])
        self.posted: dict[str, int] = defaultdict(int)  # the model: what each account has
        self.held: dict[str, int] = defaultdict(int)
        self.floor: dict[str, int] = defaultdict(int)  # the lowest that any terms of its life allowed
        self.seq = 0
        self.numbers = 0
        self.lives = 0
        self.open: dict[int, int] = {}  # id of a grant under way -> the life that it was made in

    @rule(account=ACCOUNTS, policy=POLICIES)
    def change_policy(self, account: str, policy: CreditPolicy) -> None:
        self.policies[account] = policy
        self.floor[account] = min(self.floor[account], -(policy.terms.credit_limit_msat or 0))

    @rule(target=adjustments, account=ACCOUNTS, amount_msat=st.integers(-300, 1_000).filter(bool))
    def adjust(self, account: str, amount_msat: int) -> Transfer:
        self.numbers += 1
        transfer = ledger.adjust(account, client_id=str(self.numbers), amount_msat=amount_msat, unix_nano=self.numbers)
        terms = self.policies[account].terms
        outcome = at_once(self.books.post(transfer, terms))
        limit_msat = terms.credit_limit_msat or 0
        may = amount_msat > 0 or self.posted[account] - self.held[account] + amount_msat >= -limit_msat
        assert outcome is (Outcome.CREATED if may else Outcome.EXCEEDS_CREDITS)
        if may:
            self.posted[account] += amount_msat
        return transfer

    @rule(transfer=adjustments)
    def adjust_again(self, transfer: Transfer) -> None:
        """A resent request of the operator moves nothing, if the first one did."""
        if self.books.transfer(transfer.id) is not None:
            assert at_once(self.books.post(transfer, Terms(None))) is Outcome.EXISTS

    @rule(target=grants, account=ACCOUNTS, spans=st.integers(0, 40))
    def request(self, account: str, spans: int) -> Grant:
        policy = self.policies[account]
        before_msat = self.posted[account] - self.held[account]
        grant = self.credit.reserve(account, spans)
        assert grant.spans <= spans
        assert grant.amount_msat == grant.spans * PRICE_MSAT
        limit_msat = policy.terms.credit_limit_msat or 0
        could = max(0, before_msat + limit_msat) // PRICE_MSAT
        if not policy.enabled:
            assert grant.answer is Answer.DISABLED
        elif spans <= could:
            assert grant.spans == spans, "what can be paid is accepted whole"
        else:
            whole = not policy.partial or policy.on_exhausted is OnExhausted.HOLD
            assert grant.spans == (0 if whole else could)
        if not grant.answer.refusal:
            self.held[account] += grant.amount_msat
            self.open[id(grant)] = self.lives
        return grant

    @rule(grant=grants)
    def commit(self, grant: Grant) -> None:
        if self.open.pop(id(grant), None) != self.lives:
            return
        self.seq += 1
        for transfer in ledger.fold_usage([(self.seq, grant.account, grant.amount_msat)], unix_nano=self.seq):
            assert ledger.decide(self.books, transfer, self.policies[grant.account].terms, reserved=True) is Outcome.CREATED
            self.books.record(transfer)
        self.credit.commit(grant, now=float(self.seq))
        self.held[grant.account] -= grant.amount_msat
        self.posted[grant.account] -= grant.amount_msat

    @rule(grant=grants)
    def fail(self, grant: Grant) -> None:
        if self.open.pop(id(grant), None) != self.lives:
            return
        self.credit.release(grant)
        self.held[grant.account] -= grant.amount_msat

    @rule()
    def crash(self) -> None:
        """Only the transfers survive; whoever was being answered never hears, and what was held for him is free again."""
        self.lives += 1
        self.held.clear()
        self.books = MemoryLedger(self.books.transfers())
        self.credit = Credit(self.books, lambda account: self.policies[account])

    @invariant()
    def the_books_balance(self) -> None:
        audit = at_once(self.books.audit())
        assert audit.balanced
        assert audit.sum_msat == 0

    @invariant()
    def every_balance_is_the_models(self) -> None:
        for account in ("a", "b", "c"):
            balance = self.books.balance(account)
            assert (balance.posted_msat, balance.held_msat) == (self.posted[account], self.held[account])
            assert balance.debits_msat >= 0
            assert ledger.derive(self.books.transfers()).get(customer(account), ledger.Totals()).net_msat == self.posted[account]

    @invariant()
    def nobody_spends_what_he_does_not_have(self) -> None:
        for account in ("a", "b", "c"):
            assert self.books.balance(account).available_msat >= self.floor[account]


LedgerMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestLedger = LedgerMachine.TestCase
