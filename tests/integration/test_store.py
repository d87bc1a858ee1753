"""The store on a real disk: one owner, one schema, nothing acknowledged that is not there, nothing kept that nobody needs."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from receiver.core.journal import Accepted, Closed, Series, StoreBroken, StoreFull
from receiver.core.window.group import TraceKey
from receiver.store import faults, migrations
from receiver.store.database import DatabaseDamaged
from receiver.store.folder import Folder, FolderInUse, FolderUnusable
from receiver.store.migrations import ForeignDatabase
from tests.integration.store_helpers import Restored, SlowCommit, acceptance, charge_of, close, cut, lack, opened, span, span_id, trace_id

KEY = TraceKey("acme", trace_id(1))
BASE = 0x5E_ED_00_00_00_00_00_00  #: of span ids that are found by their bytes


@pytest.fixture(autouse=True)
def _disarmed():
    yield
    faults.arm("")


# --- the folder ---------------------------------------------------------------------------------------------------------------


def test_the_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    """It tells who spends how much on what, so nobody else may look."""
    folder = Folder(tmp_path / "a" / "b")
    with folder:
        assert folder.directory.stat().st_mode & 0o777 == 0o700
        assert (folder.directory / "lock").read_text() == f"{os.getpid()}\n"


def folder_of_all(folder: Path) -> None:
    folder.chmod(0o755)


async def test_the_books_are_for_their_owner_alone(tmp_path: Path) -> None:
    """Also in a folder that was there before and is open to everybody, and for books that an earlier release left readable."""
    folder_of_all(tmp_path)
    umask = os.umask(0o022)
    try:
        for group in (0o600, 0o640):
            async with opened(tmp_path) as journal:
                await journal.accept(acceptance(span(1)))
                assert {(tmp_path / name).stat().st_mode & 0o777 for name in ("spantoll.db", "spantoll.db-wal", "spantoll.db-shm")} == {
                    group
                }
            (tmp_path / "spantoll.db").chmod(0o644)
    finally:
        os.umask(umask)


def test_a_second_daemon_refuses_and_names_the_first(tmp_path: Path) -> None:
    """Two writers would each count what the other does not see."""
    code = (
        "import sys, time\nfrom receiver.store.folder import Folder\nFolder(sys.argv[1]).open()\nprint('held', flush=True)\ntime.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with pytest.raises(FolderInUse, match=rf"in use by the process {first.pid}: stop it"):
            Folder(tmp_path).open()
        first.send_signal(signal.SIGKILL)
        first.wait()
    with Folder(tmp_path):  # the kernel has given the lock back
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    """The message names the setting."""
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderUnusable, match=r"store\.directory"):
        Folder(tmp_path / "file").open()


# --- the schema ---------------------------------------------------------------------------------------------------------------


async def test_the_database_says_what_it_is(tmp_path: Path) -> None:
    """Application id, version, and the settings that make a commit a promise."""
    async with opened(tmp_path) as journal:
        found = await journal.writer.call(
            lambda connection: [
                connection.pragma(name) for name in ("application_id", "user_version", "journal_mode", "synchronous", "integrity_check")
            ]
        )
    assert found == [migrations.APPLICATION_ID, migrations.VERSION, "wal", 2, "ok"]


async def test_a_newer_schema_refuses_to_start(tmp_path: Path) -> None:
    """An old release must not write into books that it does not understand."""
    async with opened(tmp_path):
        pass
    connection = apsw.Connection(str(tmp_path / "spantoll.db"))
    connection.pragma("user_version", migrations.VERSION + 1)
    connection.close()
    with pytest.raises(ForeignDatabase, match="newer release"):
        async with opened(tmp_path):
            pass


async def test_somebody_elses_database_is_left_alone(tmp_path: Path) -> None:
    """A file that is not ours gets no tables."""
    connection = apsw.Connection(str(tmp_path / "spantoll.db"))
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    with pytest.raises(ForeignDatabase, match="another program"):
        async with opened(tmp_path):
            pass


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO journal VALUES (1, 3, 0, 'acme', 0, x'')",
        "INSERT INTO journal VALUES (1, 1, 0, '', 0, x'')",
        "INSERT INTO journal VALUES (1, 1, 0, 'acme', -1, x'')",
        "INSERT INTO journal VALUES (1, 1, 'now', 'acme', 0, x'')",
        "UPDATE charges SET cost_pusd = NULL",
        "UPDATE charges SET basis = 'unpriced'",
        "UPDATE charges SET cost_pusd = -1",
        "UPDATE charges SET uncached = uncached + 1",
        "UPDATE charges SET trace_id = x'00'",
        "INSERT INTO charges SELECT NULL, {rest} FROM charges",
    ],
)
async def test_the_schema_refuses_what_cannot_be_true(tmp_path: Path, statement: str) -> None:
    """The books keep their rules whoever writes into them."""
    async with opened(tmp_path) as journal:
        await journal.accept(acceptance(span(1)))
        await journal.close([close((1, 0, 1), charges=[charge_of(1)])])

        def attempt(connection: apsw.Connection) -> None:
            columns = [row[1] for row in connection.execute("PRAGMA table_info(charges)")][1:]
            connection.execute(statement.format(rest=", ".join(columns)))

        with pytest.raises(apsw.ConstraintError):
            await journal.writer.call(attempt)
        assert await journal.accept(acceptance(span(2))) > 0, "and goes on"


# --- accept and close ---------------------------------------------------------------------------------------------------------


async def test_what_was_accepted_is_there_after_a_restart(tmp_path: Path) -> None:
    """Spans, in order, with their transport; then closes with all that they wrote."""
    charges = [charge_of(2), charge_of(3, cost_pusd=None)]
    lost = lack(4, model=None)
    counters = {("same_call_merged_total", ("a", "b")): 3}
    async with opened(tmp_path) as journal:
        first = await journal.accept(acceptance(span(1), span(2, parent=span_id(1)), span(3, parent=span_id(9)), transport="http"))
        second = await journal.accept(acceptance(span(4), span(5, trace=2)))
        await journal.close([close((1, 0, 3), charges=charges, missing=[lost], counters=counters, cumulative={("a", "b"): (10**30, 2)})])
    async with opened(tmp_path) as journal:
        restored = Restored(journal)
        assert cut(restored.remembered[KEY].ids) == [span_id(1), span_id(2), span_id(3)]
        assert cut(restored.remembered[KEY].charged) == [span_id(2), span_id(3)]
        assert restored.open_ids == [span_id(4), span_id(5)]
        assert journal.cumulative(("a", "b")) == (10**30, 2)
        assert journal.cumulative(("a",)) is None
        assert [one.span_id for one in journal.records(KEY)] == [span_id(number) for number in (1, 2, 3, 4)]
        accepted, other, closed = journal.unobserved()
        assert isinstance(accepted, Accepted)
        assert isinstance(other, Accepted)
        assert isinstance(closed, Closed)
        assert (accepted.seq, accepted.spans, accepted.transport) == (first, 3, "http")
        assert (other.seq, other.spans) == (second, 2)
        assert (list(closed.charges), list(closed.missing), closed.counters) == (charges, [lost], counters)


async def test_one_commit_holds_all_that_was_queued_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Natural batching: while the first commit runs, the others gather, and share one sync."""
    slow = SlowCommit(monkeypatch)
    async with opened(tmp_path) as journal:
        first = journal.accept(acceptance(span(1)))
        await slow.begun()
        others = [journal.accept(acceptance(span(number))) for number in range(2, 50)]
        slow.end()
        assert await asyncio.gather(first, *others) == list(range(1, 50))
        assert journal.writer.commits == 2


async def test_observers_hear_of_rows_in_order_before_anybody_else(tmp_path: Path) -> None:
    """What is shown is a fold over rows that hold."""
    heard: list[int] = []
    async with opened(tmp_path) as journal:
        journal.watch(lambda entry: heard.append(entry.seq))
        futures = [journal.accept(acceptance(span(number))) for number in (1, 2)]
        assert heard == []
        assert await futures[1] == 2
        assert heard == [1, 2]
        await journal.close([close((1, 0, 2)), close((2, 0, 0))])
        assert heard == [1, 2, 3, 4]


async def test_a_client_that_left_takes_nothing_back(tmp_path: Path) -> None:
    """The row is stored although nobody waits for it any more."""
    async with opened(tmp_path) as journal:
        task = asyncio.ensure_future(journal.accept(acceptance(span(1))))
        task.cancel()
        await journal.accept(acceptance(span(2)))
        assert [one.span_id for one in journal.records(KEY)] == [span_id(1), span_id(2)]


async def test_a_job_that_fails_takes_no_other_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of ours in one request is that request's alone."""
    broken = span(2)
    broken.attributes = (("set", {1, 2}),)  # type: ignore[assignment]  # what no decoder makes
    slow = SlowCommit(monkeypatch)
    async with opened(tmp_path) as journal:
        first = journal.accept(acceptance(span(1)))
        await slow.begun()
        second, third = journal.accept(acceptance(broken)), journal.accept(acceptance(span(3)))
        slow.end()
        assert await first == 1
        with pytest.raises(KeyError):
            await second
        assert await third == 3
        assert [one.span_id for one in journal.records(KEY)] == [span_id(1), span_id(3)]


async def test_memory_mode_answers_first_and_writes_after(tmp_path: Path) -> None:
    """The same rows are on the disk in the end; until then they are read from memory."""
    faults.arm("before_commit:delay")
    async with opened(tmp_path, durable=False) as journal:
        future = journal.accept(acceptance(span(1)))
        assert future.done()
        assert journal.close([close((1, 0, 1), cumulative={("k",): (5,)})]).done()
        assert [one.span_id for one in journal.records(KEY)] == [span_id(1)]
        assert journal.cumulative(("k",)) == (5,)
    async with opened(tmp_path) as journal:
        assert cut(Restored(journal).remembered[KEY].ids) == [span_id(1)]
        assert journal.cumulative(("k",)) == (5,)


async def test_charges_of_spans_that_came_again_after_the_horizon_are_marked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They count again, as the metrics say, and both rows can be told apart."""
    async with opened(tmp_path) as journal:
        await journal.accept(acceptance(span(1)))
        await journal.close([close((1, 0, 1), charges=[charge_of(1)])])
        journal.forget([KEY])
        await journal.accept(acceptance(span(1), span(2)))
        await journal.close([close((1, 0, 2), charges=[charge_of(1), charge_of(2)])])
        rows = await journal.writer.call(lambda c: c.execute("SELECT span_id, recount FROM charges ORDER BY id").fetchall())
    assert rows == [(span_id(1), 0), (span_id(2), 0), (span_id(1), 1)]
    assert "charged again" in caplog.text


async def test_debits_are_part_of_the_transaction(tmp_path: Path) -> None:
    """What the ledger posts stands exactly when the rows do."""
    seen: list[list[int]] = []

    def posting(connection: apsw.Connection, rows: list[Accepted]) -> None:
        connection.execute("CREATE TABLE IF NOT EXISTS debits (seq INTEGER PRIMARY KEY, msat INTEGER)")
        connection.executemany("INSERT INTO debits VALUES (?, ?)", [(row.seq, 10 * row.spans) for row in rows])
        seen.append([row.seq for row in rows])
        if len(seen) == 2:
            raise RuntimeError("a fault of the ledger")

    async with opened(tmp_path, posting=posting) as journal:
        await journal.accept(acceptance(span(1), span(2)))
        with pytest.raises(RuntimeError):
            await journal.accept(acceptance(span(3)))
        await journal.accept(acceptance(span(3)))
        await journal.close([close((1, 0, 3))])
        debits = await journal.writer.call(lambda c: c.execute("SELECT seq, msat FROM debits ORDER BY seq").fetchall())
        rows = await journal.writer.call(lambda c: c.execute("SELECT seq FROM journal WHERE kind = 1 ORDER BY seq").fetchall())
    assert seen == [[1], [2], [3]], "nothing is posted for a close"
    assert debits == [(1, 20), (3, 10)]
    assert [seq for (seq,) in rows] == [1, 3]


# --- the metrics' snapshot ----------------------------------------------------------------------------------------------------


async def test_a_snapshot_and_what_came_after_are_the_whole(tmp_path: Path) -> None:
    """Numbers of any size come back; series that are gone from a snapshot do not; a row is in it or after it, never both."""
    labels = (("account", "acme"), ("model", "gpt-4o"))
    big = Series("calls", labels, (10**30, 2), 7)
    old = Series("calls", (("account", "old"),), (1,), 7)
    async with opened(tmp_path) as journal:
        journal.watch(lambda _: None)
        await journal.accept(acceptance(span(1)))
        await journal.snapshot([big, old])
        await journal.accept(acceptance(span(2)))
        await journal.close([close((1, 0, 2), charges=[charge_of(2)])])
    async with opened(tmp_path) as journal:
        assert journal.series() == [big, old]
        assert [entry.seq for entry in journal.unobserved()] == [2, 3]
        for entry in journal.unobserved():
            assert isinstance(entry, Accepted) or len(entry.charges) == 1
        await journal.snapshot([big])
    async with opened(tmp_path) as journal:
        assert journal.series() == [big]


# --- deletion -----------------------------------------------------------------------------------------------------------------


async def test_rows_that_nobody_needs_are_deleted_and_numbers_are_not_given_again(tmp_path: Path) -> None:
    """Those before the low-water mark, and those between whose traces are forgotten; only what the snapshot holds."""
    async with opened(tmp_path) as journal:
        await journal.accept(acceptance(span(1), span(2, trace=2)))
        await journal.accept(acceptance(span(3, trace=3)))
        await journal.accept(acceptance(span(4, trace=2)))
        await journal.close([close((1, 0, 1), (3, 0, 1))])
        journal.forget([KEY, TraceKey("acme", trace_id(3))])
        assert await rows_of(journal) == [1, 2, 3, 4], "no snapshot holds them yet"
        await journal.snapshot([])
        assert await rows_of(journal) == [1, 3, 4], "row 2 held trace 3 alone"
        await journal.close([close((2, 0, 2))])
        journal.forget([TraceKey("acme", trace_id(2))])
        await journal.snapshot([])
        await journal.accept(acceptance(span(9, trace=9)))
        journal.forget([])
        await journal.snapshot([])
        assert await rows_of(journal) == [6]
        await journal.close([close((9, 0, 1))])
        journal.forget([TraceKey("acme", trace_id(9))])
        await journal.snapshot([])
    async with opened(tmp_path) as journal:
        assert await journal.accept(acceptance(span(1))) == 8


async def rows_of(journal) -> list[int]:
    await asyncio.sleep(0)
    await journal.writer.call(lambda _: None)  # behind the deletion
    return [seq for (seq,) in await journal.writer.call(lambda c: c.execute("SELECT seq FROM journal ORDER BY seq").fetchall())]


# --- damage -------------------------------------------------------------------------------------------------------------------


async def filled(folder: Path, rows: int = 200) -> None:
    async with opened(folder) as journal:
        for number in range(1, rows + 1):
            journal.accept(acceptance(*[span(BASE + 10 * number + each, trace=number) for each in range(5)]))
        await journal.close([close((number, 0, 5), charges=[charge_of(BASE + 10 * number, trace=number)]) for number in range(1, rows + 1)])


async def test_a_flipped_bit_in_a_row_is_refused_with_the_restore_command(tmp_path: Path) -> None:
    """SQLite has no checksums; the journal has."""
    await filled(tmp_path)
    path = tmp_path / "spantoll.db"
    number = BASE + 10 * 7 + 3
    path.write_bytes(path.read_bytes().replace(span_id(number), span_id(number ^ 4)))  # all copies: pages keep some of what was moved
    with pytest.raises(DatabaseDamaged, match=r"row 7 is wrong.*restore the last backup: mkdir -p .* && mv .* && cp BACKUP\.db "):
        async with opened(tmp_path) as journal:
            Restored(journal)


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.9])
async def test_a_truncated_database_is_refused(tmp_path: Path, keep: float) -> None:
    """Never a crash loop, never an empty book in place of a full one (but a file of 0 bytes is an empty database, and begun anew)."""
    await filled(tmp_path)
    path = tmp_path / "spantoll.db"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep) or 100])
    with pytest.raises(DatabaseDamaged, match="restore the last backup"):
        async with opened(tmp_path) as journal:
            Restored(journal)
    assert path.exists(), "left as it is"


@pytest.mark.parametrize("seed", range(12))
async def test_flipped_bytes_are_refused_or_harm_nobody(tmp_path: Path, seed: int) -> None:
    """Wherever they are: either the start says so, or every row is as it was."""
    await filled(tmp_path)
    async with opened(tmp_path) as journal:
        before = Restored(journal).ids
        await journal.writer.call(lambda c: c.execute("UPDATE marks SET value = 1 WHERE name = 'running'"))
    path = tmp_path / "spantoll.db"
    connection = apsw.Connection(str(path))
    connection.execute("UPDATE marks SET value = 1 WHERE name = 'running'")  # as after a crash, which is when disks tell lies
    connection.close()
    rng = random.Random(seed)
    data = bytearray(path.read_bytes())
    for _ in range(64):
        data[rng.randrange(len(data))] = rng.randrange(256)
    path.write_bytes(data)
    try:
        async with opened(tmp_path) as journal:
            assert Restored(journal).ids == before
    except DatabaseDamaged:
        pass
    except ForeignDatabase:
        assert data[60:64] != migrations.VERSION.to_bytes(4, "big") or data[68:72] != migrations.APPLICATION_ID.to_bytes(4, "big")


async def test_damage_that_is_found_while_running_ends_the_daemon(tmp_path: Path) -> None:
    """A late span whose elders cannot be read would be judged wrongly."""
    told: list[StoreBroken] = []
    async with opened(tmp_path, broke=told.append) as journal:
        await journal.accept(acceptance(span(1)))
        await journal.writer.call(lambda c: c.execute("UPDATE journal SET crc = crc - 1"))
        with pytest.raises(StoreBroken, match="checksum of journal row 1"):
            journal.records(KEY)
        assert len(told) == 1
        with pytest.raises(StoreBroken):
            await journal.accept(acceptance(span(2)))


# --- named faults -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", ["before_write", "after_write", "before_commit"])
async def test_a_full_disk_fails_one_batch_and_heals(tmp_path: Path, point: str) -> None:
    """Nothing of it was stored, and the same request succeeds once there is space."""
    async with opened(tmp_path) as journal:
        faults.arm(f"{point}:enospc")
        with pytest.raises(StoreFull) as caught:
            await journal.accept(acceptance(span(1)))
        assert caught.value.reason == "disk_full"
        with pytest.raises(StoreFull):
            await journal.close([close((1, 0, 0))])
        faults.arm("")
        assert await journal.accept(acceptance(span(1))) > 0
    async with opened(tmp_path) as journal:
        assert Restored(journal).open_ids == [span_id(1)]


@pytest.mark.parametrize("fault", ["before_write:eio", "after_write:eio", "before_commit:eio", "after_commit:eio", "after_commit:enospc"])
async def test_a_failed_disk_is_the_end(tmp_path: Path, fault: str) -> None:
    """Everything fails from then on, and the daemon hears of it once. So does anything that goes wrong behind a commit that stands."""
    told: list[StoreBroken] = []
    async with opened(tmp_path, broke=told.append) as journal:
        faults.arm(f"{fault}@1")
        with pytest.raises(StoreBroken):
            await journal.accept(acceptance(span(1)))
        with pytest.raises(StoreBroken):
            await journal.accept(acceptance(span(2)))
        with pytest.raises(StoreBroken):
            await journal.close([])
        assert len(told) == 1
    async with opened(tmp_path) as journal:
        assert Restored(journal).open_ids == ([span_id(1)] if fault.startswith("after_commit") else [])


async def test_memory_mode_waits_for_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was acknowledged stays in its order, and is written once there is space."""
    monkeypatch.setattr("receiver.store.writer.FULL_WAIT_SECONDS", 0.01)
    async with opened(tmp_path, durable=False) as journal:
        faults.arm("before_commit:enospc")
        await journal.accept(acceptance(span(1)))
        await journal.accept(acceptance(span(2)))
        faults.arm("")
    async with opened(tmp_path) as journal:
        assert Restored(journal).open_ids == [span_id(1), span_id(2)]


async def test_memory_mode_refuses_when_the_disk_does_not_keep_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded: beyond it a client keeps its spans."""
    monkeypatch.setattr("receiver.store.journal.MAX_BACKLOG_BYTES", 900)
    faults.arm("before_commit:delay@1")
    async with opened(tmp_path, durable=False) as journal:
        await journal.accept(acceptance(span(1), span(2)))
        with pytest.raises(StoreFull, match="does not keep up"):
            await journal.accept(acceptance(span(3)))


@pytest.mark.parametrize("text", ["nowhere:kill", "before_write:explode", "before_write", "before_write:kill@x", "before_reply:eio"])
def test_a_misspelt_fault_is_refused(text: str) -> None:
    """A fault that is not armed would make a test pass that tests nothing."""
    with pytest.raises(ValueError, match="SPANTOLL_FAULT"):
        faults.arm(text)
