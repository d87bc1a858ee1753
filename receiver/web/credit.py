"""Credit over HTTP: every account's for the operator, its own for a customer.

GET changes nothing; a question after a payment may wait for it (`?wait=`), so that a page need not ask again and again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

from aiohttp import web

from receiver.clock import Clock
from receiver.config import kinds
from receiver.core.invoices import MSAT_PER_SAT, SECOND_NANO
from receiver.core.ledger import MAX_TRANSFER_MSAT
from receiver.errors import InvalidValue
from receiver.web.fields import read_fields
from receiver.web.moments import span_of
from receiver.web.request import Request
from receiver.web.server import Route, json_response

#: The longest `?wait=`: proxies and browsers give up on a silent answer soon after.
MAX_WAIT_SECONDS: Final = 60.0
#: What a statement covers that was asked for without `since`.
STATEMENT_DAYS: Final = 31

_ADJUSTMENT: Final = {
    "amount_msat": kinds.Count(-MAX_TRANSFER_MSAT, MAX_TRANSFER_MSAT),
    "id": kinds.Text(may_be_empty=False),
    "note": kinds.Text(),
}
_TOP_UP: Final = {"amount_sat": kinds.Count(1, MAX_TRANSFER_MSAT // MSAT_PER_SAT)}
_PAYMENT: Final = {"invoice": kinds.Text(may_be_empty=False), "amount_msat": kinds.Count(1, MAX_TRANSFER_MSAT)}


class CreditOffice(Protocol):
    """What is asked of `admin.credit.CreditOffice`; its docstrings give the shapes and the errors."""

    def balance(self, account: str) -> dict[str, Any]: ...
    def statement(self, account: str, since_unix_nano: int, until_unix_nano: int) -> Awaitable[dict[str, Any]]: ...
    def adjust(self, account: str, amount_msat: int, client_id: str, note: str = "") -> Awaitable[dict[str, Any]]: ...
    def audit(self) -> Awaitable[dict[str, Any]]: ...
    def top_up(self, account: str, amount_msat: int) -> Awaitable[dict[str, Any]]: ...
    def topup(self, payment_hash: str, account: str | None = None, wait_seconds: float = 0.0) -> Awaitable[dict[str, Any]]: ...
    def list_topups(self, account: str) -> Awaitable[dict[str, Any]]: ...
    def dev_pay(self, invoice: str, amount_msat: int | None = None) -> Awaitable[dict[str, Any]]: ...


class TokenOffice(Protocol):
    """Where strangers buy (`admin.tokens.TokenOffice`)."""

    def buy(self, amount_msat: int, address: str) -> Awaitable[dict[str, Any]]: ...


def operator_routes(office: CreditOffice, *, clock: Clock) -> Sequence[Route]:
    """What the operator can ask and do."""

    async def adjust(request: Request) -> web.Response:
        given = read_fields(await request.json_object(), _ADJUSTMENT, required=("amount_msat", "id"))
        account = request.path_value("account")
        return json_response(await office.adjust(account, given["amount_msat"], given["id"], given.get("note") or ""))

    async def dev_pay(request: Request) -> web.Response:
        given = read_fields(await request.json_object(), _PAYMENT, required=("invoice",))
        return json_response(await office.dev_pay(given["invoice"], given.get("amount_msat")))

    async def audit(_request: Request) -> web.Response:
        return json_response(await office.audit())

    return (
        *_routes(office, clock, "/api/v1/accounts/{account}", credit="/credit", named=lambda request: request.path_value("account")),
        Route("POST", "/api/v1/accounts/{account}/adjust", adjust, "give or take credit: {amount_msat, id, note?}"),
        Route("POST", "/api/v1/dev/pay", dev_pay, "pay an invoice of the dev wallet: {invoice, amount_msat?}"),
        Route("GET", "/api/v1/audit", audit, "whether the books add up"),
    )


def customer_routes(office: CreditOffice, *, clock: Clock, sales: TokenOffice | None = None) -> Sequence[Route]:
    """What an account can ask and do for itself; and with `sales` (L402), how a stranger becomes one."""
    return _routes(office, clock, "/api/v1/credit", credit="", named=lambda request: request.account, sales=sales)


def _routes(
    office: CreditOffice,
    clock: Clock,
    base: str,
    *,
    credit: str,
    named: Callable[[Request], str],
    sales: TokenOffice | None = None,
) -> Sequence[Route]:
    """The routes that both have; `named` says whose credit a request is about, "" of a stranger."""

    async def balance(request: Request) -> web.Response:
        return json_response(office.balance(named(request)))

    async def statement(request: Request) -> web.Response:
        now_unix_nano = clock.unix_nano()
        since_unix_nano = max(0, now_unix_nano - STATEMENT_DAYS * 86_400 * SECOND_NANO)
        since, until = span_of(request, since_unix_nano=since_unix_nano, until_unix_nano=now_unix_nano + SECOND_NANO)
        return json_response(await office.statement(named(request), since, until))

    async def top_up(request: Request) -> web.Response:
        given = read_fields(await request.json_object(), _TOP_UP, required=("amount_sat",))
        amount_msat = given["amount_sat"] * MSAT_PER_SAT
        account = named(request)
        if not account:
            assert sales is not None
            return _payment_required(await sales.buy(amount_msat, request.address))
        return json_response(await office.top_up(account, amount_msat))

    async def topups(request: Request) -> web.Response:
        return json_response(await office.list_topups(named(request)))

    async def topup(request: Request) -> web.Response:
        wait_seconds = _wait(request)
        return json_response(await request.while_there(office.topup(request.path_value("payment_hash"), named(request), wait_seconds)))

    return (
        Route("GET", f"{base}{credit}", balance, "the balance, what it still pays, and on what terms"),
        Route("GET", f"{base}/statement", statement, f"what moved it, the last {STATEMENT_DAYS} days (?since=&until=&tz=)"),
        Route("POST", f"{base}/topups", top_up, "an invoice over {amount_sat}: the open one, or a new one", to_strangers=sales is not None),
        Route("GET", f"{base}/topups", topups, "the newest top-ups"),
        Route("GET", f"{base}/topups/{{payment_hash}}", topup, "one top-up; ?wait=SECONDS waits for its payment, 60 at most"),
    )


def _payment_required(bought: dict[str, Any]) -> web.Response:
    """402 as L402 has it: each form of the challenge in a header of its own, and the same for people and programs in the body."""
    says = "pay the invoice; then `Authorization: L402 TOKEN:PREIMAGE` is the key of its account, here and in exporters"
    body = {name: bought[name] for name in ("account", "token", "topup")}
    answer = json_response({"error": "payment_required", "message": says, **body}, status=402)
    for challenge in bought["challenges"]:
        answer.headers.add("WWW-Authenticate", challenge)
    return answer


def _wait(request: Request) -> float:
    text = request.query("wait") or "0"
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MAX_WAIT_SECONDS:
        raise InvalidValue(f"wait: {text[:32]!r} must be 0 to {MAX_WAIT_SECONDS:g} seconds")
    return seconds
