"""The books without a store: balances and holds in memory, and a whole ledger for tests and `ack = "memory"`.

`Balances` is what every ledger keeps on the event loop, so that a request is judged and its price held without waiting: a
durable ledger loads it from its totals at start and posts to it what its transactions have committed. `MemoryLedger` adds
the transfers and top-ups themselves and so is the model that a durable ledger is tested against.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from receiver.core.invoices import Credited, InvoiceState, Settlement, TopUp, credit
from receiver.core.ledger import (
    MAX_MSAT,
    USAGE,
    Audit,
    Balance,
    Kind,
    LedgerAccount,
    Line,
    Outcome,
    Terms,
    Totals,
    Transfer,
    audit,
    customer,
    decide,
    derive,
    refuses,
    statement,
)

_NOTHING: Final = Balance()


class Balances:
    """Totals of every ledger account, and what is held of each customer's. Bounded by the number of accounts."""

    __slots__ = ("_customers", "_others")

    def __init__(self, totals: Mapping[LedgerAccount, Totals] | None = None) -> None:
        self._customers: dict[str, list[int]] = {}  # account -> debits, credits, held, in msat
        self._others: dict[LedgerAccount, list[int]] = {USAGE: [0, 0]}
        for account, sums in (totals or {}).items():
            self._sums(account)[:2] = sums.debits_msat, sums.credits_msat

    def balance(self, account: str) -> Balance:
        sums = self._customers.get(account)
        return _NOTHING if sums is None else Balance(*sums)

    def reserve(self, account: str, amount_msat: int, terms: Terms) -> Outcome:
        assert amount_msat >= 0
        sums = self._customers.get(account)
        if terms.credit_limit_msat is None and terms.enabled and sums is not None and sums[0] + sums[2] + amount_msat <= MAX_MSAT:
            sums[2] += amount_msat  # the way of most requests: `refuses` would find nothing to weigh
            return Outcome.CREATED
        refusal = refuses(self.balance(account), amount_msat, terms, spends=True)
        if refusal is not None:
            return refusal
        if amount_msat:
            self._customer(account)[2] += amount_msat
        return Outcome.CREATED

    def commit(self, account: str, amount_msat: int) -> None:
        if amount_msat:
            sums = self._customer(account)
            sums[0] += amount_msat
            sums[2] -= amount_msat
            assert amount_msat > 0 <= sums[2], f"account {account!r} was debited more than was held for it"
            self._others[USAGE][1] += amount_msat

    def release(self, account: str, amount_msat: int) -> None:
        if amount_msat:
            sums = self._customer(account)
            sums[2] -= amount_msat
            assert amount_msat > 0 <= sums[2], f"account {account!r} gave back more than was held for it"

    def forgiven(self, account: str, amount_msat: int) -> None:
        """A debit that was committed here will never be in the books: its row was lost after it was answered (`ack = "memory"`)."""
        if amount_msat:
            self._customer(account)[0] -= amount_msat
            self._others[USAGE][1] -= amount_msat

    def posted(self, transfer: Transfer) -> None:
        """`transfer` was committed and was not reserved: top-ups and adjustments."""
        self._sums(transfer.debit_account)[0] += transfer.amount_msat
        self._sums(transfer.credit_account)[1] += transfer.amount_msat

    def totals(self, account: LedgerAccount) -> Totals:
        sums = self._customers.get(account.name) if account.kind is Kind.CUSTOMER else self._others.get(account)
        return Totals() if sums is None else Totals(sums[0], sums[1])

    def held_msat(self, account: LedgerAccount) -> int:
        assert account.kind is Kind.CUSTOMER
        return self.balance(account.name).held_msat

    def all_held_msat(self) -> int:
        """What is reserved of all customers' balances."""
        return sum(sums[2] for sums in self._customers.values())

    def shown(self) -> dict[LedgerAccount, Totals]:
        """Every total that is not zero, for `ledger.audit`."""
        accounts = [*map(customer, self._customers), *self._others]
        return {account: totals for account in accounts if (totals := self.totals(account)) != Totals()}

    def accounts(self) -> list[str]:
        """Every account that ever moved money, or is about to."""
        return sorted(self._customers)

    def _customer(self, account: str) -> list[int]:
        sums = self._customers.get(account)
        if sums is None:
            sums = self._customers[account] = [0, 0, 0]
        return sums

    def _sums(self, account: LedgerAccount) -> list[int]:
        return self._customer(account.name) if account.kind is Kind.CUSTOMER else self._others.setdefault(account, [0, 0])


class MemoryLedger(Balances):
    """A ledger (see `core.ledger.Ledger`) and its top-ups (see `core.invoices.TopUps`) that live and die with the process.

    Nothing in it waits: its coroutines end where they begin. Not bounded: every transfer is kept, as in any ledger.
    """

    __slots__ = ("_cursors", "_topups", "_transfers")

    def __init__(self, transfers: Iterable[Transfer] = (), topups: Iterable[TopUp] = ()) -> None:
        self._transfers: dict[str, Transfer] = {transfer.id: transfer for transfer in transfers}
        self._topups: dict[bytes, TopUp] = {row.payment_hash: row for row in topups}
        self._cursors: dict[str, str] = {}
        super().__init__(derive(self._transfers.values()))

    # Ledger

    async def settle(self, settlement: Settlement) -> Credited:
        credited = credit(self._topups.get(settlement.payment_hash), settlement)
        if credited.transfer is None or credited.topup is None:
            return credited
        outcome = decide(self, credited.transfer, Terms())
        if outcome is Outcome.CREATED:
            self.record(credited.transfer)
            self.posted(credited.transfer)
            self._topups[credited.topup.payment_hash] = credited.topup
        return credited.after(outcome)

    async def post(self, transfer: Transfer, terms: Terms) -> Outcome:
        outcome = decide(self, transfer, terms)
        if outcome is Outcome.CREATED:
            self.record(transfer)
            self.posted(transfer)
        return outcome

    def record(self, transfer: Transfer) -> None:
        """Keep a transfer whose money `commit` moves (usage): the part that a durable ledger does in the journal's transaction."""
        assert transfer.id not in self._transfers
        self._transfers[transfer.id] = transfer

    async def statement(self, account: str, *, since_unix_nano: int, until_unix_nano: int) -> Sequence[Line]:
        mine = customer(account)
        of_account = [transfer for transfer in self._transfers.values() if mine in (transfer.debit_account, transfer.credit_account)]
        before = derive(transfer for transfer in of_account if transfer.unix_nano < since_unix_nano)
        within = [transfer for transfer in of_account if since_unix_nano <= transfer.unix_nano < until_unix_nano]
        return statement(account, within, opening_msat=before.get(mine, Totals()).net_msat)

    async def audit(self) -> Audit:
        return audit(derive(self._transfers.values()), self.shown())

    def transfer(self, transfer_id: str) -> Transfer | None:
        return self._transfers.get(transfer_id)

    def transfers(self) -> list[Transfer]:
        """All of them, in the order in which they were made."""
        return list(self._transfers.values())

    # TopUps

    async def add(self, topup: TopUp) -> None:
        assert topup.payment_hash not in self._topups
        self._topups[topup.payment_hash] = topup

    async def find(self, payment_hash: bytes) -> TopUp | None:
        return self._topups.get(payment_hash)

    async def find_all(self, payment_hashes: Collection[bytes]) -> Mapping[bytes, TopUp]:
        return {each: self._topups[each] for each in payment_hashes if each in self._topups}

    async def of_account(self, account: str, *, limit: int) -> Sequence[TopUp]:
        mine = [row for row in self._topups.values() if row.account == account]
        mine.sort(key=lambda row: (-row.created_unix_nano, row.payment_hash))
        return mine[:limit]

    async def unsettled(self, *, watched_since_unix_nano: int) -> Sequence[TopUp]:
        return [
            row
            for row in self._topups.values()
            if row.state is not InvoiceState.SETTLED and row.expires_unix_nano >= watched_since_unix_nano
        ]

    async def counts(self) -> Mapping[InvoiceState, int]:
        return Counter(row.state for row in self._topups.values())

    async def move(self, payment_hash: bytes, *, before: InvoiceState, after: InvoiceState) -> bool:
        row = self._topups.get(payment_hash)
        if row is None or row.state is not before:
            return False
        self._topups[payment_hash] = row.moved(after)
        return True

    async def cursor(self, node: str) -> str | None:
        return self._cursors.get(node)

    async def keep_cursor(self, node: str, cursor: str) -> None:
        self._cursors[node] = cursor
