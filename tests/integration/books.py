"""Books with something of everything in them."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from receiver.core.invoices import Settlement, TopUp
from receiver.core.journal import Acceptance
from receiver.core.ledger import Outcome, Terms, adjust
from receiver.metrics import Metrics
from receiver.store.books import SqliteBooks
from tests.fakes import UNIX_NANO, ManualClock
from tests.integration.store_helpers import charge_of, close, lack, span

PRICE_MSAT = 10  #: a span
TERMS = Terms(credit_limit_msat=None)


@asynccontextmanager
async def opened(folder: Path, clock: ManualClock | None = None, **options: Any) -> AsyncIterator[tuple[SqliteBooks, Metrics]]:
    """Books with metrics that watch them, restored as the daemon does it; stopped at the end."""
    clock = clock or ManualClock()
    books = SqliteBooks(folder / "spantoll.db", clock=clock, **options)
    try:
        metrics = Metrics(unix_nano=clock.unix_nano)
        metrics.restore(books.journal.series())
        for entry in books.journal.unobserved():
            metrics.fold(entry)
        books.journal.watch(metrics.fold)
        list(books.journal.replay())
        yield books, metrics
    finally:
        await books.stop()


async def accept(books: SqliteBooks, *, trace: int, spans: int = 2, account: str = "acme") -> None:
    """Spans of a trace with their debit: span ids 10 * trace + 1, 2, ..."""
    debit_msat = PRICE_MSAT * spans
    assert books.ledger.reserve(account, debit_msat, TERMS) is Outcome.CREATED
    made = [span(10 * trace + number, trace=trace) for number in range(1, spans + 1)]
    await books.journal.accept(Acceptance(account, UNIX_NANO, made, "grpc", debit_msat))
    books.ledger.commit(account, debit_msat)


async def charge(books: SqliteBooks, *, trace: int, spans: int = 2, cost_pusd: int | None = 1_000) -> None:
    """Close a trace: its first span pays."""
    paid = charge_of(10 * trace + 1, trace=trace, cost_pusd=cost_pusd)
    await books.journal.close([close((trace, 0, spans), charges=[paid], missing=[lack(10 * trace + 2, trace=trace)])])


async def top_up(books: SqliteBooks, number: int, *, amount_msat: int = 50_000) -> None:
    preimage = number.to_bytes(32, "big")
    row = TopUp(
        payment_hash=hashlib.sha256(preimage).digest(),
        account="acme",
        bolt11=f"lnbcrt{number}",
        amount_msat=amount_msat,
        network="regtest",
        payee="02" * 33,
        created_unix_nano=UNIX_NANO,
        expires_unix_nano=UNIX_NANO + 10**12,
    )
    await books.topups.add(row)
    settled = Settlement(payment_hash=row.payment_hash, preimage=preimage, received_msat=amount_msat, settled_unix_nano=UNIX_NANO + 1)
    assert (await books.ledger.settle(settled)).outcome is Outcome.CREATED


async def filled(folder: Path, *, traces: int = 12) -> None:
    """Closed and open traces, priced and not, a snapshot in the middle, a top-up, a gift."""
    async with opened(folder) as (books, metrics):
        await top_up(books, 1)
        await books.ledger.post(adjust("acme", client_id="gift", amount_msat=700, unix_nano=UNIX_NANO), TERMS)
        for trace in range(1, traces + 1):
            await accept(books, trace=trace)
            if trace % 4:
                await charge(books, trace=trace, cost_pusd=None if trace % 3 == 0 else 1_000 * trace)
            if trace == traces // 2:
                await books.journal.snapshot(metrics.series())
