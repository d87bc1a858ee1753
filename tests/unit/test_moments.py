"""Moments as people write them, and back."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

import pytest

from receiver.core.moments import parse_moment, rfc3339
from receiver.errors import InvalidValue

SECOND = 10**9
ZURICH = ZoneInfo("Europe/Zurich")


@pytest.mark.parametrize(
    ("text", "zone", "moment"),
    [
        ("1970-01-01", dt.UTC, 0),
        ("2026-03-01", dt.UTC, 1_772_323_200 * SECOND),
        ("2026-03-01", ZURICH, (1_772_323_200 - 3_600) * SECOND),
        ("2026-07-01", ZURICH, (1_782_864_000 - 7_200) * SECOND),  # summer time
        ("2026-03-01T09:30", ZURICH, (1_772_323_200 + 8 * 3_600 + 1_800) * SECOND),
        ("2026-03-01T09:30:00Z", ZURICH, (1_772_323_200 + 9 * 3_600 + 1_800) * SECOND),
        ("2026-03-01 09:30:00.25z", dt.UTC, (1_772_323_200 + 9 * 3_600 + 1_800) * SECOND + SECOND // 4),
        ("2026-03-01T09:30:00+01:00", dt.UTC, (1_772_323_200 + 8 * 3_600 + 1_800) * SECOND),
        ("2026-03-01T09:30:00 01:00", dt.UTC, (1_772_323_200 + 8 * 3_600 + 1_800) * SECOND),  # a `+` that became a blank in a query
        ("1970-01-01", ZoneInfo("Asia/Tokyo"), 0),  # a moment before 1970
    ],
)
def test_a_moment_is_read(text: str, zone: dt.tzinfo, moment: int) -> None:
    """A day is its midnight in the zone; a time with an offset is what it says, one without is in the zone."""
    assert parse_moment(text, zone) == moment


@pytest.mark.parametrize(
    "text",
    ["", "yesterday", "2026-02-30", "2026-13-01", "20260301", "2026-W09", "2026-03-01T25:00", "2026-03-01T09", "1969-12-31",
     "2262-01-01", "2026-03-01Z", "٢٠٢٦-03-01", "2026-03-01T09:30:00+25:00"],
)  # fmt: skip
def test_what_is_no_moment_is_refused(text: str) -> None:
    """Nothing is guessed: what is not of the two forms, or not on the calendar, is refused with an example."""
    with pytest.raises(InvalidValue, match="2026-03-01"):
        parse_moment(text, dt.UTC)


@pytest.mark.parametrize(
    ("unix_nano", "text"),
    [(0, "1970-01-01T00:00:00Z"), (1_772_323_200 * SECOND, "2026-03-01T00:00:00Z"), (1_500_000_999, "1970-01-01T00:00:01.500000Z")],
)
def test_a_moment_is_written(unix_nano: int, text: str) -> None:
    """RFC 3339 in UTC, with a fraction only where there is one; what is written is read back to the microsecond."""
    assert rfc3339(unix_nano) == text
    assert parse_moment(text, ZURICH) == unix_nano // 1_000 * 1_000
