"""All the books of one database, opened together: they share one writer, so what belongs together is one commit.

They are: the journal (`core.journal.Journal`), the ledger (`core.ledger.Ledger`), top-ups (`core.invoices.TopUps`), accounts and their
keys (`core.accounts.AccountBook`), the shelf of the dev wallet, and reports of all that was closed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from receiver.clock import Clock
from receiver.core.journal import Accepted, StoreBroken
from receiver.store.accounts import SqliteAccountBook
from receiver.store.journal import SqliteJournal
from receiver.store.ledger import SqliteLedger, post_usage, stored_totals
from receiver.store.reader import Reader
from receiver.store.reports import SqliteReports
from receiver.store.restored import epoch_totals
from receiver.store.shelf import SqliteShelf
from receiver.store.topups import SqliteTopUps


class SqliteBooks:
    """The books. One event loop owns them."""

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock,
        durable: bool = True,
        broke: Callable[[StoreBroken], None] = lambda _: None,
        vfs: str | None = None,
    ) -> None:
        """Open the books, or begin them; the folder is ours already. To be called on the event loop.

        Args:
            path: of the database.
            clock: for the moments of close rows.
            durable: whether the journal waits for the disk. Everything else always does.
            broke: told once when the disk has failed: the process must end.
            vfs: SQLite's name of another file system, for tests that make it fail.

        Raises:
            DatabaseDamaged, ForeignDatabase: the file cannot be used, and the message says what to do.
            StoreFull, StoreBroken: the disk.

        """

        def lost(row: Accepted) -> None:
            self.ledger.lost(row)  # by then there is one

        self.journal = SqliteJournal(path, clock=clock, durable=durable, posting=post_usage, lost=lost, broke=broke, vfs=vfs)
        writer = self.journal.writer
        self._reader = Reader(path, vfs=vfs)
        self.ledger = SqliteLedger(writer, self._reader, self._reader.ask_now(stored_totals))
        #: since when credit is counted (Unix nanoseconds; 0: ever since), and the totals before that: of a restored copy
        self.counted_since, self.uncounted = self._reader.ask_now(epoch_totals)
        self.topups = SqliteTopUps(writer, self._reader)
        self.accounts = SqliteAccountBook(writer, self._reader)
        self.shelf = SqliteShelf(writer, self._reader)
        self.reports = SqliteReports(path, vfs=vfs)

    async def stop(self) -> None:
        """Commit what is queued and close the books. Nothing may be asked afterwards."""
        await self.reports.stop()
        self._reader.close()  # before the journal: whoever closes last folds the log away, and this one may not write
        await self.journal.stop()
