"""Reports over the web: what may be asked, and that a customer sees its own account whatever it asks for."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from receiver.core.moments import parse_moment
from receiver.core.tally import BY, MAX_ROWS, Question, Tally
from receiver.errors import InvalidValue, Overloaded
from receiver.web.reports import customer_routes, operator_routes


class Office:
    """Remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    async def report(self, **question: Any) -> dict[str, Any]:
        self.asked.append(question)
        tally = Tally(Question(by=tuple(question["by"])))
        for number in range(3):
            tally.add((str(number),), (number,) * 12, unpriced_reason="", doubts="")
        return tally.as_json()

    async def forget(self, user: str, account: str | None = None) -> dict[str, Any]:
        self.asked.append({"user": user, "account": account})
        return {"charges": 1}


class Request:
    """As `web.request.Request` shows itself to handlers."""

    def __init__(self, query: dict[str, str] | None = None, *, account: str = "", body: dict[str, Any] | None = None) -> None:
        self._query = query or {}
        self._body = body or {}
        self.account = account

    def query(self, name: str, default: str | None = None) -> str | None:
        return self._query.get(name, default)

    async def json_object(self) -> dict[str, Any]:
        return self._body


async def ask(routes: Any, path: str, request: Request) -> Any:
    handler = next(route.handler for route in routes if route.path == path)
    answer = await handler(request)
    return json.loads(answer.body)


async def test_an_operator_asks_for_anything() -> None:
    """Each field of the query arrives as what it means; dates are those of the time zone."""
    office = Office()
    query = {
        "by": "agent, day",
        "since": "2026-11-25",
        "until": "2026-11-26T00:00:00Z",
        "tz": "Europe/Berlin",
        "account": "acme",
        "top": "7",
    }
    answer = await ask(operator_routes(office), "/api/v1/report", Request({**query, "by": "agent"}))
    assert [row["calls"] for row in answer["rows"]] == [2, 1, 0], "and the answer is the report"
    asked = office.asked[0]
    assert (asked["by"], asked["account"], asked["top"], asked["zone_name"]) == (("agent",), "acme", 7, "Europe/Berlin")
    assert asked["since_unix_nano"] == parse_moment("2026-11-24T23:00:00Z", asked["zone"])
    assert asked["until_unix_nano"] == parse_moment("2026-11-26T00:00:00Z", asked["zone"])
    await ask(operator_routes(office), "/api/v1/report", Request())
    bare = office.asked[1]
    assert (bare["by"], bare["since_unix_nano"], bare["until_unix_nano"], bare["account"]) == (("agent",), None, None, None)
    assert (bare["top"], bare["zone_name"]) == (MAX_ROWS, "UTC")


async def test_a_customer_sees_its_own_account_alone() -> None:
    """The account is the key's; one that is asked for is not even looked at."""
    office = Office()
    for query in ({}, {"account": "other"}, {"account": "", "by": "account"}):
        await ask(customer_routes(office), "/api/v1/report", Request(query, account="acme"))
    assert [asked["account"] for asked in office.asked] == ["acme"] * 3
    assert [route.path for route in customer_routes(office)] == ["/api/v1/report"], "and it can change nothing"


async def test_a_customer_reads_one_report_at_a_time() -> None:
    """Reports are read in turn: whoever asks in a loop holds up itself, and may ask again when its answer is there."""
    office = Office()
    routes = customer_routes(office)
    asked = [ask(routes, "/api/v1/report", Request(account=account)) for account in ("acme", "acme", "bank")]
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(each) for each in found] == [dict, Overloaded, dict]
    await ask(routes, "/api/v1/report", Request(account="acme"))


@pytest.mark.parametrize("query", [{"top": "0x"}, {"top": "-1"}, {"tz": "Mars/Base"}, {"tz": "../../etc/passwd"}, {"since": "yesterday"}])
async def test_what_is_no_question_is_refused(query: dict[str, str]) -> None:
    """With a sentence, and before anything is read."""
    office = Office()
    with pytest.raises(InvalidValue):
        await ask(operator_routes(office), "/api/v1/report", Request(query))
    assert office.asked == []


@pytest.mark.parametrize(
    "wrong", [{"by": ("colour",)}, {"by": ("day", "day")}, {"by": (), "top": 0}, {"by": (), "since_unix_nano": 5, "until_unix_nano": 5}]
)
def test_a_question_is_checked(wrong: dict[str, Any]) -> None:
    """Whoever asks hears what may be asked."""
    with pytest.raises(InvalidValue):
        Question(**wrong)
    assert Question(by=BY).columns == tuple(name for name in BY if name not in ("day", "hour"))


async def test_somebody_must_be_named_to_be_forgotten() -> None:
    """A user is any text that is not empty; a field that is not known is a typing error."""
    office = Office()
    await ask(operator_routes(office), "/api/v1/forget", Request(body={"user": "ada\x00", "account": "acme"}))
    assert office.asked == [{"user": "ada\x00", "account": "acme"}]
    for body in ({}, {"user": ""}, {"user": 5}, {"user": "ada", "acount": "acme"}):
        with pytest.raises(InvalidValue):
            await ask(operator_routes(office), "/api/v1/forget", Request(body=body))
    assert len(office.asked) == 1
