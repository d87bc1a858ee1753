"""Clients that are slow on purpose, or dead: each costs a bounded time and nobody else anything."""

from __future__ import annotations

import asyncio
import logging

import pytest

from receiver.otlp.export import Outcome
from tests.integration.wire_helpers import House, grpc_server, head, http_call, http_server, read_reply

POST = {"Host": "x", "Content-Type": "application/json", "Content-Length": "1000"}


async def _closed(reader: asyncio.StreamReader, within: float = 5) -> bytes:
    """What still came before the server closed the connection."""
    async with asyncio.timeout(within):
        try:
            return await reader.read()
        except ConnectionError:
            return b""


@pytest.mark.parametrize("sent", [b"", b"POST /v1/traces HTTP/1.1\r\nHost: x\r\n"], ids=["silent", "half a head"])
async def test_a_head_that_never_ends_closes_the_connection(sent: bytes) -> None:
    """The classic slow-loris; aiohttp by itself waits for its keep-alive time."""
    house = House()
    async with http_server(house, header_timeout_seconds=0.1) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.bound[0][1])
        writer.write(sent)
        assert await _closed(reader) == b""
        writer.close()
    assert house.seen == []


async def test_a_head_in_drips_is_no_longer_served() -> None:
    """Each byte in time does not make a head in time."""
    async with http_server(House(), header_timeout_seconds=0.1) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.bound[0][1])
        closed = asyncio.ensure_future(_closed(reader))
        async with asyncio.timeout(30):
            for byte in head("POST", "/v1/traces", POST) * 10:
                if closed.done():
                    break
                writer.write(bytes((byte,)))
                await asyncio.sleep(0.005)
        assert await closed == b""
        writer.close()


async def test_the_second_head_on_a_connection_is_bounded_too() -> None:
    """A client that behaved once gets no more time for its next request."""
    async with http_server(House(), header_timeout_seconds=0.1) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.bound[0][1])
        writer.write(head("POST", "/v1/traces", POST | {"Content-Length": "2"}) + b"{}")
        assert (await read_reply(reader)).code == 200
        writer.write(b"POST /v1/tr")
        assert await _closed(reader) == b""
        writer.close()


async def test_a_kept_alive_connection_outlives_the_head_timeout_and_ends_with_the_idle_timeout() -> None:
    """Between requests another, longer time counts."""
    async with http_server(House(), header_timeout_seconds=0.05, idle_timeout_seconds=0.4) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.bound[0][1])
        request = head("POST", "/v1/traces", POST | {"Content-Length": "2"}) + b"{}"
        writer.write(request)
        assert (await read_reply(reader)).code == 200
        with pytest.raises(TimeoutError):
            await _closed(reader, within=0.15)
        writer.write(request)
        assert (await read_reply(reader)).code == 200
        assert await _closed(reader) == b""
        writer.close()


async def test_a_body_that_stops_is_answered_408_and_given_back(caplog: pytest.LogCaptureFixture) -> None:
    """The client hears why, its bytes are free again, and the log is quiet."""
    house = House()
    async with http_server(house, body_window_seconds=0.1) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.bound[0][1])
        writer.write(head("POST", "/v1/traces", POST) + b"half a body")
        reply = await read_reply(reader)
        assert await _closed(reader) == b""
        writer.close()
    assert reply.code == 408
    assert "more slowly" in reply.status.message
    [seen] = house.seen
    assert (seen.outcome, seen.reason) == (Outcome.REFUSED, "timed_out")
    assert house.budget.held() == 0
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


async def test_a_slow_body_that_goes_on_is_read_to_its_end() -> None:
    """Progress counts, not the whole time: a body may take many windows as long as each brings enough."""
    house = House()
    async with http_server(house, body_window_seconds=0.05, body_bytes_per_second=100) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.bound[0][1])
        writer.write(head("POST", "/v1/traces", POST))
        for _ in range(20):
            await asyncio.sleep(0.01)
            writer.write(bytes(50))
        assert (await read_reply(reader)).code == 200
        writer.close()
    assert len(house.got[0][1]) == 1_000


async def test_half_open_connections_do_not_keep_a_good_client_out() -> None:
    """Two hundred half heads: a good request is answered among them, and afterwards all of them are closed."""
    house = House()
    async with http_server(house, header_timeout_seconds=0.3) as server:
        port = server.bound[0][1]
        held = await asyncio.gather(*(asyncio.open_connection("127.0.0.1", port) for _ in range(200)))
        for _, writer in held:
            writer.write(b"POST /v1/traces HTTP/1.1\r\n")
        assert (await http_call(port, b"request")).code == 200
        assert await asyncio.gather(*(_closed(reader) for reader, _ in held)) == [b""] * 200
        for _, writer in held:
            writer.close()


async def test_a_silent_connection_to_the_grpc_port_is_closed() -> None:
    """GRPC's own handshake timeout is two minutes; ours is seconds."""
    async with grpc_server(House(), handshake_timeout_seconds=0.2) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.bound[0][1])
        await _closed(reader)
        writer.close()
