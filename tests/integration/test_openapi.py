"""`openapi.json` is true: valid, equal to both tables of routes, and every answer of a real daemon is as it says."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from receiver import __version__
from receiver.config.listening import NAME
from receiver.daemon import Daemon
from receiver.web.customer import customer_routes
from receiver.web.openapi import document
from receiver.web.operator import operator_routes
from receiver.web.request import match
from tests.exports import agent, export, model_call
from tests.integration.test_daemon_credit import TOKEN, serving
from tests.integration.wire_helpers import http_call

DOCUMENT = document()
LISTENERS = "x-spantoll-listeners"
#: Probes, and pages that hold nothing of anybody.
LNURL = ("/.well-known/lnurlp/{account}", "/api/v1/lnurlp/{account}", "/api/v1/lnurlp/{account}/{payment_hash}")
OPEN = ("/-/healthy", "/-/ready", "/", "/topup", "/assets/{asset}", *LNURL)
Operation = tuple[str, str, str]  #: listener, method, path


def operations() -> Iterator[tuple[Operation, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            for listener in operation[LISTENERS]:
                yield (listener, method.upper(), path), operation


def resolved(found: dict[str, Any]) -> dict[str, Any]:
    """What a `$ref` of the document points to."""
    while "$ref" in found:
        found = functools.reduce(lambda at, key: at[key], found["$ref"].removeprefix("#/").split("/"), DOCUMENT)
    return found


def check(schema: dict[str, Any], value: Any, where: str) -> None:
    """Whether a value is as a schema of the document says; what is not described is an error too."""
    validator = Draft202012Validator({**schema, "components": DOCUMENT["components"]}, format_checker=Draft202012Validator.FORMAT_CHECKER)
    problems = [f"{'/'.join(map(str, error.absolute_path))}: {error.message}" for error in validator.iter_errors(value)]
    assert not problems, f"{where}: {problems}"


def test_it_is_valid() -> None:
    """By the specification's own schema, examples included; it has the version of what serves it."""
    assert not list(OpenAPIV31SpecValidator(DOCUMENT).iter_errors())
    assert DOCUMENT["info"]["version"] == __version__
    ids = [operation["operationId"] for methods in DOCUMENT["paths"].values() for operation in methods.values()]
    assert len(ids) == len(set(ids))


def test_every_example_is_as_its_schema_says() -> None:
    """An example that is wrong is copied more often than a schema is read."""
    count = 0

    def look(found: Any, where: str) -> None:
        nonlocal count
        if isinstance(found, dict):
            if "example" in found and "schema" in found:
                check(found["schema"], found["example"], where)
                count += 1
            for key, value in found.items():
                look(value, f"{where}/{key}")

    look(DOCUMENT, "#")
    assert count > 20


def test_nothing_is_described_that_nobody_uses() -> None:
    """Schemas, parameters and answers that stay behind describe what is gone."""
    text = str(DOCUMENT)
    for kind in ("schemas", "parameters", "responses"):
        for name in DOCUMENT["components"][kind]:
            assert f"#/components/{kind}/{name}'" in text, f"{kind}/{name}"


def test_objects_are_closed() -> None:
    """A field that is not described would pass unseen below."""

    def look(found: Any, where: str) -> None:
        if isinstance(found, dict):
            if "properties" in found:
                assert found.get("additionalProperties") is False, where
            for key, value in found.items():
                look(value, f"{where}/{key}")

    look(DOCUMENT["components"]["schemas"], "#")


async def test_it_has_each_route_and_nothing_more(tmp_path: Path) -> None:
    """The tables are those of a daemon over a data folder; method, path, listener and names in the path."""
    async with serving(tmp_path) as (daemon, _):
        served = {("operator", route.method, route.path) for route in operator_routes(daemon_of(daemon), daemon.offices.operator_routes())}
        served |= {("customer", route.method, route.path) for route in customer_routes(daemon.offices.customer_routes())}
    assert {operation for operation, _ in operations()} == served
    for (_, _, path), operation in operations():
        named = {resolved(parameter)["name"] for parameter in operation.get("parameters", []) if resolved(parameter)["in"] == "path"}
        assert named == set(re.findall(r"{(\w+)}", path)), path


def daemon_of(daemon: Daemon) -> Any:
    """Building a table asks nothing of the daemon."""
    return daemon


def test_what_changes_something_needs_a_credential() -> None:
    """On the operator's listener always; to look, only where keys are configured. Nobody needs one for the probes."""
    for (listener, method, path), operation in operations():
        schemes = {name for each in operation["security"] for name in each}
        if listener == "operator" and method != "GET":
            assert operation["security"] == [{"operator": []}], path
        elif path in OPEN:
            assert operation["security"] == [{}]
        else:
            assert {} in operation["security"]
            assert listener.replace("customer", "account") in schemes, path


def test_an_accounts_name_is_described_as_the_configuration_reads_it() -> None:
    """One rule for what a name may be."""
    described = re.compile(DOCUMENT["components"]["schemas"]["AccountName"]["pattern"])
    for name in ("a", "acme/team", "a" * 128, "a" * 129, "", "-a", "a b", "ü", "A.b_c:d@e-f", "a\n"):
        try:
            NAME.check(name)
        except Exception:  # noqa: BLE001 -- any refusal
            assert not described.fullmatch(name), name
        else:
            assert described.fullmatch(name), name


class Talk:
    """Questions to both listeners, each answer held against the document."""

    def __init__(self, ports: dict[str, int]) -> None:
        self._ports = ports
        self.key = ""  #: of the customer
        self.answered: set[tuple[Operation, int]] = set()

    async def ask(
        self,
        listener: str,
        method: str,
        path: str,
        body: Any = None,
        *,
        status: int = 200,
        token: str | None = None,
        accept: str = "*/*",
    ) -> Any:
        credential = token if token is not None else TOKEN if listener == "operator" else self.key
        headers = {"Accept": accept, **({"Authorization": f"Bearer {credential}"} if credential else {})}
        url = f"http://127.0.0.1:{self._ports[listener]}{path}"
        async with aiohttp.ClientSession(headers=headers) as session:
            skip = {"skip_auto_headers": ["Content-Type"]} if body is None else {}
            async with session.request(method, url, json=body, **skip) as response:  # type: ignore[arg-type]  # as aiohttp documents it
                answer = await response.json() if response.content_type == "application/json" else await response.text()
                assert response.status == status, f"{method} {path}: {response.status} {answer}"
                content_type = response.headers["Content-Type"]
        operation, described = self._described(listener, method, path.partition("?")[0])
        if body is not None and status < 400:
            request = resolved(described["requestBody"])["content"]["application/json"]
            check(request["schema"], body, f"body of {operation}")
        found = resolved(described["responses"].get(str(status), described["responses"]["default"]))
        assert content_type in found["content"], f"{operation} {status}: {content_type}"
        check(found["content"][content_type]["schema"], answer, f"{operation} {status}")
        self.answered.add((operation, status))
        return answer

    def _described(self, listener: str, method: str, path: str) -> tuple[Operation, dict[str, Any]]:
        fitting = [
            (each, described) for each, described in operations() if each[:2] == (listener, method) and match(each[2], path) is not None
        ]
        fitting.sort(key=lambda found: found[0][2].count("{"))
        return fitting[0]


async def test_every_answer_of_a_daemon_is_as_described(tmp_path: Path) -> None:
    """A whole story over both listeners: spans, accounts, an invoice that is paid, reports, a backup; each route answers at least once."""
    settings = ("credit.enforce=true", "credit.start_balance_msat=1000000", "lightning.address=true")
    async with serving(tmp_path / "data", *settings) as (_, ports):
        talk = Talk(ports)
        for path in (
            "/",
            "/metrics",
            "/-/healthy",
            "/-/ready",
            "/api/v1/openapi.json",
            "/api/v1/audit",
            "/api/v1/backup",
            "/api/v1/accounts",
        ):
            await talk.ask("operator", "GET", path)
        await talk.ask("customer", "GET", "/")
        for listener, path in (("operator", "/"), ("customer", "/"), ("customer", "/topup")):
            page = await talk.ask(listener, "GET", path, accept="text/html,*/*;q=0.8")
            for asset in re.findall(r'"(/assets/[^"]+)"', page):
                await talk.ask(listener, "GET", asset)
        assert await talk.ask("customer", "GET", "/api/v1/openapi.json") == DOCUMENT
        await talk.ask("customer", "GET", "/api/v1/credit")

        made = await talk.ask("operator", "POST", "/api/v1/accounts", {"account": "acme/team", "max_series": 50, "note": "x"}, status=201)
        at = "/api/v1/accounts/acme%2Fteam"
        await talk.ask("operator", "PATCH", at, {"on_exhausted": "hold", "price_per_span_msat": 7, "max_series": None})
        rotated = await talk.ask("operator", "POST", f"{at}/rotate-key", {"grace_seconds": 60})
        talk.key = rotated["key"]
        await talk.ask("operator", "POST", f"{at}/disable")
        await talk.ask("customer", "GET", "/api/v1/credit", status=403)
        await talk.ask("operator", "POST", f"{at}/enable")
        assert len((await talk.ask("operator", "GET", at))["keys"]) == 2

        spans = export(agent(1, 1), model_call(1, 2, parent=1), model_call(1, 3, parent=1))
        assert (await http_call(ports["otlp.http"], spans, key=made["key"])).code == 200
        assert len((await talk.ask("operator", "GET", "/-/window?limit=5"))["traces"]) == 1
        assert (await talk.ask("operator", "POST", "/-/release"))["released_traces"] == 1
        assert (await talk.ask("operator", "GET", "/api/v1/sources"))["sources"]
        assert (await talk.ask("operator", "GET", "/api/v1/overview"))["calls"] == 2

        invoice = await talk.ask("customer", "POST", "/api/v1/credit/topups", {"amount_sat": 100})
        await talk.ask("customer", "GET", f"/api/v1/credit/topups/{invoice['payment_hash']}/qr")
        paid = await talk.ask("operator", "POST", "/api/v1/dev/pay", {"invoice": invoice["bolt11"]})
        assert paid["topup"]["state"] == "settled"
        await talk.ask("operator", "POST", f"{at}/adjust", {"amount_msat": -5, "id": "one"})
        for listener, base, credit in (("operator", at, "/credit"), ("customer", "/api/v1/credit", "")):
            assert (await talk.ask(listener, "GET", f"{base}{credit}"))["posted_msat"] == 1_000_000 - 3 * 7 + 100_000 - 5
            assert len((await talk.ask(listener, "GET", f"{base}/statement?since=2020-01-01&tz=Europe/Zurich"))["lines"]) == 4
            await talk.ask(listener, "POST", f"{base}/topups", {"amount_sat": 200})
            assert len((await talk.ask(listener, "GET", f"{base}/topups"))["topups"]) == 2
            await talk.ask(listener, "GET", f"{base}/topups/{invoice['payment_hash']}?wait=0")
            report = await talk.ask(listener, "GET", "/api/v1/report?by=agent,model,user&top=1")
            assert report["totals"]["calls"] == 2
        address = "/api/v1/lnurlp/acme%2Fteam"
        await talk.ask("customer", "GET", "/.well-known/lnurlp/acme%2Fteam", token="")
        verify = (await talk.ask("customer", "GET", f"{address}?amount=300000", token=""))["verify"]
        await talk.ask("customer", "GET", f"{address}/{verify.rpartition('/')[2]}", token="")
        await talk.ask("operator", "POST", "/api/v1/forget", {"user": "nobody"})
        await talk.ask("operator", "POST", "/api/v1/backup", {"path": str(tmp_path / "copy.db")})
        assert {operation for operation, status in talk.answered if status < 400} == {operation for operation, _ in operations()}

        for listener, method, path, body, status in (
            ("operator", "GET", "/api/v1/accounts/nobody", None, 404),
            ("operator", "POST", "/api/v1/accounts", {"account": "acme/team"}, 409),
            ("operator", "POST", "/api/v1/accounts", {"account": "b", "pricepspan": 3}, 400),
            ("operator", "POST", f"{at}/topups", {"amount_sat": 1}, 422),
            ("operator", "POST", "/api/v1/dev/pay", {"invoice": invoice["bolt11"]}, 409),
            ("operator", "POST", "/api/v1/backup", {"path": str(tmp_path / "copy.db")}, 409),
            ("operator", "GET", "/-/window?limit=0", None, 400),
            ("operator", "GET", "/api/v1/report?by=nothing", None, 400),
            ("customer", "GET", f"/api/v1/credit/topups/{'0' * 64}", None, 404),
            ("customer", "GET", "/.well-known/lnurlp/nobody", None, 404),
            ("customer", "GET", f"{address}?amount=1", None, 422),
            ("customer", "GET", f"{address}?amount=many", None, 400),
            ("customer", "GET", f"{address}/{invoice['payment_hash']}", None, 404),
        ):
            await talk.ask(listener, method, path, body, status=status)
        await talk.ask("operator", "POST", "/-/release", status=401, token="wrong")
        await talk.ask("customer", "GET", "/api/v1/credit", status=401, token="wrong")
        assert all(status != 500 for _, status in talk.answered)


async def test_what_strangers_hear_is_as_described(tmp_path: Path) -> None:
    """An account that is sold (402), too many of them (429), and the same route with the token that was bought."""
    async with serving(tmp_path, "l402.enabled=true", "lightning.public_per_hour=1") as (_, ports):
        talk = Talk(ports)
        sold = await talk.ask("customer", "POST", "/api/v1/credit/topups", {"amount_sat": 100}, status=402)
        await talk.ask("customer", "POST", "/api/v1/credit/topups", {"amount_sat": 100}, status=429)
        await talk.ask("customer", "GET", "/api/v1/credit", status=401)
        await talk.ask("operator", "POST", "/api/v1/dev/pay", {"invoice": sold["topup"]["bolt11"]})
        shown = await talk.ask("operator", "GET", f"/api/v1/accounts/{sold['account']}")
        assert [key["source"] for key in shown["keys"]] == ["token"]


def test_a_wrong_answer_would_be_found() -> None:
    """The check itself is checked: a missing field, a field too many, a wrong type."""
    schema = {"$ref": "#/components/schemas/Released"}
    check(schema, {"released_traces": 1}, "right")
    for wrong in ({}, {"released_traces": "1"}, {"released_traces": 1, "more": 2}, {"released_traces": -1}):
        with pytest.raises(AssertionError):
            check(schema, wrong, "wrong")
