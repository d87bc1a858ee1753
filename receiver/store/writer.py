"""The one thread that writes the books.

Natural batching: it takes all that was queued while the last commit ran, in order, and makes one transaction and one sync of it. So an
idle daemon answers after one sync, and a busy one shares each sync among many; there is no timer and nothing to tune. When the commit
stands, one hop to the event loop tells everybody.

Rule 1: nobody is told of a commit that did not return. A job of a transaction that failed hears why, and nothing of it is stored.
Rule 2: a full disk fails the jobs of its transaction and nothing else: the next ones try again.
Rule 3: any other failure of the disk is the last thing that happens. A failed sync is never repeated (the kernel may have dropped the
        pages, and the next sync would succeed without them), so from then on every job fails, and the process has to end.
Rule 4: a job that fails for a reason of its own does not take its neighbours along: they are done again, one by one.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import apsw

from receiver.core.journal import Accepted, StoreBroken, StoreFull
from receiver.store import faults
from receiver.store.batch import Batch
from receiver.store.database import translated

log = logging.getLogger(__name__)

#: Spans of one transaction: some 0.2 s of work, so that an acknowledgement never waits longer than that for its neighbours.
MAX_WEIGHT: Final = 20_000
#: Pages (4 KiB) of the write-ahead log from which it is folded into the database, between two transactions: 8 MiB.
CHECKPOINT_PAGES: Final = 2_048
#: In memory mode, how long the writer waits before it tries a full disk again.
FULL_WAIT_SECONDS: Final = 1.0


class Job(Protocol):
    """Something to be written. All that happens on the loop happens in the order of the queue."""

    @property
    def weight(self) -> int:
        """How much work it is, in spans."""

    @property
    def accepted(self) -> Accepted | None:
        """What it debits, when it is an accept row."""

    def write(self, batch: Batch) -> None:
        """On the writer's thread, inside the transaction. May run more than once, after a rollback."""

    def stands(self) -> None:
        """On the event loop: it is in the books for good. Must not fail."""

    def failed(self, error: Exception) -> None:
        """On the event loop: nothing of it is in the books. Must not fail."""


class Call:
    """A job for whoever keeps other books in the same database: `work(connection)`, and a future for what it returns."""

    weight = 1
    accepted = None

    def __init__(self, work: Callable[[apsw.Connection], Any], future: asyncio.Future[Any]) -> None:
        self._work = work
        self._future = future
        self._result: Any = None

    def write(self, batch: Batch) -> None:
        batch.flush()
        self._result = self._work(batch.connection)

    def stands(self) -> None:
        if not self._future.done():
            self._future.set_result(self._result)

    def failed(self, error: Exception) -> None:
        if not self._future.done():
            self._future.set_exception(error)


#: Called once a transaction, after its jobs were written and before the commit, with its accept rows: the ledger posts its debits here.
#: What it raises fails the transaction.
Posting = Callable[[apsw.Connection, Sequence[Accepted]], None]


class Writer:
    """Owns the connection that writes, and its thread."""

    def __init__(
        self,
        connection: apsw.Connection,
        loop: asyncio.AbstractEventLoop,
        *,
        posting: Posting | None = None,
        patient: bool = False,
        broke: Callable[[StoreBroken], None] = lambda _: None,
    ) -> None:
        """Start writing.

        Args:
            connection: set up and of our schema; nobody else may use it any more.
            loop: where jobs hear what became of them.
            posting: see `Posting`.
            patient: a full disk is waited for, and the jobs stay in order; for those who were told already that all is well.
            broke: told on the loop, once, when the disk has failed.

        """
        self._connection = connection
        self._loop = loop
        self._posting = posting
        self._patient = patient
        self._broke = broke
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._pages = 0  #: of the write-ahead log, after the last commit
        self.broken: StoreBroken | None = None  #: set once, by the thread
        self.commits = 0
        self.commit_seconds = 0.0  #: of the last one, its work included
        self.on_commit: Callable[[float], None] = lambda _: None  #: told on the loop how long each took, in seconds
        connection.set_wal_hook(self._wal_grew)  # takes the place of SQLite's own checkpoints, which would run before we may answer
        self._thread = threading.Thread(target=self._run, name="spantoll-writer", daemon=True)
        self._thread.start()

    def put(self, job: Job) -> None:
        """Queue a job. Never waits."""
        self._queue.put(job)

    def call(self, work: Callable[[apsw.Connection], Any]) -> asyncio.Future[Any]:
        """Queue `work(connection)`; resolves with what it returned once that stands."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self._queue.put(Call(work, future))
        return future

    def give_up(self, error: StoreBroken) -> None:
        """Somebody else found out that the disk has failed: nothing more is written. On the event loop."""
        if self.broken is None:
            self.broken = error
            self._broke(error)

    async def stop(self) -> None:
        """Write what is queued, fold the log into the database, and end. What comes after this is never written."""
        self._stopping.set()
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    # -- on the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            jobs, more = self._taken()
            if jobs:
                self._commit(jobs)
            if not more:
                break
            if self._pages >= CHECKPOINT_PAGES and self.broken is None:
                self._checkpoint(apsw.SQLITE_CHECKPOINT_PASSIVE)
        if self.broken is None:
            self._checkpoint(apsw.SQLITE_CHECKPOINT_TRUNCATE)
        try:
            self._connection.close()
        except apsw.Error:
            log.exception("the database did not close; what was committed is in it")

    def _taken(self) -> tuple[list[Job], bool]:
        """What is queued now, at least one job; False when no more will come."""
        job = self._queue.get()
        jobs: list[Job] = []
        weight = 0
        while job is not None:
            jobs.append(job)
            weight += job.weight
            if weight >= MAX_WEIGHT:
                return jobs, True
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                return jobs, True
        return jobs, False

    def _commit(self, jobs: list[Job]) -> None:
        error = self._tried(jobs)
        while isinstance(error, StoreFull) and self._patient and not self._stopping.wait(FULL_WAIT_SECONDS):
            error = self._tried(jobs)
        if error is not None and len(jobs) > 1 and not isinstance(error, (StoreFull, StoreBroken)):
            for job in jobs:
                self._tell([job], self._tried([job]))
            return
        self._tell(jobs, error)

    def _tried(self, jobs: Sequence[Job]) -> Exception | None:
        """One transaction with these jobs; what went wrong, or None: it stands."""
        if self.broken is not None:
            return self.broken
        connection = self._connection
        stands = False
        begun = time.perf_counter()
        try:
            if faults.ARMED:
                faults.strike("before_write")
            connection.execute("BEGIN IMMEDIATE")
            batch = Batch(connection)
            for job in jobs:
                job.write(batch)
            batch.flush()
            if faults.ARMED:
                faults.strike("after_write")
            if self._posting is not None and (rows := [job.accepted for job in jobs if job.accepted is not None]):
                self._posting(connection, rows)
            if faults.ARMED:
                faults.strike("before_commit")
            connection.execute("COMMIT")
            stands = True
            if faults.ARMED:
                faults.strike("after_commit")
        except Exception as error:  # noqa: BLE001 -- it is handed to whoever asked for the job
            known: Exception = translated(error) or error
            if stands and not isinstance(known, StoreBroken):
                known = StoreBroken(f"the store failed behind a commit that stands ({error})")
            if not stands and not isinstance(known, StoreBroken):
                known = self._rolled_back(known)
            if isinstance(known, StoreBroken):
                self._break(known)
            return known
        self.commits += 1
        self.commit_seconds = time.perf_counter() - begun
        return None

    def _rolled_back(self, cause: Exception) -> Exception:
        try:
            if not self._connection.get_autocommit():
                self._connection.execute("ROLLBACK")
        except apsw.Error as error:
            return StoreBroken(f"a transaction could be neither committed nor taken back ({error}): the receiver stops")
        return cause

    def _break(self, error: StoreBroken) -> None:
        if self.broken is None:
            self.broken = error
            self._hop(self._broke, error)

    def _wal_grew(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self._pages = pages
        return apsw.SQLITE_OK

    def _checkpoint(self, mode: int) -> None:
        """Fold the log into the database. One that a reader or a full disk holds up is tried again after the next commit."""
        self._pages = 0
        try:
            self._connection.wal_checkpoint(mode=mode)
        except Exception as error:  # noqa: BLE001 -- judged below
            known = translated(error) or StoreBroken(f"the log could not be folded into the database ({error})")
            if isinstance(known, StoreBroken):
                self._break(known)

    def _tell(self, jobs: Sequence[Job], error: Exception | None) -> None:
        if error is None:
            if faults.ARMED:
                self._hop(faults.strike, "before_reply")
            self._hop(self._stood, jobs, self.commit_seconds)
        else:
            self._hop(_fail, jobs, error)

    def _stood(self, jobs: Sequence[Job], seconds: float) -> None:
        for job in jobs:
            job.stands()
        self.on_commit(seconds)

    def _hop(self, function: Callable[..., object], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            log.warning("the event loop ended before it heard what became of its last commits; the database has them")


def _fail(jobs: Sequence[Job], error: Exception) -> None:
    for job in jobs:
        job.failed(error)
