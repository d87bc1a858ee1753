"""Who owes whom how many millisatoshi: double entry, in integers, by transfers that never change.

Rule 1: money moves only by a Transfer, which takes from one ledger account what it gives to another. So the balances of all
        of them always sum to 0, and a balance is what was credited minus what was debited, never a number that somebody edits.
Rule 2: a transfer's id is derived from its cause (a journal row, a payment hash, the id that a client chose), so the same
        cause told twice is the same transfer, whatever crashed, was replayed or was resent in between.
Rule 3: what becomes of a transfer is decided by `decide`, which does no I/O and names its answer. A store prefetches, asks
        and writes, all in one transaction.
Rule 4: an overdraft is granted, never a result: `Terms` say how far below 0 an account may go, and whether there is a bound at all.

The words are TigerBeetle's (docs.tigerbeetle.com, "Data modeling"): transfer, debit and credit account, code, EXISTS, EXCEEDS_CREDITS.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from receiver.core.invoices import Credited, Settlement

#: No amount and no sum comes near this: it is the largest integer that SQLite and Lightning hold, and four times all bitcoin there will be.
MAX_MSAT: Final = 2**63 - 1
#: One transfer moves at most all bitcoin that there will ever be (21 million), so that four of them still fit a sum.
MAX_TRANSFER_MSAT: Final = 21_000_000 * 100_000_000 * 1_000
NANOSECONDS_A_DAY: Final = 86_400 * 10**9


class Kind(Enum):
    """What a ledger account is for."""

    CUSTOMER = "customer"  #: what an account has paid and not yet used; named after the account
    LIGHTNING = "lightning"  #: where settled invoices come from; named after the network, so that play money stays apart
    USAGE = "usage"  #: what accepted spans came to; the only one of its kind
    ADJUST = "adjust"  #: where the operator's gifts come from and his corrections go; the only one of its kind


@dataclass(frozen=True, slots=True)
class LedgerAccount:
    """One side of a transfer. `str()` of it is how a store spells it; `parse` reads that back."""

    kind: Kind
    name: str = ""  #: the account for CUSTOMER, the network for LIGHTNING, "" else

    def __str__(self) -> str:
        return f"{self.kind.value}:{self.name}"

    @classmethod
    def parse(cls, text: str) -> LedgerAccount:
        """The ledger account that `str()` spells as `text`.

        Raises:
            ValueError: no kind is spelled so.
        """
        kind, _, name = text.partition(":")
        return cls(Kind(kind), name)


USAGE: Final = LedgerAccount(Kind.USAGE)
ADJUST: Final = LedgerAccount(Kind.ADJUST)


def customer(account: str) -> LedgerAccount:
    """The ledger account that holds what `account` has paid in advance."""
    return LedgerAccount(Kind.CUSTOMER, account)


class Code(Enum):
    """Why a transfer was made."""

    USAGE = "usage"  #: newly accepted spans
    TOPUP = "topup"  #: a settled Lightning invoice
    ADJUST = "adjust"  #: the operator, by hand or by configuration


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """`amount_msat` moves from `debit_account` to `credit_account`, once, for good. A correction is another transfer."""

    id: str  #: derived from the cause; the idempotency key
    debit_account: LedgerAccount
    credit_account: LedgerAccount
    amount_msat: int  #: > 0
    code: Code
    cause: str  #: for people: the rows, the hash, the operator's note
    unix_nano: int  #: when it was decided

    def __post_init__(self) -> None:
        assert 0 < self.amount_msat <= MAX_TRANSFER_MSAT, f"{self.amount_msat} msat is no amount of a transfer"
        assert self.debit_account != self.credit_account

    def same_content(self, other: Transfer) -> bool:
        """Whether `other` moves the same money for the same reason; when it was decided and how it is told may differ."""
        mine = (self.debit_account, self.credit_account, self.amount_msat, self.code)
        return mine == (other.debit_account, other.credit_account, other.amount_msat, other.code)


def usage(account: str, *, seq: int, amount_msat: int, unix_nano: int, cause: str = "") -> Transfer:
    """The debit for the spans of journal row `seq` (or of several rows up to it, see `fold_usage`)."""
    return Transfer(
        id=f"journal:{seq}",
        debit_account=customer(account),
        credit_account=USAGE,
        amount_msat=amount_msat,
        code=Code.USAGE,
        cause=cause or f"journal row {seq}",
        unix_nano=unix_nano,
    )


def fold_usage(rows: Iterable[tuple[int, str, int]], *, unix_nano: int) -> list[Transfer]:
    """One debit per account for all the rows of one commit: `rows` are (journal seq, account, amount in msat).

    The id is that of the account's last row in the commit, which no other commit and no other account has. Rows that cost
    nothing leave no transfer.
    """
    folded: dict[str, list[int]] = {}  # account -> first seq, last seq, msat
    for seq, account, amount_msat in rows:
        assert amount_msat >= 0
        if not amount_msat:
            continue
        found = folded.get(account)
        if found is None:
            folded[account] = [seq, seq, amount_msat]
        else:
            found[0] = min(found[0], seq)
            found[1] = max(found[1], seq)
            found[2] += amount_msat
    return [
        usage(
            account,
            seq=last,
            amount_msat=amount_msat,
            unix_nano=unix_nano,
            cause=f"journal row {last}" if first == last else f"journal rows {first} to {last}",
        )
        for account, (first, last, amount_msat) in folded.items()
    ]


def topup(account: str, *, payment_hash: bytes, network: str, amount_msat: int, unix_nano: int) -> Transfer:
    """The credit for a settled invoice: the amount that was received, which may differ from what was asked."""
    return Transfer(
        id=f"ln:{payment_hash.hex()}",
        debit_account=LedgerAccount(Kind.LIGHTNING, network),
        credit_account=customer(account),
        amount_msat=amount_msat,
        code=Code.TOPUP,
        cause=f"Lightning payment {payment_hash.hex()}",
        unix_nano=unix_nano,
    )


def adjust(account: str, *, client_id: str, amount_msat: int, unix_nano: int, note: str = "") -> Transfer:
    """The operator gives (`amount_msat` > 0) or takes (< 0). `client_id` is chosen by who asks, so that asking twice is asking once.

    A start balance is `client_id` "start:<account>", so an account gets it once however often the daemon starts.
    """
    sides = (ADJUST, customer(account)) if amount_msat > 0 else (customer(account), ADJUST)
    return Transfer(
        id=f"adjust:{client_id}",
        debit_account=sides[0],
        credit_account=sides[1],
        amount_msat=abs(amount_msat),
        code=Code.ADJUST,
        cause=note or "adjusted by the operator",
        unix_nano=unix_nano,
    )


class Outcome(Enum):
    """What became of a transfer or a reservation. Where several are true, the one that stands first here is the answer."""

    EXISTS_WITH_DIFFERENT_CONTENT = "exists_with_different_content"  #: the id is taken by another transfer; nothing moved
    EXISTS = "exists"  #: it was made before; nothing moved, and the caller may go on as if it had been made now
    ACCOUNT_DISABLED = "account_disabled"  #: the account may not spend
    EXCEEDS_CREDITS = "exceeds_credits"  #: the account would go further below 0 than its terms allow
    OVERFLOWS = "overflows"  #: a sum would leave 64 bits; no honest amount does
    CREATED = "created"  #: the money moved (or, for a reservation, is held)


@dataclass(frozen=True, slots=True)
class Totals:
    """All that a ledger account was ever debited and credited. Both only grow."""

    debits_msat: int = 0
    credits_msat: int = 0

    @property
    def net_msat(self) -> int:
        """Credits minus debits. Over all ledger accounts it sums to 0."""
        return self.credits_msat - self.debits_msat


@dataclass(frozen=True, slots=True)
class Terms:
    """What the operator allows an account."""

    credit_limit_msat: int | None = 0  #: how far below 0 it may go; None: no bound (metered and shown, never refused)
    enabled: bool = True  #: False: it spends nothing more; what is paid to it is credited all the same

    def __post_init__(self) -> None:
        assert self.credit_limit_msat is None or self.credit_limit_msat >= 0


class Balance(NamedTuple):
    """An account's money. A tuple, since several are made for each request.

    `held_msat` is reserved for requests whose commit is under way: spent for admission, not yet debited.
    """

    debits_msat: int = 0
    credits_msat: int = 0
    held_msat: int = 0

    @property
    def posted_msat(self) -> int:
        """Credits minus debits; what the books show."""
        return self.credits_msat - self.debits_msat

    @property
    def available_msat(self) -> int:
        """What may be promised to the next request before the account stands at 0."""
        return self.posted_msat - self.held_msat


class Books(Protocol):
    """What `decide` must know. A store answers from the transaction that will write the transfer."""

    def transfer(self, transfer_id: str) -> Transfer | None:
        """The transfer that has this id, None when there is none."""

    def totals(self, account: LedgerAccount) -> Totals:
        """What a ledger account was debited and credited; zeros for one that never moved."""

    def held_msat(self, account: LedgerAccount) -> int:
        """What is reserved of a customer's balance for debits that are not posted yet."""


def decide(books: Books, transfer: Transfer, terms: Terms, *, reserved: bool = False) -> Outcome:
    """What becomes of `transfer`. Decides only: on CREATED, and on nothing else, the caller writes it.

    `terms`: of the customer who is debited, without effect where none is. `reserved`: its amount was granted by a
    reservation, so what the account can afford was judged then and is not judged again: a debit for spans that the client
    was told are stored cannot fail.
    """
    known = books.transfer(transfer.id)
    if known is not None:
        return Outcome.EXISTS if known.same_content(transfer) else Outcome.EXISTS_WITH_DIFFERENT_CONTENT
    payer = transfer.debit_account
    if payer.kind is Kind.CUSTOMER and not reserved:
        totals = books.totals(payer)
        balance = Balance(totals.debits_msat, totals.credits_msat, books.held_msat(payer))
        refusal = refuses(balance, transfer.amount_msat, terms, spends=transfer.code is Code.USAGE)
        if refusal is not None:
            return refusal
    debits_msat = books.totals(payer).debits_msat + transfer.amount_msat
    credits_msat = books.totals(transfer.credit_account).credits_msat + transfer.amount_msat
    return Outcome.OVERFLOWS if max(debits_msat, credits_msat) > MAX_MSAT else Outcome.CREATED


def refuses(balance: Balance, amount_msat: int, terms: Terms, *, spends: bool) -> Outcome | None:
    """Why a customer may not be debited `amount_msat` more, None when he may. `spends`: for spans, not by the operator."""
    if spends and not terms.enabled:
        return Outcome.ACCOUNT_DISABLED
    if not amount_msat:
        return None  # what costs nothing can be had in debt too
    if terms.credit_limit_msat is not None and balance.available_msat - amount_msat < -terms.credit_limit_msat:
        return Outcome.EXCEEDS_CREDITS
    return Outcome.OVERFLOWS if balance.debits_msat + balance.held_msat + amount_msat > MAX_MSAT else None


def derive(transfers: Iterable[Transfer]) -> dict[LedgerAccount, Totals]:
    """The totals that follow from transfers: what any stored or cached total must equal."""
    totals: dict[LedgerAccount, list[int]] = {}
    for transfer in transfers:
        totals.setdefault(transfer.debit_account, [0, 0])[0] += transfer.amount_msat
        totals.setdefault(transfer.credit_account, [0, 0])[1] += transfer.amount_msat
    return {account: Totals(debits, credits_) for account, (debits, credits_) in totals.items()}


@dataclass(frozen=True, slots=True)
class Audit:
    """What was found when the books were checked."""

    sum_msat: int  #: over all ledger accounts, of what is shown; anything but 0 is a fault of ours
    differences: tuple[tuple[LedgerAccount, Totals, Totals], ...]  #: (account, as derived, as shown) where the two differ

    @property
    def balanced(self) -> bool:
        return self.sum_msat == 0 and not self.differences


def audit(derived: Mapping[LedgerAccount, Totals], shown: Mapping[LedgerAccount, Totals]) -> Audit:
    """Check shown totals against those derived from the transfers (by `derive`, or by a store's own sums)."""
    nothing = Totals()
    differences = [
        (account, derived.get(account, nothing), shown.get(account, nothing))
        for account in sorted({*derived, *shown}, key=str)
        if derived.get(account, nothing) != shown.get(account, nothing)
    ]
    return Audit(sum(totals.net_msat for totals in shown.values()), tuple(differences))


@dataclass(frozen=True, slots=True)
class Line:
    """One line of an account's statement."""

    unix_nano: int  #: of its last transfer
    code: Code
    amount_msat: int  #: signed: what the balance changed by
    balance_msat: int  #: after it
    transfers: int  #: how many were folded into it
    id: str  #: of its last transfer
    cause: str  #: "" where several were folded


def statement(account: str, transfers: Iterable[Transfer], *, opening_msat: int = 0) -> list[Line]:
    """An account's transfers as lines, in the order given, with the balance after each; `opening_msat` is the balance before.

    Usage is one line a UTC day: a busy account has a debit per commit, which nobody reads. Its line is closed by whatever
    comes between, so that every balance on the statement was the balance at that time.
    """
    mine, balance_msat = customer(account), opening_msat
    lines: list[Line] = []
    for transfer in transfers:
        assert mine in (transfer.debit_account, transfer.credit_account), f"{transfer.id} is not of {account}"
        amount_msat = transfer.amount_msat if transfer.credit_account == mine else -transfer.amount_msat
        balance_msat += amount_msat
        last = lines[-1] if lines else None
        if last is not None and last.code is transfer.code is Code.USAGE and _same_day(last.unix_nano, transfer.unix_nano):
            folded = last.amount_msat + amount_msat
            lines[-1] = Line(transfer.unix_nano, Code.USAGE, folded, balance_msat, last.transfers + 1, transfer.id, "")
        else:
            lines.append(Line(transfer.unix_nano, transfer.code, amount_msat, balance_msat, 1, transfer.id, transfer.cause))
    return lines


def _same_day(one_unix_nano: int, other_unix_nano: int) -> bool:
    return one_unix_nano // NANOSECONDS_A_DAY == other_unix_nano // NANOSECONDS_A_DAY


class Ledger(Protocol):
    """The books as the daemon uses them; one object, owned by one event loop.

    Reservations live in memory and die with the process, as do the requests that they were made for. The debit itself is in
    the transaction of the journal row (`fold_usage`), so it exists exactly when the spans do; `commit` only says that this
    transaction has ended well. `core.books.Balances` is the part of it that needs no store.
    """

    def balance(self, account: str) -> Balance:
        """What an account has, debits that are under way apart."""

    def reserve(self, account: str, amount_msat: int, terms: Terms) -> Outcome:
        """Hold `amount_msat` for a debit: CREATED, or ACCOUNT_DISABLED, EXCEEDS_CREDITS, OVERFLOWS, which hold nothing. Never waits."""

    def commit(self, account: str, amount_msat: int) -> None:
        """The debit of a reservation is in the books."""

    def release(self, account: str, amount_msat: int) -> None:
        """The debit of a reservation will never be: what it held is available again."""

    def settle(self, settlement: Settlement) -> Awaitable[Credited]:
        """Credit a settled invoice and mark its top-up settled, in one commit. Any number of times has the effect of one.

        Uses `invoices.credit`, then `decide`. Resolves when it is durable.
        """

    def post(self, transfer: Transfer, terms: Terms) -> Awaitable[Outcome]:
        """An adjustment by the operator. Resolves when it is durable."""

    def statement(self, account: str, *, since_unix_nano: int, until_unix_nano: int) -> Awaitable[Sequence[Line]]:
        """The account's lines in [since, until), oldest first (see `statement`)."""

    def audit(self) -> Awaitable[Audit]:
        """Derived against shown, and the sum."""
