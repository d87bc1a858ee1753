"""One call told in two traces: which open traces belong into one Group.

Two shapes are known from captures. *Lost context*: a framework's callback makes the outer span in one trace, and the
provider client, which never saw that context, makes the inner one as the root of its own. *Gateway without context*: the
client's span sits in the caller's trace, the gateway's in a trace of the gateway. In both the inner trace holds one call
and nothing ties it to anything: a *lone* trace (`OpenTrace.lone_call`).

What matches here may tell of one call; whether it does is decided where calls are counted. So the rules are those of
counting, minus what needs names of models:

    equal response ids, and the two overlap in time; or
    not two different ids; different scopes; equal outputs and equal inputs (with or without what a cache held);
    the inner inside the outer, give or take 5 ms; one process, or one of the scopes is a gateway's.

A lone trace is let go with the trace of its outer call. Groups do not chain: each outer call takes at most one lone trace
of each scope, best match first, judged against all outer calls that are open, so that two equal calls side by side in two
traces each keep their own. A lone trace whose outer call was released before it came is counted alone: the two cannot meet.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from receiver.core.span import Span
from receiver.core.window.open import OpenTrace, tells_of_a_call

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from receiver.core.window.released import SeenTrace

#: ns; clocks of two libraries in one process differ by what runs between their two readings, a few ms at worst
SLACK_NANO: Final = 5_000_000
#: Calls looked at for one call, those nearest in start first. Only equal numbers in other scopes count, so more than a few are
#: rare; the bound is for a client that sends one call a million times.
MOST_CANDIDATES: Final = 32
#: Candidates looked at for all calls of one trace that is released, some 4 ms of work.
MOST_CANDIDATES_A_TRACE: Final = 8_192
#: From this many equal calls on they are kept apart by start and scope, so that a look finds the nearest of other scopes first.
_CROWD: Final = 8
#: Starts of a crowd are kept in steps of 2 ** 26 ns (67 ms) ...
_STEP_BITS: Final = 26
#: ... and looked at this many steps (8.6 s) either way. Two tellers of one call start within milliseconds of each other.
_STEPS: Final = 128
#: Noted traces that are filed with each one that comes: more than one, so that it catches up before a lone one is due.
_CATCH_UP: Final = 4

_Crowd = dict[int, dict[str, dict[Span, None]]]  # step of its start -> scope -> calls, in order
_Calls = Span | list[Span] | _Crowd

_NO_CALLS: Final[dict[str, dict[Span, None]]] = {}


class PairIndex:
    """The calls of one account's open traces, by what two tellers of one call have in common.

    The call of a lone trace is filed under its keys at once. Most accounts have none, and then nobody asks for the others: those
    traces are only noted, and filed while there is a lone one (a few with each that comes, the rest when a question needs all).
    """

    __slots__ = ("_filed", "_gateways", "_lone", "_noted", "_traces")

    def __init__(self, traces: Mapping[bytes, OpenTrace | SeenTrace], gateways: tuple[str, ...]) -> None:
        self._traces = traces  # the account's table, shared with the window
        self._gateways = gateways
        self._noted: dict[OpenTrace, None] = {}  # with calls that are not filed yet, in order
        self._filed: dict[str | int, _Calls] = {}
        self._lone: dict[OpenTrace, None] = {}

    def note(self, trace: OpenTrace) -> None:
        """An open trace has new spans with usage."""
        if trace.lone_call(self._gateways) is not None:
            self._lone[trace] = None
            self._file(trace)
        else:
            self._noted[trace] = None
            if self._lone:
                self._lone.pop(trace, None)
        if self._lone and self._noted:
            self._file_noted(_CATCH_UP)

    def remove(self, trace: OpenTrace) -> None:
        """A trace that was noted is released."""
        self._noted.pop(trace, None)
        self._lone.pop(trace, None)
        calls = self._filed
        for call in (trace.carriers or ())[: trace.filed]:
            if not tells_of_a_call(call):
                continue
            for key in _keys(call):
                there = calls[key]
                if isinstance(there, list):
                    there.remove(call)
                elif isinstance(there, dict):
                    _leave(there, call)
                if there is call or not there:
                    del calls[key]

    def outers(self, lone: OpenTrace) -> list[Span]:
        """Calls in other open traces that may be the outer side of this lone trace's call, best first; none if it is not lone."""
        inner = lone.lone_call(self._gateways)
        return [] if inner is None else sorted(self._outers(inner), key=lambda outer: _rank(outer, inner))

    def lone_traces(self, trace: OpenTrace) -> list[OpenTrace]:
        """Lone traces that are let go with this one, best match first."""
        if not self._lone:
            return []
        pairs: dict[Span, list[Span]] = {}  # inner call -> every open call that may be its outer
        looks = 0
        for outer in trace.carriers or ():
            if not tells_of_a_call(outer):
                continue
            for inner in self._candidates(outer):
                looks += 1
                if inner not in pairs and self._is_inner(outer, inner):
                    pairs[inner] = self._outers(inner)
                    looks += len(pairs[inner])
            if looks > MOST_CANDIDATES_A_TRACE:
                break
        if not pairs:
            return []
        ranked = sorted((_rank(outer, inner), outer, inner) for inner, outers in pairs.items() for outer in outers)
        taken: set[tuple[Span, str]] = set()
        home: dict[Span, Span] = {}
        for _, outer, inner in ranked:
            if inner not in home and (outer, inner.source.scope) not in taken:
                home[inner] = outer
                taken.add((outer, inner.source.scope))
        return [self._open(inner) for inner, outer in home.items() if outer.trace_id == trace.trace_id]

    def __len__(self) -> int:
        """Entries in use; 0 when no call is open."""
        return len(self._noted) + len(self._filed)

    def _outers(self, inner: Span) -> list[Span]:
        self._file_noted(len(self._noted))
        return [outer for outer in self._candidates(inner) if self._is_inner(outer, inner)]

    def _is_inner(self, outer: Span, inner: Span) -> bool:
        """`inner` is a lone trace's call, and may be told by `outer` in another trace."""
        if outer.trace_id == inner.trace_id or self._open(inner).lone_call(self._gateways) is not inner:
            return False
        if not may_tell_of_the_same_call(outer, inner, self._gateways):
            return False
        # Of two lone traces either could be the outer one: the longer span is, so that they never wait for each other in a ring.
        return self._open(outer).lone_call(self._gateways) is None or _length(outer) > _length(inner)

    def _candidates(self, call: Span) -> list[Span]:
        """Other filed calls that share a key with `call`; in a crowd the nearest in start."""
        found: dict[Span, None] = {}
        for key in _keys(call):
            there = self._filed.get(key)
            if there is None or there is call:
                continue
            scope = call.source.scope if isinstance(key, int) else None
            for other in islice(_others(there, call, but_not=scope), MOST_CANDIDATES):
                if other is not call:
                    found[other] = None
        return list(found)

    def _file_noted(self, most: int) -> None:
        """File traces that were only noted, the last ones first, no more than `most`."""
        for _ in range(min(most, len(self._noted))):
            self._file(self._noted.popitem()[0])

    def _file(self, trace: OpenTrace) -> None:
        """File those of its calls that are not filed yet."""
        carriers = trace.carriers or []
        calls = self._filed
        for call in carriers[trace.filed :]:
            if not tells_of_a_call(call):
                continue
            for key in _keys(call):
                there = calls.setdefault(key, call)
                if there is call:
                    continue
                if isinstance(there, Span):
                    calls[key] = [there, call]
                elif isinstance(there, list):
                    there.append(call)
                    if len(there) > _CROWD:
                        crowd: _Crowd = {}
                        for one in there:
                            _join(crowd, one)
                        calls[key] = crowd
                else:
                    _join(there, call)
        trace.filed = len(carriers)

    def _open(self, call: Span) -> OpenTrace:
        trace = self._traces[call.trace_id]
        assert isinstance(trace, OpenTrace), "only calls of open traces are in the index"
        return trace


def may_tell_of_the_same_call(outer: Span, inner: Span, gateways: tuple[str, ...]) -> bool:
    """The rules at the top, for two calls of different traces of one account."""
    ours, theirs = outer.reading, inner.reading
    assert ours is not None
    assert theirs is not None
    if ours.response_id and theirs.response_id:
        return ours.response_id == theirs.response_id and (
            outer.start_unix_nano <= inner.end_unix_nano + SLACK_NANO and inner.start_unix_nano <= outer.end_unix_nano + SLACK_NANO
        )
    if ours.tokens is None or theirs.tokens is None or outer.source.scope == inner.source.scope or ours.family != theirs.family:
        return False
    if ours.tokens.output_total != theirs.tokens.output_total:
        return False
    if ours.tokens.input_total != theirs.tokens.input_total and ours.tokens.uncached != theirs.tokens.uncached:
        return False
    if outer.start_unix_nano > inner.start_unix_nano + SLACK_NANO or inner.end_unix_nano > outer.end_unix_nano + SLACK_NANO:
        return False
    return (
        outer.source.process == inner.source.process or inner.source.scope.startswith(gateways) or outer.source.scope.startswith(gateways)
    )


def _keys(call: Span) -> tuple[str | int, ...]:
    """What another teller of the same call shares with it: its id, or its output with its input in one of two readings."""
    reading = call.reading
    assert reading is not None
    named: tuple[str | int, ...] = (reading.response_id,) if reading.response_id else ()
    tokens = reading.tokens
    if tokens is None:
        return named
    output = tokens.output_total << 40  # two numbers in one key; a collision only adds a candidate
    if tokens.uncached == tokens.input_total:
        return (output ^ tokens.input_total, *named)
    return (output ^ tokens.input_total, output ^ tokens.uncached, *named)


def _others(calls: _Calls, call: Span, *, but_not: str | None) -> Iterator[Span]:
    """Those that are not of this scope; of a crowd those that start near `call`, nearest steps first."""
    if isinstance(calls, Span):
        calls = [calls]
    if isinstance(calls, list):
        yield from (other for other in calls if other.source.scope != but_not)
        return
    step = call.start_unix_nano >> _STEP_BITS
    for away in range(_STEPS + 1):
        for near in (step - away, step + away) if away else (step,):
            for scope, others in calls.get(near, _NO_CALLS).items():
                if scope != but_not:
                    yield from others


def _join(crowd: _Crowd, call: Span) -> None:
    crowd.setdefault(call.start_unix_nano >> _STEP_BITS, {}).setdefault(call.source.scope, {})[call] = None


def _leave(crowd: _Crowd, call: Span) -> None:
    step = call.start_unix_nano >> _STEP_BITS
    by_scope = crowd[step]
    same_scope = by_scope[call.source.scope]
    del same_scope[call]
    if not same_scope:
        del by_scope[call.source.scope]
        if not by_scope:
            del crowd[step]


def _rank(outer: Span, inner: Span) -> tuple[int, int, int, bytes, bytes, bytes, bytes]:
    """Best match first: by id, then a model in common, then the tightest in time; ids of spans settle what is equal."""
    ours, theirs = outer.reading, inner.reading
    assert ours is not None
    assert theirs is not None
    same_id = bool(ours.response_id) and ours.response_id == theirs.response_id
    same_model = not set(ours.models).isdisjoint(theirs.models)
    slack = abs(inner.start_unix_nano - outer.start_unix_nano) + abs(outer.end_unix_nano - inner.end_unix_nano)
    return (not same_id, not same_model, slack, outer.trace_id, outer.span_id, inner.trace_id, inner.span_id)


def _length(call: Span) -> tuple[int, bytes, bytes]:
    return (call.end_unix_nano - call.start_unix_nano, call.trace_id, call.span_id)
