"""The customers' listener: what an account may see of itself. So far it says what it is, and shows nothing of anybody."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from aiohttp import web

from receiver.config import Customer
from receiver.web.guard import Guard
from receiver.web.server import Route, WebServer, index, response

if TYPE_CHECKING:
    import ssl

_TITLE: Final = "Spantoll: this receiver says what every model call in your traces costs. Send them with any OpenTelemetry exporter."


def customer_server(config: Customer, *, ssl_context: ssl.SSLContext | None = None) -> WebServer:
    """The listener, ready to be started."""
    guard = Guard(endpoint=config.endpoint, allowed_hosts=config.allowed_hosts)
    return WebServer(endpoint=config.endpoint, routes=customer_routes(), guard=guard, ssl_context=ssl_context)


def customer_routes() -> Sequence[Route]:
    """Everything that a customer can ask for."""

    async def front(_request: web.BaseRequest) -> web.Response:
        return response(index(_TITLE, routes), "text/plain; charset=utf-8")

    routes = (Route("GET", "/", front, "this list", is_open=True),)
    return routes
