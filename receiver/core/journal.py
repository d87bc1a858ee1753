"""What the pure core asks of a journal, and the nouns of its rows. The seam is by role: a journal is local to its process.

Rows are numbered in the order in which they were asked for, and that is the order in which they take effect: first in the
journal, then in what is shown. So everything that must survive a crash is a fold over rows: the window over `replay`, the
metrics over `unobserved` on top of their last snapshot.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from receiver.core.span import Span
from receiver.core.window.group import TraceKey
from receiver.errors import Overloaded

if TYPE_CHECKING:
    from receiver.core.attribution import Charge

#: How much later a client may try again when the disk is full: long enough for somebody to make room, within an SDK's patience.
FULL_RETRY_SECONDS = 5.0


class StoreFull(Overloaded):
    """There is no space for it on the disk. Nothing of it was stored; once there is space again, the same works without a restart."""

    def __init__(self, detail: str = "") -> None:
        said = detail or f"the receiver's disk is full and nothing of this was stored: send again in {FULL_RETRY_SECONDS:g} s"
        super().__init__(reason="disk_full", retry_after_seconds=FULL_RETRY_SECONDS, detail=said)


class StoreBroken(Overloaded):
    """The disk failed (a write, a sync), or what it holds is damaged. What was acknowledged before stays true; the process must end.

    A sync that failed is never tried again: the kernel may have dropped the pages, and the next sync would tell a lie.
    """

    def __init__(self, detail: str) -> None:
        super().__init__(reason="store", retry_after_seconds=FULL_RETRY_SECONDS, detail=detail)


class Unstorable(Exception):
    """What was to be stored breaks a rule of the store: a fault of ours. Nothing of it was stored, and the same would fail again."""


@dataclass(frozen=True, slots=True)
class Acceptance:
    """One request's new spans, and what they cost: what an accept row holds, and the debit that is written with it."""

    account: str
    received_unix_nano: int
    spans: list[Span]
    transport: str = ""
    debit_msat: int = 0  #: granted by `Credit.reserve`; posted in the transaction of the row


class Lack(NamedTuple):
    """What is kept of a `Missing`: a model call that could not be counted, or a sign that spans were lost before they came."""

    account: str
    trace_id: bytes
    span_id: bytes
    start_unix_nano: int
    model: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Close:
    """What one Group came to: what a close row holds."""

    account: str
    traces: tuple[tuple[TraceKey, int], ...]  #: (trace, generation) that it closed
    charges: tuple[Charge, ...]
    cumulative: dict[tuple[str, ...], tuple[int, ...]]  #: new last values of cumulative sources
    #: of each trace: how many spans it covers beyond those of earlier closes. They are the first ones in the order of acceptance that no
    #: close has covered, so a number names them; a span that is accepted while the close is under way stays open
    spans: tuple[int, ...] = ()
    triggers: tuple[str, ...] = ()  #: of each trace: why it was released (`Trigger.value`)
    counters: Mapping[tuple[str, tuple[str, ...]], int] = field(default_factory=dict)  #: (family name, label values) -> increment
    missing: tuple[Lack, ...] = ()


class Accepted(NamedTuple):
    """An accept row that holds for good, as those hear of it who count."""

    seq: int
    unix_nano: int
    account: str
    transport: str
    spans: int
    debit_msat: int = 0  #: what it debits; 0 in what is read back from a journal, where the transfers are the truth


class Closed(NamedTuple):
    """A close row that holds for good, as those hear of it who count."""

    seq: int
    unix_nano: int  #: 0 where the journal has no clock
    account: str
    charges: Sequence[Charge]
    missing: Sequence[Lack]
    counters: Mapping[tuple[str, tuple[str, ...]], int]


Observer = Callable[[Accepted | Closed], None]


class Series(NamedTuple):
    """One row of numbers of the metrics, for a snapshot."""

    family: str
    labels: tuple[tuple[str, str], ...]  #: (name, value), in order
    numbers: tuple[int, ...]  #: of any size: pico-USD outgrow 64 bits at nine million USD
    created_unix_nano: int


class Remembered(NamedTuple):
    """A released trace that is within the horizon, as a replay finds it."""

    key: TraceKey
    ids: bytes  #: of its spans that a close has covered, 8 bytes each
    charged: bytes  #: those that paid for a call, 8 bytes each
    generation: int  #: of its last release
    rooted: bool  #: its root came, or a span stood for it


class Progress(NamedTuple):
    """How far a replay is: whoever drives it lets others run."""

    done: int
    total: int  #: rows


#: A step of a replay: traces that were counted together (mostly one), all of them before the first Acceptance, in the order of their
#: release; then what is open, in order; Progress between them.
Replayed = Sequence[Remembered] | Acceptance | Progress


class Journal(Protocol):
    """Append-only, local to a process. What `accept` has resolved survives a crash; what `close` has resolved is final.

    Both may raise StoreFull or StoreBroken, and then nothing was stored. What they return may be awaited by several; if the last
    one goes away, the row is stored all the same.
    """

    def accept(self, acceptance: Acceptance) -> Awaitable[int]:
        """Store new spans (and their debit); resolves with the row's sequence number once it is as durable as configured."""

    def close(self, closes: Iterable[Close]) -> Awaitable[None]:
        """Store what groups came to, all in one commit. Raises Unstorable, too, where one of them breaks a rule: none was stored."""

    def records(self, key: TraceKey) -> list[Span]:
        """Every span that was accepted for a trace within the horizon, in order: for a late span that re-opens it."""

    def cumulative(self, key: tuple[str, ...]) -> tuple[int, ...] | None:
        """Last value of a cumulative source, None when there is none."""

    def forget(self, keys: Iterable[TraceKey]) -> None:
        """These traces left the seen horizon: their records are no longer needed."""

    def watch(self, observer: Observer) -> None:
        """From now on tell `observer` of each row that holds, in order, just before `accept` or `close` resolves. It must not fail."""

    def replay(self) -> Iterator[Replayed]:
        """What the window held when the last process ended. Before the first `accept`."""

    def series(self) -> list[Series]:
        """The metrics of the last snapshot."""

    def unobserved(self) -> Iterator[Accepted | Closed]:
        """Rows that are not in that snapshot, in order."""

    def snapshot(self, series: Iterable[Series]) -> Awaitable[None]:
        """Keep the metrics as they are now, that is with all rows that observers were told of and no others."""

    def stop(self) -> Awaitable[None]:
        """Make what was asked for durable, and let go of the disk. Nothing may be asked afterwards."""
