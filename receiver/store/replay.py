"""What the window held, read back from the journal: a fold over its rows, in order.

    accept   its spans join their traces; a row that *begins* a trace ends whatever an older row says of that id
    close    the first so many of a trace's spans that no close has covered are released; spans that came meanwhile stay open

It goes over the rows twice, so that what was released long ago costs nearly nothing. The first time it learns how far each trace's
closes reach; the second time it makes Spans of what lies beyond that, and keeps of all the rest the ids alone. The result is that of
the plain fold (a property test holds them equal), at a tenth of its time.

Rows that the daemon had already given up may still be there: deletion is lazy. A trace that was forgotten and finds its rows again is
remembered once more; that does no harm. A trace whose first row is gone was forgotten for sure, and what is left of it is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from receiver.core.journal import Acceptance, Progress, Remembered, Replayed
from receiver.core.window.group import TraceKey, Trigger
from receiver.store import closes
from receiver.store.records import ids_by_trace

if TYPE_CHECKING:
    from collections.abc import Callable

    from receiver.store.index import RowIndex
    from receiver.store.records import Decoder

ACCEPTED: Final = 1
CLOSED: Final = 2

#: Spans (or rows) between two Progress steps: a few milliseconds each.
SLICE: Final = 2_048


JournalRow = tuple[int, int, int, str, bytes]  #: seq, kind, received_unix_nano, account, body


class _Life:
    """A trace between the row that begins it and the day it is forgotten."""

    __slots__ = ("bond", "charged", "covered", "first_row", "generation", "ids", "passed", "rooted", "spans")

    def __init__(self, first_row: int) -> None:
        self.first_row = first_row
        self.spans = 0  #: accepted
        self.covered = 0  #: of them, released
        self.passed = 0  #: of them, met in the second pass
        self.generation = 0
        self.rooted = False
        self.charged = bytearray()  #: 8 bytes each
        self.ids = bytearray()  #: 8 bytes each
        self.bond: dict[TraceKey, None] | None = None  #: traces that it was counted with, itself among them


class Replay:
    """One replay. `index` is filled on the way."""

    def __init__(self, decoder: Decoder, index: RowIndex, rows: Callable[[], Iterator[JournalRow]], total: int) -> None:
        """`rows()` gives the rows in order, each body checked; `total`: how many there are."""
        self._decoder = decoder
        self._index = index
        self._rows = rows
        self._total = total
        self._lives: dict[TraceKey, _Life] = {}
        self._closed: dict[TraceKey, None] = {}  #: in the order of their last close: to sort 200,000 at the end would take 0.2 s at once

    def steps(self) -> Iterator[Replayed]:
        """See `core.journal.Replayed`."""
        yield from self._learn()
        opened: list[Acceptance] = []
        yield from self._read(opened)
        yield from self._remembered()
        yield from opened

    def _learn(self) -> Iterator[Progress]:
        """First pass: how far the closes of each trace reach."""
        lives = self._lives
        work = 0
        for done, (seq, kind, _, account, body) in enumerate(self._rows()):
            if kind == ACCEPTED:
                row = self._decoder.row(body)
                trace_ids, begins = row.trace_ids, row.begins
                counts = [0] * len(trace_ids)
                for place in row.traces:
                    counts[place] += 1
                for trace_id, begin, count in zip(trace_ids, begins, counts, strict=True):
                    key = TraceKey(account, trace_id)
                    if begin:
                        lives[key] = _Life(seq)
                        self._closed.pop(key, None)
                    life = lives.get(key)
                    if life is not None:
                        life.spans += count
                work += len(trace_ids)
            else:
                self._close(account, body)
            work += 8  # a row costs what eight traces in it cost
            if work >= SLICE:
                work = 0
                yield Progress(done // 2, self._total)

    def _close(self, account: str, body: bytes) -> None:
        found: dict[TraceKey, _Life] = {}
        for trace in closes.read(body, account=account).traces:
            key = TraceKey(account, trace.trace_id)
            life = self._lives.get(key)
            if life is None:
                continue
            found[key] = life
            life.covered = min(life.covered + trace.spans, life.spans)
            life.charged += b"".join(trace.charged)
            life.generation = trace.generation
            life.rooted = life.rooted or trace.trigger == Trigger.ROOT.value
            self._closed.pop(key, None)
            self._closed[key] = None
        if len(found) > 1:
            bond = next((life.bond for life in found.values() if life.bond is not None), {})
            for key, life in found.items():
                if life.bond is None:
                    life.bond = bond
                    bond[key] = None

    def _read(self, opened: list[Acceptance]) -> Iterator[Progress]:
        """Second pass: ids of what is covered, spans of what is not."""
        lives = self._lives
        work = 0
        for done, (seq, kind, received_unix_nano, account, body) in enumerate(self._rows()):
            if kind != ACCEPTED:
                continue
            row = self._decoder.row(body)
            span_ids = row.span_ids
            is_root = row.is_root
            needed: list[bytes] = []
            beyond: list[int] = []
            for trace_id, places in ids_by_trace(row):
                life = lives.get(TraceKey(account, trace_id))
                if life is None or life.first_row > seq:
                    continue
                needed.append(trace_id)
                covered = life.covered - life.passed
                life.passed += len(places)
                if covered < len(places):
                    beyond += places[max(0, covered) :]
                if covered > 0:
                    within = places[:covered]
                    life.ids += b"".join([span_ids[place] for place in within])
                    life.rooted = life.rooted or any(is_root[place] for place in within)
            if needed:
                self._index.add(account, needed, seq)
            if beyond:
                beyond.sort()
                spans = row.spans(beyond, received_unix_nano=received_unix_nano)
                opened.append(Acceptance(account, received_unix_nano, spans, row.transport))
            work += 8 + len(span_ids) + 4 * len(beyond)
            if work >= SLICE:
                work = 0
                yield Progress((self._total + done) // 2, self._total)

    def _remembered(self) -> Iterator[Replayed]:
        told: set[TraceKey] = set()
        for number, key in enumerate(self._closed):
            if number % SLICE == SLICE - 1:
                yield Progress(self._total, self._total)
            if key in told or not self._lives[key].covered:
                continue
            bond = self._lives[key].bond
            mates = [key] if bond is None else [mate for mate in bond if self._lives[mate].covered and self._lives[mate].bond is bond]
            if key not in mates:
                mates.append(key)
            told.update(mates)
            yield [self._one(mate) for mate in mates]

    def _one(self, key: TraceKey) -> Remembered:
        life = self._lives[key]
        return Remembered(key, bytes(life.ids), bytes(life.charged), life.generation, life.rooted)
