"""A backup is a whole copy of one moment, made while the books are written, and a restored one says what it is."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import stat
import threading
from pathlib import Path

import apsw
import pytest
from click.testing import CliRunner

from receiver.admin.upkeep import UpkeepOffice
from receiver.cli import main
from receiver.errors import Conflict, InvalidValue
from receiver.store import backup
from receiver.store.backup import BackupFailed, TargetTaken, back_up
from receiver.store.verify import verify
from tests.fakes import ManualClock
from tests.integration.books import accept, charge, filled, opened

DATABASE = "spantoll.db"


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that even a small database takes several."""
    monkeypatch.setattr(backup, "STEP_PAGES", 4)
    monkeypatch.setattr(backup, "SYNC_PAGES", 8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "data"
    made.mkdir()
    return made


def names(folder: Path) -> list[str]:
    """What is in it."""
    return sorted(path.name for path in folder.iterdir())


def restored(copy: Path, folder: Path) -> Path:
    """The folder in which this backup is the database."""
    folder.mkdir()
    shutil.copy(copy, folder / DATABASE)
    return folder


async def test_a_backup_holds_everything_and_counts_anew(folder: Path, tmp_path: Path) -> None:
    """Charges, credit, open and remembered traces are as they were; counters begin at 0 with a new birthday, and only once."""
    await filled(folder)
    target = tmp_path / "copy.db"
    made = back_up(folder / DATABASE, target, unix_nano=5)
    assert made.bytes == target.stat().st_size
    assert names(tmp_path) == ["copy.db", "data"], "one file, nothing beside it"
    async with opened(folder) as (books, metrics):
        before = (
            books.journal.unreleased_rows,
            books.ledger.shown(),
            [row.state for row in await books.topups.of_account("acme", limit=9)],
        )
        assert metrics.exact("calls") == 9
    clock = ManualClock()
    clock.advance(1_000)
    place = restored(target, tmp_path / "restored")
    async with opened(place, clock) as (books, metrics):
        assert (
            books.journal.unreleased_rows,
            books.ledger.shown(),
            [row.state for row in await books.topups.of_account("acme", limit=9)],
        ) == before
        assert metrics.exact("calls") == metrics.exact("receiver_accepted_spans") == 0
        assert (books.counted_since, books.uncounted) == (clock.unix_nano(), books.ledger.shown()), "credit is counted anew as well"
        await charge(books, trace=4, cost_pusd=77)
        assert (metrics.exact("calls"), metrics.exact("cost_usd")) == (1, 77)
        assert {one.created_unix_nano for one in metrics.series() if one.family == "calls"} == {clock.unix_nano()}
    born = clock.unix_nano()
    clock.advance(1_000)
    async with opened(place, clock) as (books, metrics):
        assert books.counted_since == born
        assert (metrics.exact("calls"), metrics.exact("cost_usd")) == (1, 77), "the next start goes on"
    assert verify(place / DATABASE).findings == ()


async def test_a_backup_under_load_is_of_one_moment(folder: Path, tmp_path: Path) -> None:
    """The daemon goes on meanwhile and waits for nothing; what is in the copy adds up, with nothing of what came after its moment."""
    await filled(folder, traces=40)
    copied = threading.Event()
    done: list[int] = []

    def progress(now: int, total: int) -> None:
        done.append(now)
        assert now <= total
        if len(done) == 2:
            assert copied.wait(30)

    async with opened(folder) as (books, _):
        seq = books.journal._seq
        running = asyncio.create_task(asyncio.to_thread(back_up, folder / DATABASE, tmp_path / "copy.db", unix_nano=5, progress=progress))
        while len(done) < 2:  # noqa: ASYNC110 -- the copy's thread is what is waited for
            await asyncio.sleep(0)
        for trace in range(100, 130):
            await accept(books, trace=trace)
            await charge(books, trace=trace)
        copied.set()
        made = await running
        assert made.last_seq == seq
        assert done == sorted(done), "it never had to begin anew"
        assert len(done) > 5
    assert verify(tmp_path / "copy.db").findings == ()
    connection = apsw.Connection(str(tmp_path / "copy.db"), flags=apsw.SQLITE_OPEN_READONLY)
    assert connection.execute("SELECT max(seq) FROM journal").get == seq
    assert connection.execute("SELECT max(close_seq) FROM charges").get <= seq
    connection.close()
    async with opened(restored(tmp_path / "copy.db", tmp_path / "restored")) as (books, _):
        await accept(books, trace=100)


async def test_a_file_that_is_there_stays_unless_it_is_said(folder: Path, tmp_path: Path) -> None:
    """Also one that comes while the copy is made."""
    await filled(folder)
    target = tmp_path / "copy.db"
    target.write_text("mine")
    with pytest.raises(TargetTaken, match="--force"):
        back_up(folder / DATABASE, target, unix_nano=5)
    assert target.read_text() == "mine"
    back_up(folder / DATABASE, target, unix_nano=5, force=True)
    assert verify(target).findings == ()
    other = tmp_path / "other.db"
    with pytest.raises(TargetTaken):
        back_up(folder / DATABASE, other, unix_nano=5, progress=lambda *_: other.write_text("came meanwhile") and None)
    assert other.read_text() == "came meanwhile"
    assert names(tmp_path) == ["copy.db", "data", "other.db"]


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("nowhere/copy.db", "no folder"),
        ("data", "is a folder"),
        ("data/spantoll.db", "belongs to the books"),
        ("data/spantoll.db-wal", "belongs to the books"),
        ("data/lock", "belongs to the books"),
    ],
)
async def test_a_place_where_none_can_be_is_refused(folder: Path, tmp_path: Path, target: str, says: str) -> None:
    """Before anything is written, whatever was forced."""
    await filled(folder)
    (folder / "lock").write_text("held")
    before = (folder / DATABASE).read_bytes()
    with pytest.raises(BackupFailed, match=says):
        back_up(folder / DATABASE, tmp_path / target, unix_nano=5, force=True)
    assert (folder / DATABASE).read_bytes() == before
    assert (folder / "lock").read_text() == "held"


async def test_it_is_as_private_as_the_books(folder: Path, tmp_path: Path) -> None:
    """It holds digests of keys and who spends how much on what."""
    await filled(folder)
    back_up(folder / DATABASE, tmp_path / "copy.db", unix_nano=5)
    assert stat.S_IMODE((tmp_path / "copy.db").stat().st_mode) == 0o600


async def test_a_damaged_database_makes_no_backup(folder: Path, tmp_path: Path) -> None:
    """Or the damage would take the place of the last good copy."""
    await filled(folder, traces=60)
    path = folder / DATABASE
    connection = apsw.Connection(str(path))
    root = connection.execute("SELECT max(rootpage) FROM sqlite_schema WHERE tbl_name = 'charges' AND type = 'index'").get
    connection.close()
    data = bytearray(path.read_bytes())
    data[4096 * (root - 1) : 4096 * (root - 1) + 64] = os.urandom(64)
    path.write_bytes(data)
    (tmp_path / "good.db").write_text("good")
    with pytest.raises(BackupFailed, match="keep your older backups"):
        back_up(path, tmp_path / "good.db", unix_nano=5, force=True)
    assert (tmp_path / "good.db").read_text() == "good"
    assert names(tmp_path) == ["data", "good.db"]


async def test_no_space_leaves_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was begun goes away again, or the disk would stay full."""
    await filled(folder)

    def full(_path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(backup, "_sync", full)
    with pytest.raises(BackupFailed, match="No space left"):
        back_up(folder / DATABASE, tmp_path / "copy.db", unix_nano=5)
    assert names(tmp_path) == ["data"]


async def test_the_office_makes_one_at_a_time_and_gives_it_up_at_the_end(folder: Path, tmp_path: Path) -> None:
    """Who asked may leave; a second one is told to wait; a stop does not wait for a copy."""
    await filled(folder, traces=40)
    office = UpkeepOffice(folder / DATABASE, clock=ManualClock())
    with pytest.raises(InvalidValue, match="absolute"):
        await office.backup("copy.db")
    answer = await office.backup(str(tmp_path / "copy.db"))
    assert answer["path"] == str(tmp_path / "copy.db")
    with pytest.raises(Conflict, match="force"):
        await office.backup(str(tmp_path / "copy.db"))
    assert office.progress()["running"] is False
    asked = asyncio.create_task(office.backup(str(tmp_path / "second.db")))
    while not office.progress()["done_pages"]:  # noqa: ASYNC110 -- the copy's thread is what is waited for
        await asyncio.sleep(0)
    with pytest.raises(Conflict, match="just now"):
        await office.backup(str(tmp_path / "third.db"))
    asked.cancel()
    await office.close()
    assert office.progress()["running"] is False
    assert names(tmp_path) == ["copy.db", "data"]


def test_the_verb_makes_one_without_a_daemon_and_says_what_it_is(tmp_path: Path) -> None:
    """The same route as with one; `verify` finds it whole."""
    settings = ("--set", f"store.directory={tmp_path / 'data'}")
    target = tmp_path / "copy.db"
    made = CliRunner().invoke(main, ["backup", str(target), *settings])
    assert made.exit_code == 0, made.output
    assert f'"path": "{target}"' in made.output
    again = CliRunner().invoke(main, ["backup", str(target), *settings])
    assert again.exit_code == 1
    assert "--force" in again.output
    assert CliRunner().invoke(main, ["backup", "--force", str(target), *settings]).exit_code == 0
    assert CliRunner().invoke(main, ["verify", str(target)]).exit_code == 0
    refused = CliRunner().invoke(main, ["backup", str(tmp_path / "no" / "copy.db"), *settings])
    assert refused.exit_code == 1
    assert "no folder" in refused.output
