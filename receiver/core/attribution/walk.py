"""From the spans of a Group to the dimensions of its calls.

The agent is who was at work: the nearest span above the call that names one. A node of a graph (LangGraph) that was entered
below that span is finer and wins; one that the span itself is in does not, for graphs copy their node to everything below.
Top-down that is one rule: going down, a new name replaces what was decided, and so does a new graph node. The other dimensions
are properties of the request: strength of the key before nearness of the span, because an id of one conversation on the model's
span must not hide the session on the root (`plan.py` holds the order).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Final, Protocol

from receiver.core.attribution import slots
from receiver.core.attribution.plan import ORDERS
from receiver.core.attribution.rules import AttributionRules, Facts
from receiver.core.calls.call import LLMCall
from receiver.core.span import Span
from receiver.core.usage.reading import Klass

_CONFLICT: Final = ""  #: a trace holds several values (a fact is never empty)
_OF_AGENT: Final = (slots.AGENT_NAME, slots.AGENT_STATED, slots.AGENT_GRAPH)

Inherited = dict[int, str | None]
_EMPTY: Final[Inherited] = {slots.NOTHING: None}


class SpanTree(Protocol):
    """What attribution needs of `calls.tree.Tree`."""

    def parent(self, span: Span) -> Span | None:
        """The span above, orphans adopted; following it never leads back to a span."""

    def trace_spans(self, trace_id: bytes) -> Sequence[Span]:
        """All spans of one trace of the Group."""


class Walk:
    """Facts of one Group's spans, each read once, and what is inherited down the tree, each worked out once."""

    __slots__ = ("_dimensions", "_inherited", "_of_traces", "_on_resources", "_overlays", "_own", "_rules", "_tree")

    def __init__(self, tree: SpanTree, rules: AttributionRules) -> None:
        self._tree = tree
        self._rules = rules
        self._own: dict[Span, Facts] = {}  #: what a span says itself
        self._inherited: dict[Span, Inherited] = {}  #: what holds below it
        # Memories by the ids of dicts: sound because each dict that is ever a key is also held here as a value.
        self._overlays: dict[tuple[int, int], Inherited] = {}  #: (inherited, own) -> the one over the other
        self._on_resources: dict[tuple[int, int], tuple[Inherited, Facts]] = {}  #: (inherited, the source's) -> both, the source's
        self._dimensions: dict[tuple[int, bytes], tuple[str | None, ...]] = {}  #: (id of an inherited dict, trace) -> dimensions
        self._of_traces: dict[tuple[bytes, ...], _OfTrace] = {}

    def dimensions(self, call: LLMCall) -> tuple[str | None, ...]:
        """The dimensions of a call, in the order of `slots.WALKED`."""
        span = call.span
        if call.merged:
            trace_ids = tuple(sorted({span.trace_id, *[merged.trace_id for merged in call.merged]}))
            return self._resolve(self._combined(call), trace_ids)
        facts = self._at(span)
        key = (id(facts), span.trace_id)
        found = self._dimensions.get(key)
        if found is None:
            found = self._dimensions[key] = self._resolve(facts, (span.trace_id,))
        return found

    def _resolve(self, facts: Inherited, trace_ids: tuple[bytes, ...]) -> tuple[str | None, ...]:
        plan = self._rules.plan(tuple(facts))
        if plan.contested:
            of_trace = self._of_trace(trace_ids, plan.contested)
            if not plan.contested.isdisjoint(of_trace):
                return tuple(
                    next((text for at, asks in order if (text := facts.get(at) or (of_trace.get(at) if asks else None))), None)
                    for order in ORDERS
                )
        return plan.take(facts)

    def _said(self, span: Span) -> Facts:
        own = self._own.get(span)
        if own is None:
            own = self._own[span] = self._rules.facts(span)
        return own

    def _at(self, span: Span) -> Inherited:
        """What holds at a span: its own facts over those of its ancestors, `AGENT_NAME` being the agent decided there."""
        if not span.parent_span_id:  # what its children inherit holds its own name as the root's, too
            return self._overlay(self._over_resource(_EMPTY, span), self._said(span))
        return self._below(span)

    def _below(self, span: Span) -> Inherited:
        """What the children of a span inherit: what holds at it and, below a root, the root's name."""
        inherited = self._inherited
        found = inherited.get(span)
        if found is not None:
            return found
        parent = self._tree.parent(span)
        if parent is None or parent in inherited:
            return self._step(parent, span)
        path = [span]  # no recursion: a trace may be 10,000 spans deep
        while parent is not None and parent not in inherited:
            path.append(parent)
            parent = self._tree.parent(parent)
        facts = _EMPTY
        while path:
            node = path.pop()
            facts = self._step(parent, node)
            parent = node
        return facts

    def _step(self, parent: Span | None, span: Span) -> Inherited:
        """One step down: from what the parent's children inherit to what this span's do."""
        if parent is None:
            facts = self._over_resource(_EMPTY, span)
        else:
            facts = self._inherited[parent]
            if parent.source is not span.source:
                facts = self._over_resource(facts, span)
        own = self._own.get(span)
        if own is None:
            own = self._own[span] = self._rules.facts(span)
        if own:
            facts = self._overlay(facts, own)
        if not span.parent_span_id and span.name:
            facts = {**facts, slots.ROOT_NAME: span.name}
        self._inherited[span] = facts
        return facts

    def _over_resource(self, facts: Inherited, span: Span) -> Inherited:
        of_source = self._rules.facts_of_source(span.source)
        key = (id(facts), id(of_source))
        known = self._on_resources.get(key)
        if known is None:
            known = self._on_resources[key] = ({**facts, **of_source}, of_source)
        return known[0]

    def _overlay(self, above: Inherited, own: Facts) -> Inherited:
        if not own:
            return above
        key = (id(above), id(own))
        found = self._overlays.get(key)
        if found is None:
            found = self._overlays[key] = _overlay(above, own)
        return found

    def _combined(self, call: LLMCall) -> Inherited:
        """What holds for a call that several spans tell of: their own facts first (nearest first), then those above them."""
        spans = (call.span, *call.merged)
        above = [self._above(span) for span in spans]
        facts: Inherited = {}
        for inherited in reversed(above):
            facts.update(inherited)
        base = next((inherited for inherited in above if slots.AGENT_NAME in inherited), _EMPTY)
        facts.update({at: base[at] for at in _OF_AGENT if at in base})
        own: Facts = {}
        for span in reversed(spans):
            own.update(self._said(span))
        found = _overlay(facts, own)
        route = self._above(_outermost(call, self._tree)).get(slots.ROUTE)
        if route is None:
            found.pop(slots.ROUTE, None)
        else:
            found[slots.ROUTE] = route  # not that of a gateway, which stands between the call's spans
        return found

    def _above(self, span: Span) -> Inherited:
        parent = self._tree.parent(span)
        return self._over_resource(_EMPTY, span) if parent is None else self._over_resource(self._below(parent), span)

    def _of_trace(self, trace_ids: tuple[bytes, ...], asked: frozenset[int]) -> Facts:
        """Of these slots, those that some span of the traces fills: with the only value there, or `_CONFLICT`."""
        known = self._of_traces.get(trace_ids)
        if known is None:
            fillable = self._rules.fillable(list(chain.from_iterable(map(self._tree.trace_spans, trace_ids))))
            known = self._of_traces[trace_ids] = _OfTrace(fillable)
        found = known.facts
        if not asked.isdisjoint(known.unasked):
            fresh = asked & known.unasked
            known.unasked -= fresh
            for span in chain.from_iterable(map(self._tree.trace_spans, trace_ids)):
                own = self._own.get(span)
                if own is None:
                    # a model call is read anyway, and asking it first would cost half of that
                    if (span.reading is None or span.reading.klass is not Klass.MODEL_CALL) and not self._rules.may_say(span, fresh):
                        continue
                    own = self._said(span)
                if not fresh.isdisjoint(own):
                    for at in fresh:
                        text = own.get(at)
                        if text is not None and found.setdefault(at, text) != text:
                            found[at] = _CONFLICT
        return found


class _OfTrace:
    """What the spans of a trace (or of several together) say, as far as it was asked for."""

    __slots__ = ("facts", "unasked")

    def __init__(self, fillable: frozenset[int]) -> None:
        self.facts: Facts = {}
        self.unasked = fillable  #: slots that some span may fill, by its keys, and that were not asked for yet


def _outermost(call: LLMCall, tree: SpanTree) -> Span:
    """Of the call's spans the one that encloses the paying span from furthest above."""
    merged = set(map(id, call.merged))
    outermost = call.span
    node = tree.parent(outermost)
    while node is not None and merged:
        if id(node) in merged:
            outermost = node
            merged.discard(id(node))
        node = tree.parent(node)
    return outermost


def _overlay(above: Inherited, own: Facts) -> Inherited:
    """Own facts over inherited ones; a name that is new here decides who the agent is, else a graph node that is new here.

    A name that only repeats the one in force is a copy (Splunk's writes the graph's own name on every span of it).
    """
    facts: Inherited = {**above, **own}
    name = own.get(slots.AGENT_NAME)
    if name is not None:
        facts[slots.AGENT_STATED] = name
        if name != above.get(slots.AGENT_STATED):
            return facts
    node = own.get(slots.AGENT_GRAPH)
    decided = node if node is not None and node != above.get(slots.AGENT_GRAPH) else above.get(slots.AGENT_NAME)
    if decided is not None:
        facts[slots.AGENT_NAME] = decided
    return facts
