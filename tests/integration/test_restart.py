"""A daemon that dies and comes back shows the same numbers, knows what it saw, and goes on with what was open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from receiver.app import Daemon
from receiver.config import load
from receiver.core.journal import Accepted
from receiver.otlp.export import Encoding
from receiver.store.journal import SqliteJournal
from tests.exports import CALL_PUSD, agent, export, model_call
from tests.fakes import ManualClock
from tests.integration.wire_helpers import http_call

FREE = tuple(f"{name}.endpoint=127.0.0.1:0" for name in ("otlp.grpc", "otlp.http", "operator", "customer"))


@asynccontextmanager
async def life(folder: Path, clock: ManualClock, *settings: str) -> AsyncIterator[Daemon]:
    """One life of a daemon that ends as by `kill -9`: what is committed is all that stays."""
    config = load(None, environ={}, assignments=(*FREE, *settings))
    journal = SqliteJournal(folder / "spantoll.db", clock=clock, durable=config.store.ack == "durable")
    daemon = Daemon(config, clock=clock, journal=journal)
    await daemon._restore()
    daemon.intake.refusal = None
    try:
        yield daemon
    finally:
        await journal.stop()


async def send(daemon: Daemon, *spans: object) -> None:
    await daemon.intake.export("default", export(*spans), encoding=Encoding.PROTOBUF, transport="grpc")


async def shown(daemon: Daemon) -> dict[str, object]:
    """Everything that survives, with its created timestamps."""
    return {(one.family, one.labels): (one.numbers, one.created_unix_nano) for one in daemon.metrics.series()}


async def test_the_numbers_go_on_where_they_stopped(tmp_path: Path) -> None:
    """Closed and open traces, a snapshot in the middle: the same series with the same birthdays, life after life."""
    clock = ManualClock()
    async with life(tmp_path, clock) as daemon:
        await send(daemon, agent(1, 1), model_call(1, 2, parent=1))
        await daemon.closing.release_all(now=clock.monotonic())
        await daemon.journal.snapshot(daemon.metrics.series())
        clock.advance(5)
        await send(daemon, agent(2, 1), model_call(2, 2, parent=1), model_call(2, 3, parent=1, model="nobody-knows"))
        await daemon.closing.release_all(now=clock.monotonic())
        await send(daemon, model_call(3, 2, parent=1))
        before = await shown(daemon)
        assert daemon.metrics.exact("cost_usd") == 2 * CALL_PUSD
    for _ in range(2):
        clock.advance(60)
        async with life(tmp_path, clock) as daemon:
            assert await shown(daemon) == before
            assert daemon.window.spans == 1
            assert daemon.closing.provisional_pusd == CALL_PUSD
            await daemon.journal.snapshot(daemon.metrics.series())


async def test_a_resend_after_a_restart_is_a_duplicate(tmp_path: Path) -> None:
    """Of spans that were open, and of spans that were closed."""
    clock = ManualClock()
    closed, still_open = (agent(1, 1), model_call(1, 2, parent=1)), (model_call(2, 2, parent=1),)
    async with life(tmp_path, clock) as daemon:
        await send(daemon, *closed)
        await daemon.closing.release_all(now=clock.monotonic())
        await send(daemon, *still_open)
    async with life(tmp_path, clock) as daemon:
        await send(daemon, *closed, *still_open)
        assert daemon.metrics.exact("receiver_duplicate_spans") == 3
        assert daemon.metrics.exact("receiver_accepted_spans") == 3
        await daemon.closing.release_all(now=clock.monotonic())
        assert daemon.metrics.exact("cost_usd") == 2 * CALL_PUSD


async def test_a_late_span_after_a_restart_is_judged_with_its_elders(tmp_path: Path) -> None:
    """The agent's span comes after its call was closed, in another life: the call is not counted again."""
    clock = ManualClock()
    async with life(tmp_path, clock) as daemon:
        await send(daemon, model_call(1, 2, parent=1))
        await daemon.closing.release_all(now=clock.monotonic())
    async with life(tmp_path, clock) as daemon:
        await send(daemon, agent(1, 1), model_call(1, 3, parent=1))
        assert daemon.metrics.exact("receiver_late_spans") == 2
        await daemon.closing.release_all(now=clock.monotonic())
        assert (daemon.metrics.exact("calls"), daemon.metrics.exact("cost_usd")) == (2, 2 * CALL_PUSD)
        rows = await daemon.journal.writer.call(lambda c: c.execute("SELECT span_id, recount, agent FROM charges ORDER BY id").fetchall())
    assert [(int.from_bytes(one, "big"), recount) for one, recount, _ in rows] == [(2, 0), (3, 0)]


async def test_a_client_that_leaves_does_not_undo_a_commit(tmp_path: Path) -> None:
    """Its request is cancelled while the disk works: the row stands, so the window must know of it, or the resend counts twice."""
    clock = ManualClock()
    async with life(tmp_path, clock) as daemon:
        heard: list[int] = []
        daemon.journal.watch(lambda entry: heard.append(entry.spans) if isinstance(entry, Accepted) else None)
        task = asyncio.ensure_future(send(daemon, model_call(1, 1)))
        while not daemon.journal._pending:  # noqa: ASYNC110 -- the request's own turns are what is waited for
            await asyncio.sleep(0)
        task.cancel()
        await send(daemon, model_call(1, 1), model_call(1, 2))
        assert heard == [1, 1]
        assert daemon.window.spans == 2


async def test_a_dimension_that_is_new_since_keeps_the_sums(tmp_path: Path) -> None:
    """Series of before have no value for it: unknown, and no cost is lost."""
    clock = ManualClock()
    async with life(tmp_path, clock) as daemon:
        await send(daemon, agent(1, 1), model_call(1, 2, parent=1))
        await daemon.closing.release_all(now=clock.monotonic())
        await daemon.journal.snapshot(daemon.metrics.series())
    for dimensions in ('["feature"]', "[]", '["route"]'):
        async with life(tmp_path, clock, f"metrics.dimensions={dimensions}") as daemon:
            assert daemon.metrics.exact("cost_usd") == CALL_PUSD
            await daemon.journal.snapshot(daemon.metrics.series())


async def test_a_broken_disk_ends_the_daemon(tmp_path: Path) -> None:
    """Exports are refused as retryable, operators can still look, and the exit code is not 0."""
    from receiver.store import faults

    clock = ManualClock()
    config = load(None, environ={}, assignments=FREE)
    daemon: Daemon | None = None
    journal = SqliteJournal(tmp_path / "spantoll.db", clock=clock, broke=lambda error: daemon.fail(error))  # type: ignore[union-attr]  # noqa: PLW0108 -- set below
    daemon = Daemon(config, clock=clock, journal=journal)
    async with daemon.serving() as ports:
        faults.arm("before_commit:eio@1")
        try:
            assert (await http_call(ports["otlp.http"], export(model_call(1, 1)))).code == 503
            assert (await http_call(ports["otlp.http"], export(model_call(1, 1)))).code == 503
        finally:
            faults.arm("")
        assert daemon.ready()[0] is False
    assert daemon._failure is not None
