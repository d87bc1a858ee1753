"""What gRPC clients do with connections rather than calls: pings, resets, half-open ones, and connections that grow old."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, Event, StreamEnded, StreamReset

from tests.integration.wire_helpers import EXPORT, H2, House, grpc_call, grpc_server

HEADERS = [
    (":method", "POST"), (":scheme", "http"), (":path", EXPORT), (":authority", "localhost"), ("te", "trailers"),
    ("content-type", "application/grpc"),
]  # fmt: skip


GOAWAY = 7  #: RFC 9113 6.8


async def events_of(client: H2, *, until: type[Event] | None = None) -> list[Event]:
    """What the server sends until such an event, or until it closes the connection."""
    found: list[Event] = []
    async with asyncio.timeout(30):
        while received := await _read(client):
            found += client.h2.receive_data(received)
            if until is not None and any(isinstance(event, until) for event in found):
                break
    return found


async def _read(client: H2) -> bytes:
    try:
        return await client.reader.read(65_536)
    except ConnectionError:
        return b""


async def test_a_client_that_pings_too_often_loses_its_connection() -> None:
    """Two pings closer than the limit are borne, then it ends with the words that gRPC clients know: they double their interval."""
    async with grpc_server(House(), min_ping_interval_seconds=60.0) as server:
        client = await H2.connect(server.bound[0][1])
        for number in range(8):
            client.h2.ping(number.to_bytes(8, "big"))
        client.flush()
        ended = [event for event in await events_of(client) if isinstance(event, ConnectionTerminated)]
        await client.close()
        assert (await grpc_call(server.bound[0][1], b"request")).code == 0
    assert ended[-1].error_code is ErrorCodes.ENHANCE_YOUR_CALM
    assert ended[-1].additional_data == b"too_many_pings"


async def test_pings_of_an_idle_client_are_borne() -> None:
    """A client that keeps a quiet connection alive at the documented pace is left alone, with and without calls."""
    house = House()
    async with grpc_server(house, min_ping_interval_seconds=0.01) as server:
        client = await H2.connect(server.bound[0][1])
        for number in range(6):
            client.h2.ping(number.to_bytes(8, "big"))
            client.flush()
            await asyncio.sleep(0.02)
        client.call(b"request")
        blocks, _ = await client.answer()
        await client.close()
    assert blocks[-1]["grpc-status"] == "0"
    assert len(house.got) == 1


async def test_a_rapid_reset_holds_nothing_and_stops_nobody() -> None:
    """Thousands of calls begun and reset at once (CVE-2023-44487): others are served beside them, and every held byte is given back."""
    house = House()
    async with grpc_server(house, max_concurrent_streams=10) as server:
        port = server.bound[0][1]
        client = await H2.connect(port)
        for number in range(2_000):
            stream = 2 * number + 1
            client.h2.send_headers(stream, HEADERS)
            client.h2.reset_stream(stream, ErrorCodes.CANCEL)
            if number % 100 == 0:
                client.flush()
                assert (await grpc_call(port, b"request")).code == 0
        client.flush()
        await asyncio.gather(client.writer.drain(), return_exceptions=True)
        assert (await grpc_call(port, b"request")).code == 0
        await client.close()
        async with asyncio.timeout(30):
            while house.budget.held():  # noqa: ASYNC110 -- the server's state has no event
                await asyncio.sleep(0.01)
    assert len(house.got) == 21


async def test_more_calls_at_once_than_allowed_do_not_fill_the_daemon() -> None:
    """They wait in the client, which was told the limit, or are refused as streams (RFC 9113 8.7): UNAVAILABLE, to be sent again."""
    house = House(gate=asyncio.Event())
    async with grpc_server(house, max_concurrent_streams=3) as server:
        port = server.bound[0][1]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await channel.channel_ready()  # the server's SETTINGS have come
            calls = [asyncio.ensure_future(grpc_call(port, b"request", channel=channel)) for _ in range(9)]
            await asyncio.wait_for(house.entered.wait(), 30)
            await asyncio.sleep(0.1)
            held = house.budget.held()
            assert house.gate is not None
            house.gate.set()
            codes = [(await call).code for call in calls]
    assert held <= 3 * 65_536
    assert set(codes) <= {0, grpc.StatusCode.UNAVAILABLE.value[0]}
    assert len(house.got) == codes.count(0) >= 3


async def test_half_open_connections_do_not_keep_a_good_client_out() -> None:
    """Three hundred that say nothing or half a preface: a good call is answered among them, and the handshake timeout ends them all."""
    async with grpc_server(House(), handshake_timeout_seconds=1.0) as server:
        port = server.bound[0][1]
        held = await asyncio.gather(*(asyncio.open_connection("127.0.0.1", port) for _ in range(300)))
        for number, (_, writer) in enumerate(held):
            writer.write(b"PRI * HTTP" if number % 2 else b"")
        assert (await grpc_call(port, b"request")).code == 0
        ends = await asyncio.wait_for(asyncio.gather(*(reader.read() for reader, _ in held), return_exceptions=True), 15)
        for _, writer in held:
            writer.close()
    assert len(ends) == 300


async def test_a_connection_of_age_is_asked_to_come_again() -> None:
    """GOAWAY without an error: the client's library reconnects by itself, and no call fails for it."""
    house = House()
    async with grpc_server(house, max_connection_age_seconds=0.2, max_connection_age_grace_seconds=1.0) as server:
        port = server.bound[0][1]
        client = await H2.connect(port)
        async with asyncio.timeout(30):
            while True:  # frame by frame: h2 takes the first GOAWAY for the end, and a graceful one is followed by a ping
                head = await client.reader.readexactly(9)
                payload = await client.reader.readexactly(int.from_bytes(head[:3], "big"))
                if head[3] == GOAWAY:
                    break
        await client.close()
        assert int.from_bytes(payload[4:8], "big") == ErrorCodes.NO_ERROR
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            for _ in range(20):
                assert (await grpc_call(port, b"request", channel=channel)).code == 0
                await asyncio.sleep(0.03)
    assert len(house.got) == 20


async def test_an_http1_client_is_turned_away_by_the_library() -> None:
    """The socket is gRPC's own: its connection is closed at once, nothing is stored, and nothing of it can be logged by name."""
    house = House()
    async with grpc_server(house) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.bound[0][1])
        writer.write(b"POST /v1/traces HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
        async with asyncio.timeout(30):
            answer = await asyncio.gather(reader.read(), return_exceptions=True)
        writer.close()
    assert not isinstance(answer[0], bytes) or not answer[0].startswith(b"HTTP/1.1 200")
    assert house.got == []
    assert house.seen == []


async def test_data_on_a_stream_that_was_answered_is_no_fault() -> None:
    """A client that goes on sending after its refusal meets a reset, and the connection serves its next call."""
    house = House(refuse=ValueError("a fault while admitting"))
    async with grpc_server(house) as server:
        client = await H2.connect(server.bound[0][1])
        client.call(end=False)
        seen = await events_of(client, until=StreamEnded)
        client.flush()
        assert not any(isinstance(event, StreamReset) and event.error_code is ErrorCodes.INTERNAL_ERROR for event in seen)
        house.refuse = None
        client.h2.send_headers(3, HEADERS)
        client.h2.send_data(3, b"\x00" + (7).to_bytes(4, "big") + b"request", end_stream=True)
        client.flush()
        await events_of(client, until=StreamEnded)
        await house.until_seen(2)
        await client.close()
    assert [body for _, body, _, _ in house.got] == [b"request"]
