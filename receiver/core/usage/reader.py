"""Read a span once: what it says of a model call, as a `Reading`.

It runs on every new span, so what is the same for many spans is worked out once: per shape (emitter and tuple of keys) where the
counts stand; per shape and deciding texts (class, names, tier) the `Statics`. Spans that state no counts share one Reading.
All caches are bounded: scopes, keys and texts come from clients.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from receiver.core.span import Keys
from receiver.core.usage import names
from receiver.core.usage.boxes import RawUsage, add_langfuse, add_raw
from receiver.core.usage.buckets import tokens
from receiver.core.usage.cache_mode import cache_mode
from receiver.core.usage.coerce import container, is_cut
from receiver.core.usage.draft import Draft
from receiver.core.usage.fields import Counts, Shape, gather
from receiver.core.usage.klass import is_special_name
from receiver.core.usage.quick import quick_draft
from receiver.core.usage.statics import Statics, deciding_keys, statics_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from receiver.core.span import Source, Span, Value
    from receiver.core.usage.emitters import Emitter
    from receiver.core.usage.reading import CacheMode, Reading
    from receiver.core.usage.rules import Rules

#: Entries of each cache; one that is full starts anew, which costs some 20 microseconds a span until it is warm again.
MAX_SOURCES: Final = 1_024
MAX_SHAPES: Final = 4_096
MAX_STATICS: Final = 8_192
MAX_NAMES: Final = 8_192


class _Plan:
    """A shape with the places of its deciding texts, and the Statics found so far."""

    __slots__ = ("keys", "pick", "shape", "statics")

    def __init__(self, keys: tuple[str, ...], shape: Shape, places: tuple[int, ...]) -> None:
        self.keys = Keys(keys)
        self.shape = shape
        self.pick: Callable[[Sequence[Value]], Any] | None = itemgetter(*places) if places else None
        self.statics: dict[Any, Statics] = {}


class _Known:
    """An emitter and the plans of its shapes."""

    __slots__ = ("emitter", "names", "plans")

    def __init__(self, emitter: Emitter) -> None:
        self.emitter = emitter
        self.plans: dict[tuple[str, ...], _Plan] = {}
        self.names: dict[str, str] = {}  #: span name -> itself where it decides the class, else ""


class Reader:
    """Reads spans by one set of Rules. Not thread-safe; one per event loop is enough."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self._deciding = deciding_keys(rules)
        self._by_source: dict[Source, _Known] = {}
        self._by_scope: dict[tuple[str, str], _Known] = {}
        self._shapes = 0
        self._statics = 0

    def read(self, span: Span) -> Reading:
        """What `span` says, also stored in `span.reading`; its keys are stored in `span.keys`."""
        known = self._by_source.get(span.source)
        if known is None:
            known = self._known(span.source)
        attributes = span.attributes
        keys: tuple[str, ...]
        values: tuple[Value, ...]
        keys, values = zip(*attributes, strict=False) if attributes else ((), ())  # pairs: nothing to be strict about
        plan = known.plans.get(keys)
        if plan is None:
            plan = self._plan(known, keys)
        span.keys = plan.keys
        name = known.names.get(span.name)
        if name is None:
            name = self._name(known, span.name)
        try:
            key = (name, plan.pick(values)) if plan.pick is not None else name
            statics = plan.statics.get(key)
            if statics is None:
                statics = self._new_statics(known.emitter, plan, key, span.name, values)
        except TypeError:  # a list or a dict where a name belongs cannot be a key
            statics = self._statics_of(known.emitter, plan, span.name, values)
        shape = plan.shape
        if shape.is_quiet:
            span.reading = statics.reading
            return statics.reading
        draft = quick_draft(shape.quick, values, statics) if statics.quick and shape.quick is not None else None
        if draft is None:
            draft = measure(shape, values, statics, self.rules)
        if shape.response_ids:
            draft.response_id = names.response_id(shape, values, self.rules)
        if shape.costs:
            cost, draft.emitted_cost_key, draft.emitted_cost_before_margin_pusd = names.emitted_cost(shape, values, self.rules)
            draft.emitted_cost_pusd = cost
            draft.emitted_cost_cumulative = cost is not None and statics.facts.cost_cumulative
        reading = span.reading = draft.locked()
        return reading

    def _known(self, source: Source) -> _Known:
        scope = (source.scope, source.scope_version)
        known = self._by_scope.get(scope)
        if known is None:
            if len(self._by_scope) >= MAX_SOURCES:
                self._by_scope.clear()
                self._by_source.clear()
                self._shapes = self._statics = 0
            known = self._by_scope[scope] = _Known(self.rules.emitter(*scope))
        if len(self._by_source) >= MAX_SOURCES:
            self._by_source.clear()
        self._by_source[source] = known
        return known

    def _plan(self, known: _Known, keys: tuple[str, ...]) -> _Plan:
        if self._shapes >= MAX_SHAPES:
            for other in self._by_scope.values():
                other.plans.clear()
            self._shapes = self._statics = 0
        self._shapes += 1
        deciding = self._deciding | {row.attribute[0] for row in known.emitter.conditional if row.attribute is not None}
        if not set(keys).isdisjoint(self.rules.model):
            deciding = deciding.difference(self.rules.model_parameters)  # not read then, and different on every call
        first = {key: place for place, key in reversed(list(enumerate(keys)))}  # of a repeated key the first counts
        places = tuple(sorted(place for key, place in first.items() if key in deciding))
        plan = known.plans[keys] = _Plan(keys, Shape(keys, known.emitter, self.rules), places)
        return plan

    def _name(self, known: _Known, name: str) -> str:
        if len(known.names) >= MAX_NAMES:
            known.names.clear()
        found = known.names[name] = name if is_special_name(name, known.emitter, self.rules) else ""
        return found

    def _new_statics(self, emitter: Emitter, plan: _Plan, key: Any, name: str, values: Sequence[Value]) -> Statics:
        statics = self._statics_of(emitter, plan, name, values)
        if self._statics >= MAX_STATICS:
            for known in self._by_scope.values():
                for other in known.plans.values():
                    other.statics.clear()
            self._statics = 0
        self._statics += 1
        plan.statics[key] = statics
        return statics

    def _statics_of(self, emitter: Emitter, plan: _Plan, name: str, values: Sequence[Value]) -> Statics:
        attributes = dict(zip(reversed(plan.keys.names), reversed(values), strict=True))  # of a repeated key the first counts
        return statics_of(name, attributes, plan.shape, emitter, self.rules)


def measure(shape: Shape, values: Sequence[Value], statics: Statics, rules: Rules) -> Draft:
    """The long way: all spellings, all boxes, all evidence. Cost and response id are not looked at."""
    base = statics.reading
    draft = Draft(statics.values)
    counts = Counts()
    if shape.langfuse is not None:
        add_langfuse(values[shape.langfuse], rules, counts)
    gather(shape, values, base.operation, counts)
    beside: CacheMode | None = None
    for key, place in shape.boxes:
        box = container(values[place])
        if box is None:
            counts.rejected += is_cut(values[place])
            continue
        raw = RawUsage(box)
        add_raw(raw, key, rules.boxes, counts)
        if beside is None and counts.input is not None:
            beside = raw.mode_beside(counts.input, rules.boxes)
        if draft.tier is None and (stated := raw.first_text(rules.boxes.tier)) is not None:
            draft.tier = rules.tier_values.get(stated.lower())
        if draft.speed is None and (stated := raw.first_text(rules.boxes.speed)) is not None:
            draft.speed = stated.lower()
    draft.rejected = counts.rejected
    draft.has_write_split = counts.cache_write_5m is not None or counts.cache_write_1h is not None
    draft.has_cache_keys = shape.cache_places or draft.has_write_split or counts.cache_read is not None or counts.cache_write is not None
    if not counts.stated:
        return draft
    if statics.facts.own_total:
        counts.total = None
    mode, evidence = cache_mode(
        counts,
        facts=statics.facts,
        provider=base.provider,
        models=base.models,
        proves_inclusive=shape.proves_inclusive,
        beside=beside,
    )
    draft.tokens, draft.clamped = tokens(counts, mode, reasoning_apart=statics.reasoning_apart)
    if draft.has_cache_keys:
        draft.cache_mode, draft.cache_evidence = mode, evidence
    return draft
