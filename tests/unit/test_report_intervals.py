"""Days and hours of time zones: every moment is in exactly one, and they are as long as people live them."""

from __future__ import annotations

import datetime as dt
import zoneinfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receiver.core.intervals import day, hour, in_order
from receiver.core.moments import parse_moment

SECOND = 10**9
ZONES = sorted({
    "UTC", "Europe/Berlin", "America/New_York", "America/Sao_Paulo", "America/Havana", "Asia/Kathmandu", "Asia/Beirut",
    "Australia/Lord_Howe", "Pacific/Apia", "Pacific/Auckland", "Africa/Casablanca", "Antarctica/Troll",
})  # fmt: skip
moments = st.integers(0, 2_200_000_000 * SECOND)


def label(unix_nano: int, zone: dt.tzinfo, name: str) -> str:
    """The label as `datetime` says it, without any arithmetic of ours."""
    local = dt.datetime.fromtimestamp(unix_nano // SECOND, dt.UTC).astimezone(zone)
    return local.date().isoformat() if name == "day" else local.replace(minute=0, second=0).isoformat(timespec="minutes")


@settings(max_examples=200, deadline=None)
@given(moments, st.sampled_from(ZONES), st.sampled_from(["day", "hour"]))
def test_a_stretch_ends_where_the_label_changes(unix_nano: int, zone_name: str, name: str) -> None:
    """Up to the last nanosecond the calendar says the same, and at the end it says something else."""
    zone = zoneinfo.ZoneInfo(zone_name)
    found = {"day": day, "hour": hour}[name](unix_nano, zone)
    assert unix_nano < found.end_unix_nano
    assert found.label == label(unix_nano, zone, name) == label(found.end_unix_nano - 1, zone, name)
    assert label(found.end_unix_nano, zone, name) != found.label
    middle = (unix_nano + found.end_unix_nano) // 2
    assert label(middle, zone, name) == found.label


@pytest.mark.parametrize(
    ("date", "zone", "hours"),
    [
        ("2026-03-29", "Europe/Berlin", 23),
        ("2026-10-25", "Europe/Berlin", 25),
        ("2026-11-25", "Europe/Berlin", 24),
        ("2026-10-04", "Australia/Lord_Howe", 23.5),
        ("2018-11-04", "America/Sao_Paulo", 23),  # clocks left midnight out
        ("2018-02-17", "America/Sao_Paulo", 25),  # and came back to the day before at midnight
    ],
)
def test_days_with_another_number_of_hours(date: str, zone: str, hours: float) -> None:
    """Where clocks are moved, a day is as long as it was, and its hours are its parts."""
    where = zoneinfo.ZoneInfo(zone)
    begin = parse_moment(date, where)
    end = day(begin, where).end_unix_nano
    assert (end - begin) / (3_600 * SECOND) == hours
    at, labels = begin, []
    while at < end:
        found = hour(at, where)
        labels.append(found.label)
        at = found.end_unix_nano
    assert at == end, "no hour is cut by midnight"
    assert len(set(labels)) == len(labels)
    assert labels == sorted(labels, key=in_order)


def test_a_day_that_never_was() -> None:
    """Samoa went from 29 to 31 December 2011: the day between holds nothing, and the day before ends where the next begins."""
    zone = zoneinfo.ZoneInfo("Pacific/Apia")
    last = parse_moment("2011-12-29T12:00:00-10:00", zone)
    end = day(last, zone).end_unix_nano
    assert day(end, zone).label == "2011-12-31"
