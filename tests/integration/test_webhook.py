"""The webhook against real servers that fail, hang, redirect and come back: each event is heard, once an id, and nobody waits for it."""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from receiver import app as root
from receiver.admin import webhook as module
from receiver.admin.webhook import MAX_WAITING, MOST_TRIES, Webhook, read_secret, signature
from receiver.config import ConfigError, load
from receiver.core.credit import CreditPolicy, LowBalance
from receiver.core.ledger import Balance
from tests.fake_nodes import served
from tests.integration.test_daemon_credit import ask, sent, serving
from tests.lightning_house import Hours

SECRET = b"s" * 32
LOW = LowBalance("acme", 500, 400)


def balance(posted_msat: int, *, credits_msat: int = 1_000) -> Balance:
    return Balance(credits_msat - posted_msat, credits_msat)


@dataclass
class Receiver:
    """The operator's own server. `answers` are what it does in turn; the last goes on."""

    answers: list[Callable[[], Any]] = field(default_factory=lambda: [lambda: web.Response(status=204)])
    heard: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    elsewhere: int = 0  #: requests to another path
    came: asyncio.Condition = field(default_factory=asyncio.Condition)

    def app(self) -> web.Application:
        app = web.Application()
        app.add_routes([web.post("/hook", self._hook), web.route("*", "/{tail:.*}", self._other)])
        return app

    async def _hook(self, request: web.Request) -> web.StreamResponse:
        self.heard.append((dict(request.headers), await request.read()))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        async with self.came:
            self.came.notify_all()
        made = answer()
        found: web.StreamResponse = await made if asyncio.iscoroutine(made) else made
        return found

    async def _other(self, _request: web.Request) -> web.Response:
        self.elsewhere += 1
        return web.Response()

    async def times(self, count: int) -> None:
        """Until it was asked so often; a hang is a failure."""
        async with asyncio.timeout(30), self.came:
            await self.came.wait_for(lambda: len(self.heard) >= count)

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.heard]


def status(code: int, **headers: str) -> Callable[[], web.Response]:
    return lambda: web.Response(status=code, headers=headers)


class House:
    """A webhook over a real connection, in virtual time."""

    def __init__(self, url: str) -> None:
        self.hours = Hours()
        self.counts: list[str] = []
        self.ended = asyncio.Event()
        self.webhook = Webhook(
            url, SECRET, topup_url=lambda: "http://here/topup", clock=self.hours, rng=random.Random(7), sleep=self.hours.sleep
        )
        self.webhook.count = self._count

    def _count(self, outcome: str) -> None:
        self.counts.append(outcome)
        self.ended.set()

    async def until(self, count: int) -> None:
        """Until so many tries have ended; waits between them pass at once."""
        async with asyncio.timeout(30):
            while len(self.counts) < count:
                self.ended.clear()
                if self.hours.sleepers:
                    await self.hours.pass_(max(0.0, self.hours.sleepers[0][0] - self.hours.now))
                    continue
                waiting = asyncio.ensure_future(self.ended.wait())
                await asyncio.wait([waiting], timeout=0.01)  # the sleeper of the next wait may not be there yet
                waiting.cancel()


@asynccontextmanager
async def told(receiver: Receiver, path: str = "/hook") -> AsyncIterator[House]:
    async with served(receiver.app()) as url:
        house = House(url + path)
        task = asyncio.create_task(house.webhook.run())
        try:
            yield house
        finally:
            assert not task.done(), task
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_an_event_is_signed_and_says_all() -> None:
    """Type, moment, account, balance, mark and where to pay; signed with id and time as Standard Webhooks says."""
    receiver = Receiver()
    async with told(receiver) as house:
        house.webhook.low(LOW, balance(400))
        await receiver.times(1)
        house.webhook.exhausted("acme", balance(0))
        await receiver.times(2)
    for headers, body in receiver.heard:
        assert headers["Content-Type"] == "application/json"
        assert abs(int(headers["webhook-timestamp"]) - house.hours.unix_nano() // 10**9) <= 1
        assert headers["webhook-signature"] == signature(SECRET, headers["webhook-id"], headers["webhook-timestamp"], body)
    first, second = (json.loads(body) for _, body in receiver.heard)
    assert first == {
        "type": "credit.low",
        "timestamp": first["timestamp"],
        "data": {"account": "acme", "balance_msat": 400, "mark_msat": 500, "topup_url": "http://here/topup"},
    }
    assert second["type"] == "credit.exhausted"
    assert second["data"] == {"account": "acme", "balance_msat": 0, "topup_url": "http://here/topup"}


def test_the_signature_is_that_of_the_specification() -> None:
    """The vector that the libraries of Standard Webhooks test themselves with."""
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    found = signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", b'{"test": 2432232314}')
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


async def test_what_fails_is_tried_again_with_the_same_id() -> None:
    """Errors of every kind, later and later, until it is heard; the body and the id stay, the time is that of the try."""
    receiver = Receiver(
        [status(500), status(404), status(429), status(301, Location="/other"), status(307, Location="/other"), status(200)]
    )
    async with told(receiver) as house:
        house.webhook.low(LOW, balance(400))
        began = house.hours.now
        await house.until(6)
        assert house.counts == ["failed"] * 5 + ["delivered"]
        assert len(set(receiver.ids)) == 1
        assert len({body for _, body in receiver.heard}) == 1
        assert 0.8 * 155 <= house.hours.now - began <= 1.2 * 155, "5 + 10 + 20 + 40 + 80 s"
        assert receiver.elsewhere == 0, "no redirect is followed"


async def test_a_receiver_that_never_hears_is_given_up() -> None:
    """After about a day, with each wait at most an hour; others go on."""
    receiver = Receiver([status(503)])
    async with told(receiver) as house:
        house.webhook.low(LOW, balance(400))
        began = house.hours.now
        await house.until(MOST_TRIES)
        assert house.counts == ["failed"] * (MOST_TRIES - 1) + ["given_up"]
        assert 18 * 3_600 < house.hours.now - began < 30 * 3_600
        receiver.answers = [status(200)]
        house.webhook.exhausted("acme", balance(0))
        await house.until(MOST_TRIES + 1)
        assert house.counts[-1] == "delivered"


async def test_one_that_hangs_is_cut_and_another_event_has_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A receiver that takes the request and says nothing holds up the others for one try at most."""
    monkeypatch.setattr(module, "TRY_SECONDS", 0.05)
    hang = asyncio.Event()

    async def hanging() -> web.Response:
        await hang.wait()
        return web.Response()

    receiver = Receiver([hanging, status(200)])
    async with told(receiver) as house:
        house.webhook.low(LOW, balance(400))
        house.webhook.exhausted("acme", balance(0))
        await house.until(3)
        assert house.counts == ["failed", "delivered", "delivered"]
        assert receiver.ids[0] == receiver.ids[2] != receiver.ids[1]
        hang.set()


async def test_nobody_at_home() -> None:
    """A port that nobody listens on, and a name that is none, are failures like others."""
    for url in ("http://127.0.0.1:1/hook", "http://nobody.invalid/hook"):
        house = House(url)
        task = asyncio.create_task(house.webhook.run())
        house.webhook.low(LOW, balance(400))
        await house.until(1)
        assert house.counts[0] == "failed"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_the_same_fall_has_the_same_id_and_is_told_once() -> None:
    """Within one process it is told once; another process gives it the same id; money that came in makes the next fall another one."""
    ids = []
    for _ in range(2):
        receiver = Receiver()
        async with told(receiver) as house:
            house.webhook.low(LOW, balance(400))
            house.webhook.low(LowBalance("acme", 500, 300), balance(300))
            house.webhook.low(LowBalance("acme", 200, 100), balance(100))
            house.webhook.low(LowBalance("other", 500, 400), balance(400))
            house.webhook.exhausted("acme", balance(0))
            house.webhook.low(LOW, balance(400, credits_msat=2_000))
            await house.until(5)
            assert house.counts == ["delivered"] * 5
            ids.append(receiver.ids)
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 5
    assert all(each.startswith("evt_") for each in ids[0])


async def test_a_start_says_how_things_are() -> None:
    """What the last process may not have got across: accounts below a mark, and those without credit that had some."""
    policy = CreditPolicy(enforce=True, low_balance_marks_msat=(500, 100))
    receiver = Receiver()
    async with told(receiver) as house:
        house.webhook.begin(
            [
                ("fine", balance(900), policy),
                ("low", balance(400), policy),
                ("lower", balance(50), policy),
                ("empty", balance(5), policy),
                ("new", Balance(0, 0), policy),
                ("metered", balance(-5_000), CreditPolicy(low_balance_marks_msat=(500,))),
                ("disabled", balance(0), CreditPolicy(enforce=True, enabled=False, low_balance_marks_msat=(500,))),
            ]
        )
        await house.until(4)
    said = [
        (each["type"], each["data"]["account"], each["data"].get("mark_msat")) for each in (json.loads(body) for _, body in receiver.heard)
    ]
    assert said == [
        ("credit.low", "low", 500),
        ("credit.low", "lower", 100),
        ("credit.low", "empty", 100),
        ("credit.exhausted", "empty", None),
    ]


async def test_too_many_that_wait_are_dropped_and_counted() -> None:
    """A bound, so that a receiver that is gone for long costs no memory."""
    house = House("http://127.0.0.1:1/hook")
    for at in range(MAX_WAITING + 3):
        house.webhook.exhausted(f"account-{at}", balance(0))
    assert house.counts == ["dropped"] * 3


@pytest.mark.parametrize(
    ("text", "secret"),
    [("whsec_" + base64.b64encode(SECRET).decode() + "\n", SECRET), ("a line of text, long enough", b"a line of text, long enough")],
)
def test_secrets_in_both_forms(tmp_path: Path, text: str, secret: bytes) -> None:
    """As Standard Webhooks writes them, or a line."""
    file = tmp_path / "secret"
    file.write_text(text)
    assert read_secret(str(file)) == secret


@pytest.mark.parametrize("text", ["", "short", "whsec_", "whsec_!!!!", "whsec_c2hvcnQ=", "\x00"])
def test_what_is_no_secret_is_refused_at_the_start(tmp_path: Path, text: str) -> None:
    """Before anything listens, with the key's name and without the text."""
    file = tmp_path / "secret"
    file.write_text(text)
    settings = ("credit.webhook_url=https://example.com/hook", f"credit.webhook_secret_file={file}")
    with pytest.raises(ConfigError, match=r"credit\.webhook_secret_file"):
        root.check(load(None, environ={}, assignments=settings))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (("credit.webhook_url=https://example.com/hook",), "webhook_secret_file: is missing"),
        (("credit.webhook_secret_file={file}",), "webhook_url: is missing"),
        (("credit.webhook_url=http://example.com/hook", "credit.webhook_secret_file={file}"), "make it https"),
        (("credit.webhook_url=https://user:pw@example.com/", "credit.webhook_secret_file={file}"), "webhook_url"),
        (("credit.webhook_url=file:///etc/passwd", "credit.webhook_secret_file={file}"), "webhook_url"),
    ],
)
def test_contradictions_are_found_before_the_start(tmp_path: Path, settings: tuple[str, ...], says: str) -> None:
    """Unsigned, unused, readable on the way, or no URL for this."""
    file = tmp_path / "secret"
    file.write_text("x" * 32)
    with pytest.raises(ConfigError, match=says):
        load(None, environ={}, assignments=tuple(each.format(file=file) for each in settings))


async def test_a_daemon_tells_and_takes_spans_meanwhile(tmp_path: Path) -> None:
    """Low, then exhausted, while the receiver hangs: every export is answered as ever; the metric counts; a restart says it again."""
    hang = asyncio.Event()

    async def hanging() -> web.Response:
        await hang.wait()
        return web.Response()

    receiver = Receiver([hanging, status(200)])
    file = tmp_path / "secret"
    file.write_text("x" * 32)
    async with served(receiver.app()) as url:
        settings = (
            "credit.enforce=true",
            "credit.start_balance_msat=120",
            "credit.low_balance_marks_msat=[80]",
            f"credit.webhook_url={url}/hook",
            f"credit.webhook_secret_file={file}",
        )
        async with serving(tmp_path / "data", *settings) as (daemon, ports):
            assert await sent(ports, 1, 5) == 200
            await receiver.times(1)
            assert await sent(ports, 6, 7) == 200, "while the receiver holds its answer back"
            for _ in range(3):
                assert await sent(ports, 100, 1) == 402
            hang.set()
            await receiver.times(2)
            assert [json.loads(body)["type"] for _, body in receiver.heard] == ["credit.low", "credit.exhausted"]
            async with asyncio.timeout(30):
                while daemon.metrics.exact("webhook_tries", outcome="delivered") != 2:  # noqa: ASYNC110 -- the answer is on its way
                    await asyncio.sleep(0)
            gift = {"amount_msat": 500, "id": "a gift"}
            assert (await ask(ports["operator"], "POST", "/api/v1/accounts/default/adjust", gift))[0] == 200
            assert await sent(ports, 200, 50) == 200
            await receiver.times(3)
            assert await sent(ports, 300, 1) == 402
            await receiver.times(4)
        before = list(receiver.ids)
        assert len(set(before)) == 4
        async with serving(tmp_path / "data", *settings):
            await receiver.times(6)
        assert receiver.ids[4:] == before[2:], "the same fall, with the same ids"
