"""The watcher and the books on a disk around a node that is down, deaf, doubling or lying, whatever crashes between.

Nothing is credited that the node has not settled; and once all is well again, everything is that was.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from receiver.core.invoices import Credited, InvoiceState, NodeState, Settlement, TopUp
from receiver.errors import ReceiverError
from receiver.lightning.client import Invoice, NodeRefused
from receiver.lightning.dev import DevWallet, MemoryShelf
from receiver.lightning.topups import TopUpDesk
from receiver.lightning.watcher import Watcher
from receiver.store import faults
from receiver.store.books import SqliteBooks
from receiver.store.ledger import contradictions
from tests.lightning_house import Flaky, Hours
from tests.property.stored import Held, Lives

Result = TypeVar("Result")
ACCOUNTS = ("a", "b")
ACCOUNT = st.sampled_from(ACCOUNTS)


class Tracked:
    """The books as the watcher and the desk use them; what they wait for is known, so that a test can wait for it as well."""

    def __init__(self, books: SqliteBooks) -> None:
        self.books = books
        self.asked: set[asyncio.Task[Any]] = set()

    async def _of(self, step: Coroutine[Any, Any, Result]) -> Result:
        task = asyncio.ensure_future(step)
        self.asked.add(task)
        task.add_done_callback(self.asked.discard)
        return await task

    async def settle(self, settlement: Settlement) -> Credited:
        return await self._of(self.books.ledger.settle(settlement))

    async def add(self, topup: TopUp) -> None:
        await self._of(self.books.topups.add(topup))

    async def find(self, payment_hash: bytes) -> TopUp | None:
        return await self._of(self.books.topups.find(payment_hash))

    async def of_account(self, account: str, *, limit: int) -> Sequence[TopUp]:
        return await self._of(self.books.topups.of_account(account, limit=limit))

    async def unsettled(self, *, watched_since_unix_nano: int) -> Sequence[TopUp]:
        return await self._of(self.books.topups.unsettled(watched_since_unix_nano=watched_since_unix_nano))

    async def counts(self) -> Mapping[InvoiceState, int]:
        return await self._of(self.books.topups.counts())

    async def move(self, payment_hash: bytes, *, before: InvoiceState, after: InvoiceState) -> bool:
        return await self._of(self.books.topups.move(payment_hash, before=before, after=after))

    async def cursor(self, node: str) -> str | None:
        return await self._of(self.books.topups.cursor(node))

    async def keep_cursor(self, node: str, cursor: str) -> None:
        await self._of(self.books.topups.keep_cursor(node, cursor))

    async def quiet(self) -> None:
        """Until every task waits for time or for an event, and nobody for the disk."""
        calm = 0
        while calm < 40:
            if self.asked:
                await asyncio.wait(self.asked)
                calm = 0
            await asyncio.sleep(0)
            calm += 1


class DiskHours(Hours):
    """Virtual time in which the disk takes none."""

    tracked: Tracked

    async def pass_(self, seconds: float) -> None:
        until = self.now + seconds
        await self.tracked.quiet()
        while self.sleepers and self.sleepers[0][0] <= until:
            self.now = max(self.now, self.sleepers[0][0])
            while self.sleepers and self.sleepers[0][0] <= self.now:
                _, _, future = heapq.heappop(self.sleepers)
                if not future.done():
                    future.set_result(None)
            await self.tracked.quiet()
        self.now = until
        await self.tracked.quiet()


class InvoicesMachine(RuleBasedStateMachine):
    """The watcher, the desk and the books on a disk, around a wallet of its own that does what wallets do."""

    rows: Bundle[TopUp] = Bundle("rows")

    def __init__(self) -> None:
        super().__init__()
        logging.disable(logging.CRITICAL)
        self.loop = asyncio.new_event_loop()
        self.settled: dict[bytes, tuple[str, int]] = {}  # the model: what the node has been paid, and for whom
        self.hours = DiskHours()
        self.dev = self.do(DevWallet.open(MemoryShelf(), self.hours))
        self.node = Flaky(self.dev)
        self.lives = Lives(self.hours)
        self.told: list[TopUp] = []
        self.amount = 100_000
        self.full = 0

    def do(self, step: Coroutine[Any, Any, Result]) -> Result:
        return self.loop.run_until_complete(step)

    @initialize()
    def begin(self) -> None:
        async def start() -> None:
            self.tracked = self.hours.tracked = Tracked(await self.lives.begin())
            self.watcher = Watcher(
                client=self.node, topups=self.tracked, ledger=self.tracked,  # type: ignore[arg-type] -- it uses `settle` alone
                clock=self.hours, rng=random.Random(7), sleep=self.hours.sleep, on_credit=self.told.append,
            )  # fmt: skip
            self.desk = TopUpDesk(client=self.node, topups=self.tracked, clock=self.hours, watch=self.watcher.watch)
            self.task = asyncio.ensure_future(self.watcher.run())
            await self.tracked.quiet()

        self.do(start())

    @rule(target=rows, account=ACCOUNT)
    def ask(self, account: str) -> Any:
        self.amount += 1_000  # always a new invoice
        try:
            return self.do(self.desk.request(account, self.amount))
        except ReceiverError:
            return multiple()  # the node is down, the disk full, or too many are unpaid

    @rule(row=rows, more=st.sampled_from([0, 0, 1, 5_000]))
    def pay(self, row: TopUp, more: int) -> None:
        self._pay(row, more)
        self.do(self.tracked.quiet())

    def _pay(self, row: TopUp, more: int = 0) -> None:
        try:
            self.do(self.dev.pay(row.bolt11, amount_msat=row.amount_msat + more))
        except NodeRefused:
            assert row.payment_hash in self.settled or self.hours.unix_nano() >= row.expires_unix_nano
        else:
            assert row.payment_hash not in self.settled
            self.settled[row.payment_hash] = (row.account, row.amount_msat + more)

    @rule(row=consumes(rows))
    def pay_at_the_last_moment(self, row: TopUp) -> None:
        """The payment arrives in the last second, and the node tells of it after the expiry."""
        left = (row.expires_unix_nano - self.hours.unix_nano()) / 1e9
        if left > 1:
            self.do(self.hours.pass_(left - 0.5))
            self.node.deaf, kept = True, self.node.deaf
            self._pay(row)
            self.do(self.hours.pass_(1.0))
            self.node.deaf = kept

    @rule(row=rows, times=st.integers(1, 3))
    def hint(self, row: TopUp, times: int) -> None:
        for _ in range(times):
            self.watcher.hint(row.payment_hash)
        self.watcher.hint(bytes(32))
        self.do(self.tracked.quiet())

    @rule(deaf=st.booleans(), doubling=st.integers(1, 3))
    def stream(self, *, deaf: bool, doubling: int) -> None:
        self.node.deaf, self.node.doubling = deaf, doubling

    @rule(said=st.sampled_from([None, NodeState.OPEN, NodeState.HELD, NodeState.CANCELED, NodeState.UNKNOWN]))
    def flap(self, said: NodeState | None) -> None:
        self.node.lie = lambda invoice: invoice if said is None else replace(invoice, state=said)

    @rule(preimage=st.sampled_from([b"", bytes(32), bytes(31)]))
    def lie(self, preimage: bytes) -> None:
        def lie(invoice: Invoice) -> Invoice:
            return replace(invoice, state=NodeState.SETTLED, received_msat=10**9, preimage=preimage)

        self.node.lie = lie

    @rule(down=st.booleans())
    def outage(self, *, down: bool) -> None:
        self.node.down = down
        self.do(self.tracked.quiet())

    @rule(at=st.integers(0, 3))
    def full_disk(self, at: int) -> None:
        """In each step from now on, this one of its commits fails; 0: none."""
        self.full = at
        self._arm()

    def _arm(self) -> None:
        faults.arm(f"before_commit:enospc@{self.full}" if self.full else "")

    @rule(stands=st.booleans(), row=st.none() | rows)
    def crash(self, *, stands: bool, row: TopUp | None) -> None:
        """While whatever the watcher does about `row` is under way: before its commits, or when they stand and nobody has heard."""
        faults.arm("")
        self.full = 0

        async def under_way() -> None:
            for _ in range(100):
                await asyncio.sleep(0)

        async def let_go(old: Tracked) -> None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
            await old.quiet()
            await old.books.stop()

        old = self.tracked
        with Held(old.books.journal.writer, self.loop) as held:
            if row is not None:
                self._pay(row)
                self.watcher.hint(row.payment_hash)
            self.do(under_way())
            if stands:
                held.commit()
            self.lives.copy()
        self.do(let_go(old))
        self.begin()

    @rule(seconds=st.sampled_from([0.5, 5.0, 61.0, 1_000.0, 4_000.0]), step=st.sampled_from([0.0, 0.0, -3_600.0, 600.0]))
    def time(self, seconds: float, step: float) -> None:
        self.hours.step_seconds += step
        self.do(self.hours.pass_(seconds))
        self.hours.step_seconds -= step

    def credited(self) -> dict[bytes, tuple[str, int]]:
        query = "SELECT unhex(substr(id, 4)), substr(credit_account, 10), amount_msat FROM transfers"

        async def read() -> list[tuple[bytes, str, int]]:
            found: list[tuple[bytes, str, int]] = await self.tracked.books.journal.writer.call(lambda c: c.execute(query).fetchall())
            return found

        rows = self.do(read())
        found = {payment_hash: (account, amount_msat) for payment_hash, account, amount_msat in rows}
        assert len(found) == len(rows)
        return found

    @invariant()
    def only_what_was_settled_is_credited_and_once(self) -> None:
        if not hasattr(self, "tracked"):
            return
        faults.arm("")
        credited = self.credited()
        assert credited.items() <= self.settled.items()
        assert len({row.payment_hash for row in self.told}) == len(self.told), "told of once"
        books = self.tracked.books
        assert self.do(books.ledger.audit()).balanced
        assert not self.do(self._contradictions())
        for account in ACCOUNTS:
            assert books.ledger.balance(account).posted_msat == sum(msat for owner, msat in credited.values() if owner == account)
        assert not self.task.done()
        self._arm()

    async def _contradictions(self) -> list[str]:
        found: list[str] = await self.tracked.books.journal.writer.call(lambda connection: list(contradictions(connection)))
        return found

    def teardown(self) -> None:
        """All is well again: within the hour between two looks at an expired invoice, credited is what was settled."""
        self.node.down, self.node.deaf, self.node.lie = False, False, lambda invoice: invoice
        faults.arm("")
        try:
            if hasattr(self, "tracked"):
                self.do(self.hours.pass_(3_800.0))
                assert self.credited() == self.settled
                for payment_hash in self.settled:
                    row = self.do(self.tracked.find(payment_hash))
                    assert row is not None
                    assert row.state is InvoiceState.SETTLED
                self.task.cancel()
                self.do(_ended(self.task))
                self.do(self.tracked.books.stop())
        finally:
            logging.disable(logging.NOTSET)
            self.do(self.loop.shutdown_asyncgens())
            self.do(self.loop.shutdown_default_executor())
            self.loop.close()
            self.lives.end()


async def _ended(task: asyncio.Task[None]) -> None:
    await asyncio.gather(task, return_exceptions=True)


InvoicesMachine.TestCase.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)
TestStoredInvoices = InvoicesMachine.TestCase
