"""The operator's listener: metrics, health, and the few acts of administration. It shows everyone's cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import parse_qs

from aiohttp import web

from receiver.access.keys import Keys
from receiver.config import Operator
from receiver.web.guard import Guard, Refused
from receiver.web.server import Route, WebServer, index, json_response, response

if TYPE_CHECKING:
    import ssl

#: Open traces in one answer, unless asked for more: a screen of them says what the daemon waits for.
WINDOW_ROWS: Final = 100
#: The most that can be asked for: 10,000 rows are written in about 30 ms, and the loop is shared.
MAX_WINDOW_ROWS: Final = 10_000


class Operations(Protocol):
    """What the daemon lets its operator see and do."""

    async def exposition(self, accept: str) -> tuple[str, bytes]:
        """The metrics as (Content-Type, body), in the format that the `Accept` header asks for."""

    def ready(self) -> tuple[bool, str]:
        """Whether exports are taken just now, and why not ("" when they are)."""

    async def release(self) -> int:
        """Close every open trace now; returns how many. Raises Overloaded while that cannot be done."""

    def window(self, *, limit: int) -> list[dict[str, Any]]:
        """Open traces, oldest first, at most `limit`, with what each waits for."""

    def sources(self) -> list[dict[str, Any]]:
        """A row per account, service, scope and version: what it sent and how it was read."""


def operator_server(config: Operator, operations: Operations, *, ssl_context: ssl.SSLContext | None = None) -> WebServer:
    """The listener, ready to be started."""
    keys = Keys((key.name, key.sha256) for key in config.keys)
    guard = Guard(endpoint=config.endpoint, allowed_hosts=config.allowed_hosts, keys=keys)
    return WebServer(endpoint=config.endpoint, routes=operator_routes(operations), guard=guard, ssl_context=ssl_context)


def operator_routes(operations: Operations) -> Sequence[Route]:
    """Everything that an operator can ask for."""

    async def metrics(request: web.BaseRequest) -> web.Response:
        content_type, body = await operations.exposition(request.headers.get("Accept", ""))
        return response(body, content_type)

    async def healthy(_request: web.BaseRequest) -> web.Response:
        return json_response({"status": "healthy"})

    async def ready(_request: web.BaseRequest) -> web.Response:
        is_ready, reason = operations.ready()
        if not is_ready:
            raise Refused(503, "not_ready", reason, headers={"Retry-After": "1"})
        return json_response({"status": "ready"})

    async def release(_request: web.BaseRequest) -> web.Response:
        return json_response({"released_traces": await operations.release()})

    async def window(request: web.BaseRequest) -> web.Response:
        limit = _limit(request)
        return json_response({"limit": limit, "traces": operations.window(limit=limit)})

    async def sources(_request: web.BaseRequest) -> web.Response:
        return json_response({"sources": operations.sources()})

    async def front(_request: web.BaseRequest) -> web.Response:
        return response(index("Spantoll, the operator's side:", routes), "text/plain; charset=utf-8")

    routes = (
        Route("GET", "/", front, "this list"),
        Route("GET", "/metrics", metrics, "Prometheus metrics, also in OpenMetrics"),
        Route("GET", "/-/healthy", healthy, "200 while the process works", is_open=True),
        Route("GET", "/-/ready", ready, "200 while exports are taken, 503 with the reason while not", is_open=True),
        Route("GET", "/-/window", window, "open traces, oldest first, and what they wait for (?limit=)"),
        Route("POST", "/-/release", release, "close every open trace now"),
        Route("GET", "/api/v1/sources", sources, "who sends, how many model calls, and how their usage was read"),
    )
    return routes


def _limit(request: web.BaseRequest) -> int:
    try:
        asked = parse_qs(request.raw_path.partition("?")[2], max_num_fields=16).get("limit", [str(WINDOW_ROWS)])[-1]
    except ValueError:
        asked = ""
    if asked.isascii() and asked.isdigit() and len(asked) <= 9 and 1 <= int(asked) <= MAX_WINDOW_ROWS:
        return int(asked)
    raise Refused(400, "bad_limit", f"limit must be a number from 1 to {MAX_WINDOW_ROWS}")
