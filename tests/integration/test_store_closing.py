"""The closing line over the real store: what it will never take, what is cancelled in the middle, and what a stop waits for."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from pathlib import Path

import pytest

from receiver.app import Daemon
from tests.exports import CALL_PUSD, agent, model_call
from tests.fakes import ManualClock
from tests.integration.test_restart import life, send, shown

#: As a rule of the schema would refuse it.
REFUSES = "CREATE TEMP TRIGGER {name} BEFORE INSERT ON {table} WHEN {when} BEGIN SELECT RAISE(ABORT, 'a rule of the store'); END"


async def refuse(daemon: Daemon, table: str, when: str) -> None:
    await daemon.journal.writer.call(lambda connection: connection.execute(REFUSES.format(name=f"no_{table}", table=table, when=when)))


@pytest.mark.parametrize("listed", [True, False], ids=["listed as missing", "not even that"])
async def test_what_the_store_will_never_take_stops_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture, listed: bool) -> None:
    """One close breaks a rule: its trace is closed as not counted, said and counted so, once; all others of the commit stand."""
    clock = ManualClock()
    async with life(tmp_path, clock) as daemon:
        await refuse(daemon, "charges", f"NEW.trace_id = x'{2:032x}'")
        if not listed:
            await refuse(daemon, "missing", "1")
        for trace in (1, 2, 3):
            await send(daemon, agent(trace, 1), model_call(trace, 2, parent=1))
        assert await daemon.closing.release_all(now=clock.monotonic()) == 3
        assert daemon.metrics.exact("calls") == 2
        assert daemon.metrics.exact("cost_usd") == 2 * CALL_PUSD
        assert daemon.metrics.exact("missing_spans", reason="fault") == int(listed)
        assert daemon.window.traces == 0
        assert daemon.closing.provisional_pusd == 0
        assert await daemon.closing.release_all(now=clock.monotonic()) == 0
        assert "a fault of ours" in caplog.text
        rows = await daemon.journal.writer.call(lambda c: c.execute("SELECT count(*), count(DISTINCT trace_id) FROM charges").fetchall())
        assert rows == [(2, 2)]
        before = await shown(daemon)
    async with life(tmp_path, clock) as daemon:
        assert await shown(daemon) == before
        assert daemon.window.traces == 0, "it is closed for good"


class Held:
    """Holds the writer's thread up inside a transaction."""

    def __init__(self, daemon: Daemon) -> None:
        self._go = threading.Event()
        self._held = threading.Event()
        self._done = daemon.journal.writer.call(self._work)

    def _work(self, _connection: object) -> None:
        self._held.set()
        assert self._go.wait(60)

    async def begun(self) -> None:
        await asyncio.to_thread(self._held.wait, 60)

    async def let_go(self) -> None:
        self._go.set()
        await self._done


async def test_a_release_whose_client_left_is_not_done_twice(tmp_path: Path) -> None:
    """Cancelled while its commit is under way: the commit stands, so the window must hear of it, or the next close counts it again."""
    clock = ManualClock()
    async with life(tmp_path, clock) as daemon:
        await send(daemon, agent(1, 1), model_call(1, 2, parent=1))
        held = Held(daemon)
        await held.begun()
        asked = asyncio.create_task(daemon.closing.release_all(now=clock.monotonic()))
        while not daemon.closing._tasks or daemon.window.traces:  # noqa: ASYNC110 -- its own turns are what is waited for
            await asyncio.sleep(0)
        asked.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asked
        await held.let_go()
        await daemon.closing.release_all(now=clock.monotonic())
        assert (daemon.metrics.exact("calls"), daemon.metrics.exact("cost_usd")) == (1, CALL_PUSD)
        rows = await daemon.journal.writer.call(lambda c: c.execute("SELECT recount FROM charges").fetchall())
        assert rows == [(0,)]


async def test_a_stop_waits_for_the_commit_under_way_and_for_no_other(tmp_path: Path) -> None:
    """Bounded: within its time it says so; what is still open is found by the next start."""
    clock = ManualClock()
    async with life(tmp_path, clock) as daemon:
        await send(daemon, agent(1, 1), model_call(1, 2, parent=1))
        assert await daemon.closing.stop(0) is True, "nothing is under way"
    async with life(tmp_path, clock) as daemon:
        held = Held(daemon)
        await held.begun()
        asked = asyncio.create_task(daemon.closing.release_all(now=clock.monotonic()))
        while daemon.window.traces:  # noqa: ASYNC110 -- its own turns are what is waited for
            await asyncio.sleep(0)
        assert await daemon.closing.stop(0) is False
        stopping = asyncio.create_task(daemon.closing.stop(60))
        await held.let_go()
        assert await stopping is True
        assert await asked == 1
        await send(daemon, agent(2, 1), model_call(2, 2, parent=1))
        assert await daemon.closing.release_all(now=clock.monotonic()) == 0, "no new turn is begun"
        before = await shown(daemon)
    async with life(tmp_path, clock) as daemon:
        assert await shown(daemon) == before
        assert daemon.window.traces == 1


async def test_what_has_no_rows_goes_on_after_an_orderly_stop_alone(tmp_path: Path) -> None:
    """Duplicates and the like: after a crash from 0 with a new birthday, never back to an older value with the old one."""
    clock = ManualClock()
    spans = (agent(1, 1), model_call(1, 2, parent=1))

    def duplicates(daemon: Daemon) -> tuple[int, set[int]]:
        born = {one.created_unix_nano for one in daemon.metrics.series(orderly=True) if one.family == "receiver_duplicate_spans"}
        return int(daemon.metrics.exact("receiver_duplicate_spans")), born

    async with life(tmp_path, clock) as daemon:
        for _ in range(3):
            await send(daemon, *spans)
        first = duplicates(daemon)
        assert first == (4, {clock.unix_nano()})
        await daemon.journal.snapshot(daemon.metrics.series(orderly=True))
    clock.advance(60)
    async with life(tmp_path, clock) as daemon:
        assert duplicates(daemon) == first
        await send(daemon, *spans)
        assert duplicates(daemon)[0] == 6
    clock.advance(60)
    async with life(tmp_path, clock) as daemon:  # the one before ended without a word
        assert duplicates(daemon) == (0, set())
        assert daemon.metrics.exact("receiver_accepted_spans") == 2
        await send(daemon, *spans)
        assert duplicates(daemon) == (2, {clock.unix_nano()})
