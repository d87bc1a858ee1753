"""The operator's listener: metrics, health, and the few acts of administration. It shows everyone's cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from aiohttp import web

from receiver.access.operator_token import OperatorCredentials
from receiver.config import Operator
from receiver.web import openapi
from receiver.web.guard import Guard
from receiver.web.pages import assets
from receiver.web.pages import operator as pages
from receiver.web.server import Refused, Request, Route, WebServer, index, json_response, response

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

    async def overview(self) -> dict[str, Any]:
        """All that the page shows but for the reports (`overview.Overview`). Raises Overloaded where no daemon runs."""


def operator_server(
    config: Operator,
    operations: Operations,
    *,
    token: str = "",
    more: Sequence[Route] = (),
    ssl_context: ssl.SSLContext | None = None,
) -> WebServer:
    """The listener, ready to be started.

    `token`: the operator's token, which with an `[[operator.key]]` is what opens routes that change something; without either they
    open to nobody. `more`: routes of the offices (accounts, credit, reports, upkeep).
    """
    credentials = OperatorCredentials([(key.name, key.sha256) for key in config.keys], token=token)
    guard = Guard(endpoint=config.endpoint, allowed_hosts=config.allowed_hosts, credentials=credentials)
    return WebServer(endpoint=config.endpoint, routes=operator_routes(operations, more), guard=guard, ssl_context=ssl_context)


def operator_routes(operations: Operations, more: Sequence[Route] = ()) -> Sequence[Route]:
    """Everything that an operator can ask for."""

    async def metrics(request: Request) -> web.Response:
        content_type, body = await operations.exposition(request.header("Accept"))
        return response(body, content_type)

    async def healthy(_request: Request) -> web.Response:
        return json_response({"status": "healthy"})

    async def ready(_request: Request) -> web.Response:
        is_ready, reason = operations.ready()
        if not is_ready:
            raise Refused(503, "not_ready", reason, headers={"Retry-After": "1"})
        return json_response({"status": "ready"})

    async def release(_request: Request) -> web.Response:
        return json_response({"released_traces": await operations.release()})

    async def window(request: Request) -> web.Response:
        limit = _limit(request)
        return json_response({"limit": limit, "traces": operations.window(limit=limit)})

    async def sources(_request: Request) -> web.Response:
        return json_response({"sources": operations.sources()})

    async def overview(_request: Request) -> web.Response:
        return json_response(await operations.overview())

    async def front(request: Request) -> web.Response:
        if assets.wants_page(request):
            return pages.front()
        return response(index("Spantoll, the operator's side:", routes), "text/plain; charset=utf-8", headers={"Vary": "Accept"})

    routes = (
        Route("GET", "/", front, "this list; in a browser, the page that shows how things are", is_open=True),
        assets.route(),
        Route("GET", "/metrics", metrics, "Prometheus metrics, also in OpenMetrics"),
        Route("GET", "/-/healthy", healthy, "200 while the process works", is_open=True),
        Route("GET", "/-/ready", ready, "200 while exports are taken, 503 with the reason while not", is_open=True),
        Route("GET", "/-/window", window, "open traces, oldest first, and what they wait for (?limit=)"),
        Route("POST", "/-/release", release, "close every open trace now"),
        Route("GET", "/api/v1/sources", sources, "who sends, how many model calls, and how their usage was read"),
        Route("GET", "/api/v1/overview", overview, "how things are: what the page shows, but for the reports"),
        *more,
        openapi.route(is_open=False),
    )
    return routes


def _limit(request: Request) -> int:
    asked = request.query("limit", str(WINDOW_ROWS)) or ""
    if asked.isascii() and asked.isdigit() and len(asked) <= 9 and 1 <= int(asked) <= MAX_WINDOW_ROWS:
        return int(asked)
    raise Refused(400, "bad_limit", f"limit must be a number from 1 to {MAX_WINDOW_ROWS}")
