"""Usage of days that are over becomes one transfer for each line of a statement, in slices that a request hardly notices.

A busy account has a debit for every commit, millions a day, and nobody reads them: a statement shows the usage of a UTC day as one line,
unless something comes between. So that is what is kept. Of each such run the last transfer stays where it is, with its id and its moment,
and takes over what the others moved; `folded` says how many they were. Every balance that a statement of whole days shows is the same.

A transfer is for good all the same: the triggers of the table let nobody change one but here. A slice opens them with a mark, for usage
before a moment and only so that a transfer grows, and closes them again; all in one transaction, which a crash undoes as a whole. Before
it ends, the sums of its account are those from before, or it is taken back.

That the other ids are gone lets nothing be debited twice. The debit of journal row n is posted in the transaction that writes row n, by
nobody else, and SQLite gives no number twice (AUTOINCREMENT), also when the row itself is long deleted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any, Final, NamedTuple

import apsw

from receiver.core.ledger import MAX_TRANSFER_MSAT, NANOSECONDS_A_DAY
from receiver.store.writer import Writer

#: Transfers that one transaction looks at: some ten milliseconds.
SLICE_ROWS: Final = 1_000
#: Marks. `folding`: there only inside a slice, the moment before which usage may be folded. `folded_until`: usage before it was folded.
FOLDING: Final = "folding"
FOLDED_UNTIL: Final = "folded_until"

_CUSTOMERS: Final = (
    "SELECT ledger_account FROM totals WHERE ledger_account >= ?1 AND ledger_account > 'customer:' AND ledger_account < 'customer;'"
    " ORDER BY ledger_account"
)
_NEXT: Final = (
    "SELECT unix_nano, number, code, amount_msat, folded, id FROM transfers WHERE debit_account = ?1"
    " AND (unix_nano, number) >= (?2, ?3) AND unix_nano < ?4 ORDER BY unix_nano, number LIMIT ?5"
)
_BETWEEN: Final = "SELECT unix_nano, number FROM transfers WHERE credit_account = ? AND code <> 'usage' AND unix_nano BETWEEN ? AND ?"
_SUMS: Final = (
    "SELECT sum(amount_msat), sum(folded) FROM transfers WHERE debit_account = ?1"
    " AND (unix_nano, number) >= (?2, ?3) AND (unix_nano, number) <= (?4, ?5)"
)
_GROW: Final = "UPDATE transfers SET amount_msat = ?, folded = ?, cause = ? WHERE number = ?"
_TAKE: Final = "DELETE FROM transfers WHERE number IN (SELECT value FROM json_each(?))"
_MARK: Final = "INSERT INTO marks VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"


class Place(NamedTuple):
    """Where the next slice begins: at a ledger account, and a transfer of it."""

    account: str = ""
    unix_nano: int = 0
    number: int = 0


class UsageFold:
    """Folds the usage of a database, through its writer."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._place = Place()
        self._until = 0  #: the day up to which this round goes

    async def __call__(self, *, before_unix_nano: int) -> int:
        """One slice of whole UTC days before this moment; how much it looked at, 0: all is folded.

        Raises StoreFull, StoreBroken, and then nothing of it was done.
        """
        if self._place == Place():
            self._until = before_unix_nano // NANOSECONDS_A_DAY * NANOSECONDS_A_DAY
        until = self._until
        done: tuple[int, Place] = await self._writer.call(lambda connection: fold(connection, self._place, before_unix_nano=until))
        looked, self._place = done
        return looked


def fold(connection: apsw.Connection, place: Place, *, before_unix_nano: int) -> tuple[int, Place]:
    """How much a slice looked at, and where the next begins. Call it in a transaction, with a moment at which a UTC day begins."""
    assert before_unix_nano % NANOSECONDS_A_DAY == 0
    since = connection.execute("SELECT value FROM marks WHERE name = ?", (FOLDED_UNTIL,)).get or 0
    if since >= before_unix_nano:
        return 0, Place()
    looked = 0
    for (account,) in connection.execute(_CUSTOMERS, (place.account,)):
        begins = place if account == place.account else Place(account, since)
        rows: list[Any] = connection.execute(
            _NEXT, (account, begins.unix_nano, begins.number, before_unix_nano, SLICE_ROWS - looked)
        ).fetchall()
        looked += max(1, len(rows))
        if rows:
            begins = _fold(connection, account, rows, before_unix_nano)
        if looked >= SLICE_ROWS:
            return looked, begins
    connection.execute(_MARK, (FOLDED_UNTIL, before_unix_nano))
    return looked, Place()


def _fold(connection: apsw.Connection, account: str, rows: Sequence[Any], before_unix_nano: int) -> Place:
    """Fold the runs among an account's debits, which are in order; returns the place of the last one, whose run may go on behind it."""
    first_at, first = rows[0][:2]
    last_at, last = rows[-1][:2]
    span = (account, first_at, first, last_at, last)
    runs = [run for run in _runs(rows, set(connection.execute(_BETWEEN, (account, first_at, last_at)))) if len(run) > 1]
    if runs:
        before = connection.execute(_SUMS, span).fetchone()
        connection.execute(_MARK, (FOLDING, before_unix_nano))
        connection.execute(_TAKE, (json.dumps([row[1] for run in runs for row in run[:-1]]),))
        for run in runs:
            _, number, _, _, _, name = run[-1]
            amount_msat, folded = sum([row[3] for row in run]), sum([row[4] for row in run])
            connection.execute(_GROW, (amount_msat, folded, f"{folded} debits, the last of {name.replace(':', ' row ')}", number))
        connection.execute("DELETE FROM marks WHERE name = ?", (FOLDING,))
        assert connection.execute(_SUMS, span).fetchone() == before, f"the debits of {account} would not be what they were"
    return Place(account, last_at, last)


def _runs(rows: Sequence[Any], between: set[tuple[int, int]]) -> Iterator[list[Any]]:
    """Usage of one day with nothing between. `between`: (moment, number) of what the account was credited."""
    run: list[Any] = []
    moved_msat = 0
    for unix_nano, _, row in sorted([*((row[0], row[1], row) for row in rows), *((*at, None) for at in between)], key=_in_order):
        if row is None or row[2] != "usage":
            yield run
            run = []
            continue
        if run and (run[-1][0] // NANOSECONDS_A_DAY != unix_nano // NANOSECONDS_A_DAY or moved_msat + row[3] > MAX_TRANSFER_MSAT):
            yield run
            run = []
        moved_msat = row[3] + (moved_msat if run else 0)
        run.append(row)
    yield run


_in_order: Final = itemgetter(0, 1)
