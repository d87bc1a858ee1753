"""Every write and every sync fails once, and the power goes at each sync, while debits and payments are written: the books balance.

A run tries a sample of the writes, and CI every one (see `tests.sampling`).
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

import apsw
import pytest

from receiver.core import ledger
from receiver.core.invoices import InvoiceState
from receiver.core.journal import StoreBroken, StoreFull
from receiver.core.ledger import Code, Outcome, Terms, Transfer, adjust
from receiver.store import faults, writer
from receiver.store.books import SqliteBooks
from receiver.store.ledger import contradictions, derived_totals, stored_totals
from tests.integration.store_helpers import Restored
from tests.integration.store_vfs import NEVER, FailingDisk, Recorder
from tests.integration.test_store_books import opened, settlement, topup
from tests.integration.test_store_ledger import PRICE_MSAT, pay, transfers
from tests.sampling import sample

#: Of the top-ups and adjustments of the scenario.
NUMBERS = (1, 3, 5)
#: Pages of the log at which it is folded here: several times in the scenario, as it is after hours of a real day.
CHECKPOINT_PAGES = 24
#: Places that a run tries, of about 100 writes or 20 syncs.
SAMPLE = 10


@pytest.fixture(autouse=True)
def _disarmed():
    yield
    faults.arm("")


@pytest.fixture(autouse=True)
def _log_folded_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "CHECKPOINT_PAGES", CHECKPOINT_PAGES)


class Party:
    """What was asked, and what was said to hold."""

    def __init__(self, log: list[tuple[object, ...]] | None = None) -> None:
        self.stored: dict[str, int] = {}  #: account -> spans that were acknowledged
        self.credited: set[int] = set()
        self.given: set[int] = set()
        self.refused = 0
        self._log = [] if log is None else log

    async def spend(self, books: SqliteBooks, account: str, *numbers: int) -> None:
        try:
            await pay(books, account, *numbers)
        except (StoreFull, StoreBroken):
            self.refused += 1
        else:
            self.stored[account] = self.stored.get(account, 0) + len(numbers)
            self._log.append(("stored", account, len(numbers)))

    async def top_up(self, books: SqliteBooks, number: int) -> None:
        try:
            if await books.topups.find(topup(number).payment_hash) is None:
                await books.topups.add(topup(number))
            told = [books.ledger.settle(settlement(topup(number), number)) for _ in range(2)]
            outcomes = [one.outcome for one in await asyncio.gather(*told)]
        except (StoreFull, StoreBroken):
            self.refused += 1
        else:
            assert set(outcomes) <= {Outcome.CREATED, Outcome.EXISTS}
            self.credited.add(number)
            self._log.append(("credited", number))

    async def take(self, books: SqliteBooks, number: int) -> None:
        try:
            outcome = await books.ledger.post(adjust("acme", client_id=str(number), amount_msat=-3, unix_nano=number), Terms(None))
        except (StoreFull, StoreBroken):
            self.refused += 1
        else:
            assert outcome in (Outcome.CREATED, Outcome.EXISTS)
            self.given.add(number)
            self._log.append(("given", number))


async def scenario(books: SqliteBooks, party: Party) -> None:
    """Debits alone and in company, payments between; the log is folded into the database meanwhile."""
    Restored(books.journal)
    for number in NUMBERS:
        await party.spend(books, "acme", 10 * number, 10 * number + 1)
        await asyncio.gather(party.spend(books, "other", 10 * number + 2), party.top_up(books, number), party.take(books, number))


async def check(folder: Path, party: Party, *, exactly: bool) -> None:
    """Said is a part of recovered; a debit is there exactly with its spans, a receipt with its credit; nothing is twice."""
    async with opened(folder) as books:
        restored = Restored(books.journal)
        spans = Counter(accepted.account for accepted in restored.opened for _ in accepted.spans)
        rows = await books.topups.of_account("acme", limit=100)
        credited = {row.amount_msat // 1_000 for row in rows if row.state is InvoiceState.SETTLED}
        given = {int(transfer_id.split(":")[1]) for transfer_id, _, _ in await transfers(books) if transfer_id.startswith("adjust:")}
        for account in ("acme", "other"):
            assert spans[account] >= party.stored.get(account, 0), "acknowledged, and lost"
            extra = sum(1_000 * number for number in credited) - 3 * len(given) if account == "acme" else 0
            assert books.ledger.balance(account).posted_msat == extra - PRICE_MSAT * spans[account], "debits are not those of the spans"
        assert party.credited <= credited
        assert party.given <= given
        if exactly:
            assert dict(spans) == party.stored
            assert (party.credited, party.given) == (credited, given)
        assert (await books.ledger.audit()).balanced
        assert await books.journal.writer.call(lambda c: list(contradictions(c))) == []
        assert await books.journal.writer.call(lambda c: c.execute("PRAGMA integrity_check").get) == "ok"


@pytest.mark.parametrize("forever", [False, True])
async def test_a_full_disk_at_every_write(tmp_path: Path, forever: bool) -> None:
    """Nothing is said to hold that does not, the balances follow, and once there is space everything goes in."""

    async def tried(at: int) -> FailingDisk:
        folder, party = tmp_path / str(at), Party()
        folder.mkdir()
        print(f"the disk is full at write {at}")
        disk = FailingDisk(f"ledger-full-{forever}", error=apsw.FullError, writes=True, at=at, forever=forever)
        async with opened(folder, vfs=disk.name) as books:
            disk.armed = True
            await scenario(books, party)
            disk.armed = False
            assert (await books.ledger.audit()).balanced
            for number in NUMBERS:
                await party.top_up(books, number)
                await party.take(books, number)
            assert party.credited == party.given == set(NUMBERS)
            assert books.ledger.balance("acme").held_msat == books.ledger.balance("other").held_msat == 0
        disk.unregister()
        await check(folder, party, exactly=True)
        return disk

    well = await tried(NEVER)
    assert well.files == {"spantoll.db", "spantoll.db-wal"}, "the log is folded meanwhile"
    assert well.calls > 20, "the scenario has that many writes"
    struck = [(await tried(at)).struck for at in sample(range(1, well.calls + 1), SAMPLE, name=f"ledger full {forever}")]
    assert all(struck[: len(struck) // 2]), "only at the end may a run be over before, for commits that were made together"


@pytest.mark.parametrize("writes", [True, False], ids=["write", "sync"])
async def test_a_failed_write_or_sync_at_every_one_in_turn(tmp_path: Path, writes: bool) -> None:
    """The daemon ends, and starts again with everything that it had said."""

    async def tried(at: int) -> FailingDisk:
        folder, party, broken = tmp_path / str(at), Party(), list[StoreBroken]()
        folder.mkdir()
        print(f"the disk fails at {'write' if writes else 'sync'} {at}")
        disk = FailingDisk(f"ledger-eio-{writes}", error=apsw.IOError, writes=writes, at=at, forever=True)
        async with opened(folder, vfs=disk.name, broke=broken.append) as books:
            disk.armed = True
            await scenario(books, party)
            disk.armed = False
        disk.unregister()
        assert bool(broken) == bool(disk.struck), "it must not go on behind a disk that failed"
        await check(folder, party, exactly=False)
        return disk

    well = await tried(NEVER)
    assert well.files == {"spantoll.db", "spantoll.db-wal"}, "the log is folded meanwhile"
    assert well.calls > (20 if writes else 8)
    struck = [(await tried(at)).struck for at in sample(range(1, well.calls + 1), SAMPLE, name=f"ledger eio {writes}")]
    assert all(struck[: len(struck) // 2]), "only at the end may a run be over before, for commits that were made together"


async def test_the_power_goes_at_every_sync(tmp_path: Path) -> None:
    """Whatever of the unsynced writes came, in whatever order and torn: what was said holds, and the books balance."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    recorder = Recorder("ledger-recorder")
    running = tmp_path / "running"
    running.mkdir()
    party = Party(recorder.log)
    async with opened(running, vfs=recorder.name) as books:
        begin = len(recorder.log)
        await scenario(books, party)
        end = len(recorder.log)
    recorder.unregister()
    assert party.credited == set(NUMBERS)
    cuts = [place for place in recorder.syncs if begin <= place < end]
    assert len(cuts) > 10
    assert {entry[1] for entry in recorder.log[begin:end] if entry[0] == "sync"} == {"spantoll.db", "spantoll.db-wal"}
    for place in sorted({*cuts, *(place + 1 for place in cuts), end}):
        folder, told = tmp_path / f"cut-{place}", Party()
        folder.mkdir()
        for name, data in recorder.disk(place, rng).items():
            (folder / name).write_bytes(data)
        for what, *facts in recorder.log[:place]:
            if what == "stored":
                told.stored[facts[0]] = told.stored.get(facts[0], 0) + facts[1]
            elif what == "credited":
                told.credited.add(facts[0])
            elif what == "given":
                told.given.add(facts[0])
        try:
            await check(folder, told, exactly=False)
        except BaseException:
            print(f"cut before operation {place} of {len(recorder.log)}, seed {seed}")
            raise


async def test_totals_are_derived_as_sqlite_and_as_python_do(tmp_path: Path) -> None:
    """The audit's query sums what `core.ledger.derive` sums."""
    async with opened(tmp_path) as books:
        await scenario(books, Party())
        derived, stored, rows = await books.journal.writer.call(
            lambda c: (
                derived_totals(c),
                stored_totals(c),
                c.execute("SELECT debit_account, credit_account, amount_msat, code FROM transfers").fetchall(),
            )
        )
        made = [
            Transfer(
                id=str(number), debit_account=ledger.LedgerAccount.parse(debit), credit_account=ledger.LedgerAccount.parse(credit),
                amount_msat=amount, code=Code(code), cause="", unix_nano=1,
            )
            for number, (debit, credit, amount, code) in enumerate(rows)
        ]  # fmt: skip
        assert derived == stored == ledger.derive(made)
        assert len(made) > 10
