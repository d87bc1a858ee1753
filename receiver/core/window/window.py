"""The window itself: the table of open and released traces, and the times at which they pass on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from receiver.core.span import FLAG_HAS_IS_REMOTE, FLAG_IS_REMOTE
from receiver.core.window.arrivals import Arrivals
from receiver.core.window.deadlines import Deadlines
from receiver.core.window.group import Group, ReleasedTrace, TraceKey, Trigger
from receiver.core.window.limits import OPEN_SPAN_BYTES, OPEN_TRACE_BYTES, PAIR_CALL_BYTES
from receiver.core.window.open import OpenTrace
from receiver.core.window.pairs import PairIndex
from receiver.core.window.released import Bond, SeenTrace, SeenTraces, pack, unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from receiver.core.journal import Remembered
    from receiver.core.span import Span
    from receiver.core.window.limits import WindowLimits

_REMOTE: Final = FLAG_HAS_IS_REMOTE | FLAG_IS_REMOTE

#: s until a trace whose earlier close is under way is looked at again; a commit takes milliseconds, a stalled disk longer
CLOSING_WAIT: Final = 1.0

#: Spans that one `release_due` lets go by default. Letting go costs 1 us a span in traces of eight and 15 us in traces of one
#: lone call; counting, pricing and attributing come on top: so a slice stays under 5 ms.
SLICE_SPANS: Final = 256

#: Where a model call inside a gateway has a trace of its own, these scopes (by their beginning) say so.
GATEWAY_SCOPES: Final = ("litellm",)


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingTrace:
    """An open trace, and what it waits for."""

    key: TraceKey
    generation: int
    trigger: Trigger  #: the rule that is next to release it; PAIR: it waits for the trace of its twin
    deadline: float  #: monotonic seconds, if no more spans come
    first_held: float  #: monotonic seconds
    last_held: float  #: monotonic seconds
    root_seen: bool
    spans: int
    bytes: int  #: accounted


class _Account:
    """The traces of one account. Trace ids are chosen by clients, so accounts share nothing."""

    __slots__ = ("pairs", "spans", "traces")

    def __init__(self, gateways: tuple[str, ...]) -> None:
        self.spans = 0  #: in its open traces
        self.traces: dict[bytes, OpenTrace | SeenTrace] = {}
        self.pairs = PairIndex(self.traces, gateways)


class Window:
    """Holds spans until their trace has had time to complete; knows every span that it has seen.

    The driver keeps one timer at `next_deadline()` and asks again after each call; at the timer it calls `release_due`
    until that returns nothing, and `forget_due`. A timer that is early, late or pointless does no harm.

    After each release, and for each trace of each Group (also one that charged nothing), the driver calls `closed` once the
    close is as durable as it will be. Until then that trace is neither released again (what it charged is not known
    for sure) nor forgotten (its records are still needed).
    """

    def __init__(
        self,
        limits: WindowLimits,
        *,
        records: Callable[[TraceKey], Sequence[Span]],
        gateway_scopes: Sequence[str] = GATEWAY_SCOPES,
    ) -> None:
        """`records` gives every accepted span of a trace, in order, also one that is not held yet (the journal's `records`)."""
        self._limits = limits
        self._records = records
        self._gateways = tuple(gateway_scopes)
        self._accounts: dict[str, _Account] = {}
        self._deadlines: Deadlines[OpenTrace] = Deadlines()  # a moment that moved later is found out when it comes up
        self._open: Arrivals[OpenTrace] = Arrivals()  # by `first_held`: who goes first when a bound is passed
        self._seen = SeenTraces(limits)
        self._forgotten: list[TraceKey] = []
        self._spans = 0
        self._bytes = 0
        self._relief_at: float | None = None  # when to release for a bound that is passed

    def unseen(self, account: str, spans: list[Span]) -> list[Span]:
        """Those of `spans` that are new to this account, in order; of a repeat within the list the first. Changes nothing."""
        if len({span.span_id for span in spans}) != len(spans):
            first: dict[tuple[bytes, bytes], Span] = {}
            for span in spans:
                first.setdefault((span.trace_id, span.span_id), span)
            spans = list(first.values())
        book = self._accounts.get(account)
        if book is None:
            return list(spans)
        new: list[Span] = []
        trace_id = b""
        held: dict[bytes, Span] = {}
        seen: SeenTrace | None = None
        for span in spans:
            if span.trace_id != trace_id:
                trace_id = span.trace_id
                held, seen = _NOTHING, None
                trace = book.traces.get(trace_id)
                if isinstance(trace, OpenTrace):
                    held, seen = trace.spans, trace.seen
                else:
                    seen = trace
            if span.span_id not in held and (seen is None or span.span_id not in seen):
                new.append(span)
        return new

    def hold(self, account: str, spans: list[Span], *, now: float) -> int:
        """Hold committed new spans; returns how many were late, that is of a trace that was released before, and re-opened it.

        A span that is held or was released already is left out, so no mistake of a caller lets one leave twice.
        """
        book = self._accounts.get(account)
        if book is None:
            book = self._accounts[account] = _Account(self._gateways)
        late = 0
        trace: OpenTrace | None = None
        trace_id = b""
        held: dict[bytes, Span] = _NOTHING
        seen: SeenTrace | None = None
        count = size = calls = 0  # of this run of spans of one trace
        for span in spans:
            if span.trace_id != trace_id:
                if trace is not None:
                    self._held(book, trace, count, size, calls, now)
                    count = size = calls = 0
                trace_id = span.trace_id
                found = book.traces.get(trace_id)
                if isinstance(found, OpenTrace):
                    trace, seen, held = found, found.seen, found.spans
                else:
                    trace, seen, held = None, found, _NOTHING
            span_id = span.span_id
            if span_id in held:
                continue
            if seen is not None:
                if span_id in seen:
                    continue
                late += 1
            if trace is None:
                trace = self._begin(book, account, span, seen, now)
                held = trace.spans
            held[span_id] = span
            count += 1
            size += span.size
            if not span.parent_span_id:
                trace.rooted = True
            elif span.flags & _REMOTE == _REMOTE:
                if trace.remote_parents is None:
                    trace.remote_parents = []
                trace.remote_parents.append(span.parent_span_id)
            reading = span.reading
            if reading is not None and (reading.tokens is not None or reading.emitted_cost_pusd) and reading.is_carrier:
                if trace.carriers is None:
                    trace.carriers = [span]
                else:
                    trace.carriers.append(span)
                calls += 1
        if trace is not None:
            self._held(book, trace, count, size, calls, now)
        if self._relief_at is None and self._bound_passed() is not None:
            self._relief_at = now
        return late

    def next_deadline(self) -> float | None:
        """When to call `release_due` and `forget_due` next; None when nothing is open or remembered. It may turn out to be early."""
        moments = [moment for moment in (self._deadlines.next(), self._relief_at, self._seen.next()) if moment is not None]
        return min(moments, default=None)

    def release_due(self, *, now: float, most: int = SLICE_SPANS) -> list[Group]:
        """Let go what is due at `now`, earliest first, then what is over a bound, oldest first.

        Stops once the groups hold `most` spans (those read back included), so that the caller's work stays in slices:
        call again until nothing comes. Harmless when nothing is due.
        """
        groups: list[Group] = []
        spans = 0
        while spans < most:
            found = self._next_due(now) or self._next_relief(now)
            if found is None:
                break
            group = self._release(*found, now=now)
            spans += sum(len(trace.spans) + len(trace.earlier) for trace in group.traces)
            groups.append(group)
        if self._bound_passed() is None:
            self._relief_at = None
        elif spans < most:  # all that are open wait for their earlier close
            self._relief_at = now + CLOSING_WAIT
        self._forget(now)
        return groups

    def release_all(self, *, now: float, trigger: Trigger = Trigger.MANUAL, most: int | None = None) -> list[Group]:
        """Let go every open trace, oldest first; with `most`, no more than about so many spans: call again until nothing comes.

        A trace whose earlier close is under way stays, and is due once that is told.
        """
        groups: list[Group] = []
        spans = 0
        while (most is None or spans < most) and (found := self._oldest_free(trigger)) is not None:
            group = self._release(*found, now=now)
            spans += sum(len(one.spans) + len(one.earlier) for one in group.traces)
            groups.append(group)
        if self._bound_passed() is None:
            self._relief_at = None
        self._forget(now)
        return groups

    def closed(self, key: TraceKey, charged: Iterable[bytes]) -> None:
        """A Group with this trace is closed; `charged` are the span ids that paid, of this trace (others do no harm)."""
        book = self._accounts.get(key.account)
        trace = None if book is None else book.traces.get(key.trace_id)
        seen = trace.seen if isinstance(trace, OpenTrace) else trace
        if seen is not None:
            seen.closing = max(0, seen.closing - 1)
            self._seen.charge(seen, charged)
        if isinstance(trace, OpenTrace) and not _closing(trace):
            # It may have been passed over for this close; what is due by now is let go at the next call.
            self._deadlines.set(trace, trace.due(self._limits)[0])
            if self._relief_at is not None:
                self._relief_at = min(self._relief_at, trace.last_held)

    def remember(self, group: Sequence[Remembered], *, now: float) -> None:
        """Traces that were released together before the process began, as the journal's replay finds them.

        Their horizon begins anew: to remember a span for too long is harmless, to forget it too early counts it twice.
        """
        bond = Bond() if len(group) > 1 else None
        for one in group:
            book = self._accounts.get(one.key.account)
            if book is None:
                book = self._accounts[one.key.account] = _Account(self._gateways)
            assert one.key.trace_id not in book.traces
            seen = SeenTrace(one.key.account, one.key.trace_id, now=now, ids=unpack(one.ids), rooted=one.rooted, earlier=None)
            seen.charged, seen.generation, seen.closing = pack(unpack(one.charged)), one.generation, 0
            book.traces[one.key.trace_id] = seen
            self._seen.put(seen)
            if bond is not None:
                bond.trace_ids[seen.trace_id] = None
                bond.spans += seen.spans
                seen.bond = bond

    def forget_due(self, *, now: float) -> list[TraceKey]:
        """Traces that left the horizon since the last call: their records in the journal are of no more use."""
        self._forget(now)
        forgotten, self._forgotten = self._forgotten, []
        return forgotten

    def waiting(self, limit: int) -> list[WaitingTrace]:
        """The `limit` oldest open traces, oldest first."""
        found: list[WaitingTrace] = []
        for trace in self._open:
            if len(found) >= limit:
                break
            deadline, trigger = trace.due(self._limits)
            armed = self._deadlines.get(trace)
            if armed is not None and armed > deadline:
                deadline, trigger = armed, Trigger.PAIR if self._outers(trace) else trigger
            found.append(
                WaitingTrace(
                    key=TraceKey(trace.account, trace.trace_id),
                    generation=trace.generation,
                    trigger=trigger,
                    deadline=deadline,
                    first_held=trace.first_held,
                    last_held=trace.last_held,
                    root_seen=trace.rooted,
                    spans=len(trace.spans),
                    bytes=trace.size,
                )
            )
        return found

    @property
    def traces(self) -> int:
        """Open traces."""
        return len(self._open)

    @property
    def spans(self) -> int:
        """Spans in open traces."""
        return self._spans

    def open_spans(self, account: str) -> int:
        """Spans in open traces of one account."""
        book = self._accounts.get(account)
        return 0 if book is None else book.spans

    @property
    def bytes(self) -> int:
        """Accounted bytes of open traces: their spans' `size`, and what it costs to hold them."""
        return self._bytes

    @property
    def seen_traces(self) -> int:
        """Released traces that are remembered (those that are open again not among them)."""
        return len(self._seen)

    @property
    def seen_bytes(self) -> int:
        """Accounted bytes of released traces."""
        return self._seen.bytes

    def seen_horizon_seconds(self, *, now: float) -> float:
        """For how long a released trace is remembered at present: `seen_horizon`, less while `seen_max_bytes` does not suffice."""
        return self._seen.horizon(now=now)

    def oldest_age(self, *, now: float) -> float:
        """Seconds since the first span of the oldest open trace; 0 when none is open."""
        oldest = self._open.first()
        return 0.0 if oldest is None else max(0.0, now - oldest.first_held)

    def __repr__(self) -> str:
        return (
            f"Window(open: {self.traces} traces, {self._spans} spans, {self._bytes} B | "
            f"released: {len(self._seen)} traces, {self._seen.bytes} B | next: {self.next_deadline()})"
        )

    # -- open ----------------------------------------------------------------------------------------------------------

    def _begin(self, book: _Account, account: str, first: Span, seen: SeenTrace | None, now: float) -> OpenTrace:
        full_at = self._limits.max_trace_spans
        if seen is not None:
            self._seen.take(seen)
            # A giant is let go again when its new spans outnumber those that must be read back for it, so that reading
            # back never costs more than twice the spans of the trace, however many come.
            full_at = max(full_at, seen.spans if seen.bond is None else seen.bond.spans)
        trace = book.traces[first.trace_id] = OpenTrace(account, first.trace_id, now=now, full_at=full_at, seen=seen)
        trace.size = OPEN_TRACE_BYTES
        self._bytes += OPEN_TRACE_BYTES
        self._open.join(trace)
        return trace

    def _held(self, book: _Account, trace: OpenTrace, count: int, size: int, calls: int, now: float) -> None:  # noqa: PLR0917 -- on the hot path
        """A run of spans of one trace was held: their bytes count, and its deadline may have come nearer."""
        if not count:
            return
        if calls:
            book.pairs.note(trace)
        size += count * OPEN_SPAN_BYTES + calls * PAIR_CALL_BYTES
        trace.size += size
        self._bytes += size
        self._spans += count
        book.spans += count
        trace.last_held = now
        due, _ = trace.due(self._limits)
        armed = self._deadlines.get(trace)
        if armed is None or due < armed:
            self._deadlines.set(trace, due)

    # -- open -> released ----------------------------------------------------------------------------------------------

    def _next_due(self, now: float) -> _Leaving | None:
        """The trace whose wait is over first, with the rule that says so; taken out of the deadlines."""
        limits = self._limits
        while (popped := self._deadlines.pop_due(now)) is not None:
            trace, moment = popped
            due, trigger = trace.due(limits)
            if due > moment:  # spans came meanwhile
                self._deadlines.set(trace, due)
                continue
            if moment >= trace.age_limit(limits):
                trigger = Trigger.AGE
            outers = self._outers(trace)
            stays = self._stays_until(trace, trigger, outers, now)
            if stays is None:
                return trace, outers[0] if outers else trace, trigger
            self._deadlines.set(trace, stays)
        return None

    def _stays_until(self, trace: OpenTrace, trigger: Trigger, outers: list[OpenTrace], now: float) -> float | None:
        """A trace that is due stays while its own earlier close is under way, or while the trace of its twin is open."""
        if _closing(outers[0] if outers else trace):
            return now + CLOSING_WAIT
        if trigger is Trigger.AGE or trigger is Trigger.TRACE_SPANS:
            return None
        latest: float | None = None
        for outer in outers:
            moment = self._deadlines.get(outer)
            if moment is not None and (latest is None or moment > latest):
                latest = moment
        return None if latest is None else min(latest, trace.age_limit(self._limits))

    def _next_relief(self, now: float) -> _Leaving | None:
        """The oldest trace that can go, when a bound is passed."""
        trigger = self._bound_passed()
        if trigger is None or (self._relief_at is not None and self._relief_at > now):
            return None
        return self._oldest_free(trigger)

    def _oldest_free(self, trigger: Trigger) -> _Leaving | None:
        """The oldest open trace whose earlier close is not under way."""
        for trace in self._open:
            anchor = next(iter(self._outers(trace)), trace)
            if not _closing(anchor):
                return trace, anchor, trigger
        return None

    def _bound_passed(self) -> Trigger | None:
        if self._bytes > self._limits.max_bytes:
            return Trigger.BYTES
        if len(self._open) > self._limits.max_traces:
            return Trigger.TRACES
        return None

    def _outers(self, trace: OpenTrace) -> list[OpenTrace]:
        """Traces of calls that may be the outer side of this lone trace's call, best first."""
        if trace.carriers is None or len(trace.carriers) != 1:
            return []
        book = self._accounts[trace.account]
        found = (book.traces[outer.trace_id] for outer in book.pairs.outers(trace))
        return [outer for outer in found if isinstance(outer, OpenTrace)]

    def _release(self, trace: OpenTrace, anchor: OpenTrace, trigger: Trigger, *, now: float) -> Group:
        """Let go this trace with all that tells of the same calls; a lone trace takes the trace of its twin along.

        `anchor` is the trace of the outer call if this is the lone trace of an inner one, else the trace itself.
        """
        book = self._accounts[trace.account]
        lone = book.pairs.lone_traces(anchor)
        bond = None if anchor.seen is None else anchor.seen.bond
        if anchor is trace and not lone and bond is None:
            return Group(trace.account, (self._let_go(book, trace, trigger, now),))
        members: dict[OpenTrace, None] = {trace: None, anchor: None, **dict.fromkeys(lone)}
        again: list[SeenTrace] = []  # counted with these before, and not open
        for trace_id in () if bond is None else bond.trace_ids:
            other = book.traces[trace_id]
            if isinstance(other, SeenTrace):
                again.append(other)
            elif other is not anchor:
                members[other] = None
                members.update(dict.fromkeys(book.pairs.lone_traces(other)))
        released = [self._let_go(book, one, trigger if one is trace else Trigger.PAIR, now) for one in members]
        released += [self._read_again(book, one, now) for one in again]
        self._tie(book, bond or Bond(), released)
        return Group(trace.account, tuple(released))

    def _let_go(self, book: _Account, trace: OpenTrace, trigger: Trigger, now: float) -> ReleasedTrace:
        """One trace from open to released."""
        key = TraceKey(trace.account, trace.trace_id)
        before = trace.seen
        new = tuple(trace.spans.values())
        if before is None:
            released = ReleasedTrace(key=key, trigger=trigger, generation=0, spans=new, first_held=trace.first_held)
        else:
            released = ReleasedTrace(
                key=key,
                trigger=trigger,
                generation=trace.generation,
                spans=new,
                earlier=self._earlier(key, before),
                charged=frozenset(unpack(before.charged)),
                first_held=trace.first_held,
            )
        self._deadlines.remove(trace)
        self._open.leave(trace)
        self._spans -= len(new)
        book.spans -= len(new)
        self._bytes -= trace.size
        if trace.carriers is not None:
            book.pairs.remove(trace)
        rooted = trace.rooted or trigger is Trigger.ROOT
        seen = SeenTrace(trace.account, trace.trace_id, now=now, ids=trace.spans, rooted=rooted, earlier=before)
        book.traces[trace.trace_id] = seen
        self._seen.put(seen)
        if seen.bond is not None:
            seen.bond.spans += len(new)
        return released

    def _read_again(self, book: _Account, seen: SeenTrace, now: float) -> ReleasedTrace:
        """A released trace goes once more with the one that it was counted with: nothing new in it, its generation unchanged."""
        key = TraceKey(seen.account, seen.trace_id)
        self._seen.take(seen)
        seen = book.traces[seen.trace_id] = seen.renewed(now=now)
        self._seen.put(seen)
        return ReleasedTrace(
            key=key,
            trigger=Trigger.PAIR,
            generation=seen.generation,
            spans=(),
            earlier=self._earlier(key, seen),
            charged=frozenset(unpack(seen.charged)),
            first_held=now,
        )

    def _earlier(self, key: TraceKey, seen: SeenTrace) -> tuple[Span, ...]:
        """Its released spans, from the journal; what was accepted since is not among them."""
        released = set(unpack(seen.ids))
        return tuple(span for span in self._records(key) if span.span_id in released)

    def _tie(self, book: _Account, bond: Bond, released: list[ReleasedTrace]) -> None:
        """These traces were counted together: whichever re-opens brings the others back."""
        for one in released:
            seen = book.traces[one.key.trace_id]
            assert isinstance(seen, SeenTrace)
            if seen.bond is None:
                bond.trace_ids[seen.trace_id] = None
                bond.spans += seen.spans
                seen.bond = bond

    # -- released -> forgotten -----------------------------------------------------------------------------------------

    def _forget(self, now: float) -> None:
        while (seen := self._seen.pop_due(now=now)) is not None:
            book = self._accounts[seen.account]
            del book.traces[seen.trace_id]
            if seen.bond is not None:
                del seen.bond.trace_ids[seen.trace_id]
                seen.bond.spans -= seen.spans
            if not book.traces:
                del self._accounts[seen.account]
            self._forgotten.append(TraceKey(seen.account, seen.trace_id))


#: A trace that is let go, the trace of its outer call (itself when it is not a lone inner one), and why.
_Leaving = tuple[OpenTrace, OpenTrace, Trigger]


def _closing(trace: OpenTrace) -> bool:
    """An earlier close of it is under way."""
    return trace.seen is not None and trace.seen.closing > 0


#: What an account without this trace holds of it.
_NOTHING: Final[dict[bytes, Span]] = {}
