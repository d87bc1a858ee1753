"""Which keys say what: the tables of `data/attribution.toml`, compiled, and the facts that one span states by them.

Spans of one instrumentation carry the same keys in the same order, so what is to be read from them is worked out once for
each tuple of keys (a *shape*) and remembered. All memories here are bounded: keys and values are chosen by clients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from typing import Any, Final

from receiver.core.attribution import slots
from receiver.core.attribution.names import AgentNames, GraphNames
from receiver.core.attribution.plan import Plan, plan_of
from receiver.core.attribution.slots import (
    AS_AGENT_NAME,
    AS_GRAPH_PATH,
    AS_TAGS,
    IS_AGENT,
    IS_MODEL,
    IS_TOOL,
)
from receiver.core.attribution.text import NOTHING, flatten, parse_json, prune, tags_of, text_of
from receiver.core.attribution.uses import Use, compile_uses, kind_values
from receiver.core.span import Attributes, Keys, Source, Span, Value
from receiver.core.usage.reading import Klass
from receiver.core.usage.trim import written

#: Bytes worth keeping of a label's value: names are tens of bytes; a graph path with its ids is hundreds.
LABEL_BYTES: Final = 1_024
PATH_BYTES: Final = 4_096

#: Entries of each memory; a full one starts anew. Programs have tens of shapes and hundreds of names.
REMEMBERED: Final = 4_096
#: The same for what spans said, over all shapes: every trace brings new ids, so the memory serves the spans of the last traces.
REMEMBERED_FACTS: Final = 16_384
#: Only values up to this length are a key of it, and only shapes of so many keys are remembered: real ones have tens.
REMEMBERED_CHARACTERS: Final = 256
REMEMBERED_KEYS: Final = 256
#: Characters of a JSON text that are worth remembering: above, parsing it again costs less than holding it.
REMEMBERED_JSON: Final = 4_096
#: Sets of shapes that were met in one trace: a program has tens, but a client may make any.
REMEMBERED_SETS: Final = 256
#: Facts taken from one JSON container.
MAX_INNER_KEYS: Final = 256

Facts = dict[int, str]
NO_FACTS: Final[Facts] = {}

_KEY: Final = itemgetter(0)
_MODEL_CALL: Final = Klass.MODEL_CALL
_TOOL: Final = Klass.TOOL
#: Strong slots of the dimensions whose weak keys are only asked where no strong one is found.
_STRONG: Final = frozenset(slots.slot(dimension, slots.STRONG) for dimension in slots.WALKED if dimension != "agent")


#: (index of the attribute, slot, how, needs, bars): a Use at its place in one shape.
Placed = tuple[int, int, int, int, int]


#: Kinds, facts, and whether the span's name can add a tool or an agent to them.
Stated = tuple[int, Facts, bool]


class Shape:
    """What to read from spans with one tuple of keys."""

    __slots__ = ("containers", "conversation", "fallbacks", "kinds", "known", "late", "relevant", "slots", "uses")

    def __init__(self) -> None:
        self.uses: tuple[Placed, ...] = ()  #: best first
        self.fallbacks: tuple[tuple[int, Placed], ...] = ()  #: (strong slot, weak use): read where the strong key held nothing
        self.late: tuple[Placed, ...] = ()
        self.kinds: tuple[int, ...] = ()
        self.containers: tuple[int, ...] = ()
        self.conversation = -1  #: index of the key of which a session may be a copy
        self.slots: frozenset[int] = frozenset()  #: that may be filled; not known where there are containers
        self.relevant: Callable[[Attributes], Attributes] | None = None  #: takes the pairs of `uses` and `kinds`; None: there are none
        self.known: dict[tuple[int, Attributes], Stated] = {}  #: (kinds known before, relevant pairs) -> what they came to


@dataclass(slots=True, kw_only=True)
class AttributionRules:
    """The compiled tables. Build with `from_tables`; ask `facts(span)` and `facts_of_source(source)`."""

    agents: AgentNames
    graphs: GraphNames
    uses: dict[str, list[Use]]
    endings: dict[str, list[Use]]  #: last segment of a key -> uses
    kind_keys: frozenset[str]
    kind_values: dict[str, int]
    containers: frozenset[str]
    container_bytes: int
    container_depth: int
    conversation_key: str
    tag_prefixes: tuple[str, ...]
    tool_prefixes: tuple[str, ...]
    silent: dict[int, frozenset[str]]  #: slot -> values that name nobody there
    resource_first_scopes: tuple[str, ...]
    resource_uses: dict[str, int]  #: resource keys with a slot of their own
    _shapes: dict[tuple[str, ...], Shape] = field(default_factory=dict)
    _shapes_by_object: dict[Keys | None, Shape] = field(default_factory=dict)  #: the same, found five times as fast
    _fillable: dict[frozenset[Keys | None], frozenset[int]] = field(default_factory=dict)  #: by the keys of all spans of a trace
    _plans: dict[tuple[int, ...], Plan] = field(default_factory=dict)
    _opened: dict[tuple[str, str], Attributes] = field(default_factory=dict)
    _sources: dict[Source, Facts] = field(default_factory=dict)
    _remembered: int = 0  #: entries in the `known` of all shapes

    @classmethod
    def from_tables(cls, tables: Mapping[str, Any], extra: Mapping[str, Sequence[str]] | None = None) -> AttributionRules:
        """Compile the tables; `extra` gives the operator's keys of a dimension, which come right after `spantoll.<dimension>`."""
        uses, endings = compile_uses(tables, extra or {})
        kinds = tables["kinds"]
        resource_uses = dict.fromkeys(tables["agent"].get("resource_last", ()), slots.AGENT_LAST)
        resource_uses |= dict.fromkeys(tables["feature"].get("resource_last", ()), slots.FEATURE_LAST)
        return cls(
            agents=AgentNames.from_table(tables["agent"]),
            graphs=GraphNames.from_table(tables["agent"]),
            uses=uses,
            endings=endings,
            kind_keys=frozenset(kinds["keys"]),
            kind_values=kind_values(kinds),
            containers=frozenset(tables["containers"]["keys"]),
            container_bytes=tables["containers"]["bytes"],
            container_depth=tables["containers"]["depth"],
            conversation_key=tables["session"].get("copies_of", ""),
            tag_prefixes=tuple(tables["feature"].get("tag_prefixes", ())),
            tool_prefixes=tuple(tables["tool"].get("span_name_prefixes", ())),
            silent={
                slots.slot(dimension, strength): frozenset(tables[dimension]["silent"])
                for dimension in slots.WALKED
                if dimension != "agent" and tables[dimension].get("silent")
                for strength in (slots.STRONG, slots.WEAK)
            },
            resource_first_scopes=tuple(tables["user"].get("resource_first_scopes", ())),
            resource_uses=resource_uses,
        )

    def limit_of(self, key: str) -> int:
        """How many bytes of this attribute's value are worth keeping; 0 when attribution does not read it."""
        if key in self.containers:
            return self.container_bytes
        found = self._uses_of(key)
        if any(use.how in (AS_GRAPH_PATH, AS_TAGS) for use in found):
            return PATH_BYTES
        return LABEL_BYTES if found or key in self.kind_keys or key in self.resource_uses else 0

    def trim_of(self, key: str) -> Callable[[Value], Value] | None:
        """What cuts this attribute's value down to what attribution reads of it; None where it reads the whole."""
        uses = self._uses_of(key)
        if key in self.kind_keys or key in self.resource_uses:
            return None
        if key in self.containers:
            return None if uses else partial(self._trimmed, key)
        return self._trimmed_tags if uses and all(use.how == AS_TAGS for use in uses) else None

    def may_say(self, span: Span, slots_asked: frozenset[int]) -> bool:
        """Whether the span's keys could fill one of these slots; cheaper than `facts`."""
        shape = self._shape_of(span)
        return bool(shape.containers) or not slots_asked.isdisjoint(shape.slots)

    def fillable(self, spans: Sequence[Span]) -> frozenset[int]:
        """Slots of dimensions that the keys of some of these spans could fill.

        A trace of hundreds of spans has a handful of shapes, and most have been met together: one look-up for all of them.
        """
        keys = frozenset([span.keys for span in spans])
        found = self._fillable.get(keys)
        if found is None:
            shapes = {self._shape_of(span) for span in spans}
            hidden = any(shape.containers for shape in shapes)  # what containers hold is not known by their keys
            found = slots.EVERY if hidden else frozenset().union(*(shape.slots for shape in shapes))
            if None not in keys:
                if len(self._fillable) >= REMEMBERED_SETS:
                    self._fillable.clear()
                self._fillable[keys] = found
        return found

    def facts(self, span: Span) -> Facts:
        """What the span itself says, slot by slot. Never change the dict: it is shared by spans that say the same."""
        attributes = span.attributes
        shape = self._shapes_by_object.get(span.keys) or self._shape_of(span)
        if shape.containers:
            attributes = self._with_containers(attributes, shape)
            shape = self._shape(tuple(map(_KEY, attributes)))
        klass = None if span.reading is None else span.reading.klass
        kind = IS_MODEL if klass is _MODEL_CALL else IS_TOOL if klass is _TOOL else 0
        kind, facts, unsettled = self._stated(attributes, shape, kind)
        if unsettled:
            if kind & IS_TOOL and slots.TOOL not in facts and (name := self._tool_name(span.name)) is not None:
                facts = {**facts, slots.TOOL: name}
            if slots.AGENT_NAME not in facts:
                facts = self._with_agent(span.name, attributes, shape, kind, facts)
        if shape.conversation >= 0 and facts.get(slots.SESSION_STRONG) == attributes[shape.conversation][1]:
            facts = _with_weak_session(facts)
        if span.source.scope.startswith(self.resource_first_scopes):
            of_resource = self.facts_of_source(span.source)
            if any(at + slots.OF_RESOURCE in of_resource for at in slots.USER):
                facts = {at: text for at, text in facts.items() if at not in slots.USER[1:]}
        return facts

    def facts_of_source(self, source: Source) -> Facts:
        """What the resource says (and, where it is silent, the scope's attributes), in slots above `OF_RESOURCE`."""
        known = self._sources.get(source)
        if known is not None:
            return known
        attributes: Attributes = (*source.resource.items(), *source.attributes.items())
        shape = self._shape(tuple(map(_KEY, attributes)))
        if shape.containers:
            attributes = self._with_containers(attributes, shape)
            shape = self._shape(tuple(map(_KEY, attributes)))
        facts = {at + slots.OF_RESOURCE: text for at, text in self._stated(attributes, shape, 0)[1].items()}
        for key, value in attributes:
            at = self.resource_uses.get(key, 0)
            if at and at not in facts and (text := text_of(value)) is not None:
                facts[at] = text
        if len(self._sources) >= REMEMBERED:
            self._sources.clear()
        self._sources[source] = facts
        return facts

    def plan(self, keys: tuple[int, ...]) -> Plan:
        """Where the dimensions stand in an inherited dict that has these slots."""
        found = self._plans.get(keys)
        if found is None:
            if len(self._plans) >= REMEMBERED:
                self._plans.clear()
            found = self._plans[keys] = plan_of(frozenset(keys))
        return found

    def _stated(self, attributes: Attributes, shape: Shape, kind: int) -> Stated:
        """What the attributes alone say, `kind` being known of the span; remembered for the pairs that it was read from."""
        if shape.relevant is None:
            return kind, NO_FACTS, True
        relevant = shape.relevant(attributes)
        try:
            known = shape.known.get((kind, relevant))
        except TypeError:  # a list or an object among the values
            return self._interpret(attributes, shape, kind)[0]
        if known is not None:
            return known
        stated, complete = self._interpret(attributes, shape, kind)
        if complete and self._is_short_text(relevant):
            if self._remembered >= REMEMBERED_FACTS:
                self._forget_shapes()
            self._remembered += 1
            shape.known[kind, relevant] = stated
        return stated

    def _is_short_text(self, pairs: Attributes) -> bool:
        """Whether values may be a key: 1, 1.0 and True are equal keys, and long ones cost more to hold than to read again."""
        for _, value in pairs:  # noqa: SIM110 -- a generator would cost more than all the rest of the look-up
            if value.__class__ is not str or len(value) > REMEMBERED_CHARACTERS:
                return False
        return True

    def _interpret(self, attributes: Attributes, shape: Shape, kind: int) -> tuple[Stated, bool]:
        """What is stated, and whether it came of the relevant pairs alone."""
        for index in shape.kinds:
            value = attributes[index][1]
            bits = self.kind_values.get(value) if value.__class__ is str else None
            if bits is None:
                text = text_of(value)
                bits = 0 if text is None else self.kind_values.get(text.lower(), 0)
            kind |= bits
        facts = self._read(attributes, shape.uses, kind, {})
        complete = True
        for strong, use in shape.fallbacks:
            if strong not in facts:
                complete = False
                self._read(attributes, (use,), kind, facts)
        unsettled = slots.AGENT_NAME not in facts or (bool(kind & IS_TOOL) and slots.TOOL not in facts)
        return (kind, facts or NO_FACTS, unsettled), complete

    def _with_agent(self, name: str, attributes: Attributes, shape: Shape, kind: int, facts: Facts) -> Facts:
        """With the agent that the span's name tells, else the keys that come after it."""
        if kind & IS_AGENT or name.startswith(self.agents.prefixes):
            found, placeholder = self.agents.of_span_name(name, is_agent=bool(kind & IS_AGENT))
            if found is not None:
                return {**facts, slots.AGENT_NAME: found}
            if placeholder is not None and slots.AGENT_PLACEHOLDER not in facts:
                facts = {**facts, slots.AGENT_PLACEHOLDER: placeholder}
        if shape.late:
            late = self._read(attributes, shape.late, kind, {})
            if late:
                facts = {**late, **facts}
        return facts

    def _read(self, attributes: Attributes, uses: Iterable[Placed], kind: int, facts: Facts) -> Facts:
        for index, at, how, needs, bars in uses:
            if at in facts or (needs and not kind & needs) or kind & bars:
                continue
            value = attributes[index][1]
            if not how:
                text = text_of(value)
                if text is not None and at in self.silent and text in self.silent[at]:
                    text = None
            elif how == AS_TAGS:
                text = self._tag(value)
            else:
                text = text_of(value)
                if text is not None:
                    text = self.agents.of_attribute(text, facts=facts) if how == AS_AGENT_NAME else self.graphs.of(text, how)
            if text is not None:
                facts[at] = text
        return facts

    def _tag(self, value: Value) -> str | None:
        for tag in tags_of(value):
            for prefix in self.tag_prefixes:
                if tag.startswith(prefix) and len(tag) > len(prefix):
                    return tag[len(prefix) :].strip() or None
        return None

    def _tool_name(self, span_name: str) -> str | None:
        for prefix in self.tool_prefixes:
            if span_name.startswith(prefix):
                span_name = span_name[len(prefix) :]
                break
        return text_of(span_name)

    def _with_containers(self, attributes: Attributes, shape: Shape) -> Attributes:
        """The attributes without their containers, and behind them what the containers hold (wanted keys only)."""
        plain = tuple(pair for index, pair in enumerate(attributes) if index not in shape.containers)
        for index in shape.containers:
            plain += self._open(*attributes[index])
        return plain

    def _open(self, key: str, value: Value) -> Attributes:
        if not isinstance(value, str):
            return self._wanted(key, value)
        if len(value) > self.container_bytes or value.lstrip()[:1] not in ("{", "["):
            return ()
        known = self._opened.get((key, value))
        if known is None:
            known = self._wanted(key, parse_json(value))
            if len(value) <= REMEMBERED_JSON:
                if len(self._opened) >= REMEMBERED // 4:
                    self._opened.clear()
                self._opened[key, value] = known
        return known

    def _wanted(self, key: str, value: Value) -> Attributes:
        if not isinstance(value, dict | list):
            return ()
        inner = flatten(key, value, depth=self.container_depth, most=MAX_INNER_KEYS)
        return tuple((name, found) for name, found in inner if name not in self.containers and self._uses_of(name))

    def _trimmed(self, key: str, value: Value) -> Value:
        """A container with what `_open` finds in it and nothing else, as JSON; "" where that is nothing."""
        if isinstance(value, str):
            value = parse_json(value) if len(value) <= self.container_bytes and value.lstrip()[:1] in ("{", "[") else None
        if not isinstance(value, dict | list):
            return ""
        kept = prune(key, value, depth=self.container_depth, most=MAX_INNER_KEYS, kept=self._trimmed_inner)
        return "" if kept is NOTHING else written(kept)

    def _trimmed_inner(self, name: str, value: Value) -> Value:
        uses = () if name in self.containers else self._uses_of(name)
        if not uses:
            return NOTHING
        if all(use.how == AS_TAGS for use in uses):
            return self._trimmed_tags(value)
        if isinstance(value, str):
            return value[: PATH_BYTES if any(use.how == AS_GRAPH_PATH for use in uses) else LABEL_BYTES]
        return value if isinstance(value, int | float) else None

    def _trimmed_tags(self, value: Value) -> Value:
        """The tag that is read, as a list of its own in JSON."""
        for tag in tags_of(value):
            if any(tag.startswith(prefix) and len(tag) > len(prefix) for prefix in self.tag_prefixes):
                return written([tag[:LABEL_BYTES]])
        return ""

    def _shape_of(self, span: Span) -> Shape:
        keys = span.keys
        if keys is None:
            return self._shape(tuple(map(_KEY, span.attributes)))
        shape = self._shapes_by_object.get(keys)
        if shape is None:
            shape = self._shape(keys.names)
            if len(keys.names) <= REMEMBERED_KEYS:
                if len(self._shapes_by_object) >= REMEMBERED:
                    self._shapes_by_object.clear()
                self._shapes_by_object[keys] = shape
        return shape

    def _shape(self, keys: tuple[str, ...]) -> Shape:
        shape = self._shapes.get(keys)
        if shape is None:
            shape = self._learn(keys)
            if len(keys) <= REMEMBERED_KEYS:
                if len(self._shapes) >= REMEMBERED:
                    self._forget_shapes()
                self._shapes[keys] = shape
        return shape

    def _forget_shapes(self) -> None:
        self._shapes.clear()
        self._shapes_by_object.clear()
        self._remembered = 0

    def _learn(self, keys: tuple[str, ...]) -> Shape:
        shape = Shape()
        found: list[tuple[Use, int]] = []
        seen: set[str] = set()
        for index, key in enumerate(keys):
            if key in seen:
                continue  # of a repeated key the first counts
            seen.add(key)
            found += [(use, index) for use in self._uses_of(key)]
            if key in self.kind_keys:
                shape.kinds += (index,)
            if key in self.containers:
                shape.containers += (index,)
            if key == self.conversation_key:
                shape.conversation = index
        found.sort()
        # a strong key that always counts makes the weak ones of its dimension needless, as long as it holds a value
        strong = {use.slot for use, _ in found if use.slot in _STRONG and not (use.needs or use.bars or use.late)}
        uses: list[Placed] = []
        for use, index in found:
            placed = (index, use.slot, use.how, use.needs, use.bars)
            if use.late:
                shape.late += (placed,)
            elif use.slot - 1 in strong:
                shape.fallbacks += ((use.slot - 1, placed),)
            else:
                uses.append(placed)
        shape.uses = tuple(uses)
        shape.slots = frozenset(use.slot for use, _ in found)
        relevant = sorted({placed[0] for placed in uses} | set(shape.kinds))
        if relevant:
            shape.relevant = itemgetter(*relevant, relevant[0])  # of one index alone an itemgetter makes no tuple
        return shape

    def _uses_of(self, key: str) -> list[Use]:
        listed = self.uses.get(key)
        if listed is not None:
            return listed
        last = key.rpartition(".")[2]
        if last in self.endings:
            return self.endings[last]
        two = ".".join(key.rsplit(".", 2)[-2:])
        return self.endings.get(two, [])


def _with_weak_session(facts: Facts) -> Facts:
    """A session that only repeats the span's own conversation id is as weak as that (one conversation an agent run)."""
    weak = {at: text for at, text in facts.items() if at != slots.SESSION_STRONG}
    return {**weak, slots.SESSION_STRONG + 1: facts[slots.SESSION_STRONG]}
