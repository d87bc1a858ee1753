"""The durable ledger: transfers and their totals in the database, balances and holds in memory (`core.ledger`, `core.books`).

    reserve (loop) -> accept row + its debit, one transaction (writer) -> commit (loop): held becomes debited

Rule 1: the writer alone decides about transfers, inside the transaction that writes them. What it reads there nobody can change meanwhile.
Rule 2: usage is debited in the transaction of its accept rows, so a debit exists exactly when the spans do. The balances on the loop
        follow by `commit`; every other transfer moves them when its commit stands, before anybody is told.
Rule 3: after a restart the balances are the stored totals. Nothing that was only held, or only asked for, is in them.

With `ack = "memory"` a row is answered before it is written, and `commit` follows at once: the balances are then some milliseconds ahead of
the transfers. If the process dies, row and debit are lost together, and whoever sent the spans has not paid for them. If the row alone is
lost (it cannot be written, or a full disk outlasts the process), `lost` gives its debit back, so balances and transfers agree again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

import apsw

from receiver.core.books import Balances
from receiver.core.invoices import Credited, InvoiceState, Settlement, credit
from receiver.core.journal import Accepted, StoreBroken
from receiver.core.ledger import (
    NANOSECONDS_A_DAY,
    Audit,
    Code,
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
    fold_usage,
)
from receiver.store import topups
from receiver.store.insert import Insert
from receiver.store.reader import Reader
from receiver.store.writer import Call, Writer

Result = TypeVar("Result")

_NOTHING: Final = Totals()
_ANY_TERMS: Final = Terms()  #: where the customer is not asked: a top-up, or what was reserved on other terms

_COLUMNS: Final = "id, debit_account, credit_account, amount_msat, code, cause, unix_nano"
_TRANSFERS: Final = Insert(f"transfers ({_COLUMNS})", columns=7)
_TOTALS: Final = (
    "INSERT INTO totals SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?) WHERE true ON CONFLICT (ledger_account)"
    " DO UPDATE SET debits_msat = debits_msat + excluded.debits_msat, credits_msat = credits_msat + excluded.credits_msat"
)
#: Asked once a transaction, however many accounts are debited in it: a turn of SQLite may cost a wait for the interpreter's lock.
_KNOWN: Final = f"SELECT {_COLUMNS} FROM transfers WHERE id IN (SELECT value FROM json_each(?))"  # noqa: S608 -- names of our own
_SHOWN: Final = "SELECT * FROM totals WHERE ledger_account IN (SELECT value FROM json_each(?))"

#: Usage is on one side of its transfers always the same ledger account, which is left out of the index: its sum is that of the code.
_DERIVE: Final = """
    SELECT ledger_account, sum(debits), sum(credits) FROM (
        SELECT debit_account AS ledger_account, sum(amount_msat) AS debits, 0 AS credits FROM transfers GROUP BY debit_account
        UNION ALL
        SELECT credit_account, 0, sum(amount_msat) FROM transfers WHERE code <> 'usage' GROUP BY credit_account
        UNION ALL
        SELECT credit_account, 0, sum(amount_msat) FROM transfers WHERE code = 'usage' GROUP BY credit_account
    ) GROUP BY ledger_account
"""

_MINE: Final = """
    SELECT number, id, unix_nano, code, cause, folded, -amount_msat AS change FROM transfers WHERE debit_account = ?1 AND {when}
    UNION ALL
    SELECT number, id, unix_nano, code, cause, folded, amount_msat FROM transfers WHERE credit_account = ?1 AND code <> 'usage' AND {when}
"""
_OPENING: Final = f"SELECT coalesce(sum(change), 0) FROM ({_MINE.format(when='unix_nano < ?2')})"  # noqa: S608 -- text of our own
#: `core.ledger.statement` as a query, for a busy account has millions: usage of a day is one line, unless something comes between.
#: Bare columns beside a max() are those of its row.
_LINES: Final = f"""
    WITH mine AS ({_MINE.format(when="unix_nano >= ?2 AND unix_nano < ?3")}),
    placed AS (
        SELECT *, row_number() OVER told AS place, sum(code <> 'usage') OVER told AS others
        FROM mine WINDOW told AS (ORDER BY unix_nano, number)
    )
    SELECT max(place), unix_nano, code, sum(change), sum(folded), id, cause
    FROM placed GROUP BY others, code, CASE code WHEN 'usage' THEN unix_nano / {NANOSECONDS_A_DAY} ELSE place END
    ORDER BY 1
"""  # noqa: S608 -- text of our own

_NOT_CREDITED: Final = """
    SELECT lower(hex(payment_hash)), account, received_msat FROM topups WHERE state = 'settled' AND NOT EXISTS (
        SELECT 1 FROM transfers WHERE id = 'ln:' || lower(hex(payment_hash)) AND code = 'topup'
        AND credit_account = 'customer:' || account AND transfers.amount_msat = received_msat
    )
"""
_NOT_SETTLED: Final = """
    SELECT id, amount_msat FROM transfers WHERE code = 'topup' AND NOT EXISTS (
        SELECT 1 FROM topups WHERE payment_hash = unhex(substr(id, 4)) AND state = 'settled'
    )
"""


class Fetched:
    """`core.ledger.Books` inside a transaction of the writer, as far as it is needed to decide about some transfers."""

    __slots__ = ("_totals", "_transfers")

    def __init__(self, connection: apsw.Connection, transfers: Sequence[Transfer]) -> None:
        ids = json.dumps([transfer.id for transfer in transfers])
        accounts = {str(side) for transfer in transfers for side in (transfer.debit_account, transfer.credit_account)}
        self._transfers = {row[0]: _transfer(row) for row in connection.execute(_KNOWN, (ids,))}
        self._totals = _by_account(connection.execute(_SHOWN, (json.dumps(list(accounts)),)))

    def transfer(self, transfer_id: str) -> Transfer | None:
        return self._transfers.get(transfer_id)

    def totals(self, account: LedgerAccount) -> Totals:
        return self._totals.get(account, _NOTHING)

    def held_msat(self, account: LedgerAccount) -> int:
        raise AssertionError(f"what {account} may spend was held on the event loop, and is not judged here")


def write(connection: apsw.Connection, transfers: Iterable[Transfer]) -> None:
    """Write transfers that were decided upon, and add them to the totals."""
    rows: list[Any] = []
    sums: list[tuple[str, int, int]] = []
    for transfer in transfers:
        debit, credit_, amount_msat = str(transfer.debit_account), str(transfer.credit_account), transfer.amount_msat
        rows += (transfer.id, debit, credit_, amount_msat, transfer.code.value, transfer.cause, transfer.unix_nano)
        sums += [(debit, amount_msat, 0), (credit_, 0, amount_msat)]
    _TRANSFERS.run(connection, rows)
    connection.execute(_TOTALS, (json.dumps(sums),))


def post_usage(connection: apsw.Connection, rows: Sequence[Accepted]) -> None:
    """The debits of a transaction's accept rows, in it: the writer's `posting`.

    Raises StoreBroken when the books already hold a debit of such a row: numbers of rows are given once, so this is not the database that
    we wrote, and to go on would make debits vanish.
    """
    transfers = fold_usage([(row.seq, row.account, row.debit_msat) for row in rows], unix_nano=max([row.unix_nano for row in rows]))
    if not transfers:
        return
    books = Fetched(connection, transfers)
    for transfer in transfers:
        outcome = decide(books, transfer, _ANY_TERMS, reserved=True)
        if outcome is not Outcome.CREATED:
            raise StoreBroken(f"the books contradict themselves ({transfer.id}: {outcome.value}): the receiver stops; restore a backup")
    write(connection, transfers)


def stored_totals(connection: apsw.Connection) -> dict[LedgerAccount, Totals]:
    """The totals that are kept: what a ledger starts with."""
    return _by_account(connection.execute("SELECT ledger_account, debits_msat, credits_msat FROM totals"))


def derived_totals(connection: apsw.Connection) -> dict[LedgerAccount, Totals]:
    """The totals that follow from the transfers, which are the truth; reads all of them."""
    return _by_account(connection.execute(_DERIVE))


def contradictions(connection: apsw.Connection) -> Iterator[str]:
    """Where receipts and credits do not tell the same: what no crash can leave behind. For whoever verifies the books."""
    for payment_hash, account, received_msat in connection.execute(_NOT_CREDITED):
        yield f"the top-up {payment_hash} of account {account!r} is settled, but its {received_msat} msat are not credited"
    for transfer_id, amount_msat in connection.execute(_NOT_SETTLED):
        yield f"the transfer {transfer_id} credits {amount_msat} msat, but no top-up is settled for it"


class SqliteLedger(Balances):
    """Ledger in the journal's database (see `core.ledger.Ledger`). One event loop owns it."""

    __slots__ = ("_lost", "_reader", "_writer")

    def __init__(self, writer: Writer, reader: Reader, totals: Mapping[LedgerAccount, Totals]) -> None:
        """`writer` posts by `post_usage`; `totals`: as stored, while nothing is queued yet."""
        super().__init__(totals)
        self._writer = writer
        self._reader = reader
        self._lost = 0  #: debits that were given back

    def lost(self, row: Accepted) -> None:
        """A row that was answered before it was written will never be: its debit is given back (`ack = "memory"` alone)."""
        self._lost += 1
        self.forgiven(row.account, row.debit_msat)

    async def settle(self, settlement: Settlement) -> Credited:
        """Raises StoreFull, StoreBroken: nothing was credited, and the same is to be tried again."""

        def work(connection: apsw.Connection) -> Credited:
            row = topups.find(connection, settlement.payment_hash)
            credited = credit(row, settlement)
            if row is None or credited.transfer is None or credited.topup is None:
                return credited
            outcome = decide(Fetched(connection, [credited.transfer]), credited.transfer, _ANY_TERMS)
            if outcome is Outcome.CREATED:
                write(connection, [credited.transfer])
            if outcome in (Outcome.CREATED, Outcome.EXISTS) and row.state is not InvoiceState.SETTLED:
                topups.settle(connection, credited.topup)
            return credited.after(outcome)

        def stood(credited: Credited) -> None:
            if credited.outcome is Outcome.CREATED:
                assert credited.transfer is not None
                self.posted(credited.transfer)

        return await self._call(work, stood)

    async def post(self, transfer: Transfer, terms: Terms) -> Outcome:
        """Raises StoreFull, StoreBroken: nothing moved."""
        assert transfer.code is not Code.USAGE, "usage is posted with its rows"
        payer, held_msat = transfer.debit_account, 0
        refusal: Outcome | None = None
        if payer.kind is Kind.CUSTOMER:
            held = self.reserve(payer.name, transfer.amount_msat, replace(terms, enabled=True))  # the operator may take from a disabled one
            if held is Outcome.CREATED:
                held_msat = transfer.amount_msat
            else:
                refusal = held

        def work(connection: apsw.Connection) -> Outcome:
            outcome = decide(Fetched(connection, [transfer]), transfer, terms, reserved=True)
            if refusal is not None and outcome is Outcome.CREATED:
                return refusal  # what was made before stays made, whatever the account has today
            if outcome is Outcome.CREATED:
                write(connection, [transfer])
            return outcome

        def stood(outcome: Outcome) -> None:
            self.release(payer.name, held_msat)
            if outcome is Outcome.CREATED:
                self.posted(transfer)

        return await self._call(work, stood, lambda: self.release(payer.name, held_msat))

    async def statement(self, account: str, *, since_unix_nano: int, until_unix_nano: int) -> Sequence[Line]:
        """Oldest first by the moment of each transfer; those of one moment in the order in which they were made."""
        mine = str(customer(account))

        def work(connection: apsw.Connection) -> Sequence[Line]:
            balance_msat: int = connection.execute(_OPENING, (mine, since_unix_nano)).get
            lines = []
            for _, unix_nano, code, change_msat, transfers, last_id, cause in connection.execute(
                _LINES, (mine, since_unix_nano, until_unix_nano)
            ):
                balance_msat += change_msat
                lines.append(Line(unix_nano, Code(code), change_msat, balance_msat, transfers, last_id, cause if transfers == 1 else ""))
            return lines

        return await self._reader.ask(work)

    async def audit(self) -> Audit:
        """The stored totals against the transfers, both of one moment; then the balances against the stored totals.

        The daemon goes on meanwhile, so a balance may have moved since: it is right when the stored total lies between what the balance was
        before the look, and what it is after it with all that is held for debits under way. At rest that is equality.
        """
        while True:
            lost = self._lost
            before = self.shown()
            await self._settled()
            derived, stored = await self._reader.ask(lambda connection: (derived_totals(connection), stored_totals(connection)))
            await self._settled()
            if lost == self._lost:
                break  # else something was given back meanwhile, and `before` is more than there ever will be
        found = audit(derived, stored)
        known = {account for account, _, _ in found.differences}
        held_msat = self.all_held_msat()
        differences = list(found.differences)
        for account in sorted({*stored, *before} - known, key=str):
            now = self.totals(account)
            under_way = self.held_msat(account) if account.kind is Kind.CUSTOMER else 0
            coming = held_msat if account.kind is Kind.USAGE else 0
            least, is_, most = before.get(account, _NOTHING), stored.get(account, _NOTHING), now
            if not (
                least.debits_msat <= is_.debits_msat <= most.debits_msat + under_way
                and least.credits_msat <= is_.credits_msat <= most.credits_msat + coming
            ):
                differences.append((account, is_, now))
        return Audit(found.sum_msat, tuple(differences))

    async def _settled(self) -> None:
        """All that was queued is written or has failed, and whoever waited for it on the loop was told."""
        passed = self._writer.call(lambda _: None)
        await asyncio.wait([passed])
        passed.exception()  # a disk that takes nothing just now keeps the order all the same, and that is all that is asked

    async def _call(
        self,
        work: Callable[[apsw.Connection], Result],
        stood: Callable[[Result], None],
        fell: Callable[[], None] = lambda: None,
    ) -> Result:
        """What `work` returns, once that stands and `stood` was told of it; whoever asked may go away meanwhile."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._writer.put(_Act(work, future, stood, fell))
        return await future


class _Act(Call):
    """A call that moves balances on the loop when it stands, before its future resolves, and whether or not anybody still waits."""

    def __init__(
        self,
        work: Callable[[apsw.Connection], Any],
        future: asyncio.Future[Any],
        stood: Callable[[Any], None],
        fell: Callable[[], None],
    ) -> None:
        super().__init__(work, future)
        self._stood = stood
        self._fell = fell

    def stands(self) -> None:
        self._stood(self._result)
        super().stands()

    def failed(self, error: Exception) -> None:
        self._fell()
        super().failed(error)


def _by_account(rows: Iterable[tuple[str, int, int]]) -> dict[LedgerAccount, Totals]:
    return {LedgerAccount.parse(account): Totals(debits_msat, credits_msat) for account, debits_msat, credits_msat in rows}


def _transfer(row: Sequence[Any]) -> Transfer:
    transfer_id, debit, credit_, amount_msat, code, cause, unix_nano = row
    return Transfer(
        id=transfer_id,
        debit_account=LedgerAccount.parse(debit),
        credit_account=LedgerAccount.parse(credit_),
        amount_msat=amount_msat,
        code=Code(code),
        cause=cause,
        unix_nano=unix_nano,
    )
