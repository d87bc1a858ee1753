"""The customers' listener: what an account may see of itself. Nothing of anybody else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from aiohttp import web

from receiver.access.l402 import READ, TOPUP
from receiver.config import Customer
from receiver.web import openapi
from receiver.web.guard import Guard
from receiver.web.pages import assets
from receiver.web.pages import customer as pages
from receiver.web.server import Request, Route, WebServer, index, response

if TYPE_CHECKING:
    import ssl

_TITLE: Final = "Spantoll: this receiver says what every model call in your traces costs. Send them with any OpenTelemetry exporter."


class Accounts(Protocol):
    """Whose key it is (`access.accounts.Accounts`)."""

    def account(self, authorization: str | None, *, use: str = "") -> str:
        """Raises Unauthenticated, AccountDisabled, and for a token that may not be used for this PermissionDenied, or PaymentPending."""


def customer_server(
    config: Customer,
    accounts: Accounts,
    *,
    more: Sequence[Route] = (),
    welcome: Callable[[], pages.Welcome] = pages.Welcome,
    ssl_context: ssl.SSLContext | None = None,
) -> WebServer:
    """The listener, ready to be started.

    `more`: routes of the offices, in which `Request.account` is the account of the key. `welcome`: what the front page tells.
    """
    guard = Guard(endpoint=config.endpoint, allowed_hosts=config.allowed_hosts, credentials=_OfAccounts(accounts))
    return WebServer(endpoint=config.endpoint, routes=customer_routes(more, welcome), guard=guard, ssl_context=ssl_context)


class _OfAccounts:
    """A key opens what is its account's, to look and to change alike; a token what it was narrowed to. All that changes is to top up."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    def account(self, authorization: str | None, *, changes: bool) -> str:
        return self._accounts.account(authorization, use=TOPUP if changes else READ)


def customer_routes(more: Sequence[Route] = (), welcome: Callable[[], pages.Welcome] = pages.Welcome) -> Sequence[Route]:
    """Everything that a customer can ask for."""

    async def front(request: Request) -> web.Response:
        if assets.wants_page(request):
            return pages.front(welcome(), request)
        return response(index(_TITLE, routes), "text/plain; charset=utf-8", headers={"Vary": "Accept"})

    routes = (
        Route("GET", "/", front, "this list; in a browser, what this is and what it costs", is_open=True),
        *pages.routes(welcome),
        *more,
        openapi.route(is_open=True),
    )
    return routes
