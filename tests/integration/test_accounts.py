"""Accounts and keys over the books on disk and over the API: made, shown, changed, disabled, replaced, and there after a restart."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from receiver.access.accounts import Accounts
from receiver.access.keys import hash_key
from receiver.admin.accounts import SETTABLE, AccountOffice
from receiver.config import Credit, Operator
from receiver.core.accounts import Account, AccountKey, AccountToken
from receiver.core.books import MemoryLedger
from receiver.core.credit import OnExhausted
from receiver.core.journal import StoreFull
from receiver.errors import AccountDisabled, Conflict, InvalidValue, NotFound, Unauthenticated
from receiver.store.books import SqliteBooks
from receiver.web.accounts import MAX_GRACE_SECONDS, SETTINGS, routes
from receiver.web.operator import operator_server
from receiver.web.server import WebServer
from tests.exports import export, model_call
from tests.fakes import ManualClock
from tests.integration.test_daemon_credit import TOKEN as SERVING_TOKEN
from tests.integration.test_daemon_credit import serving
from tests.integration.test_operator_web import Daemon
from tests.integration.web_helpers import Answer, ask
from tests.integration.wire_helpers import grpc_call, http_call

TOKEN = "spo_" + "t" * 43
STATIC = (("configured", hash_key("spt_static")),)


class Book:
    """An account book in memory whose disk may be full."""

    def __init__(self) -> None:
        self.stored: dict[str, Account] = {}
        self.stored_keys: dict[bytes, AccountKey] = {}
        self.stored_tokens: dict[bytes, AccountToken] = {}
        self.acts: list[str] = []
        self.full_at: set[str] = set()

    async def accounts(self) -> Sequence[Account]:
        return list(self.stored.values())

    async def keys(self) -> Sequence[AccountKey]:
        return list(self.stored_keys.values())

    async def put_account(self, account: Account) -> None:
        await self._act("put_account")
        self.stored[account.name] = account

    async def put_key(self, key: AccountKey) -> None:
        await self._act("put_key")
        self.stored_keys[key.sha256] = key

    async def remove_key(self, sha256: bytes) -> None:
        await self._act("remove_key")
        self.stored_keys.pop(sha256, None)

    async def tokens(self, *, watched_since_unix_nano: int) -> Sequence[AccountToken]:
        return [token for token in self.stored_tokens.values() if token.is_paid or token.payable_until_unix_nano >= watched_since_unix_nano]

    async def token_of(self, payment_hash: bytes) -> AccountToken | None:
        return next((token for token in self.stored_tokens.values() if token.payment_hash == payment_hash), None)

    async def put_token(self, token: AccountToken) -> None:
        await self._act("put_token")
        self.stored_tokens[token.id] = token

    async def remove_token(self, token_id: bytes) -> None:
        await self._act("remove_token")
        self.stored_tokens.pop(token_id, None)

    async def _act(self, name: str) -> None:
        await asyncio.sleep(0)
        if name in self.full_at:
            raise StoreFull
        self.acts.append(name)


class House:
    """An office over a book, with everything that it works on."""

    def __init__(self, *, static: Sequence[tuple[str, str]] = (), start: int = 0, credit: Credit | None = None) -> None:
        self.clock = ManualClock()
        self.book = Book()
        self.ledger = MemoryLedger()
        self.register = Accounts(credit or Credit(), clock=self.clock, static=static)
        self.office = AccountOffice(
            book=self.book,
            register=self.register,
            ledger=self.ledger,
            clock=self.clock,
            start_balance_msat=start,
            max_request_bytes=1_024 * 1_024,
        )


@asynccontextmanager
async def on_disk(folder: Path, clock: ManualClock, *, start: int = 0, static: Sequence[tuple[str, str]] = STATIC) -> AsyncIterator[Any]:
    """The same over the books of a data folder: (office, register, ledger)."""
    books = SqliteBooks(folder / "spantoll.db", clock=clock)
    try:
        register = Accounts(Credit(), clock=clock, static=static)
        office = AccountOffice(book=books.accounts, register=register, ledger=books.ledger, clock=clock, start_balance_msat=start)
        await office.begin()
        yield office, register, books.ledger
    finally:
        await books.stop()


# --- the life of an account ----------------------------------------------------------------------------------------------------------


async def test_what_was_done_is_there_after_a_restart(tmp_path: Path) -> None:
    """Accounts, terms, keys, an old key's grace and a disabled account, from the database alone."""
    clock = ManualClock()
    async with on_disk(tmp_path, clock) as (office, _, _):
        one = await office.add("acme/team", {"enforce": True, "on_exhausted": "hold", "max_series": 50, "note": "pays late"})
        clock.advance(1)
        two = await office.rotate_key("acme/team", grace_seconds=3_600)
        three = await office.add("globex", {})
        await office.disable("globex")
    async with on_disk(tmp_path, clock) as (office, register, _):
        shown = office.show("acme/team")
        assert {name: shown["credit"][name] for name in ("enforce", "on_exhausted")} == {"enforce": True, "on_exhausted": "hold"}
        assert (shown["limits"]["max_series"], shown["note"], shown["own"]) == (50, "pays late", ["enforce", "on_exhausted", "max_series"])
        assert [key["hint"] for key in shown["keys"]] == [one["key"][:8], two["key"][:8]]
        assert register.account(f"Bearer {one['key']}") == register.account(f"Bearer {two['key']}") == "acme/team"
        assert register.policy("acme/team").on_exhausted is OnExhausted.HOLD
        assert register.limits("acme/team").max_series == 50
        with pytest.raises(AccountDisabled):
            register.account(f"Bearer {three['key']}")
        clock.advance(3_600)
        with pytest.raises(Unauthenticated):
            register.account(f"Bearer {one['key']}")
        assert [key["hint"] for key in office.show("acme/team")["keys"]] == [two["key"][:8]]
        assert [account["account"] for account in office.list()["accounts"]] == ["acme/team", "configured", "default", "globex"]


async def test_an_account_of_the_configuration_is_written_down_and_outlives_its_key(tmp_path: Path) -> None:
    """Its books stay, so it stays; the key goes with its line in the configuration."""
    clock = ManualClock()
    async with on_disk(tmp_path, clock) as (office, register, _):
        assert register.account("Bearer spt_static") == "configured"
        created = office.show("configured")["created"]
        assert office.show("configured")["keys"] == [
            {"hint": f"sha256:{hash_key('spt_static')[:8]}", "created": None, "expires": None, "source": "configuration"}
        ]
    clock.advance(60)
    async with on_disk(tmp_path, clock, static=()) as (office, register, _):
        assert (office.show("configured")["created"], office.show("configured")["keys"]) == (created, [])
        assert not register.required


async def test_a_start_balance_is_given_once_to_each_account(tmp_path: Path) -> None:
    """To `default`, to the configuration's, to a new one; never again, however often it starts and whatever the amount is by then."""
    clock = ManualClock()
    async with on_disk(tmp_path, clock, start=5_000) as (office, _, ledger):
        assert (await office.add("acme", {}))["balance_msat"] == 5_000
        assert [account["balance_msat"] for account in office.list()["accounts"]] == [5_000] * 3
    for start in (5_000, 9_000, 0):
        async with on_disk(tmp_path, clock, start=start) as (office, _, ledger):
            assert [account["balance_msat"] for account in office.list()["accounts"]] == [5_000] * 3
            assert (await ledger.audit()).balanced
    async with on_disk(tmp_path, clock) as (office, _, ledger):
        assert (await office.add("late", {}))["balance_msat"] == 0
    async with on_disk(tmp_path, clock, start=7_000) as (office, _, ledger):
        assert office.show("late")["balance_msat"] == 7_000, "it had none yet"


async def test_the_first_key_closes_the_door_and_says_so() -> None:
    """Whoever was `default` until now is refused from now on; later keys change nothing for others."""
    house = House()
    await house.office.begin()
    assert house.register.account(None) == "default"
    assert (await house.office.add("acme", {}))["first_key"] is True
    with pytest.raises(Unauthenticated):
        house.register.account(None)
    assert (await house.office.add("globex", {}))["first_key"] is False
    assert house.office.list()["key_required"] is True
    other = House()
    await other.office.begin()
    made = await other.office.rotate_key("default")
    assert (made["first_key"], other.register.account(f"Bearer {made['key']}")) == (True, "default")


async def test_a_name_is_given_once() -> None:
    """Also one of the configuration and `default`; the sentence says how to get a key instead."""
    house = House(static=STATIC)
    await house.office.add("acme", {})
    for name in ("acme", "configured", "default"):
        with pytest.raises(Conflict, match=f"rotate-key {name}"):
            await house.office.add(name, {})
    for act in (house.office.disable, house.office.enable, house.office.rotate_key):
        with pytest.raises(NotFound, match="nobody"):
            await act("nobody")
    with pytest.raises(NotFound):
        house.office.show("nobody")


async def test_a_disabled_account_is_refused_at_once_and_let_in_again() -> None:
    """Its key is the same afterwards, and so are its terms."""
    house = House()
    made = await house.office.add("acme", {"price_per_span_msat": 3})
    assert (await house.office.disable("acme"))["enabled"] is False
    with pytest.raises(AccountDisabled):
        house.register.account(f"Bearer {made['key']}")
    assert not house.register.policy("acme").enabled
    assert (await house.office.change("acme", {"note": "x"}))["enabled"] is False, "a change does not enable it by the way"
    await house.office.enable("acme")
    assert house.register.account(f"Bearer {made['key']}") == "acme"
    assert house.register.policy("acme").price_per_span_msat == 3


async def test_a_rotation_ends_the_old_keys_now_or_after_the_grace() -> None:
    """A second rotation with a grace never prolongs a key that ends sooner, and sweeps those that have ended."""
    house = House(static=STATIC)
    office, register = house.office, house.register
    one = (await office.add("acme", {}))["key"]
    rotated = await office.rotate_key("acme", grace_seconds=60)
    two = rotated["key"]
    assert (rotated["replaced_keys"], rotated["old_keys_expire"]) == (1, "2026-10-01T00:01:00Z")
    three = (await office.rotate_key("acme", grace_seconds=3_600))["key"]
    house.clock.advance(60)
    with pytest.raises(Unauthenticated):
        register.account(f"Bearer {one}")
    assert register.account(f"Bearer {two}") == register.account(f"Bearer {three}") == "acme"
    last = await office.rotate_key("acme")
    assert (last["replaced_keys"], last["old_keys_expire"]) == (2, None)
    for key in (one, two, three):
        with pytest.raises(Unauthenticated):
            register.account(f"Bearer {key}")
    assert register.account(f"Bearer {last['key']}") == "acme"
    assert len(house.book.stored_keys) == 1, "what has ended is not kept"
    await office.rotate_key("configured")
    assert register.account("Bearer spt_static") == "configured", "the configuration's own keys are left alone"


async def test_terms_are_set_and_unset_one_by_one() -> None:
    """None is as for everyone again; what is not named stays."""
    house = House(credit=Credit(price_per_span_msat=7))
    await house.office.add("acme", {"price_per_span_msat": 3, "credit_limit_msat": 9})
    changed = await house.office.change("acme", {"price_per_span_msat": None, "enforce": False})
    assert (changed["credit"]["price_per_span_msat"], changed["credit"]["credit_limit_msat"]) == (7, 9)
    assert changed["own"] == ["enforce", "credit_limit_msat"]
    assert house.register.policy("acme").credit_limit_msat == 9


async def test_contradictions_are_refused_and_change_nothing() -> None:
    """Debt without a bound, and a bound on bytes in flight that shuts the largest legal request out for good."""
    house = House()
    await house.office.add("acme", {})
    with pytest.raises(InvalidValue, match="max_debt_msat"):
        await house.office.change("acme", {"on_exhausted": "accept"})
    with pytest.raises(InvalidValue, match="max_request_size"):
        await house.office.change("acme", {"max_in_flight": 1_024 * 1_024 - 1})
    with pytest.raises(InvalidValue):
        await house.office.add("globex", {"on_exhausted": "accept"})
    assert house.register.find("globex") is None
    assert house.office.show("acme")["own"] == []
    both = await house.office.change("acme", {"on_exhausted": "accept", "max_debt_msat": 1, "max_in_flight": 1_024 * 1_024})
    assert both["credit"]["max_debt_msat"] == 1


# --- a full disk ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", ["add", "change", "disable", "rotate_key"])
async def test_what_could_not_be_written_down_is_not_in_force(act: str) -> None:
    """The register never knows more than the book: else a restart would take back what the operator was told."""
    house = House()
    key = (await house.office.add("acme", {}))["key"]
    before = house.office.list()
    house.book.full_at = {"put_account", "put_key", "remove_key"}
    arguments: dict[str, tuple[Any, ...]] = {"add": ("globex", {}), "change": ("acme", {"note": "x"})}
    with pytest.raises(StoreFull):
        await getattr(house.office, act)(*arguments.get(act, ("acme",)))
    assert house.office.list() == before
    assert house.register.account(f"Bearer {key}") == "acme"
    house.book.full_at = set()
    await getattr(house.office, act)(*arguments.get(act, ("acme",)))
    assert house.office.list() != before


async def test_a_full_disk_does_not_keep_the_daemon_from_starting(caplog: pytest.LogCaptureFixture) -> None:
    """Accounts that are known are let in; what is to be written waits for the next start, which the log says."""
    house = House(static=STATIC, start=5)
    house.book.full_at = {"put_account"}
    await house.office.begin()
    assert house.register.account("Bearer spt_static") == "configured"
    assert "next start" in caplog.text


async def test_acts_at_the_same_time_come_one_after_the_other() -> None:
    """Two rotations at once end with one key that works, not with two or none."""
    house = House()
    await house.office.add("acme", {})
    made = await asyncio.gather(*(house.office.rotate_key("acme") for _ in range(5)))
    working = []
    for each in made:
        try:
            house.register.account(f"Bearer {each['key']}")
        except Unauthenticated:
            continue
        working.append(each["key"])
    assert working == [made[-1]["key"]]
    outcomes = await asyncio.gather(*(house.office.add("globex", {}) for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(outcome, dict) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 4


# --- over the API --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def served() -> AsyncIterator[tuple[WebServer, House]]:
    house = House(static=STATIC)
    await house.office.begin()
    server = operator_server(Operator(endpoint="127.0.0.1:0"), Daemon(), token=TOKEN, more=routes(house.office))
    await server.start()
    yield server, house
    await server.stop()


async def call(server: WebServer, method: str, path: str, body: Any = None, *, token: str = TOKEN) -> Answer:
    headers = {"Authorization": f"Bearer {token}"} | ({} if body is None else {"Content-Type": "application/json"})
    return await ask(server, method, path, headers=headers, data=None if body is None else json.dumps(body).encode())


async def test_the_api_does_it_all(served: tuple[WebServer, House]) -> None:
    """Made with 201, shown, changed, disabled, enabled, rotated; a name with a slash is one segment."""
    server, house = served
    made = await call(server, "POST", "/api/v1/accounts", {"account": "acme/team", "enforce": True, "max_in_flight": 2**20, "note": None})
    assert made.status == 201
    assert house.register.account(f"Bearer {made.json['key']}") == "acme/team"
    at = "/api/v1/accounts/acme%2Fteam"
    assert (await call(server, "GET", at)).json == {key: made.json[key] for key in made.json if key not in ("key", "first_key")}
    assert (await call(server, "PATCH", at, {"enforce": None, "note": "ü"})).json["own"] == ["max_in_flight"]
    assert (await call(server, "POST", f"{at}/disable")).json["enabled"] is False
    assert (await call(server, "POST", f"{at}/enable", {})).json["enabled"] is True
    rotated = await call(server, "POST", f"{at}/rotate-key", {"grace_seconds": 60})
    assert rotated.json["old_keys_expire"] is not None
    listed = (await call(server, "GET", "/api/v1/accounts")).json
    assert [account["account"] for account in listed["accounts"]] == ["acme/team", "configured", "default"]
    assert (await call(server, "POST", "/api/v1/accounts", {"account": "acme/team"})).status == 409
    assert (await call(server, "GET", "/api/v1/accounts/nobody")).status == 404


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"account": None},
        {"account": ""},
        {"account": "-x"},
        {"account": "a b"},
        {"account": "x" * 129},
        {"account": "../etc"},
        {"account": 5},
        {"account": "ok", "enforce": "yes"},
        {"account": "ok", "price_per_span_msat": -1},
        {"account": "ok", "price_per_span_msat": 1.5},
        {"account": "ok", "price_per_span_msat": True},
        {"account": "ok", "credit_limit_msat": 10**30},
        {"account": "ok", "on_exhausted": "maybe"},
        {"account": "ok", "max_in_flight": 10},
        {"account": "ok", "note": "two\nlines"},
        {"account": "ok", "note": "x" * 1_025},
        {"account": "ok", "enabled": False},
        {"account": "ok", "pricepspan": 5},
    ],
    ids=repr,
)
async def test_wrong_bodies_are_refused_with_what_is_allowed(served: tuple[WebServer, House], body: dict[str, Any]) -> None:
    """A field that is not known is a typing error, never passed over in silence; nothing is made."""
    server, house = served
    answer = await call(server, "POST", "/api/v1/accounts", body)
    assert (answer.status, answer.json["error"]) == (400, "invalid_value")
    assert len(answer.json["message"]) < 400
    assert house.register.find("ok") is None


async def test_a_grace_has_bounds(served: tuple[WebServer, House]) -> None:
    """An old key that lives for a year was not replaced."""
    server, _ = served
    for grace in (-1, MAX_GRACE_SECONDS + 1, "1h", True):
        assert (await call(server, "POST", "/api/v1/accounts/default/rotate-key", {"grace_seconds": grace})).status == 400


async def test_every_act_needs_the_token_and_looking_does_not(served: tuple[WebServer, House]) -> None:
    """The table of routes is walked, so that a new act cannot be forgotten."""
    server, house = served
    before = house.office.list()
    for route in server.routes:
        path = route.path.replace("{account}", "default")
        answer = await ask(server, route.method, path, headers={"Authorization": "Bearer wrong"})
        assert (answer.status == 401) == (route.method != "GET"), (route.method, route.path)
    assert house.office.list() == before


def test_what_can_be_set_is_the_same_everywhere() -> None:
    """Over the API and in the office."""
    assert set(SETTINGS) == set(SETTABLE)


async def test_no_key_and_no_token_is_in_a_log_or_an_answer_that_did_not_make_it(
    served: tuple[WebServer, House], caplog: pytest.LogCaptureFixture
) -> None:
    """A key is in the one answer that made it; canaries for all others, refusals and the log at its most talkative."""
    server, house = served
    caplog.set_level(logging.DEBUG)
    made = [(await call(server, "POST", "/api/v1/accounts", {"account": "acme"})).json["key"]]
    made.append((await call(server, "POST", "/api/v1/accounts/acme/rotate-key", {"grace_seconds": 5})).json["key"])
    seen = [
        await call(server, "GET", "/api/v1/accounts"),
        await call(server, "GET", "/api/v1/accounts/acme"),
        await call(server, "POST", "/api/v1/accounts", {"account": "acme"}),
        await call(server, "POST", "/api/v1/accounts/acme/disable"),
        await call(server, "POST", "/api/v1/accounts/acme/disable", token=made[0]),
        await call(server, "GET", "/"),
    ]
    texts = [caplog.text, repr(house.register.keys("acme")), *(answer.body.decode() for answer in seen)]
    texts += [f"{record.__dict__}" for record in caplog.records]
    for text in texts:
        for secret in (*made, TOKEN, *map(hash_key, made)):
            assert secret not in text


async def test_a_disabled_account_and_a_replaced_key_are_refused_at_once_on_both_transports(tmp_path: Path) -> None:
    """Final for the client, with reasons that programs read; what was stored stays, and the next key opens the same books."""
    async with serving(tmp_path) as (daemon, ports):

        async def act(path: str, body: Any = None) -> Any:
            headers = {"Authorization": f"Bearer {SERVING_TOKEN}"}
            url = f"http://127.0.0.1:{ports['operator']}/api/v1/accounts{path}"
            async with aiohttp.ClientSession(headers=headers) as session, session.post(url, json=body or {}) as answer:
                assert answer.status < 300, await answer.text()
                return await answer.json()

        number = 0

        async def sent(key: str) -> tuple[int, int, set[str]]:
            """The code of gRPC, the status of HTTP, and the sentences of both."""
            nonlocal number
            number += 1
            grpc = await grpc_call(ports["otlp.grpc"], export(model_call(number, 1)), key=key)
            number += 1
            http = await http_call(ports["otlp.http"], export(model_call(number, 1)), key=key)
            reasons = {reply.status.message for reply, good in ((grpc, 0), (http, 200)) if reply.code != good}
            return grpc.code, http.code, reasons

        one = (await act("", {"account": "acme"}))["key"]
        assert (await sent(one))[:2] == (0, 200)
        await act("/acme/disable")
        code, status, reasons = await sent(one)
        assert (code, status) == (7, 403)  # PERMISSION_DENIED
        assert all("disabled" in reason for reason in reasons)
        await act("/acme/enable")
        two = (await act("/acme/rotate-key"))["key"]
        code, status, reasons = await sent(one)
        assert (code, status) == (16, 401)  # UNAUTHENTICATED
        assert not [secret for secret in (one, two) if secret in str(reasons)]
        assert (await sent(two))[:2] == (0, 200)
        assert daemon.offices.ledger.balance("acme").debits_msat == 4 * 10
