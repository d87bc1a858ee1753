"""The second line: one timer, closes that are slow or fail, traces that come back, and what must not hold the loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

import receiver.closing as module
from receiver.closing import GIANT_SPANS, RETRY_SECONDS
from receiver.core.privacy import Forgotten
from receiver.core.window import Group
from tests.exports import CALL_PUSD, agent, model_call, span
from tests.fakes import UNIX_NANO
from tests.integration.lines import Lines


@contextlib.asynccontextmanager
async def running(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """`Closing.run` beside the test, its timer on the manual clock."""
    lines.clock.drive(monkeypatch)
    task = asyncio.ensure_future(lines.closing.run())
    await asyncio.sleep(0)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def settled(lines: Lines) -> None:
    """Let everything go as far as it can without time passing."""
    for _ in range(50):
        await asyncio.sleep(0)


# --- the timer ---------------------------------------------------------------------------------------------------------------------


async def test_a_root_brings_the_timer_nearer_and_the_trace_closes_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a root ten minutes are waited for, with it six seconds; one timer is armed at any time."""
    lines = Lines()
    async with running(lines, monkeypatch):
        await lines.send(model_call(1, 2, parent=1), model_call(1, 3, parent=1))
        assert lines.clock.armed == [600.0]
        lines.clock.advance(5)
        await lines.send(agent(1, 1))
        assert lines.clock.armed == [6.0]
        lines.clock.advance(5.9)
        await settled(lines)
        assert lines.calls == 0
        lines.clock.advance(0.2)
        await settled(lines)
    assert (lines.calls, lines.cost_pusd) == (2, 2 * CALL_PUSD)
    assert lines.metrics.exact("calls", agent="planner") == 2
    assert lines.metrics.exact("window_released", trigger="root") == 1


async def test_spans_that_still_come_put_the_close_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The timer rings early, finds nothing due, and is set for what is due next."""
    lines = Lines()
    async with running(lines, monkeypatch):
        await lines.send(agent(1, 1), model_call(1, 2, parent=1))
        lines.clock.advance(4)
        await lines.send(model_call(1, 3, parent=1))
        lines.clock.advance(2)
        await settled(lines)
        assert lines.calls == 0
        assert lines.clock.armed == [4.0]
        lines.clock.advance(4)
        await settled(lines)
    assert lines.calls == 2


async def test_a_trace_that_came_while_others_were_closed_has_its_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Held in the middle of a release by hand, it is closed in its own time without anybody asking again."""
    lines = Lines()
    async with running(lines, monkeypatch):
        await lines.send(agent(1, 1), model_call(1, 2, parent=1))
        lines.journal.gate.clear()
        releasing = asyncio.ensure_future(lines.close_all())
        await settled(lines)
        accepting = asyncio.ensure_future(lines.send(agent(2, 1), model_call(2, 2, parent=1)))
        await settled(lines)
        lines.journal.gate.set()
        assert await releasing == 1
        await accepting
        lines.clock.advance(6)
        await settled(lines)
    assert lines.calls == 2


# --- releases that meet commits ----------------------------------------------------------------------------------------------------


async def test_a_release_in_the_middle_of_an_accept_takes_nothing_of_it() -> None:
    """What is not committed is in no window; it is closed once, later."""
    lines = Lines()
    lines.journal.gate.clear()
    accepting = asyncio.ensure_future(lines.send(agent(1, 1), model_call(1, 2, parent=1)))
    for _ in range(5):
        await asyncio.sleep(0)
    assert await lines.close_all() == 0
    lines.journal.gate.set()
    await accepting
    assert lines.calls == 0
    assert await lines.close_all() == 1
    assert (lines.calls, lines.cost_pusd) == (1, CALL_PUSD)


async def test_nothing_is_shown_before_it_is_committed() -> None:
    """The counters never say what a crash would take back."""
    lines = Lines()
    await lines.send(agent(1, 1), model_call(1, 2, parent=1))
    lines.journal.gate.clear()
    releasing = asyncio.ensure_future(lines.close_all())
    for _ in range(20):
        await asyncio.sleep(0)
    assert lines.journal.begun == 2
    assert lines.calls == 0
    lines.journal.gate.set()
    await releasing
    assert lines.calls == 1


async def test_a_close_that_fails_is_tried_again_with_nothing_lost_or_doubled(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """However often the commit fails and whatever arrives meanwhile, each call is charged once, a second after the fault is over."""
    lines = Lines()
    async with running(lines, monkeypatch):
        await lines.send(agent(1, 1), model_call(1, 2, parent=1))
        for attempt in range(3):
            lines.journal.faults = [OSError("no space left on device")]
            lines.clock.advance(RETRY_SECONDS if attempt else 6)
            await settled(lines)
            assert lines.calls == 0
            assert lines.clock.armed == [RETRY_SECONDS]
            await lines.send(agent(10 + attempt, 1), model_call(10 + attempt, 2, parent=1))
            assert lines.clock.armed == [RETRY_SECONDS], "requests must not make it try, and log, again and again"
        assert len([record for record in caplog.records if "tried again" in record.message]) == 3
        lines.clock.advance(RETRY_SECONDS)
        await settled(lines)
        assert (lines.calls, lines.cost_pusd) == (1, CALL_PUSD)
        lines.clock.advance(10)
        await settled(lines)
    assert (lines.calls, lines.cost_pusd) == (4, 4 * CALL_PUSD)
    assert lines.window.traces == 0
    assert lines.closing.provisional_pusd == 0
    assert len([charge for close in lines.journal.closed for charge in close.charges]) == 4


async def test_a_release_by_hand_that_fails_is_finished_by_the_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """What had left the window is not forgotten with the request that asked."""
    lines = Lines()
    async with running(lines, monkeypatch):
        await lines.send(agent(1, 1), model_call(1, 2, parent=1))
        lines.journal.faults = [OSError("an error of the disk")]
        with pytest.raises(OSError, match="disk"):
            await lines.close_all()
        assert (lines.window.traces, lines.calls) == (0, 0)
        lines.clock.advance(RETRY_SECONDS)
        await settled(lines)
    assert lines.calls == 1


async def test_a_release_ends_although_spans_keep_coming() -> None:
    """Under load a release of everything that is open must not chase what arrives meanwhile for ever."""
    lines = Lines()
    for trace in range(1, 4):
        await lines.send(agent(trace, 1), model_call(trace, 2, parent=1))
    came = 0
    inner = lines.journal.close

    async def close_under_load(closes: Any) -> None:
        nonlocal came
        came += 1
        assert came < 50, "it never ends"
        await inner(closes)
        lines.clock.advance(0.001)
        await lines.send(agent(100 + came, 1), model_call(100 + came, 2, parent=1))

    lines.journal.close = close_under_load  # type: ignore[method-assign]  # a busy daemon
    assert await lines.close_all() >= 3
    assert lines.metrics.exact("calls") >= 3
    assert lines.window.traces >= 1


# --- late spans and running totals -------------------------------------------------------------------------------------------------


async def test_late_spans_open_their_trace_again_and_are_charged_once() -> None:
    """The old calls are not charged again, and the new one finds its agent among the old spans."""
    lines = Lines()
    await lines.send(agent(1, 1), model_call(1, 2, parent=1))
    await lines.close_all()
    await lines.send(model_call(1, 2, parent=1), model_call(1, 3, parent=1))
    assert lines.metrics.exact("receiver_late_spans") == 1
    await lines.close_all()
    await lines.close_all()
    assert (lines.calls, lines.cost_pusd) == (2, 2 * CALL_PUSD)
    assert lines.metrics.exact("calls", agent="planner") == 2


async def test_a_span_that_comes_while_its_trace_is_being_closed_is_charged_once() -> None:
    """Neither lost with the trace that left, nor counted in both generations."""
    lines = Lines()
    await lines.send(agent(1, 1), model_call(1, 2, parent=1))
    lines.journal.gate.clear()
    releasing = asyncio.ensure_future(lines.close_all())
    for _ in range(20):
        await asyncio.sleep(0)
    arriving = asyncio.ensure_future(lines.send(model_call(1, 2, parent=1), model_call(1, 3, parent=1)))
    for _ in range(20):
        await asyncio.sleep(0)
    lines.journal.gate.set()
    await releasing
    await arriving
    await lines.close_all()
    assert (lines.calls, lines.cost_pusd) == (2, 2 * CALL_PUSD)
    assert (lines.accepted, lines.duplicate) == (3, 1)
    assert lines.metrics.exact("calls", agent="planner") == 2


def running_total(trace: int, total: int) -> Any:
    """An agent's span whose count goes on growing over the agent's life."""
    return span(
        trace,
        1,
        {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.agent.name": "helper",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": "gpt-4o",
            "gen_ai.usage.input_tokens": total,
            "gen_ai.usage.output_tokens": 0,
        },
        name="invoke_agent helper",
    )


@pytest.mark.parametrize("at_once", [True, False])
async def test_running_totals_flow_through_closes_in_order(at_once: bool) -> None:
    """Each close counts from the value that the one before it left, in the same commit, in the next, and after a failed one."""
    lines = Lines('usage.scope=[{scope="acme", cumulative=true}]')
    for trace, total in enumerate((100, 250, 400, 1_000), 1):
        await lines.send(running_total(trace, total), scope="acme.tracing")
        lines.clock.advance(0.001)
        if not at_once:
            lines.journal.faults = [OSError("a write failed")]
            with pytest.raises(OSError, match="failed"):
                await lines.close_all()
            await lines.close_all()
    await lines.close_all()
    assert lines.metrics.exact("tokens", type="input_uncached") == 1_000
    [value] = lines.journal._cumulative.values()
    assert 1_000 in value


# --- what must not hold the loop, or the line --------------------------------------------------------------------------------------


async def test_a_giant_group_is_counted_beside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are answered while a thread counts it, and its spans are charged once."""
    lines = Lines()
    await lines.send(agent(1, 1), *(model_call(1, number, parent=1) for number in range(2, GIANT_SPANS + 2)))
    go_on, threads = threading.Event(), []
    inner = module.work_out

    def slow(group: Group, *arguments: Any) -> Any:
        threads.append(threading.current_thread())
        assert go_on.wait(30)
        return inner(group, *arguments)

    monkeypatch.setattr(module, "work_out", slow)
    releasing = asyncio.ensure_future(lines.close_all())
    while not threads:  # noqa: ASYNC110 -- until the thread is there
        await asyncio.sleep(0)
    await lines.send(model_call(2, 1))
    assert not releasing.done()
    go_on.set()
    await releasing
    assert threads[0] is not threading.main_thread()
    assert lines.calls >= GIANT_SPANS
    await lines.close_all()
    assert (lines.calls, lines.cost_pusd) == (GIANT_SPANS + 1, (GIANT_SPANS + 1) * CALL_PUSD)


async def test_who_is_forgotten_while_a_giant_is_counted_is_in_no_close_after_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was counted before the giant of the same turn is committed after it, and the name must not come back with it."""
    lines = Lines()
    privacy = lines.closing._privacy
    inner = module.work_out

    def forgets(group: Group, *arguments: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            privacy.forget(Forgotten("", privacy.told("alice"), UNIX_NANO + 10**15))
        return inner(group, *arguments)

    monkeypatch.setattr(module, "work_out", forgets)
    await lines.send(agent(1, 1), model_call(1, 2, parent=1, user__id="alice"), model_call(1, 3, parent=1, user__id="bob"))
    await lines.send(agent(2, 1), *(model_call(2, number, parent=1, user__id="alice") for number in range(2, GIANT_SPANS + 2)))
    assert await lines.close_all() == 2
    assert {charge.user for close in lines.journal.closed for charge in close.charges} == {None, "bob"}


async def test_a_clock_that_is_ahead_keeps_no_name() -> None:
    """A call that came before its user was forgotten names nobody, also where the client says that it began a day later."""
    lines = Lines()
    privacy = lines.closing._privacy
    ahead = 86_400 * 10**9
    await lines.send(model_call(1, 1, user__id="alice", start=UNIX_NANO + ahead), model_call(1, 2, user__id="bob", start=UNIX_NANO + ahead))
    lines.clock.advance(1)
    privacy.forget(Forgotten("", privacy.told("alice"), lines.clock.unix_nano()))
    lines.clock.advance(1)
    await lines.send(model_call(2, 1, user__id="alice", start=UNIX_NANO + ahead))
    assert await lines.close_all() == 2
    found = sorted((charge.trace_id[-1], str(charge.user)) for close in lines.journal.closed for charge in close.charges)
    assert found == [(1, "None"), (1, "bob"), (2, "alice")], "what came afterwards is new"


@pytest.mark.parametrize("spans", [1, GIANT_SPANS])
async def test_a_group_that_the_rules_fail_on_stops_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, spans: int
) -> None:
    """One bug on one trace: it is said in the log, listed as missing, never $0 in silence; everybody else's traces are closed."""
    lines = Lines()
    inner = module.work_out

    def faulty(group: Group, *arguments: Any) -> Any:
        if group.traces[0].key.trace_id == (1).to_bytes(16, "big"):
            raise ZeroDivisionError("a bug of ours")
        return inner(group, *arguments)

    monkeypatch.setattr(module, "work_out", faulty)
    await lines.send(agent(1, 1), *(model_call(1, number, parent=1) for number in range(2, 2 + spans)))
    await lines.send(agent(2, 1), model_call(2, 2, parent=1))
    assert await lines.close_all() == 2
    assert (lines.calls, lines.cost_pusd) == (1, CALL_PUSD)
    assert lines.metrics.exact("missing_spans", reason="fault") == spans
    [record] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.traces == (1).to_bytes(16, "big").hex()
    monkeypatch.setattr(module, "work_out", inner)
    await lines.send(model_call(1, 2 + spans, parent=1))
    await lines.close_all()
    assert lines.calls == 2 + spans, "the late span brings its trace back, and the rules have their second chance"


async def test_a_chain_as_deep_as_a_trace_may_be_is_counted() -> None:
    """Ten thousand spans, each in the one before: nothing recurses."""
    lines = Lines()
    deep = [agent(1, 1), *(span(1, number, parent=number - 1) for number in range(2, 10_000)), model_call(1, 10_000, parent=9_999)]
    await lines.send(*deep)
    await lines.close_all()
    assert lines.metrics.exact("calls", agent="planner") == 1


async def test_parents_in_a_circle_are_counted() -> None:
    """Ids are chosen by clients: a trace without a top ends like any other."""
    lines = Lines()
    await lines.send(
        span(1, 1, parent=3), span(1, 2, parent=1), span(1, 3, parent=2), model_call(1, 4, parent=2), model_call(1, 5, parent=5)
    )
    await lines.close_all()
    assert lines.calls == 2


async def test_the_provisional_cost_goes_as_the_charges_come() -> None:
    """The gauge shows what is open, and nothing of what is closed."""
    lines = Lines()
    await lines.send(agent(1, 1), model_call(1, 2, parent=1), model_call(1, 3, parent=1))
    assert lines.closing.provisional_pusd == 2 * CALL_PUSD
    await lines.close_all()
    assert lines.closing.provisional_pusd == 0


async def test_records_of_forgotten_traces_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the horizon neither the window nor the journal knows the trace, and its memory is free."""
    lines = Lines(seen_horizon=60.0)
    async with running(lines, monkeypatch):
        await lines.send(agent(1, 1), model_call(1, 2, parent=1))
        lines.clock.advance(6)
        await settled(lines)
        assert lines.journal._closed
        lines.clock.advance(61)
        await settled(lines)
    assert not lines.journal._closed
    assert lines.window.seen_traces == 0
