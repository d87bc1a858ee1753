"""A trace in the second part of its life: released.

Its records are in the journal; what stays is what a resend or a late span needs: which span ids were seen, which of them
paid, and with which traces it was counted.

The ids are packed, 8 bytes each, sorted: a look-up is a binary search, and a released trace of a million spans costs its
8 MB and no more. The oldest are forgotten when they leave the horizon, or earlier when all of them together are over
their bytes; then a resend of their spans counts as new.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final

from receiver.core.window.arrivals import Arrivals
from receiver.core.window.limits import SEEN_TRACE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from receiver.core.window.limits import WindowLimits

#: bytes of an OTLP span id (trace.proto); the decoder rejects any other length
SPAN_ID_BYTES: Final = 8


def pack(ids: Iterable[bytes]) -> bytes:
    """Span ids as one sorted string of bytes."""
    return b"".join(sorted(ids))


def unpack(packed: bytes) -> Iterator[bytes]:
    """The span ids of a pack, in order."""
    return (packed[at : at + SPAN_ID_BYTES] for at in range(0, len(packed), SPAN_ID_BYTES))


def in_pack(span_id: bytes, packed: bytes) -> bool:
    """Whether a pack holds this span id, in O(log n)."""
    at = SPAN_ID_BYTES * bisect_left(
        range(len(packed) // SPAN_ID_BYTES), span_id, key=lambda i: packed[SPAN_ID_BYTES * i : SPAN_ID_BYTES * (i + 1)]
    )
    return packed[at : at + SPAN_ID_BYTES] == span_id


class Bond:
    """Traces of one account that were counted together; when one of them re-opens, the rules run on all of them again.

    Else the outer teller of a call would come back without the twin that paid for it, and look like a new call.
    """

    __slots__ = ("spans", "trace_ids")

    def __init__(self) -> None:
        self.trace_ids: dict[bytes, None] = {}  # an ordered set
        self.spans = 0  #: released spans of all of them: what it costs to read them back


class SeenTrace:
    """What is remembered of a released trace. `span_id in seen` says whether that span came before."""

    __slots__ = ("account", "bond", "charged", "closing", "generation", "ids", "queued", "released_at", "rooted", "trace_id")

    def __init__(self, account: str, trace_id: bytes, *, now: float, ids: Iterable[bytes], rooted: bool, earlier: SeenTrace | None) -> None:
        """Released at `now` with these new span ids; `earlier` is what was remembered of it, and is empty after this."""
        self.account = account
        self.trace_id = trace_id
        self.ids = pack(ids)  #: packed, of all its generations
        self.charged = b""  #: packed: those that paid for a call
        self.generation = 0
        self.released_at = now
        self.rooted = rooted  #: its root came, or a span stood for it
        self.bond: Bond | None = None
        #: groups with this trace whose close has not been told yet: until then `charged` is not whole, and it is neither
        #: released again nor forgotten
        self.closing = 1
        self.queued = False  #: it waits to be forgotten (not while it is open again)
        if earlier is not None:
            self.ids = pack((*unpack(earlier.ids), *unpack(self.ids)))
            self.charged, self.bond = earlier.charged, earlier.bond
            self.generation = earlier.generation + 1
            self.closing += earlier.closing
            earlier.ids = earlier.charged = b""  # the queue may hold on to it for a while

    def renewed(self, *, now: float) -> SeenTrace:
        """The same, released once more at `now` as part of another trace's Group: nothing new in it, so no new generation."""
        again = SeenTrace(self.account, self.trace_id, now=now, ids=(), rooted=self.rooted, earlier=self)
        again.generation -= 1
        return again

    @property
    def spans(self) -> int:
        """How many of its spans were released."""
        return len(self.ids) // SPAN_ID_BYTES

    @property
    def size(self) -> int:
        """Accounted bytes."""
        return SEEN_TRACE_BYTES + len(self.ids) + len(self.charged)

    def costs_more_than(self, spans: int) -> bool:
        """To release it again, more spans than these must be read back."""
        return (self.spans if self.bond is None else self.bond.spans) > spans

    def __contains__(self, span_id: bytes) -> bool:
        return in_pack(span_id, self.ids)

    def __repr__(self) -> str:
        return f"SeenTrace({self.trace_id.hex()}, generation {self.generation}, {self.spans} ids)"


class SeenTraces:
    """Released traces in the order in which they are forgotten, bounded by time and bytes."""

    __slots__ = ("_limits", "_shortened", "_traces", "bytes")

    def __init__(self, limits: WindowLimits) -> None:
        self._limits = limits
        self._traces: Arrivals[SeenTrace] = Arrivals()
        self._shortened: tuple[float, float] | None = None  # (when, how old) a trace was forgotten for its bytes
        self.bytes = 0

    def put(self, seen: SeenTrace) -> None:
        """It was just released: it is forgotten a horizon later."""
        self._traces.join(seen)
        self.bytes += seen.size

    def take(self, seen: SeenTrace) -> None:
        """It is open again: it is not forgotten before its next release, which puts a new record here."""
        self._traces.leave(seen)
        self.bytes -= seen.size

    def charge(self, seen: SeenTrace, charged: Iterable[bytes]) -> None:
        """Remember which of its spans paid for a call, beside those known before."""
        ids = set(charged)
        if ids:
            before = seen.size
            seen.charged = pack(ids.union(unpack(seen.charged)))
            if seen.queued:
                self.bytes += seen.size - before

    def next(self) -> float | None:
        """When the oldest is to be forgotten; None when there is none, or its close is still under way."""
        oldest = self._traces.first()
        if oldest is None or oldest.closing:
            return None
        if self.bytes > self._limits.seen_max_bytes:
            return oldest.released_at
        return oldest.released_at + self._limits.seen_horizon

    def pop_due(self, *, now: float) -> SeenTrace | None:
        """Take out the oldest when it is to be forgotten."""
        due, oldest = self.next(), self._traces.first()
        if due is None or oldest is None or due > now:
            return None
        self.take(oldest)
        if now < oldest.released_at + self._limits.seen_horizon:
            self._shortened = (now, now - oldest.released_at)
        return oldest

    def horizon(self, *, now: float) -> float:
        """Seconds for which a released trace is remembered at present: less than `seen_horizon` while the bytes do not suffice."""
        if self._shortened is None or now - self._shortened[0] >= self._limits.seen_horizon:
            return self._limits.seen_horizon
        return self._shortened[1]

    def __len__(self) -> int:
        return len(self._traces)
