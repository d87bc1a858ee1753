"""OTLP over gRPC: TraceService/Export on one or several addresses, the health service beside it.

`Export` is unary, but it is registered as *stream-unary* (the same bytes on the wire), because then the handler runs before the message
is read: a request is judged on its metadata, and what is refused stays in the client, stopped by HTTP/2 flow control. An export that has
begun is finished even when its client leaves, so that no half-stored state exists: the client did not hear of it and sends it again.

Two things happen inside gRPC's core, where no Python sees them. A message over the limit is answered there (RESOURCE_EXHAUSTED, as the
OTLP spec wants it), and to the handler it looks like a client that left: end of stream, then a cancellation without code or details. So
both are counted as abandoned. And the core owns the socket: an HTTP/1.1 client that came to this port is closed without a word. To name
it, every byte would have to pass through a socket of ours first, which would cost each right request for the sake of the wrong ones;
the HTTP port does name gRPC clients that came to it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2_grpc

from receiver.config.endpoint import Endpoint
from receiver.errors import ExportTooLarge, MalformedExport
from receiver.otlp.export import GRPC, Answer, Encoding, Export, Outcome, WireObserver
from receiver.otlp.health import Health
from receiver.otlp.listen import CannotListen, reserve_port, with_ports
from receiver.otlp.signals import OTHER_SERVICES, TRACES_SERVICE, OtherSignals
from receiver.otlp.status import Refusal, Refusals, RequestTimedOut

if TYPE_CHECKING:
    from receiver.clock import Clock

logger = logging.getLogger(__name__)

#: Held for a request whose message was not read yet: about what HTTP/2 flow control lets a client send ahead on one stream (64 KiB).
UNREAD_BYTES: Final = 65_536
#: gRPC's core answers a message over the limit by itself and then cancels the handler; all that the handler sees first is a stream
#: without a message. So long it waits for that cancellation before it takes the request for one that had no message at all.
CANCELLATION_PATIENCE_SECONDS: Final = 0.05

#: pygrpc-native closes its sockets at once when it stops, whatever it was just given to send: answers get this time to leave.
NATIVE_FLUSH_SECONDS: Final = 0.1
LOCALHOST_4317: Final = Endpoint("localhost", 4317)  #: IANA's port for OTLP/gRPC, on this machine alone

Body = Callable[[Any, str], Awaitable[bytes]]  #: how a message comes: out of the call's context, its bytes held for an account


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcOptions:
    """How the gRPC listener works; the names follow the collector's configgrpc where it has one."""

    endpoint: Endpoint = LOCALHOST_4317
    #: "aio" is grpcio's, "native" is pygrpc-native's. 0.5 of that reads and inflates a message whole before anything is asked: no limit
    #: of ours bounds a decompression bomb there, so the configuration allows it on loopback alone.
    server: str = "aio"
    max_request_bytes: int = 64 * 1024 * 1024  #: of one message, after inflation (OTLP spec: 64 MiB)
    read_timeout_seconds: float = 60.0  #: from the headers until the message is whole; SDKs give up after 10 s
    handshake_timeout_seconds: float = 5.0  #: TCP, TLS and HTTP/2 preface (gRPC's default of 120 s suits a slow-loris)
    max_connections: int = 1_024
    max_concurrent_streams: int = 100  #: calls at once on one connection; bounds what a rapid reset can start
    min_ping_interval_seconds: float = 10.0  #: clients' keepalive pings closer than this end their connection (gRPC's default: 5 min)
    max_connection_age_seconds: float | None = None  #: close connections of this age, so that load balancers can spread clients
    max_connection_age_grace_seconds: float = 10.0  #: how long calls may go on after that
    discard_other_signals: bool = False  #: accept and drop metrics and logs


class GrpcServer:
    """The gRPC listener. Start it, read `bound`, stop it with a grace; not to be started twice."""

    def __init__(
        self,
        options: GrpcOptions,
        *,
        export: Export,
        observer: WireObserver,
        refusals: Refusals,
        clock: Clock,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        """`credentials`: TLS; None listens in plain text."""
        self._options = options
        self._export = export
        self._observer = observer
        self._refusals = refusals
        self._clock = clock
        self._credentials = credentials
        self._others = OtherSignals(discard=options.discard_other_signals)
        self._health: Health | None = None
        self._servers: list[Any] = []  # grpc.aio.Server, or pygrpc-native's with the same interface
        self._exporting: set[asyncio.Task[Answer | Refusal]] = set()
        self.bound: list[tuple[str, int]] = []  #: (address, port) of each socket once started

    async def start(self) -> None:
        """Listen. Raises CannotListen, with nothing left open; health says NOT_SERVING until `set_serving`."""
        self._health = Health()
        make = self._native_servers if self._options.server == "native" else self._grpcio_servers
        servers, self.bound = with_ports(self._options.endpoint, make)
        try:
            for server in servers:
                await server.start()
        except BaseException:
            for server in servers:
                await server.stop(None)
            self.bound = []
            raise
        self._servers = servers

    async def set_serving(self, serving: bool) -> None:
        """What the health service answers. Whether a request is taken is `Export.admit`'s to say."""
        if self._health is not None:
            await self._health.set_serving(serving)

    async def stop(self, grace: float) -> None:
        """Take no new connection, answer what is under way, at most `grace` seconds long; harmless before `start` and when repeated."""
        if self._health is not None:
            await self._health.close()
        servers, self._servers = self._servers, []
        if servers and self._options.server == "native":
            if self._exporting:
                await asyncio.wait(self._exporting, timeout=grace)
            await asyncio.sleep(NATIVE_FLUSH_SECONDS)
        await asyncio.gather(*(server.stop(grace) for server in servers))
        if self._exporting:  # their clients are gone, but what has begun ends
            _, unfinished = await asyncio.wait(self._exporting, timeout=grace)
            if unfinished:
                logger.warning("%d exports were still not stored when the grace of %g s ended", len(unfinished), grace)

    # --- one request -------------------------------------------------------------------------------------------------------------

    async def _traces(self, read: Body, context: Any) -> bytes:
        """One Export call, however its message is read."""
        started = self._clock.monotonic()
        body, account = await self._begun(read, context, started)
        task = asyncio.get_running_loop().create_task(self._store(account, body, started))
        del body  # see `_refuse`
        self._exporting.add(task)
        task.add_done_callback(self._exporting.discard)
        result = await asyncio.shield(task)
        if isinstance(result, Refusal):
            await _refuse(context, result)
        return result.encode(Encoding.PROTOBUF)

    async def _begun(self, read: Body, context: Any, started: float, signal: str | None = None) -> tuple[bytes, str]:
        """The message of a call, and its account; or the refusal. `signal`: another than traces."""
        try:
            if signal is not None:
                self._others.meet(signal)
            account = self._export.admit(_authorization(context), transport=GRPC)
            return await read(context, account), account
        except asyncio.CancelledError:
            self._observe(Outcome.ABANDONED, "incomplete", 0, started)
            raise
        except Exception as error:  # noqa: BLE001 -- Refusals.of logs what it does not know; nothing may become UNKNOWN
            refusal = self._refusals.of(error)
        self._observe(Outcome.REFUSED, refusal.reason, 0, started)
        await _refuse(context, refusal)
        raise AssertionError("unreachable: the refusal raises")

    async def _store(self, account: str, body: bytes, started: float) -> Answer | Refusal:
        """Runs to its end whatever becomes of the call, and gives the held bytes back."""
        result: Answer | Refusal
        try:
            result = await self._export.export(account, body, encoding=Encoding.PROTOBUF, transport=GRPC)
        except Exception as error:  # noqa: BLE001 -- as above
            result = self._refusals.of(error)
            self._observe(Outcome.REFUSED, result.reason, len(body), started)
        else:
            self._observe(Outcome.PARTIAL if result.rejected_spans else Outcome.ACCEPTED, "", len(body), started)
        finally:
            self._export.release(account, max(UNREAD_BYTES, len(body)))
        return result

    async def _other_signal(self, signal: str, read: Body, context: Any) -> bytes:
        """Metrics or logs: refused, or read and dropped (an acknowledgement of what was not read would not be true)."""
        started = self._clock.monotonic()
        body, account = await self._begun(read, context, started, signal)
        self._export.release(account, max(UNREAD_BYTES, len(body)))
        self._observe(Outcome.DISCARDED, signal, len(body), started)
        return b""

    async def _read(self, context: Any, account: str) -> bytes:
        """The one message of the call. Holds max(UNREAD_BYTES, its size) bytes when it returns, nothing when it raises.

        That no second one follows is not asked: no gRPC library can send it in a unary call, grpcio's own unary servers do not look
        either, and asking costs every request a twelfth (a second read 22 us, iterating over the messages 28, of 270 measured).
        """
        self._export.reserve(account, UNREAD_BYTES)
        held = UNREAD_BYTES
        try:
            try:
                async with asyncio.timeout(self._options.read_timeout_seconds):
                    body = await context.read()
                    if body is grpc.aio.EOF:
                        await asyncio.sleep(CANCELLATION_PATIENCE_SECONDS)
                        raise MalformedExport("the call holds no message: a unary client sends exactly one")
            except TimeoutError as error:
                raise RequestTimedOut(
                    f"the message did not come within {self._options.read_timeout_seconds:g} s: send smaller batches"
                ) from error
            if len(body) > held:
                self._export.reserve(account, len(body) - held)
                held = len(body)
        except BaseException:
            self._export.release(account, held)
            raise
        return bytes(body)

    def _observe(self, outcome: Outcome, reason: str, size: int, started: float) -> None:
        self._observer.request(
            transport=GRPC, outcome=outcome, reason=reason, wire_bytes=size, body_bytes=size, seconds=self._clock.monotonic() - started
        )

    # --- the two servers ---------------------------------------------------------------------------------------------------------

    def _grpcio_servers(self, endpoint: Endpoint) -> tuple[list[Any], list[tuple[str, int]]]:
        """One grpc.aio server on all addresses."""
        options = self._options
        settings: list[tuple[str, int]] = [
            ("grpc.max_receive_message_length", options.max_request_bytes),
            ("grpc.so_reuseport", 0),  # else a second daemon on this port succeeds silently and takes half of the traffic
            ("grpc.server_handshake_timeout_ms", _milliseconds(options.handshake_timeout_seconds)),
            ("grpc.http2.min_ping_interval_without_data_ms", _milliseconds(options.min_ping_interval_seconds)),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.max_concurrent_streams", options.max_concurrent_streams),
            ("grpc.max_allowed_incoming_connections", options.max_connections),
        ]
        if options.max_connection_age_seconds is not None:
            settings.append(("grpc.max_connection_age_ms", _milliseconds(options.max_connection_age_seconds)))
            settings.append(("grpc.max_connection_age_grace_ms", _milliseconds(options.max_connection_age_grace_seconds)))
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        handlers[f"/{TRACES_SERVICE}/Export"] = grpc.stream_unary_rpc_method_handler(self._streamed(self._traces))
        for service, signal in OTHER_SERVICES.items():
            handlers[f"/{service}/Export"] = grpc.stream_unary_rpc_method_handler(self._streamed(self._other(signal)))
        server = grpc.aio.server(handlers=[_Handlers(handlers)], options=settings)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        addresses, port = reserve_port(endpoint)
        for address in addresses:
            self._add_port(server, address, port)
        return [server], [(address, port) for address in addresses]

    def _native_servers(self, endpoint: Endpoint) -> tuple[list[Any], list[tuple[str, int]]]:
        """One pygrpc-native server an address: it takes one port each, and its handlers must be registered and unary to be served by it."""
        aio = _pygrpc_native()
        options = self._options
        if self._credentials is not None:
            raise CannotListen('otlp.grpc.server = "native" speaks no TLS: set it to "aio", or let a proxy end TLS before it')
        settings = [
            ("grpc.max_receive_message_length", -1),  # judged in `_whole`, so that the answer and the count are ours
            ("grpc.so_reuseport", 0),
            ("grpc.max_concurrent_streams", options.max_concurrent_streams),
            ("grpc.keepalive_permit_without_calls", 1),
        ]
        addresses, port = reserve_port(endpoint)
        servers = []
        for address in addresses:
            server = aio.server(options=settings)
            register = server.add_registered_method_handlers
            register(TRACES_SERVICE, {"Export": grpc.unary_unary_rpc_method_handler(self._whole(self._traces))})
            for service, signal in OTHER_SERVICES.items():
                register(service, {"Export": grpc.unary_unary_rpc_method_handler(self._whole(self._other(signal)))})
            health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
            self._add_port(server, address, port)
            servers.append(server)
        return servers, [(address, port) for address in addresses]

    def _add_port(self, server: Any, address: str, port: int) -> None:
        where = str(Endpoint(address, port))
        try:
            got = server.add_secure_port(where, self._credentials) if self._credentials is not None else server.add_insecure_port(where)
        except RuntimeError as error:
            raise CannotListen(f"cannot listen on {where}: the port was taken a moment ago; start again or set another endpoint") from error
        if got != port:
            raise CannotListen(f"cannot listen on {where}")

    def _other(self, signal: str) -> Callable[[Body, Any], Awaitable[bytes]]:
        return lambda read, context: self._other_signal(signal, read, context)

    def _streamed(self, handle: Callable[[Body, Any], Awaitable[bytes]]) -> Callable[[Any, Any], Awaitable[bytes]]:
        """As a stream-unary handler: the message is read when the request was admitted."""

        async def export(_messages: Any, context: Any) -> bytes:
            return await handle(self._read, context)

        return export

    def _whole(self, handle: Callable[[Body, Any], Awaitable[bytes]]) -> Callable[[bytes, Any], Awaitable[bytes]]:
        """As a unary handler: the message was read (and inflated) before anything could be judged."""
        limit = self._options.max_request_bytes

        async def export(body: bytes, context: Any) -> bytes:
            async def read(_context: Any, account: str) -> bytes:
                if len(body) > limit:
                    raise ExportTooLarge(what="bytes after inflation", found=len(body), limit=limit)
                self._export.reserve(account, max(UNREAD_BYTES, len(body)))
                return body

            return await handle(read, context)

        return export


class _Handlers(grpc.GenericRpcHandler):
    """The methods by path, without (de)serializers: handlers get and give bytes."""

    def __init__(self, handlers: dict[str, grpc.RpcMethodHandler[Any, Any]]) -> None:
        self._handlers = handlers

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        return self._handlers.get(handler_call_details.method)


def _pygrpc_native() -> Any:
    try:
        import pygrpc_native.aio  # noqa: PLC0415 -- an optional extra, imported by explicit choice only
    except ImportError as error:
        raise CannotListen(
            'otlp.grpc.server = "native" needs the package pygrpc-native: install spantoll[fast], or set it to "aio"'
        ) from error
    return pygrpc_native.aio


async def _refuse(context: Any, refusal: Refusal) -> NoReturn:
    """Trailers-only, since no initial metadata was sent: Java's client reads a retryable status from the headers alone.

    What gRPC raises here it also keeps, with the frames of its traceback, in a circle that only the garbage collector opens. So no frame
    on the way may hold the message, and no exception that does may be the cause of this one: a refused message would outlive its call.
    """
    await context.abort(refusal.code, refusal.message, refusal.trailers)
    raise AssertionError("unreachable: abort raises")


def _authorization(context: Any) -> str | None:
    for key, value in context.invocation_metadata() or ():
        if key == "authorization":
            return str(value)
    return None


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1_000))
