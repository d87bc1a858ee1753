"""The window against a naive model: one dict a trace, every rule looked up anew."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from receiver.core.span import FLAG_HAS_IS_REMOTE, FLAG_IS_REMOTE, Source, Span
from receiver.core.usage import Klass, Reading, Tokens
from receiver.core.window import Group, TraceKey, Trigger, Window, WindowLimits

if TYPE_CHECKING:
    from collections.abc import Sequence

MS = 1_000_000
SOURCES = tuple(
    Source(resource={"service.name": service}, scope=scope, scope_version="1")
    for service, scope in (("app", "sdk"), ("app", "callback"), ("proxy", "litellm"))
)
NO_PARENT = 0


@dataclass
class Trace:
    """All that the model knows of a trace."""

    held: dict[bytes, Span] = field(default_factory=dict)  #: new spans, not released yet
    released: dict[bytes, Span] = field(default_factory=dict)
    generation: int = -1  #: of its last release
    first: float = 0.0
    last: float = 0.0
    rooted: bool = False
    charged: set[bytes] = field(default_factory=set)
    unclosed: int = 0
    mates: set[bytes] = field(default_factory=set)  #: traces that it left with


spans = st.builds(
    lambda trace, number, parent, remote, usage, source, start, length, size: (
        trace,
        number,
        parent,
        remote,
        usage,
        source,
        start,
        length,
        size,
    ),
    trace=st.integers(1, 5),
    number=st.integers(1, 7),
    parent=st.sampled_from((NO_PARENT, NO_PARENT, 1, 2, 8)),
    remote=st.booleans(),
    usage=st.sampled_from((None, None, (10, 1), (10, 1), (20, 2))),
    source=st.integers(0, 2),
    start=st.integers(0, 20),
    length=st.integers(0, 100),
    size=st.integers(200, 2_000),
)


class WindowMachine(RuleBasedStateMachine):
    """Requests, timers early and late, closes that take their time, manual releases; then everything is let go and counted."""

    @initialize(
        max_bytes=st.sampled_from((6_000, 20_000, 1 << 30)),
        max_traces=st.sampled_from((1, 3, 1_000)),
        max_trace_spans=st.sampled_from((1, 3, 1_000)),
        decision_wait=st.sampled_from((40.0, 21_600.0)),
        slice_spans=st.sampled_from((1, 4, 1_024)),
    )
    def begin(self, max_bytes: int, max_traces: int, max_trace_spans: int, decision_wait: float, slice_spans: int) -> None:
        self.limits = WindowLimits(
            max_bytes=max_bytes, max_traces=max_traces, max_trace_spans=max_trace_spans, decision_wait=decision_wait, seen_horizon=1e12
        )
        self.journal: dict[TraceKey, list[Span]] = {}
        self.window = Window(self.limits, records=self.records)
        self.slice = slice_spans
        self.now = 0.0
        self.model: dict[TraceKey, Trace] = {}
        self.unclosed: list[Group] = []

    def records(self, key: TraceKey) -> Sequence[Span]:
        return self.journal[key]

    # -- what happens ----------------------------------------------------------------------------------------------------

    @rule(account=st.sampled_from("ab"), told=st.lists(spans, max_size=6), wait=st.sampled_from((0.0, 0.5, 3.0, 6.0, 12.0, 40.0)))
    def export(self, account: str, told: list[tuple], wait: float) -> None:  # type: ignore[type-arg]  # as the strategy draws it
        """A request: its new spans are exactly those that the model does not know, the first of each."""
        self.now += wait
        sent = [made(*one) for one in told]
        expected: list[Span] = []
        for span in sent:
            trace = self.model.get(TraceKey(account, span.trace_id), Trace())
            known = trace.held.keys() | trace.released.keys() | {one.span_id for one in expected if one.trace_id == span.trace_id}
            if span.span_id not in known:
                expected.append(span)
        new = self.window.unseen(account, sent)
        assert new == expected
        late = 0
        for span in new:
            key = TraceKey(account, span.trace_id)
            self.journal.setdefault(key, []).append(span)
            trace = self.model.setdefault(key, Trace())
            if not trace.held:
                trace.first = self.now
            trace.last = self.now
            trace.held[span.span_id] = span
            trace.rooted |= not span.parent_span_id
            late += trace.generation >= 0
        assert self.window.hold(account, new, now=self.now) == late

    @rule(wait=st.sampled_from((0.0, 1.0, 7.0, 31.0, 700.0)))
    def timer_whenever(self, wait: float) -> None:
        """A timer that is early, late or pointless does no harm."""
        self.now += wait
        self.drain()

    @precondition(lambda self: self.window.traces)
    @rule()
    def timer_on_time(self) -> None:
        """At its deadline something goes, or the deadline moves on: the timer never runs in a circle."""
        self.now = max(self.now, self.window.next_deadline() or 0.0)
        self.drain()

    @precondition(lambda self: self.unclosed)
    @rule(pays=st.booleans())
    def close(self, pays: bool) -> None:
        """The oldest release is closed."""
        group = self.unclosed.pop(0)
        for released in group.traces:
            trace = self.model[released.key]
            charged = {span.span_id for span in released.spans[:1]} if pays else set()
            self.window.closed(released.key, charged)
            trace.charged |= charged
            trace.unclosed -= 1

    @rule()
    def manual(self) -> None:
        """An operator lets everything go: only what waits for its own close or its twin's stays."""
        for group in self.window.release_all(now=self.now):
            assert group.traces[0].trigger is Trigger.MANUAL
            self.left(group)
        assert all(trace.unclosed or self.may_be_lone(trace) for trace in self.model.values() if trace.held)

    # -- what must hold --------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        turns = 0
        while groups := self.window.release_due(now=self.now, most=self.slice):
            turns += 1
            assert turns < 100, "released without end"
            for group in groups:
                self.left(group)
        deadline = self.window.next_deadline()
        assert deadline is None or deadline > self.now
        if not any(trace.held and trace.unclosed for trace in self.model.values()):
            assert self.window.bytes <= self.limits.max_bytes
            assert self.window.traces <= self.limits.max_traces
        for key, trace in self.model.items():
            if trace.held and not trace.unclosed and not self.may_be_lone(trace):
                assert self.due(key, trace)[0] > self.now, f"{key} is overdue"

    def left(self, group: Group) -> None:
        """One Group: of one account, each trace with all that the model holds of it, by a rule that is true."""
        self.unclosed.append(group)
        assert len({released.key for released in group.traces}) == len(group.traces)
        ids = {released.key.trace_id for released in group.traces}
        for released in group.traces:
            trace = self.model[released.key]
            assert released.key.account == group.account
            assert trace.unclosed == 0, "released before its earlier close was told"
            assert released.spans == tuple(trace.held.values()), "each span leaves once, in order"
            assert released.earlier == tuple(trace.released.values())
            assert released.charged == trace.charged
            assert trace.mates <= ids, "traces that were counted together come back together"
            if released.spans:
                trace.generation += 1
                self.check_trigger(released.key, trace, released.trigger)
            assert released.generation == trace.generation
        for released in group.traces:
            trace = self.model[released.key]
            trace.rooted |= released.trigger is Trigger.ROOT
            trace.released.update(trace.held)
            trace.held = {}
            trace.unclosed += 1
            trace.mates = ids - {released.key.trace_id} if len(ids) > 1 else trace.mates

    def check_trigger(self, key: TraceKey, trace: Trace, trigger: Trigger) -> None:
        """No trace leaves earlier than the rule that is named says."""
        if trigger in (Trigger.ROOT, Trigger.LONE_CALL, Trigger.IDLE, Trigger.AGE):
            due, expected = self.due(key, trace, generation=trace.generation - 1)
            assert due <= self.now
            assert trigger is expected or (trigger is Trigger.AGE and self.now >= trace.first + self.limits.decision_wait)
        elif trigger is Trigger.TRACE_SPANS:
            assert len(trace.held) >= self.limits.max_trace_spans
        elif trigger is Trigger.BYTES:
            assert self.limits.max_bytes < 1 << 30
        elif trigger is Trigger.TRACES:
            assert self.limits.max_traces < 1_000

    def due(self, key: TraceKey, trace: Trace, *, generation: int | None = None) -> tuple[float, Trigger]:
        """The table of the window's rules, read naively."""
        generation = trace.generation if generation is None else generation
        read_back = len(trace.released) + sum(len(self.model[TraceKey(key.account, mate)].released) for mate in trace.mates)
        if len(trace.held) >= max(self.limits.max_trace_spans, read_back):
            return trace.last, Trigger.TRACE_SPANS
        known = trace.held.keys() | trace.released.keys()
        calls = [span for span in trace.held.values() if span.reading is not None and span.reading.is_carrier]
        if trace.rooted and generation < 0 and len(trace.held) == 1 and calls:
            wait, trigger = 10.0, Trigger.LONE_CALL
        elif trace.rooted:
            wait, trigger = 6.0, Trigger.ROOT
        elif any(span.has_remote_parent and span.parent_span_id not in known for span in trace.held.values()):
            wait, trigger = 30.0, Trigger.ROOT
        else:
            wait, trigger = 600.0, Trigger.IDLE
        if generation >= 0 and read_back > self.limits.max_trace_spans:
            wait = max(wait, 600.0)
        quiet, aged = trace.last + wait, trace.first + self.limits.decision_wait
        return (quiet, trigger) if quiet < aged else (aged, Trigger.AGE)

    def may_be_lone(self, trace: Trace) -> bool:
        """It may stay for the trace of its twin."""
        return trace.generation < 0 and sum(span.reading is not None and span.reading.is_carrier for span in trace.held.values()) == 1

    @invariant()
    def nothing_is_lost(self) -> None:
        """What is held by the model is held by the window, and nothing else."""
        if hasattr(self, "model"):
            assert self.window.spans == sum(len(trace.held) for trace in self.model.values())
            for account in ("a", "b"):
                held = sum(len(trace.held) for key, trace in self.model.items() if key.account == account)
                assert self.window.open_spans(account) == held
            assert self.window.traces == sum(bool(trace.held) for trace in self.model.values())

    def teardown(self) -> None:
        """In the end every span has left once, and the window holds nothing of it."""
        if not hasattr(self, "model"):
            return
        for _ in range(3):
            while self.unclosed:
                self.close(pays=True)
            self.now += 30_000.0
            self.drain()
        while self.unclosed:
            self.close(pays=True)
        self.drain()
        assert (self.window.traces, self.window.spans, self.window.bytes) == (0, 0, 0)
        for key, stored in self.journal.items():
            assert list(self.model[key].released.values()) == stored
            assert self.window.unseen(key.account, stored) == []
        assert all(len(account.pairs) == 0 for account in self.window._accounts.values())


def made(  # noqa: PLR0917 -- a row of a table, as the strategy draws it
    trace: int, number: int, parent: int, remote: bool, usage: tuple[int, int] | None, source: int, start: int, length: int, size: int
) -> Span:
    """A span of few possible ids, so that repeats, late spans and twins are common."""
    span = Span(
        SOURCES[source], trace.to_bytes(16, "big"), number.to_bytes(8, "big"), parent.to_bytes(8, "big") if parent else b"", "s", 1,
        start * MS, (start + length) * MS, (), FLAG_HAS_IS_REMOTE | (FLAG_IS_REMOTE if remote else 0), 0, 0, False, size, 0,
    )  # fmt: skip
    tokens = None if usage is None else Tokens(input_total=usage[0], uncached=usage[0], output_total=usage[1])
    span.reading = Reading(klass=Klass.AGENT if usage is None else Klass.MODEL_CALL, tokens=tokens)
    return span


TestWindow = WindowMachine.TestCase
TestWindow.settings = settings(
    max_examples=150, stateful_step_count=30, deadline=None, report_multiple_bugs=False, suppress_health_check=[HealthCheck.too_slow]
)
