"""The credit office over a real database, and over its two web listeners: who sees what, and what every act leaves behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from receiver.access.keys import hash_key
from receiver.admin.credit import MAX_WAITING
from receiver.config import Credit, Customer, Operator
from receiver.core.accounts import Account, AccountKey
from receiver.core.ledger import MAX_TRANSFER_MSAT
from receiver.errors import Conflict, InvalidValue, NotFound
from receiver.lightning.client import Node, NodeUnavailable
from receiver.store.reader import Reader
from receiver.web import credit as credit_web
from receiver.web.customer import customer_server
from receiver.web.operator import operator_server
from receiver.web.server import WebServer
from tests.fakes import UNIX_NANO
from tests.integration.credit_house import PATIENCE_SECONDS, SAT, CreditHouse, until

TOKEN = "spo_" + "t" * 43
EVER = 2**63 - 1


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[CreditHouse]:
    built = await CreditHouse(tmp_path, direct=True).open()
    yield built
    await built.die()


# --- what an account has -------------------------------------------------------------------------------------------------------------


async def test_a_balance_says_what_is_left_and_on_what_terms(tmp_path: Path) -> None:
    """What is held for requests under way is not available; what is left is told in spans and in time."""
    config = Credit(enforce=True, on_exhausted="accept", max_debt_msat=50 * SAT, credit_limit_msat=7 * SAT, price_per_span_msat=20)
    house = await CreditHouse(tmp_path, credit=config).open()
    try:
        await house.office.adjust("acme", 1_000_500, "gift")
        grant = house.credit.reserve("acme", 100)
        found = house.office.balance("acme")
        assert (found["posted_msat"], found["posted_sat"], found["held_msat"]) == (1_000_500, "1000.5", 2_000)
        assert (found["available_msat"], found["spans_left"]) == (998_500, 49_925)
        assert found["runway_seconds"] is None
        house.credit.commit(grant, now=house.hours.monotonic())
        house.hours.now += 10.0
        paced = house.office.balance("acme")
        assert 0 < paced["runway_seconds"] < 10_000
        assert {name: paced[name] for name in ("enforce", "on_exhausted", "max_debt_msat", "credit_limit_msat", "enabled")} == {
            "enforce": True, "on_exhausted": "accept", "max_debt_msat": 50 * SAT, "credit_limit_msat": 7 * SAT, "enabled": True
        }  # fmt: skip
        assert paced["topup_url"] == "http://localhost:8101/"
        json.dumps(paced)  # no infinity: JSON has none
    finally:
        await house.die()


async def test_free_spans_have_no_number(tmp_path: Path) -> None:
    """Where a span costs nothing, any number of them can be had, and no division is made."""
    house = await CreditHouse(tmp_path, credit=Credit(price_per_span_msat=0)).open()
    try:
        found = house.office.balance("acme")
        assert (found["spans_left"], found["runway_seconds"]) == (None, 0.0)
    finally:
        await house.die()


async def test_nobody_knows_an_account_that_there_is_not(house: CreditHouse) -> None:
    """A mistyped name is refused in every act, so that no money goes to an account that nobody can use."""
    office = house.office
    with pytest.raises(NotFound):
        office.balance("acmee")
    for act in (
        office.statement("acmee", 0, EVER), office.adjust("acmee", 1, "x"), office.top_up("acmee", 500 * SAT), office.list_topups("acmee")
    ):  # fmt: skip
        with pytest.raises(NotFound, match="acmee"):
            await act
    assert house.office.invoices()["open"] == 0


async def test_a_statement_adds_up_from_opening_to_closing(house: CreditHouse) -> None:
    """Every line's balance is the one before it plus its amount, also for a stretch that begins later or holds nothing."""
    moments = []
    for number, amount_msat in enumerate((5_000, -1_000, 300)):
        moments.append(house.hours.unix_nano())
        await house.office.adjust("acme", amount_msat, f"act {number}", f"note {number}")
        house.hours.now += 60.0
    whole = await house.office.statement("acme", 0, EVER)
    assert [(line["amount_msat"], line["balance_msat"], line["cause"]) for line in whole["lines"]] == [
        (5_000, 5_000, "note 0"), (-1_000, 4_000, "note 1"), (300, 4_300, "note 2")
    ]  # fmt: skip
    assert (whole["opening_msat"], whole["closing_msat"]) == (0, 4_300)
    later = await house.office.statement("acme", moments[1], moments[2])
    assert (later["opening_msat"], later["closing_msat"], len(later["lines"])) == (5_000, 4_000, 1)
    nothing = await house.office.statement("acme", moments[2] + 1, EVER)
    assert (nothing["opening_msat"], nothing["closing_msat"], nothing["lines"]) == (4_300, 4_300, [])


# --- what the operator does ----------------------------------------------------------------------------------------------------------


async def test_an_adjustment_is_made_once_for_its_id(house: CreditHouse) -> None:
    """Repeated with its id nothing moves; the same id for something else is a conflict; across a restart too."""
    first = await house.office.adjust("acme", 5_000, "one", "welcome")
    assert (first["outcome"], first["balance"]["posted_msat"]) == ("created", 5_000)
    await house.again()
    second = await house.office.adjust("acme", 5_000, "one", "said again in other words")
    assert (second["outcome"], second["balance"]["posted_msat"]) == ("exists", 5_000)
    for account, amount_msat in (("acme", 5_001), ("acme", -5_000), ("default", 5_000)):
        with pytest.raises(Conflict, match="another adjustment"):
            await house.office.adjust(account, amount_msat, "one")
    results = await asyncio.gather(*(house.office.adjust("acme", 10, "two") for _ in range(20)))
    assert sorted(each["outcome"] for each in results) == ["created"] + ["exists"] * 19
    assert house.office.balance("acme")["posted_msat"] == 5_010


async def test_no_more_is_taken_than_there_is(tmp_path: Path) -> None:
    """Where credit is enforced an account is not taken below its limit; where it is not, the operator may."""
    house = await CreditHouse(tmp_path, credit=Credit(enforce=True)).open()
    try:
        await house.office.adjust("acme", 1_000, "a")
        with pytest.raises(Conflict, match="less than is to be taken"):
            await house.office.adjust("acme", -1_001, "b")
        taken = await house.office.adjust("acme", -1_000, "c")
        assert taken["balance"]["posted_msat"] == 0
        assert (await house.office.audit()) == {"balanced": True, "sum_msat": 0, "differences": []}
    finally:
        await house.die()


@pytest.mark.parametrize(
    ("amount_msat", "client_id", "note"),
    [
        (0, "id", ""), (MAX_TRANSFER_MSAT + 1, "id", ""), (-MAX_TRANSFER_MSAT - 1, "id", ""), (1, "", ""), (1, "x" * 129, ""),
        (1, "a\nb", ""), (1, "start:acme", ""), (1, "id", "x" * 501), (1, "id", "\x1b[31m"),
    ],
)  # fmt: skip
async def test_an_adjustment_that_cannot_be_is_refused(house: CreditHouse, amount_msat: int, client_id: str, note: str) -> None:
    """No amount, no id, one that the daemon keeps for itself, or a note with control characters: refused, and nothing moves."""
    with pytest.raises(InvalidValue):
        await house.office.adjust("acme", amount_msat, client_id, note)
    assert house.office.balance("acme")["posted_msat"] == 0


async def test_marks_are_watched_when_the_operator_takes_and_when_money_comes(tmp_path: Path) -> None:
    """A balance that is taken below a mark warns once; a top-up that lifts it above lets the next fall warn again."""
    house = await CreditHouse(tmp_path, credit=Credit(enforce=True, low_balance_marks_msat=(400 * SAT,))).open()
    try:
        await house.pay(await house.ask(500))
        await house.office.adjust("acme", -200 * SAT, "a")
        await house.office.adjust("acme", -100 * SAT, "b")
        assert [(low.mark_msat, low.balance_msat) for low in house.low] == [(400 * SAT, 300 * SAT)]
        await house.pay(await house.ask(500))
        await house.office.adjust("acme", -500 * SAT, "c")
        assert len(house.low) == 2
    finally:
        await house.die()


async def test_an_audit_finds_what_was_changed_behind_the_books(house: CreditHouse) -> None:
    """A stored total that no transfer explains is named with both sums."""
    await house.office.adjust("acme", 1_000, "a")
    await house.books.journal.writer.call(
        lambda connection: (
            connection.execute("UPDATE totals SET credits_msat = credits_msat + 5 WHERE ledger_account = 'customer:acme'").get
        )
    )
    found = await house.office.audit()
    assert (found["balanced"], found["sum_msat"]) == (False, 5)
    assert found["differences"] == [
        {
            "ledger_account": "customer:acme",
            "derived": {"debits_msat": 0, "credits_msat": 1_000},
            "shown": {"debits_msat": 0, "credits_msat": 1_005},
        }
    ]


# --- over the web --------------------------------------------------------------------------------------------------------------------


class _Operations:
    """Nothing of the daemon is asked here."""


class Web:
    """Both listeners on the office, and a client."""

    def __init__(self, operator: WebServer, customer: WebServer, session: aiohttp.ClientSession) -> None:
        self.servers = {"operator": operator, "customer": customer}
        self._ports = {name: server.bound[0][1] for name, server in self.servers.items()}
        self._session = session

    async def ask(self, listener: str, method: str, path: str, body: Any = None, *, key: str | None = None) -> tuple[int, dict[str, Any]]:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        url = f"http://127.0.0.1:{self._ports[listener]}{path}"
        async with self._session.request(method, url, json=body, headers=headers) as response:
            return response.status, await response.json()

    async def operator(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
        return await self.ask("operator", method, f"/api/v1{path}", body, key=TOKEN)

    async def customer(self, method: str, path: str, body: Any = None, *, key: str | None = None) -> tuple[int, dict[str, Any]]:
        return await self.ask("customer", method, f"/api/v1{path}", body, key=key)


@pytest.fixture
async def web(house: CreditHouse) -> AsyncIterator[Web]:
    operations: Any = _Operations()
    house.register.put(Account(name="team/a", created_unix_nano=UNIX_NANO))
    operator = operator_server(
        Operator(endpoint="127.0.0.1:0"), operations, token=TOKEN, more=credit_web.operator_routes(house.office, clock=house.hours)
    )
    customer = customer_server(
        Customer(endpoint="127.0.0.1:0"), house.register, more=credit_web.customer_routes(house.office, clock=house.hours)
    )
    await operator.start()
    await customer.start()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE_SECONDS)) as session:
        yield Web(operator, customer, session)
    await operator.stop()
    await customer.stop()


async def test_the_operator_tops_up_pays_and_reads_the_books(web: Web) -> None:
    """The whole loop over the API: invoice, payment, credit, receipt, statement, audit."""
    status, asked = await web.operator("POST", "/accounts/acme/topups", {"amount_sat": 500})
    assert (status, asked["state"], asked["amount_msat"]) == (200, "open", 500 * SAT)
    status, paid = await web.operator("POST", "/dev/pay", {"invoice": asked["uri"]})
    assert (status, paid["paid_msat"], paid["topup"]["state"], paid["balance"]["posted_msat"]) == (200, 500 * SAT, "settled", 500 * SAT)
    status, refused = await web.operator("POST", "/dev/pay", {"invoice": asked["bolt11"]})
    assert (status, refused["error"]) == (409, "conflict")
    assert "already paid" in refused["message"]
    status, given = await web.operator("POST", "/accounts/acme/adjust", {"amount_msat": -1, "id": "x", "note": "rounding"})
    assert (status, given["balance"]["posted_msat"]) == (200, 500 * SAT - 1)
    status, statement = await web.operator("GET", "/accounts/acme/statement")
    assert [line["code"] for line in statement["lines"]] == ["topup", "adjust"]
    assert statement["lines"][0]["receipt"]["preimage"] == paid["preimage"]
    status, found = await web.operator("GET", "/audit")
    assert (status, found["balanced"]) == (200, True)
    status, listed = await web.operator("GET", "/accounts/acme/topups")
    assert [each["payment_hash"] for each in listed["topups"]] == [asked["payment_hash"]]
    status, other = await web.operator("GET", "/accounts/team%2Fa/credit")
    assert (status, other["account"], other["posted_msat"]) == (200, "team/a", 0)


async def test_who_waits_for_a_payment_is_answered_by_it(web: Web, house: CreditHouse) -> None:
    """A question with `?wait=` stays open until the payment is credited, with no time passing, and then has the receipt."""
    _, asked = await web.operator("POST", "/accounts/acme/topups", {"amount_sat": 500})
    path = f"/accounts/acme/topups/{asked['payment_hash']}?wait=60"
    waiting = [asyncio.create_task(web.operator("GET", path)) for _ in range(MAX_WAITING)]

    async def all_wait() -> bool:
        return house.office._waiting["acme"] == MAX_WAITING

    await until(all_wait)
    status, at_once = await web.operator("GET", path)  # one more than may wait holds no connection
    assert (status, at_once["state"]) == (200, "open")
    assert not any(each.done() for each in waiting)
    await web.operator("POST", "/dev/pay", {"invoice": asked["bolt11"]})
    for each in waiting:
        status, paid = await each
        assert (status, paid["state"], paid["received_msat"]) == (200, "settled", 500 * SAT)
    assert not house.office._waiting


async def test_waiting_ends_without_a_payment_too(web: Web, house: CreditHouse) -> None:
    """After its seconds the question is answered with the open top-up."""
    _, asked = await web.operator("POST", "/accounts/acme/topups", {"amount_sat": 500})
    waiting = asyncio.create_task(web.operator("GET", f"/accounts/acme/topups/{asked['payment_hash']}?wait=30"))

    async def waits() -> bool:
        return house.office._waiting["acme"] == 1

    await until(waits)
    while not waiting.done():
        await house.pass_(10)
        await asyncio.sleep(0)
    status, still = waiting.result()
    assert (status, still["state"]) == (200, "open")


async def test_who_leaves_is_not_waited_for(web: Web, house: CreditHouse) -> None:
    """A page that is closed gives its place among those who wait back at once, and the payment is credited all the same."""
    _, asked = await web.operator("POST", "/accounts/acme/topups", {"amount_sat": 500})
    path = f"/accounts/acme/topups/{asked['payment_hash']}?wait=60"
    waiting = [asyncio.create_task(web.operator("GET", path)) for _ in range(MAX_WAITING)]

    async def wait(number: int) -> bool:
        return house.office._waiting["acme"] == number

    await until(lambda: wait(MAX_WAITING))
    for leaver in waiting[1:]:
        leaver.cancel()
    await until(lambda: wait(1))
    assert not waiting[0].done()
    await web.operator("POST", "/dev/pay", {"invoice": asked["bolt11"]})
    assert (await waiting[0])[1]["state"] == "settled"
    await asyncio.wait(waiting)


async def test_receipts_are_read_at_once(web: Web, house: CreditHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement of many top-ups asks the store twice: for its lines, and for all their receipts."""
    paid = []
    for _ in range(3):
        _, asked = await web.operator("POST", "/accounts/acme/topups", {"amount_sat": 500})
        paid.append((await web.operator("POST", "/dev/pay", {"invoice": asked["bolt11"]}))[1]["preimage"])
    reads = 0
    ask = Reader.ask

    async def counted(reader: Reader, work: Any) -> Any:
        nonlocal reads
        reads += 1
        return await ask(reader, work)

    monkeypatch.setattr(Reader, "ask", counted)
    _, statement = await web.operator("GET", "/accounts/acme/statement")
    assert [line["receipt"]["preimage"] for line in statement["lines"]] == paid
    assert reads == 2


async def test_a_daemon_that_stops_waits_for_no_payment(web: Web, house: CreditHouse) -> None:
    """A question that waits is cut off after the grace; it holds up neither the stop nor the next process."""
    _, asked = await web.operator("POST", "/accounts/acme/topups", {"amount_sat": 500})
    waiting = asyncio.create_task(web.operator("GET", f"/accounts/acme/topups/{asked['payment_hash']}?wait=60"))

    async def waits() -> bool:
        return house.office._waiting["acme"] == 1

    await until(waits)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await web.servers["operator"].stop(grace=0.01)
    with pytest.raises(aiohttp.ClientError):
        await waiting
    assert not house.office._waiting
    assert not house.office._watcher._waiting  # type: ignore[union-attr] -- there is one


async def test_a_customer_sees_and_pays_his_own_alone(web: Web, house: CreditHouse) -> None:
    """With keys, each account has its own credit; another's top-up is not told from none, even by its payment hash."""
    keys = {"acme": "spt_" + "a" * 43, "team/a": "spt_" + "b" * 43}
    for account, key in keys.items():
        house.register.put_key(AccountKey(sha256=bytes.fromhex(hash_key(key)), account=account, hint=key[:8], created_unix_nano=UNIX_NANO))
    status, refused = await web.customer("GET", "/credit")
    assert (status, refused["error"]) == (401, "unauthenticated")
    status, asked = await web.customer("POST", "/credit/topups", {"amount_sat": 500}, key=keys["acme"])
    assert (status, asked["account"]) == (200, "acme")
    status, found = await web.customer("GET", f"/credit/topups/{asked['payment_hash']}", key=keys["acme"])
    assert (status, found["preimage"]) == (200, None)
    status, refused = await web.customer("GET", f"/credit/topups/{asked['payment_hash']}", key=keys["team/a"])
    unknown = await web.customer("GET", f"/credit/topups/{'00' * 32}", key=keys["team/a"])
    assert (status, refused) == unknown
    assert status == 404
    status, refused = await web.customer("POST", "/dev/pay", {"invoice": asked["bolt11"]}, key=keys["acme"])
    assert status == 404  # who could pay play money could help himself
    await house.pay(asked)
    for account, posted_msat in (("acme", 500 * SAT), ("team/a", 0)):
        _, balance = await web.customer("GET", "/credit", key=keys[account])
        _, statement = await web.customer("GET", "/credit/statement", key=keys[account])
        _, listed = await web.customer("GET", "/credit/topups", key=keys[account])
        assert (balance["account"], balance["posted_msat"]) == (account, posted_msat)
        assert len(statement["lines"]) == len(listed["topups"]) == (1 if posted_msat else 0)


async def test_without_keys_everyone_is_the_default_account(web: Web) -> None:
    """The first run needs no key: what is topped up is the account that everyone's spans are metered on."""
    status, asked = await web.customer("POST", "/credit/topups", {"amount_sat": 500})
    assert (status, asked["account"]) == (200, "default")


async def test_looking_changes_nothing(web: Web, house: CreditHouse) -> None:
    """No GET makes an invoice, moves money or touches a row: pages are fetched by crawlers, scanners and previews."""
    _, asked = await web.operator("POST", "/accounts/acme/topups", {"amount_sat": 500})
    before = await _dump(house)
    for path in ("credit", "statement", "topups", f"topups/{asked['payment_hash']}", f"topups/{asked['payment_hash']}?wait=0"):
        assert (await web.operator("GET", f"/accounts/acme/{path}"))[0] == 200
    for path in ("/credit", "/credit/statement", "/credit/topups"):
        assert (await web.customer("GET", path))[0] == 200
    assert (await web.operator("GET", "/audit"))[0] == 200
    await house.rest()
    assert await _dump(house) == before


async def _dump(house: CreditHouse) -> list[Any]:
    reader = house.books.topups._reader
    tables = ("topups", "transfers", "totals", "shelf")
    statements = [f"SELECT * FROM {table}" for table in tables]  # noqa: S608 -- names of our own
    return [await reader.ask(lambda connection, each=each: list(connection.execute(each))) for each in statements]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "error"),
    [
        ("POST", "/accounts/acme/topups", {}, 400, "invalid_value"),
        ("POST", "/accounts/acme/topups", {"amount_sat": "500"}, 400, "invalid_value"),
        ("POST", "/accounts/acme/topups", {"amount_sat": True}, 400, "invalid_value"),
        ("POST", "/accounts/acme/topups", {"amount_sat": 0.5}, 400, "invalid_value"),
        ("POST", "/accounts/acme/topups", {"amount_sat": -500}, 400, "invalid_value"),
        ("POST", "/accounts/acme/topups", {"amount_sat": 10**30}, 400, "invalid_value"),
        ("POST", "/accounts/acme/topups", {"amount_sat": 500, "amount": 1}, 400, "invalid_value"),
        ("POST", "/accounts/acme/topups", {"amount_sat": 99}, 422, "amount"),
        ("POST", "/accounts/nobody/topups", {"amount_sat": 500}, 404, "not_found"),
        ("GET", "/accounts/nobody/credit", None, 404, "not_found"),
        ("GET", "/accounts/acme/topups/zz", None, 404, "not_found"),
        ("GET", f"/accounts/acme/topups/{'zz' * 32}", None, 404, "not_found"),
        ("GET", f"/accounts/acme/topups/{'00' * 32}?wait=61", None, 400, "invalid_value"),
        ("GET", f"/accounts/acme/topups/{'00' * 32}?wait=nan", None, 400, "invalid_value"),
        ("GET", "/accounts/acme/statement?since=yesterday", None, 400, "invalid_value"),
        ("GET", "/accounts/acme/statement?since=2026-02-30", None, 400, "invalid_value"),
        ("GET", "/accounts/acme/statement?since=2026-03-02&until=2026-03-01", None, 400, "invalid_value"),
        ("GET", "/accounts/acme/statement?tz=Mars/Olympus", None, 400, "invalid_value"),
        ("GET", "/accounts/acme/statement?tz=../../etc/passwd", None, 400, "invalid_value"),
        ("POST", "/accounts/acme/adjust", {"amount_msat": 1}, 400, "invalid_value"),
        ("POST", "/accounts/acme/adjust", {"amount_msat": 0, "id": "x"}, 400, "invalid_value"),
        ("POST", "/dev/pay", {"invoice": "lnbcrt1nonsense"}, 400, "invalid_value"),
        ("POST", "/dev/pay", {"invoice": "lnbc1pvjluez", "amount_msat": 0}, 400, "invalid_value"),
    ],
)
async def test_what_cannot_be_is_refused_with_a_word_and_a_sentence(
    web: Web, *, method: str, path: str, body: Any, status: int, error: str
) -> None:
    """Every refusal has its status, its stable word, and a sentence; none is a fault of ours."""
    found, answer = await web.operator(method, path, body)
    assert (found, answer["error"]) == (status, error)
    assert answer["message"]


async def test_what_changes_something_asks_for_the_operators_token(web: Web, house: CreditHouse) -> None:
    """On loopback anyone may look; an invoice, an adjustment and a payment need the token."""
    assert (await web.ask("operator", "GET", "/api/v1/accounts/acme/credit"))[0] == 200
    for path, body in (
        ("accounts/acme/topups", {"amount_sat": 500}),
        ("accounts/acme/adjust", {"amount_msat": 1, "id": "x"}),
        ("dev/pay", {"invoice": "lnbcrt1"}),
    ):
        assert (await web.ask("operator", "POST", f"/api/v1/{path}", body))[0] == 401
    assert house.office.balance("acme")["posted_msat"] == 0
    assert not house.dev._invoices


async def test_a_wallet_that_is_down_is_a_passing_fault(web: Web, house: CreditHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """503 with Retry-After: nothing was made, and the same request may succeed a moment later."""

    async def down() -> Node:
        raise NodeUnavailable("the Lightning node does not answer")

    monkeypatch.setattr(house.dev, "node", down)
    status, answer = await web.operator("POST", "/accounts/acme/topups", {"amount_sat": 500})
    assert (status, answer["error"]) == (503, "node_unavailable")
    monkeypatch.undo()
    assert (await web.operator("POST", "/accounts/acme/topups", {"amount_sat": 500}))[0] == 200
