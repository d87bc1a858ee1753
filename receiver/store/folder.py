"""One folder belongs to one running daemon: an exclusive lock, held by the kernel, so that `kill -9` leaves none behind."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from receiver.errors import ReceiverError

LOCK: Final = "lock"  #: its name in the folder; what it says is for people, the lock itself is the kernel's
DATABASE: Final = "spantoll.db"
MODE: Final = 0o700  #: of the folder: it tells who spends how much on what


class FolderUnusable(ReceiverError):
    """The data folder cannot be made, read or written."""


class FolderInUse(ReceiverError):
    """Another process holds the folder."""

    def __init__(self, directory: Path, pid: str) -> None:
        self.directory = directory
        self.pid = pid  #: as the lock file says; "" when it says nothing
        who = f"the process {pid}" if pid else "another process"
        super().__init__(f"{directory} is in use by {who}: stop it, or give this one a folder of its own with store.directory")


class Folder:
    """The data folder, locked while it is open."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self._lock: int | None = None

    @property
    def database(self) -> Path:
        return self.directory / DATABASE

    def open(self) -> None:
        """Make the folder if need be, and lock it. Raises FolderInUse, FolderUnusable."""
        assert self._lock is None
        try:
            self.directory.mkdir(mode=MODE, parents=True, exist_ok=True)
            lock = os.open(self.directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise FolderUnusable(
                f"the data folder {self.directory} cannot be used ({error.strerror}): make it writable for this user, or name another one"
                " with store.directory"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as held:
            pid = os.pread(lock, 32, 0).decode(errors="replace").strip()
            os.close(lock)
            raise FolderInUse(self.directory, pid) from held
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        self._lock = lock

    def close(self) -> None:
        """Let others have it."""
        if self._lock is not None:
            os.close(self._lock)  # the file stays: to remove it would let two processes lock two files of one name
            self._lock = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
