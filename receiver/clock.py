"""Where the daemon reads the time: here, and nowhere in `core`.

Deadlines are monotonic seconds (`now`), facts are wall-clock nanoseconds (`*_unix_nano`, UTC). They never meet in one
expression, so a step of the wall clock moves no deadline.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """The two times that the edge passes inward."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never goes back."""

    def unix_nano(self) -> int:
        """Nanoseconds since 1970-01-01T00:00:00Z; may step."""


class SystemClock:
    """The machine's clocks."""

    def monotonic(self) -> float:
        return time.monotonic()

    def unix_nano(self) -> int:
        return time.time_ns()
