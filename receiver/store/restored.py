"""A database that is a copy of an earlier one: its counters begin anew.

What was counted after the backup was taken is not in it. A counter that goes on from there would fall, which Prometheus reads as one
that began at 0, and so counts all of it again. So the counters begin at 0 with new created timestamps, honestly; charges, reports and
the ledger go on from the moment of the backup.
"""

from __future__ import annotations

from typing import Final

import apsw

#: Marks. `backup`: when this database was copied; there until the first start on it. `epoch_seq`: the last row that the counters leave out.
COPIED: Final = "backup"
EPOCH: Final = "epoch_seq"


def begin_after_restore(connection: apsw.Connection) -> bool:
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
        connection.execute("DELETE FROM marks WHERE name = ?", (COPIED,))
        connection.execute("COMMIT")
    except BaseException:
        if not connection.get_autocommit():
            connection.execute("ROLLBACK")
        raise
    return True
