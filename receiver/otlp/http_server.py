"""OTLP over HTTP/1.1: POST /v1/traces, protobuf and JSON on one port, chosen by `Content-Type`.

What headers say is judged before a byte of the body is read: path, method, credential, encoding, announced size, room in the budget.
aiohttp parses HTTP; routing, limits, inflation and every body of an answer are ours, since the OTLP spec wants a `google.rpc.Status` in
the request's own encoding for every 4xx and 5xx, and a framework's own errors are text.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aiohttp import web
from aiohttp.web import RequestPayloadError

from receiver.config.endpoint import Endpoint
from receiver.errors import ExportTooLarge, MalformedExport, UnsupportedEncoding
from receiver.otlp.export import HTTP, Encoding, Export, Outcome, WireObserver
from receiver.otlp.http_connection import BodyBroken, BodyStalled, Connection, Connections
from receiver.otlp.inflate import inflate
from receiver.otlp.listen import close_all, open_sockets
from receiver.otlp.preface import WrongProtocol, http1_goodbye
from receiver.otlp.signals import OTHER_PATHS, OtherSignals
from receiver.otlp.status import LengthRequired, MethodNotAllowed, NotServed, Refusal, Refusals, RequestTimedOut

if TYPE_CHECKING:
    import socket
    import ssl

    from receiver.clock import Clock

logger = logging.getLogger(__name__)

LOCALHOST_4318: Final = Endpoint("localhost", 4318)  #: IANA's port for OTLP/HTTP, on this machine alone
ENCODINGS: Final = {encoding.value: encoding for encoding in Encoding}
INFLATED: Final = frozenset({"gzip", "deflate"})  #: the OTLP spec asks for gzip; the Python SDK can send deflate
#: From so many bytes on a body is inflated in a thread: below, the hop costs more than the inflation (about 0.1 ms for 32 KiB).
INFLATE_IN_THREAD_BYTES: Final = 32_768
#: Threads for inflation: also the bound of how many bodies can be over their reservation at one moment.
INFLATE_THREADS: Final = 2
SERVER: Final = "spantoll"  #: in place of the names and versions of what it is made of
TLS_SHUTDOWN_SECONDS: Final = 1.0  #: how long a TLS close is waited for


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpOptions:
    """How the OTLP/HTTP listener works; the names follow the collector's confighttp where it has one."""

    endpoint: Endpoint = LOCALHOST_4318
    traces_path: str = "/v1/traces"
    max_request_bytes: int = 64 * 1024 * 1024  #: of a body, on the wire and again after inflation (OTLP spec: 64 MiB)
    header_timeout_seconds: float = 10.0  #: from the first byte of a request (or the connection's start) to the end of its head
    body_window_seconds: float = 10.0  #: in each such time a body must bring ...
    body_bytes_per_second: float = 1_024.0  #: ... so much on average, or it is answered 408
    idle_timeout_seconds: float = 60.0  #: of a kept-alive connection between requests
    handshake_timeout_seconds: float = 5.0  #: of TLS
    max_connections: int = 1_024
    discard_other_signals: bool = False  #: accept and drop metrics and logs
    grpc_port: int = 4317  #: what the log names to a gRPC client that came here


class HttpServer:
    """The OTLP/HTTP listener. Start it, read `bound`, stop it with a grace; not to be started twice."""

    def __init__(
        self,
        options: HttpOptions,
        *,
        export: Export,
        observer: WireObserver,
        refusals: Refusals,
        clock: Clock,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """`ssl_context`: TLS; None listens in plain text."""
        self._options = options
        self._export = export
        self._observer = observer
        self._refusals = refusals
        self._clock = clock
        self._ssl_context = ssl_context
        self._others = OtherSignals(discard=options.discard_other_signals)
        self._wrong = WrongProtocol()
        self._connections: Connections | None = None
        self._listeners: list[asyncio.Server] = []
        self._inflating = ThreadPoolExecutor(INFLATE_THREADS, thread_name_prefix="inflate")
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopping = False
        self.bound: list[tuple[str, int]] = []  #: (address, port) of each socket once started

    async def start(self) -> None:
        """Listen. Raises CannotListen, with nothing left open."""
        options, loop = self._options, asyncio.get_running_loop()
        sockets = open_sockets(options.endpoint)
        self.bound = [each.getsockname()[:2] for each in sockets]
        self._connections = Connections(
            self._serve,
            loop=loop,
            malformed=self._malformed,
            foreign=self._foreign,
            max_connections=options.max_connections,
            header_timeout=options.header_timeout_seconds,
            idle_timeout=options.idle_timeout_seconds,
            body_window=options.body_window_seconds,
            body_rate=options.body_bytes_per_second,
        )
        try:
            for each in sockets:
                self._listeners.append(await self._listen(loop, each))
        except BaseException:
            close_all(sockets)
            self.bound = []
            raise
        self._connections.start_sweeping()

    async def stop(self, grace: float) -> None:
        """Take no new connection, answer what is under way, at most `grace` seconds long; harmless before `start` and when repeated."""
        self._stopping = True  # answers from now on close their connection
        for listener in self._listeners:
            listener.close()
        self._listeners = []
        connections, self._connections = self._connections, None
        if connections is None:
            return
        for connection in list(connections.live):
            if not connection.serving:
                connection.force_close()
        try:
            if self._under_way:
                await asyncio.wait_for(self._idle.wait(), grace)
        except TimeoutError:
            logger.warning("%d HTTP requests were still not answered when the grace of %g s ended", self._under_way, grace)
        connections.stop_sweeping()
        # Closing the transport (and not aiohttp's shutdown, which cancels handlers) lets an export that has begun end.
        for connection in list(connections.live):
            connection.force_close()
        self._inflating.shutdown(wait=False)

    async def _listen(self, loop: asyncio.AbstractEventLoop, bound: socket.socket) -> asyncio.Server:
        assert self._connections is not None
        if self._ssl_context is None:
            return await loop.create_server(self._connections, sock=bound)
        return await loop.create_server(
            self._connections,
            sock=bound,
            ssl=self._ssl_context,
            ssl_handshake_timeout=self._options.handshake_timeout_seconds,
            ssl_shutdown_timeout=TLS_SHUTDOWN_SECONDS,
        )

    # --- one request -------------------------------------------------------------------------------------------------------------

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request, whatever it is; never raises but for a client that has left."""
        self._under_way += 1
        if self._under_way == 1:
            self._idle.clear()
        call = _Call(self._clock.monotonic())
        try:
            response = await self._answer(request, call)
        except ConnectionError:
            call.outcome, call.reason = Outcome.ABANDONED, "incomplete"
            raise
        except asyncio.CancelledError:
            call.outcome, call.reason = Outcome.ABANDONED, "shutdown"
            raise
        except Exception as error:  # noqa: BLE001 -- Refusals.of logs what it does not know; nothing may become 500
            refusal = self._refusals.of(error)
            call.outcome, call.reason = Outcome.REFUSED, refusal.reason
            response = _refused(refusal, _answer_encoding(request))
            if request.content.exception() is not None:  # where this body ends nobody knows, so no request can follow it
                response.force_close()
        finally:
            if call.held:
                self._export.release(call.account, call.held)
            self._observer.request(
                transport=HTTP,
                outcome=call.outcome,
                reason=call.reason,
                wire_bytes=call.wire_bytes,
                body_bytes=call.body_bytes,
                seconds=self._clock.monotonic() - call.started,
            )
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()
        if self._stopping:
            response.force_close()
        return response

    async def _answer(self, request: web.BaseRequest, call: _Call) -> web.Response:
        """The straight way of one request: headers, body, inflation, export."""
        headers = request.headers
        path = request.raw_path.partition("?")[0]
        signal = None if path == self._options.traces_path else OTHER_PATHS.get(path)
        if signal is None and path != self._options.traces_path:
            raise NotServed(f"nothing is served at {path[:100]!r}: send traces to {self._options.traces_path}")
        if request.method != "POST":
            raise MethodNotAllowed(f"{request.method[:20]} is not served here: POST an OTLP export request")
        if signal is not None:
            self._others.meet(signal)
        call.account = self._export.admit(headers.get("Authorization"), transport=HTTP)
        encoding = _encoding(headers.get("Content-Type"))
        compression = headers.get("Content-Encoding", "identity").strip().lower()
        if compression != "identity" and compression not in INFLATED:
            raise UnsupportedEncoding(f"Content-Encoding {compression[:40]!r} is not known here: send gzip, deflate or identity")
        self._reserve_announced(request, call)
        chunks = await self._read(request, call)
        if compression == "identity":
            body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        else:
            body = await self._inflate(chunks, compression, call)
        chunks.clear()
        call.body_bytes = len(body)
        if signal is not None:
            call.outcome, call.reason = Outcome.DISCARDED, signal
            return _ok(b"" if encoding is Encoding.PROTOBUF else b"{}", encoding)
        answer = await self._export.export(call.account, body, encoding=encoding, transport=HTTP)
        call.outcome = Outcome.PARTIAL if answer.rejected_spans else Outcome.ACCEPTED
        return _ok(answer.encode(encoding), encoding)

    def _reserve_announced(self, request: web.BaseRequest, call: _Call) -> None:
        """Judge the announced size and hold it."""
        announced = request.content_length
        if announced is None:
            if "chunked" not in request.headers.get("Transfer-Encoding", "").lower():
                raise LengthRequired("the request does not say how long its body is: send Content-Length or Transfer-Encoding: chunked")
        elif announced > self._options.max_request_bytes:
            raise ExportTooLarge(what="bytes on the wire", found=announced, limit=self._options.max_request_bytes)
        else:
            self._hold(call, announced)

    async def _read(self, request: web.BaseRequest, call: _Call) -> list[bytes]:
        """The body as it stands on the wire."""
        content = request.content
        if request.headers.get("Expect", "").lower() == "100-continue" and not content.is_eof():
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0  # an interim answer is none yet; aiohttp's own handler of `Expect` does the same
        if content.is_eof():  # the whole body came with the head, as small ones do
            body = content.read_nowait(-1)
            self._count(call, len(body))
            return [body]
        connection = request.protocol
        assert isinstance(connection, Connection)
        chunks: list[bytes] = []
        connection.expect_body(content)
        try:
            while chunk := await content.readany():
                connection.body_bytes += len(chunk)
                self._count(call, len(chunk))
                chunks.append(chunk)
        except BodyStalled as error:
            window, rate = self._options.body_window_seconds, self._options.body_bytes_per_second
            raise RequestTimedOut(f"the body came more slowly than {rate:g} bytes a second over {window:g} s") from error
        except (BodyBroken, RequestPayloadError) as error:
            raise MalformedExport("the chunks of the body are no valid HTTP/1.1 (RFC 9112 7.1)") from error
        finally:
            connection.expect_body(None)
        return chunks

    def _count(self, call: _Call, size: int) -> None:
        """`size` more bytes came; raises before they would pass the limit of a request or of the budget."""
        call.wire_bytes += size
        if call.wire_bytes > self._options.max_request_bytes:
            raise ExportTooLarge(what="bytes on the wire", found=call.wire_bytes, limit=self._options.max_request_bytes)
        if call.wire_bytes > call.held:
            self._hold(call, call.wire_bytes)

    async def _inflate(self, chunks: list[bytes], compression: str, call: _Call) -> bytes:
        """The body after inflation; what it came to is held, in place of what came on the wire."""
        limit = self._options.max_request_bytes
        if call.wire_bytes < INFLATE_IN_THREAD_BYTES:
            body = inflate(chunks, limit=limit)
        else:
            if compression == "gzip":  # it ends with the length of its content: a client's word, enough to ask for room beforehand
                announced = int.from_bytes(b"".join(chunks[-4:])[-4:], "little")
                self._hold(call, min(max(announced, call.wire_bytes), limit))
            body = await asyncio.get_running_loop().run_in_executor(self._inflating, lambda: inflate(chunks, limit=limit))
        self._hold(call, len(body))
        return body

    def _hold(self, call: _Call, size: int) -> None:
        """Make `size` the bytes that this request holds."""
        if size > call.held:
            self._export.reserve(call.account, size - call.held)
        elif size < call.held:
            self._export.release(call.account, call.held - size)
        call.held = size

    # --- what is no request ------------------------------------------------------------------------------------------------------

    def _malformed(self, error: BaseException | None, message: str | None) -> web.StreamResponse:
        """Bytes that aiohttp could not parse as HTTP. Their encoding is unknown, so the answer is the one that people can read."""
        if error is not None and message is None:
            logger.error("an unexpected fault while an answer was written", exc_info=error)
        refusal = self._refusals.of(MalformedExport(f"this is no HTTP/1.1 request: {message or 'the connection is out of step'}"))
        self._observer.request(transport=HTTP, outcome=Outcome.REFUSED, reason=refusal.reason, wire_bytes=0, body_bytes=0, seconds=0.0)
        response = _refused(refusal, Encoding.JSON)
        response.force_close()
        return response

    def _foreign(self, spoken: str, peer: str) -> bytes:
        """A connection that speaks another protocol: named in the log, counted, and told in its own words."""
        port = self.bound[0][1]
        self._observer.wrong_protocol(transport=HTTP, spoken=spoken)
        if spoken == "tls":
            self._wrong.tell(
                f"a TLS client at {peer} speaks to the OTLP/HTTP port {port}, which is plain text: use http:// or set otlp.http.tls", peer
            )
            return b"\x15\x03\x01\x00\x02\x02\x46"  # a fatal alert, protocol_version (RFC 8446 6)
        advice = f"use port {self._options.grpc_port}, or set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"
        self._wrong.tell(f"an OTLP/gRPC client at {peer} speaks to the OTLP/HTTP port {port}: {advice}", peer)
        return http1_goodbye(f"this is the OTLP/HTTP port {port}: {advice}")


class _Call:
    """What is known of a request while it is served."""

    __slots__ = ("account", "body_bytes", "held", "outcome", "reason", "started", "wire_bytes")

    def __init__(self, started: float) -> None:
        self.started = started
        self.account = ""
        self.held = 0  #: bytes reserved for it
        self.wire_bytes = 0
        self.body_bytes = 0
        self.outcome = Outcome.ACCEPTED
        self.reason = ""


def _encoding(content_type: str | None) -> Encoding:
    """The encoding that a request names; its parameters (charset) change nothing."""
    encoding = ENCODINGS.get(_base(content_type))
    if encoding is None:
        raise UnsupportedEncoding(
            f"Content-Type {(content_type or 'none')[:80]!r} is not known here: send application/x-protobuf or application/json"
        )
    return encoding


def _answer_encoding(request: web.BaseRequest) -> Encoding:
    """How a refusal is written: as the request was, and in JSON where it named neither, since then a person may be reading."""
    return ENCODINGS.get(_base(request.headers.get("Content-Type")), Encoding.JSON)


def _base(content_type: str | None) -> str:
    return (content_type or "").partition(";")[0].strip().lower()


def _ok(body: bytes, encoding: Encoding) -> web.Response:
    return web.Response(body=body, headers={"Content-Type": encoding.value, "Server": SERVER})


def _refused(refusal: Refusal, encoding: Encoding) -> web.Response:
    headers = {"Content-Type": encoding.value, "Server": SERVER}
    if refusal.retry_after is not None:
        headers["Retry-After"] = refusal.retry_after
    if refusal.http == 401:
        headers["WWW-Authenticate"] = "Bearer"  # RFC 9110 15.5.2: a 401 names the scheme
    elif refusal.http == 405:
        headers["Allow"] = "POST"  # RFC 9110 15.5.6
    elif refusal.http == 415:
        headers["Accept-Encoding"] = "gzip, deflate, identity"  # RFC 9110 15.5.16
    return web.Response(status=refusal.http, reason=refusal.reason_phrase, body=refusal.body(encoding), headers=headers)
