"""What is kept of whom, and how long: roll-ups that lose no unit, whatever happens meanwhile, and users who are forgotten."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import pytest

from receiver.admin import reports as office_module
from receiver.admin.reports import ReportOffice
from receiver.config import Privacy as Settings
from receiver.core.attribution import Charge
from receiver.core.journal import Lack
from receiver.core.privacy import Privacy
from receiver.core.tally import Question
from receiver.errors import InvalidValue
from receiver.metrics import Metrics
from receiver.metrics.collector import MetricsOptions
from receiver.store import retention
from receiver.store.books import SqliteBooks
from receiver.store.forget import SqliteForget
from receiver.store.reports import SqliteReports
from receiver.store.retention import SqliteRetention
from receiver.store.sums import DAY_NANO
from tests.fakes import UNIX_NANO, ManualClock
from tests.integration.store_helpers import acceptance, close, span, span_id, trace_id
from tests.unit.charges import charge

TODAY = UNIX_NANO // DAY_NANO * DAY_NANO
DAY_SECONDS = 86_400.0
KEY = bytes(range(32))


@dataclass
class House:
    """The books with their office, and metrics that show users."""

    path: Path
    books: SqliteBooks
    office: ReportOffice
    privacy: Privacy
    metrics: Metrics
    clock: ManualClock

    async def charge(self, *charges: Charge, missing: Iterable[Lack] = (), trace: int = 1) -> None:
        """One closed trace, as the daemon would write it."""
        await self.books.journal.close([close((trace, 0, 0), charges=self.privacy.applied(charges), missing=missing)])

    async def snapshot(self) -> None:
        await self.books.journal.snapshot(self.metrics.series())

    async def totals(self, *by: str, account: str | None = None) -> dict[str, Any]:
        totals: dict[str, Any] = (await self.office.report(by=by, account=account))["totals"]
        return totals

    async def costs(self, dimension: str) -> dict[str | None, int]:
        report = await self.office.report(by=[dimension])
        return {row["key"][dimension]: row["cost_pusd"] for row in report["rows"]}

    def ask(self, query: str, *bound: Any) -> Any:
        connection = apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            return connection.execute(query, bound).fetchall()
        finally:
            connection.close()


@asynccontextmanager
async def house(folder: Path, *, hashed: tuple[str, ...] = (), keep_charges: float = 0.0, restore: bool = True) -> AsyncIterator[House]:
    clock = ManualClock()
    path = folder / "spantoll.db"
    books = SqliteBooks(path, clock=clock)
    privacy = Privacy(hashed, key=KEY)
    metrics = Metrics(MetricsOptions(dimensions=("user",)), unix_nano=clock.unix_nano)
    settings = Settings(hash=hashed, keep_charges=keep_charges)
    try:
        books.journal.watch(metrics.fold)
        if restore:
            metrics.restore(books.journal.series())
            for entry in books.journal.unobserved():
                metrics.fold(entry)
        office = ReportOffice(
            path,
            writer=books.journal.writer,
            reports=books.reports,
            privacy=privacy,
            settings=settings,
            journal_keeps=7 * 3_600.0,
            clock=clock,
        )
        made = House(path, books, office, privacy, metrics, clock)
        office.show(metrics, made.snapshot)
        yield made
    finally:
        await books.stop()


def aged(number: int, days: float, **fields: Any) -> Charge:
    """A charge of so many days ago."""
    return charge(number, start_unix_nano=round(TODAY - days * DAY_NANO) + number, trace=1, **fields)


def files_with(folder: Path, text: str) -> list[str]:
    """Files that hold a text anywhere."""
    return [file.name for file in folder.iterdir() if file.is_file() and text.encode() in file.read_bytes()]


def copy_books(folder: Path, to: Path) -> None:
    """The database and its log as they are on the disk now."""
    for file in folder.glob("spantoll.db*"):
        shutil.copy(file, to)


def lack_of(days: float) -> Lack:
    return Lack("acme", trace_id(1), span_id(9), round(TODAY - days * DAY_NANO), "gpt-4o", "no_usage")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(office_module, "PAUSE_SECONDS", 0.0)


async def test_old_charges_become_daily_sums(tmp_path: Path) -> None:
    """Whole days beyond the horizon go, younger charges stay, and no kept key's numbers change."""
    async with house(tmp_path, keep_charges=30 * DAY_SECONDS) as it:
        await it.charge(
            aged(1, 40, agent="a", user="ada"),
            aged(2, 40, agent="a", user="bob", cost_pusd=(1 << 63) - 1),
            aged(3, 40, agent="a", cost_pusd=(1 << 63) - 1),
            aged(4, 40, agent=None, cost_pusd=None, doubts=("clamped",)),
            aged(5, 30, agent="a"),
            aged(6, 1, agent="b", user="ada"),
            missing=[lack_of(40), lack_of(1)],
        )
        await it.snapshot()
        before, by_agent = await it.totals(), await it.costs("agent")
        assert await it.office.tidy() == 5
        after = await it.totals()
        assert after.pop("rolled_up_calls") == 4
        before.pop("rolled_up_calls")
        assert after == before
        assert await it.costs("agent") == by_agent
        assert [row for (row,) in it.ask("SELECT span_id FROM charges ORDER BY id")] == [span_id(5), span_id(6)]
        assert it.ask("SELECT calls, cost_usd, cost_rest_pusd FROM daily WHERE agent = 'a'") == [
            (3, *divmod(2 * ((1 << 63) - 1) + 1_000, 10**12))
        ]
        assert await it.office.tidy() == 0, "and again there is nothing to do"


async def test_what_comes_late_is_added_to_its_day(tmp_path: Path) -> None:
    """A charge of a day that was rolled up is rolled up into the same row, null dimensions as well."""
    async with house(tmp_path, keep_charges=DAY_SECONDS) as it:
        for number in range(1, 4):
            await it.charge(aged(number, 10), trace=number)
            await it.snapshot()
            await it.office.tidy()
        assert it.ask("SELECT calls, cost_rest_pusd FROM daily") == [(3, 3_000)]


async def test_zero_keeps_single_charges_for_good(tmp_path: Path) -> None:
    """Nothing is rolled up unless the operator says so."""
    async with house(tmp_path) as it:
        await it.charge(aged(1, 3_000))
        await it.snapshot()
        assert await it.office.tidy() == 0
        assert it.ask("SELECT count(*) FROM charges") == [(1,)]


async def test_what_the_snapshot_does_not_hold_stays_single(tmp_path: Path) -> None:
    """A start adds up the charges since the snapshot of the metrics: were they rolled up, the counters would fall."""
    async with house(tmp_path, keep_charges=DAY_SECONDS) as it:
        await it.charge(aged(1, 10, user="ada"))
        assert await it.office.tidy() == 0
    async with house(tmp_path, keep_charges=DAY_SECONDS) as it:
        assert it.metrics.exact("calls") == 1
        await it.snapshot()
        assert await it.office.tidy() == 1
        assert it.metrics.exact("calls") == 1
    async with house(tmp_path, keep_charges=DAY_SECONDS) as it:
        assert it.metrics.exact("calls") == 1, "and the next start finds them in the snapshot"


async def test_a_crash_between_any_two_commits_finds_each_call_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files as they are after each slice, opened as after a power cut, hold the same sums."""
    monkeypatch.setattr(retention, "SLICE_ROWS", 3)
    for name in ("_OLDEST", "_ADD", "_TAKE"):
        monkeypatch.setattr(retention, name, getattr(retention, name).replace("LIMIT 500", "LIMIT 3"))
    async with house(tmp_path) as it:
        await it.charge(*(aged(number, 20 + number % 5, agent=f"a{number % 3}") for number in range(1, 20)))
        await it.snapshot()
        whole = await it.costs("agent")
        acts, moved = SqliteRetention(it.books.journal.writer), 0
        while rows := await acts.roll_up(before_unix_nano=TODAY - 10 * DAY_NANO):
            moved += rows
            crashed = tmp_path / f"after-{moved}"
            crashed.mkdir()
            copy_books(tmp_path, crashed)
            reports = SqliteReports(crashed / "spantoll.db")
            tally = await reports.tally(Question(by=("agent",)))
            assert {key: numbers[4] for (key,), numbers in tally.sums.items()} == whole
            assert tally.totals[3] == moved
        assert moved == 19


async def test_a_slice_that_fails_moves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was added to the day is taken back with what was not taken from the charges."""
    async with house(tmp_path, keep_charges=DAY_SECONDS) as it:
        await it.charge(aged(1, 10))
        await it.snapshot()
        monkeypatch.setattr(retention, "_TAKE", "DELETE FROM charges WHERE id = ?1 AND no_such_function()")
        with pytest.raises(apsw.SQLError):
            await it.office.tidy()
        assert it.ask("SELECT count(*) FROM daily") == [(0,)]
        assert (await it.totals())["calls"] == 1


async def test_running_totals_that_nobody_continues_go(tmp_path: Path) -> None:
    """Thirty days without a word; one that was heard of since stays."""
    async with house(tmp_path) as it:
        await it.books.journal.close([close((1, 0, 0), cumulative={("acme", "old"): (1,)})])
        it.clock.advance(31 * DAY_SECONDS)
        await it.books.journal.close([close((2, 0, 0), cumulative={("acme", "new"): (2,)})])
        assert await it.office.tidy() == 1
        assert it.books.journal.cumulative(("acme", "old")) is None
        assert it.books.journal.cumulative(("acme", "new")) == (2,)


# --- forgetting -------------------------------------------------------------------------------------------------------------


async def test_a_forgotten_user_is_in_no_table_series_or_file(tmp_path: Path) -> None:
    """Sums stay to the last unit, the name goes from charges, metrics and their snapshot, and from the bytes on the disk."""
    ada = "ada-lovelace@example.org"
    async with house(tmp_path) as it:
        await it.charge(aged(1, 2, user=ada), aged(2, 2, user="bob"), aged(3, 2, user=ada), aged(4, 2))
        await it.snapshot()
        await it.charge(aged(5, 1, user=ada), trace=2)
        before = await it.totals()
        answer = await it.office.forget(ada)
        assert (answer["charges"], answer["series"]) == (3, 1)
        assert await it.totals() == before
        assert await it.costs("user") == {None: 4_000, "bob": 1_000}
        assert it.metrics.exact("calls") == 5
        assert it.metrics.exact("calls", user=ada) == 0
        assert ada not in str(it.metrics.series())
        again = await it.office.forget(ada)
        assert (again["charges"], again["series"]) == (0, 0), "asked again there is nothing left"
        assert files_with(tmp_path, ada) == []
    async with house(tmp_path) as it:
        assert it.metrics.exact("calls") == 5, "the counters go on"


async def test_no_series_jumps_by_what_a_forgotten_user_spent(tmp_path: Path) -> None:
    """Each gets a series of its own, or `increase()` would take an old cost for a new one."""
    async with house(tmp_path) as it:
        await it.charge(aged(1, 2, user="ada"), aged(2, 2, user="bob"))
        await it.office.forget("ada")
        await it.office.forget("bob")
        labels = [dict(one.labels)["user"] for one in it.metrics.series() if one.family == "calls"]
        assert len(set(labels)) == 2
        assert all(label.startswith("forgotten-") for label in labels)


async def test_only_the_account_that_was_named(tmp_path: Path) -> None:
    """Two customers' users may have the same name."""
    async with house(tmp_path) as it:
        await it.charge(aged(1, 2, user="ada"))
        other = charge(7, trace=2, account="bank", user="ada", start_unix_nano=TODAY)
        await it.books.journal.close([close((2, 0, 0), charges=[other], account="bank")])
        assert (await it.office.forget("ada", "bank"))["charges"] == 1
        assert it.metrics.exact("calls", user="ada", account="acme") == 1
        assert await it.costs("user") == {"ada": 1_000, None: 1_000}


async def test_a_hashed_user_is_found_by_name_and_by_hash(tmp_path: Path) -> None:
    """The clear name is in no table from the first moment on, and `forget` takes either."""
    async with house(tmp_path, hashed=("user",)) as it:
        await it.charge(aged(1, 2, user="ada"), aged(2, 2, user="bob"))
        shown = await it.costs("user")
        assert all(str(name).startswith("hash:") for name in shown)
        assert it.metrics.exact("calls", user="ada") == 0
        assert (await it.office.forget("ada"))["charges"] == 1
        left = next(name for name in await it.costs("user") if name is not None)
        assert (await it.office.forget(left))["charges"] == 1
        assert await it.costs("user") == {None: 2_000}


async def test_calls_that_are_still_open_name_nobody_either(tmp_path: Path) -> None:
    """Spans that were accepted before are closed later, also after a restart; what the user does afterwards is new."""
    async with house(tmp_path) as it:
        await it.office.forget("ada")
        await it.charge(aged(1, 0.5, user="ada"))
        assert await it.costs("user") == {None: 1_000}
    async with house(tmp_path) as it:
        await it.charge(aged(2, 0.5, user="ada"), trace=2)
        later = charge(3, trace=3, user="ada", start_unix_nano=it.clock.unix_nano() + 1)
        await it.charge(later, trace=3)
        assert await it.costs("user") == {None: 2_000, "ada": 1_000}
        assert not it.ask("SELECT 1 FROM forgotten WHERE user LIKE '%ada%'")
        it.clock.advance(3 * DAY_SECONDS)
        await it.office.tidy()
        assert it.ask("SELECT count(*) FROM forgotten") == [(0,)], "and once no span of theirs can be open, who it was is not kept"


async def test_journal_rows_with_a_name_go_and_are_overwritten(tmp_path: Path) -> None:
    """The journal keeps a span as it came until its trace is forgotten; then the name is in none of the files."""
    ada = "ada-lovelace@example.org"
    async with house(tmp_path, hashed=("user",)) as it:
        forgetting = SqliteForget(it.path, it.books.journal.writer)
        await forgetting.overwrite_deleted()
        journal = it.books.journal
        await journal.accept(acceptance(span(1, attributes=(("user.id", ada),))))
        await it.charge(aged(1, 0, user=ada))
        await it.snapshot()
        assert files_with(tmp_path, ada), "until then it is there, and the manual says so"
        journal.forget([key for key, _ in close((1, 0, 0)).traces])
        await it.snapshot()
        await it.snapshot()  # the deletion was queued before it
        assert it.ask("SELECT count(*) FROM journal WHERE kind = 1") == [(0,)]
        await forgetting.fold_log()
        assert files_with(tmp_path, ada) == []


async def test_no_name_is_refused(tmp_path: Path) -> None:
    """An empty name would be everybody without one."""
    async with house(tmp_path) as it:
        with pytest.raises(InvalidValue):
            await it.office.forget("")
