"""The credit office over a real database, by a machine that breaks what can break: in the end credited is what the wallet received.

`test_invoices_machine` does the same to the watcher over books in memory, more often and with more kinds of lies; here it is the
store, the office and processes that die between any two of their steps.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import tempfile
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from receiver.core.invoices import NodeState
from receiver.errors import ReceiverError
from receiver.lightning import bolt11
from receiver.lightning.client import NodeRefused
from tests.integration.credit_house import CreditHouse

ACCOUNTS = ("acme", "default")


class TopUpsMachine(RuleBasedStateMachine):
    """A real loop runs whatever a rule does until it rests; between rules nothing runs."""

    asked = Bundle("asked")

    def __init__(self) -> None:
        super().__init__()
        logging.disable(logging.CRITICAL)
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.house = self.do(CreditHouse(Path(self.folder.name)).open())
        self.received: dict[str, tuple[str, int]] = {}  # what the wallet has, by payment hash: account and msat

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    @rule(target=asked, account=st.sampled_from(ACCOUNTS), sat=st.sampled_from([100, 250]))
    def ask(self, account: str, sat: int) -> Any:
        try:
            return self.do(self.house.ask(sat, account))
        except ReceiverError:
            return multiple()  # the wallet is down, too many are unpaid, or the row could not be kept

    @rule(topup=asked, more=st.sampled_from([0, 0, 1, 5_000]))
    def pay(self, topup: dict[str, Any], more: int) -> None:
        msat = topup["amount_msat"] + more
        try:
            self.do(self.house.dev.pay(topup["bolt11"], amount_msat=msat))
        except NodeRefused:
            assert topup["payment_hash"] in self.received or self.house.hours.unix_nano() >= _expires(topup)
        else:
            assert topup["payment_hash"] not in self.received
            self.received[topup["payment_hash"]] = (topup["account"], msat)
        self.do(self.house.rest())

    @rule(topup=asked, times=st.integers(1, 3))
    def hint(self, topup: dict[str, Any], times: int) -> None:
        """Anyone may claim that it was paid."""
        watcher = self.house.office._watcher
        assert watcher is not None
        for _ in range(times):
            watcher.hint(bytes.fromhex(topup["payment_hash"]))
        self.do(self.house.rest())

    @rule(down=st.booleans(), deaf=st.booleans(), doubling=st.integers(1, 2))
    def wallet(self, *, down: bool, deaf: bool, doubling: int) -> None:
        self.house.node.down, self.house.node.deaf, self.house.node.doubling = down, deaf, doubling
        self.do(self.house.rest())

    @rule(said=st.sampled_from([None, *(state for state in NodeState if state is not NodeState.SETTLED)]))
    def flap(self, said: NodeState | None) -> None:
        """The wallet forgets what it knew, for a while."""
        self.house.node.lie = lambda found: found if said is None else replace(found, state=said)

    @rule()
    def cut(self) -> None:
        if (cut := getattr(self.house.node, "cut", None)) is not None:
            cut.set()
        self.do(self.house.rest())

    @rule()
    def row_is_refused(self) -> None:
        self.house.topups.refusing = 1

    @rule()
    def dies_after_its_next_commit(self) -> None:
        """What was committed is told to nobody, and nothing more is credited until somebody starts it again."""
        self.house.ledger.dies = True

    @rule()
    def restart(self) -> None:
        self.do(self.house.again())

    @rule(seconds=st.sampled_from([1.0, 61.0, 1_000.0, 4_000.0]))
    def time(self, seconds: float) -> None:
        self.do(self.house.pass_(seconds, step=500.0))

    @invariant()
    def only_what_was_received_is_credited(self) -> None:
        for account in ACCOUNTS:
            statement = self.do(self.house.office.statement(account, 0, 2**63 - 1))
            for line in statement["lines"]:
                assert self.received[line["id"].removeprefix("ln:")] == (account, line["amount_msat"])
            assert len({line["id"] for line in statement["lines"]}) == len(statement["lines"])

    def teardown(self) -> None:
        """All is well again: within the hour between two looks at an expired invoice, credited is what was received."""
        house = self.house
        try:
            self.do(house.again())
            self.do(house.pass_(3_700.0, step=500.0))
            for account in ACCOUNTS:
                self.do(house.check(sum(msat for owner, msat in self.received.values() if owner == account), account))
            assert house.office.invoices()["settled"] == len(self.received)
            self.do(house.die())
        finally:
            logging.disable(logging.NOTSET)
            with contextlib.suppress(Exception):
                self.do(house.die())
            self.do(self.loop.shutdown_asyncgens())
            self.do(self.loop.shutdown_default_executor())
            self.loop.close()
            self.folder.cleanup()


def _expires(topup: dict[str, Any]) -> int:
    return bolt11.decode(topup["bolt11"]).expires_unix * 10**9


TopUpsMachine.TestCase.settings = settings(max_examples=12, stateful_step_count=25, deadline=None)
TestTopUps = TopUpsMachine.TestCase
