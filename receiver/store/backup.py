"""A copy of the books while they are being written, in one file that can be kept anywhere.

It is a copy of one moment: a read transaction holds that moment for as long as the copy takes, and the write-ahead log grows by what
is written meanwhile. It is made beside its place under another name, checked, synced, and only then takes its place: a file of the
asked name is a whole backup, or the one that was there before.

The copy is marked as one. Whoever starts on it (`begin_after_restore`) starts its counters anew at 0, for what was counted after the
backup is not in it, and a counter that falls reads as counted twice. Charges and ledger go on from where the copy was taken.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import apsw

from receiver.errors import ReceiverError
from receiver.store.database import connect, honest
from receiver.store.restored import COPIED

#: Pages (4 KiB) of one step: 4 MiB, a few milliseconds. Between two steps the others have the disk.
STEP_PAGES: Final = 1_024
#: After so many pages what was copied is synced, so that the last sync is no longer than the others: 64 MiB.
SYNC_PAGES: Final = 16_384
#: The rest between two steps: commits of the daemon, whose syncs wait behind ours, keep most of the disk.
PAUSE_SECONDS: Final = 0.002
#: Findings of the check that are told.
MAX_FINDINGS: Final = 5
#: What it is called until it is whole.
PARTIAL: Final = ".partial"

Progress = Callable[[int, int], None]


class BackupFailed(ReceiverError):
    """No backup was made, and nothing was left at its place."""


class TargetTaken(BackupFailed):
    """There is a file of that name, and nobody said that it may go."""


@dataclass(frozen=True, slots=True)
class Backup:
    """One that was made."""

    path: Path
    bytes: int
    pages: int
    seconds: float
    last_seq: int  #: the last row of the journal that is in it


def back_up(
    source: Path,
    target: Path,
    *,
    unix_nano: int,
    force: bool = False,
    progress: Progress = lambda _done, _total: None,
    cancelled: threading.Event | None = None,
    vfs: str | None = None,
) -> Backup:
    """Copy the database to `target`, which blocks: on a thread of its own. Safe while a daemon writes.

    Args:
        source: a database of ours.
        target: where the copy goes; an absolute path in a folder that is there.
        unix_nano: now, for the mark.
        force: a file that is there already is replaced.
        progress: told (pages that are copied, pages in all) after each step.
        cancelled: once set, the copy is given up.
        vfs: SQLite's name of another file system, for tests.

    Raises:
        TargetTaken, BackupFailed: nothing was made.
        StoreFull, StoreBroken: the disk of the source.

    """
    begun = time.monotonic()
    _check_target(source, target, force=force)
    partial = target.with_name(target.name + PARTIAL)
    try:
        partial.unlink(missing_ok=True)  # of a copy that was killed
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))  # as private as the folder it comes from
        pages, last_seq = _copy(source, partial, unix_nano=unix_nano, progress=progress, cancelled=cancelled, vfs=vfs)
        _sync(partial)
        size = partial.stat().st_size
        if force:
            partial.replace(target)
        else:
            os.link(partial, target)  # unlike a rename this never replaces what somebody put there meanwhile
            partial.unlink()
        _sync(target.parent)
    except FileExistsError as error:
        raise _taken(target) from error
    except OSError as error:
        raise BackupFailed(f"the backup could not be written to {target} ({error.strerror})") from error
    finally:
        for left in (partial, *(partial.with_name(partial.name + end) for end in ("-journal", "-wal", "-shm"))):
            left.unlink(missing_ok=True)
    return Backup(target, size, pages, time.monotonic() - begun, last_seq)


def _check_target(source: Path, target: Path, *, force: bool) -> None:
    if not target.parent.is_dir():
        raise BackupFailed(f"there is no folder {target.parent}: make it first")
    if target.is_dir():
        raise BackupFailed(f"{target} is a folder: name the file in it, such as {target / 'spantoll-backup.db'}")
    own = {source.name + end for end in ("", "-wal", "-shm", "-journal")}
    is_beside = target.parent.resolve() == source.parent.resolve()  # where the lock, the token and the key of names lie, too
    if is_beside and (target.name in own or (target.exists() and target.suffix != source.suffix)):
        raise BackupFailed(f"{target} belongs to the books themselves: name another file")
    if target.exists() and not force:
        raise _taken(target)


def _taken(target: Path) -> TargetTaken:
    return TargetTaken(f"{target} is there already: name another file, or say --force (force: true) to replace it")


def _copy(
    source: Path, partial: Path, *, unix_nano: int, progress: Progress, cancelled: threading.Event | None, vfs: str | None
) -> tuple[int, int]:
    """(pages, last row): the copy, marked, folded into one file, and checked."""
    with honest():
        reader = connect(source, vfs=vfs, reader=True)
    try:
        with honest():
            reader.execute("BEGIN")
            last_seq: int = reader.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'journal'").get
        copy = apsw.Connection(str(partial))
        try:
            copy.pragma("synchronous", "OFF")  # we sync ourselves
            pages = _copy_pages(reader, copy, partial, progress, cancelled)
            copy.pragma("journal_mode", "DELETE")  # one file, that needs no log beside it
            copy.execute("INSERT INTO marks VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", (COPIED, unix_nano))
            found = [row[0] for row in copy.execute(f"PRAGMA integrity_check({MAX_FINDINGS})")]
            if found != ["ok"]:
                raise BackupFailed(
                    f"the books are damaged ({'; '.join(map(str, found))}), and so the copy would be: keep your older backups, and stop"
                    " the daemon to see what it says at its next start"
                )
        except apsw.FullError as error:
            raise BackupFailed(f"there is no space for the backup in {partial.parent}") from error
        except (apsw.CorruptError, apsw.NotADBError) as error:
            raise BackupFailed(f"the books are damaged ({error}): keep your older backups") from error
        except apsw.Error as error:
            raise BackupFailed(f"the backup could not be written ({error})") from error
        finally:
            copy.close()
    finally:
        reader.close()
    return pages, last_seq


def _copy_pages(
    reader: apsw.Connection, copy: apsw.Connection, partial: Path, progress: Progress, cancelled: threading.Event | None
) -> int:
    unsynced = total = 0
    with copy.backup("main", reader, "main") as pages:
        while not pages.done:
            if cancelled is not None and cancelled.is_set():
                raise BackupFailed("the receiver stops, and the backup was given up: ask again once it runs")
            pages.step(STEP_PAGES)
            total = pages.page_count
            progress(total - pages.remaining, total)
            unsynced += STEP_PAGES
            if unsynced >= SYNC_PAGES:
                unsynced = 0
                _sync(partial)
            time.sleep(PAUSE_SECONDS)
    return total


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
