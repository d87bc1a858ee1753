"""What the pure core asks of a store: the Journal's and the Ledger's protocols. The seam is by role."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from receiver.core.span import Span
from receiver.core.window.group import TraceKey

if TYPE_CHECKING:
    from receiver.core.attribution import Charge


@dataclass(frozen=True, slots=True)
class Acceptance:
    """One request's new spans: what an accept row holds. Its debit is derived from it."""

    account: str
    received_unix_nano: int
    spans: list[Span]


@dataclass(frozen=True, slots=True)
class Close:
    """What one Group came to: what a close row holds."""

    account: str
    traces: tuple[tuple[TraceKey, int], ...]  #: (trace, generation) that it closed
    charges: tuple[Charge, ...]
    cumulative: dict[tuple[str, ...], tuple[int, ...]]  #: new last values of cumulative sources


class Journal(Protocol):
    """Append-only, local to a process. What `accept` has resolved survives a crash; what `close` has resolved is final."""

    def accept(self, acceptance: Acceptance) -> Awaitable[int]:
        """Store new spans (and their debit); resolves with the row's sequence number once it is as durable as configured."""

    def close(self, closes: Iterable[Close]) -> Awaitable[None]:
        """Store what groups came to, all in one commit."""

    def records(self, key: TraceKey) -> list[Span]:
        """Every span that was accepted for a trace within the horizon, in order: for a late span that re-opens it."""

    def cumulative(self, key: tuple[str, ...]) -> tuple[int, ...] | None:
        """Last value of a cumulative source, None when there is none."""

    def forget(self, keys: Iterable[TraceKey]) -> None:
        """These traces left the seen horizon: their records are no longer needed."""

    def replay(self) -> Iterator[Acceptance | Close]:
        """All rows above the low-water mark, in order."""
