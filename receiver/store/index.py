"""Which rows each remembered trace is in, and which rows nobody needs any more. In memory: about 110 B a trace and 4 B a row.

A table of it would have random keys: at millions of traces each commit would touch as many pages as it has traces, and wait 30 ms.
In memory it is a dict beside the window's own, with the same bounds, for the window says what it forgets; and a replay, which reads
all rows anyway, makes it anew.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import Final

from receiver.core.window.group import TraceKey

#: Places at the front that are given back together.
_SLACK: Final = 65_536


class RowIndex:
    """Traces to the accept rows that hold their spans."""

    def __init__(self) -> None:
        self._accounts: dict[str, dict[bytes, int | array[int]]] = {}  #: one row as its number (most traces), several as an array
        self._traces = array("I")  #: of each row from `_base` on: traces that need it. Rows of other kinds have 0
        self._base = 1  #: the seq of the first place
        self._first = 0  #: no place before this one is above 0

    def add(self, account: str, trace_ids: Sequence[bytes], seq: int) -> list[bool]:
        """A row with spans of these distinct traces; of each, whether nothing was known of it. Rows come in order."""
        known = self._accounts.get(account)
        if known is None:
            known = self._accounts[account] = {}
        begins = []
        for trace_id in trace_ids:
            rows = known.get(trace_id)
            begins.append(rows is None)
            if rows is None:
                known[trace_id] = seq
            elif isinstance(rows, int):
                known[trace_id] = array("q", (rows, seq))
            else:
                rows.append(seq)
        self._need(seq, len(trace_ids))
        return begins

    def undo(self, account: str, trace_ids: Iterable[bytes], seq: int) -> None:
        """The row was not stored after all."""
        known = self._accounts[account]
        for trace_id in trace_ids:
            rows = known[trace_id]
            if isinstance(rows, int):
                assert rows == seq
                del known[trace_id]
            else:
                rows.remove(seq)
                if len(rows) == 1:
                    known[trace_id] = rows[0]
        self._traces[seq - self._base] = 0

    def rows(self, key: TraceKey) -> Sequence[int]:
        """The rows of a trace, in order."""
        rows = self._accounts.get(key.account, {}).get(key.trace_id)
        return () if rows is None else (rows,) if isinstance(rows, int) else rows

    def forget(self, key: TraceKey) -> list[int]:
        """Nobody will ask for this trace again; the rows that nobody needs any more because of that."""
        known = self._accounts.get(key.account, {})
        rows = known.pop(key.trace_id, None)
        if rows is None:
            return []
        if not known:
            del self._accounts[key.account]
        dead = []
        for seq in (rows,) if isinstance(rows, int) else rows:
            place = seq - self._base
            self._traces[place] -= 1
            if not self._traces[place]:
                dead.append(seq)
        return dead

    @property
    def low_water(self) -> int:
        """No row below this number is needed; one above all rows when none is."""
        traces, first = self._traces, self._first
        while first < len(traces) and not traces[first]:
            first += 1
        if first > _SLACK:
            del traces[:first]
            self._base += first
            first = 0
        self._first = first
        return self._base + first

    def __len__(self) -> int:
        """Traces."""
        return sum(map(len, self._accounts.values()))

    def _need(self, seq: int, traces: int) -> None:
        if not self._traces:
            self._base, self._first = seq, 0
        gap = seq - self._base - len(self._traces)
        assert gap >= 0, "rows come in order"
        if gap:
            self._traces.frombytes(bytes(gap * self._traces.itemsize))
        self._traces.append(traces)
