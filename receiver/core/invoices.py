"""A top-up from its invoice to its credit: which states it has, what moves it, and when money that a node reports is ours.

Rule 1: the row is the truth about what we asked for, the node about what was paid. Whatever a node *pushes* is a hint to ask
        it; only the answer to a lookup moves a row, and only by the table below.
Rule 2: SETTLED is final, and every other state leads to it: money that was received is credited, late or not. There is no
        way back out of it, so a node whose answers flap changes nothing.
Rule 3: SETTLED is believed only with a preimage that hashes to the payment hash. That is needed, not sufficient: the node
        that made the invoice knows the preimage all along, so a preimage alone credits nothing.
Rule 4: what is credited is the amount that was received. A payer may send more than was asked (LND sets no upper bound).

A row is durable before its invoice is shown to anyone. A crash between the node's answer and the row leaves an invoice that
nobody has seen and nobody can pay.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final, Protocol

from receiver.core.ledger import MAX_TRANSFER_MSAT, Outcome, Transfer, topup

SECOND_NANO: Final = 10**9
MSAT_PER_SAT: Final = 1_000

#: How long after its expiry an invoice is still looked up: hosted wallets let invoices live longer than they say.
WATCH_WINDOW_SECONDS: Final = 7 * 86_400
#: Looked up this often after the expiry: a late payment is rare, and waits for nobody.
LATE_LOOK_SECONDS: Final = 3_600.0
#: Looked up at least this often before it, since somebody may be waiting, and at most each second.
OPEN_LOOK_SECONDS: Final = 60.0
SHORTEST_LOOK_SECONDS: Final = 1.0


class InvoiceState(Enum):
    """How far a top-up has come."""

    OPEN = "open"  #: it can be paid
    SETTLED = "settled"  #: it was paid and is credited; final
    CANCELED = "canceled"  #: the node gave it up before its time
    EXPIRED = "expired"  #: its time is over; the node should refuse it now


class NodeState(Enum):
    """What a node says of an invoice."""

    OPEN = "open"  #: nothing has come
    HELD = "held"  #: a payment waits at the node; it may still go back, so it is no money
    SETTLED = "settled"  #: paid
    CANCELED = "canceled"  #: will not be paid any more (LND says this of expired invoices too)
    UNKNOWN = "unknown"  #: no such invoice: another node, or one that lost its data. Not the same as unpaid


class Event(Enum):
    """What can happen to a top-up."""

    UNPAID = "unpaid"  #: the node has no money for it, or does not know it
    SETTLED = "settled"  #: the node has the money and showed the preimage
    CANCELED = "canceled"  #: the node gave it up
    LAPSED = "lapsed"  #: its expiry has passed and the node has no money for it


_OPEN, _SETTLED, _CANCELED, _EXPIRED = InvoiceState.OPEN, InvoiceState.SETTLED, InvoiceState.CANCELED, InvoiceState.EXPIRED

#: Every state and every event: what is not here cannot be.
TRANSITIONS: Final[Mapping[tuple[InvoiceState, Event], InvoiceState]] = {
    (_OPEN, Event.UNPAID): _OPEN,
    (_OPEN, Event.SETTLED): _SETTLED,
    (_OPEN, Event.CANCELED): _CANCELED,
    (_OPEN, Event.LAPSED): _EXPIRED,
    (_EXPIRED, Event.UNPAID): _EXPIRED,  # a wall clock that was set back does not open it again
    (_EXPIRED, Event.SETTLED): _SETTLED,  # paid at the last moment, or to a wallet that takes late payments
    (_EXPIRED, Event.CANCELED): _EXPIRED,
    (_EXPIRED, Event.LAPSED): _EXPIRED,
    (_CANCELED, Event.UNPAID): _CANCELED,
    (_CANCELED, Event.SETTLED): _SETTLED,  # the node changed its mind, but the money is there
    (_CANCELED, Event.CANCELED): _CANCELED,
    (_CANCELED, Event.LAPSED): _CANCELED,
    (_SETTLED, Event.UNPAID): _SETTLED,
    (_SETTLED, Event.SETTLED): _SETTLED,
    (_SETTLED, Event.CANCELED): _SETTLED,
    (_SETTLED, Event.LAPSED): _SETTLED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TopUp:
    """One top-up: an invoice that we asked a node for, and what became of it. A settled one is a receipt.

    Proof of payment: SHA-256 of `preimage` is `payment_hash`, and the signature of `bolt11` names `payee`.
    """

    payment_hash: bytes  #: 32 bytes; the key
    account: str  #: who is credited
    bolt11: str
    amount_msat: int  #: asked for; whole satoshis
    network: str  #: "bitcoin", "testnet", "signet", "regtest"
    payee: str  #: the node's public key in hex: a hash that another node does not know is not unpaid
    created_unix_nano: int
    expires_unix_nano: int  #: as the invoice says
    state: InvoiceState = InvoiceState.OPEN
    received_msat: int = 0  #: credited
    settled_unix_nano: int = 0
    preimage: bytes = field(default=b"", repr=False)  #: the payer's receipt; b"" until it is settled

    def moved(self, state: InvoiceState) -> TopUp:
        return replace(self, state=state)

    @property
    def late(self) -> bool:
        """Whether it was paid after its expiry."""
        return self.state is InvoiceState.SETTLED and self.settled_unix_nano >= self.expires_unix_nano


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """A node's answer that an invoice was paid."""

    payment_hash: bytes
    preimage: bytes = field(repr=False)  #: b"" when the node did not say
    received_msat: int  #: 0 when the node did not say
    settled_unix_nano: int


class Verdict(Enum):
    """What a settlement is worth."""

    CREDIT = "credit"  #: ours, proven, and an amount
    FOREIGN = "foreign"  #: no top-up has this hash: nodes serve other applications too
    PREIMAGE_MISSING = "preimage_missing"  #: asked again later
    PREIMAGE_WRONG = "preimage_wrong"  #: it does not hash to the payment hash: the node lies or is broken
    AMOUNT_MISSING = "amount_missing"  #: paid, but not how much (or nonsense): asked again later, never dropped


@dataclass(frozen=True, slots=True)
class Credited:
    """What became of a settlement."""

    verdict: Verdict
    transfer: Transfer | None = None  #: what is credited, when `verdict` is CREDIT
    topup: TopUp | None = None  #: the settled row that is written in the same commit
    outcome: Outcome | None = None  #: of the transfer: CREATED now, EXISTS before, or a contradiction to what is booked

    def after(self, outcome: Outcome) -> Credited:
        return replace(self, outcome=outcome)


def credit(row: TopUp | None, settlement: Settlement) -> Credited:
    """What a settlement of `row` (None: no such top-up) is worth, and what a store writes in one commit when it is worth credit.

    Judges only. The transfer's own id makes the second time EXISTS.
    """
    if row is None:
        return Credited(Verdict.FOREIGN)
    assert row.payment_hash == settlement.payment_hash
    if not settlement.preimage:
        return Credited(Verdict.PREIMAGE_MISSING)
    if not proves(settlement.preimage, row.payment_hash):
        return Credited(Verdict.PREIMAGE_WRONG)
    if not 0 < settlement.received_msat <= MAX_TRANSFER_MSAT:
        return Credited(Verdict.AMOUNT_MISSING)
    transfer = topup(
        row.account,
        payment_hash=row.payment_hash,
        network=row.network,
        amount_msat=settlement.received_msat,
        unix_nano=settlement.settled_unix_nano,
    )
    settled = replace(
        row,
        state=TRANSITIONS[row.state, Event.SETTLED],
        received_msat=settlement.received_msat,
        settled_unix_nano=settlement.settled_unix_nano,
        preimage=settlement.preimage,
    )
    return Credited(Verdict.CREDIT, transfer, settled)


def proves(preimage: bytes, payment_hash: bytes) -> bool:
    """Whether `preimage` is that of `payment_hash` (BOLT 4: 32 bytes, SHA-256)."""
    return len(preimage) == 32 and hashlib.sha256(preimage).digest() == payment_hash


def after(row: TopUp, said: NodeState, *, now_unix_nano: int) -> InvoiceState:
    """The state of `row` once its node has said anything but SETTLED, which only `credit` may judge."""
    assert said is not NodeState.SETTLED
    if now_unix_nano >= row.expires_unix_nano and said is not NodeState.HELD:
        event = Event.LAPSED
    else:
        event = Event.CANCELED if said is NodeState.CANCELED else Event.UNPAID
    return TRANSITIONS[row.state, event]


def look_interval_seconds(row: TopUp, *, now_unix_nano: int) -> float:
    """How long after a look at `row` the next one is due.

    A young invoice is looked at after 1, 2, 4, ... 60 s: its age says how long somebody has been waiting already, so no
    counter is kept. After its expiry hourly.
    """
    if row.state is not InvoiceState.OPEN or now_unix_nano >= row.expires_unix_nano:
        return LATE_LOOK_SECONDS
    age_seconds = (now_unix_nano - row.created_unix_nano) / SECOND_NANO
    return min(OPEN_LOOK_SECONDS, max(SHORTEST_LOOK_SECONDS, age_seconds))


def watched_since_unix_nano(*, now_unix_nano: int) -> int:
    """Rows that expired before this are looked up no more; a hint of the node still makes us look."""
    return now_unix_nano - WATCH_WINDOW_SECONDS * SECOND_NANO


def reusable(rows: Iterable[TopUp], *, amount_msat: int, network: str, payee: str, now_unix_nano: int) -> TopUp | None:
    """The open invoice that serves a new request for the same amount; None when a new one is needed.

    It must have a quarter of its life left, so that nobody is shown one that runs out while he reaches for his phone, and it must
    be of the node that is asked now.
    """
    fitting = [
        row
        for row in rows
        if row.state is InvoiceState.OPEN
        and (row.amount_msat, row.network, row.payee) == (amount_msat, network, payee)
        and 4 * (row.expires_unix_nano - now_unix_nano) >= row.expires_unix_nano - row.created_unix_nano
    ]
    return max(fitting, key=lambda row: row.expires_unix_nano, default=None)


def payable(rows: Iterable[TopUp], *, now_unix_nano: int) -> int:
    """How many of an account's invoices can be paid just now: what a limit on them counts."""
    return sum(row.state is InvoiceState.OPEN and row.expires_unix_nano > now_unix_nano for row in rows)


class TopUps(Protocol):
    """Where top-ups are kept. `Ledger.settle` alone makes one SETTLED, in the commit that credits it."""

    def add(self, topup: TopUp) -> Awaitable[None]:
        """Keep a new one; resolves when it is durable. Its invoice is shown only then."""

    def find(self, payment_hash: bytes) -> Awaitable[TopUp | None]:
        """The one with this hash, None when it is not ours."""

    def find_all(self, payment_hashes: Collection[bytes]) -> Awaitable[Mapping[bytes, TopUp]]:
        """Those with these hashes, by hash."""

    def of_account(self, account: str, *, limit: int) -> Awaitable[Sequence[TopUp]]:
        """An account's newest, newest first."""

    def unsettled(self, *, watched_since_unix_nano: int) -> Awaitable[Sequence[TopUp]]:
        """All that are not SETTLED and expire at or after this: what a reconciliation looks up."""

    def counts(self) -> Awaitable[Mapping[InvoiceState, int]]:
        """How many there are in each state; a state without any may be left out."""

    def move(self, payment_hash: bytes, *, before: InvoiceState, after: InvoiceState) -> Awaitable[bool]:
        """Set the state to `after` if it still is `before`; False when it moved meanwhile. Never to or from SETTLED."""

    def cursor(self, node: str) -> Awaitable[str | None]:
        """Where the stream of this node's settlements was left; a hint, which may be lost."""

    def keep_cursor(self, node: str, cursor: str) -> Awaitable[None]:
        """Remember it; only a value that the node itself sent, after what it points to was looked up."""
