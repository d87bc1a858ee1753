"""The credit office over a real database: time is virtual, the wallet can be down or deaf, and the process can die and start again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from receiver.access.accounts import Accounts
from receiver.admin.credit import CreditOffice
from receiver.config import Credit as CreditConfig
from receiver.config import Lightning
from receiver.core.accounts import Account
from receiver.core.credit import Credit, LowBalance
from receiver.core.invoices import Credited, Settlement, TopUp
from receiver.lightning.dev import DevWallet
from receiver.store.books import SqliteBooks
from tests.fakes import UNIX_NANO
from tests.lightning_house import Flaky, Hours, StoreBusy, quiet

SAT = 1_000
#: A hang is a failure; nothing here needs a second.
PATIENCE_SECONDS = 20


class Working:
    """A part of the books, and how many of its calls are being worked on: time may pass when none is."""

    def __init__(self, part: Any, busy: list[int]) -> None:
        self._part = part
        self._busy = busy

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._part, name)
        if not asyncio.iscoroutinefunction(found):
            return found

        async def counted(*args: Any, **kwargs: Any) -> Any:
            self._busy[0] += 1
            try:
                return await found(*args, **kwargs)
            finally:
                self._busy[0] -= 1

        return counted


class FailingTopUps(Working):
    """Rows that cannot be written, as often as a test says."""

    refusing = 0

    async def add(self, topup: TopUp) -> None:
        if self.refusing:
            self.refusing -= 1
            raise StoreBusy("the disk is full")
        await self._part.add(topup)


class DyingLedger(Working):
    """A ledger whose process dies after its next commit, before anyone is told of it."""

    dies = False

    async def settle(self, settlement: Settlement) -> Credited:
        self._busy[0] += 1
        try:
            credited: Credited = await self._part.settle(settlement)
        finally:
            self._busy[0] -= 1
        if self.dies:
            await asyncio.Event().wait()
        return credited


class CreditHouse:
    """One data folder, and one process life after another on it."""

    books: SqliteBooks
    topups: FailingTopUps
    ledger: DyingLedger
    dev: DevWallet
    node: Flaky
    office: CreditOffice
    credit: Credit
    register: Accounts

    def __init__(
        self, folder: Path, *, lightning: Lightning | None = None, credit: CreditConfig | None = None, direct: bool = False
    ) -> None:
        """`direct`: the office has the dev wallet itself, which it pays from then; else one that can fail (`node`)."""
        self.path = folder / "journal.db"
        self.hours = Hours()
        self.lightning = lightning or Lightning()
        self.direct = direct
        self.credit_config = credit or CreditConfig()
        self.task: asyncio.Task[None] | None = None
        self.low: list[LowBalance] = []
        self.busy = [0]

    async def open(self, *, run: bool = True) -> CreditHouse:
        """A process starts."""
        self.busy[0] = 0
        self.books = SqliteBooks(self.path, clock=self.hours)
        self.topups, self.ledger = FailingTopUps(self.books.topups, self.busy), DyingLedger(self.books.ledger, self.busy)
        self.register = Accounts(self.credit_config, clock=self.hours)
        self.register.put(Account(name="acme", created_unix_nano=UNIX_NANO))
        self.credit = Credit(self.books.ledger, self.register.policy)
        self.dev = await DevWallet.open(self.books.shelf, self.hours)
        self.node = Flaky(self.dev)
        wallet = self.dev if self.direct else self.node
        client = wallet if self.lightning.backend == "dev" else None
        self.office = CreditOffice(
            ledger=self.ledger,
            topups=self.topups,
            credit=self.credit,
            register=self.register,
            client=client,
            lightning=self.lightning,
            topup_url=lambda: "http://localhost:8101/",
            clock=self.hours,
            rng=random.Random(7),
            counts=await self.books.topups.counts(),
            sleep=self.hours.sleep,
            on_low=self.low.append,
        )
        if run:
            self.task = asyncio.create_task(self.office.run())
            await self.rest()
        return self

    async def die(self) -> None:
        """The process ends, whatever it was doing."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
            self.task = None
        await self.books.stop()

    async def again(self) -> None:
        """The process dies and starts anew."""
        await self.die()
        await self.open()

    async def rest(self) -> None:
        """Until everyone waits for time or for an event, and the books are at rest."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                await quiet()
                if not self.busy[0]:
                    return

    async def pass_(self, seconds: float, *, step: float = 60.0) -> None:
        """Let time go by in steps, the books at rest after each."""
        while seconds > 0:
            await self.hours.pass_(min(step, seconds))
            await self.rest()
            seconds -= step

    async def ask(self, sat: int = 500, account: str = "acme") -> dict[str, Any]:
        return await self.office.top_up(account, sat * SAT)

    async def pay(self, topup: dict[str, Any], *, msat: int | None = None) -> None:
        await self.dev.pay(topup["bolt11"], amount_msat=msat)
        await self.rest()

    async def state(self, topup: dict[str, Any]) -> str:
        found: str = (await self.office.topup(topup["payment_hash"]))["state"]
        return found

    async def check(self, credited_msat: int, account: str = "acme") -> None:
        """The account was credited exactly this over Lightning, the books balance, and the watch goes on."""
        statement = await self.office.statement(account, 0, 2**63 - 1)
        assert sum(line["amount_msat"] for line in statement["lines"] if line["code"] == "topup") == credited_msat
        assert self.office.balance(account)["posted_msat"] == statement["closing_msat"]
        assert (await self.office.audit())["balanced"]
        counts = {state.value: many for state, many in (await self.books.topups.counts()).items()}
        assert {state: many for state, many in self.office.invoices().items() if many} == counts
        assert self.task is None or not self.task.done()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until it holds; a hang is a failure."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await condition():
            await quiet()
