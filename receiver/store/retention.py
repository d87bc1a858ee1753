"""Old single charges become daily sums, in slices that a request hardly notices.

A slice is one transaction: what it adds to `daily` and what it takes from `charges` are the same calls, so a crash at any instant
finds each of them in exactly one of the two. What the metrics' snapshot does not hold yet stays single, for a start adds it up.

A call that is charged again after its charge was rolled up (its spans were sent once more, long after the horizon) is no longer
recognised as charged before: `recount` says 0. It counts as any resend after the horizon does.
"""

from __future__ import annotations

from typing import Final

import apsw

from receiver.core.money import PUSD_PER_USD
from receiver.store.sums import AMOUNTS, DAY_NANO, KEPT, MOMENT, TOKENS, UNPRICED_REASON, amount_sums
from receiver.store.writer import Writer

#: Rows of one transaction. The index on trace ids has random keys: each row touches a page of its own, some 2 MB of log in all.
SLICE_ROWS: Final = 500

_DAYS: Final = f"{MOMENT} / {DAY_NANO}"
_AMOUNTS: Final = tuple(f"{name}_{part}" for _, name in AMOUNTS for part in ("usd", "rest_pusd"))
_OLDEST: Final = (
    f"SELECT id FROM charges WHERE {MOMENT} < ?1 AND close_seq <= (SELECT value FROM marks WHERE name = 'snapshot_seq')"  # noqa: S608 -- names of our own
    f" ORDER BY {MOMENT}, id LIMIT {SLICE_ROWS}"
)


def _normal(sums: tuple[str, ...]) -> tuple[str, ...]:
    """Pairs of (whole USD, rest) with the rest below one USD."""
    pairs = zip(sums[::2], sums[1::2], strict=True)
    return tuple(part for usd, rest in pairs for part in (f"{usd} + {rest} / {PUSD_PER_USD}", f"{rest} % {PUSD_PER_USD}"))


#: The conflict's target is the index `daily_by_key`, word for word.
_KEY: Final = ", ".join(
    ("day", "account", *(f"ifnull({name}, x'')" for name in KEPT if name != "account"), "ifnull(unpriced_reason, x'')", "doubts")
)
_ADD: Final = (
    f"INSERT INTO daily (day, {', '.join(KEPT)}, unpriced_reason, doubts, calls, {', '.join(_AMOUNTS)}, {', '.join(TOKENS)})"  # noqa: S608 -- names of our own
    f" SELECT {_DAYS} AS day_, {', '.join(KEPT)}, {UNPRICED_REASON} AS reason_, doubts, count(*),"
    f" {', '.join(_normal(amount_sums(tuple(column for column, _ in AMOUNTS))))}, {', '.join(f'sum({column})' for column in TOKENS)}"
    f" FROM charges WHERE id IN ({_OLDEST}) GROUP BY day_, {', '.join(KEPT)}, reason_, doubts"
    f" ON CONFLICT ({_KEY}) DO UPDATE SET calls = calls + excluded.calls, "
    + ", ".join(
        f"{name}_usd = {name}_usd + excluded.{name}_usd + ({name}_rest_pusd + excluded.{name}_rest_pusd) / {PUSD_PER_USD},"
        f" {name}_rest_pusd = ({name}_rest_pusd + excluded.{name}_rest_pusd) % {PUSD_PER_USD}"
        for _, name in AMOUNTS
    )
    + ", "
    + ", ".join(f"{column} = {column} + excluded.{column}" for column in TOKENS)
)
_TAKE: Final = f"DELETE FROM charges WHERE id IN ({_OLDEST})"  # noqa: S608 -- names of our own

_OLDEST_MISSING: Final = f"SELECT id FROM missing WHERE start_unix_nano < ?1 ORDER BY start_unix_nano, id LIMIT {SLICE_ROWS}"  # noqa: S608 -- names of our own
_ADD_MISSING: Final = (
    f"INSERT INTO daily_missing SELECT start_unix_nano / {DAY_NANO}, account, reason, count(*)"  # noqa: S608 -- names of our own
    f" FROM missing WHERE id IN ({_OLDEST_MISSING}) GROUP BY 1, 2, 3"
    " ON CONFLICT (day, account, reason) DO UPDATE SET spans = spans + excluded.spans"
)
_TAKE_MISSING: Final = f"DELETE FROM missing WHERE id IN ({_OLDEST_MISSING})"  # noqa: S608 -- names of our own

_TAKE_CUMULATIVE: Final = (
    f"DELETE FROM cumulative WHERE key IN (SELECT key FROM cumulative WHERE updated_unix_nano < ?1 LIMIT {SLICE_ROWS})"  # noqa: S608 -- a number of our own
)


class SqliteRetention:
    """Each act is one slice on the writer's thread and says how many rows it moved; 0: nothing is left to do.

    All raise StoreFull, StoreBroken, and then nothing of the slice was done.
    """

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def roll_up(self, *, before_unix_nano: int) -> int:
        """Charges of whole UTC days before this moment, oldest first."""
        day = before_unix_nano // DAY_NANO * DAY_NANO
        moved: int = await self._writer.call(lambda connection: roll_up(connection, before_unix_nano=day))
        return moved

    async def roll_up_missing(self, *, before_unix_nano: int) -> int:
        """Missing calls of whole UTC days before this moment."""
        day = before_unix_nano // DAY_NANO * DAY_NANO
        moved: int = await self._writer.call(lambda connection: _moved(connection, _ADD_MISSING, _TAKE_MISSING, day))
        return moved

    async def drop_cumulative(self, *, before_unix_nano: int) -> int:
        """Last values of sources that said nothing since: should one come again, it is counted whole, as a new one is."""
        dropped: int = await self._writer.call(lambda connection: _changed(connection, _TAKE_CUMULATIVE, before_unix_nano))
        return dropped


def roll_up(connection: apsw.Connection, *, before_unix_nano: int) -> int:
    """One slice. Call it in a transaction, with a moment at which a UTC day begins."""
    assert before_unix_nano % DAY_NANO == 0
    return _moved(connection, _ADD, _TAKE, before_unix_nano)


def _moved(connection: apsw.Connection, add: str, take: str, before_unix_nano: int) -> int:
    connection.execute(add, (before_unix_nano,))
    return _changed(connection, take, before_unix_nano)


def _changed(connection: apsw.Connection, query: str, before_unix_nano: int) -> int:
    before = connection.total_changes()
    connection.execute(query, (before_unix_nano,))
    return connection.total_changes() - before
