"""A Journal that lives and dies with its process.

It keeps the same promises as a durable one except survival: rows are ordered, a closed trace's records can be read back for
a late span, cumulative values move with the close that found them. Its memory is bounded by `max_bytes`: the records of the
traces that were released longest ago go first. A trace whose records are gone still knows its span ids (the window keeps
those), so a resend stays a duplicate; only a *late* span of it is then judged without its elders.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Final

from receiver.core.journal import Acceptance, Accepted, Close, Closed, Observer, Replayed, Series
from receiver.core.span import Span
from receiver.core.window.group import TraceKey

#: Records of released traces, in accounted bytes: as much again as the window's own default bound.
DEFAULT_MAX_BYTES: Final = 256 * 1024 * 1024


class MemoryJournal:
    """Journal in memory (see `core.journal.Journal`). One event loop owns it; no method waits."""

    def __init__(self, *, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self._seq = 0
        self._open: dict[TraceKey, list[Span]] = {}
        self._closed: OrderedDict[TraceKey, list[Span]] = OrderedDict()
        self._closed_bytes = 0
        self._max_bytes = max_bytes
        self._cumulative: dict[tuple[str, ...], tuple[int, ...]] = {}
        self._observers: list[Observer] = []

    async def accept(self, acceptance: Acceptance) -> int:
        return self.put(acceptance)

    async def close(self, closes: Iterable[Close]) -> None:
        for close in closes:
            self.settle(close)

    def put(self, acceptance: Acceptance) -> int:
        """`accept` for callers without an event loop."""
        account, tables = acceptance.account, self._open
        key: TraceKey | None = None
        records: list[Span] = []
        for span in acceptance.spans:
            if key is None or span.trace_id != key.trace_id:  # neighbours are mostly of one trace
                key = TraceKey(account, span.trace_id)
                found = tables.get(key)
                if found is None:
                    found = tables[key] = self._reopened(key)
                records = found
            records.append(span)
        self._seq += 1
        if self._observers:
            spans = len(acceptance.spans)
            self._tell(Accepted(self._seq, acceptance.received_unix_nano, account, acceptance.transport, spans, acceptance.debit_msat))
        return self._seq

    def settle(self, close: Close) -> None:
        """`close` of one Group for callers without an event loop."""
        for key, _ in close.traces:
            records = self._open.pop(key, None)
            if records is not None:
                self._closed[key] = records
                self._closed_bytes += sum(span.size for span in records)
        self._cumulative.update(close.cumulative)
        self._seq += 1
        if self._observers:
            self._tell(Closed(self._seq, 0, close.account, close.charges, close.missing, close.counters))
        while self._closed_bytes > self._max_bytes:
            _, records = self._closed.popitem(last=False)
            self._closed_bytes -= sum(span.size for span in records)

    def records(self, key: TraceKey) -> list[Span]:
        return list(self._open.get(key) or self._closed.get(key) or ())

    def cumulative(self, key: tuple[str, ...]) -> tuple[int, ...] | None:
        return self._cumulative.get(key)

    def forget(self, keys: Iterable[TraceKey]) -> None:
        for key in keys:
            records = self._closed.pop(key, None)
            if records is not None:
                self._closed_bytes -= sum(span.size for span in records)

    def watch(self, observer: Observer) -> None:
        """Observers hear of every row at once, since every row holds at once."""
        self._observers.append(observer)

    def replay(self) -> Iterator[Replayed]:
        """Nothing: this journal does not outlive its process."""
        return iter(())

    def series(self) -> list[Series]:
        """Nothing, for the same reason."""
        return []

    def unobserved(self) -> Iterator[Accepted | Closed]:
        """Nothing, for the same reason."""
        return iter(())

    async def snapshot(self, series: Iterable[Series]) -> None:
        """Nobody would read it."""

    async def stop(self) -> None:
        """There is nothing to let go of."""

    def _tell(self, row: Accepted | Closed) -> None:
        for observer in self._observers:
            observer(row)

    def _reopened(self, key: TraceKey) -> list[Span]:
        records = self._closed.pop(key, None)
        if records is None:
            return []
        self._closed_bytes -= sum(span.size for span in records)
        return records
