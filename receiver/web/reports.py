"""Reports over both listeners, and forgetting over the operator's. A customer sees what is its own account's, whatever it asks for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from datetime import tzinfo
from typing import Any, Final, Protocol

from aiohttp import web

from receiver.config import kinds
from receiver.config.listening import NAME
from receiver.core.moments import parse_moment
from receiver.core.tally import MAX_ROWS, parse_by
from receiver.errors import InvalidValue, Overloaded
from receiver.web.fields import read_fields
from receiver.web.moments import zone_of
from receiver.web.server import Request, Route, response

#: What a report is broken down by where nobody says.
BY: Final = "agent"
#: A report of a million charges takes three seconds.
RETRY_SECONDS: Final = 5.0
_PATH: Final = "/api/v1/report"
_SAYS: Final = "what calls cost, by any dimension, day or hour (?by=agent,model&since=&until=&tz=&top=)"


class ReportOffice(Protocol):
    """Who spent what (`admin.reports.ReportOffice`). Raises InvalidValue, Overloaded."""

    async def report(
        self,
        *,
        by: Sequence[str],
        since_unix_nano: int | None,
        until_unix_nano: int | None,
        zone: tzinfo,
        zone_name: str,
        account: str | None,
        top: int,
    ) -> dict[str, Any]: ...

    async def forget(self, user: str, account: str | None = None) -> dict[str, Any]: ...


def operator_routes(office: ReportOffice) -> Sequence[Route]:
    """Of everyone."""

    async def report(request: Request) -> web.Response:
        return await _report(office, request, account=request.query("account") or None)

    async def forget(request: Request) -> web.Response:
        given = read_fields(await request.json_object(), {"user": _ANY_TEXT, "account": NAME}, required=("user",))
        return await _answer(await office.forget(given["user"], given.get("account")))

    return (
        Route("GET", _PATH, report, f"{_SAYS[:-1]}&account=)"),
        Route("POST", "/api/v1/forget", forget, "take a user out of the books; sums stay"),
    )


def customer_routes(office: ReportOffice) -> Sequence[Route]:
    """Of the account whose key it is. One at a time: reports are read in turn, and no customer shall keep others from theirs."""
    asking: set[str] = set()

    async def report(request: Request) -> web.Response:
        account = request.account
        if account in asking:
            raise Overloaded(reason="busy", retry_after_seconds=RETRY_SECONDS, detail="a report of this account is being read already")
        asking.add(account)
        try:
            return await _report(office, request, account=account)
        finally:
            asking.discard(account)

    return (Route("GET", _PATH, report, _SAYS),)


class _AnyText(kinds.Kind):
    """Names of users come from clients, so that a name may be any text."""

    allowed = "a name of a user"

    def check(self, found: object) -> str:
        if not isinstance(found, str) or not found:
            raise kinds.Wrong("")
        return found


_ANY_TEXT: Final = _AnyText()


async def _report(office: ReportOffice, request: Request, *, account: str | None) -> web.Response:
    zone = zone_of(request)
    since, until = request.query("since"), request.query("until")
    report = await office.report(
        by=parse_by([request.query("by", BY) or ""]),
        since_unix_nano=parse_moment(since, zone) if since else None,
        until_unix_nano=parse_moment(until, zone) if until else None,
        zone=zone,
        zone_name=request.query("tz") or "UTC",
        account=account,
        top=_top(request),
    )
    return await _answer(report)


def _top(request: Request) -> int:
    text = request.query("top") or str(MAX_ROWS)
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise InvalidValue(f"top must be a number from 1 to {MAX_ROWS}")
    return int(text)


async def _answer(value: Mapping[str, Any]) -> web.Response:
    return response(await asyncio.to_thread(_dumped, value), "application/json")


def _dumped(value: Mapping[str, Any]) -> bytes:
    """As JSON, row by row: one `json.dumps` of ten thousand rows would hold the interpreter, and so the event loop, for 50 ms."""
    parts = []
    for name, part in value.items():
        text = ",\n".join([json.dumps(row) for row in part]).join("[]") if name == "rows" else json.dumps(part)
        parts.append(f"{json.dumps(name)}: {text}")
    return ("{" + ",\n".join(parts) + "}\n").encode()
