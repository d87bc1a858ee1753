"""The daemon over the books of a data folder: debits, top-ups, accounts and their metrics, life after life."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import apsw
import pytest

from receiver import app
from receiver.app import Daemon
from receiver.config import Config, ConfigError, load
from receiver.core.journal import Acceptance
from receiver.lightning.client import NodeUnavailable
from receiver.lightning.dev import DevWallet
from receiver.metrics.families import BY_NAME
from receiver.offices import Offices
from receiver.store import faults
from receiver.store.books import SqliteBooks
from receiver.store.folder import Folder, FolderInUse
from tests.exports import export, model_call
from tests.fakes import ManualClock
from tests.integration.wire_helpers import grpc_call, http_call

FREE = tuple(f"{name}.endpoint=127.0.0.1:0" for name in ("otlp.grpc", "otlp.http", "operator", "customer"))
TOKEN = "spo_" + "t" * 43
PRICE_MSAT = 10


def config(folder: Path, *settings: str) -> Config:
    return load(None, environ={}, assignments=(*FREE, f"store.directory={json.dumps(str(folder))}", *settings))


@asynccontextmanager
async def house(folder: Path, *settings: str, clock: ManualClock | None = None) -> AsyncIterator[Daemon]:
    """A daemon that is built as `app` builds it, and does not listen yet."""
    clock = clock or ManualClock()
    settled = config(folder, *settings)
    with Folder(folder) as mine:
        books = SqliteBooks(mine.database, clock=clock)
        try:
            async with Offices.open(settled, mine, books, clock=clock) as offices:
                yield Daemon(settled, clock=clock, offices=offices, operator_token=TOKEN)
        finally:
            await books.stop()


@asynccontextmanager
async def serving(folder: Path, *settings: str, clock: ManualClock | None = None) -> AsyncIterator[tuple[Daemon, dict[str, int]]]:
    async with house(folder, *settings, clock=clock) as daemon, daemon.serving() as ports:
        yield daemon, dict(ports)


async def ask(url: str | int, method: str, path: str, body: Any = None, *, token: str | None = TOKEN) -> tuple[int, Any]:
    base = f"http://127.0.0.1:{url}" if isinstance(url, int) else url
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    headers["Content-Type"] = "application/json"
    async with aiohttp.ClientSession(headers=headers) as session, session.request(method, base + path, json=body) as answer:
        return answer.status, await answer.json()


def spans(first: int, count: int) -> bytes:
    return export(*(model_call(number, 1) for number in range(first, first + count)))


async def sent(ports: dict[str, int], first: int, count: int) -> int:
    return (await http_call(ports["otlp.http"], spans(first, count))).code


async def credit_series(daemon: Daemon) -> list[str]:
    """What a scrape shows of the ledger's totals, created timestamps included."""
    text = (await daemon.exposition("application/openmetrics-text;version=1.0.0"))[1].decode()
    names = ("spantoll_credit_debited_msat", "spantoll_credit_topped_up_msat", "spantoll_credit_balance_msat")
    return [line for line in text.splitlines() if line.startswith(names)]


async def settled_balance(daemon: Daemon) -> int:
    """The balance of `default`, once the books were added up and agree with what is shown."""
    found = await daemon.offices.books.ledger.audit()  # type: ignore[union-attr]  # it has books
    assert found.balanced, found
    return daemon.offices.ledger.balance("default").posted_msat


async def test_totals_of_credit_go_on_where_they_stopped(tmp_path: Path) -> None:
    """Three lives: the same counters with the same birthdays, no snapshot needed, and nothing held that is not being stored."""
    clock = ManualClock()
    settings = ("credit.start_balance_msat=1000",)
    async with serving(tmp_path, *settings, clock=clock) as (daemon, ports):
        assert await sent(ports, 1, 5) == 200
        before = await credit_series(daemon)
        created = [line for line in before if "_created" in line]
        assert [line.split("{")[0] for line in created] == [
            "spantoll_credit_debited_msat_created",
            "spantoll_credit_topped_up_msat_created",
        ]
        assert 'spantoll_credit_debited_msat_total{account="default"} 50.0' in before
        assert 'spantoll_credit_topped_up_msat_total{account="default"} 1000.0' in before
        assert 'spantoll_credit_balance_msat{account="default"} 950.0' in before
    for _ in range(2):
        clock.advance(3_600)
        async with house(tmp_path, *settings, clock=clock) as daemon:
            assert await credit_series(daemon) == before
            assert await settled_balance(daemon) == 950
    async with serving(tmp_path, *settings, clock=clock) as (daemon, ports):
        assert await sent(ports, 1, 7) == 200, "five of them were stored in another life"
        assert await settled_balance(daemon) == 930
        assert daemon.metrics.exact("receiver_duplicate_spans") == 5


async def test_starve_pay_and_go_on(tmp_path: Path) -> None:
    """The whole loop over the wire: refused, an invoice, paid, credited, accepted; each step is on the metrics."""
    async with serving(tmp_path, "credit.enforce=true") as (daemon, ports):
        assert await sent(ports, 1, 3) == 402
        status, invoice = await ask(ports["customer"], "POST", "/api/v1/credit/topups", {"amount_sat": 100}, token=None)
        assert status in (200, 201), invoice
        assert daemon.metrics.exact("invoices", state="open") == 1
        status, paid = await ask(ports["operator"], "POST", "/api/v1/dev/pay", {"invoice": invoice["bolt11"]})
        assert (status, paid["topup"]["state"]) == (200, "settled")
        assert await sent(ports, 1, 3) == 200
        assert (await grpc_call(ports["otlp.grpc"], spans(1, 3))).code == 0
        assert await settled_balance(daemon) == 100_000 - 30
        shown = {
            name: daemon.metrics.exact(name, account="default")
            for name in BY_NAME
            if name.startswith("credit_") and name != "credit_low_balance"
        }
        assert shown.pop("credit_runway_seconds") == float("inf"), "one request is no pace"
        assert shown == {"credit_balance_msat": 99_970, "credit_debited_msat": 30, "credit_topped_up_msat": 100_000}
        assert daemon.metrics.exact("invoices", state="settled") == 1
        assert daemon.metrics.exact("lightning_up") == 1


async def test_a_top_up_arms_the_low_marks_again(tmp_path: Path) -> None:
    """Warned on the way down, in the answer and on the metrics; after a top-up the same mark warns again."""
    settings = ("credit.enforce=true", "credit.start_balance_msat=120", "credit.low_balance_marks_msat=[80]")
    async with serving(tmp_path, *settings) as (daemon, ports):
        for at, is_warned in ((1, False), (4, True), (7, False)):
            reply = await http_call(ports["otlp.http"], spans(at, 3))
            assert (reply.code, b"fell below 0.08 sat" in reply.body) == (200, is_warned)
        gift = {"amount_msat": 500, "id": "a gift"}
        assert (await ask(ports["operator"], "POST", "/api/v1/accounts/default/adjust", gift))[0] == 200
        reply = await http_call(ports["otlp.http"], spans(100, 46))
        assert b"fell below" in reply.body
        assert daemon.metrics.exact("credit_low_balance", account="default") == 2


async def test_a_commit_that_finds_no_space_costs_nothing(tmp_path: Path) -> None:
    """Refused as retryable, the price given back, the spans new: the last credit still buys them."""
    async with serving(tmp_path, "credit.enforce=true", "credit.start_balance_msat=30") as (daemon, ports):
        faults.arm("before_commit:enospc")
        try:
            refused = await http_call(ports["otlp.http"], spans(1, 3))
        finally:
            faults.arm("")
        assert refused.code == 503
        assert daemon.metrics.exact("receiver_refused_spans", reason="disk_full") == 3
        assert daemon.offices.ledger.balance("default").available_msat == 30
        assert await sent(ports, 1, 3) == 200
        assert await settled_balance(daemon) == 0


async def test_requests_at_once_spend_the_last_credit_once(tmp_path: Path) -> None:
    """Over both transports and the durable books, at credit for ten requests of 64: ten are stored, and the balance is 0."""
    async with serving(tmp_path, "credit.enforce=true", f"credit.start_balance_msat={10 * 8 * PRICE_MSAT}") as (daemon, ports):
        bodies = [spans(1 + 8 * at, 8) for at in range(64)]
        replies = await asyncio.gather(
            *(grpc_call(ports["otlp.grpc"], body) if at % 2 else http_call(ports["otlp.http"], body) for at, body in enumerate(bodies))
        )
        codes = [reply.code for reply in replies]
        assert codes.count(0) + codes.count(200) == 10
        assert codes.count(9) + codes.count(402) == 54
        assert daemon.metrics.exact("receiver_accepted_spans") == 80
        assert await settled_balance(daemon) == 0


async def test_an_account_has_limits_of_its_own(tmp_path: Path) -> None:
    """Bytes in flight, open spans and series, each changed while the daemon runs; a disabled key stops at once, and others go on."""
    async with serving(tmp_path, "otlp.max_request_size=64KiB") as (daemon, ports):
        accounts = {}
        for name in ("acme", "globex"):
            status, made = await ask(ports["operator"], "POST", "/api/v1/accounts", {"account": name})
            assert status == 201
            accounts[name] = made["key"]
        limits = {"max_in_flight": 64 * 1024, "max_open_spans": 4, "max_series": 10}
        assert (await ask(ports["operator"], "PATCH", "/api/v1/accounts/acme", limits))[0] == 200
        intake = daemon.intake
        intake.reserve("acme", 64 * 1024)
        with pytest.raises(Exception, match="bytes of account 'acme' are in flight"):
            intake.reserve("acme", 1)
        intake.reserve("globex", 64 * 1024)
        for name in accounts:
            intake.release(name, 64 * 1024)
        assert (await http_call(ports["otlp.http"], spans(1, 4), key=accounts["acme"])).code == 200
        full = await http_call(ports["otlp.http"], spans(5, 1), key=accounts["acme"])
        assert (full.code, full.status.details[0].value.find(b"ACCOUNT_SPANS") > 0) == (503, True)
        assert (await http_call(ports["otlp.http"], spans(1, 6), key=accounts["globex"])).code == 200
        assert (await ask(ports["operator"], "POST", "/api/v1/accounts/acme/disable"))[0] == 200
        refused = await grpc_call(ports["otlp.grpc"], spans(1, 4), key=accounts["acme"])
        assert refused.code == 7
        assert refused.retry_info is None
        assert daemon.metrics.exact("receiver_requests", reason="account_disabled") == 1
        assert (await http_call(ports["otlp.http"], spans(1, 6), key=accounts["globex"])).code == 200


async def test_while_a_replay_is_under_way_only_exports_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics, health, accounts, credit and top-ups are there; exports are asked for again, and then taken."""
    async with serving(tmp_path) as (_, ports):
        assert await sent(ports, 1, 3) == 200
    gate, reached = asyncio.Event(), asyncio.Event()
    inner = Daemon._restore

    async def slow(self: Daemon) -> None:
        reached.set()
        await gate.wait()
        await inner(self)

    monkeypatch.setattr(Daemon, "_restore", slow)
    heard: list[dict[str, int]] = []
    async with house(tmp_path) as daemon:
        daemon._listening = lambda found: heard.append(found.ports)

        async def live() -> None:
            async with daemon.serving() as ports:
                assert await sent(dict(ports), 1, 3) == 200
                assert daemon.metrics.exact("receiver_duplicate_spans") == 3

        life = asyncio.ensure_future(live())
        await reached.wait()
        [ports] = heard
        refused = await http_call(ports["otlp.http"], spans(1, 3))
        assert (refused.code, refused.status.message.startswith("the receiver has no room just now (starting)")) == (503, True)
        assert (await ask(ports["operator"], "GET", "/-/ready"))[0] == 503
        assert (await ask(ports["operator"], "GET", "/api/v1/accounts"))[0] == 200
        assert (await ask(ports["customer"], "GET", "/api/v1/credit", token=None))[1]["posted_msat"] == -30
        assert (await ask(ports["customer"], "POST", "/api/v1/credit/topups", {"amount_sat": 100}, token=None))[0] in (200, 201)
        gate.set()
        await life


async def test_nobody_is_forgotten_before_the_counters_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To forget writes the metrics down: in the middle of a replay they are half, and a crash behind it would leave them so."""
    lives = [tmp_path / str(number) for number in range(3)]

    def crash(number: int) -> None:
        lives[number].mkdir()
        for file in lives[number - 1].glob("spantoll.db*"):
            shutil.copy(file, lives[number])

    async with serving(lives[0]) as (daemon, ports):
        assert await sent(ports, 1, 3) == 200
        assert (await ask(ports["operator"], "POST", "/-/release"))[1]["released_traces"] == 3
        crash(1)
    gate, reached = asyncio.Event(), asyncio.Event()
    inner = Daemon._restore

    async def slow(self: Daemon) -> None:
        reached.set()
        await gate.wait()
        await inner(self)

    monkeypatch.setattr(Daemon, "_restore", slow)
    heard: list[dict[str, int]] = []
    async with house(lives[1]) as daemon:
        daemon._listening = lambda found: heard.append(found.ports)

        async def live() -> None:
            async with daemon.serving() as ports:
                assert (await ask(ports["operator"], "POST", "/api/v1/forget", {"user": "alice"}))[0] == 200

        life = asyncio.ensure_future(live())
        await reached.wait()
        [ports] = heard
        status, answer = await ask(ports["operator"], "POST", "/api/v1/forget", {"user": "alice"})
        crash(2)
        gate.set()
        await life
    assert (status, answer["error"]) == (503, "starting")
    monkeypatch.setattr(Daemon, "_restore", inner)
    async with serving(lives[2]) as (daemon, _):
        assert daemon.metrics.exact("calls") == 3


async def test_who_waits_for_a_payment_does_not_hold_up_the_stop(tmp_path: Path) -> None:
    """A question that may wait for a minute ends with its connection, and the books are closed behind it."""
    async with asyncio.timeout(30):
        async with serving(tmp_path) as (_, ports):
            _, invoice = await ask(ports["customer"], "POST", "/api/v1/credit/topups", {"amount_sat": 100}, token=None)
            path = f"/api/v1/credit/topups/{invoice['payment_hash']}?wait=60"
            question = asyncio.ensure_future(ask(ports["customer"], "GET", path, token=None))
            assert (await ask(ports["customer"], "GET", "/api/v1/credit", token=None))[0] == 200
        with pytest.raises(aiohttp.ClientError):
            await question


async def test_a_node_that_fails_stops_no_span(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is shown as down and asked again; requests do not wait for it, and the stop does not either."""

    def down(*_: object, **__: object) -> Any:
        raise NodeUnavailable("the node does not answer")

    for name in ("node", "lookup", "subscribe"):
        monkeypatch.setattr(DevWallet, name, down)
    async with serving(tmp_path) as (daemon, ports):
        assert await sent(ports, 1, 3) == 200
        assert daemon.metrics.exact("lightning_up") == 0
        assert daemon.ready() == (True, "")


async def test_books_that_do_not_add_up_are_an_alarm(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A total that somebody edited is found at the start: the gauge, and a line that says where to look."""
    async with serving(tmp_path) as (daemon, ports):
        assert await sent(ports, 1, 3) == 200
        await until(lambda: daemon.offices.audited is not None)
        assert daemon.metrics.exact("books_unbalanced") == 0
    connection = apsw.Connection(str(tmp_path / "spantoll.db"))
    connection.execute("UPDATE totals SET debits_msat = 7 WHERE ledger_account = 'customer:default'")
    connection.close()
    async with serving(tmp_path) as (daemon, _):
        await until(lambda: daemon.offices.audited is not None)
        assert daemon.metrics.exact("books_unbalanced") == 1
    assert [record.levelno for record in caplog.records if "do not add up" in record.message] == [logging.CRITICAL]


async def test_an_office_without_a_daemon_has_the_same_books(tmp_path: Path) -> None:
    """What is done there stands in the daemon's next life; while a daemon holds the folder there is no office."""
    settled = config(tmp_path, "credit.enforce=true")
    async with app.office(settled) as (url, token):
        assert (await ask(url, "POST", "/api/v1/accounts", {"account": "acme"}, token=None))[0] == 401
        status, made = await ask(url, "POST", "/api/v1/accounts", {"account": "acme"}, token=token)
        assert status == 201
        status, invoice = await ask(url, "POST", "/api/v1/accounts/acme/topups", {"amount_sat": 100}, token=token)
        assert status in (200, 201)
        assert (await ask(url, "POST", "/api/v1/dev/pay", {"invoice": invoice["bolt11"]}, token=token))[1]["topup"]["state"] == "settled"
        status, answer = await ask(url, "POST", "/-/release", token=token)
        assert (status, answer["error"]) == (503, "no_daemon")
        assert (await ask(url, "GET", "/-/ready", token=None))[1]["message"].startswith("exports") is False
        with pytest.raises(FolderInUse):
            async with app.office(settled):
                pass
    async with serving(tmp_path, "credit.enforce=true") as (daemon, ports):
        assert (await http_call(ports["otlp.http"], spans(1, 3), key=made["key"])).code == 200
        assert daemon.offices.ledger.balance("acme").posted_msat == 100_000 - 30
    async with app.office(settled) as (url, token):
        assert (await ask(url, "GET", "/api/v1/accounts/acme/credit", token=None))[1]["posted_msat"] == 99_970
        assert (await ask(url, "GET", "/api/v1/audit", token=None))[1]["balanced"] is True


async def test_an_office_leaves_what_is_open_as_it_is(tmp_path: Path) -> None:
    """It replays nothing and deletes nothing: the open trace and its numbers are there in the daemon's next life."""
    async with serving(tmp_path) as (_, ports):
        assert await sent(ports, 1, 3) == 200
    async with app.office(config(tmp_path)) as (url, token):
        assert (await ask(url, "POST", "/api/v1/accounts", {"account": "acme"}, token=token))[0] == 201
    async with house(tmp_path) as daemon:
        opened = [step for step in daemon.journal.replay() if isinstance(step, Acceptance)]
        assert sum(len(step.spans) for step in opened) == 3


def test_play_money_is_not_served_to_other_machines(tmp_path: Path) -> None:
    """Unless that is allowed: the daemon does not start, and leaves books that are well closed."""
    settled = config(
        tmp_path, "customer.endpoint=0.0.0.0:0", "customer.insecure=true", 'customer.allowed_hosts=["pay.example"]', "access.required=true"
    )
    with pytest.raises(ConfigError, match=r"lightning\.dev\.allow_off_loopback"):
        app.check(settled)
    with pytest.raises(ConfigError, match=r"lightning\.dev\.allow_off_loopback"):
        app.run(settled)
    connection = apsw.Connection(str(tmp_path / "spantoll.db"))
    assert connection.execute("SELECT value FROM marks WHERE name = 'running'").get == 0
    connection.close()


async def until(look: Any) -> None:
    """Wait for a state that has no event, bounded."""
    async with asyncio.timeout(30):
        while not look():  # noqa: ASYNC110 -- as the sentence says
            await asyncio.sleep(0.005)
