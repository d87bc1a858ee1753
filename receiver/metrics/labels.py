"""Label values: clean, short, and not too many of them.

Values come from clients, so every table of series is bounded three times: values of a label per account, series per account,
series in all. What goes over a bound is added to a series of the same account that says `__overflow__` in that place: the sums
stay exact, and no account can push out another's series. Nothing is ever evicted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

UNKNOWN: Final = "unknown"  #: no span says it
OVERFLOW: Final = "__overflow__"
MAX_VALUE_BYTES: Final = 128  #: of UTF-8: longer names are cut (names are tens of bytes; a scrape carries each value in every series)

#: One label may take this part of an account's series, so that a label that explodes leaves the others readable.
_LABEL_SHARE: Final = 4

#: Control characters, line and paragraph separators, surrogates and private noncharacters: they break terminals, pages or UTF-8.
_UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]+")

Row = list[int]
Raw = tuple[str | None, ...]
Labels = tuple[str, ...]


def label_value(raw: str | None) -> str:
    """A value as a label shows it. The renderer escapes quotes, backslashes and newlines; here goes what nobody can read."""
    if raw is None:
        return UNKNOWN
    text = _UNPRINTABLE.sub(" ", raw).strip()
    if len(text) * 4 > MAX_VALUE_BYTES:
        encoded = text.encode()
        if len(encoded) > MAX_VALUE_BYTES:
            text = encoded[: MAX_VALUE_BYTES - 3].decode(errors="ignore") + "…"  # the ellipsis is 3 bytes
    return text or UNKNOWN


class Values:
    """At most `most` values of one label; further ones are `__overflow__`. For labels of families that have no account."""

    def __init__(self, label: str, *, most: int, overflowed: Callable[[str], None]) -> None:
        self._label = label
        self._most = most
        self._overflowed = overflowed
        self._known: set[str] = set()

    def of(self, raw: str | None) -> str:
        """The value, or `__overflow__`."""
        if raw in self._known:
            return raw
        value = label_value(raw)
        if value not in self._known:
            if len(self._known) >= self._most:
                self._overflowed(self._label)
                return OVERFLOW
            self._known.add(value)
        return value


class Series:
    """Rows of integers by label values, the first of which is the account."""

    def __init__(
        self,
        labels: tuple[str, ...],
        *,
        width: int,
        fixed: frozenset[str],
        most_per_account: int,
        most: int,
        overflowed: Callable[[str], None],
        own_limit: Callable[[str], int | None] = lambda _: None,
    ) -> None:
        """An empty table.

        Args:
            labels: names, the account's first.
            width: integers in a row, at first 0; a last one is added for the time of birth.
            fixed: labels of which the values are ours, never folded.
            most_per_account: series of one account.
            most: series in all.
            overflowed: told the label of each value that was folded.
            own_limit: series of an account that has a limit of its own, None for one that has none.

        """
        self.rows: dict[Raw, Row] = {}  #: by values as they came; several may lead to one row. A memory only: see `series`
        self.series: dict[Labels, Row] = {}
        self._labels = labels
        self._width = width
        self._foldable = tuple(at for at, label in enumerate(labels) if at and label not in fixed)
        self._most_per_account = most_per_account
        self._own_limit = own_limit
        self._most = most
        self._overflowed = overflowed
        self._accounts: dict[str, int] = {}  #: account -> its series
        self._values: dict[tuple[str, int], set[str]] = {}  #: (account, place) -> values

    def row(self, raw: Raw, *, now_unix_nano: int) -> Row:
        """The row for these values, made if need be; call when `rows` has none. Its last integer is its time of birth."""
        labels = list(map(label_value, raw))
        account = labels[0]
        if account not in self._accounts:
            if len(self._accounts) >= self._most:  # as many accounts as series: not even one each is left
                account = labels[0] = OVERFLOW
            self._accounts.setdefault(account, 0)
        self._cap_values(account, labels)
        row = self.series.get(tuple(labels))
        if row is None:
            row = self._add(account, labels, now_unix_nano)
        if len(self.rows) >= 4 * self._most:
            self.rows.clear()
        self.rows[raw] = row
        return row

    def restore(self, labels: dict[str, str], numbers: tuple[int, ...], created_unix_nano: int) -> None:
        """A row of an earlier process. Labels that are new since are unknown in it, rows that differed in one that is gone are added up."""
        if len(numbers) != self._width:
            return  # a histogram with other buckets: it begins anew
        values = tuple(labels.get(label, UNKNOWN) for label in self._labels)
        row = self.series.get(values)
        if row is None:
            account = values[0]
            self.series[values] = [*numbers, created_unix_nano]
            self._accounts[account] = self._accounts.get(account, 0) + 1
            for at in self._foldable:
                if values[at] != OVERFLOW:
                    self._values.setdefault((account, at), set()).add(values[at])
            return
        for at, number in enumerate(numbers):
            row[at] += number
        row[-1] = min(row[-1], created_unix_nano)

    def named(self, labels: Labels) -> tuple[tuple[str, str], ...]:
        """Label values with their names."""
        return tuple(zip(self._labels, labels, strict=True))

    def rename(self, label: str, values: Mapping[str, str], *, account: str | None = None) -> int:
        """Put other values in the place of some, in the series of one account or of all; returns how many series. No two become one."""
        at = self._labels.index(label)
        found = [key for key in self.series if key[at] in values and account in (None, key[0])]
        for key in found:
            new = (*key[:at], values[key[at]], *key[at + 1 :])
            assert new not in self.series
            self.series[new] = self.series.pop(key)
            known = self._values.setdefault((key[0], at), set())
            known.discard(key[at])
            known.add(new[at])
        if found:
            self.rows.clear()
        return len(found)

    def _most_of(self, account: str) -> int:
        own = self._own_limit(account)
        return self._most_per_account if own is None else own

    def _cap_values(self, account: str, labels: list[str]) -> None:
        most_values = max(1, self._most_of(account) // _LABEL_SHARE)
        for at in self._foldable:
            known = self._values.setdefault((account, at), set())
            if labels[at] not in known:
                if len(known) >= most_values:
                    self._fold(labels, at)
                else:
                    known.add(labels[at])

    def _add(self, account: str, labels: list[str], now_unix_nano: int) -> Row:
        """A new row, or, where there is no room, the least coarse one that exists, at last the account's own overflow."""
        if self._accounts[account] >= self._most_of(account) or len(self.series) >= self._most:
            for at in sorted(self._foldable, key=lambda place: -len(self._values[account, place])):  # the label that explodes goes first
                self._fold(labels, at)
                row = self.series.get(tuple(labels))
                if row is not None:
                    return row
        row = self.series[tuple(labels)] = [*[0] * self._width, now_unix_nano]
        self._accounts[account] += 1
        return row

    def _fold(self, labels: list[str], at: int) -> None:
        if labels[at] != OVERFLOW:
            labels[at] = OVERFLOW
            self._overflowed(self._labels[at])
