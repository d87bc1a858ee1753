"""May this request be stored, and who pays for it: credit at the door.

Rule 1: deciding and holding the price are one step without an `await` between, so a hundred requests that arrive together at
        the last span cannot all find that it is free.
Rule 2: only new spans cost: duplicates, rejected and refused ones are free. So the price is held after decoding, when the new
        spans are known; on headers alone a request is refused only where not even one span could be paid.
Rule 3: what was granted stays granted. A debit that comes out of a grant cannot fail for want of credit.
Rule 4: "the books cannot be asked" is never answered as "no credit": the one passes, the other is paid.

A client keeps or drops what is refused by the code that it hears, so `on_exhausted` is a decision about data: see OnExhausted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple, Protocol

from receiver.core.ledger import Balance, Outcome, Terms
from receiver.errors import AccountDisabled, CreditExhausted, CreditHeld, Overloaded, ReceiverError

#: 100 satoshis for 10,000 spans.
PRICE_PER_SPAN_MSAT: Final = 10
#: Before a client that is asked to hold its spans comes again: long enough not to be hammered, and well below the 300 s after
#: which a collector with default settings gives its queue up. SDKs give up within 10 s, whatever they are told.
HOLD_RETRY_SECONDS: Final = 30.0
#: Before a client comes again while the books cannot be asked: such a fault passes, and SDKs try for ten seconds.
BOOKS_RETRY_SECONDS: Final = 5.0
#: After a mark was told, the balance must have risen this share above it before it is told again.
MARK_HYSTERESIS_DIVISOR: Final = 10
#: The spending rate is an average in which what was spent this long ago weighs half.
RUNWAY_HALF_LIFE_SECONDS: Final = 600.0


class OnExhausted(Enum):
    """What happens to spans that an account cannot pay."""

    DROP = "drop"  #: refused for good (FAILED_PRECONDITION / 402): clients drop them and log why
    HOLD = "hold"  #: refused for now (UNAVAILABLE / 503 and a delay): a collector keeps them in its queue, plain SDKs lose them after 10 s
    ACCEPT = "accept"  #: accepted as debt up to a bound, beyond it dropped: the only choice in which no SDK loses a span


class OnLedgerError(Enum):
    """What happens to spans while the books cannot be asked."""

    HOLD = "hold"  #: refused for now, as any passing fault
    ACCEPT = "accept"  #: accepted without regard to the balance; the debits are written all the same


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditPolicy:
    """What the operator decided for one account."""

    price_per_span_msat: int = PRICE_PER_SPAN_MSAT
    enforce: bool = False  #: False: metered and shown, never refused
    on_exhausted: OnExhausted = OnExhausted.DROP
    on_ledger_error: OnLedgerError = OnLedgerError.HOLD
    partial: bool = False  #: at the last spans of credit: accept what can be paid and reject the rest, instead of refusing the request
    credit_limit_msat: int = 0  #: how far below 0 the account may go in the ordinary way
    max_debt_msat: int = 0  #: with ACCEPT: how much further
    low_balance_marks_msat: tuple[int, ...] = ()  #: balances below which the account is warned, once a dip each
    enabled: bool = True
    terms: Terms = field(init=False, repr=False)  #: what this comes to in the ledger's words

    def __post_init__(self) -> None:
        assert self.price_per_span_msat >= 0
        assert self.credit_limit_msat >= 0
        assert self.max_debt_msat >= 0
        debt_msat = self.max_debt_msat if self.on_exhausted is OnExhausted.ACCEPT else 0
        limit_msat = self.credit_limit_msat + debt_msat if self.enforce else None
        object.__setattr__(self, "terms", Terms(limit_msat, self.enabled))  # derived once, for it is asked for at each request

    def affordable(self, balance: Balance) -> int | None:
        """How many more spans the terms allow, None for any number."""
        limit_msat = self.terms.credit_limit_msat
        if limit_msat is None or not self.price_per_span_msat:
            return None
        return max(0, balance.available_msat + limit_msat) // self.price_per_span_msat


class Answer(Enum):
    """What a request's spans hear."""

    ACCEPTED = "accepted"  #: all of them
    IN_DEBT = "in_debt"  #: all of them, metered as debt
    PARTIAL = "partial"  #: the first `spans` of them; the others are rejected by partial_success, and no client sends those again
    EXHAUSTED = "exhausted"  #: none: no credit, do not send again (CREDIT_EXHAUSTED)
    HELD = "held"  #: none: no credit, send again after HOLD_RETRY_SECONDS (CREDIT_EXHAUSTED)
    DISABLED = "disabled"  #: none: the operator disabled the account
    BOOKS_UNAVAILABLE = "books_unavailable"  #: none: the books cannot be asked just now, send again

    @property
    def refusal(self) -> bool:
        """Whether nothing of the request is stored."""
        return self in _REFUSALS


_REFUSALS: Final = frozenset({Answer.EXHAUSTED, Answer.HELD, Answer.DISABLED, Answer.BOOKS_UNAVAILABLE})


class Grant(NamedTuple):
    """What a request was granted: its first `spans` new spans, for `amount_msat`, which is held until `commit` or `release`."""

    answer: Answer
    account: str
    spans: int
    amount_msat: int
    balance_msat: int  #: available, with this grant taken off: what the client is told; 0 for one that has no bound and is told nothing


@dataclass(frozen=True, slots=True)
class LowBalance:
    """A mark was passed on the way down."""

    account: str
    mark_msat: int  #: the lowest mark that was passed
    balance_msat: int


class Holds(Protocol):
    """The part of a Ledger that admission needs; none of it waits."""

    def balance(self, account: str) -> Balance: ...
    def reserve(self, account: str, amount_msat: int, terms: Terms) -> Outcome: ...
    def commit(self, account: str, amount_msat: int) -> None: ...
    def release(self, account: str, amount_msat: int) -> None: ...


class Credit:
    """Judges requests by the credit of their account. One event loop owns it; nothing in it waits."""

    __slots__ = ("_burns", "_ledger", "_marks", "_policy", "_refused_since", "fault")

    def __init__(self, ledger: Holds, policy: Callable[[str], CreditPolicy]) -> None:
        self._ledger = ledger
        self._policy = policy
        self._marks: dict[str, Marks] = {}
        self._burns: dict[str, Burn] = {}
        self._refused_since: dict[str, int] = {}  # account -> msat that had come in when it was first refused
        self.fault: str | None = None  #: why the books cannot be asked just now; None while they can

    def admit(self, account: str) -> Grant | None:
        """A refusal that the headers alone justify, None to read on. Holds nothing."""
        policy = self._policy(account)
        if not policy.enabled:
            return self._refused(account, Answer.DISABLED)
        if self.fault is not None:
            return None if policy.on_ledger_error is OnLedgerError.ACCEPT else self._refused(account, Answer.BOOKS_UNAVAILABLE)
        if policy.terms.credit_limit_msat is None:
            return None
        balance = self._ledger.balance(account)
        # Without what is held: a request whose commit is under way may hold the last of it, and its resend costs nothing.
        affordable = policy.affordable(Balance(balance.debits_msat, balance.credits_msat))
        return self._refused(account, _exhausted(policy)) if affordable == 0 else None

    def reserve(self, account: str, spans: int) -> Grant:
        """Decide about `spans` new spans and hold their price. Every grant that is no refusal must end in `commit` or `release`."""
        assert spans >= 0
        policy = self._policy(account)
        if not policy.enabled:
            return self._refused(account, Answer.DISABLED)
        terms = policy.terms
        if terms.credit_limit_msat is None and self.fault is None:  # the way of most: nothing to weigh
            amount_msat = spans * policy.price_per_span_msat
            if self._ledger.reserve(account, amount_msat, terms) is Outcome.CREATED:
                return Grant(Answer.ACCEPTED, account, spans, amount_msat, 0)
        before = self._ledger.balance(account)
        affordable = policy.affordable(before)
        if self.fault is not None:
            if policy.on_ledger_error is OnLedgerError.HOLD:
                return self._refused(account, Answer.BOOKS_UNAVAILABLE)
            terms, affordable = Terms(None), None  # held and debited as ever, without regard to what is left
        granted = spans
        if affordable is not None and affordable < spans:
            # A held request is sent again whole: to accept a part of it would lose the rest, which no client repeats.
            if not policy.partial or not affordable or policy.on_exhausted is OnExhausted.HOLD:
                return self._refused(account, _exhausted(policy))
            granted = affordable
        amount_msat = granted * policy.price_per_span_msat
        outcome = self._ledger.reserve(account, amount_msat, terms)
        if outcome is not Outcome.CREATED:
            return self._refused(account, Answer.DISABLED if outcome is Outcome.ACCOUNT_DISABLED else _exhausted(policy))
        available_msat = before.available_msat - amount_msat
        answer = Answer.ACCEPTED
        if granted < spans:
            answer = Answer.PARTIAL
        elif policy.enforce and self.fault is None and amount_msat and available_msat < -policy.credit_limit_msat:
            answer = Answer.IN_DEBT
        return Grant(answer, account, granted, amount_msat, available_msat)

    def commit(self, grant: Grant, *, now: float) -> LowBalance | None:
        """The spans and their debit are stored. Returns the low mark that the balance has passed with it, if any.

        `now`: monotonic seconds, for the runway.
        """
        account = grant.account
        self._ledger.commit(account, grant.amount_msat)
        if grant.amount_msat:
            burn = self._burns.get(account)
            if burn is None:
                burn = self._burns[account] = Burn(now)
            burn.spend(grant.amount_msat, now=now)
        return self.observe(account)

    def release(self, grant: Grant) -> None:
        """The spans were not stored: their price is available again."""
        self._ledger.release(grant.account, grant.amount_msat)

    def observe(self, account: str) -> LowBalance | None:
        """Look at a balance again: after a top-up, so that its marks can be passed anew."""
        policy = self._policy(account)
        marks = policy.low_balance_marks_msat
        if not marks or not policy.enforce:
            return None  # where nothing is refused, there is no cliff to warn of
        posted_msat = self._ledger.balance(account).posted_msat
        passed = self._marks.setdefault(account, Marks()).passed(posted_msat, marks)
        return None if passed is None else LowBalance(account, passed, posted_msat)

    def runway_seconds(self, account: str, *, now: float) -> float:
        """How long the balance lasts at the pace of late; infinity when nothing is being spent, 0 when nothing is left."""
        posted_msat = self._ledger.balance(account).posted_msat
        burn = self._burns.get(account)
        if posted_msat <= 0:
            return 0.0
        rate = 0.0 if burn is None else burn.msat_per_second(now=now)
        return posted_msat / rate if rate > 0 else math.inf

    def first_refusal(self, account: str) -> bool:
        """Whether this refusal of an account is its first since money last came in: what a log says once, however often clients ask."""
        credits_msat = self._ledger.balance(account).credits_msat
        if self._refused_since.get(account) == credits_msat:
            return False
        self._refused_since[account] = credits_msat
        return True

    def _refused(self, account: str, answer: Answer) -> Grant:
        return Grant(answer, account, 0, 0, self._ledger.balance(account).available_msat)


def _exhausted(policy: CreditPolicy) -> Answer:
    return Answer.HELD if policy.on_exhausted is OnExhausted.HOLD else Answer.EXHAUSTED


class Marks:
    """Which low-balance marks an account was told of in this dip: each is told once, until the balance has recovered."""

    __slots__ = ("_told",)

    def __init__(self) -> None:
        self._told: set[int] = set()

    def passed(self, balance_msat: int, marks: Collection[int]) -> int | None:
        """The lowest mark that is newly passed, None when there is none. A fall past several is one warning."""
        if not self._told and balance_msat >= max(marks):
            return None  # as nearly always
        self._told = {mark for mark in self._told if mark in marks and balance_msat < mark + abs(mark) // MARK_HYSTERESIS_DIVISOR}
        below = [mark for mark in marks if balance_msat < mark and mark not in self._told]
        self._told.update(below)
        return min(below, default=None)


class Burn:
    """How fast an account spends: an average whose weights halve every RUNWAY_HALF_LIFE_SECONDS.

    Time is averaged with the same weights as the money, so that a young account's pace is not read as too slow.
    """

    __slots__ = ("_at", "_msat", "_seconds")

    def __init__(self, now: float) -> None:
        self._at = now
        self._msat = 0.0
        self._seconds = 0.0

    def spend(self, amount_msat: int, *, now: float) -> None:
        if now - self._at >= 1:  # sooner the weights are still what they were, to a thousandth
            self._decay(now)
        self._msat += amount_msat

    def msat_per_second(self, *, now: float) -> float:
        """0 before a second has passed: one request is no pace."""
        self._decay(now)
        return self._msat / self._seconds if self._seconds >= 1 else 0.0

    def _decay(self, now: float) -> None:
        passed = max(0.0, now - self._at)
        kept = 0.5 ** (passed / RUNWAY_HALF_LIFE_SECONDS)
        self._msat *= kept
        self._seconds = self._seconds * kept + (1 - kept) * RUNWAY_HALF_LIFE_SECONDS / math.log(2)
        self._at = max(self._at, now)


def explain(grant: Grant, *, topup_url: str, rejected: int = 0) -> str:
    """The sentence that a client's log shows for a grant; "" when there is nothing to say."""
    if grant.answer is Answer.ACCEPTED:
        return ""
    account, balance = f"account {grant.account!r}", f"the balance is {format_sat(grant.balance_msat)} sat"
    url = f"top up at {topup_url}" if topup_url else "ask the operator for more"
    match grant.answer:
        case Answer.EXHAUSTED:
            return f"credit of {account} is exhausted ({balance}), nothing was stored: {url}"
        case Answer.HELD:
            return f"credit of {account} is exhausted ({balance}), nothing was stored yet; send again in {HOLD_RETRY_SECONDS:g} s: {url}"
        case Answer.PARTIAL:
            return f"credit of {account} ended within this request ({balance}), {rejected:,} spans were not stored: {url}"
        case Answer.IN_DEBT:
            return f"credit of {account} is exhausted ({balance}), metered as debt: {url}"
        case Answer.DISABLED:
            return str(AccountDisabled(grant.account))
        case Answer.BOOKS_UNAVAILABLE:
            return "the books cannot be asked just now, nothing was stored: send again"


def refusal(grant: Grant, *, topup_url: str) -> ReceiverError:
    """The error that a refused grant is answered with."""
    account, balance_msat, detail = grant.account, grant.balance_msat, explain(grant, topup_url=topup_url)
    match grant.answer:
        case Answer.EXHAUSTED:
            return CreditExhausted(detail, account=account, balance_msat=balance_msat, topup_url=topup_url)
        case Answer.HELD:
            return CreditHeld(
                detail, account=account, balance_msat=balance_msat, topup_url=topup_url, retry_after_seconds=HOLD_RETRY_SECONDS
            )
        case Answer.DISABLED:
            return AccountDisabled(account)
        case Answer.BOOKS_UNAVAILABLE:
            return Overloaded(reason="ledger_unavailable", retry_after_seconds=BOOKS_RETRY_SECONDS, detail=detail)
        case _:
            raise AssertionError(f"{grant.answer} refuses nothing")


def explain_low(low: LowBalance, *, topup_url: str) -> str:
    """The sentence that warns before the cliff."""
    left = format_sat(low.balance_msat)
    url = f"top up at {topup_url}" if topup_url else "ask the operator for more"
    return f"credit of account {low.account!r} fell below {format_sat(low.mark_msat)} sat, {left} sat are left: {url}"


def format_sat(msat: int) -> str:
    """Satoshis, exactly: `1234567` is "1,234.567"."""
    whole, part = divmod(abs(msat), 1_000)
    digits = f"{whole:,}.{part:03d}".rstrip("0").rstrip(".")
    return f"-{digits}" if msat < 0 else digits
