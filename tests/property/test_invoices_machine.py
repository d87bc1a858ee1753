"""Payments under hints, lost, doubled and reordered, flapping lookups, outages, failing commits, crashes and the expiry race.

Whatever happens, nothing is credited that the node has not settled; and once all is well again, everything is that was.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from receiver.core.invoices import InvoiceState, NodeState, TopUp
from receiver.errors import ReceiverError
from receiver.lightning.client import Invoice, NodeRefused
from tests.lightning_house import House, quiet

Result = TypeVar("Result")


class InvoicesMachine(RuleBasedStateMachine):
    """The watcher, the desk and the books around a wallet that does what wallets do."""

    rows: Bundle[TopUp] = Bundle("rows")

    def __init__(self) -> None:
        super().__init__()
        logging.disable(logging.CRITICAL)  # hundreds of outages
        self.loop = asyncio.new_event_loop()
        self.settled: dict[bytes, tuple[str, int]] = {}  # the model: what the node has been paid, and for whom
        self.house = self.do(House.build())
        self.amount = 100_000

    def do(self, step: Coroutine[Any, Any, Result]) -> Result:
        return self.loop.run_until_complete(step)

    @initialize()
    def begin(self) -> None:
        self.do(self.house.start())

    @rule(target=rows, account=st.sampled_from(["a", "b"]))
    def ask(self, account: str) -> Any:
        self.amount += 1_000  # always a new invoice
        try:
            return self.do(self.house.desk.request(account, self.amount))
        except ReceiverError:
            return multiple()  # the node is down, or too many are unpaid

    @rule(row=rows, more=st.sampled_from([0, 0, 1, 5_000]))
    def pay(self, row: TopUp, more: int) -> None:
        try:
            self.do(self.house.dev.pay(row.bolt11, amount_msat=row.amount_msat + more))
        except NodeRefused:
            assert row.payment_hash in self.settled or self.house.hours.unix_nano() >= row.expires_unix_nano
        else:
            assert row.payment_hash not in self.settled
            self.settled[row.payment_hash] = (row.account, row.amount_msat + more)
        self.do(quiet())

    @rule(row=consumes(rows))
    def pay_at_the_last_moment(self, row: TopUp) -> None:
        """The payment arrives in the last second, and the node tells of it after the expiry."""
        left = (row.expires_unix_nano - self.house.hours.unix_nano()) / 1e9
        if left > 1 and row.payment_hash not in self.settled:
            self.do(self.house.hours.pass_(left - 0.5))
            self.house.node.deaf, kept = True, self.house.node.deaf
            self.do(self.house.dev.pay(row.bolt11))
            self.settled[row.payment_hash] = (row.account, row.amount_msat)
            self.do(self.house.hours.pass_(1.0))
            self.house.node.deaf = kept

    @rule(row=rows, times=st.integers(1, 3))
    def hint(self, row: TopUp, times: int) -> None:
        """Anyone may claim that an invoice was paid."""
        for _ in range(times):
            self.house.watcher.hint(row.payment_hash)
        self.house.watcher.hint(bytes(32))
        self.do(quiet())

    @rule(deaf=st.booleans(), doubling=st.integers(1, 3))
    def stream(self, *, deaf: bool, doubling: int) -> None:
        self.house.node.deaf, self.house.node.doubling = deaf, doubling

    @rule(said=st.sampled_from([None, NodeState.OPEN, NodeState.HELD, NodeState.CANCELED, NodeState.UNKNOWN]))
    def flap(self, said: NodeState | None) -> None:
        """The node forgets what it knew, for a while."""
        self.house.node.lie = lambda invoice: invoice if said is None else replace(invoice, state=said)

    @rule(preimage=st.sampled_from([b"", bytes(32), bytes(31)]))
    def lie(self, preimage: bytes) -> None:
        """The node claims a settlement that it cannot prove."""

        def lie(invoice: Invoice) -> Invoice:
            return replace(invoice, state=NodeState.SETTLED, received_msat=10**9, preimage=preimage)

        self.house.node.lie = lie

    @rule(down=st.booleans())
    def outage(self, *, down: bool) -> None:
        self.house.node.down = down
        self.do(quiet())

    @rule()
    def cut(self) -> None:
        if (cut := getattr(self.house.node, "cut", None)) is not None:
            cut.set()
        self.do(quiet())

    @rule(failing=st.integers(0, 2), broken=st.integers(0, 1))
    def failing_commits(self, failing: int, broken: int) -> None:
        self.house.books.failing, self.house.books.broken = failing, broken

    @rule()
    def crash(self) -> None:
        self.do(self.house.kill())
        self.do(self.house.start())

    @rule(seconds=st.sampled_from([0.5, 5.0, 61.0, 1_000.0, 4_000.0]), step=st.sampled_from([0.0, 0.0, -3_600.0, 600.0]))
    def time(self, seconds: float, step: float) -> None:
        self.house.hours.step_seconds += step
        self.do(self.house.hours.pass_(seconds))
        self.house.hours.step_seconds -= step

    @invariant()
    def only_what_was_settled_is_credited_and_once(self) -> None:
        transfers = self.house.books.transfers()
        credited = {bytes.fromhex(t.id.removeprefix("ln:")): (t.credit_account.name, t.amount_msat) for t in transfers}
        assert len(credited) == len(transfers) == len(self.house.credited)
        assert credited.items() <= self.settled.items()
        assert self.do(self.house.books.audit()).balanced
        for account in ("a", "b"):
            expected = sum(msat for owner, msat in credited.values() if owner == account)
            assert self.house.books.balance(account).posted_msat == expected
        assert self.house.task is None or not self.house.task.done()

    def teardown(self) -> None:
        """All is well again: within the hour between two looks at an expired invoice, credited is what was settled."""
        node, books = self.house.node, self.house.books
        node.down, node.deaf, node.lie = False, False, lambda invoice: invoice
        books.failing = books.broken = 0
        try:
            if self.house.task is not None:
                self.do(self.house.hours.pass_(3_800.0))
                credited = {bytes.fromhex(t.id.removeprefix("ln:")) for t in books.transfers()}
                assert credited == set(self.settled)
                for payment_hash in credited:
                    row = self.do(books.find(payment_hash))
                    assert row is not None
                    assert row.state is InvoiceState.SETTLED
                self.do(self.house.kill())
        finally:
            logging.disable(logging.NOTSET)
            self.do(self.loop.shutdown_asyncgens())
            self.loop.close()


InvoicesMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
TestInvoices = InvoicesMachine.TestCase
