"""A first-in, first-out queue whose members may leave from anywhere in it, at O(1) amortised.

A member that left keeps its place until it comes to the front, and is skipped there; when more have left than stayed, the
queue is rebuilt, so that it stays proportional to what it holds.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator


class Queued(Protocol):
    """A member knows whether it is in the queue. It joins once in its life."""

    queued: bool


M = TypeVar("M", bound=Queued)

#: Places of members that left which are not worth a rebuild.
_SLACK: Final = 64


class Arrivals(Generic[M]):
    """Members in the order in which they joined."""

    __slots__ = ("_left", "_queue")

    def __init__(self) -> None:
        self._queue: deque[M] = deque()
        self._left = 0

    def join(self, member: M) -> None:
        """Join at the end."""
        member.queued = True
        self._queue.append(member)

    def leave(self, member: M) -> None:
        """Leave, from wherever it stands."""
        assert member.queued
        member.queued = False
        self._left += 1
        if self._queue[0] is member:
            self.first()  # most leave in order, and then nothing is ever rebuilt
        elif self._left > len(self) + _SLACK:
            self._queue = deque(one for one in self._queue if one.queued)
            self._left = 0

    def first(self) -> M | None:
        """The one that joined first."""
        while self._queue and not self._queue[0].queued:
            self._queue.popleft()
            self._left -= 1
        return self._queue[0] if self._queue else None

    def __iter__(self) -> Iterator[M]:
        """In order; not while members join or leave."""
        self.first()  # strips those that left at the front
        return (member for member in self._queue if member.queued)

    def __len__(self) -> int:
        return len(self._queue) - self._left
