"""The decoder against protobuf's own parser, on bodies that are right, nearly right and arbitrary.

Referees are the *official* classes, and *lenient* copies of them made here: the official descriptors with every string as bytes
and without the fields that the decoder never reads. What any of them accepts we accept, with the same content. What the lenient
copy without Status rejects we reject, unless it is inside a span that is rejected for its ids: nobody looks into that.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.resource.v1 import resource_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

from receiver.core.span import Span
from receiver.errors import MalformedExport
from receiver.otlp.decode import Decoder, Export, run

Official = trace_service_pb2.ExportTraceServiceRequest

#: Fields that the decoder reads: what is left of the official messages in the lenient copies.
READ = {
    "ExportTraceServiceRequest": {"resource_spans"},
    "ResourceSpans": {"resource", "scope_spans"},
    "ScopeSpans": {"scope", "spans"},
    "Span": {
        "trace_id", "span_id", "trace_state", "parent_span_id", "flags", "name", "kind", "start_time_unix_nano", "end_time_unix_nano",
        "attributes", "dropped_attributes_count", "status",
    },
    "Status": {"code"},
    "Resource": {"attributes", "dropped_attributes_count"},
    "InstrumentationScope": {"name", "version", "attributes", "dropped_attributes_count"},
    "KeyValue": {"key", "value"},
    "AnyValue": None,
    "ArrayValue": None,
    "KeyValueList": None,
}  # fmt: skip


def lenient_class(*, with_status: bool) -> Any:
    """The official request without UTF-8 checks and without unread fields, in a pool of its own."""
    pool = descriptor_pool.DescriptorPool()
    for module in (common_pb2, resource_pb2, trace_pb2, trace_service_pb2):
        file = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        for message in file.message_type:
            read = READ.get(message.name)
            if read is not None:
                unread = [field for field in message.field if field.name not in read or (field.name == "status" and not with_status)]
                for field in unread:
                    message.field.remove(field)
            for field in message.field:
                if field.type == descriptor_pb2.FieldDescriptorProto.TYPE_STRING:
                    field.type = descriptor_pb2.FieldDescriptorProto.TYPE_BYTES
        del file.service[:]
        pool.Add(file)
    name = "opentelemetry.proto.collector.trace.v1.ExportTraceServiceRequest"
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


Lenient = lenient_class(with_status=True)
Loosest = lenient_class(with_status=False)  # of a Status that stands twice the decoder judges the second


def text(raw: bytes | str) -> str:
    return raw.decode(errors="replace") if isinstance(raw, bytes) else raw


def value(any_value: Any) -> Any:
    kind = any_value.WhichOneof("value")
    if kind == "array_value":
        return [value(item) for item in any_value.array_value.values]
    if kind == "kvlist_value":
        found: dict[str, Any] = {}
        for entry in any_value.kvlist_value.values:
            found.setdefault(text(entry.key), value(entry.value))
        return found
    if kind == "string_value":
        return text(any_value.string_value)
    if kind in (None, "string_value_strindex"):
        return None
    return getattr(any_value, kind)


def comparable(item: Any) -> Any:
    """Equal exactly when type and content are: True is not 1, NaN is NaN."""
    if isinstance(item, float):
        return ("float", struct.pack("<d", item) if not math.isnan(item) else "nan")
    if isinstance(item, list):
        return ["list", *map(comparable, item)]
    if isinstance(item, dict):
        return {key: comparable(inner) for key, inner in item.items()}
    return (type(item).__name__, item)


def pairs(attributes: Any) -> list[Any]:
    return [(text(entry.key), comparable(value(entry.value))) for entry in attributes]


def first_of_each(attributes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, item in pairs(attributes):
        found.setdefault(key, item)
    return found


def expected(request: Any) -> tuple[list[Any], Counter[str]]:
    """What the decoder must make of a parsed request: its valid spans, and why it rejects the others."""
    spans: list[Any] = []
    rejected: Counter[str] = Counter()
    for resource_spans in request.resource_spans:
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                if len(span.trace_id) != 16 or not any(span.trace_id):
                    rejected["invalid_trace_id"] += 1
                elif len(span.span_id) != 8 or not any(span.span_id):
                    rejected["invalid_span_id"] += 1
                elif len(span.parent_span_id) not in (0, 8):
                    rejected["invalid_parent_span_id"] += 1
                else:
                    spans.append((
                        span.trace_id, span.span_id, span.parent_span_id if any(span.parent_span_id) else b"", text(span.name),
                        span.kind, span.start_time_unix_nano, span.end_time_unix_nano, span.flags, span.dropped_attributes_count,
                        pairs(span.attributes), first_of_each(resource_spans.resource.attributes),
                        first_of_each(scope_spans.scope.attributes), text(scope_spans.scope.name), text(scope_spans.scope.version),
                        resource_spans.resource.dropped_attributes_count + scope_spans.scope.dropped_attributes_count,
                    ))  # fmt: skip
    return spans, rejected


def found(span: Span) -> Any:
    source = span.source
    return (
        span.trace_id, span.span_id, span.parent_span_id, span.name,
        span.kind, span.start_unix_nano, span.end_unix_nano, span.flags, span.dropped_attributes,
        [(key, comparable(item)) for key, item in span.attributes], {k: comparable(v) for k, v in source.resource.items()},
        {k: comparable(v) for k, v in source.attributes.items()}, source.scope, source.scope_version,
        source.dropped_attributes,
    )  # fmt: skip


#: One decoder for all examples: what its tables remember of one body must not show in another.
SHARED = Decoder(lambda _: 1 << 20, interned=512)


def decode(decoder: Decoder, body: bytes) -> Export | None:
    try:
        return run(decoder.protobuf(body, received_unix_nano=0))
    except MalformedExport:
        return None


def parsed(referee: Any, body: bytes) -> Any:
    """None: malformed."""
    try:
        return referee.FromString(body)
    except DecodeError:
        return None


def agree(body: bytes) -> None:
    """The whole property, for one body."""
    export = decode(SHARED, body)
    official, lenient, loosest = (parsed(referee, body) for referee in (Official, Lenient, Loosest))
    if export is None:
        assert official is None, body
        assert lenient is None, body
        return
    assert loosest is not None or export.rejected, body
    for referee in (official, lenient, loosest):
        if referee is not None:
            spans, rejected = expected(referee)
            assert [found(span) for span in export.spans] == spans, body
            assert export.rejected == rejected, body
    assert export.received == len(export.spans) + export.rejected.total()
    again = decode(SHARED, body)
    assert again is not None
    assert [found(span) for span in again.spans] == [found(span) for span in export.spans]


# ---------------------------------------------------------------------------------------------- bodies, written by hand


def varint(number: int, *, padded: int = 0) -> bytes:
    out = bytearray()
    number &= (1 << 64) - 1
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    for _ in range(padded):
        out[-1] |= 0x80
        out.append(0)
    return bytes(out)


def field(number: int, payload: bytes, *, padded: int = 0) -> bytes:
    return varint(number << 3 | 2, padded=padded) + varint(len(payload), padded=padded) + payload


padding = st.sampled_from((0, 0, 0, 0, 0, 1, 2))
short = st.one_of(st.binary(max_size=12), st.sampled_from((b"gen_ai.usage.input_tokens", b"user.id", b"", b"\xff\xfe", "é€".encode())))
junk_field = st.one_of(
    st.builds(lambda n, v: varint(n << 3) + varint(v), st.integers(1, 40), st.integers(-5, 1 << 64)),
    st.builds(lambda n, v: varint(n << 3 | 1) + v, st.integers(1, 40), st.binary(min_size=8, max_size=8)),
    st.builds(lambda n, v: varint(n << 3 | 5) + v, st.integers(1, 40), st.binary(min_size=4, max_size=4)),
    st.builds(field, st.integers(17, 40), short),
    st.builds(lambda n, v: varint(n << 3 | 3) + v + varint(n << 3 | 4), st.integers(17, 40), st.sampled_from((b"", b"\x08\x01"))),
)


def message(*parts: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Any of the parts in any order and number, seldom something unknown between them."""
    usual = st.one_of(*parts)
    return st.lists(st.one_of(usual, usual, usual, usual, usual, usual, junk_field), max_size=4).map(b"".join)


def member(number: int, payload: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.builds(lambda raw, pad: field(number, raw, padded=pad), payload, padding)


scalar_value = st.one_of(
    member(1, st.one_of(short, st.binary(min_size=100, max_size=300))),
    st.builds(lambda v, pad: b"\x10" + varint(v, padded=pad), st.integers(0, 2), padding),
    st.builds(lambda v, pad: b"\x18" + varint(v, padded=pad), st.integers(-(1 << 63), (1 << 63) - 1), padding),
    st.builds(lambda v: b"\x18" + varint(v), st.integers(0, 300)),
    st.builds(lambda v: b"\x21" + struct.pack("<d", v), st.floats()),
    member(7, short),
    st.builds(lambda v: b"\x40" + varint(v), st.integers(0, 9)),
    st.just(b""),
)
any_value = st.recursive(
    st.one_of(scalar_value, scalar_value, message(scalar_value)),
    lambda inner: st.one_of(
        member(5, message(member(1, inner))),
        member(6, message(member(1, message(member(1, short), member(2, inner))))),
    ),
    max_leaves=6,
)
key_value = st.one_of(
    st.builds(lambda key, raw, a, b: field(1, key, padded=a) + field(2, raw, padded=b), short, any_value, padding, padding),
    message(member(1, short), member(2, any_value)),
)
ids = st.sampled_from((b"\x01" * 16, b"\x02" * 16, bytes(16), b"\x03" * 8, b"\x04" * 8, bytes(8), b"", b"\x05" * 7))
good_head = st.just(field(1, b"\x01" * 16) + field(2, b"\x02" * 8))
span = st.builds(
    lambda head, rest: head + rest,
    st.one_of(good_head, good_head, good_head, st.just(b"")),
    message(
        member(1, ids), member(2, ids), member(3, short), member(4, ids), member(5, short),
        st.builds(lambda v: b"\x30" + varint(v), st.integers(-3, 9)),
        st.builds(lambda v: b"\x39" + struct.pack("<Q", v), st.integers(0, (1 << 64) - 1)),
        st.builds(lambda v: b"\x41" + struct.pack("<Q", v), st.integers(0, (1 << 64) - 1)),
        member(9, key_value), member(9, key_value), member(9, key_value),
        st.builds(lambda v: b"\x50" + varint(v), st.integers(0, 300)),
        st.builds(lambda v: b"\x85\x01" + struct.pack("<I", v), st.integers(0, 0x3FF)),
        st.just(field(15, b"\x12\x03bad\x18\x02")),
    ),
)  # fmt: skip
resource = message(member(1, key_value), st.builds(lambda v: b"\x10" + varint(v), st.integers(0, 9)))
scope = message(member(1, short), member(2, short), member(3, key_value))
scope_spans = message(member(1, scope), member(2, span), member(2, span), member(3, short))
resource_spans = message(member(1, resource), member(2, scope_spans), member(2, scope_spans))
request = message(member(1, resource_spans), member(1, resource_spans))


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A body with some bytes changed, cut out, doubled or cut off: mostly broken, sometimes only different."""
    body = bytearray(draw(request))
    for _ in range(draw(st.integers(1, 4))):
        if not body:
            break
        at = draw(st.integers(0, len(body) - 1))
        match draw(st.integers(0, 4)):
            case 0:
                body[at] = draw(st.integers(0, 255))
            case 1:
                body[at] ^= 1 << draw(st.integers(0, 7))
            case 2:
                del body[at : at + draw(st.integers(1, 4))]
            case 3:
                body[at:at] = draw(st.binary(min_size=1, max_size=4))
            case 4:
                del body[at:]
    return bytes(body)


SETTINGS = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@SETTINGS
@given(request)
@example(b"")
@example(b"\x8a\x00\x00")  # a tag that is a byte longer than it need be
@example(b"\x0a\x80\x00")  # a length that is
def test_well_framed_requests_mean_what_protobuf_says(body: bytes) -> None:
    """Odd but legal encodings (padded varints, repeated and split fields, unknown fields, groups) are read as protobuf reads them."""
    agree(body)


@SETTINGS
@given(mutated())
def test_mutated_requests_are_accepted_exactly_when_protobuf_accepts_them(body: bytes) -> None:
    """A damaged body is refused by both or read alike by both: no byte is misread, none crashes the decoder."""
    agree(body)


@SETTINGS
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_judged_as_protobuf_judges_them(body: bytes) -> None:
    """Decoding is total: any bytes give an Export or MalformedExport, whichever protobuf's verdict is."""
    agree(body)


@SETTINGS
@given(st.lists(span, min_size=1, max_size=6), st.integers(0, 3))
def test_long_spans_and_many_runs_mean_the_same_as_short_ones(spans: list[bytes], place: int) -> None:
    """A prompt of 20 KiB in a span, which then is walked and not parsed at once, changes nothing but itself."""
    prompt = field(9, field(1, b"prompt") + field(2, field(1, b"x" * 20_000)))
    spans[min(place, len(spans) - 1)] += prompt
    body = field(1, field(2, field(1, field(1, b"scope")) + b"".join(field(2, one) for one in spans) + field(2, spans[0] + prompt * 2)))
    agree(body)


@SETTINGS
@given(request)
def test_unwanted_attributes_leave_no_trace(body: bytes) -> None:
    """With nothing wanted, the ids, names and times are still protobuf's, and no attribute is kept, however it is encoded."""
    nothing = Decoder(lambda _: 0)
    try:
        spans, rejected = expected(Lenient.FromString(body))
    except DecodeError:
        return
    export = decode(nothing, body)
    assert export is not None
    assert export.rejected == rejected
    assert [found(one)[:9] for one in export.spans] == [one[:9] for one in spans]
    assert not any(one.attributes for one in export.spans)
