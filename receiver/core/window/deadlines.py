"""A queue of deadlines that never sees a clock: a heap of moments and an index of which of them still count.

A deadline that is set again or removed leaves its old entry in the heap, where it is skipped when it comes up. The heap
is rebuilt when more of it is stale than alive, so that it stays proportional to what it holds: each operation costs
O(log n) amortised. Equal deadlines come up in the order in which they were set.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)

#: Stale entries that are not worth a rebuild.
_SLACK: Final = 64


class Deadlines(Generic[K]):
    """At most one moment (monotonic seconds) for each key."""

    __slots__ = ("_entries", "_heap", "_order")

    def __init__(self) -> None:
        self._entries: dict[K, tuple[float, int, K]] = {}  # the one entry of each key that counts
        self._heap: list[tuple[float, int, K]] = []
        self._order = 0  # entries with one moment never compare their keys

    def set(self, key: K, due: float) -> None:
        """Give `key` this moment in place of the one that it had."""
        self._order = order = self._order + 1
        self._entries[key] = entry = (due, order, key)
        heapq.heappush(self._heap, entry)
        if len(self._heap) > 2 * len(self._entries) + _SLACK:
            self._rebuild()

    def remove(self, key: K) -> None:
        """Forget `key`; harmless when it has no moment."""
        if self._entries.pop(key, None) is not None and len(self._heap) > 2 * len(self._entries) + _SLACK:
            self._rebuild()

    def get(self, key: K) -> float | None:
        """The moment of `key`."""
        entry = self._entries.get(key)
        return None if entry is None else entry[0]

    def next(self) -> float | None:
        """The earliest moment, None when there is none."""
        heap, entries = self._heap, self._entries
        while heap and entries.get(heap[0][2]) is not heap[0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def pop_due(self, now: float) -> tuple[K, float] | None:
        """Take out the earliest key whose moment is at or before `now`, with that moment; None when none is due."""
        earliest = self.next()
        if earliest is None or earliest > now:
            return None
        key = heapq.heappop(self._heap)[2]
        del self._entries[key]
        return key, earliest

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"Deadlines({len(self)}, next {self.next()})"

    def _rebuild(self) -> None:
        self._heap = list(self._entries.values())
        heapq.heapify(self._heap)
