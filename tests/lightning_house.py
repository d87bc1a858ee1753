"""A house that waits for money: the watcher, the desk and the books around a dev wallet that can be down, deaf, doubling or lying.

Time is virtual: `Hours` is both clock and sleep, and moves only when a test says so.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from receiver.core.books import MemoryLedger
from receiver.core.invoices import Credited, Settlement, TopUp
from receiver.errors import ReceiverError
from receiver.lightning.client import Hint, Invoice, Node, NodeUnavailable
from receiver.lightning.dev import DevWallet, MemoryShelf
from receiver.lightning.topups import TopUpDesk
from receiver.lightning.watcher import Watcher
from tests.fakes import UNIX_NANO


@dataclass
class Hours:
    """A clock that its sleepers wait for."""

    now: float = 1_000.0
    step_seconds: float = 0.0  #: how far the wall clock was set
    sleepers: list[tuple[float, int, asyncio.Future[None]]] = field(default_factory=list)
    count: int = 0

    def monotonic(self) -> float:
        return self.now

    def unix_nano(self) -> int:
        return UNIX_NANO + round((self.now - 1_000.0 + self.step_seconds) * 1e9)

    async def sleep(self, seconds: float) -> None:
        self.count += 1
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self.sleepers, (self.now + seconds, self.count, future))
        await future

    async def pass_(self, seconds: float) -> None:
        """Let `seconds` go by; everyone wakes at his moment."""
        until = self.now + seconds
        await quiet()
        while self.sleepers and self.sleepers[0][0] <= until:
            at, _, future = heapq.heappop(self.sleepers)
            self.now = max(self.now, at)
            if not future.done():
                future.set_result(None)
            await quiet()
        self.now = until
        await quiet()


async def quiet() -> None:
    """Let every task run until it waits for time or for an event."""
    for _ in range(40):
        await asyncio.sleep(0)


class Flaky:
    """The dev wallet behind a connection that fails, loses, doubles and lies as a test says."""

    name = "flaky"

    def __init__(self, inner: DevWallet) -> None:
        self.inner = inner
        self.down = False
        self.mute = False  # lookups alone fail
        self.deaf = False  # hints are lost
        self.doubling = 1  # how often each hint comes
        self.lie: Callable[[Invoice], Invoice] = lambda said: said
        self.lookups: list[bytes] = []
        self.cursors: list[str | None] = []
        self.on_subscribed: Callable[[], Awaitable[object]] | None = None

    def _answers(self) -> None:
        if self.down:
            raise NodeUnavailable("connection refused")

    async def node(self) -> Node:
        self._answers()
        return await self.inner.node()

    async def create(self, *, amount_msat: int, description: str, expiry_seconds: int, description_hash: bytes | None = None) -> Invoice:
        self._answers()
        return await self.inner.create(
            amount_msat=amount_msat, description=description, expiry_seconds=expiry_seconds, description_hash=description_hash
        )

    async def lookup(self, payment_hash: bytes) -> Invoice:
        self._answers()
        if self.mute:
            raise NodeUnavailable("no answer to a lookup")
        self.lookups.append(payment_hash)
        return self.lie(await self.inner.lookup(payment_hash))

    @asynccontextmanager
    async def subscribe(self, cursor: str | None) -> AsyncIterator[AsyncIterator[Hint]]:
        self._answers()
        self.cursors.append(cursor)
        async with self.inner.subscribe(cursor) as hints:
            if self.on_subscribed is not None:
                await self.on_subscribed()
            self.cut = asyncio.Event()
            yield self._heard(hints)

    async def _heard(self, hints: AsyncIterator[Hint]) -> AsyncIterator[Hint]:
        cut = asyncio.ensure_future(self.cut.wait())
        following = asyncio.ensure_future(anext(hints))
        try:
            while True:
                await asyncio.wait({following, cut}, return_when=asyncio.FIRST_COMPLETED)
                if cut.done():
                    raise NodeUnavailable("the connection was cut")
                hint = following.result()
                following = asyncio.ensure_future(anext(hints))
                for _ in range(0 if self.deaf else self.doubling):
                    yield hint
        finally:
            cut.cancel()
            following.cancel()
            await asyncio.wait({cut, following})

    async def close(self) -> None: ...


class Books(MemoryLedger):
    """A ledger whose commits and reads fail, or wait, as a test says."""

    def __init__(self) -> None:
        super().__init__()
        self.failing = 0  # commits that fail as a full disk would
        self.broken = 0  # commits that fail as a mistake of ours would
        self.poison: set[bytes] = set()  # payments whose commit always fails
        self.unreadable: list[Exception] = []  # what the next reads raise
        self.gate: asyncio.Event | None = None  # what a commit waits for

    async def settle(self, settlement: Settlement) -> Credited:
        await asyncio.sleep(0)
        if self.gate is not None:
            await self.gate.wait()
        if self.failing or settlement.payment_hash in self.poison:
            self.failing = max(0, self.failing - 1)
            raise StoreBusy("the disk is full")
        if self.broken:
            self.broken -= 1
            raise ZeroDivisionError
        return await super().settle(settlement)

    async def unsettled(self, *, watched_since_unix_nano: int) -> Sequence[TopUp]:
        if self.unreadable:
            raise self.unreadable.pop()
        return await super().unsettled(watched_since_unix_nano=watched_since_unix_nano)


class StoreBusy(ReceiverError):
    pass


@dataclass
class House:
    """Everything that takes part, in one process life after another."""

    hours: Hours
    shelf: MemoryShelf
    dev: DevWallet
    node: Flaky
    books: Books
    watcher: Watcher
    desk: TopUpDesk
    credited: list[TopUp]
    task: asyncio.Task[None] | None = None

    @classmethod
    async def build(cls) -> House:
        hours, shelf = Hours(), MemoryShelf()
        dev = await DevWallet.open(shelf, hours)
        node, books, credited = Flaky(dev), Books(), list[TopUp]()
        house = cls(hours, shelf, dev, node, books, cls._watcher(node, books, hours, credited), None, credited)  # type: ignore[arg-type] -- set below
        house._desk()
        return house

    @staticmethod
    def _watcher(node: Flaky, books: Books, hours: Hours, credited: list[TopUp]) -> Watcher:
        rng = random.Random(7)
        return Watcher(client=node, topups=books, ledger=books, clock=hours, rng=rng, sleep=hours.sleep, on_credit=credited.append)

    def _desk(self) -> None:
        self.desk = TopUpDesk(client=self.node, topups=self.books, clock=self.hours, watch=self.watcher.watch)

    async def start(self) -> None:
        self.task = asyncio.create_task(self.watcher.run())
        await quiet()

    async def kill(self) -> None:
        assert self.task is not None
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        self.watcher = self._watcher(self.node, self.books, self.hours, self.credited)
        self._desk()

    async def check(self, *paid: TopUp) -> None:
        """Credited is exactly what was paid, and the books balance."""
        assert sorted(row.payment_hash for row in self.credited) == sorted(row.payment_hash for row in paid)
        assert sorted(transfer.id for transfer in self.books.transfers()) == sorted(f"ln:{row.payment_hash.hex()}" for row in paid)
        assert (await self.books.audit()).balanced
        assert self.task is None or not self.task.done()
