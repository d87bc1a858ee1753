"""Send bodies as exporters do, several at once, and keep the books of the answers.

gRPC goes through grpcio's own client, which Python's exporters use: over four connections, without (de)serializers. HTTP goes over
raw kept-alive connections with one request at a time each, for about 20 us a request, so that the daemon is what limits.
An answer counts when it says full success: gRPC OK or HTTP 200, with an empty ExportTraceServiceResponse.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import grpc

EXPORT: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
CONNECTIONS: Final = 4  #: of gRPC
PATIENCE_SECONDS: Final = 60.0  #: for one answer


@dataclass
class Sent:
    """What became of the requests."""

    accepted: int = 0
    wall_seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)  #: seconds, of accepted ones
    problems: Counter[str] = field(default_factory=Counter)  #: what was answered instead -> how often

    def answer(self, problem: str, seconds: float) -> None:
        if problem:
            self.problems[problem] += 1
        else:
            self.accepted += 1
            self.latencies.append(seconds)


def send_grpc(port: int, bodies: Sequence[bytes], *, in_flight: int) -> Sent:
    """Every body to 127.0.0.1:port, `in_flight` at once."""
    sent, slots, lock = Sent(), threading.Semaphore(in_flight), threading.Lock()
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
    channels = [grpc.insecure_channel(f"127.0.0.1:{port}", options=options) for _ in range(CONNECTIONS)]
    calls: list[Any] = [channel.unary_unary(EXPORT) for channel in channels]

    def answered(begun: float, future: Any) -> None:
        code = future.code()
        problem = f"{code.name}: {future.details()}" if code is not grpc.StatusCode.OK else _rejected(future.result())
        with lock:
            sent.answer(problem, time.perf_counter() - begun)
        slots.release()

    begin = time.perf_counter()
    try:
        for number, body in enumerate(bodies):
            slots.acquire()
            begun = time.perf_counter()
            future = calls[number % CONNECTIONS].future(body, timeout=PATIENCE_SECONDS)
            future.add_done_callback(partial(answered, begun))
        for _ in range(in_flight):
            slots.acquire()
        sent.wall_seconds = time.perf_counter() - begin
    finally:
        for channel in channels:
            channel.close()
    return sent


def send_http(port: int, bodies: Sequence[bytes], *, in_flight: int) -> Sent:
    """Every body to http://127.0.0.1:port/v1/traces, over `in_flight` connections."""
    return asyncio.run(_send_http(port, bodies, in_flight))


async def _send_http(port: int, bodies: Sequence[bytes], in_flight: int) -> Sent:
    sent, rest, loop = Sent(), iter(bodies), asyncio.get_running_loop()
    begin = time.perf_counter()
    lines = [await loop.create_connection(lambda: _Line(port, rest, sent), "127.0.0.1", port) for _ in range(in_flight)]
    await asyncio.gather(*(line.done for _, line in lines))
    sent.wall_seconds = time.perf_counter() - begin
    return sent


class _Line(asyncio.Protocol):
    """One connection: takes the next body once the last one is answered."""

    def __init__(self, port: int, bodies: Iterator[bytes], sent: Sent) -> None:
        head = f"POST /v1/traces HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/x-protobuf\r\nContent-Length: %d\r\n\r\n"
        self._head = head.encode()
        self._bodies = bodies
        self._sent = sent
        self._answer = b""
        self._begun = 0.0
        self._waiting = False
        self._transport: asyncio.WriteTransport | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport
        self._next()

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, found, body = self._answer.partition(b"\r\n\r\n")
        if not found:
            return
        length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
        if len(body) < length:
            return
        status = head.split(b" ", 2)[1].decode()
        self._waiting, self._answer = False, b""
        problem = f"HTTP {status}: {body[:200]!r}" if status != "200" else _rejected(body)
        self._sent.answer(problem, time.perf_counter() - self._begun)
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiting:
            self._sent.answer(f"the connection was lost: {exc}", 0.0)
        if not self.done.done():
            self.done.set_result(None)

    def _next(self) -> None:
        assert self._transport is not None
        body = next(self._bodies, None)
        if body is None:
            self._transport.close()
            return
        self._waiting, self._begun = True, time.perf_counter()
        self._transport.writelines((self._head % len(body), body))


def _rejected(answer: bytes) -> str:
    return "" if not answer else f"partial success: {answer[:200]!r}"
