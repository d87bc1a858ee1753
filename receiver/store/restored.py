"""A database that is a copy of an earlier one: its counters begin anew.

What was counted after the backup was taken is not in it. A counter that goes on from there would fall, which Prometheus reads as one
that began at 0, and so counts all of it again. So the counters begin at 0 with new created timestamps, honestly, those of credit as well;
charges, reports and the ledger go on from the moment of the backup.
"""

from __future__ import annotations

from typing import Final

import apsw

from receiver.core.ledger import LedgerAccount, Totals

#: Marks. `backup`: when this database was copied; there until the first start on it. `epoch_seq`: the last row that the counters leave out.
#: `epoch_unix_nano`: when they began.
COPIED: Final = "backup"
EPOCH: Final = "epoch_seq"
BEGUN: Final = "epoch_unix_nano"


def epoch_totals(connection: apsw.Connection) -> tuple[int, dict[LedgerAccount, Totals]]:
    """(since when credit is counted, what was debited and credited before); (0, {}) where nothing was restored."""
    begun: int = connection.execute("SELECT value FROM marks WHERE name = ?", (BEGUN,)).get or 0
    rows = connection.execute("SELECT ledger_account, debits_msat, credits_msat FROM epoch_totals")
    return begun, {LedgerAccount.parse(account): Totals(debits_msat, credits_msat) for account, debits_msat, credits_msat in rows}


def begin_after_restore(connection: apsw.Connection, *, unix_nano: int) -> bool:
    """At the start, in a database that may be a copy: if it is one, its counters begin anew. Whether it was."""
    if connection.execute("SELECT 1 FROM marks WHERE name = ?", (COPIED,)).get is None:
        return False
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute("DELETE FROM series")
        connection.execute(
            "INSERT INTO marks SELECT column1, (SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'journal')"
            " FROM (VALUES ('snapshot_seq'), (?)) WHERE true ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            (EPOCH,),
        )
        connection.execute("INSERT INTO marks VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", (BEGUN, unix_nano))
        connection.execute("DELETE FROM epoch_totals")
        connection.execute("INSERT INTO epoch_totals SELECT ledger_account, debits_msat, credits_msat FROM totals")
        connection.execute("DELETE FROM marks WHERE name = ?", (COPIED,))
        connection.execute("COMMIT")
    except BaseException:
        if not connection.get_autocommit():
            connection.execute("ROLLBACK")
        raise
    return True
