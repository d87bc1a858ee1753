"""Take a user out of the books: sums stay to the last unit, the name goes.

What is deleted is overwritten (`secure_delete`) and the write-ahead log is folded away, so the name is not left in free pages either.
Accept rows of the journal are not rewritten: they hold what a replay needs to the byte, and go by themselves when their traces
are beyond the horizon.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import apsw

from receiver.core.privacy import Forgotten
from receiver.store.database import connect, honest
from receiver.store.writer import Writer

log = logging.getLogger(__name__)

#: Charges that one transaction looks at: some milliseconds, for there is no index on users.
SLICE_ROWS: Final = 2_000


def kept(path: Path, *, vfs: str | None = None) -> list[Forgotten]:
    """Those whose spans may still be open, before anything is closed. Raises StoreFull, StoreBroken."""
    with honest():
        connection = connect(path, vfs=vfs, reader=True)
        try:
            rows: list[Any] = connection.execute("SELECT account, user, before_unix_nano FROM forgotten").fetchall()
        finally:
            connection.close()
    return [Forgotten(*row) for row in rows]


class SqliteForget:
    """Forgets users in a database, through its writer."""

    def __init__(self, path: Path, writer: Writer, *, vfs: str | None = None) -> None:
        self._path = path
        self._writer = writer
        self._vfs = vfs

    async def overwrite_deleted(self) -> None:
        """From now on what is deleted is overwritten with zeros: the names in journal rows that go, for one. Costs a write a page."""

        def work(connection: apsw.Connection) -> None:
            connection.pragma("secure_delete", True)

        await self._writer.call(work)

    async def keep(self, forgotten: Forgotten) -> None:
        """So that a restart knows it while spans of this user may be open."""

        def work(connection: apsw.Connection) -> None:
            connection.execute(
                "INSERT INTO forgotten VALUES (?, ?, ?) ON CONFLICT (account, user) DO UPDATE"
                " SET before_unix_nano = max(before_unix_nano, excluded.before_unix_nano)",
                (forgotten.account, forgotten.user, forgotten.before_unix_nano),
            )

        await self._writer.call(work)

    async def drop_kept(self, *, before_unix_nano: int) -> None:
        """Those who were forgotten before this moment, and have no open spans any more."""

        def work(connection: apsw.Connection) -> None:
            connection.execute("DELETE FROM forgotten WHERE before_unix_nano < ?", (before_unix_nano,))

        await self._writer.call(work)

    async def charges(self, spellings: Sequence[str], account: str | None) -> int:
        """Take the user out of every charge of the account (None: of all); returns of how many."""
        last: int = await self._writer.call(lambda connection: connection.execute("SELECT max(id) FROM charges").get or 0)
        found, at = 0, 0
        while at < last:
            found += await self._writer.call(_slice(at, spellings, account))
            at += SLICE_ROWS
        return found

    async def series(self, replaced: Callable[[str, list[list[str]]], list[list[str]] | None]) -> int:
        """Change the labels of the metrics' snapshot; returns how many rows.

        `replaced(family, labels)` gives the labels as they should be, None: as they are. Two rows never become one.
        """

        def work(connection: apsw.Connection) -> int:
            rows: list[Any] = connection.execute("SELECT family, labels FROM series").fetchall()
            changed = 0
            for family, labels in rows:
                new = replaced(family, json.loads(labels))
                if new is not None:
                    connection.execute("UPDATE series SET labels = ? WHERE family = ? AND labels = ?", (json.dumps(new), family, labels))
                    changed += 1
            return changed

        changed: int = await self._writer.call(work)
        return changed

    async def fold_log(self) -> None:
        """Fold the write-ahead log into the database and cut it to nothing. A reader may hold it up; then it is overwritten later."""
        await asyncio.to_thread(self._fold_log)

    def _fold_log(self) -> None:
        try:
            connection = connect(self._path, vfs=self._vfs)
            try:
                connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            finally:
                connection.close()
        except apsw.Error as error:
            log.info("the write-ahead log could not be cut now; what is in it is overwritten as it goes on: %s", error)


def _slice(after: int, spellings: Sequence[str], account: str | None) -> Callable[[apsw.Connection], int]:
    where = "" if account is None else " AND account = ?"
    query = f"UPDATE charges SET user = NULL WHERE id > ? AND id <= ? AND user IN ({', '.join('?' * len(spellings))}){where}"  # noqa: S608 -- marks of our own
    bound = (after, after + SLICE_ROWS, *spellings, *(() if account is None else (account,)))

    def work(connection: apsw.Connection) -> int:
        secure = connection.pragma("secure_delete")
        connection.pragma("secure_delete", True)
        try:
            before = connection.total_changes()
            connection.execute(query, bound)
            return connection.total_changes() - before
        finally:
            connection.pragma("secure_delete", secure)

    return work
