"""Reads that may take long: on a connection of their own and a thread, so that neither the event loop nor the writer waits for them.

What was committed before a read is asked for is in it. Each read sees one moment of the whole database.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import apsw

from receiver.core.journal import StoreBroken
from receiver.store.database import connect, honest

Result = TypeVar("Result")

CLOSED: Final = "the receiver stops, and its books are closed"


class Reader:
    """A connection that reads, for several books. One read at a time; any number may be asked for."""

    def __init__(self, path: Path, *, vfs: str | None = None) -> None:
        """The database is there already. Raises StoreFull, StoreBroken."""
        with honest():
            self._connection = connect(path, vfs=vfs, reader=True)
        self._turn = threading.Lock()
        self._closed = False

    async def ask(self, work: Callable[[apsw.Connection], Result]) -> Result:
        """What `work(connection)` returns; it runs on a thread, in a transaction. Raises StoreFull, StoreBroken."""
        return await asyncio.to_thread(self.ask_now, work)

    def ask_now(self, work: Callable[[apsw.Connection], Result]) -> Result:
        """The same, here: before anything else runs."""
        with self._turn:
            if self._closed:
                raise StoreBroken(CLOSED)
            try:
                with honest(), self._connection:  # a savepoint: several statements see the same moment
                    result = work(self._connection)
            except apsw.InterruptError as stopped:
                raise StoreBroken(CLOSED) from stopped
            return result

    def close(self) -> None:
        """End what is being read, and let go."""
        self._connection.interrupt()
        with self._turn:
            self._closed = True
            self._connection.close()
