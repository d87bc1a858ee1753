"""Days and hours as people live them: stretches of a time zone, of which a day may have 23 or 25 hours.

A moment is nanoseconds since 1970 UTC, a stretch is half-open. The zone is handed in; nothing here looks one up or reads a clock.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Final, NamedTuple

_NANO: Final = 10**9
_HOUR_SECONDS: Final = 3_600
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

#: Last moment that the books can hold: SQLite's integers have 63 bits (in the year 2262).
LAST_UNIX_NANO: Final = (1 << 63) - 1


class Stretch(NamedTuple):
    """A day or an hour."""

    label: str  #: "2026-11-25", "2026-11-25T14:00+01:00"; see `in_order`
    end_unix_nano: int  #: the first moment that is not in it any more


StretchOf = Callable[[int, tzinfo], Stretch]


def day(unix_nano: int, zone: tzinfo) -> Stretch:
    """The day of a moment."""
    local = _local(unix_nano // _NANO, zone)
    return Stretch(local.date().isoformat(), _midnight(local.date() + timedelta(days=1), zone))


def hour(unix_nano: int, zone: tzinfo) -> Stretch:
    """The hour of a moment, with its offset from UTC, which tells the two hours apart that a clock shows twice."""
    seconds = unix_nano // _NANO
    local = _local(seconds, zone)
    end = seconds + _HOUR_SECONDS - local.minute * 60 - local.second
    offset = local.utcoffset()
    if _local(end - 1, zone).utcoffset() != offset:  # some zones move their clocks by half an hour, or at half past
        end = _change(seconds, end, zone)
    return Stretch(f"{local:%Y-%m-%dT%H}:00{local.replace(microsecond=0).isoformat()[19:]}", end * _NANO)


def in_order(label: str) -> datetime:
    """What labels of one kind and zone are sorted by: as texts the two hours that a clock shows twice would change places."""
    return datetime.fromisoformat(label)


def _local(seconds: int, zone: tzinfo) -> datetime:
    return (_EPOCH + timedelta(seconds=seconds)).astimezone(zone)


def _seconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(seconds=1)


def _midnight(of: date, zone: tzinfo) -> int:
    """When a day begins; where clocks leave midnight out, at the moment of the leap."""
    return _seconds(datetime(of.year, of.month, of.day, tzinfo=zone).astimezone(UTC)) * _NANO


def _change(low: int, high: int, zone: tzinfo) -> int:
    """The first second after `low` at which the zone has another offset than at `low`; there is one before `high`."""
    offset = _local(low, zone).utcoffset()
    while high - low > 1:
        middle = (low + high) // 2
        if _local(middle, zone).utcoffset() == offset:
            low = middle
        else:
            high = middle
    return high
