"""The window's rules one by one, with times as numbers: open, released, late, forgotten, and which traces leave together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from receiver.core.span import FLAG_HAS_IS_REMOTE, FLAG_IS_REMOTE, Source, Span
from receiver.core.usage import Klass, Reading, Tokens
from receiver.core.window import Group, TraceKey, Trigger, Window, WindowLimits
from receiver.core.window.released import in_pack, pack, unpack

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

REMOTE = FLAG_HAS_IS_REMOTE | FLAG_IS_REMOTE
MS = 1_000_000
PLAIN = Reading(klass=Klass.AGENT)
SDK = Source(resource={"service.name": "app"}, scope="sdk", scope_version="1")
CALLBACK = Source(resource={"service.name": "app"}, scope="callback", scope_version="1")
OTHER_APP = Source(resource={"service.name": "other"}, scope="sdk", scope_version="1")
GATEWAY = Source(resource={"service.name": "proxy"}, scope="litellm", scope_version="1")


def trace_id(number: int) -> bytes:
    return number.to_bytes(16, "big")


def span_id(number: int) -> bytes:
    return number.to_bytes(8, "big")


def span(
    trace: int,
    number: int,
    parent: int | None = None,
    *,
    remote: bool = False,
    usage: tuple[int, int] | None = None,
    cached: int = 0,
    response_id: str | None = None,
    klass: Klass = Klass.MODEL_CALL,
    source: Source = SDK,
    at: tuple[int, int] = (0, 100),
    size: int = 1_000,
    models: tuple[str, ...] = (),
) -> Span:
    """A span; `usage` (input, output) makes it a call, `at` is its interval in ms."""
    made = Span(
        source, trace_id(trace), span_id(number), b"" if parent is None else span_id(parent), f"s{number}", 1,
        at[0] * MS, at[1] * MS, (), REMOTE if remote else FLAG_HAS_IS_REMOTE, 0, 0, False, size, 0,
    )  # fmt: skip
    made.reading = PLAIN
    if usage is not None:
        tokens = Tokens(input_total=usage[0], uncached=usage[0] - cached, cache_read=cached, output_total=usage[1])
        made.reading = Reading(klass=klass, tokens=tokens, response_id=response_id, models=models)
    return made


class House:
    """A window with a journal of its own, and the habit of closing what it releases."""

    def __init__(self, *, closes: bool = True, **limits: float) -> None:
        self.journal: dict[TraceKey, list[Span]] = {}
        self.closes = closes
        self.window = Window(WindowLimits(**limits), records=lambda key: self.journal.get(key, ()))  # type: ignore[arg-type]  # ints are floats

    def export(self, *spans: Span, now: float, account: str = "a") -> tuple[int, int]:
        """(new, late) spans of a request."""
        new = self.window.unseen(account, list(spans))
        for one in new:
            self.journal.setdefault(TraceKey(account, one.trace_id), []).append(one)
        return len(new), self.window.hold(account, new, now=now)

    def due(self, now: float) -> list[Group]:
        return self._done(self.window.release_due(now=now))

    def all(self, now: float) -> list[Group]:
        return self._done(self.window.release_all(now=now))

    def _done(self, groups: list[Group]) -> list[Group]:
        if self.closes:
            for group in groups:
                for trace in group.traces:
                    self.window.closed(trace.key, ())
        return groups


def key(trace: int, account: str = "a") -> TraceKey:
    return TraceKey(account, trace_id(trace))


def told(groups: Iterable[Group]) -> list[list[tuple[int, str, int]]]:
    """Each group as its traces: (trace, trigger, new spans)."""
    return [[(int.from_bytes(t.key.trace_id, "big"), t.trigger.value, len(t.spans)) for t in group.traces] for group in groups]


def released_at(house: House, until: float = 100_000.0) -> list[tuple[float, list[list[tuple[int, str, int]]]]]:
    """Follow the timer until nothing is open: (moment, groups) of each moment that let something go."""
    found = []
    turns = 0
    while house.window.traces and (moment := house.window.next_deadline()) is not None and moment <= until:
        turns += 1
        assert turns < 1_000, "the timer runs in circles"
        if groups := house.due(moment):
            found.append((moment, told(groups)))
    return found


# -- when a trace is released --------------------------------------------------------------------------------------------


def test_a_trace_with_its_root_is_released_after_six_quiet_seconds() -> None:
    """Other processes' batches come within 5 s of the root; each new span starts the quiet anew."""
    house = House()
    house.export(span(1, 2, 1), span(1, 1), now=0.0)
    house.export(span(1, 3, 1), now=4.0)
    assert house.due(9.999) == []
    assert told(house.due(10.0)) == [[(1, "root", 3)]]
    assert house.window.traces == 0


def test_a_resend_does_not_keep_a_trace_awake() -> None:
    """Quiet counts from the last new span."""
    house = House()
    house.export(span(1, 2, 1), span(1, 1), now=0.0)
    assert house.export(span(1, 2, 1), span(1, 1), now=5.0) == (0, 0)
    assert told(house.due(6.0)) == [[(1, "root", 2)]]


def test_a_trace_without_a_root_waits_ten_minutes() -> None:
    """One model call may run for minutes before its parents end, and they are exported when they end."""
    house = House()
    house.export(span(1, 2, 1), now=0.0)
    assert released_at(house) == [(600.0, [[(1, "idle", 1)]])]


def test_the_root_brings_the_deadline_nearer() -> None:
    """Agents export their root last; then the trace need not idle on."""
    house = House()
    house.export(span(1, 2, 1), now=0.0)
    house.export(span(1, 1), now=100.0)
    assert released_at(house) == [(106.0, [[(1, "root", 2)]])]


def test_a_remote_parent_that_does_not_come_counts_as_root_after_thirty_quiet_seconds() -> None:
    """Its process may not be traced at all, or not by us."""
    house = House()
    house.export(span(1, 2, 1, remote=True), now=0.0)
    house.export(span(1, 3, 2), now=1.0)
    assert released_at(house) == [(31.0, [[(1, "root", 2)]])]


def test_a_remote_parent_that_came_is_no_root() -> None:
    """Then the trace waits for that parent's own root."""
    house = House()
    house.export(span(1, 2, 1, remote=True), now=0.0)
    house.export(span(1, 1, 9), now=1.0)
    assert released_at(house) == [(601.0, [[(1, "idle", 2)]])]


def test_one_lone_root_call_waits_ten_seconds() -> None:
    """Its twin may sit in a trace of its own, and come with the next batch."""
    house = House()
    house.export(span(1, 1, usage=(100, 9)), now=0.0)
    assert released_at(house) == [(10.0, [[(1, "lone_call", 1)]])]


def test_a_root_call_with_company_is_no_lone_call() -> None:
    """The second span makes it an ordinary trace, also when that brings the deadline nearer."""
    house = House()
    house.export(span(1, 1, usage=(100, 9)), now=0.0)
    house.export(span(1, 2, 1), now=1.0)
    assert released_at(house) == [(7.0, [[(1, "root", 2)]])]


def test_a_trace_that_is_never_quiet_is_released_by_age() -> None:
    """No trace is held for longer than `decision_wait` since its first span."""
    house = House(decision_wait=20.0)
    for moment in range(20):
        house.export(span(1, 2 + moment, 1), now=float(moment))
    assert released_at(house) == [(20.0, [[(1, "age", 20)]])]


def test_due_traces_leave_earliest_first_however_late_the_timer_is() -> None:
    """The order is that of their real deadlines, also where a deadline had moved and nobody looked."""
    house = House()
    house.export(span(1, 1), now=0.0)
    house.export(span(2, 1), now=1.0)
    house.export(span(1, 2, 1), now=3.0)
    assert told(house.due(1_000.0)) == [[(2, "root", 1)], [(1, "root", 2)]]


def test_a_slice_stops_when_it_has_its_spans_and_the_rest_stays_due() -> None:
    """The caller's work comes in slices; the next deadline says that there is more."""
    house = House()
    for trace in range(1, 6):
        house.export(*(span(trace, number, 1 if number > 1 else None) for number in range(1, 5)), now=0.0)
    first = house.window.release_due(now=50.0, most=6)
    assert len(first) == 2
    moment = house.window.next_deadline()
    assert moment is not None
    assert moment <= 50.0
    assert len(house.window.release_due(now=50.0, most=1_000)) == 3


# -- bounds --------------------------------------------------------------------------------------------------------------


def test_over_its_bytes_the_window_releases_the_oldest_and_loses_nothing() -> None:
    """A bound releases early, it never drops; the youngest stay."""
    house = House(max_bytes=17_000)
    for trace in range(1, 21):
        house.export(span(trace, 2, 1, size=1_000), now=float(trace))
    assert house.window.next_deadline() == pytest.approx(11.0)
    out = told(house.due(20.0))
    assert house.window.bytes <= 17_000
    assert out == [[(trace, "bytes", 1)] for trace in range(1, len(out) + 1)]
    assert len(out) + house.window.traces == 20


def test_over_its_traces_the_window_releases_the_oldest_by_first_span() -> None:
    """Age counts from the first span: a trace that still grows is not younger for it."""
    house = House(max_traces=2)
    house.export(span(1, 2, 1), now=0.0)
    house.export(span(2, 2, 1), now=1.0)
    house.export(span(1, 3, 1), now=2.0)
    house.export(span(3, 2, 1), now=3.0)
    assert told(house.due(3.0)) == [[(1, "traces", 2)]]
    assert house.window.next_deadline() == 601.0


def test_a_full_trace_is_released_at_once_and_its_next_spans_are_late() -> None:
    """`max_trace_spans` bounds one trace's new spans."""
    house = House(max_trace_spans=3)
    house.export(*(span(1, number, 99) for number in range(1, 4)), now=5.0)
    assert house.window.next_deadline() == 5.0
    assert told(house.due(5.0)) == [[(1, "trace_spans", 3)]]
    assert house.export(span(1, 4, 99), now=6.0) == (1, 1)


def test_a_giant_trace_is_read_back_only_as_often_as_it_doubles() -> None:
    """A trace of n spans in one stream costs O(n) spans read back, not O(n^2 / max_trace_spans)."""
    house = House(max_trace_spans=10)
    new = read_back = releases = 0
    for number in range(1, 5_001):
        house.export(span(1, number, 9_999), now=number * 0.001)
        for group in house.due(number * 0.001):
            releases += 1
            new += len(group.traces[0].spans)
            read_back += len(group.traces[0].earlier)
    assert releases == 9  # at 10, 20, 40 ... 2,560 spans
    assert read_back <= 5_000
    assert new + house.window.spans == 5_000


def test_a_straggler_of_a_giant_waits_as_long_as_a_trace_without_a_root() -> None:
    """A dribble of late spans to a giant costs one reading back in `idle_wait`, not one in 6 s."""
    house = House(max_trace_spans=10)
    house.export(span(1, 1), *(span(1, number, 1) for number in range(2, 22)), now=0.0)
    house.due(0.0)
    house.export(span(1, 50, 1), now=1.0)
    assert released_at(house) == [(601.0, [[(1, "root", 1)]])]


# -- seen, late, forgotten -----------------------------------------------------------------------------------------------


def test_unseen_drops_repeats_and_changes_nothing() -> None:
    """A look is pure: asked twice it says the same; of a repeat in one request the first counts."""
    house = House()
    first, again, other = span(1, 1), span(1, 1), span(2, 1)
    assert house.window.unseen("a", [first, again, other]) == [first, other]
    assert house.window.unseen("a", [first, again, other]) == [first, other]
    house.window.hold("a", [first], now=0.0)
    assert house.window.unseen("a", [again, other]) == [other]


def test_a_resend_of_a_released_trace_neither_opens_it_nor_counts_as_late() -> None:
    """The exporter lost an answer, no span is late."""
    house = House()
    spans = [span(1, number, 1 if number > 1 else None) for number in range(1, 9)]
    house.export(*spans, now=0.0)
    house.due(6.0)
    assert house.export(*spans, now=7.0) == (0, 0)
    assert house.window.hold("a", spans, now=7.0) == 0
    assert house.window.traces == 0


def test_hold_keeps_no_span_twice() -> None:
    """Even a caller that did not ask what is new cannot make a span leave twice."""
    house = House()
    one = span(1, 1)
    house.window.hold("a", [one, one], now=0.0)
    before = house.window.bytes
    house.window.hold("a", [one], now=1.0)
    assert house.window.bytes == before
    assert told(house.due(6.0)) == [[(1, "root", 1)]]


def test_a_late_span_opens_its_trace_again_with_all_that_came_before() -> None:
    """The rules of counting run on the whole; what paid before is known by its span ids."""
    house = House(closes=False)
    early = [span(1, 2, 1, usage=(10, 1)), span(1, 1)]
    house.export(*early, now=0.0)
    (first,) = house.due(6.0)
    assert (first.traces[0].generation, first.traces[0].earlier, first.traces[0].charged) == (0, (), frozenset())
    house.window.closed(key(1), [span_id(2)])
    late = span(1, 3, 1)
    assert house.export(late, early[0], now=10.0) == (1, 1)
    assert house.window.unseen("a", [*early, late]) == []
    ((second,),) = ([*group.traces] for group in house.due(16.0))
    assert second.spans == (late,)
    assert second.earlier == tuple(early)
    assert second.charged == {span_id(2)}
    assert (second.generation, second.trigger, second.first_held) == (1, Trigger.ROOT, 10.0)
    house.window.closed(key(1), [span_id(3)])
    house.export(span(1, 4, 1), now=20.0)
    ((third,),) = ([*group.traces] for group in house.due(26.0))
    assert third.charged == {span_id(2), span_id(3)}
    assert len(third.earlier) == 3


def test_earlier_spans_are_only_those_that_were_released() -> None:
    """The journal knows a span as soon as it is stored; until it is held it belongs to no generation."""
    house = House()
    house.export(span(1, 1), now=0.0)
    house.due(6.0)
    house.export(span(1, 2, 1), now=7.0)
    house.journal[key(1)].append(span(1, 3, 1))
    (group,) = house.due(13.0)
    assert [one.span_id for one in group.traces[0].earlier] == [span_id(1)]


def test_a_late_span_of_a_trace_that_never_saw_its_root_waits_for_it() -> None:
    """Released early for a bound, the trace still has no root."""
    house = House(max_traces=1)
    house.export(span(1, 2, 1), now=0.0)
    house.export(span(2, 1), now=1.0)
    assert told(house.due(1.0)) == [[(1, "traces", 1)]]
    house.due(7.0)
    house.export(span(1, 3, 1), now=10.0)
    assert house.window.next_deadline() == 610.0


def test_a_late_span_of_a_trace_that_a_remote_root_let_go_waits_as_with_any_root() -> None:
    """What stood for the root once stands for it again, though the span itself is packed away."""
    house = House()
    house.export(span(1, 2, 1, remote=True), now=0.0)
    assert told(house.due(30.0)) == [[(1, "root", 1)]]
    house.export(span(1, 3, 2), now=40.0)
    assert released_at(house) == [(46.0, [[(1, "root", 1)]])]


def test_a_trace_is_not_released_again_before_its_earlier_close_is_told() -> None:
    """Until then nobody knows for sure what was charged, and a call could be charged twice."""
    house = House(closes=False)
    house.export(span(1, 1), now=0.0)
    house.due(6.0)
    house.export(span(1, 2, 1), now=6.0)
    assert house.due(12.0) == []
    assert house.all(12.0) == []
    moment = house.window.next_deadline()
    assert moment is not None
    assert moment > 12.0
    house.window.closed(key(1), [span_id(1)])
    (group,) = house.due(moment)
    assert group.traces[0].charged == {span_id(1)}


def test_a_bound_does_not_spin_while_all_that_is_open_is_being_closed() -> None:
    """Nothing can be let go, so the timer is not asked for at once again."""
    house = House(closes=False, max_bytes=1)
    house.export(span(1, 1), now=0.0)
    house.due(0.0)
    house.export(span(1, 2, 1), now=1.0)
    assert house.due(1.0) == []
    moment = house.window.next_deadline()
    assert moment is not None
    assert moment > 1.0
    house.window.closed(key(1), ())
    assert told(house.due(moment)) == [[(1, "bytes", 1)]]


def test_accounts_share_nothing() -> None:
    """Trace and span ids are chosen by clients: the same ids of two accounts are two spans."""
    house = House()
    assert house.export(span(1, 1), now=0.0, account="a") == (1, 0)
    assert house.export(span(1, 1), now=0.0, account="b") == (1, 0)
    assert sorted(group.account for group in house.due(6.0)) == ["a", "b"]
    assert house.export(span(1, 2, 1), now=7.0, account="b") == (1, 1)
    assert house.window.traces == 1


def test_a_trace_is_forgotten_after_the_horizon_and_then_counts_as_new() -> None:
    """The horizon is what bounds the memory of ids; the journal may drop the records of what is forgotten."""
    house = House(seen_horizon=100.0)
    house.export(span(1, 1), now=0.0)
    house.due(6.0)
    assert house.window.next_deadline() == 106.0
    assert house.window.forget_due(now=105.9) == []
    house.due(106.0)
    assert house.window.forget_due(now=106.0) == [key(1)]
    assert house.window.forget_due(now=106.0) == []
    assert (house.window.seen_traces, house.window.seen_bytes, house.window.next_deadline()) == (0, 0, None)
    assert house.export(span(1, 1), now=107.0) == (1, 0)


def test_over_their_bytes_the_oldest_released_traces_are_forgotten_and_the_horizon_says_so() -> None:
    """A shorter horizon is shown, not hidden."""
    house = House(seen_max_bytes=950)
    for trace in range(1, 6):
        house.export(span(trace, 1), now=float(trace))
    house.due(12.0)
    house.window.release_due(now=13.0)
    assert house.window.forget_due(now=13.0) == [key(1), key(2), key(3)]
    assert house.window.seen_bytes <= 950
    assert house.window.seen_horizon_seconds(now=13.0) == 1.0
    assert house.window.seen_horizon_seconds(now=13.0 + 3_600.0) == 3_600.0


def test_a_trace_whose_close_is_under_way_is_not_forgotten() -> None:
    """Its records are still needed, should the close fail."""
    house = House(closes=False, seen_horizon=10.0)
    house.export(span(1, 1), now=0.0)
    house.due(6.0)
    assert house.window.forget_due(now=1_000.0) == []
    assert house.window.next_deadline() is None
    house.window.closed(key(1), ())
    assert house.window.forget_due(now=1_000.0) == [key(1)]


def test_a_trace_that_is_open_again_is_not_forgotten() -> None:
    """Its ids are needed until it is released again, and the horizon then starts anew."""
    house = House(seen_horizon=10.0)
    house.export(span(1, 2, 1), span(1, 1), now=0.0)
    house.due(6.0)
    house.export(span(1, 3, 1), now=15.0)
    assert house.window.forget_due(now=20.0) == []
    assert house.export(span(1, 2, 1), now=20.0) == (0, 0)
    house.due(21.0)
    assert house.window.forget_due(now=30.9) == []
    assert house.window.forget_due(now=31.0) == [key(1)]


def test_packed_ids_are_compared_whole_and_aligned() -> None:
    """Eight bytes that straddle two ids are no id."""
    packed = pack([b"\x00\x00\x00\x00\x00\x00\x00\x01", b"\x01\x00\x00\x00\x00\x00\x00\x00"])
    assert not in_pack(b"\x00\x00\x00\x00\x00\x00\x01\x01", packed)
    assert not in_pack(b"\xff" * 8, packed)
    assert not in_pack(b"\x01" * 8, b"")
    assert all(in_pack(one, packed) for one in unpack(packed))


# -- pairs ---------------------------------------------------------------------------------------------------------------


def outer_trace(trace: int, *, usage: tuple[int, int] = (100, 9), at: tuple[int, int] = (0, 100), **more: object) -> list[Span]:
    """An agent over a framework's span for one call."""
    return [span(trace, trace * 100 + 1, trace * 100, usage=usage, at=at, source=CALLBACK, **more), span(trace, trace * 100)]  # type: ignore[arg-type]  # passed on


@pytest.mark.parametrize("outer_first", [True, False])
def test_a_root_call_inside_another_traces_call_leaves_with_it(outer_first: bool) -> None:
    """Lost context: the client's own span is the root of its own trace; whichever comes first, one Group counts both."""
    house = House()
    inner, outer = [span(1, 1, usage=(100, 9), at=(10, 90))], outer_trace(2)
    for moment, spans in enumerate((outer, inner) if outer_first else (inner, outer)):
        house.export(*spans, now=float(moment))
    ((_, groups),) = released_at(house)
    assert [sorted(group) for group in groups] == [[(1, "pair", 1), (2, "root", 2)]]
    assert len(house.window._accounts["a"].pairs) == 0


def test_a_lone_call_stays_as_long_as_the_trace_of_its_twin() -> None:
    """An agent may go on for minutes after the call."""
    house = House()
    house.export(span(1, 1, usage=(100, 9), at=(10, 90)), now=0.0)
    house.export(span(2, 201, 200, usage=(100, 9), source=CALLBACK), now=3.0)
    assert house.due(300.0) == []
    (waiting, _) = house.window.waiting(5)
    assert (waiting.key, waiting.trigger, waiting.deadline) == (key(1), Trigger.PAIR, 603.0)
    house.export(span(2, 200), now=310.0)
    assert told(house.due(316.0)) == [[(2, "root", 2), (1, "pair", 1)]]


def test_two_lone_traces_of_one_call_leave_together_and_never_wait_for_each_other_in_a_ring() -> None:
    """Both are roots, each alone in its trace; also with one and the same interval."""
    house = House()
    house.export(span(1, 1, usage=(100, 9)), now=0.0)
    house.export(span(2, 1, usage=(100, 9), source=CALLBACK), now=5.0)
    assert released_at(house) == [(15.0, [[(2, "lone_call", 1), (1, "pair", 1)]])]


@pytest.mark.parametrize(
    "inner",
    [
        span(1, 1, usage=(100, 8), at=(10, 90)),
        span(1, 1, usage=(99, 9), at=(10, 90)),
        span(1, 1, usage=(100, 9), at=(10, 106)),
        span(1, 1, usage=(100, 9), at=(-6, 90)),
        span(1, 1, usage=(100, 9), at=(10, 90), source=CALLBACK),
        span(1, 1, usage=(100, 9), at=(10, 90), source=OTHER_APP),
        span(1, 1, usage=(100, 9), at=(10, 90), response_id="other"),
        span(1, 1, 7, usage=(100, 9), at=(10, 90)),
        span(1, 1, usage=(100, 9), at=(10, 90), klass=Klass.AGENT),
    ],
    ids=["output", "input", "ends after", "starts before", "same scope", "other process", "other id", "has a parent", "agent"],
)
def test_a_call_that_differs_leaves_alone(inner: Span) -> None:
    """What cannot tell of the same call is not grouped with it."""
    house = House()
    house.export(inner, *outer_trace(2, response_id="chatcmpl-1"), now=0.0)
    assert all(len(group) == 1 for _, groups in released_at(house) for group in groups)


@pytest.mark.parametrize(
    ("inner", "outer"),
    [
        (span(1, 1, usage=(100, 9), at=(-5, 105)), {}),
        (span(1, 1, usage=(100, 9), cached=60), {"usage": (40, 9)}),
        (span(1, 1, usage=(50, 9), cached=20), {"usage": (50, 9)}),
        (span(1, 1, usage=(1, 2), at=(50, 150), response_id="r"), {"response_id": "r"}),
        (span(1, 1, usage=(100, 9), source=GATEWAY), {}),
        (span(1, 1, 7, usage=(100, 9), source=GATEWAY), {}),
        (span(1, 1, usage=(100, 9), klass=Klass.NONE), {}),
    ],
    ids=["5 ms", "outer lost the cache", "cache hidden", "equal ids overlap", "gateway", "gateway below its own spans", "no class"],
)
def test_a_call_that_may_be_the_same_leaves_with_it(inner: Span, outer: dict[str, object]) -> None:
    """Anything that counting might join is in one Group."""
    house = House()
    house.export(inner, *outer_trace(2, **outer), now=0.0)  # type: ignore[arg-type]  # passed on
    house.export(span(1, 7), now=0.0) if inner.parent_span_id else None
    groups = [group for _, found in released_at(house) for group in found]
    assert [len(group) for group in groups] == [2]


def test_equal_calls_in_two_traces_keep_each_their_own_twin() -> None:
    """A trace takes one lone call for each of its own, the tightest; the other trace's stays for that one."""
    house = House()
    house.export(*outer_trace(1, at=(0, 200)), now=0.0)
    house.export(*outer_trace(2, at=(30, 130)), now=1.0)
    house.export(span(3, 3, usage=(100, 9), at=(35, 125)), span(4, 4, usage=(100, 9), at=(5, 195)), now=1.0)
    house.export(span(5, 5, usage=(100, 9), at=(40, 120)), now=1.0)
    groups = [sorted(trace for trace, _, _ in group) for _, found in released_at(house) for group in found]
    assert sorted(groups) == [[1, 4], [2, 3], [5]]


def test_a_lone_call_leaves_with_its_best_match_though_another_trace_goes_first() -> None:
    """It stays while any trace is open that may hold its twin, and a worse match does not take it from a better one."""
    house = House()
    house.export(*outer_trace(1, at=(0, 500)), now=0.0)
    house.export(*outer_trace(2, at=(9, 91)), now=20.0)
    house.export(span(3, 3, usage=(100, 9), at=(10, 90)), now=0.0)
    assert [told for _, told in released_at(house)] == [[[(1, "root", 2)]], [[(2, "root", 2), (3, "pair", 1)]]]


def test_a_shared_model_name_decides_before_the_time_does() -> None:
    """Of two equal calls side by side the one that names the same model is the better match."""
    house = House()
    house.export(*outer_trace(1, models=("gpt-4o",)), now=0.0)
    house.export(
        span(3, 3, usage=(100, 9), at=(1, 99), models=("claude",)), span(4, 4, usage=(100, 9), at=(20, 80), models=("gpt-4o",)), now=0.0
    )
    assert [sorted(t for t, _, _ in group) for _, found in released_at(house) for group in found if len(group) > 1] == [[1, 4]]


def test_a_bound_that_takes_a_lone_call_takes_the_trace_of_its_twin_along() -> None:
    """Let go alone it would be charged, and its twin again."""
    house = House(max_traces=2)
    house.export(span(1, 1, usage=(100, 9), at=(10, 90)), now=0.0)
    house.export(span(2, 201, 200, usage=(100, 9), source=CALLBACK), now=1.0)
    house.export(span(3, 3), now=2.0)
    assert told(house.due(2.0)) == [[(1, "traces", 1), (2, "pair", 1)]]


def test_a_late_span_brings_back_every_trace_that_was_counted_with_its_own() -> None:
    """Else the outer span of a call whose twin paid would look like a new call."""
    house = House(closes=False)
    inner, outer = span(1, 1, usage=(100, 9), at=(10, 90)), outer_trace(2)
    house.export(inner, *outer, now=0.0)
    house.due(10.0)
    house.window.closed(key(1), [span_id(1)])
    house.window.closed(key(2), [])
    late = span(2, 250, 200)
    assert house.export(late, now=20.0) == (1, 1)
    (group,) = house.due(26.0)
    again, back = group.traces
    assert (again.key, again.spans, again.earlier, again.generation) == (key(2), (late,), tuple(outer), 1)
    assert (back.key, back.spans, back.earlier, back.generation, back.trigger) == (key(1), (), (inner,), 0, Trigger.PAIR)
    assert back.charged == {span_id(1)}


def test_traces_counted_together_that_are_both_open_again_leave_together_again() -> None:
    """They are one Group for good."""
    house = House()
    house.export(span(1, 1, usage=(100, 9), at=(10, 90)), *outer_trace(2), now=0.0)
    house.due(10.0)
    house.export(span(1, 2, 1), span(2, 250, 200), now=20.0)
    ((_, groups),) = released_at(house)
    assert [sorted(group) for group in groups] == [[(1, "root", 1), (2, "pair", 1)]]


def test_many_equal_calls_still_find_their_twins_and_cost_no_more_than_a_few() -> None:
    """A model that always answers alike makes a crowd of equal calls: the nearest in time is looked at first, and only so many."""
    house = House()
    calls = 300
    for call in range(calls):
        house.export(*outer_trace(1_000 + call, usage=(1, 1), at=(call * 100, call * 100 + 90)), now=0.0)
        house.export(span(call + 1, call + 1, usage=(1, 1), at=(call * 100 + 1, call * 100 + 80)), now=0.0)
    pairs = house.window._accounts["a"].pairs
    pairs._file_noted(10_000)
    assert len(pairs._candidates(span(9_999, 1, usage=(1, 1), source=GATEWAY, at=(15_000, 15_010)))) == 32
    groups = [sorted(trace for trace, _, _ in group) for _, found in released_at(house) for group in found]
    assert sorted(groups) == [[call + 1, 1_000 + call] for call in range(calls)]
    assert len(pairs) == 0


# -- looking in ----------------------------------------------------------------------------------------------------------


def test_release_all_lets_everything_go_oldest_first_and_in_slices_if_asked() -> None:
    """`POST /-/release` and shutdown must not hold the loop."""
    house = House()
    for trace in (3, 1, 2):
        house.export(span(trace, 2, 1), now=0.0)
    assert told(house.window.release_all(now=1.0, most=2)) == [[(3, "manual", 1)], [(1, "manual", 1)]]
    assert told(house.window.release_all(now=1.0)) == [[(2, "manual", 1)]]
    assert house.window.release_all(now=1.0) == []


def test_waiting_says_what_the_oldest_traces_wait_for() -> None:
    """An operator who misses a cost sees why it is not there yet."""
    house = House()
    house.export(span(1, 2, 1), now=0.0)
    house.export(span(2, 2, 1), span(2, 1), now=1.0)
    house.export(span(3, 1, usage=(1, 1)), now=2.0)
    oldest, second = house.window.waiting(2)
    assert (oldest.key, oldest.trigger, oldest.deadline, oldest.root_seen, oldest.spans) == (key(1), Trigger.IDLE, 600.0, False, 1)
    assert (second.key, second.trigger, second.deadline, second.root_seen, second.spans) == (key(2), Trigger.ROOT, 7.0, True, 2)
    assert house.window.waiting(9)[2].trigger is Trigger.LONE_CALL
    assert oldest.bytes + second.bytes + house.window.waiting(9)[2].bytes == house.window.bytes
    assert house.window.oldest_age(now=9.0) == 9.0


def test_the_window_shows_its_state() -> None:
    """A failure shows what was open and what was remembered."""
    house = House()
    assert repr(house.window) == "Window(open: 0 traces, 0 spans, 0 B | released: 0 traces, 0 B | next: None)"
    house.export(span(1, 1), now=0.0)
    assert repr(house.window) == f"Window(open: 1 traces, 1 spans, {house.window.bytes} B | released: 0 traces, 0 B | next: 6.0)"
    house.due(6.0)
    assert (house.window.spans, house.window.bytes, house.window.traces) == (0, 0, 0)
    assert repr(house.window).endswith("| released: 1 traces, 428 B | next: 3606.0)")


def test_the_same_calls_give_the_same_groups() -> None:
    """What leaves and in which order depends on the arguments alone, not on addresses or hashes."""

    def play() -> list[Sequence[object]]:
        house = House()
        for trace in range(1, 40):
            source = SDK if trace % 3 else CALLBACK
            house.export(span(trace, 1, usage=(7, 1), source=source, at=(trace, 200 - trace)), now=trace * 0.1)
        return released_at(house)  # type: ignore[return-value]  # compared only

    assert play() == play()
