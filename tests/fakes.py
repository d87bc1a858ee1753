"""Doubles of the world: a clock that stands until it is moved, and a journal whose commits wait or fail as a test says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from receiver.core.journal import Acceptance, Close
from receiver.store.memory import MemoryJournal

#: A moment well after every price in the snapshot, and fixed: 2026-10-01T00:00:00Z.
UNIX_NANO = 1_790_812_800_000_000_000


@dataclass
class _Timer:
    """What `loop.call_later` gives back."""

    when: float
    ring: Callable[[], object]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


@dataclass
class ManualClock:
    """Both times of `receiver.clock`, moved by hand; timers that were set through `drive` ring when they are passed."""

    now: float = 1_000.0
    timers: list[_Timer] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.now

    def unix_nano(self) -> int:
        return UNIX_NANO + round((self.now - 1_000.0) * 1e9)

    def drive(self, monkeypatch: Any) -> None:
        """From now on `call_later` of the running loop goes by this clock."""
        monkeypatch.setattr(asyncio.get_running_loop(), "call_later", self._call_later, raising=False)

    def advance(self, seconds: float) -> None:
        """Let time pass, and ring what is due, in order."""
        self.now += seconds
        due = sorted((each for each in self.timers if each.when <= self.now), key=lambda each: each.when)
        self.timers = [each for each in self.timers if each.when > self.now]
        for each in due:
            if not each.cancelled:
                each.ring()

    @property
    def armed(self) -> list[float]:
        """Seconds from now to each timer that is set."""
        return sorted(each.when - self.now for each in self.timers if not each.cancelled)

    def _call_later(self, delay: float, ring: Callable[..., object], *arguments: Any, **_context: Any) -> _Timer:
        timer = _Timer(self.now + delay, lambda: ring(*arguments))
        self.timers.append(timer)
        return timer


class TryingJournal(MemoryJournal):
    """A MemoryJournal with a slow and faulty disk: `gate` holds commits up, `faults` are raised in turn by the next ones."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.faults: list[Exception] = []
        self.begun = 0  #: commits that were asked for
        self.accepted: list[Acceptance] = []
        self.closed: list[Close] = []

    async def accept(self, acceptance: Acceptance) -> int:
        await self._commit()
        self.accepted.append(acceptance)
        return await super().accept(acceptance)

    async def close(self, closes: Iterable[Close]) -> None:
        closes = list(closes)
        await self._commit()
        self.closed += closes
        await super().close(closes)

    async def _commit(self) -> None:
        self.begun += 1
        fault = self.faults.pop(0) if self.faults else None
        await self.gate.wait()
        if fault is not None:
            raise fault
