"""The second straight line: a released trace becomes observed charges.

    window -release-> Group -count-> LLMCalls -price-> PricedCalls -attribute-> Charges -close (one commit)-> observed

`core.outcome.work_out` is the pure part, the same for the daemon and for files. `Closing` drives it: one armed timer, at most 5 ms of work
at a time, then the commit, and only what is committed is shown on the metrics (they watch the journal).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from receiver.clock import Clock
from receiver.core.journal import Journal, Unstorable
from receiver.core.outcome import Outcome, Theory, not_worked_out, work_out
from receiver.core.prices import PriceBook
from receiver.core.privacy import NOT_KNOWN, Privacy
from receiver.core.sources import Sources
from receiver.core.span import Span
from receiver.core.usage import Klass
from receiver.core.window import Group, TraceKey, Trigger, Window
from receiver.core.window.window import SLICE_SPANS

log = logging.getLogger(__name__)

#: How long one turn of closing may hold the event loop, so that requests keep their latency.
TURN_SECONDS: Final = 0.005
#: From so many spans on, counting one Group may take more than a turn (a hostile one of 10,000 spans half a second).
GIANT_SPANS: Final = 1_024
#: After a failed close the same work is tried again this much later.
RETRY_SECONDS: Final = 1.0


class Closing:
    """Drives the window's releases through `work_out` into the journal and onto the metrics."""

    def __init__(
        self, *, window: Window, theory: Theory, journal: Journal, sources: Sources, clock: Clock, privacy: Privacy | None = None
    ) -> None:
        """`privacy`: what every charge passes through before anybody else sees it; None keeps all as it is."""
        self._window = window
        self._theory = theory
        self._journal = journal
        self._sources = sources
        self._clock = clock
        self._privacy = privacy or Privacy()
        self._provisional = Provisional(theory.book)
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for = float("inf")  #: monotonic seconds that the timer is set to
        self._wake = asyncio.Event()
        self._turns = asyncio.Lock()  #: closes are ordered: cumulative values and generations build on one another
        self._released: deque[Group] = deque()  #: left the window, not yet closed; empty but during a turn or after a failure
        self._tasks: set[asyncio.Task[int]] = set()  #: closes under way
        self._stopping = False  #: the turn that is under way is the last one

    @property
    def provisional_pusd(self) -> int:
        """Upper estimate of what the open traces cost, in pico-USD."""
        return self._provisional.total_pusd

    def provisional_of(self, key: TraceKey) -> int:
        """The same of one open trace."""
        return self._provisional.of(key)

    def held(self, account: str, spans: list[Span]) -> None:
        """Spans were held: their own prices count as provisional, and the next deadline may have come nearer."""
        self._provisional.add(account, spans)
        self._arm()

    def remembered(self) -> None:
        """Traces of an earlier process are in the window: their time to be forgotten comes, too, and with it that of their journal rows."""
        self._arm()

    async def run(self) -> None:
        """Close what falls due, for as long as the daemon lives."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self.close_due(now=self._clock.monotonic())
            except Exception:
                log.exception("closing failed; the same traces are tried again in %g s", RETRY_SECONDS)

    async def stop(self, grace_seconds: float) -> bool:
        """Let the turn that is under way commit, and begin no other; whether it did so in time. What stays open is journalled."""
        self._stopping = True
        if not self._tasks:
            return True
        _, under_way = await asyncio.wait(self._tasks, timeout=grace_seconds)
        return not under_way

    async def close_due(self, *, now: float) -> int:
        """Release and close every trace whose time has come; returns how many traces."""
        return await self._to_the_end(self._close_due(now=now))

    async def release_all(self, *, now: float) -> int:
        """Release and close every trace that is open now, whatever it waits for; returns how many traces.

        What comes meanwhile stays open (it may be closed along), else a busy daemon would never be done.
        """
        return await self._to_the_end(self._release_all(now=now))

    async def _to_the_end(self, closing: Coroutine[Any, Any, int]) -> int:
        """Whoever asked may go away: a close that was cancelled between its commit and the window would be counted again."""
        task = asyncio.get_running_loop().create_task(closing)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[int]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever asked was told; nobody is left to tell when they have gone

    async def _close_due(self, *, now: float) -> int:
        closed = 0
        while not self._stopping:
            async with self._turns:
                self._released.extend(self._window.release_due(now=now))
                if not self._released:
                    break
                closed += await self._close()
        self._journal.forget(self._window.forget_due(now=now))
        self._arm()
        return closed

    async def _release_all(self, *, now: float) -> int:
        closed, opened = 0, self._window.traces
        while not self._stopping:
            async with self._turns:
                self._released.extend(self._window.release_all(now=now, trigger=Trigger.MANUAL, most=SLICE_SPANS))
                if not self._released:
                    break
                closed += await self._close()
            if closed >= opened and not self._window.oldest_age(now=now):
                break
        self._arm()
        return closed

    async def _close(self) -> int:
        """Close what was released, turn by turn. What a failed commit leaves is still in `_released`, for the next attempt.

        A failed commit raises what the journal raised, and the timer is set for that attempt.
        """
        closed = 0
        while self._released and not (closed and self._stopping):
            turn_ends = self._clock.monotonic() + TURN_SECONDS
            outcomes: list[tuple[Group, Outcome]] = []
            fresh: dict[tuple[str, ...], tuple[int, ...]] = {}  # cumulative values of this turn, not committed yet
            for group in self._released:
                outcome = await self._worked_out(group, fresh)
                fresh.update(outcome.counted.cumulative)
                outcomes.append((group, outcome))
                if self._clock.monotonic() >= turn_ends:
                    break
            try:
                closed += await self._commit(outcomes)
            except Exception:
                self._set_timer(self._clock.monotonic() + RETRY_SECONDS)
                raise
            await asyncio.sleep(0)
        return closed

    async def _commit(self, outcomes: Sequence[tuple[Group, Outcome]]) -> int:
        """Close the first of `_released` in one commit; returns how many traces.

        What the journal will never take is a fault of ours. It would fail again and again, and hold up everybody's traces behind it: so
        then each is closed alone, and the one that fails is closed as not counted.
        """
        kept = [
            (group, self._kept(group, outcome)) for group, outcome in outcomes
        ]  # now: who is forgotten from here on finds it in the books
        try:
            await self._journal.close([outcome.close for _, outcome in kept])
        except Unstorable as error:
            if len(outcomes) > 1:
                return sum([await self._commit([each]) for each in outcomes])
            ((group, _),) = kept
            log.exception(
                "a fault of ours: what these traces came to cannot be stored, and their model calls are listed as missing",
                extra={"account": group.account, "traces": " ".join(trace.key.trace_id.hex() for trace in group.traces)},
            )
            kept = [(group, await self._not_counted(group, error))]
        for _ in kept:  # all of them at once: what is committed must never be closed again, whatever happens below
            self._released.popleft()
        for group, outcome in kept:
            self._observe(group, outcome)
        return sum([len(group.traces) for group, _ in outcomes])

    async def _not_counted(self, group: Group, error: Unstorable) -> Outcome:
        """Close a Group without charges, if need be without a word of what is missing."""
        listed = not_worked_out(group)
        for outcome in (listed, replace(listed, close=replace(listed.close, missing=()))):
            try:
                await self._journal.close([outcome.close])
            except Unstorable:
                log.exception("it cannot be listed as missing either")
            else:
                return outcome
        raise error

    async def _worked_out(self, group: Group, fresh: dict[tuple[str, ...], tuple[int, ...]]) -> Outcome:
        """`work_out`, on a thread of its own for a Group that would hold the loop: the rules are pure, and the lock keeps the order."""

        def last_values(key: tuple[str, ...]) -> tuple[int, ...] | None:
            kept = self._privacy.source(key)
            # A name that is hashed since the last value was written stands there as it was: a new source would be counted whole.
            return fresh.get(key) or self._journal.cumulative(kept) or (self._journal.cumulative(key) if kept != key else None)

        try:
            if sum(len(trace.spans) + len(trace.earlier) for trace in group.traces) < GIANT_SPANS:
                return work_out(group, self._theory, last_values)
            return await asyncio.to_thread(work_out, group, self._theory, last_values)
        except Exception:
            # It would fail again and again, and hold up everybody's traces behind it.
            log.exception(
                "a fault of ours: these traces could not be counted, and their model calls are listed as missing",
                extra={"account": group.account, "traces": " ".join(trace.key.trace_id.hex() for trace in group.traces)},
            )
            return not_worked_out(group)

    def _kept(self, group: Group, outcome: Outcome) -> Outcome:
        """The outcome with no more names in it than may be kept: from here it goes to the books, and from there to all that is shown."""
        if not self._privacy.active:
            return outcome
        close = outcome.close
        received: Mapping[tuple[bytes, bytes], int] = NOT_KNOWN
        if self._privacy.forgets and close.charges:
            received = {
                (span.trace_id, span.span_id): span.received_unix_nano for trace in group.traces for span in (*trace.earlier, *trace.spans)
            }
        charges, cumulative = self._privacy.applied(close.charges, received), self._privacy.sources(close.cumulative)
        return replace(outcome, close=replace(close, charges=charges, cumulative=cumulative))

    def _observe(self, group: Group, outcome: Outcome) -> None:
        charges = outcome.close.charges
        charged: dict[bytes, list[bytes]] = {}
        for charge in charges:
            charged.setdefault(charge.trace_id, []).append(charge.span_id)
        for trace in group.traces:
            self._window.closed(trace.key, charged.get(trace.key.trace_id, ()))
            self._provisional.drop(trace.key)
        if charges or outcome.counted.missing:
            self._sources.closed(charges, outcome.counted.missing)

    def _arm(self) -> None:
        if self._released:  # a turn, or a failed one: either sets the timer when it ends
            return
        deadline = self._window.next_deadline()
        if deadline is not None and deadline < self._armed_for:
            self._set_timer(deadline)

    def _set_timer(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed_for = deadline
        delay = max(0.0, deadline - self._clock.monotonic())
        self._timer = asyncio.get_running_loop().call_later(delay, self._ring)

    def _ring(self) -> None:
        """The timer's only job: wake the line. Early, late or needless wakes do no harm."""
        self._timer, self._armed_for = None, float("inf")
        self._wake.set()


class Provisional:
    """What the model calls of open traces would cost at their own price each: added on arrival, taken off at the close.

    An upper estimate: nothing is counted once here yet, so a wrapper that repeats a call or a twin is not in it only when it
    is no model call itself.
    """

    def __init__(self, book: PriceBook) -> None:
        self._book = book
        self._open: dict[TraceKey, int] = {}
        self.total_pusd = 0

    def add(self, account: str, spans: list[Span]) -> None:
        sums: dict[bytes, int] = {}
        quote, model_call = self._book.quote, Klass.MODEL_CALL
        for span in spans:
            reading = span.reading
            if reading is None or reading.klass is not model_call or reading.tokens is None:
                continue
            cost = quote(
                reading, account=account, start_unix_nano=span.start_unix_nano, received_unix_nano=span.received_unix_nano
            ).cost_pusd
            if cost:
                sums[span.trace_id] = sums.get(span.trace_id, 0) + cost
        for trace_id, cost in sums.items():
            key = TraceKey(account, trace_id)
            self._open[key] = self._open.get(key, 0) + cost
            self.total_pusd += cost

    def of(self, key: TraceKey) -> int:
        return self._open.get(key, 0)

    def drop(self, key: TraceKey) -> None:
        self.total_pusd -= self._open.pop(key, 0)
