"""Which spans of a trace are model calls, each once, seen from the tree alone.

A *carrier* is a span that holds usage or a cost. Almost every agent framework repeats its children's usage on a parent, and
the parents are sometimes larger (lifetime totals of Strands, smolagents, Traceloop-CrewAI) and sometimes smaller (Vercel AI SDK
4/5 `generateText`: the last step only) than their children; so neither "the topmost wins" nor "the largest wins" is sound.
**The innermost carriers are counted**, and what stands above them is judged by its nearest carriers below:

  span s              its nearest carriers below               result
  any                 none                                      counted: also an agent, when it is the only carrier
  agent, tool, other  one is reached without crossing a tool    an aggregate: 0
                      all behind tools, sums equal to s         an aggregate: 0
                      all behind tools, sums differ             counted, and they are: its own calls are not instrumented
  model call          one of its family, no agent or tool       s and that one are the same call, the inner span pays; unless
                      between                                   models and output counts both differ
                      several such, each of another scope and   s and all of them are one call
                      agreeing with s
                      several such, otherwise                   an aggregate of them: 0
                      only of another family, or only behind    counted, and they are (a lookup inside a chat; a tool that
                      agents or tools                           calls a model)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from receiver.core.calls.same import agree, models_share_a_name
from receiver.core.usage.reading import Klass, Reading

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from receiver.core.calls.tree import Tree
    from receiver.core.span import Span


class Above(NamedTuple):
    """What a walk upward met."""

    span: Span | None  #: the nearest span above of those asked for, None if there is none
    tool: bool  #: a tool span lay between
    agent: bool  #: an agent span lay between


class Member(NamedTuple):
    """A nearest carrier below a span."""

    span: Span
    tool: bool
    agent: bool


class Candidate:
    """Spans that tell of one call."""

    __slots__ = ("others", "rules", "span", "top")

    def __init__(self, span: Span) -> None:
        self.span = span  #: the span that pays
        self.others: list[Span] = []  #: the other spans of the same call, nearest first
        self.top = span  #: the outermost of them in the tree
        self.rules: Sequence[str] = ()  #: the rules of `twins` that joined the others beside it, one each

    @property
    def spans(self) -> list[Span]:
        """All spans of the call, the paying one first."""
        return [self.span, *self.others]

    def __repr__(self) -> str:
        return f"Candidate({self.span!r}, +{len(self.others)})"


class Nesting(NamedTuple):
    """What the tree rule found in one trace."""

    candidates: list[Candidate]
    aggregates: dict[Span, Sequence[Member]]  #: spans that only repeat carriers below them, with these
    merged: list[tuple[Span, Span]]  #: (outer, inner) that are the same call


_NOTHING: Mapping[Span, Sequence[Member]] = {}
_NOWHERE = Above(None, False, False)


def nest(carriers: Sequence[Span], tree: Tree) -> Nesting:
    """Apply the table above to the carriers of one trace."""
    below = _members(carriers, tree) if len(carriers) > 1 else _NOTHING
    if not below:  # most traces: usage on leaves only
        return Nesting([Candidate(span) for span in carriers], {}, [])
    aggregates: dict[Span, Sequence[Member]] = {}
    inner_of: dict[Span, list[Span]] = {}
    for span, members in below.items():
        same = _judge(span, members)
        if same is None:
            continue
        if same:
            inner_of[span] = same
        else:
            aggregates[span] = members
    _outer_of_an_aggregate(below, inner_of, aggregates)
    candidates = _join(carriers, aggregates, inner_of)
    return Nesting(candidates, aggregates, [(outer, inner) for outer, inners in inner_of.items() for inner in inners])


def nearest_above(starts: Iterable[Span], stops: Collection[Span], tree: Tree) -> dict[Span, Above]:
    """For each of `starts` the nearest span of `stops` above it, and what lay between. Linear in the spans walked over."""
    found: dict[Span, Above] = {}
    walked: dict[Span, Above] = {}  # of spans that are no stops: what is met from there, themselves included
    parents: Mapping[Span, Span] | None = None
    for start in starts:
        if parents is None:
            parents = tree.index(start.trace_id)
        node = parents.get(start)
        path: list[Span] = []
        while node is not None and node not in stops and node not in walked:
            path.append(node)
            node = parents.get(node)
        above = _NOWHERE if node is None else Above(node, False, False) if node in stops else walked[node]
        for between in reversed(path):
            if above.span is not None and between.reading is not None:
                klass = between.reading.klass
                if klass is Klass.TOOL:
                    above = Above(above.span, True, above.agent)
                elif klass is Klass.AGENT:
                    above = Above(above.span, above.tool, True)
            walked[between] = above
        found[start] = above
    return found


def _members(carriers: Sequence[Span], tree: Tree) -> Mapping[Span, Sequence[Member]]:
    below: dict[Span, list[Member]] = {}
    for span, above in nearest_above(carriers, set(carriers), tree).items():
        if above.span is not None:
            below.setdefault(above.span, []).append(Member(span, above.tool, above.agent))
    for members in below.values():
        if len(members) > 1:  # not in order of arrival: the same spans in another order must be counted alike
            members.sort(key=lambda member: (member.span.start_unix_nano, member.span.span_id))
    return below


def _judge(span: Span, members: Sequence[Member]) -> list[Span] | None:
    """None: `span` is counted itself. Empty: it is an aggregate. Else: it is the same call as these."""
    reading = reading_of(span)
    if reading.klass is Klass.MODEL_CALL:
        return _judge_model_call(reading, members)
    if all(member.tool for member in members):
        return None if tokens_of(reading) != _sum(members) else []
    if _lookups_only(reading, members):
        return None
    return []


def _judge_model_call(reading: Reading, members: Sequence[Member]) -> list[Span] | None:
    direct = [
        member.span
        for member in members
        if not member.tool
        and not member.agent
        and reading_of(member.span).family == reading.family
        and reading_of(member.span).klass in (Klass.MODEL_CALL, Klass.NONE)
    ]
    if not direct:
        return None
    if reading.response_id:
        named = [span for span in direct if reading_of(span).response_id == reading.response_id]
        if len(named) == 1 and len(direct) > 1:
            return named
    agreeing = [span for span in direct if agree(reading_of(span), reading)]
    if agreeing and len({span.source.scope for span in agreeing}) == len(agreeing):
        return agreeing
    different = [span for span in direct if _proven_different(reading, reading_of(span))]
    if len(different) == len(direct):
        return None
    return direct if len(direct) == 1 else []


def _proven_different(one: Reading, other: Reading) -> bool:
    return bool(one.models and other.models) and not models_share_a_name(one, other) and tokens_of(one)[1] != tokens_of(other)[1]


def _lookups_only(reading: Reading, members: Sequence[Member]) -> bool:
    """An agent that generated text, above nothing but lookups (embeddings, reranking) that generated none.

    Its usage cannot be a sum of theirs: the calls that generated are not instrumented.
    """
    own = tokens_of(reading)
    total = _sum(members)
    return own[1] > 0 and total[1] == 0 and all(reading_of(member.span).family != "gen" for member in members)


def _outer_of_an_aggregate(
    below: Mapping[Span, Sequence[Member]], inner_of: dict[Span, list[Span]], aggregates: dict[Span, Sequence[Member]]
) -> None:
    """What is the same call as an aggregate is one, too (a model call over a model call over several)."""
    outer_of = {inner: outer for outer, inners in inner_of.items() for inner in inners}
    queue = [span for span in aggregates if span in outer_of]
    for span in queue:
        outer = outer_of[span]
        inner_of[outer].remove(span)
        if not inner_of[outer]:
            del inner_of[outer]
            aggregates[outer] = below[outer]
            if outer in outer_of:
                queue.append(outer)


def _sum(members: Iterable[Member]) -> tuple[int, int]:
    amounts = [tokens_of(reading_of(member.span)) for member in members]
    return sum(amount[0] for amount in amounts), sum(amount[1] for amount in amounts)


def _join(carriers: Sequence[Span], aggregates: Collection[Span], inner_of: Mapping[Span, Sequence[Span]]) -> list[Candidate]:
    """Candidates from the counted spans and the chains of spans that are the same call."""
    if not inner_of:
        return [Candidate(span) for span in carriers if span not in aggregates]
    root: dict[Span, Span] = {}

    def find(span: Span) -> Span:
        top = span
        while (up := root.get(top, top)) is not top:
            top = up
        while (up := root.get(span, span)) is not top:
            root[span], span = top, up
        return top

    for outer, inners in inner_of.items():
        for inner in inners:
            root[find(outer)] = find(inner)
    parts: dict[Span, list[Span]] = {}
    for span in carriers:
        if span not in aggregates:
            parts.setdefault(find(span), []).append(span)
    candidates = []
    for spans in parts.values():
        innermost = [span for span in spans if span not in inner_of]
        payer = max(innermost, key=richness) if len(innermost) > 1 else innermost[0]
        candidate = Candidate(payer)
        if len(spans) > 1:
            outer_ones = _outward(payer, inner_of, spans)
            candidate.top = outer_ones[-1] if outer_ones else payer
            beside = sorted((span for span in innermost if span is not payer), key=richness, reverse=True)
            known = {payer, *outer_ones, *beside}
            candidate.others = [*outer_ones, *beside, *(span for span in spans if span not in known)]
        candidates.append(candidate)
    return candidates


def _outward(payer: Span, inner_of: Mapping[Span, Sequence[Span]], spans: Sequence[Span]) -> list[Span]:
    """The outer spans of one call, from the paying span outward."""
    outer_of: dict[Span, Span] = {}  # a span has one nearest carrier above it, so at most one outer span
    for outer in spans:
        for inner in inner_of.get(outer, ()):
            outer_of[inner] = outer
    chain = []
    node = outer_of.get(payer)
    while node is not None:
        chain.append(node)
        node = outer_of.get(node)
    return chain


def richness(span: Span) -> tuple[bool, bool, bool, bool, int, bytes]:
    """Order the tellers of one call by how much they know; the greatest pays.

    An input at all first, then cached tokens, their 5m/1h split, a model that answered (not only the one that was asked), and the
    later start (the inner span).
    """
    reading = reading_of(span)
    tokens = reading.tokens
    return (
        tokens is not None and tokens.input_total > 0,
        tokens is not None and (tokens.cache_read > 0 or tokens.cache_write > 0),
        reading.has_write_split,
        any(model != reading.model_requested for model in reading.models),
        span.start_unix_nano,
        span.span_id,
    )


def reading_of(span: Span) -> Reading:
    """The reading of a carrier; only spans with a reading become carriers."""
    assert span.reading is not None
    return span.reading


def tokens_of(reading: Reading) -> tuple[int, int]:
    """Input and output, cached input included; (0, 0) where only a cost is known."""
    return (reading.tokens.input_total, reading.tokens.output_total) if reading.tokens is not None else (0, 0)
