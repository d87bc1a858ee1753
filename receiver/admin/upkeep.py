"""Care of the books: a backup of them while they are in use; `spantoll verify` only reads, and needs nobody."""

from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path
from typing import Any

from receiver.clock import Clock
from receiver.core.moments import rfc3339
from receiver.errors import Conflict, InvalidValue
from receiver.store.backup import Backup, BackupFailed, TargetTaken, back_up

log = logging.getLogger(__name__)


class UpkeepOffice:
    """One for a process that has the books open."""

    def __init__(self, database: Path, *, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._running: asyncio.Future[Backup] | None = None
        self._cancelled = threading.Event()
        self._target = ""
        self._done = self._total = 0  #: pages

    async def backup(self, path: str, *, force: bool = False) -> dict[str, Any]:
        """Copy the books to `path`, an absolute one on the daemon's machine; resolves once the copy is checked, synced and in its place.

        One that was begun goes on when who asked for it goes away.

        Returns:
            {"path", "bytes", "seconds", "last_row", "taken": RFC 3339}; `last_row` is the last row of the journal that is in it.

        Raises:
            InvalidValue: the path is not absolute.
            Conflict: there is such a file already and `force` is not set, or another backup is being made.
            BackupFailed: there is no space, no folder, no permission, or the books are damaged.

        """
        target = Path(path)
        if not target.is_absolute() or "\0" in path:
            raise InvalidValue(f"path: {path[:64]!r} must be absolute: it is a file of the machine that the daemon runs on")
        if self._running is not None:
            raise Conflict(f"a backup is being made just now, to {self._target}: wait for it")
        unix_nano = self._clock.unix_nano()
        self._target, self._done, self._total = path, 0, 0
        self._running = asyncio.ensure_future(
            asyncio.to_thread(
                back_up, self._database, target, unix_nano=unix_nano, force=force, progress=self._progress, cancelled=self._cancelled
            )
        )
        self._running.add_done_callback(self._ended)
        try:
            made = await asyncio.shield(self._running)
        except TargetTaken as taken:
            raise Conflict(str(taken)) from taken
        return {
            "path": str(made.path),
            "bytes": made.bytes,
            "seconds": round(made.seconds, 3),
            "last_row": made.last_seq,
            "taken": rfc3339(unix_nano),
        }

    def progress(self) -> dict[str, Any]:
        """{"running", "path", "done_pages", "total_pages"} of the backup that is being made."""
        if self._running is None:
            return {"running": False, "path": None, "done_pages": 0, "total_pages": 0}
        return {"running": True, "path": self._target, "done_pages": self._done, "total_pages": self._total}

    async def close(self) -> None:
        """Give up a backup that is being made: a stop does not wait for it, and half of one is worth nothing."""
        self._cancelled.set()
        if self._running is not None:
            await asyncio.wait([self._running])

    def _progress(self, done: int, total: int) -> None:
        self._done, self._total = done, total

    def _ended(self, ended: asyncio.Future[Backup]) -> None:
        self._running = None
        error = None if ended.cancelled() else ended.exception()
        if error is None and not ended.cancelled():
            made = ended.result()
            log.info("a backup was made", extra={"path": str(made.path), "bytes": made.bytes, "seconds": round(made.seconds, 3)})
        elif not isinstance(error, TargetTaken):
            log.warning("a backup could not be made: %s", error, exc_info=None if isinstance(error, BackupFailed) else error)
