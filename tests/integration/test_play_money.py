"""Play money never becomes money: what the start of a daemon with a real wallet does about what the dev wallet credited."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver import app
from receiver.admin import play_money
from receiver.admin.credit import _RESERVED_IDS
from receiver.admin.play_money import PlayMoneyLeft
from receiver.config import Config, Lightning, load
from receiver.core.invoices import SECOND_NANO, Settlement, TopUp
from receiver.core.journal import Acceptance
from receiver.core.ledger import Outcome, Terms, adjust
from receiver.core.play_money import Played, left_of
from receiver.store.books import SqliteBooks
from tests.fake_nodes import NEEDED, bake
from tests.fakes import ManualClock
from tests.integration.store_helpers import span
from tests.integration.test_daemon_credit import FREE, ask

SAT = 1_000
REAL = Lightning(backend="lnd")


class House:
    """One set of books, and money of every kind that comes and goes."""

    def __init__(self, books: SqliteBooks, clock: ManualClock) -> None:
        self.books = books
        self.clock = clock
        self._number = 0

    async def paid(self, sat: int, *, network: str = "regtest", account: str = "acme") -> None:
        self.clock.advance(1)
        self._number += 1
        preimage = self._number.to_bytes(32, "big")
        payment_hash = hashlib.sha256(preimage).digest()
        now = self.clock.unix_nano()
        row = TopUp(
            payment_hash=payment_hash,
            account=account,
            bolt11=f"ln{self._number}",
            amount_msat=sat * SAT,
            network=network,
            payee="02ab",
            created_unix_nano=now,
            expires_unix_nano=now + 3_600 * SECOND_NANO,
        )
        await self.books.topups.add(row)
        settlement = Settlement(payment_hash=payment_hash, preimage=preimage, received_msat=sat * SAT, settled_unix_nano=now)
        assert (await self.books.ledger.settle(settlement)).outcome is Outcome.CREATED

    async def given(self, sat: int, *, account: str = "acme") -> None:
        self._number += 1
        gift = adjust(account, client_id=f"gift {self._number}", amount_msat=sat * SAT, unix_nano=self.clock.unix_nano())
        assert await self.books.ledger.post(gift, Terms(None)) is Outcome.CREATED

    async def spent(self, sat: int, *, account: str = "acme") -> None:
        self.clock.advance(1)
        self._number += 1
        ledger, amount_msat = self.books.ledger, sat * SAT
        assert ledger.reserve(account, amount_msat, Terms(None)) is Outcome.CREATED
        spans = [span(self._number, trace=self._number)]
        await self.books.journal.accept(Acceptance(account, self.clock.unix_nano(), spans, "grpc", amount_msat))
        ledger.commit(account, amount_msat)

    async def started(self, lightning: Lightning = REAL) -> None:
        """What the daemon does before anything is taken."""
        await play_money.check(ledger=self.books.ledger, receipts=self.books.topups, lightning=lightning, clock=self.clock)
        assert (await self.books.ledger.audit()).balanced

    def sat(self, account: str = "acme") -> int:
        return self.books.ledger.balance(account).posted_msat // SAT


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[House]:
    clock = ManualClock()
    books = SqliteBooks(folder / "spantoll.db", clock=clock)
    try:
        yield House(books, clock)
    finally:
        await books.stop()


def lightning(play: str, *, backend: str = "lnd", network: str = "bitcoin") -> Lightning:
    return Lightning(backend=backend, network=network, play_money=play)


async def test_a_real_wallet_refuses_books_that_hold_play_money(tmp_path: Path) -> None:
    """By default, with a sentence that names who has how much of what, and what can be said."""
    async with opened(tmp_path) as house:
        await house.paid(500)
        await house.paid(70, network="signet", account="b")
        with pytest.raises(PlayMoneyLeft) as refused:
            await house.started()
        for told in ("acme 500 sat (regtest)", "b 70 sat (signet)", '"take_back"', '"keep"', "store.directory"):
            assert told in str(refused.value)
        assert (house.sat(), house.sat("b")) == (500, 70), "looking moves nothing"
        await house.started(lightning("keep"))
        assert house.sat() == 500


@pytest.mark.parametrize("backend", ["lnd", "lnbits"])
async def test_play_money_is_taken_back_once(tmp_path: Path, backend: str) -> None:
    """Only what is left of it goes, however often the daemon starts and whatever real money comes afterwards."""
    async with opened(tmp_path) as house:
        await house.given(10)
        await house.paid(500)
        await house.spent(100)
        for _ in range(2):
            await house.started(lightning("take_back", backend=backend))
            assert house.sat() == 10, "the gift stays"
        await house.paid(1_000, network="bitcoin")
        await house.spent(5)
        await house.started(lightning("take_back", backend=backend))
        await house.started()  # and by now nobody need say anything any more
        assert house.sat() == 1_005
        statement = await house.books.ledger.statement("acme", since_unix_nano=0, until_unix_nano=2**62)
        assert [line.amount_msat // SAT for line in statement if "play money" in line.cause] == [-400]


async def test_money_that_was_paid_before_is_not_taken_for_play(tmp_path: Path) -> None:
    """A daemon that ran on the dev wallet for a while by mistake: what came then goes, what was paid before stays."""
    async with opened(tmp_path) as house:
        await house.paid(1_000, network="bitcoin")
        await house.spent(900)
        await house.paid(500)
        await house.spent(50)
        await house.started(lightning("take_back"))
        assert house.sat() == 100
        await house.paid(300)
        await house.started(lightning("take_back"))
        assert house.sat() == 100, "and once more"


async def test_what_was_spent_or_taken_by_hand_is_no_longer_there(tmp_path: Path) -> None:
    """An account without any of it left is in nobody's way, nor is one in debt."""
    async with opened(tmp_path) as house:
        await house.paid(500)
        await house.spent(500)
        await house.paid(40, account="debtor")
        await house.spent(90, account="debtor")
        await house.paid(60, account="by hand")
        await house.given(-60, account="by hand")
        await house.started()


@pytest.mark.parametrize(
    "settings",
    [lightning("refuse", backend="dev"), lightning("refuse", network="testnet"), lightning("take_back", network="regtest")],
    ids=["dev", "testnet", "regtest"],
)
async def test_play_wallets_start_on_any_books_and_say_so_on_real_ones(
    tmp_path: Path, settings: Lightning, caplog: pytest.LogCaptureFixture
) -> None:
    """Among themselves nothing is said; where money was paid before, the log warns that from now on it is not."""
    async with opened(tmp_path) as house:
        await house.paid(500)
        await house.started(settings)
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
        await house.paid(100, network="bitcoin")
        await house.started(settings)
        assert house.sat() == 600
        assert [record.message for record in caplog.records if "play money" in record.message]


def test_nobody_else_has_the_ids_of_what_is_taken_back() -> None:
    """An operator cannot use one up by hand, which would let the play money stay."""
    assert play_money.RESERVED_ID in _RESERVED_IDS


@given(
    st.lists(
        st.tuples(st.sampled_from(["real", "play", "spend"]), st.integers(1, 100)),
        max_size=12,
    )
)
def test_no_order_of_payments_takes_what_was_paid(events: list[tuple[str, int]]) -> None:
    """Never more is taken than the play money that came, nor so much that a customer has less than he would have without any of it."""
    balance = debits = received = without = 0
    before: int | None = None
    for kind, amount in events:
        if kind == "spend":
            balance, debits = balance - amount, debits + amount
            without -= amount
        else:
            balance += amount
            received += amount if kind == "play" else 0
            without += amount if kind == "real" else 0
            if kind == "play" and before is None:
                before = debits
    left = left_of(Played("a", ("regtest",), received, before or 0), debits_msat=debits, posted_msat=balance) if received else None
    taken = left.left_msat if left is not None else 0
    assert 0 <= taken <= received
    assert balance - taken >= min(balance, without)


def config(folder: Path, *settings: str) -> Config:
    return load(None, environ={}, assignments=(*FREE, f'store.directory="{folder}"', *settings))


def test_the_daemon_does_not_start_on_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`serve` with a real node on the dev wallet's books ends with exit code 1 and that sentence; commands still reach the books."""
    folder = tmp_path / "data"
    folder.mkdir()

    async def play() -> None:
        async with opened(folder) as house:
            await house.paid(500)

    asyncio.run(play())
    macaroon = tmp_path / "macaroon"
    macaroon.write_bytes(bake(*NEEDED))
    settled = config(folder, "lightning.backend=lnd", "lightning.lnd.url=https://127.0.0.1:1", f"lightning.lnd.macaroon_file={macaroon}")
    assert app.run(settled) == 1
    assert "lightning.play_money" in caplog.text

    async def look() -> int:
        async with app.office(settled) as (url, token):
            status, _ = await ask(url, "GET", "/api/v1/accounts/default/credit", token=token)
            return status

    assert asyncio.run(look()) == 200
