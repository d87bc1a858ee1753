"""Which counted calls are told twice side by side: by siblings, or by spans of another trace.

Two instrumentations of one process do not know of each other. Where the one makes its span after the call (a callback), or never
makes it current, the other's span is no child of it but a sibling, or the root of a trace of its own. A gateway's own spans stand in
another trace and process when nobody passed the trace context on. What joins two candidates of one family, strongest first:

  response_id   the same id, different scopes: overlapping in time (also with differing counts: streams of Traceloop add
                Anthropic's `message_start`), or, in one trace, agreeing. The same id and scope: only if they overlap, and agree or
                have an id too long to come twice (LiteLLM 1.60 ends a stream's span twice, first with a guess; but Ollama draws
                its ids from a thousand numbers).
  same_place    below, all: no two ids, different scopes, agreeing counts, compatible models;
                here: overlapping, in one trace, under one parent. A model-call span without usage around the one stands for it,
                and so does a wrapper of its own scope that holds nothing else that is counted.
  own_branch    here: in one trace, the inner one within the outer one (5 ms), and one stands directly under a span that is above
                the other, with spans of the other's own scope alone between. (An instrumentation that never makes its spans current
                lets the client's span stand under what was current before: @arizeai/openinference-instrumentation-openai-agents
                0.2.) So do two that each grew a branch of their own scope, the tops of which began and ended together (5 ms): two
                callback handlers on one framework.
  lost_parent   here: in one trace, the inner one's parent did not come, and it lies within the outer one (5 ms).
  lost_context  another trace, the same process; the inner one has no parent at all and lies within the outer one (5 ms).
  gateway       another trace, another process; the inner one's scope is a gateway's, it lies within the outer one, and both
                name a model.

The same scope without an equal id is never joined: parallel agents do send equal prompts. A call takes one twin a scope, the
tightest in time first, so two equal parallel calls that are told twice stay two.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Final

from receiver.core.calls.nesting import Candidate, reading_of, richness, tokens_of
from receiver.core.calls.same import agree, models_compatible, models_share_a_name
from receiver.core.usage.reading import Klass

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence

    from receiver.core.calls.tree import Tree
    from receiver.core.span import Span

SLACK_NANO: Final = 5_000_000  #: how far a twin may stick out of the other: two libraries read the clock one after the other
NEIGHBOURS: Final = 64  #: equal candidates compared with each one, next in time: a fan-out of so many equal prompts is told apart
MAX_PAIRS: Final = 65_536  #: compared in one Group, about 100 ms; in one with more than 1,024 candidates each has fewer neighbours
UNIQUE_ID: Final = 20  #: characters of a response id that nobody draws twice: a UUID has 36, OpenAI's and Anthropic's more than 24
MAX_WRAPPERS: Final = 8  #: wrappers looked through above a span; real ones nest four deep
MAX_BRANCH: Final = 32  #: spans of its own scope looked through above a call; a graph of agents nests some twenty deep


@dataclass(frozen=True, slots=True, kw_only=True)
class CountOptions:
    """What an operator may switch off: the rules that join spans across traces rest on time, counts and process alone."""

    lost_context: bool = True  #: join a root span to the call that contains it in another trace of the same process
    lost_parent: bool = True  #: join a span whose parent did not come to the call that contains it in its trace
    gateway: bool = True  #: join a gateway's spans to a client's in another trace and process
    response_id_across_traces: bool = True  #: join equal response ids of different traces
    gateway_scopes: tuple[str, ...] = ("litellm",)  #: beginnings of scopes whose spans may tell of another process's call


class _Side:
    """A candidate as it is compared: all its spans taken together."""

    __slots__ = (
        "branch", "branch_top", "candidate", "end", "ids", "into", "joined", "lost_parent", "payers", "places", "rule", "scopes",
        "start", "top", "traces",
    )  # fmt: skip

    def __init__(self, candidate: Candidate) -> None:
        spans = candidate.spans
        self.candidate = candidate
        self.start, self.end = interval(spans[0])
        self.ids: set[str] = set()
        self.scopes = {span.source.scope for span in spans}
        self.traces = {candidate.span.trace_id}
        for span in spans:
            start, end = interval(span)
            self.start, self.end = min(self.start, start), max(self.end, end)
            response_id = reading_of(span).response_id
            if response_id:
                self.ids.add(response_id)
        self.places: set[Hashable] = set()  #: what it stands under
        self.top = candidate.top  #: the outermost span of it, what only wraps it included
        self.branch: set[Span] = set()  #: the spans above it, up to and with the first of another scope
        self.branch_top = self.top  #: the highest of them that is of its own scope
        self.payers = [candidate.span]  #: whose counts are compared
        self.into: _Side | None = None
        self.lost_parent = False  #: the span above it is not known
        self.rule = ""  #: by which rule it was joined
        self.joined: list[_Side] = []  #: what was joined into this one, in order

    @property
    def family(self) -> str:
        return reading_of(self.candidate.span).family

    @property
    def order(self) -> tuple[int, int, bytes, bytes]:
        span = self.candidate.span
        return (self.start, self.end, span.trace_id, span.span_id)

    def find(self) -> _Side:
        side = self
        while side.into is not None:
            side = side.into
        return side

    def amounts(self) -> set[Hashable]:
        """What two that agree have in common: output, and input with or without what a cache held."""
        found: set[Hashable] = set()
        for span in self.payers:
            reading = reading_of(span)
            if reading.tokens is not None:
                found.add((reading.family, reading.tokens.output_total, reading.tokens.input_total))
                found.add((reading.family, reading.tokens.output_total, reading.tokens.uncached))
                if reading.tokens.output_total:
                    found.add((reading.family, reading.tokens.output_total, 0))  # agrees with one that lost its input
        return found

    def overlaps(self, other: _Side) -> bool:
        return self.start <= other.end and other.start <= self.end

    def is_gateway(self, options: CountOptions) -> bool:
        return any(scope.startswith(options.gateway_scopes) for scope in self.scopes)

    def lies_in(self, other: _Side) -> bool:
        return other.start - SLACK_NANO <= self.start and self.end <= other.end + SLACK_NANO


def interval(span: Span) -> tuple[int, int]:
    """When it happened. A log-like span of Logfire is written at the end of what it tells of, with `duration` in seconds."""
    start, end = span.start_unix_nano, span.end_unix_nano
    if start == end:
        attributes = dict(span.attributes)
        duration = attributes.get("duration")
        if attributes.get("logfire.span_type") == "log" and isinstance(duration, (int, float)) and 0 < duration < 86_400:
            start -= int(duration * 1e9)
    return start, max(start, end)


def join_twins(candidates: Sequence[Candidate], tree: Tree, options: CountOptions) -> list[Candidate]:
    """Join the candidates of a Group that tell of the same call; in the order given, the joined ones at their first."""
    if len(candidates) < 2:
        return list(candidates)
    able = [c for c in candidates if reading_of(c.span).klass in (Klass.MODEL_CALL, Klass.NONE)]
    scopes = {span.source.scope for c in able for span in (c.span, *c.others)}
    if len(scopes) < 2 and not _an_id_comes_twice(able):
        return list(candidates)
    sides = sorted((_Side(candidate) for candidate in able), key=lambda side: side.order)
    changed = _join_by_id(sides, options)
    if len(scopes) > 1:
        live = [side for side in sides if side.into is None]
        gone = {id(side.candidate) for side in sides if side.into is not None}
        _find_places(live, [candidate for candidate in candidates if id(candidate) not in gone], tree)
        changed |= _join_by_place_and_time(live, options)
    if not changed:
        return list(candidates)
    gone = {id(side.candidate) for side in sides if side.into is not None}
    for side in sides:
        if side.into is None and side.joined:
            _merge(side)
    return [candidate for candidate in candidates if id(candidate) not in gone]


def _an_id_comes_twice(candidates: Iterable[Candidate]) -> bool:
    seen: set[str] = set()
    for candidate in candidates:
        response_id = reading_of(candidate.span).response_id
        if response_id:
            if response_id in seen:
                return True
            seen.add(response_id)
    return False


def _join_by_id(sides: Sequence[_Side], options: CountOptions) -> bool:
    buckets: dict[Hashable, list[_Side]] = {}
    for side in sides:
        for response_id in side.ids:
            buckets.setdefault((side.family, response_id), []).append(side)
    pairs = _near(buckets, reach(len(sides)))
    return _join_tightest(pairs, lambda one, other: _same_id(one, other, options), "response_id")


def _same_id(one: _Side, other: _Side, options: CountOptions) -> bool:
    across = one.traces.isdisjoint(other.traces)
    if across and not options.response_id_across_traces:
        return False
    overlap = one.overlaps(other)
    if one.scopes.isdisjoint(other.scopes):
        return overlap or (not across and _agree(one, other))
    return overlap and (_agree(one, other) or any(len(shared) >= UNIQUE_ID for shared in one.ids & other.ids))


def _join_by_place_and_time(live: Sequence[_Side], options: CountOptions) -> bool:
    by_place: dict[Hashable, list[_Side]] = {}
    by_amount: dict[Hashable, list[_Side]] = {}
    for side in live:
        for amount in side.amounts():
            by_amount.setdefault(amount, []).append(side)
            for place in side.places:
                by_place.setdefault((amount, place), []).append(side)
    neighbours = reach(len(live))
    pairs = chain(_near(by_place, neighbours), _near(by_amount, neighbours))
    return _join_tightest(pairs, lambda one, other: _rule_without_ids(one, other, options), "")


def _rule_without_ids(one: _Side, other: _Side, options: CountOptions) -> str:
    """The rule by which two candidates are one call although no two ids say so, "" if none."""
    if (one.ids and other.ids) or not one.scopes.isdisjoint(other.scopes) or not _agree(one, other):
        return ""
    mine, theirs = reading_of(one.candidate.span), reading_of(other.candidate.span)
    if not models_compatible(mine, theirs) and not _any_models_shared(one, other):
        return ""
    if not one.traces.isdisjoint(other.traces):
        if one.overlaps(other) and not one.places.isdisjoint(other.places):
            return "same_place"
        if _below_on_own_branch(one, other) or _below_on_own_branch(other, one) or _branches_alike(one, other):
            return "own_branch"
        lost = options.lost_parent and ((one.lost_parent and one.lies_in(other)) or (other.lost_parent and other.lies_in(one)))
        return "lost_parent" if lost else ""
    same_process = one.top.source.process == other.top.source.process
    for inner, outer in ((one, other), (other, one)):
        if not inner.lies_in(outer):
            continue
        if options.lost_context and same_process and not inner.top.parent_span_id:
            return "lost_context"
        if options.gateway and not same_process and inner.is_gateway(options) and _any_models_shared(one, other):
            return "gateway"
    return ""


def _below_on_own_branch(inner: _Side, outer: _Side) -> bool:
    """The inner one stands right under a span from which the outer one's own instrumentation went on, and lies within it."""
    return inner.lies_in(outer) and not outer.branch.isdisjoint(inner.places)


def _branches_alike(one: _Side, other: _Side) -> bool:
    """Each has a branch of its own scope from one span down, and the two branches began and ended together."""
    if one.branch.isdisjoint(other.branch) or not (one.lies_in(other) or other.lies_in(one)):
        return False
    mine, theirs = one.branch_top, other.branch_top
    if mine is one.top or theirs is other.top:
        return False
    apart = max(abs(mine.start_unix_nano - theirs.start_unix_nano), abs(mine.end_unix_nano - theirs.end_unix_nano))
    return apart <= SLACK_NANO


def _any_models_shared(one: _Side, other: _Side) -> bool:
    return any(models_share_a_name(reading_of(a), reading_of(b)) for a in one.candidate.spans for b in other.candidate.spans)


def _agree(one: _Side, other: _Side) -> bool:
    return any(agree(reading_of(a), reading_of(b)) for a in one.payers for b in other.payers)


def reach(candidates: int) -> int:
    """How many neighbours each of so many candidates is compared with: a bound against a trace that is made to be quadratic."""
    return max(4, min(NEIGHBOURS, MAX_PAIRS // max(candidates, 1)))


def _near(buckets: Mapping[Hashable, list[_Side]], neighbours: int) -> Iterator[tuple[_Side, _Side]]:
    """The pairs of each bucket, whose sides are in order of time: each with its next few."""
    for bucket in buckets.values():
        for place, one in enumerate(bucket):
            for other in bucket[place + 1 : place + 1 + neighbours]:
                yield one, other


def _join_tightest(pairs: Iterable[tuple[_Side, _Side]], judge: Callable[[_Side, _Side], str | bool], name: str) -> bool:
    """Join the pairs that `judge` finds to be one call, the tightest in time first; `name` is the rule when it says only True."""
    found = []
    for one, other in pairs:
        rule = judge(one, other)
        if rule:
            gap = abs(one.start - other.start) + abs(one.end - other.end)
            found.append((gap, one.order, other.order, one, other, name or str(rule)))
    if not found:
        return False
    found.sort(key=lambda entry: entry[:3])
    changed = False
    for _, _, _, one, other, rule in found:
        keeper, joiner = one.find(), other.find()
        if keeper is joiner:
            continue
        if rule != "response_id" and (not keeper.scopes.isdisjoint(joiner.scopes) or (keeper.ids and joiner.ids)):
            continue  # it has its twin of that scope, a tighter one, or another id by now
        joiner.into = keeper
        joiner.rule = rule
        keeper.payers += joiner.payers
        keeper.joined += [joiner, *joiner.joined]
        keeper.scopes |= joiner.scopes
        keeper.ids |= joiner.ids
        keeper.traces |= joiner.traces
        keeper.places |= joiner.places
        keeper.start, keeper.end = min(keeper.start, joiner.start), max(keeper.end, joiner.end)
        changed = True
    return changed


def _merge(side: _Side) -> None:
    """One candidate of all that were joined: the richest pays, its own outer spans come first, then the others as joined."""
    parts = [side.candidate, *(joined.candidate for joined in side.joined)]
    fullest: dict[str, Candidate] = {}  # of each scope: of two that one scope wrote of one call, the smaller one came before its end
    for part in sorted(parts, key=lambda part: tokens_of(reading_of(part.span))[::-1]):
        fullest[part.span.source.scope] = part
    payer = max(fullest.values(), key=lambda part: richness(part.span))
    others = [*payer.others]
    for part in parts:
        if part is not payer:
            others += [part.span, *part.others]
    side.candidate.span, side.candidate.others = payer.span, others
    side.candidate.rules = [joined.rule for joined in side.joined]


def _find_places(sides: Iterable[_Side], candidates: Iterable[Candidate], tree: Tree) -> None:
    """What each candidate stands under: its parents, and what stands above a span that only wraps it."""
    payers: dict[bytes, list[Span]] = {}
    for candidate in candidates:
        payers.setdefault(candidate.span.trace_id, []).append(candidate.span)
    counted_below: dict[bytes, dict[Span, int]] = {}
    for side in sides:
        trace_id = side.candidate.span.trace_id
        parents = tree.index(trace_id)
        members = set(side.candidate.spans)
        for span in members:
            above = parents.get(span)
            if above not in members:
                side.places.add(above if above is not None else (trace_id, span.parent_span_id))
        for _ in range(MAX_WRAPPERS):
            above = parents.get(side.top)
            if above is None or above.reading is None:
                break
            reading = above.reading
            if reading.klass is Klass.MODEL_CALL:
                wraps = not reading.is_carrier
            else:
                wraps = above.source.scope == side.top.source.scope and reading.klass is not Klass.NEVER
                if wraps:
                    if trace_id not in counted_below:
                        counted_below[trace_id] = _counted_below(payers[trace_id], trace_id, tree)
                    wraps = counted_below[trace_id].get(above, 0) == 1
            if not wraps:
                break
            side.top = above
            higher = parents.get(above)
            side.places.add(higher if higher is not None else (trace_id, above.parent_span_id))
        side.lost_parent = tree.lost_its_parent(side.top)
        _climb_own_branch(side, parents)


def _climb_own_branch(side: _Side, parents: Mapping[Span, Span]) -> None:
    side.branch_top = side.top
    above = parents.get(side.top)
    for _ in range(MAX_BRANCH):
        if above is None:
            break
        side.branch.add(above)
        if above.source.scope not in side.scopes:
            break
        side.branch_top = above
        above = parents.get(above)


def _counted_below(payers: Iterable[Span], trace_id: bytes, tree: Tree) -> dict[Span, int]:
    """How many candidates are paid by a span at or below each span of a trace."""
    below: dict[Span, int] = dict.fromkeys(payers, 1)
    parents = tree.index(trace_id)
    for span in tree.leaves_first(trace_id):
        amount = below.get(span)
        above = parents.get(span)
        if amount and above is not None:
            below[above] = below.get(above, 0) + amount
    return below
