"""Reports from the books: exact sums by any key, however many charges there are.

SQLite adds up, slice by slice of the index on moments, without Python's interpreter lock; Python merges the slices, in integers
of any size. So a report holds up neither the event loop nor the writer, takes the memory of its keys, and sees one moment of the books:
charges and what was rolled up of them are read in one transaction, or a call could be in both, or in neither.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import apsw

from receiver.core.money import PUSD_PER_USD
from receiver.core.tally import Question, Tally
from receiver.errors import InvalidValue, Overloaded
from receiver.store.database import connect, honest
from receiver.store.sums import AMOUNTS, DAY_NANO, KEPT, MOMENT, TOKENS, UNPRICED_REASON, amount_sums

#: Charges that SQLite sorts at once: their sorter stays below 10 MB.
SLICE_ROWS: Final = 20_000
#: A report of ten million charges takes half of it. While it is read, the write-ahead log is not folded away.
MAX_SECONDS: Final = 120.0
#: One report is read at a time; more than so many that wait are turned away.
MAX_WAITING: Final = 8
#: SQLite's steps between two looks at the time: a millisecond.
_STEPS: Final = 50_000
_RETRY_SECONDS: Final = 5.0

#: What a slice yields behind its dimensions and the two texts.
_CHARGE_SUMS: Final = ", ".join(
    ("count(*)", *amount_sums(tuple(column for column, _ in AMOUNTS)), *(f"sum({column})" for column in TOKENS))
)
_DAILY_SUMS: Final = ", ".join(
    (
        "sum(calls)",
        *(f"sum({name}_{part})" for _, name in AMOUNTS for part in ("usd", "rest_pusd")),
        *(f"sum({column})" for column in TOKENS),
    )
)


class ReportTooLong(InvalidValue):
    """A report took longer than anybody may read the books at a stretch."""

    def __init__(self) -> None:
        super().__init__(f"the report was not done after {MAX_SECONDS:g} s: ask for a shorter stretch of time (since, until)")


class SqliteReports:
    """Answers questions from a database that others write. One event loop owns it."""

    def __init__(self, path: Path, *, vfs: str | None = None) -> None:
        """The database is there already."""
        self._path = path
        self._vfs = vfs
        self._turn = asyncio.Semaphore(1)
        self._waiting = 0
        self._stopping = threading.Event()
        self._reading: set[asyncio.Task[Tally]] = set()

    async def tally(self, question: Question) -> Tally:
        """What the books say.

        Raises:
            TooManyKeys, ReportTooLong: the question is too wide, and the sentence says what to ask instead.
            Overloaded: others are asking.
            StoreFull, StoreBroken: the disk.

        """
        if self._waiting >= MAX_WAITING or self._stopping.is_set():
            raise Overloaded(
                reason="busy", retry_after_seconds=_RETRY_SECONDS, detail="others are reading reports just now: ask again in a moment"
            )
        self._waiting += 1
        try:
            async with self._turn:
                given_up = threading.Event()
                task = asyncio.create_task(asyncio.to_thread(self._read, question, given_up))
                self._reading.add(task)
                task.add_done_callback(self._reading.discard)
                try:
                    return await asyncio.shield(task)
                except asyncio.CancelledError:  # nobody waits for it any more; its thread has to end before the next one begins
                    given_up.set()
                    await asyncio.wait([task])
                    raise
        finally:
            self._waiting -= 1

    async def stop(self) -> None:
        """End what is being read. Nothing may be asked afterwards."""
        self._stopping.set()
        if self._reading:
            await asyncio.wait(self._reading)

    # -- on a thread ----------------------------------------------------------------------------------------------------

    def _read(self, question: Question, given_up: threading.Event) -> Tally:
        ends = time.monotonic() + MAX_SECONDS

        def enough() -> bool:
            return given_up.is_set() or self._stopping.is_set() or time.monotonic() > ends

        tally = Tally(question)
        with honest():
            connection = connect(self._path, vfs=self._vfs, reader=True)
            try:
                connection.set_progress_handler(enough, _STEPS)
                with connection:  # a savepoint: all statements see the same moment
                    read(connection, tally)
            except apsw.InterruptError as error:
                if self._stopping.is_set():
                    raise Overloaded(reason="shutdown", retry_after_seconds=_RETRY_SECONDS) from error
                raise ReportTooLong from error
            finally:
                connection.close()
        return tally


def read(connection: apsw.Connection, tally: Tally) -> None:
    """Add up what the books say at one moment. Call it in a transaction."""
    _add_charges(connection, tally)
    _add_days(connection, tally)
    _add_missing(connection, tally)


def _add_charges(connection: apsw.Connection, tally: Tally) -> None:
    question = tally.question
    columns = question.columns
    keys = ", ".join((*columns, f"{UNPRICED_REASON} AS reason", "doubts"))
    groups = ", ".join((*columns, "reason", "doubts"))
    where, bound = _of_account(question)
    query = f"SELECT {keys}, {_CHARGE_SUMS} FROM charges WHERE {MOMENT} BETWEEN ? AND ?{where} GROUP BY {groups}"  # noqa: S608 -- names of our own
    for first, last, labels in _slices(connection, question):
        for row in connection.execute(query, (first, last, *bound)):
            _add(tally, row, labels, is_rolled_up=False)


def _slices(connection: apsw.Connection, question: Question) -> Iterator[tuple[int, int, tuple[str, ...]]]:
    """(first moment, last moment, labels of its times): together all moments of the question at which there are charges."""
    asked = f"SELECT {MOMENT} FROM charges WHERE {MOMENT} BETWEEN ? AND ? ORDER BY {MOMENT} LIMIT 1 OFFSET ?"  # noqa: S608 -- names of our own
    last = question.last
    first = connection.execute(asked, (question.first, last, 0)).get
    while first is not None:
        labels, end = question.stretch(first)
        beyond = connection.execute(asked, (first, end, SLICE_ROWS)).get
        if beyond is not None:
            end = max(first, beyond - 1)
        yield first, end, labels
        first = connection.execute(asked, (end + 1, last, 0)).get if end < last else None


def _add_days(connection: apsw.Connection, tally: Tally) -> None:
    """What was rolled up: the sums of a UTC day stand at its noon."""
    question = tally.question
    columns = question.columns
    kept = [column if column in KEPT else f"NULL AS {column}" for column in columns]
    groups = ", ".join((*(column for column in columns if column in KEPT), "unpriced_reason", "doubts"))
    where, bound = _of_account(question)
    query = f"SELECT {', '.join((*kept, 'unpriced_reason', 'doubts'))}, {_DAILY_SUMS} FROM daily WHERE day = ?{where} GROUP BY {groups}"  # noqa: S608 -- names of our own
    for day in _days(connection, "daily", question):
        labels, _ = question.stretch(_noon(day))
        for row in connection.execute(query, (day, *bound)):
            _add(tally, row, labels, is_rolled_up=True)


def _days(connection: apsw.Connection, table: str, question: Question) -> Iterator[int]:
    """Days of a table that are in the question."""
    asked = f"SELECT min(day) FROM {table} WHERE day >= ?"  # noqa: S608 -- names of our own
    day = connection.execute(asked, (max(0, question.first // DAY_NANO),)).get
    while day is not None and _noon(day) <= question.last:
        if _noon(day) >= question.first:
            yield day
        day = connection.execute(asked, (day + 1,)).get


def _add_missing(connection: apsw.Connection, tally: Tally) -> None:
    question = tally.question
    where, bound = _of_account(question)
    rows = connection.execute(
        f"SELECT reason, count(*) FROM missing WHERE start_unix_nano BETWEEN ? AND ?{where} GROUP BY reason",  # noqa: S608 -- names of our own
        (question.first, question.last, *bound),
    )
    for reason, spans in rows:
        tally.missing[reason] += spans
    query = f"SELECT reason, sum(spans) FROM daily_missing WHERE day = ?{where} GROUP BY reason"  # noqa: S608 -- names of our own
    for day in _days(connection, "daily_missing", question):
        for reason, spans in connection.execute(query, (day, *bound)):
            tally.missing[reason] += spans


def _add(tally: Tally, row: tuple[Any, ...], labels: tuple[str, ...], *, is_rolled_up: bool) -> None:
    question = tally.question
    width = len(question.columns)
    reason, doubts, calls, cost, cost_rest, savings, savings_rest, premium, premium_rest, *tokens = row[width:]
    uncached, read_, write_5m, write_1h, write_unknown, output, reasoning = tokens
    tally.add(
        question.key(row[:width], labels),
        (
            calls,
            calls if reason is not None else 0,
            calls if doubts else 0,
            calls if is_rolled_up else 0,
            cost * PUSD_PER_USD + cost_rest,
            savings * PUSD_PER_USD + savings_rest,
            premium * PUSD_PER_USD + premium_rest,
            uncached,
            read_,
            write_5m + write_1h + write_unknown,
            output,
            reasoning,
        ),
        unpriced_reason=reason or "",
        doubts=doubts,
    )


def _of_account(question: Question) -> tuple[str, tuple[str, ...]]:
    return ("", ()) if question.account is None else (" AND account = ?", (question.account,))


def _noon(day: int) -> int:
    return day * DAY_NANO + DAY_NANO // 2
