"""File systems for SQLite that do what a disk may do: refuse, fail, or forget what was not synced when the power goes.

Both write through to real files, so what SQLite reads is what it wrote.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, Final

import apsw

#: The place of a failure that does not come: such a disk counts what there is to fail.
NEVER: Final = 0


class _Files(apsw.VFS):
    """The default file system, whose files ask `self` before they write."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(name, "")

    def xOpen(self, name: Any, flags: Any) -> apsw.VFSFile:  # noqa: N802 -- SQLite's name
        return _File(self, name, flags)

    def before_write(self, file: str, data: bytes, offset: int) -> None:
        """Raise what the disk answers."""

    def before_sync(self, file: str) -> None:
        """Raise what the disk answers."""

    def before_truncate(self, file: str, size: int) -> None:
        """Raise what the disk answers."""

    def before_delete(self, file: str) -> None:
        """A file is about to go."""

    def xDelete(self, name: str, syncdir: bool) -> None:  # noqa: N802 -- SQLite's name
        self.before_delete(Path(name).name)
        super().xDelete(name, syncdir)


class _File(apsw.VFSFile):
    def __init__(self, vfs: _Files, name: Any, flags: Any) -> None:
        self._vfs = vfs
        self._name = Path(name.filename() if isinstance(name, apsw.URIFilename) else name or "temporary").name
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 -- SQLite's name
        self._vfs.before_write(self._name, bytes(data), offset)
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:  # noqa: N802 -- SQLite's name
        self._vfs.before_sync(self._name)
        super().xSync(flags)

    def xTruncate(self, size: int) -> None:  # noqa: N802 -- SQLite's name
        self._vfs.before_truncate(self._name, size)
        super().xTruncate(size)


class FailingDisk(_Files):
    """Answers the n-th write (or sync) with an error, and from then on every one (`forever`) or none."""

    def __init__(self, name: str, *, error: type[Exception], writes: bool, at: int, forever: bool) -> None:
        super().__init__(name)
        self._error = error
        self._writes = writes
        self._at = at
        self._forever = forever
        self.calls = 0
        self.files: set[str] = set()  #: to which they were
        self.armed = False
        self.struck = 0

    def before_write(self, file: str, data: bytes, offset: int) -> None:  # noqa: ARG002 -- the method's shape
        if self._writes:
            self._count(file)

    def before_sync(self, file: str) -> None:
        if not self._writes:
            self._count(file)

    def _count(self, file: str) -> None:
        if not self.armed:
            return
        self.calls += 1
        self.files.add(file)
        if self._at != NEVER and (self.calls == self._at or (self._forever and self.calls > self._at)):
            self.struck += 1
            raise self._error(f"the {'write' if self._writes else 'sync'} to {file} was made to fail")


class Recorder(_Files):
    """Keeps every operation, so that a disk can be made that lost its power at any moment. Others note their own events between."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.log: list[tuple[Any, ...]] = []

    def before_write(self, file: str, data: bytes, offset: int) -> None:
        self.log.append(("write", file, offset, data))

    def before_sync(self, file: str) -> None:
        self.log.append(("sync", file))

    def before_truncate(self, file: str, size: int) -> None:
        self.log.append(("truncate", file, size))

    def before_delete(self, file: str) -> None:
        self.log.append(("delete", file))

    @property
    def syncs(self) -> list[int]:
        """Places of the syncs in the log."""
        return [place for place, (what, *_) in enumerate(self.log) if what == "sync"]

    def disk(self, until: int, rng: random.Random) -> dict[str, bytes]:
        """The files after the first `until` operations and a power cut.

        What was synced holds. Each write since may have come, not at all, or in part (in sectors of 512 bytes), in any order.
        """
        files: dict[str, bytearray] = {}
        unsynced: dict[str, list[tuple[Any, ...]]] = {}
        for what, *arguments in self.log[:until]:
            if what in ("write", "truncate"):
                unsynced.setdefault(arguments[0], []).append((what, *arguments))
            elif what == "sync":
                for operation in unsynced.pop(arguments[0], []):
                    _apply(files, operation)
            elif what == "delete":
                unsynced.pop(arguments[0], None)
                files.pop(arguments[0], None)
        for operations in unsynced.values():
            for operation in operations:
                fate = rng.random()
                if fate < 0.4:
                    _apply(files, operation)
                elif fate < 0.7 and operation[0] == "write":
                    _, file, offset, data = operation
                    first = 512 * rng.randrange(-(-len(data) // 512))
                    _apply(files, ("write", file, offset + first, data[first : first + 512 * rng.randint(1, 8)]))
        return {file: bytes(data) for file, data in files.items()}


def _apply(files: dict[str, bytearray], operation: tuple[Any, ...]) -> None:
    what, file, *arguments = operation
    data = files.setdefault(file, bytearray())
    if what == "truncate":
        del data[arguments[0] :]
        return
    offset, written = arguments
    if len(data) < offset:
        data += bytes(offset - len(data))
    data[offset : offset + len(written)] = written
