"""Accounts and keys over the operator's API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from aiohttp import web

from receiver.config import kinds
from receiver.config.listening import NAME
from receiver.core.credit import OnExhausted
from receiver.core.ledger import MAX_TRANSFER_MSAT
from receiver.web.fields import read_fields
from receiver.web.server import Request, Route, json_response

#: An old key that lives longer than this beside the new one was not replaced.
MAX_GRACE_SECONDS: Final = 30 * 86_400

#: What can be set for one account. The bounds are those of `[credit]`, `[otlp]`, `[window]` and `[metrics]`.
SETTINGS: Final[Mapping[str, kinds.Kind]] = {
    "enforce": kinds.Flag(),
    "price_per_span_msat": kinds.Count(0, 1_000_000_000),
    "credit_limit_msat": kinds.Count(0, MAX_TRANSFER_MSAT),
    "on_exhausted": kinds.Choice(*(choice.value for choice in OnExhausted)),
    "max_debt_msat": kinds.Count(0, MAX_TRANSFER_MSAT),
    "max_in_flight": kinds.Count(1_024, 1_024**4),
    "max_open_spans": kinds.Count(1, 1_000_000_000),
    "max_series": kinds.Count(10, 10_000_000),
    "note": kinds.Text(allowed="one line of text, at most 1,024 characters"),
}


class AccountOffice(Protocol):
    """What is done to accounts (`admin.accounts.AccountOffice`). Raises NotFound, Conflict, InvalidValue."""

    def list(self) -> dict[str, Any]: ...
    def show(self, name: str) -> dict[str, Any]: ...
    async def add(self, name: str, changes: Mapping[str, Any]) -> dict[str, Any]: ...
    async def change(self, name: str, changes: Mapping[str, Any]) -> dict[str, Any]: ...
    async def disable(self, name: str) -> dict[str, Any]: ...
    async def enable(self, name: str) -> dict[str, Any]: ...
    async def rotate_key(self, name: str, *, grace_seconds: float = 0.0) -> dict[str, Any]: ...


def routes(office: AccountOffice) -> Sequence[Route]:
    """For the operator's listener."""

    async def list_(_request: Request) -> web.Response:
        return json_response(office.list())

    async def add(request: Request) -> web.Response:
        given = read_fields(await request.json_object(), {"account": NAME, **SETTINGS}, required=("account",))
        name = given.pop("account")
        return json_response(await office.add(name, given), status=201)

    async def show(request: Request) -> web.Response:
        return json_response(office.show(request.path_value("account")))

    async def change(request: Request) -> web.Response:
        return json_response(await office.change(request.path_value("account"), read_fields(await request.json_object(), SETTINGS)))

    async def disable(request: Request) -> web.Response:
        return json_response(await office.disable(request.path_value("account")))

    async def enable(request: Request) -> web.Response:
        return json_response(await office.enable(request.path_value("account")))

    async def rotate_key(request: Request) -> web.Response:
        given = read_fields(await request.json_object(), {"grace_seconds": kinds.Count(0, MAX_GRACE_SECONDS)})
        return json_response(await office.rotate_key(request.path_value("account"), grace_seconds=given.get("grace_seconds") or 0))

    at = "/api/v1/accounts"
    return (
        Route("GET", at, list_, "accounts, their terms, limits and keys' hints"),
        Route("POST", at, add, "a new account and its first key"),
        Route("GET", f"{at}/{{account}}", show, "one account"),
        Route("PATCH", f"{at}/{{account}}", change, "set its terms, limits or note; null: as for everyone"),
        Route("POST", f"{at}/{{account}}/disable", disable, "refuse everything of it at once"),
        Route("POST", f"{at}/{{account}}/enable", enable, "let it in again"),
        Route("POST", f"{at}/{{account}}/rotate-key", rotate_key, "a new key in place of the old ones"),
    )
