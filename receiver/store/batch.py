"""What one transaction writes, gathered, so that SQLite is asked a few times for all of it and not once a row.

SQLite works without the interpreter's lock, and beside a busy event loop the writer waits up to a millisecond to get it back: each
time. The close of one trace was a dozen of such turns, a transaction of fifty closes some hundred milliseconds. So rows of one
table go in by statements of many rows, and a transaction takes about as many turns as it has tables.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

import apsw

from receiver.core.journal import Close
from receiver.store import charges
from receiver.store.insert import Insert

_JOURNAL: Final = Insert("journal", columns=6)
_MISSING: Final = Insert("missing (close_seq, account, trace_id, span_id, start_unix_nano, model, reason)", columns=7)
_CUMULATIVE: Final = Insert(
    "cumulative",
    columns=3,
    behind=" ON CONFLICT (key) DO UPDATE SET numbers = excluded.numbers, updated_unix_nano = excluded.updated_unix_nano",
)
_I63: Final = (1 << 63) - 1

#: Told, in the transaction, how many calls of a close had been charged before.
Recounted = Callable[[int], None]


class Batch:
    """The rows of one transaction, in order within each table. Owned by the writer's thread."""

    __slots__ = ("_charges", "_closes", "_cumulative", "_journal", "_missing", "connection")

    def __init__(self, connection: apsw.Connection) -> None:
        self.connection = connection  #: after `flush` for whoever must see the rows so far
        self._journal: list[Any] = []
        self._charges: list[Any] = []
        self._closes: list[tuple[int, int, Close, Recounted]] = []  #: those with charges
        self._missing: list[Any] = []
        self._cumulative: dict[str, tuple[str, int]] = {}  #: the last value of a key is the one that counts

    def row(self, row: tuple[int, int, int, str, int, bytes]) -> None:
        """A row of the journal: its seq, kind, received_unix_nano, account, crc, body."""
        self._journal += row

    def close(self, seq: int, unix_nano: int, close: Close, recounted: Recounted) -> None:
        """What a close leaves beside its row: charges, missing calls, cumulative values."""
        if close.charges:
            self._closes.append((seq, unix_nano, close, recounted))
            for charge in close.charges:
                self._charges += charges.flat(charge, seq=seq, unix_nano=unix_nano)
        for lack in close.missing:
            start = min(lack.start_unix_nano, _I63)
            self._missing += (seq, lack.account, lack.trace_id, lack.span_id, start, lack.model, lack.reason)
        for key, numbers in close.cumulative.items():
            self._cumulative[json.dumps(key)] = (json.dumps(numbers), unix_nano)

    def flush(self) -> None:
        """Write what was gathered."""
        connection = self.connection
        if self._journal:
            _JOURNAL.run(connection, self._journal)
            self._journal = []
        if self._charges:
            self._write_charges()
        if self._missing:
            _MISSING.run(connection, self._missing)
            self._missing = []
        if self._cumulative:
            _CUMULATIVE.run(connection, [value for key, (numbers, at) in self._cumulative.items() for value in (key, numbers, at)])
            self._cumulative = {}

    def _write_charges(self) -> None:
        connection = self.connection
        asked = sum([len(close.charges) for _, _, close, _ in self._closes])
        before = connection.total_changes()
        charges.INSERT.run(connection, self._charges)
        if connection.total_changes() - before != asked:
            for seq, unix_nano, close, recounted in self._closes:
                count = charges.write_recounts(connection, close.charges, seq=seq, unix_nano=unix_nano)
                if count:
                    recounted(count)
        self._charges, self._closes = [], []
