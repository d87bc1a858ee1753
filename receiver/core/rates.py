"""How often strangers may ask: a bucket for each address, refilled evenly, forgotten when it is full again."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

#: Addresses that are remembered. Beyond it the one that has asked for nothing for longest is forgotten, which gives it a full bucket:
#: who has so many addresses is held back by the bound on all together.
MAX_REMEMBERED: Final = 10_000


class Buckets:
    """One object for one kind of question."""

    __slots__ = ("_burst", "_left", "_per_second")

    def __init__(self, *, burst: int, seconds: float) -> None:
        """`burst` questions at once, and as many again spread over `seconds`."""
        assert burst > 0 < seconds
        self._burst = float(burst)
        self._per_second = burst / seconds
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  #: name -> (questions left, monotonic seconds of then)

    def take(self, name: str, *, now: float) -> float:
        """0.0 when `name` may ask now, which counts; else after how many seconds it may."""
        left, at = self._left.get(name, (self._burst, now))
        left = min(self._burst, left + max(0.0, now - at) * self._per_second)
        allowed = left >= 1.0
        self._left[name] = (left - 1.0 if allowed else left, now)
        self._left.move_to_end(name)
        if len(self._left) > MAX_REMEMBERED:
            self._left.popitem(last=False)
        return 0.0 if allowed else (1.0 - left) / self._per_second
