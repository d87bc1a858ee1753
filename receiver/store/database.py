"""SQLite through APSW: how a connection is set up, and what its errors mean to us."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import apsw

from receiver.core.journal import StoreBroken, StoreFull
from receiver.errors import ReceiverError
from receiver.store.migrations import migrate
from receiver.store.restored import begin_after_restore

log = logging.getLogger(__name__)

#: A commit waits this long for another process that writes (somebody's `sqlite3` shell); nobody should.
BUSY_MILLISECONDS: Final = 5_000
#: A database up to this size is checked whole after a process that did not end well: half a second at 0.5 GB/s.
CHECKED_BYTES: Final = 256 << 20
#: Room for pages that a reader or a commit keeps at hand.
CACHE_KIB: Final = 16 * 1024


class DatabaseDamaged(ReceiverError):
    """The database is there, but what it holds cannot be trusted."""

    def __init__(self, path: Path, detail: str) -> None:
        self.path = path
        super().__init__(
            f"{path} is damaged ({detail}) and was left as it is. Put it aside and restore the last backup:"
            f" mkdir -p {path.parent}/damaged && mv {path}* {path.parent}/damaged/ && cp BACKUP.db {path}"
        )


def connect(path: Path, *, vfs: str | None = None, reader: bool = False) -> apsw.Connection:
    """A connection with our settings: WAL, and every commit synced.

    One that writes makes the file if need be.
    """
    flags = apsw.SQLITE_OPEN_READONLY if reader else apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    connection = apsw.Connection(str(path), flags=flags, vfs=vfs)
    connection.set_busy_timeout(BUSY_MILLISECONDS)
    for name, value in (("cache_size", -CACHE_KIB), ("temp_store", "MEMORY"), ("trusted_schema", False)):
        connection.pragma(name, value)
    if not reader:
        connection.pragma("journal_mode", "WAL")
        connection.pragma("synchronous", "FULL")
        connection.pragma("foreign_keys", True)
    return connection


def prepare(path: Path, *, unix_nano: int, vfs: str | None = None) -> apsw.Connection:
    """The writer's connection to a database that is there, whole and of our schema; it is marked as running.

    Raises DatabaseDamaged, ForeignDatabase, StoreFull, StoreBroken.
    """
    try:
        _keep_private(path)
        connection = connect(path, vfs=vfs)
        migrate(connection, path, unix_nano=unix_nano)
        if connection.execute("SELECT value FROM marks WHERE name = 'running'").get == 1 and path.stat().st_size <= CHECKED_BYTES:
            found = connection.execute("PRAGMA quick_check(1)").get
            if found != "ok":
                raise DatabaseDamaged(path, str(found))
        if begin_after_restore(connection, unix_nano=unix_nano):
            log.warning("this is a restored backup: counters begin anew at 0; charges and credit go on from where it was taken")
        connection.execute("INSERT INTO marks VALUES ('running', 1) ON CONFLICT (name) DO UPDATE SET value = 1")
    except (apsw.CorruptError, apsw.NotADBError, apsw.SQLError) as error:  # SQLError: a table that should be there is not
        raise DatabaseDamaged(path, str(error)) from error
    except (apsw.Error, OSError) as error:
        raise translated(error) or error from error
    return connection


def _keep_private(path: Path) -> None:
    """The books are for their owner's eyes: they hold what opens accounts, and a folder that was there before may be open to all.

    SQLite gives the files beside it the permissions of the first. Whoever let his group in meant it; everybody is never meant.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    for file in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))):
        with suppress(FileNotFoundError, PermissionError):  # somebody else's file says so when it is opened
            mode = stat.S_IMODE(file.stat().st_mode)
            if mode & 0o007:
                file.chmod(mode & ~0o007)


def translated(error: BaseException) -> StoreFull | StoreBroken | None:
    """What an error of SQLite or of the system says of the disk; None for what is a fault of ours."""
    if isinstance(error, (StoreFull, StoreBroken)):
        return error
    if isinstance(error, apsw.FullError) or (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)):
        return StoreFull()
    if isinstance(error, apsw.IOError) and getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_SHMSIZE:
        return StoreFull()  # the index of the log could not grow, which is asked for before anything is written
    if isinstance(error, (apsw.BusyError, apsw.LockedError)):
        return StoreFull("another program holds the receiver's database, so nothing of this was stored: send again in a moment")
    if isinstance(error, (apsw.CorruptError, apsw.NotADBError)):
        return StoreBroken(f"the database is damaged ({error}): the receiver stops; what was acknowledged is kept as it is on the disk")
    if isinstance(error, (OSError, apsw.IOError, apsw.CantOpenError, apsw.ReadOnlyError, apsw.NoMemError, apsw.PermissionsError)):
        return StoreBroken(f"the disk failed ({error}): the receiver stops, and goes on from the last commit when it is started again")
    return None


@contextmanager
def honest() -> Iterator[None]:
    """What SQLite raises inside leaves as StoreFull or StoreBroken where it says something of the disk."""
    try:
        yield
    except (apsw.Error, OSError) as error:
        known = translated(error)
        if known is None:
            raise
        raise known from error
