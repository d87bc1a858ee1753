"""Reports from the books against an addition done by hand: random charges, keys, stretches of time and zones."""

from __future__ import annotations

import asyncio
import datetime as dt
import zoneinfo
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receiver.core import tally as tallies
from receiver.core.attribution import Charge
from receiver.core.tally import BY, NOT_ROLLED_UP, NUMBERS, Question, Tally, TooManyKeys
from receiver.core.usage.reading import Tokens
from receiver.errors import Overloaded
from receiver.store import charges as rows
from receiver.store import reports as reports_module
from receiver.store.database import connect
from receiver.store.migrations import migrate
from receiver.store.reports import ReportTooLong, SqliteReports, read
from receiver.store.retention import roll_up
from receiver.store.sums import DAY_NANO
from tests.unit.charges import charge, quote

HOUR = 3_600 * 10**9
#: Three days around the end of summer time in Berlin (25 October 2026), and in New York a week later.
FIRST = 1_792_800_000 * 10**9
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Auckland")

names = st.sampled_from([None, "", "a", "b", "ä", "__overflow__"])
moments = st.one_of(
    st.integers(0, 14 * 24).map(lambda hours: FIRST + hours * HOUR),  # on the stroke
    st.integers(FIRST, FIRST + 14 * 24 * HOUR),
    st.sampled_from([0, 1, (1 << 63) - 1, (1 << 64) - 1]),
)
prices = st.one_of(
    st.none(), st.integers(0, 10**12), st.integers((1 << 63) - 10, (1 << 63) - 1)
)  # some 9 million USD a call: sums outgrow 64 bits


@st.composite
def charges(draw: st.DrawFn) -> tuple[Charge, int]:
    """A charge and the moment of its close."""
    cost = draw(prices)
    dimensions: dict[str, Any] = {name: draw(names) for name in ("agent", "user", "session", "tenant", "model", "tool", "workflow")}
    counts = [draw(st.integers(0, 10**9)) for _ in range(6)]
    uncached, cache_read, write_5m, write_1h, write_unknown, output = counts
    told = quote(
        cost,
        at_receive_time=draw(st.booleans()),
        cache_savings_pusd=draw(st.integers(-(10**13), 10**13)),
        cache_premium_pusd=draw(st.integers(0, 10**13)),
        **({"unpriced_reason": draw(st.sampled_from(["unknown_model", "no_rate"]))} if cost is None else {}),
    )
    made = charge(
        draw(st.integers(1, 1 << 60)),
        priced_as=told,
        trace=draw(st.integers(1, 1 << 120)),
        account=draw(st.sampled_from(["acme", "bank"])),
        start_unix_nano=draw(moments),
        doubts=draw(st.sampled_from([(), (), ("clamped",), ("clamped", "sampled")])),
        tokens=Tokens(sum(counts[:5]), uncached, cache_read, write_5m, write_1h, write_unknown, output, output // 2),
    )._replace(**dimensions)
    return made, draw(st.integers(FIRST, FIRST + 14 * 24 * HOUR))


@st.composite
def questions(draw: st.DrawFn) -> Question:
    zone = draw(st.sampled_from(ZONES))
    stretch = st.one_of(st.none(), moments.filter(lambda moment: moment < 1 << 63))
    since, until = draw(stretch), draw(stretch)
    if since is not None and until is not None and since >= until:
        since, until = until, None
    return Question(
        by=tuple(draw(st.lists(st.sampled_from(BY), max_size=3, unique=True))),
        since_unix_nano=since,
        until_unix_nano=until,
        zone=zoneinfo.ZoneInfo(zone),
        zone_name=zone,
        account=draw(st.sampled_from([None, None, "acme", "nobody"])),
        top=draw(st.sampled_from([1, 3, tallies.MAX_ROWS])),
    )


@contextmanager
def books(made: Sequence[tuple[Charge, int]], path: str = ":memory:") -> Iterator[apsw.Connection]:
    """A database with these charges, all of them in the snapshot of the metrics."""
    connection = connect(Path(path)) if path != ":memory:" else apsw.Connection(path)
    try:
        migrate(connection, Path(path), unix_nano=1)
        connection.execute("INSERT INTO marks VALUES ('snapshot_seq', 1)")
        for one, closed in made:
            rows.INSERT.run(connection, rows.flat(one, seq=1, unix_nano=closed))
        yield connection
    finally:
        connection.close()


def asked(connection: apsw.Connection, question: Question) -> dict[str, Any]:
    tally = Tally(question)
    read(connection, tally)
    return tally.as_json()


def by_hand(made: Sequence[tuple[Charge, int]], question: Question, *, rolled_up_before: int = 0) -> dict[tuple[Any, ...], list[int]]:
    """The same, charge by charge."""
    sums: dict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0] * len(NUMBERS))
    for one, closed in made:
        moment = closed if one.quote.at_receive_time else min(one.start_unix_nano, (1 << 63) - 1)
        old = moment < rolled_up_before
        if old:
            moment = moment // DAY_NANO * DAY_NANO + DAY_NANO // 2
        if question.since_unix_nano is not None and moment < question.since_unix_nano:
            continue
        if question.until_unix_nano is not None and moment >= question.until_unix_nano:
            continue
        if question.account not in (None, one.account):
            continue
        local = (dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=moment // 10**9)).astimezone(question.zone)
        label = {"day": f"{local:%Y-%m-%d}", "hour": f"{local:%Y-%m-%dT%H}:00{local:%z}"}
        label["hour"] = f"{label['hour'][:-2]}:{label['hour'][-2:]}"
        key = tuple(label[name] if name in label else None if old and name in NOT_ROLLED_UP else getattr(one, name) for name in question.by)
        tokens, told = one.tokens, one.quote
        numbers = (
            1,
            told.cost_pusd is None,
            bool(one.doubts),
            old,
            told.cost_pusd or 0,
            told.cache_savings_pusd,
            told.cache_premium_pusd,
            tokens.uncached,
            tokens.cache_read,
            tokens.cache_write,
            tokens.output_total,
            tokens.reasoning,
        )
        for place, number in enumerate(numbers):
            sums[key][place] += number
    return dict(sums)


def check(report: dict[str, Any], expected: dict[tuple[Any, ...], list[int]], question: Question) -> None:
    columns = {
        "calls": 0, "unpriced_calls": 1, "doubtful_calls": 2, "rolled_up_calls": 3, "cost_pusd": 4, "cache_savings_pusd": 5,
        "cache_premium_pusd": 6, "uncached_input_tokens": 7, "cache_read_tokens": 8, "cache_write_tokens": 9, "output_tokens": 10,
        "reasoning_tokens": 11,
    }  # fmt: skip
    found = {tuple(row["key"].values()): row for row in report["rows"]}
    assert len(found) == len(report["rows"]) == min(len(expected), question.top)
    for key, row in found.items():
        assert {name: row[name] for name in columns} == {name: expected[key][place] for name, place in columns.items()}
    parts = [*report["rows"], *([report["rest"]] if report["rest"] else [])]
    for name, place in columns.items():
        whole = sum(numbers[place] for numbers in expected.values())
        assert report["totals"][name] == whole == sum(part[name] for part in parts), "the parts sum to the total, to the last unit"
    if len(expected) > question.top:
        assert report["rest"]["keys"] == len(expected) - question.top
        least = min(row["cost_pusd"] for row in report["rows"])
        assert all(numbers[4] <= least for key, numbers in expected.items() if key not in found), "the dearest are shown"
    else:
        assert report["rest"] is None


@settings(max_examples=150, deadline=None)
@given(st.lists(charges(), max_size=25), questions(), st.sampled_from([1, 2, 20_000]))
def test_a_report_is_the_sum_that_one_would_make_by_hand(made: list[tuple[Charge, int]], question: Question, slice_rows: int) -> None:
    """Every key, unpriced and null ones too; days of 23 and 25 hours; sums beyond 64 bits; however the reading is cut into slices."""
    with pytest.MonkeyPatch.context() as patch, books(made) as connection:
        patch.setattr(reports_module, "SLICE_ROWS", slice_rows)
        report = asked(connection, question)
        check(report, by_hand(stored(made), question), question)
        reasons, doubts = Counter[str](), Counter[str]()
        for one, _ in in_question(stored(made), question):
            reasons.update([one.quote.unpriced_reason] if one.quote.cost_pusd is None else [])
            doubts.update(one.doubts)
        assert report["totals"]["unpriced_reasons"] == reasons
        assert report["totals"]["doubts"] == doubts


@settings(max_examples=150, deadline=None)
@given(st.lists(charges(), max_size=25), questions(), st.integers(-1, 15))
def test_a_roll_up_changes_no_sum_of_what_it_keeps(made: list[tuple[Charge, int]], question: Question, days: int) -> None:
    """In whole days of UTC each kept key has the same numbers before and after; what is not kept is null; repeated roll-ups add nothing."""
    before = (FIRST // DAY_NANO + days) * DAY_NANO
    with books(made) as connection:
        while roll_up(connection, before_unix_nano=before):
            pass
        check(asked(connection, question), by_hand(stored(made), question, rolled_up_before=before), question)
        plain = Question(by=tuple(name for name in question.by if name not in (*NOT_ROLLED_UP, "hour")), account=question.account)
        check(asked(connection, plain), _rolled(by_hand(stored(made), plain), made, plain, before), plain)
        assert (
            connection.execute(
                "SELECT count(*) FROM charges WHERE iif(at_receive_time, closed_unix_nano, start_unix_nano) < ?", (before,)
            ).get
            == 0
        )


def _rolled(
    expected: dict[tuple[Any, ...], list[int]], made: list[tuple[Charge, int]], question: Question, before: int
) -> dict[tuple[Any, ...], list[int]]:
    """The sums of before, in which only the count of rolled-up calls is another."""
    after = by_hand(stored(made), question, rolled_up_before=before)
    for key, numbers in expected.items():
        numbers[3] = after[key][3]
    return expected


def stored(made: list[tuple[Charge, int]]) -> list[tuple[Charge, int]]:
    """The table holds a call once."""
    return list({(one.account, one.trace_id, one.span_id): (one, closed) for one, closed in reversed(made)}.values())


def in_question(made: list[tuple[Charge, int]], question: Question) -> Iterator[tuple[Charge, int]]:
    for each in made:
        if by_hand([each], question):
            yield each


def test_hours_of_a_day_with_25() -> None:
    """On 25 October 2026 a clock in Berlin shows two o'clock twice: two rows, told apart by their offset."""
    made = [(charge(number, trace=number, start_unix_nano=1_792_879_200 * 10**9 + (number - 1) * HOUR), 1) for number in range(1, 26)]
    zone = zoneinfo.ZoneInfo("Europe/Berlin")
    with books(made) as connection:
        hours = asked(connection, Question(by=("hour",), zone=zone))["rows"]
        days = asked(connection, Question(by=("day",), zone=zone))["rows"]
    assert [row["key"]["hour"] for row in hours[1:5]] == [
        "2026-10-25T01:00+02:00", "2026-10-25T02:00+02:00", "2026-10-25T02:00+01:00", "2026-10-25T03:00+01:00",
    ]  # fmt: skip
    assert [(row["key"]["day"], row["calls"]) for row in days] == [("2026-10-25", 25)]


def test_missing_calls_are_in_the_report() -> None:
    """The other half of an honest report: what could not be counted, by reason, in the same stretch and account."""
    with books([]) as connection:
        for number, (account, start) in enumerate([("acme", 5), ("acme", 50), ("bank", 5)]):
            connection.execute(
                "INSERT INTO missing VALUES (?, 1, ?, ?, ?, ?, NULL, 'no_usage')", (number, account, bytes(16), bytes(8), start)
            )
        assert asked(connection, Question(by=()))["totals"]["missing"] == {"no_usage": 3}
        assert asked(connection, Question(by=(), account="acme", until_unix_nano=50))["totals"]["missing"] == {"no_usage": 1}


def test_too_many_keys_are_refused_and_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report that left keys out in silence would be wrong; the sentence says what to ask instead."""
    monkeypatch.setattr(tallies, "MAX_KEYS", 2)
    with (
        books([(charge(number, session=str(number)), 1) for number in range(3)]) as connection,
        pytest.raises(TooManyKeys, match="shorter"),
    ):
        asked(connection, Question(by=("session",)))


async def test_a_report_reads_beside_the_writer(tmp_path: Path) -> None:
    """It sees one moment of the books, does not hold up who writes, and may be asked again afterwards."""
    with books([(charge(1), 1)], str(tmp_path / "x.db")) as connection:
        reports = SqliteReports(tmp_path / "x.db")
        connection.execute("BEGIN IMMEDIATE")
        rows.INSERT.run(connection, rows.flat(charge(2), seq=1, unix_nano=1))
        assert (await reports.tally(Question(by=()))).as_json()["totals"]["calls"] == 1
        connection.execute("COMMIT")
        assert (await reports.tally(Question(by=()))).as_json()["totals"]["calls"] == 2
        await reports.stop()
        with pytest.raises(Overloaded):
            await reports.tally(Question(by=()))


async def test_a_report_ends_in_bounded_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that went on for ever would keep the write-ahead log from being folded away."""
    monkeypatch.setattr(reports_module, "MAX_SECONDS", -1.0)
    monkeypatch.setattr(reports_module, "_STEPS", 1)
    with books([(charge(number), 1) for number in range(50)], str(tmp_path / "x.db")):
        reports = SqliteReports(tmp_path / "x.db")
        with pytest.raises(ReportTooLong, match="shorter"):
            await reports.tally(Question(by=("agent",)))
        await reports.stop()


async def test_too_many_reports_at_once_are_turned_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks in a loop takes one thread, and nobody's memory."""
    monkeypatch.setattr(reports_module, "MAX_WAITING", 2)
    with books([(charge(1), 1)], str(tmp_path / "x.db")):
        reports = SqliteReports(tmp_path / "x.db")
        found = await asyncio.gather(*(reports.tally(Question(by=())) for _ in range(5)), return_exceptions=True)
        assert [type(each).__name__ for each in found] == ["Tally", "Tally", "Overloaded", "Overloaded", "Overloaded"]
        task = asyncio.create_task(reports.tally(Question(by=())))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await reports.tally(Question(by=()))).totals[0] == 1, "a client that left does not keep its place"
        await reports.stop()
