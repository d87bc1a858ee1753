"""From the body of an export request to Spans: counted before anything is made of them, each attribute parsed once.

The official classes make an object for every attribute of every span: nine tenths of their cost in Python, and a request of two
million empty spans becomes ninety times its size. So here the two outer levels are walked by hand, on offsets. The spans of a scope
are parsed some dozens at a time, with a lean schema (`proto/spantoll/wire/v1/wire.proto`) that leaves attributes as bytes, and
`intern.Interned` turns those into shared pairs, mostly in C. Whatever is long (prompts) is walked instead, and copied once at most.

What the official parser accepts is accepted. It is stricter about what nobody reads here: the insides of events, links and unwanted
attributes, the encoding of text (bad bytes become U+FFFD), and nesting (protobuf refuses the request, we drop the attribute).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from operator import attrgetter
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError

from receiver.core.span import Attributes, Source, Span, Value
from receiver.errors import ExportTooLarge, MalformedExport
from receiver.otlp import wire_pb2 as wire
from receiver.otlp.anyvalue import MAX_DEPTH, TEXT_BYTES, Lost, Pair, Text, parse
from receiver.otlp.framing import MALFORMED, Range, Run, cut_into_runs, skip, split, varint
from receiver.otlp.intern import SHORT, Interned, Limits, Trim
from receiver.otlp.json import Memo, Reader
from receiver.otlp.record import (
    MAX_SOURCE_BYTES,
    MAX_SOURCES,
    NAME_BYTES,
    NO_SPAN,
    NO_TRACE,
    PROCESS_BYTES,
    PROCESS_KEYS,
    SLOT_BYTES,
    SPAN_BYTES,
    Export,
    Steps,
    fault,
    first_of_each,
    run,
    thresholded,
)

__all__ = ["Decoder", "Export", "Steps", "run"]

SLICE_SPANS: Final = 2_048  #: spans between two yields: some 10 ms
SLICE_BYTES: Final = 1 << 20  #: bytes between two yields, where the spans are long
SLICE_FIELDS: Final = 4_096  #: fields between two yields, inside one long message

SMALL_BYTES: Final = 32_768  #: a ScopeSpans up to this size is one run: no need to look for its spans' boundaries first
MAX_FIELDS: Final = 1 << 20  #: fields of long messages in one request; each takes half a microsecond, some where its key is new
KEPT_BYTES: Final = 65_536  #: of such a message, a field (not an attribute) that is longer is left out: a name that nobody can read
RUN_COST: Final = 8  #: what a run costs beside its spans, in spans, for the slicing

#: Mean bytes of a span in a run from which its attributes are looked at one by one: hashing a long text costs more than that.
TEXTUAL_BYTES: Final = 1_536

MAX_NAMES: Final = 8_192  #: distinct span names under 256 B that are remembered

PROCESS_FIELDS: Final = {b"\x0a" + bytes((len(key),)) + key.encode(): key for key in PROCESS_KEYS}

#: Serialized Status -> its code, where it has no message.
STATUS_CODES: Final = {b"\x18\x01": 1, b"\x18\x02": 2}

#: Of a message that is walked: the tag of its attributes (field number and wire type), and the numbers of the other fields it keeps.
Shape = tuple[int, frozenset[int]]
SPAN: Final[Shape] = (0x4A, frozenset((1, 2, 3, 4, 5, 6, 7, 8, 10, 15, 16)))
RESOURCE: Final[Shape] = (0x0A, frozenset((2,)))
SCOPE: Final[Shape] = (0x1A, frozenset((1, 2, 4)))

_fields: Final = attrgetter(
    "trace_id",
    "span_id",
    "parent_span_id",
    "name",
    "kind",
    "start_time_unix_nano",
    "end_time_unix_nano",
    "flags",
    "dropped_attributes_count",
    "trace_state",
    "status",
    "attributes",
)


class Decoder:
    """Bodies to Exports, in either encoding. One serves all requests: it holds the bounded tables of what came before.

    limit_of: bytes of this attribute's value that are worth keeping, 0: not wanted. Asked once a key, so it must be pure.
    trim_of: what cuts this attribute's value down to the parts that are read; None: it is kept whole. As pure.
    max_spans: in one request; over it ExportTooLarge.
    max_attributes: wanted ones that a span (resource, scope) keeps: the first; others are counted as dropped.
    max_depth: levels of values in values; a deeper attribute is dropped alone and counted as dropped.
    interned: entries in the table of attributes, each under 256 B on the wire and about 1 KB in memory.
    """

    def __init__(
        self,
        limit_of: Callable[[str], int],
        *,
        trim_of: Callable[[str], Trim | None] = lambda _: None,
        max_spans: int = 20_000,
        max_attributes: int = 1_024,
        max_depth: int = MAX_DEPTH,
        interned: int = 65_536,
    ) -> None:
        self._max_spans = max_spans
        self._max_attributes = max_attributes
        self._max_depth = max_depth
        self._limits = Limits(limit_of, trim_of)
        self._pairs = Interned(self._limits, entries=interned, max_depth=max_depth)
        self._names: dict[bytes, str] = {}  # on the wire -> the shared str
        self._sources: dict[tuple[bytes, bytes], Source] = {}
        self._memo = Memo(interned)

    def protobuf(self, body: bytes, *, received_unix_nano: int) -> Steps:
        """Decode a serialized ExportTraceServiceRequest in slices of work. Raises MalformedExport, ExportTooLarge."""
        export = Export(received_unix_nano)
        resource: Resource | None = None
        spans = size = 0  # since the last yield
        try:
            for part in self._plan(body):
                source: Source | None = None
                for start, end, is_long in part.runs:
                    given: Given | None = None
                    if is_long:
                        given = yield from self._walk(body, (start, end), SPAN, self._pairs.ask, export)
                        message = wire.ScopeSpans(spans=[wire.Span.FromString(given.rest)])
                    else:
                        message = wire.ScopeSpans.FromString(body[start:end])
                    if source is None:
                        scope = b"".join(message.scope) if part.scope is None else part.scope
                        source = self._sources.get((part.resource, scope))
                        if source is None:
                            if resource is None or resource.raw is not part.resource:
                                resource = yield from self._resource(part.resource, export)
                            source = yield from self._new_source(resource, scope, export)
                    count = len(message.spans)
                    export.received += count
                    if export.received > self._max_spans:
                        raise ExportTooLarge(what="spans", found=export.received, limit=self._max_spans)
                    self._spans(message.spans, source, export, end - start > TEXTUAL_BYTES * count, given)
                    spans += count + RUN_COST
                    size += end - start
                    if spans >= SLICE_SPANS or size >= SLICE_BYTES:
                        spans = size = 0
                        yield
        except DecodeError as broken:
            raise MalformedExport(MALFORMED) from broken
        return export

    def json(self, body: bytes, *, received_unix_nano: int) -> Steps:
        """Decode an export request in OTLP's JSON encoding in slices of work. Raises MalformedExport, ExportTooLarge."""
        reader = Reader(
            self._limits,
            self._memo,
            max_spans=self._max_spans,
            max_attributes=self._max_attributes,
            max_depth=self._max_depth,
            received_unix_nano=received_unix_nano,
        )
        return reader.read(body)

    def _spans(
        self,
        messages: Iterable[wire.Span],
        source: Source,
        export: Export,
        is_textual: bool,
        given: Given | None,
    ) -> None:
        """The hot loop: everything is a local name, and what can be done in C is. No yield: it owns the tables' counters."""
        pairs, names, text = self._pairs, self._names, self._pairs.text
        find, parse_long = pairs.__getitem__, pairs.parse
        most = self._max_attributes
        append = export.spans.append
        received_unix_nano = export.received_unix_nano
        attributes: Attributes
        last_trace: bytes | None = None
        pairs.fresh = pairs.lost = text.sanitized = 0
        for read in map(_fields, messages):
            trace_id, span_id, parent, raw_name, kind, start, end, flags, dropped, state, status, raws = read
            if trace_id == last_trace:
                trace_id = last_trace  # one object for the neighbours of a trace
            elif len(trace_id) != 16 or trace_id == NO_TRACE:
                export.rejected["invalid_trace_id"] += 1
                continue
            else:
                last_trace = trace_id
            if len(span_id) != 8 or span_id == NO_SPAN or (parent and (len(parent) != 8 or parent == NO_SPAN)):
                if reason := fault(trace_id, span_id, parent):
                    export.rejected[reason] += 1
                    continue
                parent = b""
            if given is not None:
                attributes = given.pairs
                pairs.fresh += given.fresh
                text.sanitized += given.sanitized
                dropped += given.lost
            elif is_textual:
                attributes = tuple([pair for raw in raws if (pair := find(raw) if len(raw) < SHORT else parse_long(raw))])
            else:
                attributes = tuple(filter(None, map(find, raws[:])))
            count = len(attributes)
            if count > most:
                dropped += count - most
                count = most
                attributes = attributes[:most]
            try:
                name = names[raw_name]
            except KeyError:
                name = self._new_name(raw_name)
            size = SPAN_BYTES + SLOT_BYTES * count
            if pairs.fresh or pairs.lost:
                size += pairs.fresh
                dropped += pairs.lost
                pairs.fresh = pairs.lost = 0
            code = 0
            if status:
                code = STATUS_CODES[status] if status in STATUS_CODES else wire.Status.FromString(status).code
            append(
                Span(
                    source,
                    trace_id,
                    span_id,
                    parent,
                    name,
                    kind,
                    start,
                    end,
                    attributes,
                    flags,
                    code,
                    dropped,
                    thresholded(state.decode(errors="replace")) if state else False,
                    size,
                    received_unix_nano,
                )
            )
        export.sanitized += text.sanitized
        pairs.age()
        if len(names) >= MAX_NAMES:
            names.clear()  # what is still in use comes again at once

    def _new_name(self, raw: bytes) -> str:
        """A span name that was not met before; remembered, but not when it is long, or mended, which is counted each time."""
        pairs, names = self._pairs, self._names
        before = pairs.text.sanitized
        name = pairs.text.decode(raw, NAME_BYTES)
        pairs.fresh += TEXT_BYTES + len(name)
        if len(raw) < SHORT and pairs.text.sanitized == before and len(names) < MAX_NAMES:
            names[raw] = name
        return name

    def _plan(self, body: bytes) -> list[Part]:
        """What is to be parsed, in pieces of bounded size, after counting what is there. Nothing of it was parsed or copied yet."""
        most = self._max_spans
        parts: list[Part] = []
        spans = 0
        resource_spans, _ = split(body, (0, len(body)), "resource_spans", 0, most)
        for within in resource_spans:
            resource, scope_spans = split(body, within, "scope_spans", len(parts), most)
            raw = b"".join([body[first:last] for first, last in resource])
            for first, last in scope_spans:
                if last - first <= SMALL_BYTES:
                    parts.append(Part(raw, None, [(first, last, False)]))
                else:
                    scope, runs, spans = cut_into_runs(body, (first, last), spans, most)
                    parts.append(Part(raw, scope, runs))
            if not scope_spans:
                parts.append(Part(raw, b"", [(0, 0, False)]))  # still judged, though nobody needs it
        return parts

    def _walk(
        self, data: bytes, within: Range, shape: Shape, ask: Callable[[bytes], Pair | None], export: Export
    ) -> Generator[None, None, Given]:
        """The wanted pairs of one long message, and its other fields that are `kept`. Yields: no counter survives that."""
        pairs, text = self._pairs, self._pairs.text
        pairs.fresh = pairs.lost = text.sanitized = 0
        found: list[Pair] = []
        rest = bytearray()
        fresh = lost = sanitized = fields = 0
        tag, kept = shape
        at, end = within
        while at < end:
            first = at
            found_tag, at = varint(data, at, 5)
            if found_tag == tag:
                length, at = varint(data, at, 5)
                if at + length > end:
                    raise MalformedExport(MALFORMED)
                before = pairs.fresh
                pair = ask(data[at : at + length])
                at += length
                if pair is not None:
                    if len(found) < self._max_attributes:
                        found.append(pair)
                    else:
                        lost += 1
                        pairs.fresh = before
            else:
                number, at = skip(data, first, end)
                if number in kept and at - first <= KEPT_BYTES:
                    rest += data[first:at]
            fields += 1
            if fields == SLICE_FIELDS or at == end:
                export.walked += fields
                fields = 0
                if export.walked > MAX_FIELDS:
                    raise ExportTooLarge(what="fields in long spans, resources and scopes", found=export.walked, limit=MAX_FIELDS)
                fresh, lost, sanitized = fresh + pairs.fresh, lost + pairs.lost, sanitized + text.sanitized
                pairs.age()
                if at < end:
                    yield
                pairs.fresh = pairs.lost = text.sanitized = 0
        return Given(tuple(found), bytes(rest), fresh, lost, sanitized)

    def _new_source(self, resource: Resource, raw_scope: bytes, export: Export) -> Generator[None, None, Source]:
        """Parse a scope; remember it with its resource, unless they are long, or were mended, which is counted each time."""
        walked = yield from self._walk(raw_scope, (0, len(raw_scope)), SCOPE, self._pairs.ask, export)
        scope = wire.InstrumentationScope.FromString(walked.rest)
        text = Text()
        source = Source(
            resource=resource.attributes,
            scope=text.decode(scope.name, NAME_BYTES),
            scope_version=text.decode(scope.version, NAME_BYTES),
            attributes=first_of_each(walked.pairs),
            dropped_attributes=resource.dropped + walked.lost + scope.dropped_attributes_count,
        )
        mended = walked.sanitized + text.sanitized
        export.sanitized += mended
        if len(resource.raw) + len(raw_scope) <= MAX_SOURCE_BYTES and not mended and not resource.mended:
            if len(self._sources) >= MAX_SOURCES:
                self._sources.clear()
            self._sources[resource.raw, raw_scope] = source
        return source

    def _resource(self, raw: bytes, export: Export) -> Generator[None, None, Resource]:
        walked = yield from self._walk(raw, (0, len(raw)), RESOURCE, self._ask_resource, export)
        export.sanitized += walked.sanitized
        dropped = walked.lost + wire.Resource.FromString(walked.rest).dropped_attributes_count
        return Resource(raw, first_of_each(walked.pairs), dropped, walked.sanitized)

    def _ask_resource(self, raw: bytes) -> Pair | None:
        """A resource attribute: those that name the process are kept in any case."""
        pair = self._pairs.ask(raw)
        if pair is None and (key := PROCESS_FIELDS.get(raw[: 2 + raw[1]] if len(raw) > 1 else b"")):
            value = b"".join(wire.KeyValue.FromString(raw).value)
            try:
                return key, parse(value, limit=PROCESS_BYTES, text=self._pairs.text, max_depth=self._max_depth)
            except Lost:
                self._pairs.lost += 1
        return pair


class Part(NamedTuple):
    """One ScopeSpans of a request."""

    resource: bytes  #: serialized Resource, b"" when there is none
    scope: bytes | None  #: serialized InstrumentationScope; None: stands in the one run, not looked for yet
    runs: list[Run]


class Resource(NamedTuple):
    """A parsed resource, for the next scope of it: a long one must not be parsed for each."""

    raw: bytes
    attributes: dict[str, Value]
    dropped: int
    mended: int


class Given(NamedTuple):
    """What was found in a long message."""

    pairs: Attributes
    rest: bytes  #: its other fields, serialized
    fresh: int  #: bytes of memory that the pairs hold
    lost: int  #: wanted attributes that are not in `pairs`
    sanitized: int
