"""One web listener: a table of routes behind a guard, on the house's own connections.

aiohttp parses HTTP and nothing else: its router answers in text/plain and knows no time limits, while here every error is JSON
and the connections are those of OTLP/HTTP, with their limits on slow heads and on their number.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from receiver.config import parse_endpoint
from receiver.errors import (
    AccountDisabled,
    Conflict,
    InvalidValue,
    NotFound,
    Overloaded,
    PaymentPending,
    PermissionDenied,
    ReceiverError,
    TooManyRequests,
    Unauthenticated,
)
from receiver.lightning.client import NodeRefused, NodeUnavailable, WrongInvoice
from receiver.lightning.topups import TopUpRefused
from receiver.otlp.http_connection import Connections
from receiver.otlp.listen import close_all, open_sockets
from receiver.store.backup import BackupFailed
from receiver.store.topups import PaymentHashTaken
from receiver.web.guard import READS, SECURITY_HEADERS, Guard, Refused
from receiver.web.request import Request, match

__all__ = ["Refused", "Request", "Route", "WebServer", "index", "json_response", "refusal_of", "response"]

if TYPE_CHECKING:
    import ssl

log = logging.getLogger(__name__)

HEADER_TIMEOUT_SECONDS: Final = 10.0  #: as OTLP/HTTP's default: a person's or a scraper's head comes in one packet
IDLE_TIMEOUT_SECONDS: Final = 120.0  #: longer than the usual scrape interval, so that Prometheus keeps its connection
HANDSHAKE_TIMEOUT_SECONDS: Final = 5.0
#: A scraper, a few people, probes. More are turned away, so that a flood here cannot eat the daemon's file descriptors.
MAX_CONNECTIONS: Final = 128
#: Below this a compressed answer is hardly smaller, and above it a scrape is ten times.
COMPRESS_FROM_BYTES: Final = 4_096

Handler = Callable[[Request], Awaitable[web.Response]]

#: How an error that a handler meets reads on the wire: (error, status, stable word). First match wins; what no row names is a fault
#: of ours. An error that carries a `reason` of its own says that instead of the word.
ERRORS: Final[tuple[tuple[type[ReceiverError], int, str], ...]] = (
    (InvalidValue, 400, "invalid_value"),
    (Unauthenticated, 401, "unauthenticated"),
    (AccountDisabled, 403, "account_disabled"),
    (PermissionDenied, 403, "permission_denied"),
    (NotFound, 404, "not_found"),
    (Conflict, 409, "conflict"),
    (BackupFailed, 422, "backup_failed"),
    (TopUpRefused, 422, "topup_refused"),
    (NodeRefused, 502, "node_refused"),
    (WrongInvoice, 502, "wrong_invoice"),
    (PaymentHashTaken, 502, "wrong_invoice"),
    (NodeUnavailable, 503, "node_unavailable"),
    (TooManyRequests, 429, "too_many_requests"),
    (PaymentPending, 402, ""),
    (Overloaded, 503, "overloaded"),
)
#: Before a request is tried again that met a node which does not answer: a node that restarts needs about as long.
NODE_RETRY_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Route:
    """One thing that can be asked for."""

    method: str  #: "GET" (which serves HEAD too and changes nothing), "POST" or "PATCH"
    path: str  #: a segment may be `{name}`, which stands for any one segment; one without goes before one with
    handler: Handler
    says: str  #: half a sentence for the index
    is_open: bool = False  #: asks for no key
    to_strangers: bool = False  #: asks for none either, but knows who it is where one is sent; `Request.account` is "" where none was


class WebServer:
    """Start it, read `bound`, stop it; not to be started twice."""

    def __init__(self, *, endpoint: str, routes: Sequence[Route], guard: Guard, ssl_context: ssl.SSLContext | None = None) -> None:
        """`endpoint`: "host:port", where localhost is both loopback addresses. `ssl_context`: TLS; None listens in plain text."""
        self._endpoint = parse_endpoint(endpoint)
        self.routes = tuple(routes)
        self._by_path: dict[str, dict[str, Route]] = {}
        for route in routes:
            known = self._by_path.setdefault(route.path, {})
            assert route.method not in known, f"{route.method} {route.path} is there twice"
            known[route.method] = route
        self._templates = [path for path in self._by_path if "{" in path]
        self._guard = guard
        self._ssl_context = ssl_context
        self._connections: Connections | None = None
        self._listeners: list[asyncio.Server] = []
        self.bound: list[tuple[str, int]] = []  #: (address, port) of each socket once started

    async def start(self) -> None:
        """Listen. Raises CannotListen, with nothing left open."""
        loop = asyncio.get_running_loop()
        sockets = open_sockets(self._endpoint)
        self._connections = Connections(
            self._serve,
            loop=loop,
            malformed=_malformed,
            foreign=_foreign,
            max_connections=MAX_CONNECTIONS,
            header_timeout=HEADER_TIMEOUT_SECONDS,
            idle_timeout=IDLE_TIMEOUT_SECONDS,
            body_window=HEADER_TIMEOUT_SECONDS,
            body_rate=0.0,  # a body has its own time limit, for the whole of it
        )
        try:
            for each in sockets:
                timeout = HANDSHAKE_TIMEOUT_SECONDS if self._ssl_context is not None else None
                self._listeners.append(
                    await loop.create_server(self._connections, sock=each, ssl=self._ssl_context, ssl_handshake_timeout=timeout)
                )
        except BaseException:
            close_all(sockets)
            raise
        self.bound = [each.getsockname()[:2] for each in sockets]
        self._connections.start_sweeping()

    async def stop(self, grace: float = 1.0) -> None:
        """Take no new connection, let answers end for `grace` seconds, close the rest; harmless before `start` and when repeated."""
        for listener in self._listeners:
            listener.close()
        self._listeners = []
        connections, self._connections = self._connections, None
        if connections is not None:
            connections.stop_sweeping()
            await connections.shutdown(grace)

    async def _serve(self, request: web.BaseRequest) -> web.Response:
        try:
            response = await self._answer(request)
        except Refused as refused:
            response = _error(refused)
        except ConnectionError:
            raise  # the client has left
        except Exception as error:
            refused_by = refusal_of(error)
            if refused_by is None:
                log.exception("a request could not be answered", extra={"path": request.path})
                refused_by = Refused(500, "internal", "the request met a fault in the daemon, which its log describes")
            response = _error(refused_by)
        if response.content_length is not None and response.content_length >= COMPRESS_FROM_BYTES:
            response.enable_compression()  # as the client accepts it; above 1 KiB aiohttp does it off the loop
        return response

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        path = request.raw_path.partition("?")[0]
        known, values = self._known(path)
        route = known.get("GET" if request.method in READS else request.method)
        account = self._guard.check(
            request,
            is_open=route is not None and route.is_open,
            changes=route is not None and route.method not in READS,
            to_strangers=route is not None and route.to_strangers,
        )
        if route is not None:
            return await route.handler(Request(request, values=values, account=account))
        if known:
            allowed = ", ".join(sorted({*known} | ({"HEAD"} if "GET" in known else set())))
            raise Refused(405, "method_not_allowed", f"this path serves {allowed}", headers={"Allow": allowed})
        raise Refused(404, "not_found", "nothing is served at this path; / lists what is")

    def _known(self, path: str) -> tuple[Mapping[str, Route], Mapping[str, str]]:
        """The routes at a path by method, and what stands in the path where they have names."""
        if path in self._by_path and "{" not in path:
            return self._by_path[path], {}
        for template in self._templates:
            values = match(template, path)
            if values is not None:
                return self._by_path[template], values
        return {}, {}


def refusal_of(error: Exception) -> Refused | None:
    """How the table reads an error, None for a fault of ours."""
    for kind, status, word in ERRORS:
        if isinstance(error, kind):
            headers: dict[str, str] = {}
            if isinstance(error, (Overloaded, TooManyRequests)):
                headers["Retry-After"] = str(max(1, round(error.retry_after_seconds)))
            elif isinstance(error, NodeUnavailable):
                headers["Retry-After"] = str(round(NODE_RETRY_SECONDS))
            elif isinstance(error, Unauthenticated):
                headers["WWW-Authenticate"] = "Bearer"
            reason = error.reason if isinstance(error, (Overloaded, TopUpRefused)) else word
            return Refused(status, reason, str(error), headers=headers)
    return None


def json_response(value: Any, *, status: int = 200) -> web.Response:
    """A JSON answer."""
    return response(json.dumps(value).encode() + b"\n", "application/json", status=status)


def response(body: bytes, content_type: str, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """An answer with the headers that every answer has."""
    return web.Response(status=status, body=body, headers={**SECURITY_HEADERS, "Content-Type": content_type, **(headers or {})})


def index(title: str, routes: Sequence[Route]) -> bytes:
    """What can be asked for, in plain text."""
    width = max(len(route.path) for route in routes)
    lines = [title, "", *(f"{route.method:<5} {route.path:<{width}} {route.says}" for route in routes), ""]
    return "\n".join(lines).encode()


def _error(refused: Refused) -> web.Response:
    body = json.dumps({"error": refused.error, "message": refused.message}).encode() + b"\n"
    return response(body, "application/json", status=refused.status, headers=refused.headers)


def _malformed(error: BaseException | None, message: str | None) -> web.Response:
    if error is not None and message is None:
        log.error("an unexpected fault while an answer was written", exc_info=error)
    answer = _error(Refused(400, "malformed", f"this is no HTTP/1.1 request: {message or 'the connection is out of step'}"))
    answer.force_close()
    return answer


def _foreign(spoken: str, peer: str) -> bytes:
    log.info("a connection speaks another protocol than HTTP/1.1", extra={"spoken": spoken, "peer": peer})
    return b""
