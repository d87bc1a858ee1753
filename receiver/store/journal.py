"""The durable Journal: rows in SQLite, and in memory only what it takes to find them.

    accept, close  ->  queued in order, numbered at once  ->  the writer's transaction  ->  one hop back: observers, then who waits

With `ack = "durable"` an answer waits for that hop. With `"memory"` it does not: what was answered since the last commit is lost if the
process or the machine dies, some milliseconds of it; nothing else differs, and a replay finds whole rows in either case.

Rows go when nobody can ask for them any more: those before the first row of any trace that the window remembers, and those in
between whose traces are all forgotten; never one that the snapshot of the metrics does not hold yet.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import zlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import apsw

from receiver.clock import Clock
from receiver.core.journal import (
    Acceptance,
    Accepted,
    Close,
    Closed,
    Observer,
    Replayed,
    Series,
    StoreBroken,
    StoreFull,
    Unstorable,
)
from receiver.core.span import Span
from receiver.core.window.group import TraceKey
from receiver.errors import Overloaded
from receiver.store import charges, closes
from receiver.store.batch import Batch
from receiver.store.database import DatabaseDamaged, connect, honest, prepare
from receiver.store.index import RowIndex
from receiver.store.records import Decoder, Encoder, Malformed, trace_ids_of
from receiver.store.replay import ACCEPTED, CLOSED, JournalRow, Replay
from receiver.store.writer import Posting, Writer

log = logging.getLogger(__name__)

#: In memory mode: accounted bytes that may wait for a disk that is full or slow; beyond it a request is refused.
MAX_BACKLOG_BYTES: Final = 64 << 20
#: Rows that one transaction deletes at most: a few milliseconds.
DELETED_ROWS: Final = 1_024
#: Rows that are read in one go during a replay.
READ_ROWS: Final = 256

_ROWS: Final = "SELECT seq, kind, received_unix_nano, account, crc, body FROM journal WHERE seq > ? ORDER BY seq"


class SqliteJournal:
    """Journal in a database file (see `core.journal.Journal`). One event loop owns it."""

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock,
        durable: bool = True,
        posting: Posting | None = None,
        lost: Callable[[Accepted], None] = lambda _: None,
        broke: Callable[[StoreBroken], None] = lambda _: None,
        vfs: str | None = None,
    ) -> None:
        """Open the books, or begin them; the folder is ours already. To be called on the event loop.

        Args:
            path: of the database.
            clock: for the moments of close rows.
            durable: whether `accept` and `close` wait for the disk.
            posting: writes the debits of each transaction's accept rows into the same transaction (`AcceptRow.accepted`).
            lost: told of each row that was answered in memory mode and could not be written: its debit will never be.
            broke: told once when the disk has failed: the process must end.
            vfs: SQLite's name of another file system, for tests that make it fail.

        Raises:
            DatabaseDamaged, ForeignDatabase: the file cannot be used, and the message says what to do.
            StoreFull, StoreBroken: the disk.

        """
        self._path = path
        self._log = path.with_name(path.name + "-wal")
        self._clock = clock
        self._durable = durable
        self._loop = asyncio.get_running_loop()
        connection = prepare(path, unix_nano=clock.unix_nano(), vfs=vfs)
        with honest():
            self._reader = connect(path, vfs=vfs, reader=True)
            self._seq: int = self._ask("SELECT seq FROM sqlite_sequence WHERE name = 'journal'") or 0
            first: int = self._ask("SELECT min(seq) FROM journal") or self._seq + 1
            self._snapshot_seq: int = self._ask("SELECT value FROM marks WHERE name = 'snapshot_seq'") or 0
        self._reading = threading.Lock()  #: a giant group is counted on a thread of its own, which asks for cumulative values
        self._told_seq = self._seq  #: last row that observers were told of
        self.encoder = Encoder()  #: used on the writer's thread alone
        self._decoder = Decoder()
        self._index = RowIndex()
        self._pending: dict[int, AcceptRow] = {}  #: rows that are not in the database yet
        self._backlog = 0  #: accounted bytes of them
        self._values: dict[tuple[str, ...], tuple[int, tuple[int, ...]]] = {}  #: cumulative ones that are not there yet, with their row
        self._dead: list[int] = []  #: rows above the low-water mark that nobody needs
        self._deleted_to = first - 1  #: every row up to this one was deleted, or asked to be
        self._saved: dict[tuple[str, tuple[tuple[str, str], ...]], Series] = {}  #: series as the last snapshot has them
        self._lost = lost
        self._observers: list[Observer] = []
        self._writer = Writer(connection, self._loop, posting=posting, patient=not durable, broke=broke)

    # -- what the two lines ask ------------------------------------------------------------------------------------------

    def accept(self, acceptance: Acceptance) -> Awaitable[int]:
        future: asyncio.Future[int] = self._loop.create_future()
        refusal = self._refusal()
        if refusal is not None:
            future.set_exception(refusal)
            return future
        self._seq += 1
        trace_ids = trace_ids_of(acceptance.spans)
        begins = self._index.add(acceptance.account, trace_ids, self._seq)
        row = AcceptRow(self, acceptance, seq=self._seq, trace_ids=trace_ids, begins=begins, future=future)
        self._pending[row.seq] = row
        self._backlog += row.size
        if not self._durable:
            self._tell(row.accepted)
            future.set_result(row.seq)
        self._writer.put(row)
        return future

    def close(self, closes: Iterable[Close]) -> Awaitable[None]:
        future: asyncio.Future[None] = self._loop.create_future()
        if self._writer.broken is not None:
            future.set_exception(self._writer.broken)
            return future
        unix_nano = self._clock.unix_nano()
        rows = []
        for close in closes:
            assert len(close.traces) == len(close.spans) == len(close.triggers)
            self._seq += 1
            rows.append((Closed(self._seq, unix_nano, close.account, close.charges, close.missing, close.counters), close))
            for key, numbers in close.cumulative.items():
                self._values[key] = (self._seq, numbers)
        job = CloseRows(self, rows, future)
        if not self._durable:
            for closed, _ in rows:
                self._tell(closed)
            future.set_result(None)
        self._writer.put(job)
        return future

    def records(self, key: TraceKey) -> list[Span]:
        """Raises StoreBroken; damaged rows end the daemon, for what they held cannot be counted truly."""
        try:
            with self._undamaged():
                return self._records(key)
        except DatabaseDamaged as damaged:
            broken = StoreBroken(str(damaged))
            self._writer.give_up(broken)
            raise broken from damaged

    def _records(self, key: TraceKey) -> list[Span]:
        found: list[Span] = []
        for seq in self._index.rows(key):
            row = self._pending.get(seq)
            if row is not None:
                found += [span for span in row.acceptance.spans if span.trace_id == key.trace_id]
                continue
            for _, _, received_unix_nano, _, body in self._rows(seq - 1, 1):
                stored = self._decoder.row(body)
                trace = stored.trace_ids.index(key.trace_id)
                places = [place for place, mine in enumerate(stored.traces) if mine == trace]
                found += stored.spans(places, received_unix_nano=received_unix_nano)
        return found

    def cumulative(self, key: tuple[str, ...]) -> tuple[int, ...] | None:
        waiting = self._values.get(key)
        if waiting is not None:
            return waiting[1]
        with honest(), self._reading:
            return charges.cumulative(self._reader, key)

    def forget(self, keys: Iterable[TraceKey]) -> None:
        for key in keys:
            self._dead += self._index.forget(key)
        self._delete()

    # -- what the daemon asks --------------------------------------------------------------------------------------------

    def watch(self, observer: Observer) -> None:
        self._observers.append(observer)

    def replay(self) -> Iterator[Replayed]:
        """Raises StoreBroken, DatabaseDamaged."""
        assert not self._index, "a replay comes before everything else"
        total = self._ask("SELECT count(*) FROM journal")
        with self._undamaged():
            yield from Replay(self._decoder, self._index, self._rows, total).steps()

    def series(self) -> list[Series]:
        with honest():
            rows: list[Any] = self._reader.execute(
                "SELECT family, labels, numbers, created_unix_nano FROM series ORDER BY family, labels"
            ).fetchall()
        found = [
            Series(family, tuple((name, value) for name, value in json.loads(labels)), tuple(json.loads(numbers)), created)
            for family, labels, numbers, created in rows
        ]
        self._saved = {(one.family, one.labels): one for one in found}
        return found

    def unobserved(self) -> Iterator[Accepted | Closed]:
        with self._undamaged():
            told = charges.of_closes(self._reader, after_seq=self._snapshot_seq)
            charge_seq, charge = next(told, (0, None))
            for seq, kind, unix_nano, account, body in self._rows(self._snapshot_seq):
                if kind == ACCEPTED:
                    row = self._decoder.row(body)
                    yield Accepted(seq, unix_nano, account, row.transport, len(row))
                    continue
                mine = []
                while charge is not None and charge_seq <= seq:
                    mine.append(charge)
                    charge_seq, charge = next(told, (0, None))
                close = closes.read(body, account=account)
                yield Closed(seq, unix_nano, account, mine, close.missing, close.counters)

    def snapshot(self, series: Iterable[Series]) -> Awaitable[None]:
        now = {(one.family, one.labels): one for one in series}
        fresh = [one for key, one in now.items() if self._saved.get(key) != one]
        gone = [(family, json.dumps(labels)) for family, labels in self._saved.keys() - now.keys()]
        seq = self._told_seq
        rows = [(one.family, json.dumps(one.labels), json.dumps(one.numbers), one.created_unix_nano) for one in fresh]

        def work(connection: apsw.Connection) -> None:
            connection.executemany(
                "INSERT INTO series VALUES (?, ?, ?, ?) ON CONFLICT (family, labels) DO UPDATE SET numbers = excluded.numbers,"
                " created_unix_nano = excluded.created_unix_nano",
                rows,
            )
            connection.executemany("DELETE FROM series WHERE family = ? AND labels = ?", gone)
            connection.execute(
                "INSERT INTO marks VALUES ('snapshot_seq', ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", (seq,)
            )

        def stands(done: asyncio.Future[None]) -> None:
            if not done.cancelled() and done.exception() is None:
                self._snapshot_seq = max(self._snapshot_seq, seq)
                self._saved = now
                self._delete()

        future = self._writer.call(work)
        future.add_done_callback(stands)
        return future

    async def stop(self) -> None:
        """Commit what is queued and close the books. Nothing may be asked afterwards."""

        def work(connection: apsw.Connection) -> None:
            connection.execute("UPDATE marks SET value = 0 WHERE name = 'running'")

        if self._writer.broken is None:
            ended = self._writer.call(work)
            await asyncio.wait([ended])
            if ended.exception() is not None:
                log.warning("the books could not be marked as well ended, so the next start checks them: %s", ended.exception())
        self._reader.close()  # first: whoever closes last folds the log away, and this one may not write
        await self._writer.stop()

    @property
    def writer(self) -> Writer:
        """For other books in the same database, and for the metrics of commits."""
        return self._writer

    @property
    def bytes(self) -> int:
        """What the database and its log take on the disk."""
        return sum([file.stat().st_size for file in (self._path, self._log) if file.exists()])

    @property
    def unreleased_rows(self) -> int:
        """Rows from the first one that is still needed: an upper bound of what a replay reads."""
        return max(0, self._seq + 1 - self._index.low_water)

    # -- what jobs tell, on the loop -------------------------------------------------------------------------------------

    def accepted(self, row: AcceptRow) -> None:
        self._settled(row)
        if self._durable:
            self._tell(row.accepted)

    def not_accepted(self, row: AcceptRow) -> None:
        self._settled(row)
        if self._durable:
            self._index.undo(row.accepted.account, row.trace_ids, row.seq)
        else:
            log.error("rows that were acknowledged in memory mode are lost", extra={"spans": row.accepted.spans})
            self._lost(row.accepted)

    def closed(self, rows: Sequence[tuple[Closed, Close]]) -> None:
        self._drop_values(rows)
        if self._durable:
            for closed, _ in rows:
                self._tell(closed)

    def not_closed(self, rows: Sequence[tuple[Closed, Close]]) -> None:
        self._drop_values(rows)
        if not self._durable:
            log.error("closes that were reported as done in memory mode are lost", extra={"closes": len(rows)})

    # -- inside ----------------------------------------------------------------------------------------------------------

    def _settled(self, row: AcceptRow) -> None:
        del self._pending[row.seq]
        self._backlog -= row.size

    def _drop_values(self, rows: Sequence[tuple[Closed, Close]]) -> None:
        """They are in the database, or were not stored; unless a later close knows better."""
        for closed, close in rows:
            for key in close.cumulative:
                if self._values.get(key, (0, ()))[0] == closed.seq:
                    del self._values[key]

    def _refusal(self) -> Exception | None:
        if self._writer.broken is not None:
            return self._writer.broken
        if not self._durable and self._backlog > MAX_BACKLOG_BYTES:
            return StoreFull("the receiver's disk does not keep up, so nothing of this was stored: send again in a moment")
        return None

    def _tell(self, entry: Accepted | Closed) -> None:
        assert entry.seq > self._told_seq, "observers hear of rows in order"
        self._told_seq = entry.seq
        for observer in self._observers:
            observer(entry)

    def _delete(self) -> None:
        """Ask the writer to delete what nobody needs and the snapshot holds: some now, the rest at the next call."""
        low_water = self._index.low_water
        before = min(low_water, self._snapshot_seq + 1, self._deleted_to + 1 + DELETED_ROWS)
        gone = []
        if self._dead:
            self._dead.sort()
            self._dead = [seq for seq in self._dead if seq >= low_water]
            gone = [seq for seq in self._dead if seq <= self._snapshot_seq][:DELETED_ROWS]
            self._dead = self._dead[len(gone) :]
        if before <= self._deleted_to + 1 and not gone:
            return
        self._deleted_to = max(self._deleted_to, before - 1)

        def work(connection: apsw.Connection) -> None:
            connection.execute("DELETE FROM journal WHERE seq < ?", (before,))
            if gone:
                connection.executemany("DELETE FROM journal WHERE seq = ?", [(seq,) for seq in gone])

        self._writer.call(work).add_done_callback(self._deletion_done)

    def _deletion_done(self, done: asyncio.Future[Any]) -> None:
        error = None if done.cancelled() else done.exception()
        if error is not None:
            log.warning("old rows of the journal could not be deleted now, and are tried again at the next start: %s", error)
        elif min(self._index.low_water, self._snapshot_seq + 1) > self._deleted_to + 1:
            self._delete()

    def _ask(self, query: str) -> Any:
        return self._reader.execute(query).get

    def _rows(self, after: int = 0, most: int | None = None) -> Iterator[JournalRow]:
        """Rows after `after`, in order, their bodies checked. Reads in short transactions, so that the log can be folded in between."""
        while True:
            limit = READ_ROWS if most is None else most
            with honest(), self._reading:
                rows: list[Any] = self._reader.execute(f"{_ROWS} LIMIT ?", (after, limit)).fetchall()
            for seq, kind, received_unix_nano, account, crc, body in rows:
                if zlib.crc32(body) != crc:
                    raise DatabaseDamaged(self._path, f"the checksum of journal row {seq} is wrong")
                yield seq, kind, received_unix_nano, account, body
            if len(rows) < limit or most is not None:
                return
            after = rows[-1][0]

    def _undamaged(self) -> _Undamaged:
        return _Undamaged(self._path)


class _Undamaged:
    """What cannot be a row's body inside is a damaged database."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, (Malformed, IndexError, ValueError)):
            raise DatabaseDamaged(self._path, f"a row of the journal is none ({error})") from error


class AcceptRow:
    """A job: one request's new spans."""

    __slots__ = ("_begins", "_future", "_journal", "acceptance", "accepted", "size", "trace_ids", "weight")

    def __init__(
        self,
        journal: SqliteJournal,
        acceptance: Acceptance,
        *,
        seq: int,
        trace_ids: list[bytes],
        begins: list[bool],
        future: asyncio.Future[int],
    ) -> None:
        self._journal = journal
        self._begins = begins
        self._future = future
        self.acceptance = acceptance
        self.accepted = Accepted(
            seq, acceptance.received_unix_nano, acceptance.account, acceptance.transport, len(acceptance.spans), acceptance.debit_msat
        )
        self.trace_ids = trace_ids
        self.size = sum([span.size for span in acceptance.spans])  #: accounted bytes
        self.weight = len(acceptance.spans)

    @property
    def seq(self) -> int:
        return self.accepted.seq

    def write(self, batch: Batch) -> None:
        taken = self.acceptance
        body = self._journal.encoder.body(taken.spans, transport=taken.transport, begins=self._begins)
        batch.row((self.seq, ACCEPTED, taken.received_unix_nano, taken.account, zlib.crc32(body), body))

    def stands(self) -> None:
        self._journal.accepted(self)
        if not self._future.done():
            self._future.set_result(self.seq)

    def failed(self, error: Exception) -> None:
        self._journal.not_accepted(self)
        if not self._future.done():
            self._future.set_exception(error)


class CloseRows:
    """A job: what some groups came to."""

    __slots__ = ("_future", "_journal", "_recounted", "_rows", "weight")

    accepted = None  #: a close debits nothing

    def __init__(self, journal: SqliteJournal, rows: Sequence[tuple[Closed, Close]], future: asyncio.Future[None]) -> None:
        self._journal = journal
        self._rows = rows
        self._future = future
        self._recounted = 0
        self.weight = sum(1 + len(close.charges) for _, close in rows)

    def write(self, batch: Batch) -> None:
        self._recounted = 0
        for closed, close in self._rows:
            body = closes.body(close)
            batch.row((closed.seq, CLOSED, closed.unix_nano, close.account, zlib.crc32(body), body))
            batch.close(closed.seq, closed.unix_nano, close, self._recount)

    def _recount(self, calls: int) -> None:
        self._recounted += calls

    def stands(self) -> None:
        if self._recounted:
            log.warning(
                "calls were charged again: their spans were sent once more after the horizon (window.seen_horizon)",
                extra={"calls": self._recounted},
            )
        self._journal.closed(self._rows)
        if not self._future.done():
            self._future.set_result(None)

    def failed(self, error: Exception) -> None:
        self._journal.not_closed(self._rows)
        if not self._future.done():
            if not isinstance(error, Overloaded):
                error, cause = Unstorable(f"{type(error).__name__}: {error}"), error
                error.__cause__ = cause
            self._future.set_exception(error)
