"""Lightning Addresses over HTTP (LNURL-pay): what any wallet asks, without a key. Errors read as LUD-06 has them.

An invoice is made by a GET here, against the rule of this house, for so LUD-06 wants it. It takes nothing from anyone, and how many there
can be is bounded (`admin.strangers`), so a page that makes somebody's browser ask for one gains nothing by it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

from aiohttp import web

from receiver.errors import InvalidValue, ReceiverError
from receiver.web.request import Request
from receiver.web.server import Refused, Route, json_response, refusal_of

#: An amount has at most as many digits as all bitcoin in millisatoshi.
_MOST_DIGITS: Final = 19


class AddressOffice(Protocol):
    """What is asked of `admin.addresses.AddressOffice`; its docstrings give the shapes and the errors."""

    def pay_request(self, account: str) -> dict[str, Any]: ...
    def invoice(self, account: str, amount_msat: int, address: str) -> Awaitable[dict[str, Any]]: ...
    def settlement(self, account: str, payment_hash: str) -> Awaitable[dict[str, Any]]: ...


def routes(office: AddressOffice) -> Sequence[Route]:
    """For the customers' listener."""

    async def pay_request(request: Request) -> web.Response:
        return json_response(office.pay_request(request.path_value("account")))

    async def invoice(request: Request) -> web.Response:
        return json_response(await office.invoice(request.path_value("account"), _amount_msat(request), request.address))

    async def settlement(request: Request) -> web.Response:
        return json_response(await office.settlement(request.path_value("account"), request.path_value("payment_hash")))

    at = "/api/v1/lnurlp/{account}"
    return (
        Route("GET", "/.well-known/lnurlp/{account}", _told(pay_request), "an account's Lightning Address, where it has one", is_open=True),
        Route("GET", at, _told(invoice), "an invoice of that address over ?amount= msat", is_open=True),
        Route("GET", f"{at}/{{payment_hash}}", _told(settlement), "whether that invoice was paid", is_open=True),
    )


def _amount_msat(request: Request) -> int:
    text = request.query("amount") or ""
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        raise InvalidValue(f"amount: {text[:32]!r} must be a whole number of millisatoshi")
    return int(text)


def _told(handler: Callable[[Request], Awaitable[web.Response]]) -> Callable[[Request], Awaitable[web.Response]]:
    """The same with refusals as wallets read them: `status` and `reason` beside the HTTP status that every client understands."""

    async def told(request: Request) -> web.Response:
        try:
            return await handler(request)
        except Refused as error:
            refused = error
        except ReceiverError as error:
            found = refusal_of(error)
            if found is None:
                raise
            refused = found
        answer = json_response({"status": "ERROR", "reason": refused.message}, status=refused.status)
        answer.headers.update(refused.headers)
        return answer

    return told
