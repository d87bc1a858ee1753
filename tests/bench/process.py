"""What a process uses, from /proc (Linux), and on which core it runs."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

_TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")  #: 10 ms: weigh seconds of work, not milliseconds
_LOOK_SECONDS = 0.05  #: between two looks at a process that is to become idle
#: Without a tick for so long, a process is idle. A daemon at rest needs a tick every few seconds for its timers.
_IDLE_SECONDS = 0.4
_PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Process:
    """A running process."""

    pid: int

    def cpu_seconds(self) -> float:
        """User and system time of all its threads, those that have ended included."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * _TICK_SECONDS

    def kib(self, name: str) -> int:
        """A line of /proc/PID/status in KiB, such as VmRSS or VmHWM (the peak since `forget_peak`)."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))

    def forget_peak(self) -> None:
        """Let VmHWM begin anew."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def smaps(self) -> dict[str, int]:
        """Bytes of resident memory by kind, from smaps_rollup: Rss, Pss, Private_Dirty, Anonymous and others."""
        lines = (line.split() for line in Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()[1:])
        return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines}

    def settle(self, least_seconds: float) -> float:
        """Wait `least_seconds`, then until it is idle; returns its CPU seconds at the last moment at which it worked.

        Raises TimeoutError when it goes on and on.
        """
        time.sleep(least_seconds)
        begun = still_since = time.monotonic()
        used = self.cpu_seconds()
        while (now := time.monotonic()) - still_since < _IDLE_SECONDS:
            if now - begun > _PATIENCE_SECONDS:
                raise TimeoutError(f"process {self.pid} is still busy after {_PATIENCE_SECONDS:g} s")
            time.sleep(_LOOK_SECONDS)
            if self.cpu_seconds() > used:
                used, still_since = self.cpu_seconds(), time.monotonic()
        return used


@contextlib.contextmanager
def cores() -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
    """Two functions: what this thread starts from now on runs on the first core; on the second. One core: they do nothing.

    The daemon is started after the first, the sending begins after the second, so that they do not take time from each other.
    """
    before = os.sched_getaffinity(0)
    first, second = (sorted(before) * 2)[:2]

    def on(core: int) -> Callable[[], None]:
        return lambda: os.sched_setaffinity(0, {core})

    try:
        yield on(first), on(second)
    finally:
        os.sched_setaffinity(0, before)
