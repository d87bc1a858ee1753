"""OTLP/HTTP as clients see it: protobuf and JSON, and everything that is neither."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import random

import grpc
import grpc.aio
import pytest
from google.protobuf import json_format
from google.rpc import error_details_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

from receiver.access.keys import Keys, hash_key
from receiver.config.endpoint import Endpoint
from receiver.core.admission import InFlight
from receiver.otlp.export import Encoding, Outcome
from receiver.otlp.http_server import HttpOptions
from receiver.otlp.listen import CannotListen
from tests.integration.wire_helpers import (
    KEY,
    LIMIT,
    MATRIX,
    MATRIX_IDS,
    House,
    Scenario,
    compressed,
    grpc_call,
    head,
    http_call,
    http_server,
    read_reply,
)

TYPES = [encoding.value for encoding in Encoding]


@pytest.mark.parametrize("content_type", TYPES)
@pytest.mark.parametrize(("row", "compression"), MATRIX, ids=MATRIX_IDS)
async def test_every_row_of_the_minimum_suite(row: Scenario, compression: str, content_type: str) -> None:
    """Status, headers, body in the request's own encoding, and count of each outcome, plain and gzip."""
    house = row.house()
    async with http_server(house) as server:
        reply = await http_call(server.bound[0][1], row.body, content_type=content_type, compression=compression, key=row.key)
        [seen] = await house.until_seen()
    assert reply.code == row.http
    assert reply.headers["content-type"] == content_type, "Go compares it with =="
    assert (seen.transport, seen.outcome, seen.reason) == ("http", row.outcome, row.reason)
    assert house.budget.held() == 0
    if row.http == 200:
        assert house.got == [("acme", row.body, Encoding(content_type), "http")]
        assert (seen.body_bytes, seen.wire_bytes) == (len(row.body), len(compressed(row.body, compression)))
        answer = trace_service_pb2.ExportTraceServiceResponse()
        if content_type == "application/json":
            json_format.Parse(reply.body, answer)
            assert (reply.body == b"{}") == (row.name != "partial")
        else:
            answer.ParseFromString(reply.body)
        assert answer.HasField("partial_success") == (row.name == "partial")
        assert answer.partial_success.rejected_spans == house.answer.rejected_spans
        assert answer.partial_success.error_message == house.answer.error_message
        return
    assert house.got == []
    assert reply.status.code == row.grpc.value[0]
    assert reply.status.message
    assert b"secret" not in reply.body
    assert reply.detail(error_details_pb2.ErrorInfo).reason == row.reason.upper()
    assert (reply.retry_info is not None) == row.retry
    assert ("retry-after" in reply.headers) == row.retry
    if row.retry:
        assert reply.retry_info is not None
        assert reply.retry_info <= int(reply.headers["retry-after"]) < reply.retry_info + 1.1
    if row.http == 401:
        assert reply.headers["www-authenticate"] == "Bearer"
    if row.name == "bad data":
        assert reply.detail(error_details_pb2.BadRequest).field_violations


async def test_partial_success_in_json_writes_its_number_as_a_string() -> None:
    """JSON Protobuf writes 64-bit integers as decimal strings, and names in lowerCamelCase."""
    row = next(row for row, _ in MATRIX if row.name == "partial")
    async with http_server(row.house()) as server:
        reply = await http_call(server.bound[0][1], b"{}", content_type="application/json", key=KEY)
    assert json.loads(reply.body)["partialSuccess"]["rejectedSpans"] == "3"


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON", "application/x-protobuf;messageType=x"])
async def test_parameters_of_the_content_type_change_nothing(content_type: str) -> None:
    """They are read off the request and never written into the answer."""
    async with http_server(House()) as server:
        reply = await http_call(server.bound[0][1], b"body", content_type=content_type)
    assert reply.code == 200
    assert reply.headers["content-type"] == content_type.split(";", maxsplit=1)[0].lower()


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/protobuf", "application/x-www-form-urlencoded"])
async def test_another_content_type_is_415(content_type: str | None) -> None:
    """No guess at what a body may be; a browser's simple requests (text/plain) reach nothing."""
    house = House()
    async with http_server(house) as server:
        reply = await http_call(server.bound[0][1], b"body", content_type=content_type)
    assert reply.code == 415
    assert "application/x-protobuf or application/json" in reply.status.message
    assert house.seen[0].reason == "unsupported_encoding"


async def test_another_content_encoding_is_415_with_the_list() -> None:
    """The body is not read, the client learns what to send."""
    async with http_server(House()) as server:
        reply = await http_call(server.bound[0][1], b"body", headers={"Content-Encoding": "zstd"})
    assert reply.code == 415
    assert reply.headers["accept-encoding"] == "gzip, deflate, identity"
    assert "gzip, deflate or identity" in reply.status.message


@pytest.mark.parametrize(
    "body",
    [b"no gzip at all", gzip.compress(b"request" * 100)[:-9], gzip.compress(b"request")[:5]],
    ids=["no gzip at all", "cut off", "a header"],
)
async def test_corrupt_gzip_is_400(body: bytes) -> None:
    """Aiohttp by itself would answer 500 and lose the batch with a traceback."""
    house = House()
    async with http_server(house) as server:
        reply = await http_call(server.bound[0][1], body, headers={"Content-Encoding": "gzip"})
    assert reply.code == 400
    assert house.seen[0].reason == "malformed"
    assert house.budget.held() == 0


async def test_deflate_is_read() -> None:
    """The Python SDK can send it."""
    house = House()
    async with http_server(house) as server:
        assert (await http_call(server.bound[0][1], b"request" * 50, compression="deflate")).code == 200
    assert house.got[0][1] == b"request" * 50


async def test_a_large_gzip_body_is_inflated_whole_off_the_loop() -> None:
    """Beyond the size that is inflated in line the bytes are the same, and what is held is what they came to."""
    noise = random.Random(7).randbytes(100_000)
    house = House(gate=asyncio.Event())
    async with http_server(house) as server:
        sent = asyncio.ensure_future(http_call(server.bound[0][1], noise + bytes(50_000), compression="gzip"))
        await asyncio.wait_for(house.entered.wait(), 30)
        assert house.budget.held() == 150_000
        assert house.gate is not None
        house.gate.set()
        assert (await sent).code == 200
    assert house.got[0][1] == noise + bytes(50_000)
    assert house.budget.held() == 0


async def test_room_for_the_inflated_body_is_asked_for_before_it_is_inflated() -> None:
    """A gzip body that would not fit the budget after inflation is refused, and the client may send it again."""
    noise = random.Random(7).randbytes(50_000)
    house = House(budget=InFlight(60_000))
    async with http_server(house) as server:
        reply = await http_call(server.bound[0][1], noise + bytes(100_000), compression="gzip")
    assert (reply.code, house.seen[0].reason) == (503, "memory")
    assert house.budget.held() == 0
    assert house.budget.peak < 60_000


@pytest.mark.parametrize(
    ("method", "path", "code"), [("POST", "/", 404), ("POST", "/v1/trace", 404), ("GET", "/v1/traces", 405), ("OPTIONS", "/v1/traces", 405)]
)
async def test_other_paths_and_methods_get_a_status_too(method: str, path: str, code: int) -> None:
    """404 and 405 carry a google.rpc.Status as every other refusal; a CORS preflight gets no permission."""
    async with http_server(House()) as server:
        reply = await http_call(server.bound[0][1], b"", method=method, path=path)
    assert reply.code == code
    assert reply.status.code == grpc.StatusCode.UNIMPLEMENTED.value[0]
    assert reply.headers.get("allow") == ("POST" if code == 405 else None)
    assert not any(name.startswith("access-control") for name in reply.headers)


async def test_the_path_is_configurable_and_a_query_is_ignored() -> None:
    """As with the collector's traces_url_path."""
    async with http_server(House(), traces_path="/otlp/traces") as server:
        assert (await http_call(server.bound[0][1], b"", path="/otlp/traces?x=1")).code == 200
        assert (await http_call(server.bound[0][1], b"", path="/v1/traces")).code == 404


async def test_an_unannounced_body_is_411() -> None:
    """Neither Content-Length nor chunks: the length is nobody's guess."""
    async with http_server(House()) as server:
        reply = await http_call(server.bound[0][1], b"", headers={"Content-Length": ""})
    assert reply.code == 411
    assert reply.status.message


@pytest.mark.parametrize(
    ("headers", "code"),
    [({"Content-Length": "100000000000"}, 413), ({"Content-Length": "1000", "Authorization": "Bearer spt_wrong"}, 401)],
)
async def test_headers_are_judged_before_the_body_comes(headers: dict[str, str], code: int) -> None:
    """The client has sent no byte of its body when it hears the refusal, and nothing was ever held for it."""
    house = House(keys=Keys([("acme", hash_key(KEY))]))
    async with http_server(house) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.bound[0][1])
        sent = {"Host": "x", "Content-Type": "application/x-protobuf", "Authorization": f"Bearer {KEY}"} | headers
        writer.write(head("POST", "/v1/traces", sent))
        assert (await read_reply(reader)).code == code
        writer.close()
    assert house.budget.peak == 0


async def test_chunks_are_counted_as_they_come() -> None:
    """A chunked body is refused at the limit, however long it goes on, and bytes are held as they come."""
    house = House()
    async with http_server(house) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.bound[0][1])
        sent = {"Host": "x", "Content-Type": "application/x-protobuf", "Transfer-Encoding": "chunked"}
        writer.write(head("POST", "/v1/traces", sent))
        for _ in range(LIMIT // 10_000 + 2):
            writer.write(b"2710\r\n" + bytes(10_000) + b"\r\n")
        reply = await read_reply(reader)
        writer.close()
    assert reply.code == 413
    assert house.budget.peak <= LIMIT
    assert house.budget.held() == 0


async def test_a_chunked_body_is_read_whole() -> None:
    """JS clients send chunks."""
    house = House()
    async with http_server(house) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.bound[0][1])
        sent = {"Host": "x", "Content-Type": "application/json", "Transfer-Encoding": "chunked"}
        writer.write(head("POST", "/v1/traces", sent) + b"5\r\nhello\r\n")
        await writer.drain()
        writer.write(b"6\r\n world\r\n0\r\n\r\n")
        assert (await read_reply(reader)).code == 200
        writer.close()
    assert house.got[0][1] == b"hello world"


async def test_a_broken_chunk_is_400() -> None:
    """A body that is no HTTP in its middle is the client's fault, not ours."""
    house = House()
    async with http_server(house) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.bound[0][1])
        sent = {"Host": "x", "Content-Type": "application/json", "Transfer-Encoding": "chunked"}
        writer.write(head("POST", "/v1/traces", sent) + b"5\r\nhello\r\n")
        await house.until_held()
        writer.write(b"zz\r\n")
        assert (await read_reply(reader)).code == 400
        writer.close()
    assert next(s.reason for s in house.seen) == "malformed"
    assert house.budget.held() == 0


async def test_expect_100_continue_is_answered_before_the_body() -> None:
    """Curl asks so for bodies over 1 MiB; a refusal comes instead of the permission to send."""
    house = House(keys=Keys([("acme", hash_key(KEY))]))
    async with http_server(house) as server:
        for key, code in ((KEY, 200), ("spt_wrong", 401)):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.bound[0][1])
            sent = {
                "Host": "x",
                "Content-Type": "application/json",
                "Content-Length": "4",
                "Expect": "100-continue",
                "Authorization": f"Bearer {key}",
            }
            writer.write(head("POST", "/v1/traces", sent))
            if code == 200:
                assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
                writer.write(b"body")
            assert (await read_reply(reader)).code == code
            writer.close()


async def test_one_connection_serves_many_requests() -> None:
    """Keep-alive and pipelining, also after refusals."""
    house = House()
    async with http_server(house) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.bound[0][1])
        good = head("POST", "/v1/traces", {"Host": "x", "Content-Type": "application/json", "Content-Length": "2"}) + b"{}"
        bad = head("POST", "/v1/traces", {"Host": "x", "Content-Type": "text/plain", "Content-Length": "2"}) + b"{}"
        writer.write(good + bad + good)
        assert [(await read_reply(reader)).code for _ in range(3)] == [200, 415, 200]
        writer.write(good)
        assert (await read_reply(reader)).code == 200
        writer.close()
    assert len(house.seen) == 4


@pytest.mark.parametrize(
    "garbage",
    [b"hello\r\n\r\n", b"GET / HTTP/9\r\n\r\n", b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n"],
    ids=["words", "version", "huge header"],
)
async def test_what_is_no_http_gets_a_status_and_no_traceback(garbage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Aiohttp's own answer would be text, and its log a traceback for each probe of a port scanner."""
    house = House()
    async with http_server(house) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.bound[0][1])
        writer.write(garbage)
        reply = await read_reply(reader)
        writer.close()
    assert reply.code == 400
    assert reply.status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert [s.reason for s in house.seen] == ["malformed"]
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


async def test_trailers_of_a_chunked_body_are_bounded() -> None:
    """A thousand trailers do not become a thousand headers in memory."""
    house = House()
    async with http_server(house) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.bound[0][1])
        sent = {"Host": "x", "Content-Type": "application/json", "Transfer-Encoding": "chunked"}
        writer.write(head("POST", "/v1/traces", sent) + b"2\r\n{}\r\n0\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(1_000)) + b"\r\n")
        assert (await read_reply(reader)).code == 400
        writer.close()
    assert house.got == []


async def test_a_client_that_leaves_in_mid_body_leaves_nothing_behind(caplog: pytest.LogCaptureFixture) -> None:
    """Its bytes are given back, it counts as abandoned once, and the log is quiet."""
    house = House()
    async with http_server(house) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.bound[0][1])
        writer.write(head("POST", "/v1/traces", {"Host": "x", "Content-Type": "application/json", "Content-Length": "100"}) + b"half")
        await house.until_held()
        writer.close()
        [seen] = await house.until_seen()
    assert (seen.outcome, seen.reason) == (Outcome.ABANDONED, "incomplete")
    assert house.budget.held() == 0
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


async def test_an_export_that_has_begun_outlives_its_client() -> None:
    """What has begun is stored and counted though nobody waits for the answer."""
    house = House(gate=asyncio.Event())
    async with http_server(house) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.bound[0][1])
        writer.write(head("POST", "/v1/traces", {"Host": "x", "Content-Type": "application/json", "Content-Length": "2"}) + b"{}")
        await asyncio.wait_for(house.entered.wait(), 30)
        writer.close()
        await writer.wait_closed()
        await asyncio.sleep(0.02)
        assert house.gate is not None
        house.gate.set()
        [seen] = await house.until_seen()
    assert seen.outcome is Outcome.ACCEPTED
    assert len(house.got) == 1


async def test_stop_answers_what_is_under_way() -> None:
    """A request that was taken before the stop is acknowledged and its connection closed; afterwards nobody listens."""
    house = House(gate=asyncio.Event())
    async with http_server(house) as server:
        port = server.bound[0][1]
        idle_reader, idle_writer = await asyncio.open_connection("127.0.0.1", port)
        first = asyncio.ensure_future(http_call(port, b"request"))
        await asyncio.wait_for(house.entered.wait(), 30)
        stop = asyncio.ensure_future(server.stop(10))
        assert await asyncio.wait_for(idle_reader.read(), 30) == b""
        idle_writer.close()
        assert house.gate is not None
        house.gate.set()
        reply = await first
        await stop
        assert (reply.code, reply.headers["connection"]) == (200, "close")
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", port)


@pytest.mark.parametrize("signal", ["metrics", "logs"])
async def test_other_signals(signal: str, caplog: pytest.LogCaptureFixture) -> None:
    """404 with advice by default; with discard_other_signals acknowledged, dropped and named once."""
    refusing, dropping = House(), House()
    async with http_server(refusing) as server:
        reply = await http_call(server.bound[0][1], b"points", path=f"/v1/{signal}")
        assert reply.code == 404
        assert f"OTEL_{signal.upper()}_EXPORTER=none" in reply.status.message
    caplog.clear()
    async with http_server(dropping, discard_other_signals=True) as server:
        for content_type, body in zip(TYPES, (b"", b"{}"), strict=True):
            reply = await http_call(server.bound[0][1], b"points", path=f"/v1/{signal}", content_type=content_type, compression="gzip")
            assert (reply.code, reply.body) == (200, body)
    assert dropping.got == []
    assert [s.outcome for s in dropping.seen] == [Outcome.DISCARDED] * 2
    assert len([r for r in caplog.records if "OTEL_TRACES_EXPORTER=otlp" in r.message]) == 1


async def test_a_grpc_client_is_named_and_told_which_port_is_its_own(caplog: pytest.LogCaptureFixture) -> None:
    """The commonest mistake: the gRPC exporter on 4318. Logged once a peer, counted each time, readable in the client's own error."""
    house = House()
    async with http_server(house, grpc_port=4317) as server:
        port = server.bound[0][1]
        replies = [await grpc_call(port, b"request") for _ in range(2)]
    assert all(reply.code == grpc.StatusCode.UNAVAILABLE.value[0] for reply in replies)
    said = [r.message for r in caplog.records if "OTLP/gRPC client at 127.0.0.1" in r.message]
    assert len(said) == 1
    assert str(port) in said[0]
    assert "use port 4317" in said[0]
    assert ("http", "grpc") in house.foreign
    assert house.seen == []


async def test_a_tls_client_on_a_plain_port_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """https:// where http:// was meant."""
    house = House()
    async with http_server(house) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.bound[0][1])
        writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        assert (await asyncio.wait_for(reader.read(), 30))[:1] == b"\x15"
        writer.close()
    assert house.foreign == [("http", "tls")]
    assert any("TLS client at 127.0.0.1" in r.message for r in caplog.records)


async def test_connections_are_limited(caplog: pytest.LogCaptureFixture) -> None:
    """One more than the limit is closed at once; room that is given back is used again."""
    async with http_server(House(), max_connections=2) as server:
        port = server.bound[0][1]
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await asyncio.wait_for(reader.read(), 30) == b""
        writer.close()
        held[0][1].close()
        await held[0][1].wait_closed()
        async with asyncio.timeout(30):
            while True:
                try:
                    assert (await http_call(port, b"request")).code == 200
                    break
                except (asyncio.IncompleteReadError, ConnectionError):
                    await asyncio.sleep(0.005)
        held[1][1].close()
    assert len([r for r in caplog.records if "connections are taken" in r.message]) == 1


async def test_a_taken_port_is_named_and_nothing_stays_open() -> None:
    """The message says which endpoint and what to do."""
    async with http_server(House()) as first:
        taken = Endpoint("localhost", first.bound[0][1])
        with pytest.raises(CannotListen, match=r"localhost:\d+: the port is taken"):
            async with http_server(House(), endpoint=taken):
                pass


async def test_localhost_is_both_loopback_addresses() -> None:
    """One port on both, where there is IPv6."""
    async with http_server(House(), endpoint=Endpoint("localhost", 0)) as server:
        assert server.bound[0][0] == "127.0.0.1"
        assert len({port for _, port in server.bound}) == 1
        for host, port in server.bound:
            _, writer = await asyncio.open_connection(host, port)
            writer.close()


def test_the_defaults_are_the_documented_ones() -> None:
    """Loopback on OTLP's port, the spec's 64 MiB, and time limits that aiohttp has none of."""
    options = HttpOptions()
    assert str(options.endpoint) == "localhost:4318"
    assert options.max_request_bytes == 64 << 20
    assert (options.header_timeout_seconds, options.body_window_seconds, options.idle_timeout_seconds) == (10, 10, 60)
    assert options.max_connections == 1_024
