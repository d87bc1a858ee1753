"""Moments as people and other programs write them: RFC 3339, or a day.

Inside, a moment is nanoseconds since 1970 in UTC; only what is shown or typed passes through here.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Final

from receiver.errors import InvalidValue

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
#: A day, or a day and a time. A blank stands where a `+` was in a query that nobody percent-encoded.
_MOMENT: Final = re.compile(r"(\d{4}-\d\d-\d\d)(?:[Tt ](\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?)([Zz]|[+ -]\d\d:\d\d)?)?", re.ASCII)
#: Years whose nanoseconds fit 64 bits.
_FIRST_YEAR: Final = 1970
_LAST_YEAR: Final = 2261


def rfc3339(unix_nano: int) -> str:
    """`2026-03-01T09:30:00Z`, to the microsecond where it has a fraction."""
    return (_EPOCH + dt.timedelta(microseconds=unix_nano // 1_000)).isoformat().replace("+00:00", "Z")


def parse_moment(text: str, zone: dt.tzinfo) -> int:
    """The moment in nanoseconds since 1970: RFC 3339, or `YYYY-MM-DD`, which is that day's midnight in `zone`.

    A time without an offset is one in `zone`.

    Raises:
        InvalidValue: it is neither, or not between 1970 and 2261.
    """
    found = _MOMENT.fullmatch(text.strip())
    if found is not None:
        day, time, offset = found.groups()
        stated = {None: "", "z": "+00:00", "Z": "+00:00"}.get(offset, str(offset).replace(" ", "+"))
        try:
            moment = dt.datetime.fromisoformat(f"{day}T{time or '00:00'}{stated}")
            if _FIRST_YEAR <= moment.year <= _LAST_YEAR:
                moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)
                return max(0, (moment - _EPOCH) // dt.timedelta(microseconds=1) * 1_000)
        except ValueError:
            pass
    raise InvalidValue(
        f"{text[:64]!r} is no moment between {_FIRST_YEAR} and {_LAST_YEAR}: write 2026-03-01 or, as RFC 3339, 2026-03-01T09:30:00Z"
    )
