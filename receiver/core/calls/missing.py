"""Model calls that came without usage: they cost something, and nothing tells how much. Never $0 in silence.

A model-call span without usage is no missing call when another span tells of its call: one that is counted inside it or around
it, or beside it (the same id, or the same place and time from another scope); or an agent around it that is counted as the only
carrier, since that one's sum contains it. Of two such spans one in the other, the inner one is listed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from receiver.core.calls.nesting import Candidate, nearest_above, reading_of
from receiver.core.calls.same import models_compatible
from receiver.core.calls.twins import MAX_BRANCH, SLACK_NANO, CountOptions, interval, reach
from receiver.core.span import STATUS_CODE_ERROR, Span
from receiver.core.usage.reading import Klass

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from receiver.core.calls.tree import Tree

_BY_START: Final = attrgetter("start_unix_nano", "span_id")
NO_USAGE: Final = "no_usage"  #: a model call that shows no usage and no cost
ERROR: Final = "error"  #: the same, and it failed: most often nothing was billed
SAMPLED: Final = "sampled"  #: a trace with a sampling threshold: others like it were never sent
DROPPED: Final = "dropped_attributes"  #: the SDK dropped attributes of this span


def reason_of(span: Span) -> str:
    """Why a model call has no usage, as far as its span tells."""
    return ERROR if span.status_code == STATUS_CODE_ERROR else NO_USAGE


def without_usage(
    bare: Sequence[Span], candidates: Sequence[Candidate], carriers: Iterable[Span], tree: Tree, options: CountOptions
) -> tuple[list[Span], Counter[Span]]:
    """Find the model-call spans among `bare` (which hold no usage) whose call no candidate tells of.

    Also returned: for how many of the others each span stands that is counted as the only carrier above them.
    """
    told: set[Span] = set()
    stands_for: Counter[Span] = Counter()
    paying = {span for candidate in candidates for span in candidate.spans}
    for trace_bare, trace_carriers in _by_trace(bare, carriers):
        among = set(trace_bare)
        stops = among.union(trace_carriers)
        above = nearest_above([*trace_bare, *trace_carriers], stops, tree)
        for start in (*trace_carriers, *trace_bare):  # what is told or listed below it needs no line of its own
            node: Span = start
            while True:
                met = above[node]
                if met.span is None or met.tool or met.agent or met.span not in among or met.span in told:
                    break
                if reading_of(met.span).family != reading_of(node).family:
                    break
                told.add(met.span)
                node = met.span
        over = nearest_above(trace_bare, set(trace_carriers), tree)
        for span, met in over.items():
            if met.span is None or met.tool or met.span not in paying:
                continue
            reading = reading_of(met.span)
            if reading.klass is not Klass.MODEL_CALL:
                if span not in told:
                    stands_for[met.span] += 1
                told.add(span)
            elif not met.agent and reading.family == reading_of(span).family:
                if span.status_code != STATUS_CODE_ERROR:  # (one that failed and was tried again used nothing)
                    stands_for[met.span] += 1
                told.add(span)
    left = [span for span in bare if span not in told]
    if left and candidates:
        left = _not_beside(left, candidates, tree, options)
    return left, stands_for


def _by_trace(bare: Iterable[Span], carriers: Iterable[Span]) -> Iterable[tuple[list[Span], list[Span]]]:
    traces: dict[bytes, tuple[list[Span], list[Span]]] = {}
    for span in bare:
        traces.setdefault(span.trace_id, ([], []))[0].append(span)
    for span in carriers:
        if span.trace_id in traces:
            traces[span.trace_id][1].append(span)
    return traces.values()


def _not_beside(left: Sequence[Span], candidates: Sequence[Candidate], tree: Tree, options: CountOptions) -> list[Span]:
    """Those of `left` that no candidate tells of from another place; a candidate answers for one span of each scope."""
    by_id: dict[str, list[Span]] = {}
    by_place: dict[object, list[Span]] = {}
    by_branch: dict[object, list[Span]] = {}
    by_process: dict[str, list[Span]] = {}
    across = options.lost_context and len(tree.traces) > 1
    neighbours = reach(len(left) + len(candidates))
    for span in sorted((span for candidate in candidates for span in candidate.spans), key=_BY_START):
        response_id = reading_of(span).response_id
        if response_id:
            by_id.setdefault(response_id, []).append(span)
        by_place.setdefault(_place(span, tree), []).append(span)
        for above in _own_branch(span, tree):
            by_branch.setdefault(above, []).append(span)
        by_process.setdefault(span.source.process, []).append(span)
    taken: set[tuple[Span, str]] = set()
    rest = []
    for span in sorted(left, key=_BY_START):
        scope = span.source.scope
        response_id = reading_of(span).response_id
        near = _around(span, by_id.get(response_id, ()), neighbours) if response_id else []
        near += [other for other in _around(span, by_place.get(_place(span, tree), ()), neighbours) if _same_time(span, other)]
        near += [other for other in _around(span, by_branch.get(_place(span, tree), ()), neighbours) if _within(span, other)]
        if across:
            near += [other for other in _around(span, by_process.get(span.source.process, ()), neighbours) if _lost_context(span, other)]
        for other in near:
            if (other, scope) not in taken and (_same_id(span, other) or _may_be_same(span, other)):
                taken.add((other, scope))
                break
        else:
            rest.append(span)
    order: Mapping[Span, int] = {span: place for place, span in enumerate(left)}
    return sorted(rest, key=lambda span: order[span])


def _around(span: Span, others: Sequence[Span], neighbours: int) -> list[Span]:
    """The spans of `others`, which are in order of time, that start next before and after `span`."""
    place = bisect_left(others, span.start_unix_nano, key=attrgetter("start_unix_nano"))
    return [*others[max(0, place - neighbours) : place + neighbours]]


def _place(span: Span, tree: Tree) -> object:
    parent = tree.parent(span)
    return parent if parent is not None else (span.trace_id, span.parent_span_id)


def _own_branch(span: Span, tree: Tree) -> Iterator[Span]:
    """What stands above it beyond its parent, as long as only spans of its own scope lie between (`own_branch` in `twins`)."""
    below = tree.parent(span)
    for _ in range(MAX_BRANCH):
        if below is None or below.source.scope != span.source.scope:
            return
        below = tree.parent(below)
        if below is not None:
            yield below


def _same_id(span: Span, other: Span) -> bool:
    response_id = reading_of(span).response_id
    return bool(response_id) and response_id == reading_of(other).response_id


def _may_be_same(span: Span, other: Span) -> bool:
    mine, theirs = reading_of(span), reading_of(other)
    if mine.family != theirs.family or (mine.response_id and theirs.response_id and mine.response_id != theirs.response_id):
        return False
    log = other.start_unix_nano == other.end_unix_nano  # a stream's usage, written by the same scope at its end
    return (log or span.source.scope != other.source.scope) and models_compatible(mine, theirs)


def _same_time(span: Span, other: Span) -> bool:
    start, end = interval(other)
    return start - SLACK_NANO <= span.end_unix_nano and span.start_unix_nano <= end + SLACK_NANO


def _lost_context(span: Span, other: Span) -> bool:
    if span.trace_id == other.trace_id or span.source.process != other.source.process:
        return False
    return not (span.parent_span_id and other.parent_span_id) and (_within(span, other) or _within(other, span))


def _within(span: Span, other: Span) -> bool:
    (start, end), (around_start, around_end) = interval(span), interval(other)
    return around_start - SLACK_NANO <= start and end <= around_end + SLACK_NANO
