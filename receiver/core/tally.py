"""The exact answer from the books: what calls came to, key by key ("spantoll.costs/1").

The rows, the rest and the totals are the same calls: their counts, tokens and costs are equal to the last pico-USD, for all of them are
integers until they are shown. A key that nobody named is null; a call without a price adds to `unpriced_calls` and to no cost.

Which stretch a call belongs to: that of its start, as its price; where its start was not believable and it was priced at receive time,
that of its close. What was rolled up stands at noon UTC of its day.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, tzinfo
from itertools import islice
from typing import Any, Final

from receiver.core.attribution import DIMENSIONS
from receiver.core.intervals import LAST_UNIX_NANO, StretchOf, day, hour, in_order
from receiver.core.moments import rfc3339
from receiver.core.money import divide_half_even, format_usd
from receiver.core.report import DOUBT_SENTENCES, SHARE_DECIMALS
from receiver.errors import InvalidValue

SCHEMA: Final = "spantoll.costs/1"

#: Parts of a stretch of time, coarse first.
TIMES: Final[dict[str, StretchOf]] = {"day": day, "hour": hour}
#: What a report can be broken down by.
BY: Final = ("account", *DIMENSIONS, *TIMES)
#: Dimensions that a roll-up does not keep.
NOT_ROLLED_UP: Final = ("user", "session")

#: Rows of one answer: 10,000 are 5 MB of JSON. What is beyond is one row, `rest`, so the sums stay whole.
MAX_ROWS: Final = 10_000
#: Distinct keys that are added up in memory at once (0.6 KB each).
MAX_KEYS: Final = 250_000

#: Rows that are sorted in one go: a few milliseconds.
SORTED_ROWS: Final = 1_000

Key = tuple[str | None, ...]  #: a value for each of `by`
Row = tuple[Key, list[int]]

#: The numbers of some calls, in this order. Input is uncached + cache_read + cache_write.
NUMBERS: Final = (
    "calls", "unpriced_calls", "doubtful_calls", "rolled_up_calls",
    "cost_pusd", "cache_savings_pusd", "cache_premium_pusd",
    "uncached", "cache_read", "cache_write", "output", "reasoning",
)  # fmt: skip
_CALLS, _UNPRICED, _DOUBTFUL, _ROLLED_UP, _COST, _SAVINGS, _PREMIUM, _UNCACHED, _READ, _WRITE, _OUTPUT, _REASONING = range(len(NUMBERS))


class TooManyKeys(InvalidValue):
    """More keys than a report can hold."""

    def __init__(self) -> None:
        super().__init__(f"the report has more than {MAX_KEYS:,} keys: ask for a shorter stretch of time, or for fewer dimensions")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked of the books."""

    by: tuple[str, ...]  #: of BY, each once
    since_unix_nano: int | None = None
    until_unix_nano: int | None = None  #: not in it any more
    zone: tzinfo = UTC  #: whose days and hours
    zone_name: str = "UTC"
    account: str | None = None  #: None: all
    top: int = MAX_ROWS  #: rows, the dearest; the others are added up in `rest`

    def __post_init__(self) -> None:
        """Raises InvalidValue."""
        for name in self.by:
            if name not in BY:
                raise InvalidValue(f"{name!r} is nothing to break a report down by: choose from {', '.join(BY)}")
        if len(set(self.by)) != len(self.by):
            raise InvalidValue("each dimension of a report is named once")
        if not 1 <= self.top <= MAX_ROWS:
            raise InvalidValue(f"top must be a number from 1 to {MAX_ROWS}")
        since, until = self.since_unix_nano, self.until_unix_nano
        if any(moment is not None and moment > LAST_UNIX_NANO for moment in (since, until)):
            raise InvalidValue("since and until must be moments before the year 2262")
        if since is not None and until is not None and since >= until:
            raise InvalidValue(f"since ({rfc3339(since)}) must be before until ({rfc3339(until)}), which is not in the report any more")

    @property
    def columns(self) -> tuple[str, ...]:
        """Those of `by` that are columns of the books."""
        return tuple(name for name in self.by if name not in TIMES)

    @property
    def first(self) -> int:
        """The first moment that is in it."""
        return max(0, self.since_unix_nano or 0)

    @property
    def last(self) -> int:
        """The last one."""
        return LAST_UNIX_NANO if self.until_unix_nano is None else min(LAST_UNIX_NANO, self.until_unix_nano - 1)

    def stretch(self, unix_nano: int) -> tuple[tuple[str, ...], int]:
        """The labels of its times at a moment, and the last moment up to which they stay the same."""
        found = [TIMES[name](unix_nano, self.zone) for name in self.by if name in TIMES]
        return tuple(one.label for one in found), min([self.last, *(one.end_unix_nano - 1 for one in found)])

    def key(self, values: Sequence[str | None], labels: Sequence[str]) -> Key:
        """The key of a row, from the values of `columns` and the labels of a stretch, each in order."""
        if not labels:
            return tuple(values)
        columns, times = iter(values), iter(labels)
        return tuple(next(times) if name in TIMES else next(columns) for name in self.by)


class Tally:
    """Adds up. Not more than MAX_KEYS keys."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.sums: dict[Key, list[int]] = {}
        self.totals = [0] * len(NUMBERS)
        self.unpriced: Counter[str] = Counter()  #: calls by reason
        self.doubts: Counter[str] = Counter()
        self.missing: Counter[str] = Counter()  #: spans by reason

    def add(self, key: Key, numbers: Sequence[int], *, unpriced_reason: str, doubts: str) -> None:
        """Some calls of one key that have all these doubts (separated by blanks), and all of them a price or none of them."""
        calls = numbers[_CALLS]
        known = self.sums.get(key)
        if known is None:
            if len(self.sums) >= MAX_KEYS:
                raise TooManyKeys
            self.sums[key] = list(numbers)
        else:
            for place, number in enumerate(numbers):
                known[place] += number
        for place, number in enumerate(numbers):
            self.totals[place] += number
        if numbers[_UNPRICED]:
            self.unpriced[unpriced_reason] += calls
        for doubt in doubts.split():
            self.doubts[doubt] += calls

    def as_json(self) -> dict[str, Any]:
        """The report."""
        question, totals = self.question, self.totals
        rows, rest = self._rows()
        since, until = question.since_unix_nano, question.until_unix_nano
        return {
            "schema": SCHEMA,
            "by": list(question.by),
            "since": None if since is None else rfc3339(since),
            "until": None if until is None else rfc3339(until),
            "tz": question.zone_name,
            "account": question.account,
            "totals": {
                **_shown(totals, totals[_COST]),
                "unpriced_reasons": dict(sorted(self.unpriced.items())),
                "doubts": dict(sorted(self.doubts.items())),
                "missing": dict(sorted(self.missing.items())),
            },
            "rows": [{"key": dict(zip(question.by, key, strict=True)), **_shown(numbers, totals[_COST])} for key, numbers in rows],
            "rest": rest,
            "notes": self._notes(),
        }

    def drop(self) -> None:
        """Let go of the keys one by one: to free a quarter of a million in one go would hold the interpreter for a tenth of a second."""
        while self.sums:
            self.sums.popitem()

    def _rows(self) -> tuple[list[Row], dict[str, Any] | None]:
        """The rows in order, and what the others come to."""
        top = list(islice(_sorted(list(self.sums.items()), _by_cost), self.question.top))
        rest = None
        if len(top) < len(self.sums):
            left = list(self.totals)
            for _, numbers in top:
                for place, number in enumerate(numbers):
                    left[place] -= number
            rest = {"keys": len(self.sums) - len(top), **_shown(left, self.totals[_COST])}
        times = [place for place, name in enumerate(self.question.by) if name in TIMES]
        if times:  # time goes on from line to line; within a stretch the dearest comes first, for what is equal keeps its order
            top = list(_sorted(top, lambda row: [in_order(str(row[0][place])) for place in times]))
        return top, rest

    def _notes(self) -> list[str]:
        totals, by = self.totals, self.question.by
        notes = []
        if totals[_UNPRICED]:
            notes.append(f"{totals[_UNPRICED]:,} call(s) have no price and are in no cost: what they cost is unknown, not 0")
        if self.missing:
            notes.append(f"{sum(self.missing.values()):,} span(s) show a loss (see `missing`): what they cost is not in this report")
        if totals[_ROLLED_UP]:
            lost = [name for name in NOT_ROLLED_UP if name in by]
            notes.append(
                f"{totals[_ROLLED_UP]:,} call(s) are rolled up to sums of UTC days, each of which stands at its noon UTC"
                + (f"; they have no {' and no '.join(lost)} any more, and stand under null" if lost else "")
            )
        notes += [
            f"{doubt} ({calls:,} call(s)): {DOUBT_SENTENCES.get(doubt, 'no sentence')}" for doubt, calls in sorted(self.doubts.items())
        ]
        return notes


def _sorted(rows: list[Row], key: Callable[[Row], Any]) -> Iterator[Row]:
    """In order, sorted by parts: one `sort` of a hundred thousand rows would not let go of the interpreter for a tenth of a second."""
    return heapq.merge(*[sorted(rows[at : at + SORTED_ROWS], key=key) for at in range(0, len(rows), SORTED_ROWS)], key=key)


def _by_cost(row: Row) -> tuple[Any, ...]:
    """The dearest first, then who calls most, then by name, nobody last: equal books give equal answers."""
    key, numbers = row
    return -numbers[_COST], -numbers[_CALLS], [(value is None, value or "") for value in key]


def _shown(numbers: Sequence[int], whole_pusd: int) -> dict[str, Any]:
    calls, unpriced, cost = numbers[_CALLS], numbers[_UNPRICED], numbers[_COST]
    priced = calls - unpriced
    average = divide_half_even(cost, priced) if priced else None
    return {
        "calls": calls,
        "priced_calls": priced,
        "unpriced_calls": unpriced,
        "doubtful_calls": numbers[_DOUBTFUL],
        "rolled_up_calls": numbers[_ROLLED_UP],
        "cost_pusd": cost,
        "cost_usd": None if calls and not priced else format_usd(cost),
        "average_pusd": average,  #: of the calls that have a price
        "average_usd": None if average is None else format_usd(average),
        "share": round(cost / whole_pusd, SHARE_DECIMALS) if whole_pusd else 0.0,
        "input_tokens": numbers[_UNCACHED] + numbers[_READ] + numbers[_WRITE],
        "uncached_input_tokens": numbers[_UNCACHED],
        "cache_read_tokens": numbers[_READ],
        "cache_write_tokens": numbers[_WRITE],
        "output_tokens": numbers[_OUTPUT],
        "reasoning_tokens": numbers[_REASONING],
        "cache_savings_pusd": numbers[_SAVINGS],
        "cache_premium_pusd": numbers[_PREMIUM],
    }


def parse_by(names: Iterable[str]) -> tuple[str, ...]:
    """Names that may each be a list with commas, in order, each once."""
    found = [part.strip() for name in names for part in name.split(",")]
    return tuple(dict.fromkeys(part for part in found if part))
