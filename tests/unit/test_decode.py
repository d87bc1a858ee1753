"""From bytes to Spans: what is kept, what is dropped alone, what is refused, and what none of it may cost."""

from __future__ import annotations

import random
import struct
import sys
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from receiver.core.span import Span
from receiver.errors import ExportTooLarge, MalformedExport
from receiver.otlp.anyvalue import cut
from receiver.otlp.decode import SLICE_SPANS, Decoder, Export, run
from receiver.otlp.intern import MAX_KEYS, Interned, Limits
from receiver.otlp.record import thresholded
from tests.captures import exports, scenarios
from tests.unit.wire_bodies import (
    SPAN_ID,
    TRACE_ID,
    array,
    attribute,
    field,
    integer,
    peak_growth_mib,
    request,
    span,
    string,
    varint,
)

EVERYTHING = 1 << 20


def decode(body: bytes, limit_of: Callable[[str], int] = lambda _: EVERYTHING, **options: Any) -> Export:
    return run(Decoder(limit_of, **options).protobuf(body, received_unix_nano=7))


def only(export: Export) -> Span:
    assert len(export.spans) == 1
    assert not export.rejected
    return export.spans[0]


# ------------------------------------------------------------------------------------------------------------ what is kept


def test_real_exports_are_read_as_the_official_classes_read_them() -> None:
    """Every span of every capture: ids, name, kind, times, flags, status, every attribute, resource and scope."""

    def value(any_value: Any) -> Any:
        kind = any_value.WhichOneof("value")
        if kind == "array_value":
            return [value(item) for item in any_value.array_value.values]
        if kind == "kvlist_value":
            return {entry.key: value(entry.value) for entry in any_value.kvlist_value.values}
        return getattr(any_value, kind) if kind else None

    decoder = Decoder(lambda _: EVERYTHING)
    count = 0
    for path in (path for scenario in scenarios() for path in exports(scenario)):
        body = path.read_bytes()
        kept = iter(run(decoder.protobuf(body, received_unix_nano=7)).spans)
        for resource_spans in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope_spans in resource_spans.scope_spans:
                for theirs in scope_spans.spans:
                    ours = next(kept)
                    assert ours.trace_id == theirs.trace_id
                    assert ours.span_id == theirs.span_id
                    assert ours.parent_span_id == theirs.parent_span_id
                    assert (ours.name, ours.kind, ours.flags) == (theirs.name, theirs.kind, theirs.flags), path
                    assert (ours.start_unix_nano, ours.end_unix_nano) == (theirs.start_time_unix_nano, theirs.end_time_unix_nano)
                    assert (ours.status_code, ours.dropped_attributes) == (theirs.status.code, theirs.dropped_attributes_count)
                    assert ours.attributes == tuple((pair.key, value(pair.value)) for pair in theirs.attributes), path
                    assert ours.source.resource == {pair.key: value(pair.value) for pair in resource_spans.resource.attributes}
                    assert (ours.source.scope, ours.source.scope_version) == (scope_spans.scope.name, scope_spans.scope.version)
                    assert ours.received_unix_nano == 7
                    count += 1
        assert next(kept, None) is None
    assert count > 2_000


def test_only_wanted_attributes_are_kept_and_each_key_is_asked_for_once() -> None:
    """A prompt never enters memory, and the rules are not asked again for what they already said."""
    asked: list[str] = []

    def limit_of(key: str) -> int:
        asked.append(key)
        return 64 if key == "user.id" else 0

    spans = [span(attribute("prompt", string(f"secret {n}" * n)), attribute("user.id", string(f"u{n}"))) for n in range(60)]
    export = decode(request(*spans), limit_of)
    assert [one.attributes for one in export.spans] == [(("user.id", f"u{n}"),) for n in range(60)]
    assert sorted(asked) == ["prompt", "user.id"]


def test_equal_attributes_sources_and_names_are_one_object() -> None:
    """What spans have in common is held once: it is what makes a window of a million spans affordable."""
    decoder = Decoder(lambda _: EVERYTHING)
    body = request(span(attribute("user.id", string("u1")), rest=field(5, b"chat")), resource=field(1, attribute("a", string("b"))))
    first, second = (only(run(decoder.protobuf(body, received_unix_nano=0))) for _ in range(2))
    assert first.attributes[0] is second.attributes[0]
    assert first.source is second.source
    assert first.name is second.name
    assert second.size < first.size  # and what is shared is weighed once


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (string("é€😀"), "é€😀"),
        (string(""), ""),
        (string("x" * 120), "x" * 120),
        (string("x" * 130), "x" * 130),
        (string("x" * 20_000), "x" * 20_000),
        (integer(0), 0),
        (integer(2**62), 2**62),
        (integer(-(2**63)), -(2**63)),
        (integer(-1), -1),
        (b"\x10\x01", True),
        (b"\x10\x00", False),
        (b"\x10\x02", True),
        (b"\x21" + struct.pack("<d", -0.5), -0.5),
        (b"\x21" + struct.pack("<d", float("inf")), float("inf")),
        (field(7, b"\x00\xff"), b"\x00\xff"),
        (b"", None),
        (b"\x40\x03", None),
        (array(string("a"), integer(1), b""), ["a", 1, None]),
        (array(), []),
        (field(6, field(1, attribute("k", array(integer(1)))) + field(1, attribute("k", integer(2)))), {"k": [1]}),
    ],
)
def test_every_kind_of_value_keeps_its_type(raw: bytes, value: object) -> None:
    """Since OTLP 1.9 all kinds are legal on a span; a bool is no int, an empty AnyValue is None."""
    found = only(decode(request(span(attribute("k", raw))))).attributes[0][1]
    assert found == value
    assert type(found) is type(value)


def test_a_value_over_its_limit_is_cut_between_two_characters() -> None:
    """A label of a megabyte is no label; half a character is no text; both encodings cut at the same place."""
    pieces = [cut("aé€😀".encode(), limit).decode() for limit in range(11)]
    assert pieces == ["", "a", "a", "aé", "aé", "aé", "aé€", "aé€", "aé€", "aé€", "aé€😀"]
    for size in (100, 300, 20_000, 5_000_000):
        kept = only(decode(request(span(attribute("k", string("€" * size)))), lambda _: 64)).attributes
        assert kept == (("k", "€" * 21),)


def test_a_list_or_map_over_its_limit_is_dropped_and_counted() -> None:
    """A part of a usage object would be a wrong usage; so all of it is missing, and the span says that it lost something."""
    for count in (20, 3_000):
        kept = only(decode(request(span(attribute("k", array(*[integer(5)] * count)), rest=b"\x50\x02")), lambda _: 64))
        assert kept.attributes == ()
        assert kept.dropped_attributes == 3
    assert only(decode(request(span(attribute("k", array(*[integer(5)] * 6)))), lambda _: 64)).attributes == (("k", [5] * 6),)


def test_the_process_is_known_whatever_the_rules_want() -> None:
    """`service.*` on the resource tells one process from another; on a span it is an attribute like others."""
    keys = ("service.name", "service.namespace", "service.instance.id")
    pairs = [attribute(key, string(key.upper())) for key in keys]
    kept = only(decode(request(span(*pairs), resource=b"".join(field(1, pair) for pair in pairs)), lambda _: 0))
    assert kept.source.resource == {key: key.upper() for key in keys}
    assert kept.source.process == "SERVICE.INSTANCE.ID"
    assert kept.attributes == ()


def test_no_span_and_no_body_are_an_empty_export() -> None:
    """An empty request is a success that costs nothing."""
    for body in (b"", field(1, b""), request(), field(1, field(2, field(1, b"")))):
        export = decode(body)
        assert (export.spans, export.received, export.errors) == ([], 0, "")


def test_a_size_is_near_what_the_record_really_holds() -> None:
    """The window's bound is in bytes, so an estimate that is off by half would be no bound."""
    spans = [
        span(*[attribute(f"k{n}", string(f"value {number} {n}" * 3)) for n in range(12)], span_id=struct.pack(">Q", number + 1))
        for number in range(200)
    ]
    export = decode(request(*spans))
    real = 0
    for one in export.spans:
        held = (one, one.span_id, one.attributes, one.start_unix_nano, *one.attributes, *(value for _, value in one.attributes))
        real += sum(sys.getsizeof(item) for item in held)
    estimate = sum(one.size for one in export.spans)
    assert 0.85 * real < estimate < 1.35 * real


# -------------------------------------------------------------------------------------------------- what is rejected alone


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (span(trace_id=b""), "invalid_trace_id"),
        (span(trace_id=bytes(16)), "invalid_trace_id"),
        (span(trace_id=b"\x01" * 24), "invalid_trace_id"),
        (span(span_id=b""), "invalid_span_id"),
        (span(span_id=bytes(8)), "invalid_span_id"),
        (span(span_id=b"\x01" * 16), "invalid_span_id"),
        (span(rest=field(4, b"\x01" * 7)), "invalid_parent_span_id"),
    ],
)
def test_an_invalid_id_costs_its_span_alone(bad: bytes, reason: str) -> None:
    """The other spans of the request are accepted, and the answer says in English what was wrong with how many."""
    export = decode(request(span(), bad, span(span_id=b"\x03" * 8)))
    assert [one.span_id for one in export.spans] == [SPAN_ID, b"\x03" * 8]
    assert export.rejected == {reason: 1}
    assert export.received == 3
    assert "rejected 1 of 3 spans" in export.errors
    assert reason in export.errors


def test_a_parent_of_zeros_is_no_parent() -> None:
    """Some encoders write the invalid id where they mean none (W3C Trace Context)."""
    assert only(decode(request(span(rest=field(4, bytes(8)))))).is_root


@pytest.mark.parametrize(
    ("state", "sampled"),
    [
        ("", False),
        ("ot=th:c", True),
        ("vendor=1, ot=rv:0f;th:8", True),
        ("ot=th:0", False),
        ("ot=rv:0123", False),
        ("other=th:8", False),
        ("ot=", False),
        ("ot", False),
    ],
)
def test_a_sampling_threshold_in_tracestate_is_seen(state: str, sampled: bool) -> None:
    """Where other traces were sampled out, a sum is not the whole sum: that must be said."""
    assert thresholded(state) is sampled
    assert only(decode(request(span(rest=field(3, state.encode()))))).sampled is sampled


def test_attributes_over_the_bound_are_counted_not_kept() -> None:
    """The first wanted ones stay; what is missing shows in `dropped_attributes`, beside what the sender dropped."""
    pairs = [attribute(f"k{n}", integer(n)) for n in range(10)]
    for padding in (b"", field(9, attribute("unwanted", string("x" * 40_000)))):
        spans = [span(*pairs, rest=b"\x50\x05" + padding)] * 3
        kept = decode(request(*spans), lambda key: 0 if key == "unwanted" else 64, max_attributes=4).spans[2]
        assert kept.attributes == tuple((f"k{n}", n) for n in range(4))
        assert kept.dropped_attributes == 11


@pytest.mark.parametrize("depth", [10, 32, 33, 60, 200, 5_000])
def test_deep_nesting_costs_its_attribute_alone(depth: int) -> None:
    """Protobuf refuses a whole request over 100 levels; here 33 levels cost one attribute, which is counted."""
    value = string("x")
    for _ in range(depth - 1):
        value = array(value)
    kept = only(decode(request(span(attribute("deep", value), attribute("flat", integer(1))))))
    assert kept.attributes[-1] == ("flat", 1)
    assert len(kept.attributes) == (2 if depth <= 32 else 1)
    assert kept.dropped_attributes == (0 if depth <= 32 else 1)


def test_bad_text_in_any_string_is_replaced_and_counted() -> None:
    """Truncated model output is often cut inside a character; protobuf would refuse everyone else's spans with it."""
    bad = b"ok\xff\xe2\x82"
    body = request(
        span(attribute("k", string(bad)), attribute("list", array(string(bad))), rest=field(5, bad) + field(3, bad)),
        span(attribute("k", string(bad))),
        resource=field(1, attribute("r", string(bad))),
        scope=field(1, bad) + field(2, bad) + field(3, attribute("s", string(bad))),
    )
    mended = "ok\ufffd\ufffd"
    export = decode(body)
    first, second = export.spans
    assert first.name == mended
    assert first.attributes == (("k", mended), ("list", [mended]))
    assert second.attributes == (("k", mended),)
    assert first.source.resource == {"r": mended}
    assert (first.source.scope, first.source.scope_version, first.source.attributes) == (mended, mended, {"s": mended})
    assert export.sanitized == 8


def test_text_that_contains_serialized_attributes_forges_nothing() -> None:
    """Only the framing of the message says what an attribute is: a prompt may hold any bytes it likes."""
    forged = field(9, attribute("gen_ai.usage.input_tokens", integer(999_999)))
    inside = forged + field(2, span(attribute("gen_ai.usage.input_tokens", integer(1)))) + request(span())
    decoder = Decoder(lambda key: 64 if key.startswith("gen_ai.usage") else 0)
    honest = attribute("gen_ai.usage.input_tokens", integer(5))
    for text in (inside, inside * 40, b"x" * 20_000 + inside):
        body = request(span(attribute("prompt", string(text)), honest, attribute(forged, string(b"")), rest=field(5, inside)))
        for _ in range(2):
            kept = only(run(decoder.protobuf(body, received_unix_nano=0)))
            assert kept.attributes == (("gen_ai.usage.input_tokens", 5),)


def test_absurd_numbers_reach_the_rules_as_they_are() -> None:
    """Judging them is the rules' work; the decoder neither fails on them nor mends them."""
    values = [struct.pack("<d", number) for number in (float("nan"), float("inf"), -1.0, 1e308)]
    pairs = [attribute(f"k{n}", b"\x21" + raw) for n, raw in enumerate(values)]
    kept = only(decode(request(span(*pairs, attribute("min", integer(-(2**63))), attribute("max", integer(2**63 - 1)))))).attributes
    assert [repr(value) for _, value in kept] == ["nan", "inf", "-1.0", "1e+308", str(-(2**63)), str(2**63 - 1)]


# --------------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("body", [b"\x0a", b"\x0a\x05\x00", b"\xff" * 20, b"hello, world", b'{"resourceSpans": []}', request(span())[:-1]])
def test_other_bodies_are_refused_as_malformed(body: bytes) -> None:
    """The message must help a person who mixed up encodings or ports."""
    with pytest.raises(MalformedExport, match="ExportTraceServiceRequest"):
        decode(body)


def test_a_request_over_the_bound_on_spans_is_refused_whole() -> None:
    """However the spans are spread over resources and scopes, and however long they are."""
    small, long = span(), span(attribute("prompt", string("x" * 40_000)))
    for spans in ([small] * 11, [long] * 11, [small] * 6 + [long] * 5):
        with pytest.raises(ExportTooLarge, match="11 spans in one request, the limit is 10"):
            decode(request(*spans), max_spans=10)
        with pytest.raises(ExportTooLarge, match="spans"):
            decode(b"".join(request(one) for one in spans), max_spans=10)
        assert decode(request(*spans[:10]), max_spans=10).received == 10


def test_the_loop_gets_its_turn_between_slices() -> None:
    """Nothing may hold the event loop for long: a yield after 2,048 spans, or a mebibyte, or thousands of odd fields."""
    many = request(*[span()] * (SLICE_SPANS * 3))
    assert 2 <= len(list(Decoder(lambda _: 0).protobuf(many, received_unix_nano=0))) <= 8
    wide = request(*[span(attribute("prompt", string("x" * 9_000)))] * 400)
    assert len(list(Decoder(lambda _: 0).protobuf(wide, received_unix_nano=0))) >= 3
    one = request(span(*[attribute("k", integer(1))] * 40_000))
    assert len(list(Decoder(lambda _: 0).protobuf(one, received_unix_nano=0))) >= 8


def test_two_requests_decoded_by_turns_do_not_mix() -> None:
    """Between two slices another request may run through the same tables: each gets its own counts, and its own sizes."""
    bad = attribute("bad", string(b"\xff" * 20))
    deep = attribute("deep", array(array(array())))
    first = request(*[span(*[attribute("u", string(f"{n}"))] * 9_000, bad, deep) for n in range(3)])
    second = request(*[span(*[attribute("u", string(f"{n}"))] * 9_000) for n in range(3)])
    alone = [decode(body, max_depth=2) for body in (first, second)]
    decoder = Decoder(lambda _: EVERYTHING, max_depth=2)
    waiting = [(decoder.protobuf(body, received_unix_nano=7), number) for number, body in enumerate((first, second))]
    done: dict[int, Export] = {}
    while waiting:
        steps, number = waiting.pop(0)
        try:
            next(steps)
            waiting.append((steps, number))
        except StopIteration as end:
            done[number] = end.value
    for number in range(2):
        assert done[number].sanitized == alone[number].sanitized
        assert [one.dropped_attributes for one in done[number].spans] == [one.dropped_attributes for one in alone[number].spans]
    assert done[1].sanitized == 0


# --------------------------------------------------------------------------------------------------- what it may cost


def test_junk_pushes_nothing_out_and_holds_no_memory() -> None:
    """The tables are bounded whatever is sent, and what is in use survives in them."""
    decoder = Decoder(lambda key: 64 if key == "user.id" else 0, interned=64)
    rng = random.Random(4)
    kept = None
    for _ in range(30):
        junk = [span(attribute(f"key {rng.random()}", string(rng.randbytes(20))), attribute("user.id", string(rng.randbytes(8).hex())))]
        export = run(decoder.protobuf(request(*junk * 10, span(attribute("user.id", string("me")))), received_unix_nano=0))
        pair = export.spans[-1].attributes[0]
        assert kept is None or pair is kept
        kept = pair
    table = decoder._pairs
    assert len(table) <= 32
    assert len(table._old) <= 32


def test_the_table_remembers_limits_of_a_bounded_number_of_keys() -> None:
    """An attacker may invent keys without end."""
    limits = Limits(lambda _: 1)
    table = Interned(limits, entries=8, max_depth=32)
    for number in range(MAX_KEYS + 10):
        assert table[attribute(f"k{number}", integer(1))] == (f"k{number}", 1)
    assert len(limits._known) <= MAX_KEYS
    assert len(table._keys) <= MAX_KEYS
    assert len(table) <= 4


@pytest.mark.parametrize(
    ("name", "body", "error", "most_mib"),
    [
        ("2M empty spans in 3.8 MiB", 'field(1, field(2, b"\\x12\\x00" * 2_000_000))', "ExportTooLarge", 8),
        ("2M empty resources", 'b"\\x0a\\x00" * 2_000_000', "ExportTooLarge", 8),
        ("2M empty scopes", 'field(1, b"\\x12\\x00" * 2_000_000)', "ExportTooLarge", 8),
        ("scopes just under the size that is counted first", 'field(1, field(2, b"\\x12\\x00" * 16_000) * 60)', "ExportTooLarge", 16),
        ("30k attributes on a span", 'request(span(*[attribute(f"key{n:06}", string("v")) for n in range(30_000)]))', "", 16),
        ("4M attributes of nothing on a span", 'request(span(rest=b"\\x4a\\x00" * 4_000_000))', "ExportTooLarge", 8),
        ("spans of 8k attributes of nothing", 'request(*[span(rest=b"\\x4a\\x00" * 8_000)] * 100)', "", 16),
        ("long spans of attributes of nothing", 'request(*[span(rest=b"\\x4a\\x00" * 9_000)] * 200)', "ExportTooLarge", 8),
        ("30k keys on a resource", 'request(span(), resource=b"".join(field(1, attribute(f"k{n}", b"")) for n in range(30_000)))', "", 16),
        ("a string of 16 MiB", 'request(span(attribute("user.id", string("x" * (16 << 20)))))', "", 64),
        ("an array of 8M nothings", 'request(span(attribute("user.id", field(5, b"\\x0a\\x00" * 8_000_000))))', "", 64),
        ("an attribute of 8M values", 'request(span(field(2, b"") * 8_000_000))', "", 32),
        ("a scope in 4M pieces", 'field(1, field(2, b"\\x0a\\x00" * 4_000_000 + field(2, span())))', "ExportTooLarge", 8),
    ],
)
def test_a_bomb_does_not_go_off(name: str, body: str, error: str, most_mib: float) -> None:
    """What a request makes of memory is bounded by its size and by what it may keep, never by how small its pieces are."""
    decoder = 'decoder = Decoder(lambda key: 256 if key == "user.id" else 0)'
    warm = "run(decoder.protobuf(request(span()), received_unix_nano=0))"
    grown, found = peak_growth_mib(f"body = {body}\n{decoder}\n{warm}", "run(decoder.protobuf(body, received_unix_nano=0))")
    assert found == error, name
    assert grown < most_mib, f"{name}: {grown:.0f} MiB"


def test_a_long_resource_is_parsed_once_for_all_its_scopes() -> None:
    """Ten thousand scopes under a resource of a megabyte would be ten gigabytes of work."""
    asked: list[str] = []

    def limit_of(key: str) -> int:
        asked.append(key)
        return 64

    pairs = b"".join(field(1, attribute(f"{number:04}" * 50, string("v"))) for number in range(MAX_KEYS + 100))
    body = field(1, field(1, pairs) + b"".join(field(2, field(1, field(1, varint(n))) + field(2, span())) for n in range(1, 30)))
    export = decode(body, limit_of)
    assert len({one.source.scope for one in export.spans}) == 29
    assert len(asked) == MAX_KEYS + 100
    assert export.spans[0].trace_id == TRACE_ID
    assert export.spans[0].source.resource is export.spans[28].source.resource
