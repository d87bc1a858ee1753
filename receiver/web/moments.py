"""`since`, `until` and `tz` of a query, the same in every route that has them."""

from __future__ import annotations

import datetime as dt
import zoneinfo

from receiver.core.moments import parse_moment
from receiver.errors import InvalidValue
from receiver.web.request import Request


def span_of(request: Request, *, since_unix_nano: int, until_unix_nano: int) -> tuple[int, int]:
    """[since, until) of the query in nanoseconds since 1970; the arguments stand where the query has none.

    Raises:
        InvalidValue: one is no moment, the time zone is unknown, or `until` is before `since`.
    """
    zone = zone_of(request)
    since, until = request.query("since"), request.query("until")
    since_unix_nano = parse_moment(since, zone) if since else since_unix_nano
    until_unix_nano = parse_moment(until, zone) if until else until_unix_nano
    if until_unix_nano < since_unix_nano:
        raise InvalidValue("until is before since, so nothing can lie between them")
    return since_unix_nano, until_unix_nano


def zone_of(request: Request) -> dt.tzinfo:
    """The time zone of the query's `tz` (an IANA name), UTC where it has none. Raises InvalidValue."""
    name = request.query("tz") or "UTC"
    if name == "UTC":
        return dt.UTC
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidValue(f"{name[:64]!r} is no time zone: write an IANA name such as Europe/Zurich") from error
