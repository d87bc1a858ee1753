"""OTLP's JSON encoding (opentelemetry-proto, docs/specification.md, "JSON Protobuf Encoding"): from a body to the Export of its twin.

It is protobuf's JSON mapping with four differences: ids are hex, not base64; enums are numbers; names are lowerCamelCase (we take
snake_case too); unknown names are ignored. An id that is not hex fails the whole request, as in the collector: a sender that
writes base64 does so in every span, and must learn it from its first answer. A hex id of the wrong length fails its span alone,
like the same bytes in protobuf.

A JSON text takes up to thirty times its size as Python objects. So the outer levels are walked one value at a time, a span is
made and let go before the next is looked at, and what does not fit into a window of a mebibyte is walked further inward.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Generator, Iterator
from typing import Any, Final

from receiver.core.span import Attributes, Source, Span, Value
from receiver.errors import ExportTooLarge, MalformedExport
from receiver.otlp.anyvalue import PAIR_BYTES, TEXT_BYTES, Lost, Nested, Pair, Text, footprint
from receiver.otlp.intern import SHORT, Limits
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

WINDOW: Final = 1 << 20  #: characters that may become Python objects at once
MAX_TOKENS: Final = 1 << 22  #: brackets and strings in one value that is stepped over
SLICE_TOKENS: Final = 1 << 15  #: of them between two yields
MAX_ATTRIBUTES: Final = 1 << 20  #: attributes that are walked in one span, resource or scope
SLICE_SPANS: Final = 512  #: spans between two yields: some 10 ms
SLICE_CHARACTERS: Final = 1 << 19  #: characters between two yields, where the spans are long
SLICE_ATTRIBUTES: Final = 2_048  #: attributes between two yields, inside one long span

UINT32: Final = (0, 2**32 - 1)
UINT64: Final = (0, 2**64 - 1)
INT32: Final = (-(2**31), 2**31 - 1)
INT64: Final = (-(2**63), 2**63 - 1)

#: Names that the specification forbids and some senders write, in the order of their numbers.
KINDS: Final = ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
STATUS_CODES: Final = ("UNSET", "OK", "ERROR")

NOT_HEX: Final = "{field} {found!r} is not hex: OTLP/JSON writes traceId and spanId as hex digits, not as base64 (JSON Protobuf Encoding, OTLP specification)"

_blank: Final = re.compile(r"[ \t\n\r]*").match
_token: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)
_decode: Final = json.JSONDecoder().raw_decode

Object = dict[str, Any]


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
        self._received_unix_nano = received_unix_nano
        self._export = Export()
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
        status = fields.get("status") or {}
        if not isinstance(status, dict):
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
                    self._received_unix_nano,
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
                attributes = found.fields.get("attributes") or ()
                if not isinstance(attributes, list | tuple):
                    raise MalformedExport("attributes is not an array")
                found.pairs = tuple(self._wanted(attributes, always))
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
            for pair in self._wanted((attribute,), always):
                if len(pairs) < self._max_attributes:
                    pairs.append(pair)
                else:
                    self._lost += 1
                    self._fresh = before
            if not number % SLICE_ATTRIBUTES:
                if number >= MAX_ATTRIBUTES:
                    raise ExportTooLarge(what="attributes of one span, resource or scope", found=number, limit=MAX_ATTRIBUTES)
                yield

    def _long_attribute(self, cursor: Cursor, always: tuple[str, ...]) -> Generator[None, None, Object | None]:
        """A KeyValue of which only a string value is kept: a list or map of that size is over every limit."""
        found: Object = {}
        was_skipped = False
        for key in cursor.members():
            if key == "value":
                for kind in cursor.members():
                    if kind in ("stringValue", "string_value"):
                        found["value"] = {"stringValue": cursor.value()}
                    else:
                        was_skipped = not (yield from cursor.skip()) or was_skipped
            elif key == "key":
                found["key"] = cursor.value()
            else:
                yield from cursor.skip()
        if was_skipped and "value" not in found:
            key = string(found, "key")
            self._lost += bool(self._limits.of(key) or key in always)
            return None
        return found

    def _wanted(self, attributes: list[Any] | tuple[Any, ...], always: tuple[str, ...]) -> Iterator[Pair]:
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
        values = item.get("values") or () if isinstance(item, dict) else None
        if not isinstance(values, list | tuple):
            raise MalformedExport(f"{kind} is not an object with an array as its values")
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


# --------------------------------------------------------------------------------------------------------- single values


def camel(fields: Object) -> Object:
    """The same members under lowerCamelCase names."""
    if not any("_" in name for name in fields):
        return fields
    return {re.sub("_([a-z])", lambda match: match[1].upper(), name): value for name, value in fields.items()}


def string(fields: Object, name: str) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise MalformedExport(f"{name} is not a string")
    return value


def number(value: Any, name: str, bounds: tuple[int, int]) -> int:
    """A protobuf integer: a JSON number or, as 64-bit ones should be, a decimal string."""
    if isinstance(value, str) and len(value) <= 20 and value.isascii() and value.removeprefix("-").isdigit():
        value = int(value)
    elif isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not bounds[0] <= value <= bounds[1]:
        raise MalformedExport(f"{name} {str(value)[:40]!r} is no integer between {bounds[0]} and {bounds[1]}")
    return value


def integer(fields: Object, name: str, bounds: tuple[int, int]) -> int:
    value = fields.get(name)
    return 0 if value is None else number(value, name, bounds)


def enum(fields: Object, name: str, prefix: str, names: tuple[str, ...]) -> int:
    """An enum's number; unknown ones are kept, as protobuf does."""
    value = fields.get(name)
    if isinstance(value, str) and value.removeprefix(prefix) in names:
        return names.index(value.removeprefix(prefix))
    return 0 if value is None else number(value, name, INT32)


def hex_id(fields: Object, name: str) -> bytes:
    """The bytes of an id; b"" when it is absent. Of any length: `record.fault` judges that."""
    value = string(fields, name)
    try:
        return binascii.unhexlify(value)
    except ValueError:
        raise MalformedExport(NOT_HEX.format(field=name, found=value[:48])) from None


def unbase64(value: str) -> bytes:
    """Base64, standard or URL-safe, padded or not, as protobuf's JSON mapping reads bytes."""
    try:
        raw = value.translate(str.maketrans("-_", "+/")).rstrip("=")
        return base64.b64decode(raw + "=" * (-len(raw) % 4), validate=True)
    except ValueError:
        raise MalformedExport("bytesValue is not base64") from None


TYPES: Final[dict[str, type | tuple[type, ...]]] = {
    "stringValue": str,
    "boolValue": bool,
    "intValue": (int, str, float),
    "doubleValue": (int, float, str),
    "arrayValue": dict,
    "kvlistValue": dict,
    "bytesValue": str,
}


def any_value(value: Any) -> tuple[str, Any]:
    """Which kind an AnyValue is and what it holds; ("", None) when it is empty: null, {}, or kinds that nobody knows."""
    if value is None:
        return "", None
    if not isinstance(value, dict):
        raise MalformedExport(f'an AnyValue is an object such as {{"stringValue": ...}}, not {str(value)[:40]!r}')
    for name, item in value.items():
        kind = name if name in TYPES else re.sub("_([a-z])", lambda match: match[1].upper(), name)
        if kind in TYPES and item is not None:
            if not isinstance(item, TYPES[kind]):
                raise MalformedExport(f"{kind} is not of its type: {str(item)[:40]!r}")
            return kind, item
    return "", None


def scalar(kind: str, item: Any) -> Value:
    if kind == "intValue":
        return number(item, kind, INT64)
    if kind == "doubleValue":
        try:
            if isinstance(item, bool):
                raise ValueError
            return float(item)  # also "NaN", "Infinity", "-Infinity"
        except (ValueError, OverflowError):
            raise MalformedExport(f"doubleValue {str(item)[:40]!r} is no double") from None
    return item if kind == "boolValue" else None


# ----------------------------------------------------------------------------------------------------------- the JSON text


class TooLong(Exception):  # noqa: N818 -- no error: the value is walked instead
    """The value at the cursor does not fit into a window; the cursor stands before it."""


class Cursor:
    """A place in a JSON text, from which one value after the other is taken. Raises MalformedExport."""

    __slots__ = ("_base", "_most", "_window", "at", "text")

    def __init__(self, text: str, most: int) -> None:
        self.text = text
        self._most = most  # members of one object that are walked
        self.at = 0  #: next character
        self._base = 0  # where the window starts
        self._window = text if len(text) <= WINDOW else text[:WINDOW]

    def fail(self) -> MalformedExport:
        return MalformedExport(f"the body is no JSON, or no OTLP/JSON export request: character {self.at + 1} is not what must stand there")

    def peek(self) -> str:
        """The next character that is no white space; "" at the end."""
        self.at = _blank(self.text, self.at).end()  # type: ignore[union-attr]  # it matches the empty string too
        return self.text[self.at : self.at + 1]

    def finish(self) -> None:
        """There must be nothing more."""
        if self.peek():
            raise self.fail()

    def members(self) -> Iterator[str]:
        """The names of an object's members, none for null; whoever asks takes or skips the value before the next."""
        if not self._enters("{"):
            return
        if self.peek() == "}":
            self.at += 1
            return
        for _ in range(self._most):
            name = self.value() if self.peek() == '"' else None
            if not isinstance(name, str) or self.peek() != ":":
                raise self.fail()
            self.at += 1
            self.peek()
            yield name
            if self._ends("}"):
                return
            self.peek()
        raise ExportTooLarge(what="members of one JSON object", found=self._most + 1, limit=self._most)

    def elements(self) -> Iterator[None]:
        """Once for each element of an array, never for null; whoever asks takes or skips it before the next."""
        if not self._enters("["):
            return
        if self.peek() == "]":
            self.at += 1
            return
        while True:
            self.peek()
            yield
            if self._ends("]"):
                return

    def _enters(self, opening: str) -> bool:
        if self.peek() == opening:
            self.at += 1
            return True
        if self.text.startswith("null", self.at):
            self.at += 4
            return False
        raise self.fail()

    def _ends(self, closing: str) -> bool:
        found = self.peek()
        self.at += 1
        if found == closing:
            return True
        if found == ",":
            return False
        self.at -= 1
        raise self.fail()

    def value(self) -> Any:
        """The value at the cursor, as Python objects. Raises TooLong."""
        start = self.at - self._base
        if not 0 <= start < len(self._window):
            start = self._slide()
        while True:
            reaches_end = self._base + len(self._window) == len(self.text)
            try:
                value, end = _decode(self._window, start)
                if reaches_end or end < len(self._window):
                    self.at = self._base + end
                    return value
            except RecursionError:
                raise MalformedExport("the body is nested too deeply to be read as JSON") from None
            except ValueError as broken:  # JSONDecodeError is one; so is a number of more digits than Python converts
                if reaches_end:
                    raise MalformedExport(f"the body is no JSON: {str(broken)[:200]}") from None
            if start:
                start = self._slide()
            elif self.text[self.at] == '"':
                return self._long_string()
            else:
                raise TooLong

    def _slide(self) -> int:
        self._base = self.at
        self._window = self.text[self.at : self.at + WINDOW]
        return 0

    def _long_string(self) -> str:
        try:
            value, self.at = _decode(self.text, self.at)
        except ValueError as broken:
            raise MalformedExport(f"the body is no JSON: {str(broken)[:200]}") from None
        return value  # type: ignore[no-any-return]  # what starts with a quote is a string

    def skip(self) -> Generator[None, None, bool]:
        """Step over the value at the cursor; False when it was too long to be read, so that only its brackets were."""
        try:
            self.value()
        except TooLong:
            pass
        else:
            return True
        depth = 0
        for count, match in enumerate(_token.finditer(self.text, self.at), 1):
            mark = match[0][0]
            if mark in "[{":
                depth += 1
            elif mark in "]}":
                depth -= 1
            if depth <= 0:
                self.at = match.end()
                return False
            if not count % SLICE_TOKENS:
                if count >= MAX_TOKENS:
                    raise ExportTooLarge(what="brackets and strings in one JSON value", found=count, limit=MAX_TOKENS)
                yield
        raise self.fail()
