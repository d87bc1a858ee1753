"""A house behind the wire that records what reached it, and clients that show every detail of an answer."""

from __future__ import annotations

import asyncio
import gzip
import random
import zlib
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from google.protobuf import json_format
from google.rpc import error_details_pb2, status_pb2
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded, StreamReset, TrailersReceived

from receiver.access.keys import Keys, hash_key
from receiver.clock import SystemClock
from receiver.config.endpoint import Endpoint
from receiver.core.admission import InFlight
from receiver.errors import AccountDisabled, CreditExhausted, CreditHeld, MalformedExport, Overloaded
from receiver.otlp.export import Answer, Encoding, Outcome
from receiver.otlp.grpc_server import GrpcOptions, GrpcServer
from receiver.otlp.http_server import HttpOptions, HttpServer
from receiver.otlp.status import Refusals

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
KEY = "spt_the-key-of-acme"
LIMIT = 200_000  #: bytes of a request in these tests
BAD = b"this is no export request"
LOCAL = Endpoint("127.0.0.1", 0)


@dataclass
class Seen:
    """One call of the observer."""

    transport: str
    outcome: Outcome
    reason: str
    wire_bytes: int
    body_bytes: int
    seconds: float


@dataclass
class House:
    """Export and WireObserver in one: what a test sets here is what the wire meets."""

    keys: Keys = field(default_factory=Keys)
    budget: InFlight = field(default_factory=lambda: InFlight(1 << 30))
    refuse: Exception | None = None  #: raised on headers
    fault: Exception | None = None  #: raised by export
    answer: Answer = field(default_factory=Answer)
    gate: asyncio.Event | None = None  #: export waits for it
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    got: list[tuple[str, bytes, Encoding, str]] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    foreign: list[tuple[str, str]] = field(default_factory=list)
    counted: asyncio.Condition = field(default_factory=asyncio.Condition)

    def admit(self, authorization: str | None, *, transport: str) -> str:  # noqa: ARG002 -- the protocol's signature
        if self.refuse is not None:
            raise self.refuse
        return self.keys.account(authorization)

    def reserve(self, account: str, size: int) -> None:
        self.budget.reserve(account, size)

    def release(self, account: str, size: int) -> None:
        self.budget.release(account, size)

    async def export(self, account: str, body: bytes, *, encoding: Encoding, transport: str) -> Answer:
        self.entered.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        if body == BAD:
            raise MalformedExport("the body is no OTLP export request")
        self.got.append((account, body, encoding, transport))
        return self.answer

    def request(self, *, transport: str, outcome: Outcome, reason: str, wire_bytes: int, body_bytes: int, seconds: float) -> None:
        self.seen.append(Seen(transport, outcome, reason, wire_bytes, body_bytes, seconds))

    def wrong_protocol(self, *, transport: str, spoken: str) -> None:
        self.foreign.append((transport, spoken))

    async def until_held(self) -> None:
        """Wait until a request holds bytes: the server has begun to read it."""
        async with asyncio.timeout(30):
            while not self.budget.held():  # noqa: ASYNC110 -- what is waited for is the server's state, which has no event
                await asyncio.sleep(0.005)

    async def until_seen(self, count: int = 1) -> list[Seen]:
        """Wait until `count` requests were observed (a client hears its answer a moment before or after)."""
        async with asyncio.timeout(30):
            while len(self.seen) < count:  # noqa: ASYNC110 -- as above
                await asyncio.sleep(0.005)
        return self.seen


@asynccontextmanager
async def grpc_server(house: House, *, credentials: grpc.ServerCredentials | None = None, **options: Any) -> AsyncIterator[GrpcServer]:
    options = {"endpoint": LOCAL, "max_request_bytes": LIMIT, **options}
    server = GrpcServer(
        GrpcOptions(**options),
        export=house,
        observer=house,
        refusals=Refusals(random.Random(7)),
        clock=SystemClock(),
        credentials=credentials,
    )
    await server.start()
    try:
        yield server
    finally:
        await server.stop(0.5)


@asynccontextmanager
async def http_server(house: House, *, ssl_context: ssl.SSLContext | None = None, **options: Any) -> AsyncIterator[HttpServer]:
    options = {"endpoint": LOCAL, "max_request_bytes": LIMIT, **options}
    server = HttpServer(
        HttpOptions(**options),
        export=house,
        observer=house,
        refusals=Refusals(random.Random(7)),
        clock=SystemClock(),
        ssl_context=ssl_context,
    )
    await server.start()
    try:
        yield server
    finally:
        await server.stop(0.5)


# --- what a client sees ------------------------------------------------------------------------------------------------------------


@dataclass
class Reply:
    """An answer on either transport."""

    code: int  #: HTTP status, or the number of the gRPC code
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    initial: dict[str, Any] = field(default_factory=dict)
    trailers: dict[str, Any] = field(default_factory=dict)
    message: str = ""

    @property
    def status(self) -> status_pb2.Status:
        """The google.rpc.Status of a refusal."""
        if "grpc-status-details-bin" in self.trailers:
            return status_pb2.Status.FromString(self.trailers["grpc-status-details-bin"])
        if self.headers["content-type"] == "application/json":
            return json_format.Parse(self.body, status_pb2.Status())
        assert self.headers["content-type"] == "application/x-protobuf"
        return status_pb2.Status.FromString(self.body)

    def detail(self, kind: type[Any]) -> Any:
        """The one detail of this type, or None."""
        found = [kind() for each in self.status.details if each.Is(kind.DESCRIPTOR)]
        for each in self.status.details:
            if each.Is(kind.DESCRIPTOR):
                each.Unpack(found[0])
        assert len(found) <= 1
        return found[0] if found else None

    @property
    def retry_info(self) -> float | None:
        """RetryInfo's delay in seconds."""
        info = self.detail(error_details_pb2.RetryInfo)
        return None if info is None else info.retry_delay.ToTimedelta().total_seconds()


async def grpc_call(
    port: int, body: bytes, *, compression: str = "none", key: str | None = None, method: str = EXPORT, channel: Any = None
) -> Reply:
    """One unary call with grpcio's own client."""
    own = channel is None
    if own:
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.max_send_message_length", -1)])
    try:
        call = channel.unary_unary(method)(
            body,
            metadata=(("authorization", f"Bearer {key}"),) if key else None,
            compression=grpc.Compression.Gzip if compression == "gzip" else grpc.Compression.NoCompression,
            timeout=10,
        )
        try:
            answer, code, message = await call, grpc.StatusCode.OK, ""
        except grpc.aio.AioRpcError as error:
            answer, code, message = b"", error.code(), error.details() or ""
        return Reply(
            code.value[0],
            answer,
            initial=dict(await call.initial_metadata()),
            trailers=dict(await call.trailing_metadata()),
            message=message,
        )
    finally:
        if own:
            await channel.close()


def compressed(body: bytes, compression: str) -> bytes:
    return {"gzip": lambda: gzip.compress(body, 6), "deflate": lambda: zlib.compress(body), "none": lambda: body}[compression]()


async def http_call(
    port: int,
    body: bytes,
    *,
    content_type: str | None = "application/x-protobuf",
    compression: str = "none",
    key: str | None = None,
    method: str = "POST",
    path: str = "/v1/traces",
    headers: dict[str, str] | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> Reply:
    """One request on a connection of its own."""
    sent = {"Host": f"127.0.0.1:{port}", "Content-Length": str(len(compressed(body, compression)))}
    if content_type is not None:
        sent["Content-Type"] = content_type
    if compression != "none":
        sent["Content-Encoding"] = compression
    if key is not None:
        sent["Authorization"] = f"Bearer {key}"
    sent |= headers or {}
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=ssl_context, server_hostname="localhost" if ssl_context else None)
    try:
        writer.write(head(method, path, sent) + compressed(body, compression))
        return await read_reply(reader)
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


def head(method: str, path: str, headers: dict[str, str]) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items() if value), "", ""]
    return "\r\n".join(lines).encode()


async def read_reply(reader: asyncio.StreamReader) -> Reply:
    """One HTTP/1.1 answer with a Content-Length."""
    async with asyncio.timeout(30):
        top = (await reader.readuntil(b"\r\n\r\n")).decode()
        status, *lines = top.strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Reply(int(status.split()[1]), body, headers)


# --- raw HTTP/2 --------------------------------------------------------------------------------------------------------------------


class H2:
    """A gRPC client at the level of HTTP/2 frames: sends what no library would, and sees how an answer is framed."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.h2.initiate_connection()

    @classmethod
    async def connect(cls, port: int) -> H2:
        client = cls(*await asyncio.open_connection("127.0.0.1", port))
        client.flush()
        return client

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    def call(self, *messages: bytes, end: bool = True, encoding: str = "identity", key: str | None = None) -> None:
        """Begin the call on stream 1; each message is framed whole (compressed already where `encoding` says so)."""
        headers = [(":method", "POST"), (":scheme", "http"), (":path", EXPORT), (":authority", "localhost"), ("te", "trailers")]
        headers += [("content-type", "application/grpc"), ("grpc-encoding", encoding)]
        headers += [("authorization", f"Bearer {key}")] if key else []
        self.h2.send_headers(1, headers, end_stream=end and not messages)
        flag = b"\x00" if encoding == "identity" else b"\x01"
        for number, message in enumerate(messages, 1):
            framed = flag + len(message).to_bytes(4, "big") + message
            self.h2.send_data(1, framed, end_stream=end and number == len(messages))
        self.flush()

    async def answer(self) -> tuple[list[dict[str, str]], bytes]:
        """The header blocks of the answer in order, and its data."""
        blocks: list[dict[str, str]] = []
        data = b""
        async with asyncio.timeout(30):
            while received := await self.reader.read(65_536):
                for event in self.h2.receive_data(received):
                    if isinstance(event, ResponseReceived | TrailersReceived):
                        blocks.append(dict(event.headers))
                    elif isinstance(event, DataReceived):
                        data += event.data
                    elif isinstance(event, StreamEnded | StreamReset):
                        return blocks, data
                self.flush()
        return blocks, data

    async def close(self) -> None:
        self.writer.close()
        await asyncio.gather(self.writer.wait_closed(), return_exceptions=True)


# --- the minimum suite: what every transport and encoding must answer --------------------------------------------------------------


@dataclass(frozen=True)
class Scenario:
    """One row: what is sent, and how it must end."""

    name: str
    body: bytes
    grpc: grpc.StatusCode
    http: int
    outcome: Outcome
    reason: str
    retry: bool = False
    key: str | None = KEY

    def house(self) -> House:
        house = House(keys=Keys([("acme", hash_key(KEY))]))
        if self.name == "partial":
            house.answer = Answer(3, "3 spans were rejected: their trace_id is all zero")
        elif self.name == "memory":
            house.budget = InFlight(5)
        elif self.name == "disabled":
            house.refuse = AccountDisabled("acme")
        elif self.name == "exhausted":
            house.fault = CreditExhausted("no credit", account="acme", balance_msat=0, topup_url="http://127.0.0.1:8101/")
        elif self.name == "held":
            facts = {"account": "acme", "topup_url": "http://127.0.0.1:8101/"}
            house.refuse = CreditHeld("no credit yet", balance_msat=0, retry_after_seconds=30, **facts)
        elif self.name == "shutdown":
            house.refuse = Overloaded(reason="shutdown", retry_after_seconds=5)
        elif self.name == "internal fault":
            house.fault = ZeroDivisionError("a bug of ours that names a secret")
        return house


_NOISE = random.Random(7).randbytes(LIMIT + 1_000)  # gzip makes it no smaller
_OK = grpc.StatusCode.OK
SCENARIOS = [
    Scenario("ok", b"an export request", _OK, 200, Outcome.ACCEPTED, ""),
    Scenario("empty", b"", _OK, 200, Outcome.ACCEPTED, ""),
    Scenario("partial", b"an export request", _OK, 200, Outcome.PARTIAL, ""),
    Scenario("bad data", BAD, grpc.StatusCode.INVALID_ARGUMENT, 400, Outcome.REFUSED, "malformed"),
    Scenario("oversize raw", _NOISE, grpc.StatusCode.RESOURCE_EXHAUSTED, 413, Outcome.REFUSED, "too_large"),
    Scenario("oversize after gunzip", bytes(20 * LIMIT), grpc.StatusCode.RESOURCE_EXHAUSTED, 413, Outcome.REFUSED, "too_large"),
    Scenario("no key", b"an export request", grpc.StatusCode.UNAUTHENTICATED, 401, Outcome.REFUSED, "unauthenticated", key=None),
    Scenario("wrong key", b"an export request", grpc.StatusCode.UNAUTHENTICATED, 401, Outcome.REFUSED, "unauthenticated", key="spt_x"),
    Scenario("disabled", b"an export request", grpc.StatusCode.PERMISSION_DENIED, 403, Outcome.REFUSED, "account_disabled"),
    Scenario("exhausted", b"an export request", grpc.StatusCode.FAILED_PRECONDITION, 402, Outcome.REFUSED, "credit_exhausted"),
    Scenario("held", b"an export request", grpc.StatusCode.UNAVAILABLE, 503, Outcome.REFUSED, "credit_exhausted", retry=True),
    Scenario("memory", b"an export request", grpc.StatusCode.UNAVAILABLE, 503, Outcome.REFUSED, "memory", retry=True),
    Scenario("shutdown", b"an export request", grpc.StatusCode.UNAVAILABLE, 503, Outcome.REFUSED, "shutdown", retry=True),
    Scenario("internal fault", b"an export request", grpc.StatusCode.UNAVAILABLE, 503, Outcome.REFUSED, "internal", retry=True),
]
MATRIX = [(s, c) for s in SCENARIOS for c in ("none", "gzip") if not (s.name == "oversize after gunzip" and c == "none")]
MATRIX_IDS = [f"{s.name}-{c}" for s, c in MATRIX]
