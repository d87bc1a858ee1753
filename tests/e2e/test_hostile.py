"""What a hostile or broken client can send, against the daemon as a process.

Each is answered with a code that says the truth, takes bounded memory, and leaves the daemon able to take a good export and to count
it right. No answer is 5xx but 503, none is UNKNOWN: both would make clients lose data or hammer. Memory is the kernel's own peak of the
process (VmHWM, reset before each attack), so nothing that was allocated and freed in between goes unseen.
"""

from __future__ import annotations

import gzip
import itertools
import json
import random
import socket
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from tests.e2e.daemon import PATIENCE_SECONDS, Daemon, daemon, samples
from tests.exports import CALL_PUSD, agent, any_value, attribute, export, model_call, request, span
from tests.otlp_json import as_otlp_json

pytestmark = pytest.mark.e2e

MIB = 1 << 20
Attack = TypeVar("Attack", bound=Callable[..., None])
EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
PROTOBUF, JSON = "application/x-protobuf", "application/json"
#: A gRPC code is known by its number (16 is the last); 2 is UNKNOWN, 13 INTERNAL.
GOOD_HTTP, GOOD_GRPC = {200, 400, 401, 404, 405, 408, 411, 413, 415, 503}, {0, 3, 4, 8, 12, 14, 16}
#: Set as the daemon's own limits, so that a test need not send gigabytes: a request of 16 MiB, 64 MiB of them at once.
LIMIT, IN_FLIGHT = 16 * MIB, 64 * MIB
#: What the daemon may grow by while it turns away or takes one hostile request: the message, its inflation and its parts while they are
#: decoded, each at the limit of a request.
BUDGET = 3 * LIMIT + 16 * MIB


@dataclass
class Target:
    """A daemon under attack."""

    daemon: Daemon
    traces: Iterator[int] = field(default_factory=lambda: itertools.count(0x600D_0000))

    def post(self, body: bytes, content_type: str = PROTOBUF, **headers: str) -> int:
        code, answer = self.daemon.post(body, content_type, {name.replace("_", "-"): value for name, value in headers.items()})
        assert code in GOOD_HTTP, (code, answer[:300])
        return code

    def call(self, body: bytes, *, method: str = EXPORT, compression: Any = None, metadata: Any = ()) -> int:
        with grpc.insecure_channel(self.daemon.grpc, options=[("grpc.max_send_message_length", -1)]) as channel:
            call = channel.unary_unary(method).future(body, timeout=PATIENCE_SECONDS, compression=compression, metadata=metadata)
            code = int(call.code().value[0])
            assert code in GOOD_GRPC, (call.code(), call.details())
            return code

    def still_counts(self) -> None:
        """A good export is stored, and comes to exactly its own cost."""
        trace = next(self.traces)
        name = f"good-{trace:x}"
        before = self.cost_pusd(name)
        assert self.daemon.post(export(agent(trace, 1, name), model_call(trace, 2, parent=1)), PROTOBUF) == (200, b"")
        self.daemon.release()
        assert self.cost_pusd(name) - before == CALL_PUSD, "a good export beside an attack is worth what it is worth"

    def cost_pusd(self, agent: str) -> int:
        """What an agent has cost, or all that are over the cap of labels together."""
        found = samples(self.daemon.get("/metrics"))
        return sum(
            round(value * 1e12)
            for name, have, value in found
            if name == "spantoll_cost_usd_total" and have["agent"] in (agent, "__overflow__")
        )

    @property
    def status(self) -> Path:
        return Path("/proc") / str(self.daemon.process.pid) / "status"

    def memory(self, name: str = "VmHWM") -> int:
        """Bytes."""
        return int(next(line for line in self.status.read_text().splitlines() if line.startswith(name)).split()[1]) * 1024

    def reset_peak(self) -> int:
        """Bytes that are resident now; from here on the peak is measured anew."""
        try:
            self.status.with_name("clear_refs").write_text("5")
        except OSError:
            pytest.skip("this kernel does not let a process reset another's memory peak")
        return self.memory("VmRSS")


def budget(size: int) -> Callable[[Attack], Attack]:
    """So many bytes a test may make the daemon grow by, in place of BUDGET."""

    def mark(test: Attack) -> Attack:
        test.budget = size  # type: ignore[attr-defined]  # read by `bounded`
        return test

    return mark


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    limits = (f"otlp.max_request_size={LIMIT // MIB}MiB", f"otlp.max_in_flight={IN_FLIGHT // MIB}MiB", "otlp.http.body_timeout=2s")
    with daemon(tmp_path_factory.mktemp("hostile"), *limits) as one:
        under_attack = Target(one)
        under_attack.still_counts()  # what is imported and cached on first use is no growth of an attack
        under_attack.call(export(model_call(1, 1)))
        yield under_attack
        faults = [line for line in one.lines if line.get("level") in ("error", "critical") or "exception" in line]
        assert not faults, faults[:3]
        assert one.stop() == 0


@pytest.fixture(autouse=True)
def bounded(target: Target, request: pytest.FixtureRequest) -> Iterator[None]:
    """Around each attack: its memory, and a good export afterwards."""
    before = target.reset_peak()
    yield
    grown = target.memory() - before
    print(f"RSS {request.node.name}: {before / MIB:.0f} MiB, grown by {grown / MIB:.0f} MiB")
    most = getattr(request.function, "budget", BUDGET)
    assert grown <= most, f"grown by {grown / MIB:.0f} MiB, allowed are {most / MIB:.0f}"
    target.still_counts()


# --- size --------------------------------------------------------------------------------------------------------------------------


def empty_spans(count: int) -> bytes:
    """`count` spans of nothing, two bytes each."""
    scoped = b"\x12\x00" * count
    resource = b"\x12" + _length(scoped)
    return b"\x0a" + _length(resource)


def _length(message: bytes) -> bytes:
    """The payload of a length-delimited field."""
    return _varint(len(message)) + message


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def bomb(mebibytes: int) -> bytes:
    """So many MiB of zeros, a thousandth of it on the wire."""
    made = zlib.compressobj(9, zlib.DEFLATED, 31)
    zeros = bytes(MIB)
    return b"".join([*(made.compress(zeros) for _ in range(mebibytes)), made.flush()])


@budget(LIMIT + 24 * MIB)
def test_a_decompression_bomb(target: Target) -> None:
    """Half a gigabyte in half a megabyte, in each shape that HTTP lets a body have: refused where the limit is passed."""
    packed = bomb(512)
    assert target.post(packed, Content_Encoding="gzip") == 413
    assert target.post(packed, JSON, Content_Encoding="gzip") == 413
    many = gzip.compress(bytes(MIB)) * 40
    assert target.post(many, Content_Encoding="gzip") in (400, 413), "many members"
    assert target.post(gzip.compress(gzip.compress(bytes(8 * MIB))), Content_Encoding="gzip") == 400, "one gzip in another is no export"
    assert target.post(packed[: len(packed) // 2], Content_Encoding="gzip") in (400, 413), "cut off"
    assert target.post(gzip.compress(b"") + b"trailing junk", Content_Encoding="gzip") == 400
    assert target.post(gzip.compress(b"x" * 100)[:-4] + b"\xff\xff\xff\xff", Content_Encoding="gzip") == 400, "a length that is not true"
    assert target.post(zlib.compress(bytes(40 * MIB)), Content_Encoding="deflate") == 413


@budget(LIMIT + 24 * MIB)
def test_a_decompression_bomb_over_grpc(target: Target) -> None:
    """The same where the library inflates: RESOURCE_EXHAUSTED, without the memory."""
    assert target.call(bytes(100 * MIB), compression=grpc.Compression.Gzip) == 8
    assert target.call(bytes(LIMIT + 1)) == 8


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_two_million_empty_spans(target: Target, transport: str) -> None:
    """3.8 MiB that would be 400 MB of messages: counted before they are made."""
    body = empty_spans(2_000_000)
    assert (target.post(body), 413) == (413, 413) if transport == "http" else target.call(body) == 8


def test_as_many_empty_spans_as_are_allowed(target: Target) -> None:
    """Each is rejected for its ids, none makes the request fail."""
    code, answer = target.daemon.post(empty_spans(20_000), PROTOBUF)
    assert code == 200
    assert ExportTraceServiceResponse.FromString(answer).partial_success.rejected_spans == 20_000


def test_many_empty_resources_and_scopes(target: Target) -> None:
    """Envelopes without spans cost a few bytes each, too."""
    assert target.post(b"\x0a\x00" * 4_000_000) in (200, 413)
    scopes = b"\x12\x00" * 4_000_000
    assert target.post(b"\x0a" + _length(scopes)) in (200, 413)
    assert target.post(b"\x7a\x00" * 4_000_000) in (200, 400, 413), "unknown fields"


def test_a_million_attributes(target: Target) -> None:
    """On a span they are read past; of a resource, of a scope and as one map: refused or dropped."""

    def many(tag: bytes, count: int) -> bytes:
        return b"".join([tag + b"\x0b\x0a\x07%07d\x12\x00" % number for number in range(count)])

    def whole(trace: int, *, resource: bytes = b"", scope: bytes = b"", attributes: bytes = b"") -> bytes:
        scoped = b"\x0a" + _length(b"\x0a\x04acme" + scope) + b"\x12" + _length(model_call(trace, 1).SerializeToString() + attributes)
        return b"\x0a" + _length(b"\x0a" + _length(resource) + b"\x12" + _length(scoped))

    assert target.post(whole(0xA1, attributes=many(b"\x4a", 1_000_000))) == 200  # Span.attributes = 9
    assert target.call(whole(0xA2, attributes=many(b"\x4a", 20_000))) == 0
    assert target.post(whole(0xA3, resource=many(b"\x0a", 20_000))) in (200, 413)  # Resource.attributes = 1
    assert target.post(whole(0xA4, scope=many(b"\x1a", 20_000))) in (200, 413)  # InstrumentationScope.attributes = 3
    listed = b"\x0a\x14gen_ai.usage.details\x12" + _length(b"\x32" + _length(many(b"\x0a", 200_000)))  # AnyValue.kvlist_value = 6
    assert target.post(whole(0xA5, attributes=b"\x4a" + _length(listed))) == 200
    text = ",".join(f'{{"key":"{number}","value":{{}}}}' for number in range(20_000)).encode()
    wanted = as_otlp_json(export(model_call(0xA6, 1))).replace(b'"attributes": [', b'"attributes": [' + text + b",")
    assert target.post(wanted, JSON) in (200, 413)


def test_long_strings_everywhere(target: Target) -> None:
    """Four megabytes in each place where a string may stand, known and unknown, are read past."""
    long = "x" * (3 * MIB)
    loud = model_call(5, 1, model=long, gen_ai__agent__name=long, gen_ai__input__messages=long)
    loud.trace_state = long
    assert target.post(request([loud]).SerializeToString()) == 200
    assert target.post(request([model_call(6, 1)], service=long, scope=long, version=long).SerializeToString()) == 200
    keyed = model_call(7, 1)
    keyed.attributes.append(attribute(long, "v"))
    keyed.name = long
    assert target.post(request([keyed]).SerializeToString()) == 200


@budget(16 * MIB)
def test_a_body_over_the_limit_is_refused_at_its_header(target: Target) -> None:
    """100 MB announced: 413 before a byte of it is read."""
    with closing(_connection(target)) as client:
        client.sendall(_head(target, f"Content-Length: {100 * MIB}"))
        assert _status(client) == 413


@budget(2 * LIMIT + 16 * MIB)
def test_chunks_are_counted(target: Target) -> None:
    """Without an announced length it is refused where the limit is passed."""
    with closing(_connection(target)) as client:
        client.sendall(_head(target, "Transfer-Encoding: chunked"))
        chunk = b"100000\r\n" + bytes(MIB) + b"\r\n"
        for _ in range(100):  # what comes after the refusal is dropped for a while, so that the answer is not destroyed on its way
            client.sendall(chunk)
        assert _status(client) == 413


@budget(IN_FLIGHT + 2 * LIMIT + 32 * MIB)
def test_forty_large_bodies_at_once(target: Target) -> None:
    """What all requests hold together is bounded: those that do not fit hear 503 with a delay, and nobody hears anything else."""
    with ThreadPoolExecutor(10) as pool:
        codes = set(pool.map(lambda _: target.post(bytes(LIMIT - 1_024)), range(40)))
    assert codes <= {400, 503}
    assert target.daemon.metric("spantoll_receiver_in_flight_bytes") == 0


@budget(10 * 2 * LIMIT + 32 * MIB)
def test_forty_large_messages_at_once(target: Target) -> None:
    """Over gRPC a message is judged when it is there: the bound is ten clients, each with one in gRPC's buffers and one in ours."""
    with ThreadPoolExecutor(10) as pool:
        codes = set(pool.map(lambda _: target.call(bytes(LIMIT - 1_024)), range(40)))
    assert codes <= {3, 14}
    assert target.daemon.metric("spantoll_receiver_in_flight_bytes") == 0


# --- shape -------------------------------------------------------------------------------------------------------------------------

DEPTHS = (10, 40, 100, 1_000, 10_000, 100_000)


def _nested(depth: int) -> bytes:
    """AnyValue.array_value = 5 { values = 1 }, so many times in itself; written from the inside out."""
    parts: list[bytes] = []
    size = 0
    for _ in range(depth):
        for tag in (b"\x0a", b"\x2a"):
            head = tag + _varint(size)
            parts.append(head)
            size += len(head)
    return b"".join(reversed(parts))


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_deep_value_in_protobuf(target: Target, depth: int) -> None:
    """Arrays in arrays: the attribute is dropped, its span and the request live."""
    value = _nested(depth)
    bare = model_call(0xDEE9 + depth, 1)
    body = bytearray(bare.SerializeToString())
    for key in (b"gen_ai.usage.details", b"some.key"):
        body += b"\x4a" + _length(b"\x0a" + _length(key) + b"\x12" + _length(value))  # Span.attributes = 9
    scoped = b"\x12" + _length(bytes(body))
    before = target.daemon.metric("spantoll_receiver_accepted_spans_total", transport="http")
    assert target.post(b"\x0a" + _length(b"\x12" + _length(scoped))) == 200
    assert target.daemon.metric("spantoll_receiver_accepted_spans_total", transport="http") == before + 1


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("kind", ["array", "map"])
def test_a_deep_value_in_json(target: Target, depth: int, kind: str) -> None:
    """The same as text, in an attribute and as the document itself; a document that is all depth is no export."""
    wanted = json.loads(as_otlp_json(export(model_call(0xDEEA + depth, 1 if kind == "array" else 2))))
    wanted["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["attributes"].append({"key": "some.key", "value": "HERE"})
    opening, end = ('{"arrayValue":{"values":[', "]}}") if kind == "array" else ('{"kvlistValue":{"values":[{"key":"k","value":', "}]}}")
    deep = opening * depth + '{"intValue":"1"}' + end * depth
    assert target.post(json.dumps(wanted).replace('"HERE"', deep).encode(), JSON) in (200, 400)
    bare = ("[" * depth + "]" * depth) if kind == "array" else ('{"a":' * depth + "1" + "}" * depth)
    assert target.post(bare.encode(), JSON) in (200, 400)
    assert target.post(('{"resourceSpans":' + bare + "}").encode(), JSON) in (200, 400)


def test_bad_utf8_in_every_string(target: Target) -> None:
    """Each is kept with U+FFFD in its place; a request is never lost for one broken letter."""
    marker = "MARKER"
    whole = request([model_call(0xBAD8, 1, model="gpt-4o", gen_ai__agent__name=marker)], service=marker, scope=marker, version=marker)
    one = whole.resource_spans[0].scope_spans[0].spans[0]
    one.name, one.trace_state, one.status.message = marker, marker, marker
    one.attributes.append(attribute(marker, marker))
    one.events.add(name=marker).attributes.append(attribute(marker, marker))
    one.links.add(trace_id=b"t" * 16, span_id=b"s" * 8, trace_state=marker)
    whole.resource_spans[0].schema_url = whole.resource_spans[0].scope_spans[0].schema_url = marker
    body = whole.SerializeToString()
    assert body.count(marker.encode()) == 15
    accepted = target.daemon.metric("spantoll_receiver_accepted_spans_total")
    assert target.post(body.replace(marker.encode(), b"b\xff\xc3(\xed\xa0")) == 200
    assert target.daemon.metric("spantoll_receiver_accepted_spans_total") == accepted + 1
    assert target.daemon.metric("spantoll_receiver_sanitized_strings_total") > 0
    text = as_otlp_json(export(model_call(0xBAD9, 1, gen_ai__agent__name=marker), service=marker))
    assert target.post(text.replace(marker.encode(), b"b\xff\xc3("), JSON) in (200, 400)
    assert target.post(text.replace(marker.encode(), b"\\ud800 \\udfff\\u0000"), JSON) == 200, "half a surrogate pair, written as an escape"


ABSURD: list[Any] = [
    -1, 0, 1, 2**31, 2**53 + 1, 2**63 - 1, -(2**63), float("nan"), float("inf"), float("-inf"), -0.0, 1e308, 5e-324, 0.5,
    "", "1", "NaN", "1e400", "9" * 5_000, "0x10", "١٢٣", True, b"\x01", [], [1, 2], [[]],
]  # fmt: skip


def test_absurd_numbers(target: Target) -> None:
    """As counts, costs and times, over both encodings: each is taken as a span, and none makes a number that is not one."""
    keys = [
        "gen_ai.usage.input_tokens",
        "gen_ai.usage.output_tokens",
        "gen_ai.usage.cache_read.input_tokens",
        "gen_ai.usage.cost",
        "llm.token_count.prompt",
    ]
    spans = []
    for number, (key, value) in enumerate(itertools.product(keys, ABSURD), 1):
        one = model_call(0xAB5 + number, number)
        for each in one.attributes:
            if each.key == key:
                each.value.CopyFrom(any_value(value))
        if all(each.key != key for each in one.attributes):
            one.attributes.append(attribute(key, value))
        one.start_time_unix_nano = [0, 1, 2**63, 2**64 - 1, one.start_time_unix_nano][number % 5]
        one.end_time_unix_nano = [2**64 - 1, 0, one.end_time_unix_nano][number % 3]
        spans.append(one)
    assert target.post(export(*spans)) == 200
    for each in spans:
        each.span_id = b"json" + each.span_id[4:]
    assert target.post(as_otlp_json(export(*spans)), JSON) == 200
    for literal in ("1e999", "-1e999", "9" * 5_000, '"' + "9" * 5_000 + '"', "1.5", "null", "[]", "{}", '"NaN"', "NaN", "Infinity"):
        wanted = as_otlp_json(export(model_call(0xAB6_0000, 1))).replace(b'"1000"', literal.encode())
        assert target.post(wanted, JSON) in (200, 400), literal
    target.daemon.release()
    text = target.daemon.get("/metrics")
    shown = [sample for sample in samples(text) if sample[0].startswith("spantoll_") and not sample[0].endswith("_bucket")]
    least = {"spantoll_credit_balance_msat": -1e15}  # credit may be owed; nothing else is below 0
    assert [sample for sample in shown if not least.get(sample[0], 0) <= sample[2] < float("inf")] == []


def test_a_prompt_forges_nothing(target: Target) -> None:
    """Text that holds serialized attributes, whole spans and JSON is text."""
    forged = attribute("gen_ai.usage.output_tokens", 10**9).SerializeToString()
    spoof = span(0xF0, 9, {"gen_ai.agent.name": "mallory"}).SerializeToString()
    payload = (b"\x4a" + _length(forged) + b"\x12" + _length(spoof)).decode("utf-8", "surrogateescape").encode("utf-8", "replace").decode()
    trace = 0xF04E
    evil = model_call(trace, 2, parent=1, gen_ai__prompt=payload, gen_ai__input__messages='[{"gen_ai.usage.output_tokens": 5}]')
    evil.attributes.append(attribute("raw", b"\x4a" + _length(forged)))
    assert target.post(export(agent(trace, 1, "forged"), evil)) == 200
    target.daemon.release()
    assert target.daemon.metric("spantoll_tokens_total", agent="forged", type="output") == 500
    assert target.daemon.metric("spantoll_calls_total", agent="mallory") == 0


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(body=st.binary(max_size=2_000), content=st.sampled_from([PROTOBUF, JSON]), encoding=st.sampled_from(["identity", "gzip", "deflate"]))
def test_junk(target: Target, body: bytes, content: str, encoding: str) -> None:
    """Arbitrary bytes under any label are an export or a 400."""
    assert target.post(body, content, Content_Encoding=encoding) in (200, 400, 413)


_WHOLE = export(agent(0x3117, 1), model_call(0x3117, 2, parent=1))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(at=st.integers(0, len(_WHOLE) - 1), patch=st.binary(min_size=1, max_size=4), cut=st.booleans())
def test_a_damaged_export(target: Target, at: int, patch: bytes, cut: bool) -> None:
    """A real request with some bytes changed, or cut off, over gRPC."""
    body = _WHOLE[:at] + patch + (b"" if cut else _WHOLE[at + len(patch) :])
    assert target.call(body) in (0, 3)


WORDS = [
    "resourceSpans", "resource", "scopeSpans", "scope", "spans", "attributes", "key", "value", "stringValue", "intValue", "doubleValue",
    "kvlistValue", "arrayValue", "values", "traceId", "spanId", "parentSpanId", "name", "startTimeUnixNano", "endTimeUnixNano", "status",
    "code", "flags", "bytesValue",
]  # fmt: skip


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    document=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(WORDS),
                inner,
                max_size=5,
            )
        ),
        max_leaves=30,
    )
)
def test_json_of_the_right_words_in_the_wrong_places(target: Target, document: Any) -> None:
    """Any value under any known name is read past or refused."""
    assert target.post(json.dumps({"resourceSpans": document}).encode(), JSON) in (200, 400, 413)


# --- manners -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "headers", "code"),
    [
        ("POST", "/v1/traces", {"Content-Type": "text/plain"}, 415),
        ("POST", "/v1/traces", {}, 415),
        ("POST", "/v1/traces", {"Content-Type": "application/grpc"}, 415),
        ("POST", "/v1/traces", {"Content-Type": "application/json; charset=utf-8"}, 200),
        ("POST", "/v1/traces", {"Content-Type": PROTOBUF, "Content-Encoding": "zstd"}, 415),
        ("POST", "/v1/traces", {"Content-Type": PROTOBUF, "Content-Encoding": "gzip, gzip"}, 415),
        ("POST", "/v1/traces", {"Content-Type": PROTOBUF, "Content-Encoding": "br"}, 415),
        ("POST", "/v1/metrics", {"Content-Type": PROTOBUF}, 404),
        ("POST", "/v1/logs", {"Content-Type": JSON}, 404),
        ("POST", "/v1/profiles", {"Content-Type": JSON}, 404),
        ("POST", "/v1/traces/", {"Content-Type": JSON}, 404),
        ("POST", "//v1/traces", {"Content-Type": JSON}, 404),
        ("POST", "/", {"Content-Type": JSON}, 404),
        ("GET", "/v1/traces", {}, 405),
        ("HEAD", "/v1/traces", {}, 405),
        ("DELETE", "/v1/traces", {"Content-Type": JSON}, 405),
        ("OPTIONS", "/v1/traces", {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}, 405),
        ("POST", "/v1/traces?x=%00%ff&y=" + "y" * 2_000, {"Content-Type": JSON}, 200),
        ("POST", "/v1/traces", {"Content-Type": JSON, "X-Long": "x" * 20_000}, 400),
        ("POST", "/v1/traces", {"Content-Type": JSON, "Authorization": "Bearer " + "k" * 8_000}, 200),
        ("BREW", "/v1/traces", {"Content-Type": JSON}, 400),
    ],
)  # fmt: skip
def test_http_manners(target: Target, method: str, path: str, headers: dict[str, str], code: int) -> None:
    """Every wrong way to ask has its own 4xx."""
    with closing(_connection(target)) as client:
        lines = [
            f"{method} {path} HTTP/1.1",
            "Host: localhost",
            "Content-Length: 2",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        client.sendall(("\r\n".join(lines) + "\r\n\r\n").encode() + b"{}")
        assert _status(client) == code


CHUNKED = b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"


@pytest.mark.parametrize(
    "raw",
    [
        b"\x00" * 100,
        b"GET\r\n\r\n",
        b"POST /v1/traces HTTP/9.9\r\nHost: x\r\n\r\n",
        b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n{}",
        CHUNKED + b"Content-Length: 2\r\n\r\n{}",
        CHUNKED + b"\r\nZZ\r\n{}\r\n0\r\n\r\n",
        CHUNKED.replace(b"chunked", b"gzip, chunked") + b"\r\n2\r\n{}\r\n0\r\n\r\n",
        b"POST /v1/traces HTTP/1.1\r\n" + b"X: y\r\n" * 1_000 + b"\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)  # fmt: skip
def test_bytes_that_are_no_http(target: Target, raw: bytes) -> None:
    """A 4xx or a closed connection, nothing that hangs."""
    with closing(_connection(target)) as client:
        client.sendall(raw)
        client.shutdown(socket.SHUT_WR)
        status = _status(client)
        assert status is None or 400 <= status < 500 or status == 200


@pytest.mark.parametrize(
    ("method", "code"),
    [
        ("/opentelemetry.proto.collector.metrics.v1.MetricsService/Export", 12),
        ("/opentelemetry.proto.collector.logs.v1.LogsService/Export", 12),
        ("/opentelemetry.proto.collector.trace.v1.TraceService/Import", 12),
        ("/opentelemetry.proto.collector.trace.v1.TraceService", 12),
        ("/x", 12),
        ("/" + "x" * 4_000, 12),
    ],
)  # fmt: skip
def test_grpc_methods_that_are_not_served(target: Target, method: str, code: int) -> None:
    """UNIMPLEMENTED: no client tries that again."""
    assert target.call(b"", method=method) == code


def test_grpc_manners(target: Target) -> None:
    """Metadata of any kind is read past; what HTTP/2 or gRPC itself forbids is refused by the library, never as UNKNOWN."""
    assert target.call(export(model_call(0x9, 1)), metadata=(("x-bin", b"\xff\x00"), ("authorization", "Bearer ~"))) in (0, 3)
    assert target.call(export(model_call(0x9, 2)), metadata=(("authorization", "Bearer " + "k" * 7_000),)) in (0, 8)
    assert target.call(b"\xff" * 100) == 3
    assert target.call(export(model_call(0x9, 3)), compression=grpc.Compression.Deflate) in (0, 12)


# --- many ----------------------------------------------------------------------------------------------------------------------------


def test_half_open_connections_on_all_listeners(target: Target) -> None:
    """Three hundred connections that say nothing or half a head to each port, and a client that leaves in the middle of a body."""
    held: list[socket.socket] = []
    try:
        for number in range(300):
            for name in ("otlp.grpc", "otlp.http"):
                client = socket.create_connection(("127.0.0.1", target.daemon.ports[name]), PATIENCE_SECONDS)
                client.sendall((b"", b"POST /v1/traces HTTP/1.1\r\nHost: x\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")[number % 3])
                held.append(client)
        target.still_counts()
        assert target.call(export(model_call(0x8A1F, 1))) == 0
    finally:
        for client in held:
            client.close()
    with closing(_connection(target)) as client:
        client.sendall(_head(target, "Content-Length: 1000") + b"half")
    assert target.daemon.metric("spantoll_receiver_in_flight_bytes") == 0 or _freed(target)


def _freed(target: Target) -> bool:
    from tests.e2e.daemon import eventually

    eventually(lambda: target.daemon.metric("spantoll_receiver_in_flight_bytes") == 0, what="the bytes of a client that left are free")
    return True


@budget(96 * MIB)
def test_labels_that_explode(target: Target) -> None:
    """Ten thousand agents, models, providers and services from many clients at once: the series are capped, no unit of money is lost."""
    rng = random.Random(25)
    before = _totals(target)

    def flood(client: int) -> int:
        sent = 0
        for batch in range(10):
            spans = []
            for number in range(1, 126):
                trace = 0xE_0000_0000 + client * 1_000_000 + batch * 1_000 + number
                name = f'{rng.random()}\n"\\{{}}\u2028\x00' + "é" * rng.randrange(200)
                spans += [agent(trace, 1, name), model_call(trace, 2, parent=1, gen_ai__provider__name="openai" if number % 2 else name)]
                if number % 5 == 0:
                    spans.append(model_call(trace, 3, parent=1, model=name))
            assert target.post(export(*spans, service=name, scope=name if batch % 2 else "scope", version=name)) == 200
            sent += 125
        return sent

    with ThreadPoolExecutor(4) as pool:
        sent = sum(pool.map(flood, range(8)))
    target.daemon.release()
    after = _totals(target)
    text = target.daemon.get("/metrics")
    series = sum(1 for name, _, _ in samples(text) if name == "spantoll_calls_total")
    assert series <= 2_000 + 10
    assert after["calls"] - before["calls"] == sent + sent // 5
    priced = after["cost_pusd"] - before["cost_pusd"]
    assert priced % CALL_PUSD == 0
    unpriced = after["unpriced"] - before["unpriced"]
    assert priced // CALL_PUSD + unpriced == sent + sent // 5
    assert after["tokens"] - before["tokens"] == 1_500 * (sent + sent // 5)
    assert all(len(value.encode()) <= 128 for _, have, _ in samples(text) for value in have.values())
    assert len(json.loads(target.daemon.get("/api/v1/sources"))["sources"]) < 20_000


def _totals(target: Target) -> dict[str, int]:
    sums = dict.fromkeys(("calls", "cost_pusd", "tokens", "unpriced"), 0)
    for name, _, value in samples(target.daemon.get("/metrics")):
        if name == "spantoll_calls_total":
            sums["calls"] += round(value)
        elif name == "spantoll_cost_usd_total":
            sums["cost_pusd"] += round(value * 1e12)
        elif name == "spantoll_tokens_total":
            sums["tokens"] += round(value)
        elif name == "spantoll_unpriced_calls_total":
            sums["unpriced"] += round(value)
    return sums


# --- plain sockets -------------------------------------------------------------------------------------------------------------------


def _connection(target: Target) -> socket.socket:
    return socket.create_connection(("127.0.0.1", target.daemon.ports["otlp.http"]), PATIENCE_SECONDS)


def _head(target: Target, *headers: str) -> bytes:
    lines = ["POST /v1/traces HTTP/1.1", "Host: localhost", f"Content-Type: {PROTOBUF}", *headers, "", ""]
    return "\r\n".join(lines).encode()


def _status(client: socket.socket) -> int | None:
    """The code of the answer, None when there was none."""
    answer = b""
    try:
        while b"\r\n" not in answer and (received := client.recv(65_536)):
            answer += received
    except OSError:
        return None
    return int(answer.split()[1]) if answer.startswith(b"HTTP/1.") else None
