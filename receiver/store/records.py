"""Spans to the body of an accept row and back (`proto/spantoll/journal/v1/journal.proto`).

It runs for every span that is accepted, so it goes column by column: what is the same in many spans is looked at once, and what
differs is gathered in lists that protobuf takes over in C. Two things make that quick. Spans that the decoder made share their
attributes as objects, so an attribute is known by its identity while its row is written. And one that is in the row already costs a
look into a dict.

What comes back is equal in everything that the rules read, and is shared again within its row: a restored window is as small as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from operator import attrgetter
from typing import Any, Final

from google.protobuf.message import DecodeError

from receiver.core.span import Attributes, Source, Span, Value
from receiver.store import journal_pb2 as wire

TRACE_ID_BYTES: Final = 16
SPAN_ID_BYTES: Final = 8
MAX_SOURCES: Final = 1_024  #: sources whose serialized form is remembered, each way; the decoder of the wire remembers as many

_U64: Final = (1 << 64) - 1
_KINDS: Final = {
    str: wire.STRING, int: wire.INTEGER, float: wire.DOUBLE, list: wire.OTHER, dict: wire.OTHER, bytes: wire.OTHER, type(None): wire.NONE,
}  # fmt: skip
_BOOLS: Final = {False: wire.FALSE, True: wire.TRUE}

_fields: Final = attrgetter(
    "trace_id",
    "span_id",
    "parent_span_id",
    "source",
    "name",
    "kind",
    "start_unix_nano",
    "end_unix_nano",
    "flags",
    "status_code",
    "dropped_attributes",
    "sampled",
    "size",
    "attributes",
)


class Malformed(Exception):
    """The body of a row is none: the disk holds something else than was written."""


# --- spans to a body --------------------------------------------------------------------------------------------------------


class Encoder:
    """Bodies of accept rows. One thread owns it: it remembers what came before."""

    def __init__(self) -> None:
        self._sources: dict[Source, bytes] = {}

    def body(self, spans: Sequence[Span], *, transport: str, begins: Sequence[bool]) -> bytes:
        """The body of an accept row. `begins`: of each trace, in the order of their first span, whether this row begins its life."""
        trace_ids, span_ids, parents, sources, names, kinds, starts, ends, flags, codes, dropped, sampled, sizes, attributes = zip(
            *map(_fields, spans), strict=True
        )
        row = wire.Accepted(transport=transport, begins=begins, span_ids=b"".join(span_ids))
        traces = _places(trace_ids)
        row.trace_ids = b"".join(traces)
        _put(row.traces, [*map(traces.__getitem__, trace_ids)])
        _put_parents(row, span_ids, parents)
        places = _places(sources)
        row.sources.extend(map(self._source, places))
        _put(row.span_sources, [*map(places.__getitem__, sources)])
        texts = _places(names)
        _put(row.names, [*map(texts.__getitem__, names)])
        _put(row.kinds, kinds)
        first = row.start_unix_nano = min(starts)
        _put(row.starts, [start - first for start in starts])
        _put(row.durations, [end - start & _U64 for start, end in zip(starts, ends, strict=True)])
        _put(row.flags, flags)
        _put(row.status_codes, codes)
        _put(row.dropped_attributes, dropped)
        _put(row.sampled, sampled)
        _put(row.sizes, sizes)
        _put_attributes(row, attributes, texts)
        row.texts.extend(texts)
        return row.SerializeToString()

    def _source(self, source: Source) -> bytes:
        known = self._sources.get(source)
        if known is None:
            if len(self._sources) >= MAX_SOURCES:
                self._sources.clear()
            known = self._sources[source] = wire.Source(
                resource=_key_values(source.resource),
                scope=source.scope,
                scope_version=source.scope_version,
                attributes=_key_values(source.attributes),
                dropped_attributes=source.dropped_attributes,
            ).SerializeToString()
        return known


def trace_ids_of(spans: Iterable[Span]) -> list[bytes]:
    """Distinct trace ids in the order of their first span: the order of `begins`."""
    return list(dict.fromkeys([span.trace_id for span in spans]))


def _places(values: Sequence[Any]) -> dict[Any, int]:
    """Distinct values in the order of their first, each with its place."""
    places = dict.fromkeys(values, 0)
    for place, value in enumerate(places):
        places[value] = place
    return places


def _put(column: Any, values: Sequence[int]) -> None:
    """Fill a column; one in which all are equal holds that value alone, and none when it is 0."""
    first = values[0]
    if values.count(first) != len(values):
        column.extend(values)
    elif first:
        column.append(first)


def _put_parents(row: wire.Accepted, span_ids: Sequence[bytes], parents: Sequence[bytes]) -> None:
    here = dict(zip(span_ids, range(2, len(span_ids) + 2), strict=True))  # of equal ids in two traces either does: only the id counts
    here[b""] = 0
    column = [*map(here.get, parents, repeat(1))]
    if 1 in column:
        row.parent_ids = b"".join([parent for parent, place in zip(parents, column, strict=True) if place == 1])
    _put(row.parents, column)


def _put_attributes(row: wire.Accepted, attributes: Sequence[Attributes], texts: dict[str, int]) -> None:
    """The attributes of all spans, and what is new among them. `texts` grows."""
    _put(row.attribute_counts, [*map(len, attributes)])
    pairs = [pair for some in attributes for pair in some]
    by_id = dict(zip(map(id, pairs), pairs, strict=True))  # they live as long as this call: no two of them share an id
    keys: list[int] = []
    kinds: list[wire.Kind] = []
    strings: list[int] = []
    integers: list[int] = []
    doubles: list[float] = []
    others: list[bytes] = []
    place_of = texts.setdefault
    for key, value in by_id.values():
        keys.append(place_of(key, len(texts)))
        if type(value) is str:
            kinds.append(wire.STRING)
            strings.append(place_of(value, len(texts)))
        elif type(value) is int:
            kinds.append(wire.INTEGER)
            integers.append(value)
        elif type(value) is bool:
            kinds.append(_BOOLS[value])
        else:
            kinds.append(_KINDS[type(value)])
            if type(value) is float:
                doubles.append(value)
            elif value is not None:
                others.append(_any_value(value).SerializeToString())
    row.attribute_keys.extend(keys)
    row.attribute_kinds.extend(kinds)
    row.strings.extend(strings)
    row.integers.extend(integers)
    row.doubles.extend(doubles)
    row.others.extend(others)
    places = dict(zip(by_id, range(len(by_id)), strict=True))
    row.attributes.extend(map(places.__getitem__, map(id, pairs)))


def _key_values(attributes: dict[str, Value]) -> list[wire.KeyValue]:
    return [wire.KeyValue(key=key, value=_any_value(value)) for key, value in attributes.items()]


def _any_value(value: Value) -> wire.AnyValue:
    if value is None:
        return wire.AnyValue()
    if isinstance(value, bool):
        return wire.AnyValue(bool_value=value)
    if isinstance(value, str):
        return wire.AnyValue(string_value=value)
    if isinstance(value, int):
        return wire.AnyValue(int_value=value)
    if isinstance(value, float):
        return wire.AnyValue(double_value=value)
    if isinstance(value, bytes):
        return wire.AnyValue(bytes_value=value)
    if isinstance(value, list):
        return wire.AnyValue(array_value=wire.ArrayValue(values=map(_any_value, value)))
    return wire.AnyValue(kvlist_value=wire.KeyValueList(values=_key_values(value)))


# --- and back ---------------------------------------------------------------------------------------------------------------


class Decoder:
    """Accept rows read back. It shares sources between rows."""

    def __init__(self) -> None:
        self._sources: dict[bytes, Source] = {}

    def row(self, body: bytes) -> Row:
        """Raises Malformed."""
        try:
            return Row(wire.Accepted.FromString(body), self._source)
        except DecodeError as broken:
            raise Malformed(str(broken)) from broken

    def _source(self, raw: bytes) -> Source:
        known = self._sources.get(raw)
        if known is None:
            if len(self._sources) >= MAX_SOURCES:
                self._sources.clear()
            message = wire.Source.FromString(raw)
            known = self._sources[raw] = Source(
                resource=_attributes(message.resource),
                scope=message.scope,
                scope_version=message.scope_version,
                attributes=_attributes(message.attributes),
                dropped_attributes=message.dropped_attributes,
            )
        return known


class Row:
    """An accept row: who is in it is known at once, its spans are made when they are asked for."""

    __slots__ = ("_message", "_source", "traces")

    def __init__(self, message: wire.Accepted, source: Any) -> None:
        self._message = message
        self._source = source
        self.traces = _column(message.traces, len(self))  #: of each span: its place in `trace_ids`

    def __len__(self) -> int:
        """Spans."""
        return len(self._message.span_ids) // SPAN_ID_BYTES

    @property
    def transport(self) -> str:
        return self._message.transport

    @property
    def trace_ids(self) -> list[bytes]:
        return _cut(self._message.trace_ids, TRACE_ID_BYTES)

    @property
    def begins(self) -> list[bool]:
        """Of each trace: this row begins its life."""
        return list(self._message.begins)

    @property
    def span_ids(self) -> list[bytes]:
        return _cut(self._message.span_ids, SPAN_ID_BYTES)

    @property
    def is_root(self) -> list[bool]:
        """Of each span: it has no parent."""
        return [not place for place in _column(self._message.parents, len(self))]

    def spans(self, at: Iterable[int] | None = None, *, received_unix_nano: int) -> list[Span]:
        """The spans at these places, in order; all of them without."""
        message, count = self._message, len(self)
        trace_ids, span_ids, texts = self.trace_ids, self.span_ids, list(message.texts)
        foreign = iter(_cut(message.parent_ids, SPAN_ID_BYTES))
        parents = [b"" if not place else next(foreign) if place == 1 else span_ids[place - 2] for place in _column(message.parents, count)]
        sources = [self._source(raw) for raw in message.sources]
        span_sources, names = _column(message.span_sources, count), _column(message.names, count)
        kinds, flags, codes = _column(message.kinds, count), _column(message.flags, count), _column(message.status_codes, count)
        starts, durations = _column(message.starts, count), _column(message.durations, count)
        dropped, sampled, sizes = (
            _column(message.dropped_attributes, count),
            _column(message.sampled, count),
            _column(message.sizes, count),
        )
        pairs, used = _pairs(message, texts), list(message.attributes)
        ends, last = [], 0
        for attributes in _column(message.attribute_counts, count):
            last += attributes
            ends.append(last)
        first = message.start_unix_nano
        made = []
        for place in range(count) if at is None else at:
            start = first + starts[place]
            made.append(
                Span(
                    sources[span_sources[place]],
                    trace_ids[self.traces[place]],
                    span_ids[place],
                    parents[place],
                    texts[names[place]],
                    kinds[place],
                    start,
                    start + durations[place] & _U64,
                    tuple([pairs[pair] for pair in used[ends[place - 1] if place else 0 : ends[place]]]),
                    flags[place],
                    codes[place],
                    dropped[place],
                    bool(sampled[place]),
                    sizes[place],
                    received_unix_nano,
                )
            )
        return made


def _column(column: Any, count: int) -> Sequence[int]:
    """A column with one value for each span."""
    values = list(column)
    if len(values) == count:
        return values
    if len(values) > 1:
        raise Malformed(f"a column of {len(values)} values in a row of {count} spans")
    return values * count if values else [0] * count


def _cut(joined: bytes, size: int) -> list[bytes]:
    return [joined[at : at + size] for at in range(0, len(joined), size)]


def _pairs(message: wire.Accepted, texts: Sequence[str]) -> list[tuple[str, Value]]:
    """The distinct attributes of a row."""
    strings, integers, doubles, others = iter(message.strings), iter(message.integers), iter(message.doubles), iter(message.others)
    take: dict[int, Any] = {
        wire.NONE: lambda: None,
        wire.STRING: lambda: texts[next(strings)],
        wire.INTEGER: lambda: next(integers),
        wire.DOUBLE: lambda: next(doubles),
        wire.FALSE: lambda: False,
        wire.TRUE: lambda: True,
        wire.OTHER: lambda: _value(wire.AnyValue.FromString(next(others))),
    }
    return [(texts[key], take[kind]()) for key, kind in zip(message.attribute_keys, message.attribute_kinds, strict=True)]


def _attributes(pairs: Iterable[wire.KeyValue]) -> dict[str, Value]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(message: wire.AnyValue) -> Value:
    kind = message.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [_value(item) for item in message.array_value.values]
    if kind == "kvlist_value":
        return _attributes(message.kvlist_value.values)
    value: Value = getattr(message, kind)
    return value


def ids_by_trace(row: Row) -> Iterator[tuple[bytes, list[int]]]:
    """Each trace of a row with the places of its spans."""
    places: list[list[int]] = [[] for _ in row.trace_ids]
    for place, trace in enumerate(row.traces):
        places[trace].append(place)
    return zip(row.trace_ids, places, strict=True)
