"""What handlers are given: values of the path and query, small bodies within limits, who it is; and how errors read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from receiver import errors
from receiver.access.accounts import Accounts
from receiver.access.keys import digest, hash_key
from receiver.access.operator_token import OperatorCredentials
from receiver.config import Credit, Customer
from receiver.core.accounts import Account, AccountKey
from receiver.lightning.client import NodeRefused, NodeUnavailable, WrongInvoice
from receiver.lightning.topups import TopUpRefused
from receiver.store.topups import PaymentHashTaken
from receiver.web import request as module
from receiver.web.customer import customer_server
from receiver.web.guard import Guard
from receiver.web.request import match
from receiver.web.server import Request, Route, WebServer, json_response
from tests.fakes import ManualClock
from tests.integration.web_helpers import Answer, ask, raw

TOKEN = "spo_" + "t" * 43
JSON = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
#: A POST by hand, up to what says how long its body is.
HEAD = "".join(
    f"{line}\r\n"
    for line in ("POST /body HTTP/1.1", "Host: localhost", "Connection: close", *(f"{name}: {value}" for name, value in JSON.items()))
)


class Handlers:
    """Echoes, and a fault to be raised."""

    def __init__(self) -> None:
        self.fault: Exception | None = None

    async def echo(self, request: Request) -> web.Response:
        return json_response({"account": request.path_value("account"), "who": request.account, "wait": request.query("wait", "no")})

    async def fixed(self, _request: Request) -> web.Response:
        return json_response({"fixed": True})

    async def body(self, request: Request) -> web.Response:
        return json_response({"body": await request.json_object(), "header": request.header("X-Some", "none")})

    async def fail(self, _request: Request) -> web.Response:
        assert self.fault is not None
        raise self.fault


@pytest.fixture
def handlers() -> Handlers:
    return Handlers()


@pytest.fixture
async def server(handlers: Handlers) -> AsyncIterator[WebServer]:
    routes = (
        Route("GET", "/a/{account}", handlers.echo, "echo"),
        Route("PATCH", "/a/{account}", handlers.body, "echo"),
        Route("GET", "/a/fixed", handlers.fixed, "fixed"),
        Route("GET", "/a/{account}/deep", handlers.echo, "echo"),
        Route("POST", "/body", handlers.body, "echo of the body"),
        Route("GET", "/fail", handlers.fail, "fails"),
    )
    endpoint = "127.0.0.1:0"
    server = WebServer(endpoint=endpoint, routes=routes, guard=Guard(endpoint=endpoint, credentials=OperatorCredentials(token=TOKEN)))
    await server.start()
    yield server
    await server.stop()


# --- paths and queries ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "account"),
    [
        ("/a/acme", "acme"),
        ("/a/acme%2Fteam", "acme/team"),
        ("/a/%C3%BC%20x", "ü x"),
        ("/a/acme/deep", "acme"),
        ("/a/{account}", "{account}"),
    ],
)
async def test_values_in_a_path_are_decoded_once(server: WebServer, path: str, account: str) -> None:
    """An account's name may hold a slash, which is encoded; a name that looks like a template is a name."""
    assert (await ask(server, "GET", path)).json["account"] == account


@pytest.mark.parametrize("path", ["/a/", "/a", "/a/x/y", "/a/%FF", "/a//deep", "/a/x/deep/", "/A/x"])
async def test_what_fits_no_route_is_not_found(server: WebServer, path: str) -> None:
    """Empty values, values that are no text, other lengths and other letters."""
    assert (await ask(server, "GET", path)).status == 404


async def test_a_fixed_path_goes_before_one_with_names(server: WebServer) -> None:
    """And methods of a template are told like those of any path."""
    assert (await ask(server, "GET", "/a/fixed")).json == {"fixed": True}
    answer = await ask(server, "POST", "/a/acme")
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD, PATCH")


async def test_a_query_is_read_strictly(server: WebServer) -> None:
    """The last of several values counts; what is no text or too much is refused."""
    assert (await ask(server, "GET", "/a/x")).json["wait"] == "no"
    assert (await ask(server, "GET", "/a/x?wait=1&wait=2")).json["wait"] == "2"
    assert (await ask(server, "GET", "/a/x?wait=")).json["wait"] == ""
    assert (await ask(server, "GET", "/a/x?wait=a+%2B")).json["wait"] == "a +"
    for query in ("wait=%FF", "&".join("a=1" for _ in range(17))):
        answer = await ask(server, "GET", f"/a/x?{query}")
        assert (answer.status, answer.json["error"]) == (400, "bad_query")


@given(st.text(max_size=20), st.text(max_size=20))
def test_any_path_fits_or_does_not(template: str, path: str) -> None:
    """Whatever is asked for, matching never fails, and what it finds has the template's names."""
    found = match("/a/{account}/" + template.replace("{", "").replace("}", ""), path)
    assert found is None or set(found) == {"account"}


# --- bodies --------------------------------------------------------------------------------------------------------------------------


async def send(server: WebServer, body: bytes, **headers: str) -> Answer:
    return await ask(
        server, "POST", "/body", headers={**JSON, **{name.replace("_", "-"): value for name, value in headers.items()}}, data=body
    )


async def test_a_json_object_is_read(server: WebServer) -> None:
    """Whole or in chunks, also of 64 KiB; no body is an empty object."""
    assert (await send(server, b'{"a": [1, null, "\xc3\xbc"]}', X_Some="y")).json == {"body": {"a": [1, None, "ü"]}, "header": "y"}
    assert (await ask(server, "POST", "/body", headers={"Authorization": f"Bearer {TOKEN}"})).json["body"] == {}
    large = json.dumps({"a": "x" * (module.MAX_BODY_BYTES - 9)}).encode()
    assert len(large) == module.MAX_BODY_BYTES
    assert (await send(server, large)).status == 200
    chunked = await raw(server, f'{HEAD}Transfer-Encoding: chunked\r\n\r\n3\r\n{{"a\r\n5\r\n": 1}}\r\n0\r\n\r\n'.encode())
    assert b'{"body": {"a": 1}' in chunked


async def test_a_client_that_asks_first_is_told_to_go_on(server: WebServer) -> None:
    """`Expect: 100-continue`, as curl sends it (RFC 9110 10.1.1)."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.bound[0][1])
    writer.write(f"{HEAD}Expect: 100-continue\r\nContent-Length: 8\r\n\r\n".encode())
    assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30) == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b'{"a": 1}')
    assert b'{"body": {"a": 1}' in await asyncio.wait_for(reader.read(), 30)
    writer.close()


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"1",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": "\\ud800"}',
        b'{"\\udfff": 1}',
        b'{"a": "\xff"}',
        b"\xef\xbb\xbf{}",
        b'{"a": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        b'{"a": ' + b"9" * 10_000 + b"}",
        b"{} {}",
    ],
    ids=lambda body: repr(body[:20]),
)
async def test_what_is_no_json_object_is_refused(server: WebServer, body: bytes) -> None:
    """Never 500, however deep, long or odd."""
    answer = await send(server, body)
    assert (answer.status, answer.json["error"]) == (400, "bad_json")


async def test_a_large_body_is_refused_by_its_announcement_and_by_its_bytes(server: WebServer) -> None:
    """What is announced is not read; what is not announced is read up to the limit."""
    limit = module.MAX_BODY_BYTES
    announced = await raw(server, f"{HEAD}Content-Length: {limit + 1}\r\n\r\n".encode())
    assert b" 413 " in announced.splitlines()[0]
    unannounced = await raw(server, f"{HEAD}Transfer-Encoding: chunked\r\n\r\n{limit + 1:x}\r\n".encode() + b"x" * (limit + 1) + b"\r\n")
    assert b" 413 " in unannounced.splitlines()[0]


async def test_a_body_that_does_not_come_is_given_up(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """However slowly it trickles: the time is for the whole of it."""
    monkeypatch.setattr(module, "BODY_TIMEOUT_SECONDS", 0.05)
    answer = await asyncio.wait_for(raw(server, f'{HEAD}Content-Length: 100\r\n\r\n{{"a'.encode()), 30)
    assert b" 408 " in answer.splitlines()[0]


async def test_chunks_that_are_no_http_and_encodings_are_refused(server: WebServer) -> None:
    """A compressed body could become any size."""
    answer = await raw(server, f"{HEAD}Transfer-Encoding: chunked\r\n\r\nnonsense\r\n".encode())
    assert b" 400 " in answer.splitlines()[0]
    assert (await send(server, b"{}", Content_Encoding="gzip")).status == 415


# --- who it is -----------------------------------------------------------------------------------------------------------------------


async def test_looking_is_free_and_changing_needs_the_token(server: WebServer) -> None:
    """PATCH and POST alike, before a byte of the body is read."""
    assert (await ask(server, "GET", "/a/x")).json["who"] == ""
    for method, path in (("PATCH", "/a/x"), ("POST", "/body")):
        for authorization in (None, "Bearer wrong", TOKEN):
            headers = {"Content-Type": "application/json", **({"Authorization": authorization} if authorization else {})}
            answer = await ask(server, method, path, headers=headers, data=b"{")
            assert (answer.status, answer.json["error"], answer.headers["WWW-Authenticate"]) == (401, "unauthenticated", "Bearer")
            assert TOKEN not in answer.body.decode()
        assert (await ask(server, method, path, headers=JSON, data=b"{}")).status == 200


async def test_a_customers_key_opens_its_own_account() -> None:
    """`default` while there is no key; its own with one; refused when disabled, also for the list."""
    register = Accounts(Credit(), clock=ManualClock())

    async def whoami(request: Request) -> web.Response:
        return json_response({"account": request.account})

    server = customer_server(Customer(endpoint="127.0.0.1:0"), register, more=[Route("GET", "/me", whoami, "who")])
    await server.start()
    try:
        assert (await ask(server, "GET", "/me")).json == {"account": "default"}
        register.put(Account(name="acme", created_unix_nano=1))
        register.put_key(AccountKey(sha256=digest("spt_a"), account="acme", hint="spt_a", created_unix_nano=1))
        assert (await ask(server, "GET", "/me")).status == 401
        assert (await ask(server, "GET", "/me", headers={"Authorization": f"Bearer {hash_key('spt_a')}"})).status == 401
        assert (await ask(server, "GET", "/me", headers={"Authorization": "Bearer spt_a"})).json == {"account": "acme"}
        assert (await ask(server, "GET", "/")).status == 200, "what it is, everybody may know"
        register.put(Account(name="acme", created_unix_nano=1, enabled=False))
        answer = await ask(server, "GET", "/me", headers={"Authorization": "Bearer spt_a"})
        assert (answer.status, answer.json["error"]) == (403, "account_disabled")
    finally:
        await server.stop()


# --- errors --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (errors.InvalidValue("so"), (400, "invalid_value", None)),
        (errors.AccountDisabled("acme"), (403, "account_disabled", None)),
        (errors.PermissionDenied("so"), (403, "permission_denied", None)),
        (errors.NotFound("so"), (404, "not_found", None)),
        (errors.Conflict("so"), (409, "conflict", None)),
        (TopUpRefused("too_many", "so"), (422, "too_many", None)),
        (NodeRefused("so"), (502, "node_refused", None)),
        (WrongInvoice("so"), (502, "wrong_invoice", None)),
        (PaymentHashTaken("so"), (502, "wrong_invoice", None)),
        (NodeUnavailable("so"), (503, "node_unavailable", "5")),
        (errors.Overloaded(reason="disk_full", retry_after_seconds=0.2), (503, "disk_full", "1")),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_each_error_of_an_office_has_its_row(
    server: WebServer, handlers: Handlers, fault: errors.ReceiverError, expected: tuple[int, str, str | None]
) -> None:
    """One table; what passes says when to come again."""
    handlers.fault = fault
    answer = await ask(server, "GET", "/fail")
    assert (answer.status, answer.json["error"], answer.headers.get("Retry-After")) == expected
    assert answer.json["message"] == str(fault)


@pytest.mark.parametrize("fault", [lambda: errors.ReceiverError("canary"), lambda: ValueError("canary"), lambda: AssertionError("canary")])
async def test_an_error_without_a_row_is_a_fault_of_ours(
    server: WebServer, handlers: Handlers, fault: Callable[[], Exception], caplog: pytest.LogCaptureFixture
) -> None:
    """Its text may hold what nobody should read, so only the log has it."""
    handlers.fault = fault()
    answer: Any = await ask(server, "GET", "/fail")
    assert (answer.status, answer.json["error"]) == (500, "internal")
    assert b"canary" not in answer.body
    assert "could not be answered" in caplog.text
