"""Every write and every sync of the store fails once, and the power goes at each of its syncs: what was acknowledged is there, once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from receiver.core.journal import StoreBroken, StoreFull
from receiver.core.window.group import TraceKey
from receiver.store.database import DatabaseDamaged
from tests.integration.store_helpers import Restored, acceptance, charge_of, close, opened, span, span_id, trace_id
from tests.integration.store_vfs import FailingDisk, Recorder

#: Requests of the scenario; each is a trace of two spans, the first of which pays.
REQUESTS = 14


class Client:
    """What was sent, and what was acknowledged of it."""

    def __init__(self, note: Callable[[str, int], None] = lambda *_: None) -> None:
        self.acknowledged: set[int] = set()  #: requests
        self.closed: set[int] = set()
        self.refused: list[BaseException] = []
        self._note = note

    async def send(self, journal, number: int) -> None:
        try:
            await journal.accept(acceptance(span(2 * number, trace=number), span(2 * number + 1, trace=number)))
        except (StoreFull, StoreBroken) as refusal:
            self.refused.append(refusal)
        else:
            self.acknowledged.add(number)
            self._note("accepted", number)

    async def close(self, journal, number: int) -> None:
        try:
            await journal.close([close((number, 0, 2), charges=[charge_of(2 * number, trace=number)])])
        except (StoreFull, StoreBroken) as refusal:
            self.refused.append(refusal)
        else:
            self.closed.add(number)
            self._note("closed", number)


async def scenario(journal, client: Client) -> None:
    """Requests alone and in company, closes between, deletion, and the log folded into the database."""
    Restored(journal)
    for number in range(1, REQUESTS + 1, 2):
        await client.send(journal, number)
        await asyncio.gather(client.send(journal, number + 1), *([client.close(journal, number)] if number in client.acknowledged else []))
        if number == 7:
            journal.forget([TraceKey("acme", trace_id(one)) for one in client.closed if one < 4])
            await asyncio.gather(journal.snapshot([]), return_exceptions=True)
            await asyncio.gather(
                journal.writer.call(lambda _: journal.writer._checkpoint(apsw.SQLITE_CHECKPOINT_PASSIVE)), return_exceptions=True
            )


async def check(folder: Path, client: Client, *, exactly: bool) -> None:
    """Acknowledged is a part of recovered; nothing is there twice; the file is whole."""
    async with opened(folder) as journal:
        restored = Restored(journal)
        ids = restored.ids
        assert len(set(ids)) == len(ids), "an id is there twice"
        there = {int.from_bytes(one, "big") // 2 for one in ids}
        gone = {number for number in client.closed if number < 4}  # forgotten, so their rows may be deleted
        assert client.acknowledged - gone <= there, "acknowledged, and lost"
        assert all(span_id(2 * number) in ids and span_id(2 * number + 1) in ids for number in there), "half a request"
        rows = await journal.writer.call(lambda c: c.execute("SELECT span_id FROM charges").fetchall())
        charged = [int.from_bytes(one, "big") // 2 for (one,) in rows]
        assert len(set(charged)) == len(charged)
        assert client.closed <= set(charged)
        if exactly:
            assert client.acknowledged - gone == there - gone
            assert client.closed == set(charged)
        released = {int.from_bytes(key.trace_id, "big") for key in restored.remembered}
        assert released <= set(charged) | gone
        assert await journal.writer.call(lambda c: c.execute("PRAGMA integrity_check").get) == "ok"


async def failing(folder: Path, name: str, *, error: type[Exception], writes: bool, at: int, forever: bool) -> tuple[FailingDisk, Client]:
    disk = FailingDisk(name, error=error, writes=writes, at=at, forever=forever)
    client = Client()
    broken: list[StoreBroken] = []
    async with opened(folder, vfs=name, broke=broken.append) as journal:
        disk.armed = True
        await scenario(journal, client)
        disk.armed = False
        if not broken:
            for number in set(range(1, REQUESTS + 1)) - client.acknowledged:
                await client.send(journal, number)
            assert client.acknowledged == set(range(1, REQUESTS + 1)), "there is space again, so everything must go in"
    disk.unregister()
    assert len(broken) <= 1
    if error is apsw.FullError:
        assert not broken
    elif client.refused:
        assert broken, "it must not go on behind a disk that failed"
    return disk, client


@pytest.mark.parametrize("forever", [False, True])
async def test_a_full_disk_at_every_write(tmp_path: Path, forever: bool) -> None:
    """No acknowledgement that does not hold, and no restart is needed once there is space."""
    at = 0
    while True:
        at += 1
        folder = tmp_path / str(at)
        folder.mkdir()
        disk, client = await failing(folder, f"full-{forever}", error=apsw.FullError, writes=True, at=at, forever=forever)
        await check(folder, client, exactly=True)
        if not disk.struck:
            break
    assert at > 40, "the scenario has that many writes"


@pytest.mark.parametrize("writes", [True, False], ids=["write", "sync"])
async def test_a_failed_write_or_sync_at_every_one_in_turn(tmp_path: Path, writes: bool) -> None:
    """The daemon ends at once, and starts again with everything that it had acknowledged."""
    at = 0
    while True:
        at += 1
        folder = tmp_path / str(at)
        folder.mkdir()
        disk, client = await failing(folder, f"eio-{writes}", error=apsw.IOError, writes=writes, at=at, forever=True)
        await check(folder, client, exactly=False)
        if not disk.struck:
            break
        assert client.refused or at > disk.calls - 6, "whoever meets the failure hears of it (but for the last fold of the log)"
    assert at > (40 if writes else 10)


async def test_the_power_goes_at_every_sync(tmp_path: Path) -> None:
    """Whatever of the unsynced writes came, in whatever order and torn: acknowledged is there, once, and the file is whole."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    recorder = Recorder("recorder")
    running = tmp_path / "running"
    running.mkdir()
    client = Client(note=lambda *event: recorder.log.append(event))
    async with opened(running, vfs="recorder") as journal:
        begin = len(recorder.log)
        await scenario(journal, client)
        end = len(recorder.log)
    recorder.unregister()
    cuts = [place for place in recorder.syncs if begin <= place < end]
    assert len(cuts) > 15
    for place in [*cuts, *(place + 1 for place in cuts), end]:
        folder = tmp_path / f"cut-{place}"
        folder.mkdir()
        for name, data in recorder.disk(place, rng).items():
            (folder / name).write_bytes(data)
        told = Client()
        for what, *arguments in recorder.log[:place]:
            if what == "accepted":
                told.acknowledged.add(arguments[0])
            elif what == "closed":
                told.closed.add(arguments[0])
        try:
            await check(folder, told, exactly=False)
        except BaseException:
            print(f"cut before operation {place} of {len(recorder.log)}, seed {seed}")
            raise
    assert client.acknowledged == set(range(1, REQUESTS + 1))


async def test_a_disk_that_skips_syncs_is_caught(tmp_path: Path) -> None:
    """The power test can fail: on the same disk with syncs that do nothing, something acknowledged is lost or the file is torn."""
    recorder = Recorder("liar")
    running = tmp_path / "running"
    running.mkdir()
    client = Client(note=lambda *event: recorder.log.append(event))
    async with opened(running, vfs="liar") as journal:
        begin = len(recorder.log)
        await scenario(journal, client)
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
