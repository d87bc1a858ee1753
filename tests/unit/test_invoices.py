"""The life of a top-up, and when what a node says is money."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from receiver.core import invoices
from receiver.core.books import MemoryLedger
from receiver.core.invoices import TRANSITIONS, Credited, Event, InvoiceState, NodeState, Settlement, TopUp, Verdict
from receiver.core.ledger import Kind, LedgerAccount, Outcome, customer

PREIMAGE = bytes(range(32))
HASH = hashlib.sha256(PREIMAGE).digest()
SECOND = invoices.SECOND_NANO
MADE, EXPIRES = 1_000 * SECOND, 4_600 * SECOND


def topup(**changes: object) -> TopUp:
    row = TopUp(
        payment_hash=HASH,
        account="acme",
        bolt11="lnbcrt...",
        amount_msat=100_000,
        network="regtest",
        payee="02ab",
        created_unix_nano=MADE,
        expires_unix_nano=EXPIRES,
    )
    return replace(row, **changes)  # type: ignore[arg-type] -- the tests' own shorthand


def settlement(**changes: object) -> Settlement:
    settled = Settlement(payment_hash=HASH, preimage=PREIMAGE, received_msat=100_000, settled_unix_nano=2_000 * SECOND)
    return replace(settled, **changes)  # type: ignore[arg-type] -- the tests' own shorthand


def test_the_table_knows_every_case() -> None:
    """Every state meets every event; SETTLED is never left and is reached from everywhere."""
    assert set(TRANSITIONS) == {(state, event) for state in InvoiceState for event in Event}
    for (state, event), then in TRANSITIONS.items():
        assert (then is InvoiceState.SETTLED) == (state is InvoiceState.SETTLED or event is Event.SETTLED)
        assert then is not InvoiceState.OPEN or state is InvoiceState.OPEN


@pytest.mark.parametrize(
    ("state", "said", "at", "then"),
    [
        (InvoiceState.OPEN, NodeState.OPEN, EXPIRES - 1, InvoiceState.OPEN),
        (InvoiceState.OPEN, NodeState.UNKNOWN, EXPIRES - 1, InvoiceState.OPEN),
        (InvoiceState.OPEN, NodeState.HELD, EXPIRES + 1, InvoiceState.OPEN),
        (InvoiceState.OPEN, NodeState.OPEN, EXPIRES, InvoiceState.EXPIRED),
        (InvoiceState.OPEN, NodeState.CANCELED, EXPIRES, InvoiceState.EXPIRED),
        (InvoiceState.OPEN, NodeState.CANCELED, EXPIRES - 1, InvoiceState.CANCELED),
        (InvoiceState.EXPIRED, NodeState.OPEN, MADE, InvoiceState.EXPIRED),
        (InvoiceState.CANCELED, NodeState.OPEN, MADE, InvoiceState.CANCELED),
    ],
)
def test_what_an_unpaid_invoice_becomes(state: InvoiceState, said: NodeState, at: int, then: InvoiceState) -> None:
    """An expired invoice is expired whatever its node calls it, a payment on its way keeps it open, unknown is not unpaid."""
    assert invoices.after(topup(state=state), said, now_unix_nano=at) is then


@pytest.mark.parametrize("state", [InvoiceState.OPEN, InvoiceState.EXPIRED, InvoiceState.CANCELED])
def test_what_was_received_is_credited(state: InvoiceState) -> None:
    """A proven payment is worth its received amount, more than was asked or late though it may be."""
    credited = invoices.credit(topup(state=state), settlement(received_msat=150_001, settled_unix_nano=EXPIRES))
    transfer, row = credited.transfer, credited.topup
    assert credited.verdict is Verdict.CREDIT
    assert transfer is not None
    assert row is not None
    assert (transfer.id, transfer.amount_msat, transfer.credit_account) == (f"ln:{HASH.hex()}", 150_001, customer("acme"))
    assert transfer.debit_account == LedgerAccount(Kind.LIGHTNING, "regtest")
    assert (row.state, row.received_msat, row.preimage, row.late) == (InvoiceState.SETTLED, 150_001, PREIMAGE, True)


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"preimage": b""}, Verdict.PREIMAGE_MISSING),
        ({"preimage": bytes(32)}, Verdict.PREIMAGE_WRONG),
        ({"preimage": PREIMAGE + b"\0"}, Verdict.PREIMAGE_WRONG),
        ({"received_msat": 0}, Verdict.AMOUNT_MISSING),
        ({"received_msat": -1}, Verdict.AMOUNT_MISSING),
        ({"received_msat": 2**62}, Verdict.AMOUNT_MISSING),
    ],
)
async def test_a_lying_node_credits_nothing(changes: dict[str, object], verdict: Verdict) -> None:
    """Without a preimage that proves it and an amount that can be, "settled" moves no money and no state."""
    books = MemoryLedger(topups=[topup()])
    assert await books.settle(settlement(**changes)) == Credited(verdict)
    assert not books.transfers()
    assert await books.find(HASH) == topup()


async def test_a_foreign_payment_is_nobodys() -> None:
    """A node serves other applications too: a settlement that no top-up asked for is not credited to anyone."""
    assert await MemoryLedger().settle(settlement()) == Credited(Verdict.FOREIGN)


async def test_a_settlement_is_credited_once() -> None:
    """Told again it exists; told with another amount it is a contradiction; in both cases nothing moves."""
    books = MemoryLedger(topups=[topup()])
    outcomes = [(await books.settle(settlement(received_msat=msat))).outcome for msat in (100_000, 100_000, 100_001)]
    assert outcomes == [Outcome.CREATED, Outcome.EXISTS, Outcome.EXISTS_WITH_DIFFERENT_CONTENT]
    assert books.balance("acme").posted_msat == 100_000
    row = await books.find(HASH)
    assert row is not None
    assert (row.state, row.received_msat, row.late) == (InvoiceState.SETTLED, 100_000, False)
    assert not await books.move(HASH, before=InvoiceState.OPEN, after=InvoiceState.EXPIRED)


def test_secrets_are_not_printed() -> None:
    """A preimage shows in no repr: logs and tracebacks print those."""
    row = invoices.credit(topup(), settlement()).topup
    for text in (repr(settlement()), repr(row)):
        assert repr(PREIMAGE) not in text
        assert PREIMAGE.hex() not in text


def test_young_invoices_are_looked_at_often_and_old_ones_rarely() -> None:
    """Looks at an open invoice double their distance up to a minute; after the expiry one an hour, for the watch window."""
    row = topup()
    at, looks = MADE, []
    while at < EXPIRES:
        seconds = invoices.look_interval_seconds(row, now_unix_nano=at)
        at += round(seconds * SECOND)
        looks.append(seconds)
    assert looks[:8] == [1, 1, 2, 4, 8, 16, 32, 60]
    assert set(looks[8:]) == {60}
    assert invoices.look_interval_seconds(row, now_unix_nano=EXPIRES) == 3_600
    assert invoices.look_interval_seconds(row, now_unix_nano=MADE - 10**15) == 1  # the wall clock was set back
    assert invoices.watched_since_unix_nano(now_unix_nano=EXPIRES + 7 * 86_400 * SECOND) == EXPIRES


@pytest.mark.parametrize(
    ("row", "at", "reused"),
    [
        (topup(), MADE, True),
        (topup(), EXPIRES - 900 * SECOND, True),
        (topup(), EXPIRES - 900 * SECOND + 1, False),
        (topup(), EXPIRES + 1, False),
        (topup(amount_msat=99_000), MADE, False),
        (topup(network="bitcoin"), MADE, False),
        (topup(payee="03ff"), MADE, False),
        (topup(state=InvoiceState.CANCELED), MADE, False),
        (topup(state=InvoiceState.SETTLED), MADE, False),
    ],
)
def test_an_open_invoice_is_used_again_while_it_has_life_left(*, row: TopUp, at: int, reused: bool) -> None:
    """The same amount at the same node is the same invoice until a quarter of its life is left."""
    found = invoices.reusable([row], amount_msat=100_000, network="regtest", payee="02ab", now_unix_nano=at)
    assert (found is row) == reused
    assert invoices.payable([row], now_unix_nano=at) == (row.state is InvoiceState.OPEN and at < EXPIRES)
