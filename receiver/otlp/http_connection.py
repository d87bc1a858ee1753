"""The life of one HTTP connection: the time limits that aiohttp has none of, and what to do with bytes that are no HTTP.

A connection is waiting (for the first byte of a request: aiohttp's keep-alive timer closes it), in a head (bounded here), in a body
(bounded here by progress: a body may be slow, not stalled), or answering. One sweep looks at all connections a few times in each limit,
so a request pays two attribute writes and no timer.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final, TypeVar

from aiohttp import web

from receiver.otlp.preface import spoken

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.http_parser import RawRequestMessage
    from aiohttp.streams import StreamReader

logger = logging.getLogger(__name__)

T = TypeVar("T")

SWEEPS_A_LIMIT: Final = 4  #: a limit is kept to within a quarter of itself
MAX_LINE_BYTES: Final = 8_190  #: of the request line and of one header, trailers included; room for an 8 KB key
MAX_HEADERS: Final = 64  #: exporters send about ten
#: After a refusal the rest of a body is read and dropped for so long: closing at once would destroy the answer on its way (RFC 9112 9.6).
LINGER_SECONDS: Final = 2.0
#: At most so often a line about connections over the limit is logged.
FULL_LOG_SECONDS: Final = 60.0


class BodyStalled(TimeoutError):
    """Set into a body's stream by the sweep. A TimeoutError, which aiohttp expects from a stream that it drains."""


class BodyBroken(TimeoutError):
    """Set into a body's stream whose chunks are no HTTP: aiohttp only queues an error for the time after, so the reader would wait on."""


class Connection(web.RequestHandler):
    """One connection, as aiohttp's protocol plus what the sweep looks at."""

    __slots__ = ("body", "body_bytes", "body_since", "fresh", "head_since", "serving", "waiting")

    def __init__(self, server: Connections, **settings: Any) -> None:
        super().__init__(server, loop=server.loop, **settings)
        self.fresh = True  #: no byte has come yet
        self.serving = False  #: from the end of a head until its answer is written
        self.head_since: float | None = None  #: loop time since which a head is awaited; None: none is
        self.waiting: asyncio.Future[Any] | None = None  #: what a handler waits for only as long as the client does
        self.body: StreamReader | None = None  #: the body that a handler is reading
        self.body_since = 0.0  #: loop time of the last look at its progress
        self.body_bytes = 0  #: bytes of it since then

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The time for the first head begins."""
        super().connection_made(transport)
        self.head_since = self._loop.time()
        server = self._manager
        assert isinstance(server, Connections)
        if not server.open(self):
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """One connection fewer."""
        server = self._manager
        super().connection_lost(exc)
        if self.waiting is not None:
            self.waiting.cancel()
        if isinstance(server, Connections):
            server.closed(self)

    def data_received(self, data: bytes) -> None:
        """Bytes came: look at the very first, and at when a head began."""
        if self.head_since is None and not self.serving and data:
            self.head_since = self._loop.time()
        if self.fresh and data:
            self.fresh = False
            foreign = spoken(data)
            if foreign is not None:
                self._turn_away(foreign)
                return
        super().data_received(data)
        if self.body is not None and self._messages and not self.body.is_eof():  # no next request begins before this body ends
            self.body.set_exception(BodyBroken())
            self.body = None

    def begin(self) -> None:
        """A head is complete."""
        self.serving = True
        self.head_since = None

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Write the answer; from then on the next head is awaited."""
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self.serving = False

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002 -- aiohttp's signature
        status: int = 500,  # noqa: ARG002 -- aiohttp's signature
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is no HTTP request at all (aiohttp's own answer would be text/plain)."""
        server = self._manager
        if not isinstance(server, Connections):
            raise ConnectionError("the client has left")  # what aiohttp takes for a broken connection
        return server.malformed(exc, message)

    async def while_there(self, work: Awaitable[T]) -> T:
        """What `work` returns. It is cancelled when the client leaves, which is a ConnectionError: there is nobody to answer."""
        waiting: asyncio.Future[T] = asyncio.ensure_future(work)
        self.waiting = waiting
        if self.transport is None:  # it left before
            waiting.cancel()
        try:
            return await waiting
        except asyncio.CancelledError:
            if self.transport is None:
                raise ConnectionError("the client has left") from None
            raise
        finally:
            self.waiting = None

    def expect_body(self, body: StreamReader | None) -> None:
        """A handler begins to wait for a body, or has it (None)."""
        self.body = body
        self.body_since = self._loop.time()
        self.body_bytes = 0

    def sweep(self, now: float, *, header_timeout: float, body_window: float, body_rate: float) -> None:
        """Close the connection, or fail the read of its body, when a limit has passed."""
        if self.head_since is not None and now - self.head_since >= header_timeout:
            logger.debug("closed a connection from %s: no whole request head within %g s", self.peername, header_timeout)
            self.force_close()
        elif self.body is not None and now - self.body_since >= body_window:
            if self.body_bytes < body_rate * (now - self.body_since):
                self.body.set_exception(BodyStalled())
                self.body = None
            else:
                self.body_since, self.body_bytes = now, 0

    def _turn_away(self, foreign: str) -> None:
        server = self._manager
        assert isinstance(server, Connections)
        peer = self.peername
        goodbye = server.foreign(foreign, str(peer[0]) if isinstance(peer, tuple) else str(peer))
        if self.transport is not None:
            self.transport.write(goodbye)
        self.force_close()


class Connections(web.Server):
    """All connections of the HTTP listener, and the sweep over them."""

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        *,
        loop: asyncio.AbstractEventLoop,
        malformed: Callable[[BaseException | None, str | None], web.StreamResponse],
        foreign: Callable[[str, str], bytes],
        max_connections: int,
        header_timeout: float,
        idle_timeout: float,
        body_window: float,
        body_rate: float,
    ) -> None:
        """`malformed` answers what is no HTTP, `foreign(spoken, peer)` gives the bytes that end a connection of another protocol."""
        super().__init__(handler, request_factory=self._request)
        self.loop = loop
        self.malformed = malformed
        self.foreign = foreign
        self.live: set[Connection] = set()
        self._max_connections = max_connections
        self._limits = {"header_timeout": header_timeout, "body_window": body_window, "body_rate": body_rate}
        self._interval = min(header_timeout, body_window) / SWEEPS_A_LIMIT
        self._timer: asyncio.TimerHandle | None = None
        self._said_full = -FULL_LOG_SECONDS
        self._settings = {
            "keepalive_timeout": idle_timeout,
            "access_log": None,
            "auto_decompress": False,  # else bodies are inflated without a limit of ours, and an unknown encoding is answered in text/plain
            "max_line_size": MAX_LINE_BYTES,
            "max_field_size": MAX_LINE_BYTES,
            "max_headers": MAX_HEADERS,
            "lingering_time": LINGER_SECONDS,
        }

    def __call__(self) -> Connection:
        """What asyncio calls for each accepted connection."""
        return Connection(self, **self._settings)

    def start_sweeping(self) -> None:
        """Keep the time limits until `stop_sweeping`."""
        self._timer = self.loop.call_later(self._interval, self._sweep)

    def stop_sweeping(self) -> None:
        """No limit is kept any more."""
        if self._timer is not None:
            self._timer.cancel()

    def open(self, connection: Connection) -> bool:
        """Count a new connection in; False when there are too many."""
        if len(self.live) >= self._max_connections:
            now = self.loop.time()
            if now - self._said_full >= FULL_LOG_SECONDS:
                self._said_full = now
                logger.warning("all %d HTTP connections are taken: further ones are closed at once", self._max_connections)
            return False
        self.live.add(connection)
        return True

    def closed(self, connection: Connection) -> None:
        """Count a connection out."""
        self.live.discard(connection)

    def _request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: web.RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> web.BaseRequest:
        assert isinstance(protocol, Connection)
        protocol.begin()
        return web.BaseRequest(message, payload, protocol, writer, task, self.loop)

    def _sweep(self) -> None:
        now = self.loop.time()
        for connection in list(self.live):
            connection.sweep(now, **self._limits)
        self._timer = self.loop.call_later(self._interval, self._sweep)
