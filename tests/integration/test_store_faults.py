"""Every write and every sync of the store fails once, and the power goes at each of its syncs: what was acknowledged is there, once.

A run tries a sample of the writes, and CI every one (see `tests.sampling`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from receiver.core.journal import Acceptance, StoreBroken, StoreFull
from receiver.core.ledger import Outcome
from receiver.core.window.group import TraceKey
from receiver.metrics import Metrics
from receiver.store import writer
from receiver.store.books import SqliteBooks
from receiver.store.database import DatabaseDamaged
from tests.integration.books import PRICE_MSAT, TERMS, opened, top_up
from tests.integration.store_helpers import charge_of, close, span, span_id, trace_id
from tests.integration.store_vfs import NEVER, FailingDisk, Recorder
from tests.reconcile import Reckoning, Request
from tests.sampling import sample

#: Requests of the scenario; each is a trace of two spans, the first of which pays.
REQUESTS = 14
COST_PUSD = 1_000
CUSTOMER_MSAT = 1_000_000  #: what is topped up in the middle
#: Pages of the log at which it is folded here: several times in the scenario, as it is after hours of a real day.
CHECKPOINT_PAGES = 48
#: Places that a run tries, of about 200 writes or 40 syncs.
SAMPLE = 12


@pytest.fixture(autouse=True)
def _log_folded_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "CHECKPOINT_PAGES", CHECKPOINT_PAGES)


class Client:
    """What was sent, and what was acknowledged of it."""

    def __init__(self, note: Callable[[str, int], None] = lambda *_: None) -> None:
        self.told = Reckoning(price_msat=PRICE_MSAT)
        self.told.sent = {number: request_of(number) for number in range(1, REQUESTS + 1)}
        self.topped_up = False
        self.refused: list[BaseException] = []
        self._note = note

    async def send(self, books: SqliteBooks, number: int) -> None:
        debit_msat = 2 * PRICE_MSAT
        assert books.ledger.reserve("acme", debit_msat, TERMS) is Outcome.CREATED
        spans = [span(2 * number, trace=number), span(2 * number + 1, trace=number)]
        try:
            await books.journal.accept(Acceptance("acme", 77, spans, "grpc", debit_msat))
        except (StoreFull, StoreBroken) as refusal:
            books.ledger.release("acme", debit_msat)
            self.refused.append(refusal)
        else:
            books.ledger.commit("acme", debit_msat)
            self.told.acknowledged.add(number)
            self._note("accepted", number)

    async def close(self, books: SqliteBooks, number: int) -> None:
        try:
            await books.journal.close([close((number, 0, 2), charges=[charge_of(2 * number, trace=number, cost_pusd=COST_PUSD)])])
        except (StoreFull, StoreBroken) as refusal:
            self.refused.append(refusal)
        else:
            self.told.closed.add(number)
            self._note("closed", number)

    async def top_up(self, books: SqliteBooks) -> None:
        try:
            await top_up(books, 1, amount_msat=CUSTOMER_MSAT)
        except (StoreFull, StoreBroken) as refusal:
            self.refused.append(refusal)
        else:
            self.topped_up = True
            self._note("topped up", 1)


def request_of(number: int) -> Request:
    paying, other = ((trace_id(number), span_id(2 * number + at)) for at in (0, 1))
    return Request((paying, other), {paying: COST_PUSD}, account="acme")


async def scenario(books: SqliteBooks, metrics: Metrics, client: Client) -> None:
    """Requests alone and in company, closes between, a payment, a snapshot, deletion; the log is folded into the database meanwhile."""
    journal = books.journal
    for number in range(1, REQUESTS + 1, 2):
        await client.send(books, number)
        closing = [client.close(books, number)] if number in client.told.acknowledged else []
        await asyncio.gather(client.send(books, number + 1), *closing)
        if number == 5:
            await client.top_up(books)
        if number == 7:
            journal.forget([TraceKey("acme", trace_id(one)) for one in client.told.closed if one < 4])
            await asyncio.gather(journal.snapshot(metrics.series()), return_exceptions=True)


async def check(folder: Path, client: Client, *, exactly: bool) -> None:
    """Acknowledged is a part of recovered, each span with its debit; nothing is there twice; the counters that come back fit."""
    told = client.told
    told.forgotten = {number for number in told.closed if number < 4}
    async with opened(folder) as (books, metrics):
        shown = {
            "calls": int(metrics.exact("calls")),
            "cost_pusd": int(metrics.exact("cost_usd")),
            "debited_msat": books.ledger.balance("acme").debits_msat,
        }
        assert (await books.ledger.audit()).balanced
        credited = books.ledger.balance("acme").credits_msat
        assert credited in ((CUSTOMER_MSAT,) if client.topped_up else (0, CUSTOMER_MSAT))
    database = folder / "spantoll.db"
    assert told.differences(database, shown=shown) == []
    connection = apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READONLY)
    debited: int = connection.execute("SELECT coalesce(sum(amount_msat), 0) FROM transfers WHERE code = 'usage'").get
    charged: int = connection.execute("SELECT count(*) FROM charges").get
    connection.close()
    if exactly:
        assert debited == 2 * PRICE_MSAT * len(told.acknowledged)
        assert charged == len(told.closed)


async def failing(folder: Path, name: str, *, error: type[Exception], writes: bool, at: int, forever: bool) -> tuple[FailingDisk, Client]:
    disk = FailingDisk(name, error=error, writes=writes, at=at, forever=forever)
    client = Client()
    broken: list[StoreBroken] = []
    async with opened(folder, vfs=name, broke=broken.append) as (books, metrics):
        disk.armed = True
        await scenario(books, metrics, client)
        disk.armed = False
        if not broken:
            for number in client.told.unacknowledged:
                await client.send(books, number)
            assert client.told.unacknowledged == [], "there is space again, so everything must go in"
    disk.unregister()
    assert len(broken) <= 1
    if error is apsw.FullError:
        assert not broken
    else:
        assert bool(broken) == bool(disk.struck), "it must not go on behind a disk that failed"
    return disk, client


@pytest.mark.parametrize("forever", [False, True])
async def test_a_full_disk_at_every_write(tmp_path: Path, forever: bool) -> None:
    """No acknowledgement that does not hold, and no restart is needed once there is space."""

    async def tried(at: int) -> FailingDisk:
        folder = tmp_path / str(at)
        folder.mkdir()
        print(f"the disk is full at write {at}")
        disk, client = await failing(folder, f"full-{forever}", error=apsw.FullError, writes=True, at=at, forever=forever)
        await check(folder, client, exactly=True)
        return disk

    well = await tried(NEVER)
    assert well.files == {"spantoll.db", "spantoll.db-wal"}, "the log is folded meanwhile"
    assert well.calls > 40, "the scenario has that many writes"
    struck = [(await tried(at)).struck for at in sample(range(1, well.calls + 1), SAMPLE, name=f"full {forever}")]
    assert all(struck[: len(struck) // 2]), "only at the end may a run be over before, for commits that were made together"


@pytest.mark.parametrize("writes", [True, False], ids=["write", "sync"])
async def test_a_failed_write_or_sync_at_every_one_in_turn(tmp_path: Path, writes: bool) -> None:
    """The daemon ends at once, and starts again with everything that it had acknowledged."""

    async def tried(at: int) -> FailingDisk:
        folder = tmp_path / str(at)
        folder.mkdir()
        print(f"the disk fails at {'write' if writes else 'sync'} {at}")
        disk, client = await failing(folder, f"eio-{writes}", error=apsw.IOError, writes=writes, at=at, forever=True)
        await check(folder, client, exactly=False)
        return disk

    well = await tried(NEVER)
    assert well.files == {"spantoll.db", "spantoll.db-wal"}, "the log is folded meanwhile"
    assert well.calls > (40 if writes else 10)
    struck = [(await tried(at)).struck for at in sample(range(1, well.calls + 1), SAMPLE, name=f"eio {writes}")]
    assert all(struck[: len(struck) // 2]), "only at the end may a run be over before, for commits that were made together"


async def test_the_power_goes_at_every_sync(tmp_path: Path) -> None:
    """Whatever of the unsynced writes came, in whatever order and torn: acknowledged is there, once, and the file is whole."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    recorder = Recorder("recorder")
    running = tmp_path / "running"
    running.mkdir()
    client = Client(note=lambda *event: recorder.log.append(event))
    async with opened(running, vfs="recorder") as (books, metrics):
        begin = len(recorder.log)
        await scenario(books, metrics, client)
        end = len(recorder.log)
    recorder.unregister()
    cuts = [place for place in recorder.syncs if begin <= place < end]
    assert len(cuts) > 15
    assert {entry[1] for entry in recorder.log[begin:end] if entry[0] == "sync"} == {"spantoll.db", "spantoll.db-wal"}
    for place in sorted({*cuts, *(place + 1 for place in cuts), end}):
        folder = tmp_path / f"cut-{place}"
        folder.mkdir()
        for name, data in recorder.disk(place, rng).items():
            (folder / name).write_bytes(data)
        told = Client()
        for what, *arguments in recorder.log[:place]:
            if what == "accepted":
                told.told.acknowledged.add(arguments[0])
            elif what == "closed":
                told.told.closed.add(arguments[0])
            elif what == "topped up":
                told.topped_up = True
        try:
            await check(folder, told, exactly=False)
        except BaseException:
            print(f"cut before operation {place} of {len(recorder.log)}, seed {seed}")
            raise
    assert client.told.unacknowledged == []


async def test_a_disk_that_skips_syncs_is_caught(tmp_path: Path) -> None:
    """The power test can fail: on the same disk with syncs that do nothing, something acknowledged is lost or the file is torn."""
    recorder = Recorder("liar")
    running = tmp_path / "running"
    running.mkdir()
    client = Client(note=lambda *event: recorder.log.append(event))
    async with opened(running, vfs="liar") as (books, metrics):
        begin = len(recorder.log)
        await scenario(books, metrics, client)
        end = len(recorder.log)
    recorder.unregister()
    recorder.log[begin:] = [entry for entry in recorder.log[begin:end] if entry[0] != "sync"]
    folder = tmp_path / "cut"
    folder.mkdir()
    for name, data in recorder.disk(len(recorder.log), random.Random(1)).items():
        (folder / name).write_bytes(data)
    with pytest.raises(Exception, match=r".") as caught:  # whichever part of the check meets it first
        await check(folder, client, exactly=False)
    assert isinstance(caught.value, (AssertionError, DatabaseDamaged, StoreBroken, apsw.Error))
