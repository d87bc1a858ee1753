"""Where the time of the chain goes, stage by stage: the real methods, each with a stopwatch around it.

The clock is `perf_counter`, for it is cheap (a clock of CPU costs 1 us a reading), so this split needs a machine that does nothing else.
What a reading costs is measured and taken off. A pause of the garbage collector falls on the stage that it interrupts. Of the stages none
runs inside another, so with `everything else` (the lines of `intake.py` and `closing.py` themselves, coroutines, the loop) they add up
to the whole.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, Final
from unittest import mock

from receiver.closing import Provisional
from receiver.core import outcome
from receiver.core.prices import PriceBook
from receiver.core.usage import Reader
from receiver.core.window import Window
from receiver.intake import Intake
from receiver.metrics import Metrics
from receiver.otlp.decode import Decoder
from receiver.store.memory import MemoryJournal

#: (stage, who has it, its name there), in the order in which a span meets them.
STAGES: Final[tuple[tuple[str, Any, str], ...]] = (
    ("decode", Decoder, "protobuf"),
    ("unseen", Window, "unseen"),
    ("read", Reader, "read"),
    ("accept", MemoryJournal, "put"),
    ("hold", Window, "hold"),
    ("provisional", Provisional, "add"),
    ("intake metrics", Intake, "_observe"),
    ("release", Window, "release_due"),
    ("count", outcome, "count"),
    ("price", PriceBook, "price"),
    ("attribute", outcome, "attribute"),
    ("close", MemoryJournal, "settle"),
    ("observe", Metrics, "observe"),
    ("forget", Window, "forget_due"),
)
REST: Final = "everything else"

_READINGS: Final = 20_000  #: calls of nothing, to learn what a stopwatch costs


class Stopwatch:
    """Seconds and calls of one stage."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.calls = 0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        clock = time.perf_counter

        def timed(*arguments: Any, **named: Any) -> Any:
            begin = clock()
            try:
                return function(*arguments, **named)
            finally:
                self.seconds += clock() - begin
                self.calls += 1

        return timed

    def around_steps(self, function: Callable[..., Iterator[None]]) -> Callable[..., Iterator[None]]:
        """The same for a generator: what runs between its yields is not its own."""
        clock = time.perf_counter

        def timed(*arguments: Any, **named: Any) -> Any:
            steps = iter(function(*arguments, **named))
            while True:
                begin = clock()
                try:
                    next(steps)
                except StopIteration as end:
                    return end.value
                finally:
                    self.seconds += clock() - begin
                    self.calls += 1
                yield

        return timed


@contextlib.contextmanager
def watched() -> Iterator[dict[str, Stopwatch]]:
    """Inside, every stage of every object has its stopwatch."""
    watches = {stage: Stopwatch() for stage, _, _ in STAGES}
    with contextlib.ExitStack() as stack:
        for stage, owner, name in STAGES:
            watch, function = watches[stage], getattr(owner, name)
            timed = watch.around_steps(function) if owner is Decoder else watch.around(function)
            stack.enter_context(mock.patch.object(owner, name, timed))
        yield watches


def split(watches: dict[str, Stopwatch], whole_seconds: float) -> dict[str, float]:
    """Seconds of each stage and of the rest, without what the stopwatches cost."""
    inside, outside = _costs()
    found = {stage: max(0.0, watch.seconds - watch.calls * inside) for stage, watch in watches.items()}
    calls = sum(watch.calls for watch in watches.values())
    found[REST] = max(0.0, whole_seconds - sum(watch.seconds for watch in watches.values()) - calls * outside)
    return found


def _costs() -> tuple[float, float]:
    """Seconds that a stopwatch adds to its own stage and to what is around it, a call."""

    def nothing(_: object) -> None:
        """A stage that costs what calling it costs."""

    def seconds(function: Callable[[object], object]) -> float:
        begin = time.perf_counter()
        for _ in range(_READINGS):
            function(None)
        return (time.perf_counter() - begin) / _READINGS

    watch = Stopwatch()
    timed = watch.around(nothing)
    bare, whole = min(seconds(nothing) for _ in range(3)), min(seconds(timed) for _ in range(3))
    inside = max(0.0, watch.seconds / watch.calls - bare)
    return inside, max(0.0, whole - bare - inside)
