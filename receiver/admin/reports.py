"""Who spent what, from the books; how long the books keep it of whom; and taking somebody out of them."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Any, Final, Protocol

from receiver.clock import Clock
from receiver.config import Privacy as Settings
from receiver.core.moments import rfc3339
from receiver.core.privacy import Forgotten, Privacy
from receiver.core.tally import MAX_ROWS, Question, Tally
from receiver.errors import InvalidValue, Overloaded
from receiver.metrics.labels import label_value
from receiver.store.fold import UsageFold
from receiver.store.forget import SqliteForget, kept
from receiver.store.reports import SqliteReports
from receiver.store.retention import SLICE_ROWS, SqliteRetention
from receiver.store.writer import Writer

log = logging.getLogger(__name__)

_NANO: Final = 10**9
#: How often old rows are looked for: a day's charges fall due at once, at midnight UTC, and nobody waits for them.
ROUND_SECONDS: Final = 600.0
#: Between two slices, so that the writer belongs to requests nine tenths of the time.
PAUSE_SECONDS: Final = 0.05
#: A running total that nobody continued for so long is a source that is gone.
CUMULATIVE_SECONDS: Final = 30 * 86_400.0
#: Single debits are kept so long beyond their UTC day, for clocks that are set back; then the day's are one line of the statement.
USAGE_SECONDS: Final = 86_400.0
#: A start that adds up a million spans takes some ten seconds.
STARTING_RETRY_SECONDS: Final = 5.0
#: A name longer than this is none; spans' attributes are cut well below.
MAX_USER: Final = 4_096
JOURNAL_NOTE: Final = (
    "accepted spans stay in the journal as they came until their traces are closed and beyond window.seen_horizon, by `journal_until`"
    " for those that are not continued; calls in them that are closed later name nobody"
)


class Shown(Protocol):
    """The metrics of a running daemon."""

    def forget(self, dimension: str, values: Mapping[str, str], *, account: str | None = None) -> int:
        """Show other values in place of these; returns in how many series."""


class ReportOffice:
    """One for a process that has the books open."""

    def __init__(
        self,
        path: Path,
        *,
        writer: Writer,
        reports: SqliteReports,
        privacy: Privacy,
        settings: Settings,
        journal_keeps: float,
        clock: Clock,
    ) -> None:
        """Open the office, before anything is closed: who was forgotten is read back here.

        Args:
            path: of the database.
            writer: the one that writes it.
            reports: who reads it.
            privacy: what charges pass through on their way into it.
            settings: the section `privacy`.
            journal_keeps: seconds for which spans may be open or within the horizon (`window.decision_wait` + `window.seen_horizon`).
            clock: the wall clock counts.

        Raises:
            StoreFull, StoreBroken: the disk.

        """
        self._reports = reports
        self._retention = SqliteRetention(writer)
        self._fold_usage = UsageFold(writer)
        self._forget = SqliteForget(path, writer)
        self._privacy = privacy
        self._settings = settings
        self._journal_keeps_nano = round(journal_keeps * _NANO)
        self._clock = clock
        self._metrics: Shown | None = None
        self._snapshot: Callable[[], Awaitable[None]] | None = None
        self._whole: Callable[[], bool] = lambda: True
        for one in kept(path):
            privacy.forget(one)

    def show(self, metrics: Shown, snapshot: Callable[[], Awaitable[None]], whole: Callable[[], bool] = lambda: True) -> None:
        """There are metrics, which name users too, and `snapshot` writes them down; not before they are `whole`."""
        self._metrics, self._snapshot, self._whole = metrics, snapshot, whole

    # -- what operators and customers ask -------------------------------------------------------------------------------

    async def report(
        self,
        *,
        by: Sequence[str],
        since_unix_nano: int | None = None,
        until_unix_nano: int | None = None,
        zone: tzinfo = UTC,
        zone_name: str = "UTC",
        account: str | None = None,
        top: int = MAX_ROWS,
    ) -> dict[str, Any]:
        """The report ("spantoll.costs/1"): see `core.tally`. With `account` only what is that account's.

        Raises:
            InvalidValue: no such question, or too wide a one.
            Overloaded: others are asking, or the disk is full.

        """
        question = Question(
            by=tuple(by),
            since_unix_nano=since_unix_nano,
            until_unix_nano=until_unix_nano,
            zone=zone,
            zone_name=zone_name,
            account=account,
            top=top,
        )
        tally = await self._reports.tally(question)
        return await asyncio.to_thread(_shown, tally)

    async def forget(self, user: str, account: str | None = None) -> dict[str, Any]:
        """Take a user out of the books of one account, or of all: by name, or by the hash that reports show. Sums stay.

        Asked again it finds what has come since. Raises InvalidValue; Overloaded: ask again, what was done stays done.
        """
        if not user or len(user) > MAX_USER:
            raise InvalidValue(f"user must be a name of 1 to {MAX_USER:,} characters")
        if not self._whole():  # what is still added up from the books has the name, and half a sum is not to be written down
            raise Overloaded(reason="starting", retry_after_seconds=STARTING_RETRY_SECONDS)
        now, privacy = self._clock.unix_nano(), self._privacy
        forgotten = Forgotten(account or "", privacy.told(user), now)
        privacy.forget(forgotten)  # first: what is closed from now on names nobody
        await self._forget.keep(forgotten)  # and what was closed before is in the books and on the metrics when this stands
        spellings = privacy.spellings(user)
        # Not one common name: a series that jumps by what another spent would be read as spent just now.
        names = {label_value(spelling): f"forgotten-{secrets.token_hex(4)}" for spelling in spellings}
        series = self._metrics.forget("user", names, account=account) if self._metrics is not None else 0
        charges = await self._forget.charges(spellings, account)
        saved = await self._forget.series(lambda _, labels: _renamed(labels, names, account))
        if self._snapshot is not None:
            await self._snapshot()
        await self._forget.fold_log()
        log.info("a user was forgotten because the operator asked", extra={"charges": charges, "series": max(series, saved)})
        return {
            "account": account,
            "charges": charges,
            "series": max(series, saved),
            "journal_until": rfc3339(now + self._journal_keeps_nano),
            "notes": [
                JOURNAL_NOTE,
                "backups that were made before still hold the name",
            ],
        }

    # -- while the books are open ---------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep what `[privacy]` says, and no longer, for as long as the process lives."""
        if self._settings.hash:
            await self._quietly(self._forget.overwrite_deleted())
        while True:
            await self._quietly(self.tidy())
            await asyncio.sleep(ROUND_SECONDS)

    async def tidy(self) -> int:
        """Roll up and drop all that is old enough now; returns how many rows. Raises StoreFull, StoreBroken."""
        now, retention, moved = self._clock.unix_nano(), self._retention, 0
        if self._settings.keep_charges:
            before = max(0, now - round(self._settings.keep_charges * _NANO))
            for act in (retention.roll_up, retention.roll_up_missing):
                moved += await self._slices(act, before)
        moved += await self._slices(retention.drop_cumulative, max(0, now - round(CUMULATIVE_SECONDS * _NANO)))
        before = max(0, now - round(USAGE_SECONDS * _NANO))
        looked = await self._fold_usage(before_unix_nano=before)
        while looked:
            await asyncio.sleep(PAUSE_SECONDS)
            looked = await self._fold_usage(before_unix_nano=before)
        if moved:
            log.info("old charges were rolled up to daily sums, and what nobody continues was dropped", extra={"rows": moved})
        # A late span may open a trace again and again, so twice the time that one life takes.
        before = now - 2 * self._journal_keeps_nano
        self._privacy.remember(before_unix_nano=before)
        await self._forget.drop_kept(before_unix_nano=before)
        return moved

    async def _slices(self, act: _Slice, before: int) -> int:
        moved = 0
        while True:
            rows = await act(before_unix_nano=before)
            moved += rows
            if rows < SLICE_ROWS:
                return moved
            await asyncio.sleep(PAUSE_SECONDS)

    async def _quietly(self, work: Awaitable[Any]) -> None:
        try:
            await work
        except Overloaded as error:
            log.warning("old rows could not be tidied up now, which is tried again in %g s: %s", ROUND_SECONDS, error)
        except Exception:  # it must go on: a daemon that keeps names too long is wrong in silence
            log.exception("a fault of ours: old rows could not be tidied up, which is tried again in %g s", ROUND_SECONDS)


def _shown(tally: Tally) -> dict[str, Any]:
    report = tally.as_json()
    tally.drop()
    return report


class _Slice(Protocol):
    async def __call__(self, *, before_unix_nano: int) -> int: ...


def _renamed(labels: list[list[str]], names: Mapping[str, str], account: str | None) -> list[list[str]] | None:
    told = dict(labels)
    if told.get("user") not in names or account not in (None, told.get("account")):
        return None
    return [[name, names[value] if name == "user" else value] for name, value in labels]
