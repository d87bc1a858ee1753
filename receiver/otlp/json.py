"""OTLP's JSON encoding (opentelemetry-proto, docs/specification.md, "JSON Protobuf Encoding"): from a body to the Export of its twin.

It is protobuf's JSON mapping with four differences: ids are hex, not base64; enums are numbers; names are lowerCamelCase (we take
snake_case too); unknown names are ignored. An id that is not hex fails the whole request, as in the collector: a sender that
writes base64 does so in every span, and must learn it from its first answer. A hex id of the wrong length fails its span alone,
like the same bytes in protobuf.

A JSON text takes up to thirty times its size as Python objects. So the outer levels are walked value by value, one span is objects
at a time, and a span that does not fit into a window (`json_text.WINDOW`) is walked further inward.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any, Final

from receiver.core.span import Attributes, Source, Span, Value
from receiver.errors import ExportTooLarge, MalformedExport
from receiver.otlp.anyvalue import PAIR_BYTES, TEXT_BYTES, Lost, Nested, Pair, Text, footprint
from receiver.otlp.intern import SHORT, TEXTUAL, Limits
from receiver.otlp.json_text import Cursor, TooLong
from receiver.otlp.json_values import (
    KINDS,
    STATUS_CODES,
    UINT32,
    UINT64,
    Object,
    any_value,
    camel,
    enum,
    hex_id,
    integer,
    listed,
    scalar,
    string,
    unbase64,
)
from receiver.otlp.record import (
    MAX_SOURCE_BYTES,
    MAX_SOURCES,
    NAME_BYTES,
    NO_SPAN,
    PROCESS_BYTES,
    PROCESS_KEYS,
    SLOT_BYTES,
    SPAN_BYTES,
    Export,
    Steps,
    fault,
    first_of_each,
    thresholded,
)

MAX_ATTRIBUTES: Final = 1 << 20  #: attributes of long spans, resources and scopes in one request
SLICE_SPANS: Final = 512  #: spans between two yields: some 10 ms
SLICE_CHARACTERS: Final = 1 << 19  #: characters between two yields, where the spans are long
SLICE_ATTRIBUTES: Final = 2_048  #: attributes between two yields, inside one long span


class Memo:
    """What JSON requests share with those before them: like `Interned`, for values that are parsed already. Bounded."""

    __slots__ = ("names", "pairs", "room", "sources")

    def __init__(self, entries: int) -> None:
        self.room = max(1, entries // 2)
        self.pairs: dict[tuple[str, str], Pair] = {}
        self.names: dict[str, str] = {}
        self.sources: dict[tuple[str, str], Source] = {}

    def age(self) -> None:
        """Forget what is full: what is still in use comes again at once."""
        if len(self.pairs) >= self.room:
            self.pairs.clear()
        if len(self.names) >= self.room:
            self.names.clear()
        if len(self.sources) >= MAX_SOURCES:
            self.sources.clear()


class Reader:
    """Reads one request."""

    def __init__(self, limits: Limits, memo: Memo, *, max_spans: int, max_attributes: int, max_depth: int, received_unix_nano: int) -> None:
        self._limits = limits
        self._memo = memo
        self._max_spans = max_spans
        self._max_attributes = max_attributes
        self._max_depth = max_depth
        self._export = Export(received_unix_nano)
        self._text = Text()
        self._fresh = 0  # bytes of memory that the pairs and name of the span at hand hold
        self._lost = 0  # its wanted attributes that were dropped
        self._yielded_at = 0

    def read(self, body: bytes) -> Steps:
        """The Export, in slices of work. Raises MalformedExport, ExportTooLarge."""
        try:
            text = body.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = body.decode("utf-8-sig", "replace")  # RFC 8259 asks for UTF-8; one bad string must not sink the request
            self._text.sanitized += 1
        cursor = Cursor(text, self._max_spans)
        if cursor.peek() != "{":
            raise MalformedExport("the body is no JSON object: an OTLP/JSON export request is an object with the member resourceSpans")
        for key in cursor.members():
            if key in ("resourceSpans", "resource_spans"):
                for number, _ in enumerate(cursor.elements(), 1):
                    if number > self._max_spans:
                        raise ExportTooLarge(what="resourceSpans", found=number, limit=self._max_spans)
                    yield from self._resource_spans(cursor)
            else:
                yield from cursor.skip()
        cursor.finish()
        self._memo.age()
        self._export.sanitized = self._text.sanitized
        return self._export

    def _resource_spans(self, cursor: Cursor) -> Generator[None, None, None]:
        resource, raw_resource = Found(), ""
        scopes: list[tuple[Found, str, int, int]] = []  # a scope, its text, and which spans are its own
        spans = self._export.spans
        for key in cursor.members():
            if key == "resource":
                start = cursor.at
                resource = yield from self._object(cursor, PROCESS_KEYS)
                raw_resource = cursor.text[start : cursor.at]
            elif key in ("scopeSpans", "scope_spans"):
                for _ in cursor.elements():
                    scope, raw_scope, first = Found(), "", len(spans)
                    for inner in cursor.members():
                        if inner == "scope":
                            start = cursor.at
                            scope = yield from self._object(cursor)
                            raw_scope = cursor.text[start : cursor.at]
                        elif inner == "spans":
                            for _ in cursor.elements():
                                yield from self._span(cursor)
                        else:
                            yield from cursor.skip()
                    scopes.append((scope, raw_scope, first, len(spans)))
                    if len(scopes) > self._max_spans:
                        raise ExportTooLarge(what="scopeSpans", found=len(scopes), limit=self._max_spans)
            else:
                yield from cursor.skip()
        for scope, raw_scope, first, last in scopes:  # the resource may stand behind its spans, the scope too
            if first < last:
                source = self._source(resource, raw_resource, scope, raw_scope)
                for span in spans[first:last]:
                    span.source = source

    def _source(self, resource: Found, raw_resource: str, scope: Found, raw_scope: str) -> Source:
        sources = self._memo.sources
        source = sources.get((raw_resource, raw_scope))
        if source is None:
            source = Source(
                resource=first_of_each(resource.pairs),
                scope=self._text.mend(string(scope.fields, "name"), NAME_BYTES),
                scope_version=self._text.mend(string(scope.fields, "version"), NAME_BYTES),
                attributes=first_of_each(scope.pairs),
                dropped_attributes=resource.dropped + scope.dropped,
            )
            if len(raw_resource) + len(raw_scope) <= MAX_SOURCE_BYTES and len(sources) < MAX_SOURCES:
                sources[raw_resource, raw_scope] = source
        return source

    def _span(self, cursor: Cursor) -> Generator[None, None, None]:
        export = self._export
        found = yield from self._object(cursor)
        if found.is_null:
            return
        export.received += 1
        if export.received > self._max_spans:
            raise ExportTooLarge(what="spans", found=export.received, limit=self._max_spans)
        fields = found.fields
        trace_id, span_id = hex_id(fields, "traceId"), hex_id(fields, "spanId")
        parent = hex_id(fields, "parentSpanId")
        start, end = integer(fields, "startTimeUnixNano", UINT64), integer(fields, "endTimeUnixNano", UINT64)
        status = fields.get("status")
        if status is None:
            status = {}
        elif not isinstance(status, dict):
            raise MalformedExport("status is not an object")
        kind, code = enum(fields, "kind", "SPAN_KIND_", KINDS), enum(status, "code", "STATUS_CODE_", STATUS_CODES)
        flags, state, name = integer(fields, "flags", UINT32), string(fields, "traceState"), string(fields, "name")
        if reason := fault(trace_id, span_id, parent):
            export.rejected[reason] += 1
        else:
            shared = self._memo.names.get(name)
            if shared is None:
                shared = self._text.mend(name, NAME_BYTES)
                found.fresh += TEXT_BYTES + len(shared)
                if len(name) < SHORT and len(self._memo.names) < self._memo.room:
                    self._memo.names[name] = shared
            export.spans.append(
                Span(
                    NO_SOURCE,
                    trace_id,
                    span_id,
                    b"" if parent == NO_SPAN else parent,
                    shared,
                    kind,
                    start,
                    end,
                    found.pairs,
                    flags,
                    code,
                    found.dropped,
                    bool(state) and thresholded(state),
                    SPAN_BYTES + SLOT_BYTES * len(found.pairs) + found.fresh,
                    export.received_unix_nano,
                )
            )
        if not export.received % SLICE_SPANS or cursor.at - self._yielded_at >= SLICE_CHARACTERS:
            self._yielded_at = cursor.at
            self._memo.age()
            yield

    def _object(self, cursor: Cursor, always: tuple[str, ...] = ()) -> Generator[None, None, Found]:
        """A span, resource or scope: its wanted attributes as pairs, and its other members."""
        found = Found()
        try:
            fields = cursor.value()
            if fields is None:
                found.is_null = True
            elif not isinstance(fields, dict):
                raise MalformedExport(f"an object was expected where {str(fields)[:40]!r} stands")
            else:
                found.fields = camel(fields)
                found.pairs = tuple(self._wanted(listed(found.fields, "attributes"), always))
        except TooLong:
            pairs: list[Pair] = []
            for key in cursor.members():
                if key == "attributes":
                    yield from self._long_attributes(cursor, always, pairs)
                else:
                    try:
                        found.fields[key] = cursor.value()
                    except TooLong:  # events, links: nobody reads them
                        yield from cursor.skip()
            found.fields = camel(found.fields)
            found.pairs = tuple(pairs)
        found.dropped = integer(found.fields, "droppedAttributesCount", UINT32) + self._lost
        if len(found.pairs) > self._max_attributes:
            found.dropped += len(found.pairs) - self._max_attributes
            found.pairs = found.pairs[: self._max_attributes]
        found.fresh = self._fresh
        self._fresh = self._lost = 0
        return found

    def _long_attributes(self, cursor: Cursor, always: tuple[str, ...], pairs: list[Pair]) -> Generator[None, None, None]:
        """Attributes one by one. No counter survives a yield but in the Reader, which belongs to this request."""
        for number, _ in enumerate(cursor.elements(), 1):
            try:
                attribute = cursor.value()
            except TooLong:
                attribute = yield from self._long_attribute(cursor, always)
            before = self._fresh
            for pair in self._wanted([attribute], always):
                if len(pairs) < self._max_attributes:
                    pairs.append(pair)
                else:
                    self._lost += 1
                    self._fresh = before
            if not number % SLICE_ATTRIBUTES:
                self._export.walked += SLICE_ATTRIBUTES
                if self._export.walked >= MAX_ATTRIBUTES:
                    raise ExportTooLarge(what="attributes in long spans", found=self._export.walked, limit=MAX_ATTRIBUTES)
                yield

    def _long_attribute(self, cursor: Cursor, always: tuple[str, ...]) -> Generator[None, None, Object | None]:
        """A KeyValue that does not fit into a window. A string is read all the same; a list or map of that size is over every limit."""
        found: Object = {}
        was_skipped = False
        for key in cursor.members():
            if key == "value":
                value = found["value"] = {}
                for kind in cursor.members():
                    try:
                        value[kind] = cursor.value()
                    except TooLong:
                        yield from cursor.skip()
                        was_skipped = True
            elif key == "key":
                found["key"] = cursor.value()
            else:
                yield from cursor.skip()
        if was_skipped and not found["value"]:
            key = string(found, "key")
            self._lost += bool(self._limits.of(key) or key in always)
            return None
        return found

    def _wanted(self, attributes: list[Any], always: tuple[str, ...]) -> Iterator[Pair]:
        """The pairs that are worth keeping, in order."""
        pairs, room, of = self._memo.pairs, self._memo.room, self._limits.of
        for attribute in attributes:
            if attribute is None:
                continue
            if not isinstance(attribute, dict):
                raise MalformedExport(f"an attribute is an object with key and value, not {str(attribute)[:40]!r}")
            key = attribute.get("key", "")
            if type(key) is not str:
                raise MalformedExport(f"the key of an attribute is a string, not {str(key)[:40]!r}")
            limit = of(key)
            if not limit:
                if key not in always:
                    continue
                limit = PROCESS_BYTES
            try:
                value = self._value(attribute.get("value"), limit)
            except Lost:
                self._lost += 1
                continue
            trim = self._limits.trim(key)
            if trim is not None and isinstance(value, TEXTUAL):
                value = trim(value)
            if type(value) is str and len(value) < SHORT:
                pair = pairs.get((key, value))
                if pair is None:
                    pair = (key, value)
                    if len(pairs) < room:
                        pairs[pair] = pair
                    self._fresh += PAIR_BYTES + TEXT_BYTES + len(value)
            else:
                pair = (key, value)
                self._fresh += PAIR_BYTES + footprint(value)
            yield pair

    def _value(self, raw: Any, limit: int) -> Value:
        """An attribute's own AnyValue, which its limit may cut."""
        kind, item = any_value(raw)
        if kind == "stringValue":
            return self._text.mend(item, limit)
        if kind == "bytesValue":
            return unbase64(item)[:limit]
        if kind in ("arrayValue", "kvlistValue"):
            return self._nested(Nested(limit, self._text), kind, item, self._max_depth)
        return scalar(kind, item)

    def _nested(self, nested: Nested, kind: str, item: Any, depth: int) -> Value:
        """Mirrors `anyvalue.Nested.value`, weight for weight."""
        if depth < 1:
            raise Lost
        if kind == "stringValue":
            raw = item.encode(errors="surrogatepass")
            nested.weigh(len(raw))
            return self._text.mend(item, len(raw))
        if kind == "bytesValue":
            data = unbase64(item)
            nested.weigh(len(data))
            return data
        nested.weigh(0)
        if kind not in ("arrayValue", "kvlistValue"):
            return scalar(kind, item)
        values = listed(item, "values")
        if kind == "arrayValue":
            return [self._nested(nested, *any_value(value), depth - 1) for value in values]
        found: dict[str, Value] = {}
        for entry in values:
            if entry is None:
                continue
            if not isinstance(entry, dict):
                raise MalformedExport("an entry of kvlistValue is not an object")
            key = string(entry, "key")
            size = len(key.encode(errors="surrogatepass"))
            nested.weigh(size)
            value = self._nested(nested, *any_value(entry.get("value")), depth - 1)
            found.setdefault(self._text.mend(key, size), value)
        return found


class Found:
    """What was read of a span, resource or scope."""

    __slots__ = ("dropped", "fields", "fresh", "is_null", "pairs")

    def __init__(self) -> None:
        self.fields: Object = {}
        self.pairs: Attributes = ()
        self.dropped = 0  #: attributes that are missing, at the sender or here
        self.fresh = 0  #: bytes of memory that the pairs hold
        self.is_null = False


NO_SOURCE: Final = Source(resource={}, scope="", scope_version="")  # stands in until the resource was read
