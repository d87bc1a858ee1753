"""Attacks on both web listeners, on every route that `openapi.json` has: a route that is added tomorrow is attacked tomorrow.

Who attacks is a web page in the operator's browser, another program of the machine, a stranger, or a customer who wants what is another's.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import itertools
import json
import logging
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import apsw
import pytest
from yarl import URL

from receiver.daemon import Daemon
from receiver.errors import ReceiverError
from receiver.web.guard import READS
from receiver.web.openapi import document
from receiver.web.request import MAX_BODY_BYTES
from tests.exports import agent, export, model_call
from tests.integration.test_daemon_credit import TOKEN, serving
from tests.integration.wire_helpers import http_call

DOCUMENT = document()
LISTENERS = ("operator", "customer")
#: What an attacker sends as a secret, and must not read anywhere.
CANARY = "spt_canary-in-the-mine"
OTHERS = re.compile(rb"globex|bob@globex")
#: Tables that must stay as they are where nothing was allowed. Journal, charges and series go on by themselves.
TABLES = ("accounts", "keys", "tokens", "transfers", "totals", "topups", "forgotten", "cursors", "shelf")


class Operation:
    """One thing that one listener serves."""

    def __init__(self, listener: str, method: str, path: str, described: dict[str, Any]) -> None:
        self.listener = listener
        self.method = method
        self.path = path
        self.is_open = described["security"] == [{}]
        self.body = "requestBody" in described

    @property
    def changes(self) -> bool:
        return self.method not in READS

    def __repr__(self) -> str:
        return f"{self.listener} {self.method} {self.path}"


def operations(*, listener: str = "", changes: bool | None = None, is_open: bool | None = None) -> Iterator[Operation]:
    for path, methods in DOCUMENT["paths"].items():
        for method, described in methods.items():
            for each in described["x-spantoll-listeners"]:
                found = Operation(each, method.upper(), path, described)
                if listener in ("", each) and changes in (None, found.changes) and is_open in (None, found.is_open):
                    yield found


class Answer:
    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def error(self) -> str:
        return str(json.loads(self.body)["error"])


class Target:
    """A daemon with two customers, each with spans, money and an invoice."""

    def __init__(self, folder: Path, daemon: Daemon, ports: dict[str, int]) -> None:
        self.folder = folder
        self.daemon = daemon
        self.ports = ports
        self.keys: dict[str, str] = {}
        self.invoices: dict[str, dict[str, Any]] = {}
        self._session = aiohttp.ClientSession(auto_decompress=False)

    async def close(self) -> None:
        await self._session.close()

    async def ask(
        self, listener: str, method: str, path: str, *, key: str = "", headers: dict[str, str] | None = None, data: bytes | None = None
    ) -> Answer:
        """Exactly these bytes of a path, and no header that was not asked for."""
        sent = {**({"Authorization": f"Bearer {key}"} if key else {}), **(headers or {})}
        url = URL(f"http://127.0.0.1:{self.ports[listener]}{path}", encoded=True)
        async with self._session.request(
            method, url, headers=sent, data=data, skip_auto_headers=["Content-Type", "Accept-Encoding"], allow_redirects=False
        ) as response:
            return Answer(response.status, response.headers, await response.read())

    async def act(self, method: str, path: str, body: Any = None, *, listener: str = "operator", key: str = TOKEN) -> Any:
        """What its owner asks for, and is given."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if data is not None else {}
        answer = await self.ask(listener, method, path, key=key, headers=headers, data=data)
        assert answer.status in (200, 201), answer.body
        return json.loads(answer.body)

    async def raw(self, listener: str, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.ports[listener])
        writer.write(request)
        answer = await asyncio.wait_for(reader.read(), 30)
        writer.close()
        return answer

    def filled(self, operation: Operation, account: str = "globex") -> str:
        """The path of an operation on what is an account's."""
        values = {"account": account, "payment_hash": self.invoices[account]["payment_hash"], "asset": "x"}
        return re.sub(r"{(\w+)}", lambda name: values[name[1]], operation.path)

    def body(self, operation: Operation) -> bytes:
        """One that would do something if it was allowed."""
        bodies = {
            "/api/v1/accounts": {"account": "mallory"},
            "/api/v1/accounts/{account}": {"enforce": False, "note": "mallory"},
            "/api/v1/accounts/{account}/adjust": {"amount_msat": 10**9, "id": "mallory"},
            "/api/v1/accounts/{account}/topups": {"amount_sat": 777},
            "/api/v1/credit/topups": {"amount_sat": 777},
            "/api/v1/dev/pay": {"invoice": self.invoices["globex"]["bolt11"]},
            "/api/v1/forget": {"user": "bob@globex"},
            "/api/v1/backup": {"path": str(self.folder / "stolen.db")},
        }
        return json.dumps(bodies.get(operation.path, {})).encode()

    def books(self) -> dict[str, Any]:
        """All that nobody may change."""
        connection = apsw.Connection(str(self.folder / "spantoll.db"), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            found: dict[str, Any] = {table: connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall() for table in TABLES}  # noqa: S608 -- names of our own
        finally:
            connection.close()
        return {**found, "stolen": (self.folder / "stolen.db").exists(), "open": self.daemon.window.traces}


@asynccontextmanager
async def target(folder: Path, *settings: str) -> AsyncIterator[Target]:
    async with serving(folder, "lightning.address=true", "lightning.public_per_hour=0", *settings) as (daemon, ports):
        made = Target(folder, daemon, ports)
        try:
            for trace, name in enumerate(("acme", "globex"), 1):
                made.keys[name] = (await made.act("POST", "/api/v1/accounts", {"account": name, "note": f"of {name}"}))["key"]
                own = made.keys[name]
                made.invoices[name] = await made.act("POST", "/api/v1/credit/topups", {"amount_sat": 500}, listener="customer", key=own)
                sent = export(agent(trace, 1, f"agent of {name}"), model_call(trace, 2, parent=1, user__id=f"bob@{name}"))
                assert (await http_call(ports["otlp.http"], sent, key=own)).code == 200
            await made.act("POST", "/-/release")
            assert (await http_call(ports["otlp.http"], export(model_call(9, 1)), key=made.keys["globex"])).code == 200
            yield made
        finally:
            await made.close()


def refused(answer: Answer, *statuses: int) -> bool:
    return answer.status in statuses and not [name for name in answer.headers if name.lower().startswith("access-control")]


# --- a page in the operator's browser ------------------------------------------------------------------------------------------


async def test_no_route_answers_under_a_foreign_name(tmp_path: Path) -> None:
    """DNS rebinding: the page's own name points to 127.0.0.1, and its requests have every right header but `Host`."""
    async with target(tmp_path) as at:
        before = at.books()
        for operation, host in itertools.product(
            operations(), ("evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "[::1")
        ):
            key = TOKEN if operation.listener == "operator" else at.keys["globex"]
            headers = {"Host": host, "Content-Type": "application/json"} if operation.changes else {"Host": host}
            answer = await at.ask(
                operation.listener,
                operation.method,
                at.filled(operation),
                key=key,
                headers=headers,
                data=at.body(operation) if operation.changes else None,
            )
            assert refused(answer, 421), (operation, host, answer.status)
        assert at.books() == before


@pytest.mark.parametrize(
    "origin",
    [
        b"http://evil.example",
        b"null",
        b"http://[",
        "http://\u2100.com".encode(),
        b"http://localhost.evil.example",
        b"\xff",
        b"https://",
        b"//",
    ],
)
async def test_no_route_answers_a_foreign_page(tmp_path: Path, origin: bytes) -> None:
    """Whatever stands in `Origin`, with the operator's own token: refused, never a fault of ours, and a preflight is given nothing."""
    async with target(tmp_path) as at:
        before = at.books()
        for operation in operations():
            key = TOKEN if operation.listener == "operator" else at.keys["globex"]
            body = at.body(operation) if operation.changes else b""
            kind = b"Content-Type: application/json\r\n" if body else b""
            for method in (operation.method, "OPTIONS"):
                answer = await at.raw(
                    operation.listener,
                    b"%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer %s\r\nOrigin: %s\r\n%s"
                    b"Access-Control-Request-Method: POST\r\nContent-Length: %d\r\n\r\n%s"
                    % (method.encode(), at.filled(operation).encode(), key.encode(), origin, kind, len(body), body),
                )
                assert answer.startswith(b"HTTP/1.1 403 "), (operation, method, answer[:200])
                assert b"access-control-allow" not in answer.lower()
        assert at.books() == before


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "application/xml"]
)
async def test_what_a_page_can_send_unasked_changes_nothing(tmp_path: Path, kind: str) -> None:
    """Forms and `fetch` without a preflight have these types, and may carry JSON in them."""
    async with target(tmp_path) as at:
        before = at.books()
        for operation in operations(changes=True):
            key = TOKEN if operation.listener == "operator" else at.keys["globex"]
            headers = {"Content-Type": kind} if kind else {}
            answer = await at.ask(
                operation.listener, operation.method, at.filled(operation), key=key, headers=headers, data=at.body(operation)
            )
            assert refused(answer, 415), (operation, answer.status, answer.body)
        assert at.books() == before


async def test_looking_changes_nothing(tmp_path: Path) -> None:
    """Every GET and HEAD, by its owner; but for a Lightning Address, whose protocol asks for an invoice by GET."""
    async with target(tmp_path) as at:
        before = at.books()
        for operation in operations(changes=False):
            for method in ("GET", "HEAD"):
                key = TOKEN if operation.listener == "operator" else at.keys["globex"]
                answer = await at.ask(operation.listener, method, at.filled(operation), key=key)
                assert answer.status in (200, 400, 404), (operation, answer.status)
        assert at.books() == before


# --- no credential, a wrong one, somebody else's -------------------------------------------------------------------------------


def wrong(at: Target) -> dict[str, dict[str, str]]:
    """Credentials that open nothing of globex or of the operator, by name."""
    good = at.keys["globex"]
    return {
        "none": {},
        "empty": {"Authorization": ""},
        "no key": {"Authorization": "Bearer"},
        "unknown": {"Authorization": f"Bearer {CANARY}"},
        "a digest": {"Authorization": f"Bearer {hashlib.sha256(good.encode()).hexdigest()}"},
        "cut": {"Authorization": f"Bearer {good[:-1]}"},
        "longer": {"Authorization": f"Bearer {good}x"},
        "other case": {"Authorization": f"Bearer {good.swapcase()}"},
        "basic": {"Authorization": f"Basic {good}"},
        "SQL": {"Authorization": "Bearer ' OR 1=1 --"},
        "long": {"Authorization": "Bearer " + "x" * 4_000},
        "L402 of nobody": {"Authorization": f"L402 AgEEbHNhdA:{'0' * 64}"},
        "elsewhere": {"X-Authorization": f"Bearer {TOKEN}", "Proxy-Authorization": f"Bearer {TOKEN}", "Cookie": f"token={TOKEN}"},
    }


@pytest.mark.parametrize("lock", [False, True], ids=["reads are free", "operator.key"])
async def test_no_route_opens_to_a_wrong_credential(tmp_path: Path, caplog: pytest.LogCaptureFixture, *, lock: bool) -> None:
    """Everything that changes something, and every look that is not free. Neither a customer's key nor what was sent comes out again."""
    caplog.set_level(logging.DEBUG)
    settings = [f"operator.key=[{{name = 'ops', sha256 = '{hashlib.sha256(b'the key of ops').hexdigest()}'}}]"] if lock else []
    async with target(tmp_path, *settings) as at:
        before = at.books()
        for operation in operations(is_open=False):
            if operation.path == "/api/v1/openapi.json" and operation.listener == "customer":
                continue  # open to all, as the document says by {}
            if operation.listener == "operator" and not operation.changes and not lock:
                continue
            tried = wrong(at)
            tried["of the other listener"] = {"Authorization": f"Bearer {at.keys['globex'] if operation.listener == 'operator' else TOKEN}"}
            for name, headers in tried.items():
                kind = {"Content-Type": "application/json"} if operation.changes else {}
                data = at.body(operation) if operation.changes else None
                answer = await at.ask(operation.listener, operation.method, at.filled(operation), headers={**headers, **kind}, data=data)
                assert refused(answer, 401), (operation, name, answer.status, answer.body)
                assert answer.headers["WWW-Authenticate"]
                assert CANARY.encode() not in answer.body
        assert at.books() == before
        secrets = [CANARY, TOKEN, *at.keys.values()]
    logged = caplog.text + "".join(str(record.__dict__) for record in caplog.records if record.name.startswith("receiver"))
    assert not [secret for secret in secrets if secret in logged]


async def test_two_credentials_are_none(tmp_path: Path) -> None:
    """A proxy before us may have judged the other one: which of two counts is nobody's guess."""
    async with target(tmp_path) as at:
        before = at.books()
        for operation in operations(is_open=False):
            good = (TOKEN if operation.listener == "operator" else at.keys["globex"]).encode()
            for pair in ((good, CANARY.encode()), (CANARY.encode(), good)):
                sent = b"".join(b"Authorization: Bearer %s\r\n" % each for each in pair)
                answer = await at.raw(
                    operation.listener,
                    b"%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%s\r\n"
                    % (operation.method.encode(), at.filled(operation).encode(), sent),
                )
                assert answer.startswith(b"HTTP/1.1 400 "), (operation, answer[:200])
        assert at.books() == before


def tricks(path: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Other spellings of a path that some servers take for the same."""
    segments = path.split("/")
    yield path + "/", {}
    yield path + "//", {}
    yield "/" + path, {}
    yield path.upper(), {}
    yield path + ";x", {}
    yield path + "%00", {}
    yield path + "%20", {}
    yield path + ".json", {}
    yield "/-/healthy/.." + path, {}
    yield "/%2e" + path, {}
    yield "/" + "".join(f"%{ord(letter):02x}" for letter in path[1:]), {}
    yield "/".join([*segments[:-1], f"%{ord(segments[-1][0]):02x}{segments[-1][1:]}"]), {}
    yield path.replace("/", "%2f").replace("%2f", "/", 1), {}
    yield path.replace("/", "\\"), {}
    yield "/", {"X-Original-URL": path, "X-Rewrite-URL": path, "X-Forwarded-Prefix": path}
    yield path, {"X-Forwarded-For": "127.0.0.1", "Forwarded": "for=127.0.0.1", "X-Real-IP": "127.0.0.1"}


async def test_no_other_spelling_opens_a_route(tmp_path: Path) -> None:
    """Other spellings of paths and methods, without a credential: nothing is done, and nothing is a fault of ours."""
    async with target(tmp_path) as at:
        before = at.books()
        for operation in operations(changes=True):
            for path, headers in tricks(at.filled(operation)):
                for method in (operation.method, "GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE", operation.method.lower(), "FOO"):
                    more = {**headers, "X-HTTP-Method-Override": operation.method, "X-Method-Override": operation.method}
                    body = at.body(operation) if method == operation.method else b""
                    kind = {"Content-Type": "application/json", "Content-Length": str(len(body))} if body else {}
                    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close"]
                    lines += [f"{name}: {value}" for name, value in {**more, **kind}.items()]
                    answer = await at.raw(operation.listener, "\r\n".join([*lines, "", ""]).encode() + body)
                    assert re.match(rb"HTTP/1.[01] [234]\d\d ", answer), (operation, method, path, answer[:200])
        assert at.books() == before


async def test_a_customer_reads_nothing_of_another(tmp_path: Path) -> None:
    """With a key of his own: another's invoices by their hash, another's account by any parameter or header, and all that is shown."""
    async with target(tmp_path) as at:
        mine = at.keys["acme"]
        await at.act("POST", "/api/v1/dev/pay", {"invoice": at.invoices["globex"]["bolt11"]})
        for operation in operations(listener="customer"):
            if operation.changes or operation.is_open:
                continue  # what is open shows no account, and a Lightning Address is told to everybody
            for query, headers in (
                ("", {}),
                ("?account=globex", {}),
                ("?by=user&account=globex&account=globex&ofAccount=globex&user=bob@globex", {}),
                ("?by=account", {"X-Account": "globex", "Account": "globex"}),
            ):
                answer = await at.ask("customer", "GET", at.filled(operation, "globex") + query, key=mine, headers=headers)
                assert answer.status in ((404,) if "payment_hash" in operation.path else (200, 400)), (operation, query, answer.body)
                if answer.status == 200 and operation.path != "/api/v1/openapi.json":
                    assert not OTHERS.search(answer.body), (operation, query)
                assert at.invoices["globex"]["payment_hash"].encode() not in answer.body
        for path in (
            "/api/v1/accounts",
            "/api/v1/accounts/globex",
            "/metrics",
            "/api/v1/audit",
            "/api/v1/sources",
            "/-/window",
            "/api/v1/overview",
        ):
            assert (await at.ask("customer", "GET", path, key=mine)).status == 404, path
        before = at.books()
        assert (await at.ask("customer", "POST", "/api/v1/accounts/globex/topups", key=mine)).status == 404
        assert at.books() == before


async def test_the_preimage_of_a_top_up_is_its_accounts_alone(tmp_path: Path) -> None:
    """It is the proof of payment, and with L402 half of a credential: what strangers may ask of a Lightning Address does not show it."""
    async with target(tmp_path) as at:
        paid = await at.act("POST", "/api/v1/dev/pay", {"invoice": at.invoices["globex"]["bolt11"]})
        preimage = paid["preimage"].encode()
        own = await at.ask("customer", "GET", f"/api/v1/credit/topups/{paid['payment_hash']}", key=at.keys["globex"])
        assert preimage in own.body
        for operation in operations(listener="customer"):
            for account in ("globex", "acme"):
                path = at.filled(operation, "globex").replace("globex", account) + "?amount=500000"
                for key in ("", at.keys["acme"]):
                    assert preimage not in (await at.ask("customer", "GET", path, key=key)).body, operation


# --- sizes, and what a wrong key costs -----------------------------------------------------------------------------------------


async def test_no_route_reads_a_large_body(tmp_path: Path) -> None:
    """By its announcement before a byte is sent, and by its bytes where nothing is announced."""
    async with target(tmp_path) as at:
        before = at.books()
        chunk = b"%x\r\n%s\r\n" % (MAX_BODY_BYTES + 1, b" " * (MAX_BODY_BYTES + 1))

        async def tried(operation: Operation) -> None:
            key = (TOKEN if operation.listener == "operator" else at.keys["globex"]).encode()
            head = (
                b"%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n"
                % (operation.method.encode(), at.filled(operation).encode(), key)
            )
            announced = await at.raw(operation.listener, head + b"Content-Length: 1000000000000\r\n\r\n")
            chunked = await at.raw(operation.listener, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk + b"0\r\n\r\n")
            for answer in (announced, chunked):
                assert answer.startswith(b"HTTP/1.1 413 " if operation.body else b"HTTP/1.1 2"), (operation, answer[:100])

        await asyncio.gather(*map(tried, operations(changes=True)))  # at once, for a refusal lingers for a moment
        after = at.books()
        assert {**after, "accounts": 0, "keys": 0, "open": 0} == {**before, "accounts": 0, "keys": 0, "open": 0}


async def test_a_wrong_key_costs_what_a_right_one_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted work instead of a clock: one digest, and one comparison of 32 bytes, whatever the key is."""
    work: list[str] = []
    sha256, compare = hashlib.sha256, hmac.compare_digest

    def digested(data: bytes = b"", **more: Any) -> Any:
        work.append("sha256")
        return sha256(data, **more)

    def compared(one: Any, other: Any) -> bool:
        assert len(one) == len(other) == 32
        work.append("compare")
        return compare(one, other)

    async with target(tmp_path) as at:
        old = at.keys["acme"]
        await at.act("POST", "/api/v1/accounts/acme/rotate-key", {"grace_seconds": 60})
        await at.act("POST", "/api/v1/accounts/acme/disable")
        keys = {
            "right": at.keys["globex"],
            "disabled": old,
            "unknown": CANARY,
            "empty": "",
            "NUL": "\0",
            "SQL": "' OR 1=1 --",
            "any": "ü" * 32,
        }
        register = at.daemon.offices.register
        monkeypatch.setattr(hashlib, "sha256", digested)
        monkeypatch.setattr(hmac, "compare_digest", compared)
        costs = {}
        for name, key in keys.items():
            work.clear()
            with contextlib.suppress(ReceiverError):
                register.account(f"Bearer {key}")
            costs[name] = tuple(work)
        monkeypatch.undo()
    assert set(costs.values()) == {("sha256", "compare")}, costs
