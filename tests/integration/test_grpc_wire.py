"""OTLP/gRPC as clients see it, on both servers: grpc.aio and, where it is installed, pygrpc-native."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import importlib.util
import socket
import sys
import weakref
from pathlib import Path
from typing import Any, TypeVar

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

from receiver.access.keys import Keys, hash_key
from receiver.config.endpoint import Endpoint
from receiver.core.admission import InFlight
from receiver.errors import MalformedExport, Overloaded
from receiver.otlp.export import Answer, Encoding, Outcome
from receiver.otlp.grpc_server import GrpcOptions
from receiver.otlp.listen import CannotListen
from tests.integration.wire_helpers import H2, KEY, LIMIT, MATRIX, MATRIX_IDS, House, Scenario, grpc_call, grpc_server
from tests.require import need

METRICS = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"
LOGS = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
NATIVE_READS_FIRST = "pygrpc-native 0.5 reads and inflates a unary message before its handler runs, and its limit is judged after that"


@pytest.fixture(params=["aio", "native"])
def server_kind(request: pytest.FixtureRequest) -> str:
    need(
        request.param != "native" or importlib.util.find_spec("pygrpc_native"),
        "pygrpc-native is not installed (pip install spantoll[fast])",
    )
    return str(request.param)


@pytest.fixture
def native_falls_short(request: pytest.FixtureRequest, server_kind: str) -> None:
    """Marks a row that the native server is known to miss: strictly, so that a mended one is noticed."""
    if server_kind == "native":
        request.applymarker(pytest.mark.xfail(strict=True, reason=NATIVE_READS_FIRST))


@pytest.mark.parametrize(("row", "compression"), MATRIX, ids=MATRIX_IDS)
async def test_every_row_of_the_minimum_suite(row: Scenario, compression: str, server_kind: str) -> None:
    """Code, retry advice, body and count of each outcome, plain and gzip."""
    house = row.house()
    async with grpc_server(house, server=server_kind) as server:
        reply = await grpc_call(server.bound[0][1], row.body, compression=compression, key=row.key)
        [seen] = await house.until_seen()
    assert reply.code == row.grpc.value[0], reply.message
    if row.reason == "too_large" and server_kind == "aio":
        # the core answers by itself, and the handler cannot tell an oversize message from a client that left
        assert (seen.outcome, seen.reason) == (Outcome.ABANDONED, "incomplete")
        assert not reply.trailers
    else:
        assert (seen.outcome, seen.reason) == (row.outcome, row.reason)
    assert house.budget.held() == 0
    if row.grpc is grpc.StatusCode.OK:
        assert house.got == [("acme", row.body, Encoding.PROTOBUF, "grpc")]
        assert seen.body_bytes == len(row.body)
        answer = trace_service_pb2.ExportTraceServiceResponse.FromString(reply.body)
        assert answer.HasField("partial_success") == (row.name == "partial")
        assert (reply.body == b"") == (row.name != "partial")
        assert answer.partial_success.rejected_spans == house.answer.rejected_spans
        return
    assert house.got == []
    assert not reply.initial, "a refusal is trailers-only: Java reads a retryable status from the first headers"
    assert "secret" not in reply.message
    if not reply.trailers:
        return
    assert reply.status.code == reply.code
    assert reply.status.message == reply.message
    assert reply.detail(error_details_pb2.ErrorInfo).reason == row.reason.upper()
    assert (reply.retry_info is not None) == row.retry
    bare = reply.trailers.get("google.rpc.retryinfo-bin")
    assert (bare is not None) == row.retry
    if bare is not None:
        assert error_details_pb2.RetryInfo.FromString(bare) == reply.detail(error_details_pb2.RetryInfo)
    if row.name == "bad data":
        assert reply.detail(error_details_pb2.BadRequest).field_violations


async def test_a_refusal_is_one_header_block_on_the_wire(server_kind: str) -> None:
    """Trailers-only, seen in HTTP/2 frames: one HEADERS that ends the stream, no data."""
    house = House(refuse=Overloaded(reason="starting", retry_after_seconds=1))
    async with grpc_server(house, server=server_kind) as server:
        client = await H2.connect(server.bound[0][1])
        client.call(b"request")
        blocks, data = await client.answer()
        await client.close()
    assert len(blocks) == 1
    assert blocks[0]["grpc-status"] == "14"
    assert blocks[0][":status"] == "200"
    assert data == b""


@pytest.mark.usefixtures("native_falls_short")
async def test_a_refusal_needs_no_byte_of_the_message(server_kind: str) -> None:
    """Headers alone are judged: the client that sent nothing else hears the refusal."""
    house = House(keys=Keys([("acme", hash_key(KEY))]))
    async with grpc_server(house, server=server_kind) as server:
        client = await H2.connect(server.bound[0][1])
        client.call(end=False, key="spt_wrong")
        try:
            async with asyncio.timeout(0.5 if server_kind == "native" else 30):  # the one says nothing, however long one waits
                blocks, _ = await client.answer()
        finally:
            await client.close()
    assert blocks[0]["grpc-status"] == "16"


@pytest.mark.usefixtures("native_falls_short")
async def test_a_bomb_is_not_inflated(server_kind: str) -> None:
    """128 MiB of zeros in 130 KB: refused while inflating, so memory does not follow the bomb."""
    bomb = gzip.compress(bytes(128 << 20), 9)
    peak = Path("/proc/self/status")
    house = House()
    async with grpc_server(house, server=server_kind) as server:
        client = await H2.connect(server.bound[0][1])
        await _settings(client)
        _reset_peak()
        before = _kib(peak, "VmHWM")
        await _send_large(client, bomb)
        blocks, _ = await client.answer()
        grown = _kib(peak, "VmHWM") - before
        await client.close()
    assert blocks[-1]["grpc-status"] == "8"
    assert grown < 40 << 10


async def _settings(client: H2) -> None:
    client.h2.receive_data(await client.reader.read(65_536))
    client.flush()


async def _send_large(client: H2, message: bytes) -> None:
    """A gzip message larger than the first flow-control window."""
    client.call(end=False, encoding="gzip")
    data = b"\x01" + len(message).to_bytes(4, "big") + message
    async with asyncio.timeout(30):
        while data:
            room = min(client.h2.local_flow_control_window(1), client.h2.max_outbound_frame_size, len(data))
            if room:
                client.h2.send_data(1, data[:room], end_stream=room == len(data))
                client.flush()
                data = data[room:]
            else:
                client.h2.receive_data(await client.reader.read(65_536))
                client.flush()


def _reset_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("this kernel does not let a process reset its memory peak")


def _kib(path: Path, name: str) -> int:
    return int(next(line for line in path.read_text().splitlines() if line.startswith(name)).split()[1])


async def test_a_call_without_a_message_is_malformed() -> None:
    """A unary client always sends one; an empty stream must not be acknowledged as an empty request."""
    house = House()
    async with grpc_server(house) as server:
        client = await H2.connect(server.bound[0][1])
        client.call()
        blocks, _ = await client.answer()
        await client.close()
        [seen] = await house.until_seen()
    assert blocks[-1]["grpc-status"] == str(grpc.StatusCode.INVALID_ARGUMENT.value[0])
    assert (seen.outcome, seen.reason) == (Outcome.REFUSED, "malformed")
    assert house.got == []
    assert house.budget.held() == 0


async def test_of_two_messages_the_first_is_the_request(server_kind: str) -> None:
    """As every unary gRPC server reads it: one call, one request, one answer, and nothing of the second is stored or kept."""
    house = House()
    async with grpc_server(house, server=server_kind) as server:
        client = await H2.connect(server.bound[0][1])
        client.call(b"one", b"two")
        blocks, _ = await client.answer()
        await client.close()
        await house.until_seen()
    assert blocks[-1]["grpc-status"] == "0"
    assert [body for _, body, _, _ in house.got] == [b"one"]
    assert house.budget.held() == 0


async def test_a_message_that_never_ends_is_given_up() -> None:
    """A slow-loris in gRPC holds its bytes no longer than the read timeout."""
    house = House()
    async with grpc_server(house, read_timeout_seconds=0.1) as server:
        client = await H2.connect(server.bound[0][1])
        client.call(end=False)
        client.h2.send_data(1, b"\x00" + (1_000).to_bytes(4, "big") + b"only this")
        client.flush()
        blocks, _ = await client.answer()
        await client.close()
        [seen] = await house.until_seen()
    assert blocks[-1]["grpc-status"] == str(grpc.StatusCode.DEADLINE_EXCEEDED.value[0])
    assert seen.reason == "timed_out"
    assert house.budget.held() == 0


async def test_a_client_that_leaves_in_mid_message_leaves_nothing_behind() -> None:
    """Its bytes are given back, and it counts as abandoned, once."""
    house = House()
    async with grpc_server(house) as server:
        client = await H2.connect(server.bound[0][1])
        client.call(end=False)
        client.h2.send_data(1, b"\x00" + (1_000).to_bytes(4, "big") + b"only this")
        client.flush()
        await house.until_held()
        await client.close()
        [seen] = await house.until_seen()
    assert (seen.outcome, seen.reason) == (Outcome.ABANDONED, "incomplete")
    assert house.budget.held() == 0


async def test_an_export_that_has_begun_outlives_its_client(server_kind: str) -> None:
    """A cancelled call leaves no half state: what has begun is stored, counted and given back."""
    house = House(gate=asyncio.Event())
    async with grpc_server(house, server=server_kind) as server:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.bound[0][1]}") as channel:
            call = channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")(b"request")
            sent = asyncio.ensure_future(call.code())
            await asyncio.wait_for(house.entered.wait(), 30)
            call.cancel()
            assert await sent is grpc.StatusCode.CANCELLED
        assert house.budget.held() > 0
        assert house.gate is not None
        house.gate.set()
        [seen] = await house.until_seen()
    assert len(house.got) == 1
    assert seen.outcome is Outcome.ACCEPTED
    assert house.budget.held() == 0


@pytest.mark.parametrize("refused", ["by the budget", "as malformed"])
async def test_a_refused_message_does_not_outlive_its_call(refused: str) -> None:
    """What gRPC keeps of a refusal (an exception in a circle with its frames) holds no message that would wait for the collector."""
    watched: list[weakref.ref[object]] = []

    def watch(what: _Watched) -> _Watched:
        watched.append(weakref.ref(what))
        return what

    class Watching(House):
        def reserve(self, account: str, size: int) -> None:
            if refused == "by the budget" and size > 1_000 and self.budget.held():  # when the message has come
                raise watch(Overloaded(reason="memory", retry_after_seconds=1))
            super().reserve(account, size)

        async def export(self, *_: Any, **__: Any) -> Answer:
            raise watch(MalformedExport("the body is no OTLP export request"))

    house = Watching()
    gc.disable()
    try:
        async with grpc_server(house) as server:
            inner = server._read

            async def read(context: Any, account: str) -> bytes:
                return watch(_Message(await inner(context, account)))  # type: ignore[return-value]  # bytes in all but name

            server._read = read  # type: ignore[method-assign, assignment]  # messages that can be watched
            for _ in range(3):
                assert (await grpc_call(server.bound[0][1], bytes(100_000))).code in (3, 14)
            await house.until_seen(3)
            alive = [each() for each in watched if each() is not None]
    finally:
        gc.enable()
    assert len(watched) == (3 if refused == "by the budget" else 6)
    assert alive == []


_Watched = TypeVar("_Watched")


class _Message(bytearray):
    """Bytes that a weak reference can point to."""


async def test_memory_is_held_for_the_size_that_came(server_kind: str) -> None:
    """While an export runs, its message's own size is held."""
    house = House(gate=asyncio.Event(), budget=InFlight(150_000))
    async with grpc_server(house, server=server_kind) as server:
        port = server.bound[0][1]
        first = asyncio.ensure_future(grpc_call(port, bytes(100_000)))
        await asyncio.wait_for(house.entered.wait(), 30)
        assert house.budget.held("default") == 100_000
        second = await grpc_call(port, bytes(100_000))
        assert house.gate is not None
        house.gate.set()
        assert (await first).code == 0
    assert second.code == grpc.StatusCode.UNAVAILABLE.value[0]
    assert house.budget.held() == 0


@pytest.mark.parametrize("method", [METRICS, LOGS])
async def test_other_signals_are_refused_with_advice(method: str, server_kind: str) -> None:
    """UNIMPLEMENTED, which no client retries, and a message that says how to stop them."""
    house = House()
    async with grpc_server(house, server=server_kind) as server:
        reply = await grpc_call(server.bound[0][1], b"points", method=method)
    assert reply.code == grpc.StatusCode.UNIMPLEMENTED.value[0]
    assert "EXPORTER=none" in reply.message
    assert [(s.outcome, s.reason) for s in house.seen] == [(Outcome.REFUSED, "not_served")]


@pytest.mark.parametrize("method", [METRICS, LOGS])
async def test_other_signals_are_dropped_on_request(method: str, server_kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """With discard_other_signals they are acknowledged, stored nowhere, and named in the log once."""
    house = House()
    async with grpc_server(house, server=server_kind, discard_other_signals=True) as server:
        for _ in range(2):
            reply = await grpc_call(server.bound[0][1], b"points", method=method)
            assert (reply.code, reply.body) == (0, b"")
    assert house.got == []
    assert [s.outcome for s in house.seen] == [Outcome.DISCARDED] * 2
    assert house.budget.held() == 0
    assert len([r for r in caplog.records if "OTEL_TRACES_EXPORTER=otlp" in r.message]) == 1


async def test_other_signals_need_a_key_too(server_kind: str) -> None:
    """Dropping is a service for those who have a key, not an open sink."""
    house = House(keys=Keys([("acme", hash_key(KEY))]))
    async with grpc_server(house, server=server_kind, discard_other_signals=True) as server:
        reply = await grpc_call(server.bound[0][1], b"points", method=METRICS)
    assert reply.code == grpc.StatusCode.UNAUTHENTICATED.value[0]


async def test_an_unknown_method_is_unimplemented(server_kind: str) -> None:
    """Clients do not retry it."""
    async with grpc_server(House(), server=server_kind) as server:
        reply = await grpc_call(server.bound[0][1], b"", method="/some.other.Service/Call")
    assert reply.code == grpc.StatusCode.UNIMPLEMENTED.value[0]


async def test_health_follows_the_daemon_and_ends_its_watchers(server_kind: str) -> None:
    """NOT_SERVING, SERVING, NOT_SERVING; a watcher does not hold the stop for all of its grace."""
    status = health_pb2.HealthCheckResponse
    async with grpc_server(House(), server=server_kind) as server:  # noqa: SIM117 -- the channel needs the port
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.bound[0][1]}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            service = health_pb2.HealthCheckRequest(service="opentelemetry.proto.collector.trace.v1.TraceService")
            assert (await stub.Check(service)).status == status.NOT_SERVING
            await server.set_serving(True)
            assert (await stub.Check(service)).status == status.SERVING
            assert (await stub.Check(health_pb2.HealthCheckRequest())).status == status.SERVING
            watch = stub.Watch(service)
            assert (await watch.read()).status == status.SERVING
            began = asyncio.get_running_loop().time()
            stop = asyncio.ensure_future(server.stop(30))
            assert (await watch.read()).status == status.NOT_SERVING
            await stop
            assert asyncio.get_running_loop().time() - began < 15


async def test_stop_answers_what_is_under_way(server_kind: str) -> None:
    """A request that was taken before the stop gets its acknowledgement; a later one gets none."""
    house = House(gate=asyncio.Event())
    async with grpc_server(house, server=server_kind) as server:
        port = server.bound[0][1]
        first = asyncio.ensure_future(grpc_call(port, b"request"))
        await asyncio.wait_for(house.entered.wait(), 30)
        stop = asyncio.ensure_future(server.stop(10))
        await asyncio.sleep(0)
        assert house.gate is not None
        house.gate.set()
        assert (await first).code == 0
        await stop
        late = await grpc_call(port, b"request")
    assert late.code == grpc.StatusCode.UNAVAILABLE.value[0]
    assert len(house.got) == 1


async def test_localhost_is_both_loopback_addresses(server_kind: str) -> None:
    """One port on 127.0.0.1 and, where there is IPv6, on ::1."""
    async with grpc_server(House(), server=server_kind, endpoint=Endpoint("localhost", 0)) as server:
        assert {port for _, port in server.bound} == {server.bound[0][1]}
        expected = ["127.0.0.1", "::1"] if _has_ipv6() else ["127.0.0.1"]
        assert [host for host, _ in server.bound] == expected
        for host, port in server.bound:
            target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            async with grpc.aio.insecure_channel(target) as channel:
                assert (await grpc_call(port, b"request", channel=channel)).code == 0


async def test_a_taken_port_is_named(server_kind: str) -> None:
    """No second daemon takes half of the traffic in silence; the message says what to do."""
    async with grpc_server(House(), server=server_kind) as first:
        taken = Endpoint("127.0.0.1", first.bound[0][1])
        with pytest.raises(CannotListen, match=rf"127\.0\.0\.1:{taken.port}.*port is taken.*set another"):
            async with grpc_server(House(), server=server_kind, endpoint=taken):
                pass
        assert (await grpc_call(taken.port, b"request")).code == 0


async def test_connections_are_limited() -> None:
    """One connection more than the limit is closed without an answer."""
    async with grpc_server(House(), max_connections=2) as server:
        clients = [await H2.connect(server.bound[0][1]) for _ in range(2)]
        for client in clients:
            await _settings(client)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.bound[0][1])
        async with asyncio.timeout(30):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        writer.close()
        for client in clients:
            await client.close()


async def test_native_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The choice is explicit, so a missing package is an error and no silent fallback."""
    monkeypatch.setitem(sys.modules, "pygrpc_native", None)
    monkeypatch.setitem(sys.modules, "pygrpc_native.aio", None)
    with pytest.raises(CannotListen, match=r"spantoll\[fast\]"):
        async with grpc_server(House(), server="native"):
            pass


async def test_native_speaks_no_tls() -> None:
    """It would listen in plain text where TLS was asked for."""
    pytest.importorskip("pygrpc_native", reason="pygrpc-native is not installed (pip install spantoll[fast])")
    credentials = grpc.ServerCredentials(None)
    with pytest.raises(CannotListen, match="TLS"):
        async with grpc_server(House(), server="native", credentials=credentials):
            pass


def test_the_defaults_are_the_documented_ones() -> None:
    """Loopback on OTLP's port, the spec's 64 MiB."""
    assert str(GrpcOptions().endpoint) == "localhost:4317"
    assert GrpcOptions().max_request_bytes == 64 << 20
    assert GrpcOptions().max_request_bytes > LIMIT


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True
