"""Books on a disk that a test can crash: the writer is held at a chosen moment, and the files go on without the process.

`Held` stops the writer before it commits what a test asks for, or right after, when nobody has heard of it yet. Then the files are copied
as a SIGKILL would leave them, and another life begins with the copy.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from receiver.clock import Clock
from receiver.store.books import SqliteBooks
from receiver.store.writer import Call, Writer

PATIENCE_SECONDS = 30.0


class Lives:
    """One set of books after another, each in a folder of its own."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._root = tempfile.TemporaryDirectory()
        self._number = 0
        self.folder = self._next()

    async def begin(self) -> SqliteBooks:
        books = SqliteBooks(self.folder / "spantoll.db", clock=self._clock)
        for _ in books.journal.replay():
            pass
        return books

    def copy(self) -> None:
        """The next life begins with the files as they are now."""
        old, self.folder = self.folder, self._next()
        for path in old.glob("spantoll.db*"):
            if not path.name.endswith("-shm"):  # shared memory goes with the process
                shutil.copyfile(path, self.folder / path.name)

    def end(self) -> None:
        self._root.cleanup()

    def _next(self) -> Path:
        self._number += 1
        folder = Path(self._root.name) / str(self._number)
        folder.mkdir()
        return folder


class Held:
    """The writer commits nothing inside, but for what was asked inside when `commit` is called: nobody hears of that."""

    def __init__(self, writer: Writer, loop: asyncio.AbstractEventLoop) -> None:
        self._writer = writer
        self._loop = loop
        self._gates: list[threading.Event] = []

    def __enter__(self) -> Self:
        reached, gate = self._gate()
        self._put(self._wall(reached, gate))
        assert reached.wait(PATIENCE_SECONDS)
        return self

    def commit(self) -> None:
        """What was asked for inside is committed; the event loop does not run meanwhile."""
        reached, gate = self._gate()
        # The next wall is put up from within the transaction of what was asked for, so that it stands behind its commit.
        self._put(lambda: self._put(self._wall(reached, gate)))
        self._gates[0].set()
        assert reached.wait(PATIENCE_SECONDS)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for gate in self._gates:
            gate.set()

    def _gate(self) -> tuple[threading.Event, threading.Event]:
        gate = threading.Event()
        self._gates.append(gate)
        return threading.Event(), gate

    def _wall(self, reached: threading.Event, gate: threading.Event) -> Callable[[], object]:
        def stand() -> None:
            reached.set()
            assert gate.wait(PATIENCE_SECONDS)

        return stand

    def _put(self, work: Callable[[], object]) -> None:
        def run(_: Any) -> None:
            work()

        self._writer.put(Call(run, self._loop.create_future()))
