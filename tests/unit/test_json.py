"""OTLP/JSON: the same Export as its protobuf twin, whatever liberties the sender takes, and an answer that helps where it goes wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from receiver.core.span import Span
from receiver.errors import ExportTooLarge, MalformedExport
from receiver.otlp.decode import Decoder, Export, run
from receiver.otlp.json_text import WINDOW
from tests.captures import CAPTURES, exports, scenarios
from tests.otlp_json import as_otlp_json
from tests.unit.wire_bodies import array, attribute, field, integer, peak_growth_mib, request, span, string

EVERYTHING = 1 << 20
IDS = {"traceId": "01" * 16, "spanId": "02" * 8}


def decode(body: bytes | str | dict[str, Any], limit_of: Callable[[str], int] = lambda _: EVERYTHING, **options: Any) -> Export:
    if isinstance(body, dict):
        body = json.dumps(body)
    raw = body.encode() if isinstance(body, str) else body
    return run(Decoder(limit_of, **options).json(raw, received_unix_nano=7))


def document(*spans: Any, **members: Any) -> dict[str, Any]:
    return {"resourceSpans": [{"scopeSpans": [{"spans": list(spans)}], **members}]}


def with_value(value: Any) -> dict[str, Any]:
    return document({**IDS, "attributes": [{"key": "k", "value": value}]})


def only(export: Export) -> Span:
    assert len(export.spans) == 1
    assert not export.rejected
    return export.spans[0]


def content(export: Export) -> Any:
    """All of an Export but the sizes, which depend on what was shared with requests before."""
    spans = [
        [getattr(one, name) for name in Span.__slots__ if name not in ("size", "source", "reading")]
        + [getattr(one.source, name) for name in ("resource", "scope", "scope_version", "attributes", "dropped_attributes", "process")]
        for one in export.spans
    ]
    return spans, export.rejected, export.received, export.sanitized, export.errors


# -------------------------------------------------------------------------------------------------------------- the twins


def test_json_exports_of_real_senders_equal_their_protobuf_twins() -> None:
    """Bodies as JavaScript exporters sent them, beside the protobuf that says the same."""
    bodies = sorted(CAPTURES.glob("*/export-*.otlp.json"))
    assert len(bodies) >= 5
    for path in bodies:
        twin = path.with_name(path.name.replace(".otlp.json", ".pb")).read_bytes()
        ours = run(Decoder(lambda _: EVERYTHING).json(path.read_bytes(), received_unix_nano=7))
        theirs = run(Decoder(lambda _: EVERYTHING).protobuf(twin, received_unix_nano=7))
        assert content(ours) == content(theirs), path
        assert 0.5 < sum(one.size for one in ours.spans) / sum(one.size for one in theirs.spans) < 4


@pytest.mark.parametrize("limit", [0, 24, EVERYTHING])
def test_every_capture_says_the_same_in_json(limit: int) -> None:
    """All real exports, re-encoded; with long values cut and containers dropped alike."""
    decoder = Decoder(lambda _: limit)
    for path in (path for scenario in scenarios() for path in exports(scenario)):
        body = path.read_bytes()
        theirs = run(decoder.protobuf(body, received_unix_nano=7))
        assert content(run(decoder.json(as_otlp_json(body), received_unix_nano=7))) == content(theirs), path


def test_rejected_spans_and_limits_are_those_of_the_twin() -> None:
    """Invalid ids, too many attributes, deep and heavy values: same spans, same reasons, same counts."""
    deep = array(array(array(array(integer(1)))))
    spans = [
        span(*[attribute(f"k{n}", integer(n)) for n in range(9)], attribute("deep", deep), attribute("heavy", array(*[integer(1)] * 30))),
        span(trace_id=bytes(16)),
        span(span_id=b"\x01" * 7),
        span(rest=field(4, b"\x01" * 3)),
        span(rest=field(4, bytes(8)) + field(3, b"ot=th:8") + field(15, b"\x12\x03bad\x18\x02") + b"\x50\x04\x85\x01\x01\x03\x00\x00"),
    ]
    body = request(
        *spans, resource=field(1, attribute("service.name", string("s" * 50))) + b"\x10\x03", scope=field(1, b"sc") + b"\x20\x02"
    )
    decoder = Decoder(lambda key: 0 if key == "service.name" else 64, max_attributes=4, max_depth=3)
    theirs = run(decoder.protobuf(body, received_unix_nano=7))
    assert content(run(decoder.json(as_otlp_json(body), received_unix_nano=7))) == content(theirs)
    assert theirs.rejected == {"invalid_trace_id": 1, "invalid_span_id": 1, "invalid_parent_span_id": 1}
    assert [one.dropped_attributes for one in theirs.spans] == [7, 4]
    assert theirs.spans[1].sampled


# ----------------------------------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize(
    ("value", "means"),
    [
        ({"stringValue": "x"}, "x"),
        ({"string_value": "x"}, "x"),
        ({"intValue": "9007199254740993"}, 9007199254740993),
        ({"intValue": 9007199254740991}, 9007199254740991),
        ({"intValue": "-5"}, -5),
        ({"intValue": 5.0}, 5),
        ({"doubleValue": 5}, 5.0),
        ({"doubleValue": "Infinity"}, math.inf),
        ({"doubleValue": "-Infinity"}, -math.inf),
        ({"doubleValue": "1.5"}, 1.5),
        ({"boolValue": False}, False),
        ({"bytesValue": "AP8="}, b"\x00\xff"),
        ({"bytesValue": "_-8"}, b"\xff\xef"),
        ({"arrayValue": {"values": [{"intValue": "1"}, None, {}, {"stringValue": "a"}]}}, [1, None, None, "a"]),
        ({"arrayValue": {}}, []),
        (
            {"kvlistValue": {"values": [{"key": "a", "value": {"intValue": 1}}, None, {"key": "a", "value": {}}, {"key": "b"}]}},
            {"a": 1, "b": None},
        ),
        ({"stringValue": None, "intValue": 3}, 3),
        ({"futureValue": 3}, None),
        ({}, None),
        (None, None),
    ],
)
def test_every_kind_of_value_is_read(value: Any, means: Any) -> None:
    """64-bit numbers as strings or numbers, special doubles as strings, bytes as base64, null and {} as an empty value."""
    found = only(decode(with_value(value))).attributes
    assert found == (("k", means),)
    assert type(found[0][1]) is type(means)


def test_nan_is_read_as_a_double() -> None:
    """Go's exporter writes it as a string, since JSON has none."""
    value = only(decode(with_value({"doubleValue": "NaN"}))).attributes[0][1]
    assert isinstance(value, float)
    assert math.isnan(value)


def test_hex_ids_are_read_in_either_case() -> None:
    """The specification says case-insensitive."""
    kept = only(decode(document({"traceId": "AbCdEf01" * 4, "spanId": "FFfF000000000001", "parentSpanId": ""})))
    assert kept.trace_id == bytes.fromhex("abcdef01" * 4)
    assert kept.span_id == bytes.fromhex("ffff000000000001")
    assert kept.is_root


def test_all_members_are_read_and_unknown_ones_ignored() -> None:
    """Integers as numbers or strings, enums as numbers or (forbidden, yet seen) names, snake_case, new fields at every level."""
    expected = only(
        decode({
            "resourceSpans": [{
                "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "s"}}], "droppedAttributesCount": 1},
                "scopeSpans": [{"scope": {"name": "n", "version": "v"}, "spans": [{
                    **IDS, "parentSpanId": "03" * 8, "name": "chat", "kind": 3, "startTimeUnixNano": "1700000000000000000",
                    "endTimeUnixNano": "1700000000000000001", "flags": 257, "droppedAttributesCount": 2, "traceState": "ot=th:8",
                    "status": {"code": 2, "message": "m"}, "attributes": [{"key": "k", "value": {"intValue": "1"}}],
                }]}],
            }],
        })
    )  # fmt: skip
    assert (expected.kind, expected.status_code, expected.flags, expected.dropped_attributes, expected.sampled) == (3, 2, 257, 2, True)
    assert expected.start_unix_nano == 1_700_000_000_000_000_000
    body = {
        "future": [1, {"a": [None]}],
        "resource_spans": [None, {
            "future": {},
            "scope_spans": [None, {"schemaUrl": "u", "spans": [None, {
                "trace_id": IDS["traceId"], "span_id": IDS["spanId"], "parent_span_id": "03" * 8, "name": "chat",
                "start_time_unix_nano": 1_700_000_000_000_000_000, "end_time_unix_nano": 1_700_000_000_000_000_001,
                "flags": "257", "dropped_attributes_count": 2.0, "trace_state": "ot=th:8", "future": "x",
                "kind": "SPAN_KIND_CLIENT", "status": {"code": "STATUS_CODE_ERROR"},
                "attributes": [None, {"key": "k", "value": {"int_value": 1}, "future": 1}], "events": None, "links": [],
            }], "scope": {"name": "n", "version": "v", "future": []}}],
            "resource": {"attributes": [{"key": "service.name", "value": {"string_value": "s"}}], "dropped_attributes_count": 1},
        }],
    }  # fmt: skip
    assert content(decode(body)) == content(
        run(Decoder(lambda _: EVERYTHING).json(json.dumps(body, indent=3).encode(), received_unix_nano=7))
    )
    again = decode(body)
    only(again)
    assert [getattr(again.spans[0], name) for name in Span.__slots__ if name not in ("source", "size")] == [
        getattr(expected, name) for name in Span.__slots__ if name not in ("source", "size")
    ]
    assert again.spans[0].source.resource == expected.source.resource
    assert again.spans[0].source.scope == "n"


@pytest.mark.parametrize(
    "body",
    ["{}", ' { "resourceSpans" : [ ] } ', '{"resourceSpans":null}', '{"resourceSpans":[null]}', '{"resourceSpans":[{"scopeSpans":[{}]}]}'],
)
def test_empty_requests_are_empty_exports(body: str) -> None:
    """They are a success, and cost nothing."""
    assert content(decode(body))[:3] == ([], {}, 0)


def test_bad_text_is_mended_and_counted() -> None:
    """Bytes that are no UTF-8, and halves of surrogate pairs that JSON lets through: U+FFFD, as in protobuf."""
    broken = json.dumps(with_value({"stringValue": "ok?"})).encode().replace(b"?", b"\xff")
    export = decode(broken)
    assert only(export).attributes == (("k", "ok\ufffd"),)
    assert export.sanitized == 1
    export = decode(json.dumps(with_value({"stringValue": "ok\ud83d"})))
    assert only(export).attributes == (("k", "ok\ufffd"),)
    assert export.sanitized == 1
    assert only(decode(with_value({"stringValue": "\U0001f600" * 20}), lambda _: 10)).attributes == (("k", "\U0001f600" * 2),)


# --------------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("", "no JSON object"),
        ("[]", "no JSON object"),
        ("null", "no JSON object"),
        ('"resourceSpans"', "no JSON object"),
        ("{", "JSON"),
        ("{}{}", "JSON"),
        ('{"resourceSpans":[}', "JSON"),
        ('{"resourceSpans":[{}', "JSON"),
        ('{"resourceSpans":[{},]}', "JSON"),
        ('{"resourceSpans" []}', "JSON"),
        ('{"resourceSpans":{}}', "JSON"),
        ('{"resourceSpans":[1]}', "JSON"),
        ("\x0a\x05hello", "no JSON object"),
        (document(1), "an object was expected"),
        (document({**IDS, "attributes": {}}), "attributes is not an array"),
        (document({**IDS, "attributes": [1]}), "attribute"),
        (document({**IDS, "attributes": [{"key": 1}]}), "key of an attribute"),
        (document({**IDS, "name": 1}), "name is not a string"),
        (document({**IDS, "startTimeUnixNano": "1e9"}), "startTimeUnixNano '1e9'"),
        (document({**IDS, "startTimeUnixNano": -1}), "startTimeUnixNano"),
        (document({**IDS, "endTimeUnixNano": str(2**64)}), "endTimeUnixNano"),
        (document({**IDS, "endTimeUnixNano": True}), "endTimeUnixNano"),
        (document({**IDS, "kind": "NO_SUCH_KIND"}), "kind"),
        (document({**IDS, "flags": 2**32}), "flags"),
        (document({**IDS, "status": 2}), "status"),
        (with_value(5), "AnyValue"),
        (with_value({"stringValue": 5}), "stringValue"),
        (with_value({"intValue": "1.5"}), "intValue"),
        (with_value({"intValue": 2**63}), "intValue"),
        (with_value({"doubleValue": "much"}), "doubleValue"),
        (with_value({"doubleValue": 10**400}), "doubleValue"),
        (with_value({"bytesValue": "?"}), "base64"),
        (with_value({"arrayValue": []}), "arrayValue"),
        (with_value({"kvlistValue": {"values": {}}}), "values is not an array"),
        (with_value({"kvlistValue": {"values": [1]}}), "kvlistValue"),
    ],
)
def test_what_is_no_export_request_is_refused_with_a_reason(body: str | dict[str, Any], says: str) -> None:
    """The sender must learn what is wrong from the answer: a resend cannot mend it."""
    with pytest.raises(MalformedExport, match=says):
        decode(body)


@pytest.mark.parametrize("trace_id", ["W47/95gDgQPSabYzgT/GDA==", "5b8aa5a2d2c872e8321cf37308d69df", "z" * 32, 5])
def test_ids_that_are_not_hex_fail_the_request_and_say_why(trace_id: Any) -> None:
    """A library that encodes protobuf as plain JSON writes base64 ids: as in the collector, the first request tells it."""
    with pytest.raises(MalformedExport, match=r"hex|not a string"):
        decode(document(IDS, {**IDS, "traceId": trace_id}))


@pytest.mark.parametrize(
    "body",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"resourceSpans":' + "[" * 100_000,
        json.dumps(document({**IDS, "x": "?"})).replace('"?"', "[" * 100_000 + "]" * 100_000),
        json.dumps(with_value("?")).replace('"?"', '{"arrayValue":{"values":[' * 50_000 + "{}" + "]}}" * 50_000),
        json.dumps(document({**IDS, "flags": 0})).replace("0}", "9" * 5_000 + "}"),
        json.dumps(document({**IDS, "flags": "9" * 100_000})),
        json.dumps(with_value({"intValue": "9" * 1_000_000})),
    ],
)
def test_depth_and_length_bombs_are_malformed(body: str) -> None:
    """No RecursionError, and no complaint about 4,300 digits, may escape as anything but a 400."""
    with pytest.raises(MalformedExport):
        decode(body)


@pytest.mark.parametrize(("depth", "kept"), [(32, 2), (33, 1), (100, 1)])
def test_deep_nesting_costs_its_attribute_alone(depth: int, kept: int) -> None:
    """The same budget as in protobuf."""
    value: dict[str, Any] = {"intValue": 1}
    for _ in range(depth - 1):
        value = {"arrayValue": {"values": [value]}}
    found = only(decode(document({**IDS, "attributes": [{"key": "deep", "value": value}, {"key": "flat", "value": {"intValue": 1}}]})))
    assert len(found.attributes) == kept
    assert found.dropped_attributes == 2 - kept


def test_a_request_over_the_bound_on_spans_is_refused_whole() -> None:
    """Counted one by one, before the next is read."""
    assert decode(document(*[IDS] * 10), max_spans=10).received == 10
    with pytest.raises(ExportTooLarge, match="11 spans in one request, the limit is 10"):
        decode(document(*[IDS] * 1_000), max_spans=10)


# ------------------------------------------------------------------------------------------------------ what is very long


def test_a_span_longer_than_the_window_is_read_like_a_short_one() -> None:
    """Prompts of hundreds of KiB, thousands of attributes, heavy events before and behind: the rest of the span is untouched."""
    prompt, heavy = "x" * (2 * WINDOW), {"arrayValue": {"values": [{"stringValue": "[{"}] * (WINDOW // 16)}}
    long = {
        **IDS,
        "events": [{"name": "e", "attributes": [{"key": "k", "value": heavy}]}],
        "attributes": [
            {"key": "prompt", "value": {"stringValue": prompt}},
            {"key": "user.id", "value": {"stringValue": "u1"}},
            {"key": "unwanted", "value": heavy},
            {"key": "tags", "value": heavy},
            *({"key": f"n{number % 7}", "value": {"intValue": number}} for number in range(4_000)),
        ],
        "name": "chat",
        "droppedAttributesCount": 5,
        "links": [{"attributes": [{"key": "k", "value": heavy}]}],
        "flags": 1,
    }
    body = document(
        IDS,
        long,
        {**IDS, "name": "after"},
        resource={"attributes": [{"key": "tags", "value": heavy}, {"key": "service.name", "value": {"stringValue": "s"}}]},
    )
    steps = Decoder(lambda key: {"unwanted": 0}.get(key, 64), max_attributes=100).json(json.dumps(body).encode(), received_unix_nano=0)
    export = run(steps)
    first, second, third = export.spans
    assert (first.attributes, third.name, third.attributes) == ((), "after", ())
    assert (second.name, second.flags) == ("chat", 1)
    assert second.attributes[:3] == (("prompt", "x" * 64), ("user.id", "u1"), ("n0", 0))
    assert len(second.attributes) == 100
    assert second.dropped_attributes == 5 + 1 + 4_002 - 100
    assert second.size < 30_000
    assert second.source.resource == {"service.name": "s"}
    assert second.source.dropped_attributes == 1


def test_the_loop_gets_its_turn_between_slices() -> None:
    """Nothing may hold the event loop for long, be it many spans, long ones, or one very long one."""
    decoder = Decoder(lambda _: 0)
    for body in (
        document(*[IDS] * 3_000),
        document(*[{**IDS, "name": "x" * 60_000}] * 60),
        document({**IDS, "attributes": [{"key": "k", "value": {"intValue": 1}}] * 30_000}),
    ):
        assert len(list(decoder.json(json.dumps(body).encode(), received_unix_nano=0))) >= 4


PIECES = {
    "2M empty spans": ("{}", 2_000_000, '{"resourceSpans":[{"scopeSpans":[{"spans":[%s]}]}]}', "ExportTooLarge"),
    "2M empty scopes": ("{}", 2_000_000, '{"resourceSpans":[{"scopeSpans":[%s]}]}', "ExportTooLarge"),
    "2M empty resources": ("{}", 2_000_000, '{"resourceSpans":[%s]}', "ExportTooLarge"),
    "2M nothings as attributes": (
        "{}",
        2_000_000,
        '{"resourceSpans":[{"scopeSpans":[{"spans":[{"attributes":[%s]}]}]}]}',
        "ExportTooLarge",
    ),
    "2M lists nobody reads": ("[]", 2_000_000, '{"resourceSpans":[{"scopeSpans":[{"spans":[{"events":[%s]}]}]}]}', ""),
    "100k attributes": (
        '{"key":"user.id","value":{"intValue":1}}',
        100_000,
        '{"resourceSpans":[{"scopeSpans":[{"spans":[{"attributes":[%s]}]}]}]}',
        "",
    ),
    "100k keys on a resource": ('{"key":"k","value":{"intValue":1}}', 100_000, '{"resourceSpans":[{"resource":{"attributes":[%s]}}]}', ""),
}


@pytest.mark.parametrize("name", PIECES)
def test_a_bomb_does_not_go_off(name: str) -> None:
    """Beside the text itself (4 bytes a character at most), one window of it is objects at a time, however small its pieces are."""
    piece, count, frame, error = PIECES[name]
    prepare = f"body = ({frame!r} % ','.join([{piece!r}] * {count})).encode()\ndecoder = Decoder(lambda key: 64 if key == 'user.id' else 0)"
    prepare += "\nrun(decoder.json(b'{}', received_unix_nano=0))"
    grown, found = peak_growth_mib(prepare, "run(decoder.json(body, received_unix_nano=0))")
    assert found == error
    assert grown < 24 + len(piece) * count / 2**20, f"{grown:.0f} MiB"
