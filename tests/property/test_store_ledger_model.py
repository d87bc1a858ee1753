"""The ledger on the disk against the ledger in memory, whatever crashes between.

Requests, payments, corrections, full disks, restarts and crashes around a commit; after every step the sum is 0, what is shown is what
follows from the transfers, and every balance is the model's. Days pass and old usage is folded, which no statement shows.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, TypeVar
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from receiver.core import ledger
from receiver.core.books import MemoryLedger
from receiver.core.invoices import Credited, InvoiceState, Settlement, TopUp
from receiver.core.journal import StoreFull
from receiver.core.ledger import NANOSECONDS_A_DAY, Line, Outcome, Terms, Transfer, adjust
from receiver.store import faults, fold
from receiver.store.books import SqliteBooks
from receiver.store.fold import UsageFold
from receiver.store.ledger import contradictions
from tests.fakes import UNIX_NANO, ManualClock
from tests.integration.store_helpers import acceptance, span
from tests.property.stored import Held, Lives

Result = TypeVar("Result")
ACCOUNTS = ("a", "b")
PRICE_MSAT = 10
FOREVER = 2**62
ACCOUNT = st.sampled_from(ACCOUNTS)


def at_once(step: Coroutine[Any, Any, Result]) -> Result:
    """The result of a coroutine that never waits."""
    try:
        step.send(None)
    except StopIteration as done:
        result: Result = done.value
        return result
    raise AssertionError("it waited")


class LedgerMachine(RuleBasedStateMachine):
    """Each act is asked of the books, and told to the model when it stands."""

    rows: Bundle[tuple[TopUp, Settlement]] = Bundle("rows")
    adjustments: Bundle[Transfer] = Bundle("adjustments")

    def __init__(self) -> None:
        super().__init__()
        logging.disable(logging.CRITICAL)
        self.loop = asyncio.new_event_loop()
        self.model = MemoryLedger()
        self.number = 0
        self.days = 0
        self.lives = Lives(ManualClock())
        self.books = self.do(self.lives.begin())

    def do(self, step: Awaitable[Result]) -> Result:
        async def run() -> Result:
            return await step

        return self.loop.run_until_complete(run())

    def moment(self, number: int) -> int:
        return UNIX_NANO + self.days * NANOSECONDS_A_DAY + number

    def next(self) -> int:
        self.number += 1
        return self.number

    # What can be asked: each returns the act, and what the model then does.

    def usage(self, account: str, spans: int, terms: Terms) -> tuple[Awaitable[bool], Callable[[], None]]:
        number, price = self.next(), PRICE_MSAT * spans
        stored = [span(1_000 * number + each, trace=number) for each in range(spans)]

        async def act() -> bool:
            outcome = self.books.ledger.reserve(account, price, terms)
            assert outcome is self.model.reserve(account, price, terms)
            if outcome is not Outcome.CREATED:
                return False
            self.model.release(account, price)
            try:
                taken = replace(acceptance(*stored, account=account), debit_msat=price, received_unix_nano=self.moment(number))
                await self.books.journal.accept(taken)
            except StoreFull:
                self.books.ledger.release(account, price)
                return False
            self.books.ledger.commit(account, price)
            return True

        def then() -> None:
            assert self.model.reserve(account, price, Terms(None)) is Outcome.CREATED
            self.model.record(ledger.usage(account, seq=number, amount_msat=price, unix_nano=self.moment(number)))
            self.model.commit(account, price)

        return act(), then

    def settle(self, settlement: Settlement) -> tuple[Awaitable[Credited], Callable[[], Credited]]:
        return self.books.ledger.settle(settlement), lambda: at_once(self.model.settle(settlement))

    def post(self, transfer: Transfer, terms: Terms) -> tuple[Awaitable[Outcome], Callable[[], Outcome]]:
        return self.books.ledger.post(transfer, terms), lambda: at_once(self.model.post(transfer, terms))

    # Rules

    @rule(account=ACCOUNT, spans=st.integers(1, 5), limit=st.sampled_from([None, 0, 50]), full=st.booleans())
    def request(self, account: str, spans: int, limit: int | None, full: bool) -> None:
        faults.arm("before_commit:enospc@1" if full else "")
        act, then = self.usage(account, spans, Terms(limit))
        if self.do(act):
            assert not full
            then()

    @rule(counts=st.lists(st.tuples(ACCOUNT, st.integers(1, 3)), min_size=2, max_size=6))
    def requests(self, counts: list[tuple[str, int]]) -> None:
        """Several at once: they share commits, and a commit's debits are one transfer an account."""
        pairs = [self.usage(account, spans, Terms(None)) for account, spans in counts]

        async def all_of_them() -> list[bool]:
            return await asyncio.gather(*(act for act, _ in pairs))

        assert all(self.do(all_of_them()))
        for _, then in pairs:
            then()

    @rule(target=rows, account=ACCOUNT, received_msat=st.integers(1, 300))
    def ask(self, account: str, received_msat: int) -> tuple[TopUp, Settlement]:
        number = self.next()
        preimage = number.to_bytes(32, "big")
        row = TopUp(
            payment_hash=hashlib.sha256(preimage).digest(), account=account, bolt11=f"lnbcrt{number}", amount_msat=100, network="regtest",
            payee="02", created_unix_nano=number, expires_unix_nano=number + 1,
        )  # fmt: skip
        self.do(self.books.topups.add(row))
        at_once(self.model.add(row))
        said = Settlement(
            payment_hash=row.payment_hash, preimage=preimage, received_msat=received_msat, settled_unix_nano=self.moment(number)
        )
        return row, said

    @rule(row=rows, preimage=st.sampled_from([None, b"", bytes(32)]), more=st.sampled_from([0, 0, 0, 7]), full=st.booleans())
    def pay(self, row: tuple[TopUp, Settlement], preimage: bytes | None, more: int, full: bool) -> None:
        """Told for the first time or again, with or without proof, or contradicting itself."""
        said = replace(row[1], received_msat=row[1].received_msat + more)
        said = said if preimage is None else replace(said, preimage=preimage)
        faults.arm("before_commit:enospc@1" if full else "")
        act, then = self.settle(said)
        try:
            credited = self.do(act)
        except StoreFull:
            assert full
            return
        assert credited == then()

    @rule(row=rows, state=st.sampled_from([InvoiceState.EXPIRED, InvoiceState.CANCELED, InvoiceState.OPEN]))
    def move(self, row: tuple[TopUp, Settlement], state: InvoiceState) -> None:
        faults.arm("")
        payment_hash = row[0].payment_hash
        moved = self.do(self.books.topups.move(payment_hash, before=InvoiceState.OPEN, after=state))
        assert moved == at_once(self.model.move(payment_hash, before=InvoiceState.OPEN, after=state))

    @rule(target=adjustments, account=ACCOUNT, amount_msat=st.integers(-100, 200).filter(bool), limit=st.sampled_from([None, 0, 50]))
    def adjust(self, account: str, amount_msat: int, limit: int | None) -> Transfer:
        number = self.next()
        transfer = adjust(account, client_id=str(number), amount_msat=amount_msat, unix_nano=self.moment(number))
        return self._posted(transfer, Terms(limit))

    @rule(transfer=adjustments, change=st.sampled_from([0, 1]), limit=st.sampled_from([None, 0]))
    def adjust_again(self, transfer: Transfer, change: int, limit: int | None) -> None:
        self._posted(replace(transfer, amount_msat=transfer.amount_msat + change), Terms(limit))

    def _posted(self, transfer: Transfer, terms: Terms) -> Transfer:
        faults.arm("")
        act, then = self.post(transfer, terms)
        assert self.do(act) is then()
        return transfer

    @rule(days=st.integers(1, 3))
    def days_pass(self, days: int) -> None:
        self.days += days

    @rule(days_ago=st.integers(0, 4), slice_rows=st.integers(2, 5), slices=st.integers(1, 3), dies=st.sampled_from(["", "before", "after"]))
    def fold(self, days_ago: int, slice_rows: int, slices: int, dies: str) -> None:
        """Old usage is folded, in slices, to the end or not, or the process dies around a commit: no statement changes."""
        faults.arm("")
        before = self.do(self.statements())
        until = (UNIX_NANO // NANOSECONDS_A_DAY + self.days - days_ago) * NANOSECONDS_A_DAY
        fold_usage, old = UsageFold(self.books.journal.writer), self.books
        with mock.patch.object(fold, "SLICE_ROWS", slice_rows):
            for _ in range(slices):
                self.do(fold_usage(before_unix_nano=until))
            if dies:
                self.do(self._die_folding(old, fold_usage, until, stands=dies == "after"))
                self.books = self.do(self.lives.begin())
        assert self.do(self.statements()) == before

    async def _die_folding(self, old: SqliteBooks, fold_usage: UsageFold, until: int, *, stands: bool) -> None:
        with Held(old.journal.writer, asyncio.get_running_loop()) as held:
            asked = asyncio.ensure_future(fold_usage(before_unix_nano=until))
            await asyncio.sleep(0)
            if stands:
                held.commit()
            self.lives.copy()
        await asked
        await old.stop()

    async def statements(self) -> list[Sequence[Line]]:
        """All lines of every account, and those of each day alone."""
        day = UNIX_NANO // NANOSECONDS_A_DAY * NANOSECONDS_A_DAY
        days = [(day + number * NANOSECONDS_A_DAY, day + (number + 1) * NANOSECONDS_A_DAY) for number in range(self.days + 1)]
        return [
            await self.books.ledger.statement(account, since_unix_nano=since, until_unix_nano=until)
            for account in ACCOUNTS
            for since, until in ((0, FOREVER), *days)
        ]

    @rule()
    def restart(self) -> None:
        faults.arm("")
        self.do(self.books.stop())
        self.books = self.do(self.lives.begin())

    @rule(
        usages=st.lists(st.tuples(ACCOUNT, st.integers(1, 3)), max_size=3),
        paid=st.lists(rows, max_size=2),
        taken=st.integers(-30, 30),
        stands=st.booleans(),
    )
    def crash(self, usages: list[tuple[str, int]], paid: list[tuple[TopUp, Settlement]], taken: int, stands: bool) -> None:
        """The process dies while all this is under way: before its commit, or when it stands and nobody has heard of it."""
        faults.arm("")
        pairs: list[tuple[Awaitable[Any], Callable[[], Any]]] = [self.usage(account, spans, Terms(None)) for account, spans in usages]
        pairs += [self.settle(settlement) for _, settlement in paid]
        if taken:
            number = self.next()
            pairs.append(self.post(adjust("a", client_id=str(number), amount_msat=taken, unix_nano=self.moment(number)), Terms(None)))
        old = self.books

        async def asked() -> list[asyncio.Future[Any]]:
            tasks = [asyncio.ensure_future(act) for act, _ in pairs]
            await asyncio.sleep(0)  # each is in the writer's queue
            return tasks

        with Held(old.journal.writer, self.loop) as held:
            tasks = self.do(asked())
            assert not any(task.done() for task in tasks)
            if stands:
                held.commit()
            self.lives.copy()
        if stands:
            for _, then in pairs:
                then()

        async def let_go() -> None:
            await asyncio.gather(*tasks)
            await old.stop()

        self.do(let_go())  # in the folder of the dead, which nobody reads any more
        self.books = self.do(self.lives.begin())

    # Invariants

    @invariant()
    def the_books_balance(self) -> None:
        faults.arm("")  # a request that was refused has met no commit
        found = self.do(self.books.ledger.audit())
        assert found.balanced, found
        assert found.sum_msat == 0
        wrong: list[str] = self.do(self.books.journal.writer.call(lambda connection: list(contradictions(connection))))
        assert not wrong

    @invariant()
    def every_balance_is_the_models(self) -> None:
        assert self.books.ledger.shown() == self.model.shown() == ledger.derive(self.model.transfers())
        for account in ACCOUNTS:
            assert self.books.ledger.balance(account) == self.model.balance(account)
            assert self.books.ledger.balance(account).held_msat == 0

    def teardown(self) -> None:
        try:
            faults.arm("")
            self.fold(-1, 100, 3, "")  # all of it
            lines = self.do(self.books.journal.writer.call(lambda connection: connection.execute(_USAGE_LINES).get))
            assert lines == sum(line.code is ledger.Code.USAGE for said in self.do(self.statements())[:: self.days + 2] for line in said)
            self.do(self.same_rows_and_statements())
            self.do(self.books.stop())
        finally:
            logging.disable(logging.NOTSET)
            self.do(self.loop.shutdown_default_executor())
            self.loop.close()
            self.lives.end()

    async def same_rows_and_statements(self) -> None:
        """At the end: every top-up, and every account's lines by what they are for."""
        for account in ACCOUNTS:
            assert await self.books.topups.of_account(account, limit=99) == await self.model.of_account(account, limit=99)
            said = await self.books.ledger.statement(account, since_unix_nano=0, until_unix_nano=FOREVER)
            expected = await self.model.statement(account, since_unix_nano=0, until_unix_nano=FOREVER)
            assert _by_code(said) == _by_code(expected)
            assert (said[-1].balance_msat if said else 0) == self.books.ledger.balance(account).posted_msat


_USAGE_LINES = "SELECT count(*) FROM transfers WHERE code = 'usage'"


def _by_code(lines: Sequence[Line]) -> Counter[ledger.Code]:
    found: Counter[ledger.Code] = Counter()
    for line in lines:
        found[line.code] += line.amount_msat
    return found


LedgerMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestStoredLedger = LedgerMachine.TestCase
