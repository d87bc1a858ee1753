"""A counter of our own: an integer a series, and when each series began."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from receiver.metrics.exposition import Point
from receiver.metrics.families import Family
from receiver.metrics.labels import UNKNOWN, Values


class Counter:
    """A counter whose label values are ours, or capped by `Values`."""

    __slots__ = ("_caps", "_unix_nano", "born", "family", "values")

    def __init__(self, family: Family, *, unix_nano: Callable[[], int], caps: Sequence[Values] = ()) -> None:
        self.family = family
        self.values: dict[tuple[str, ...], int] = {}
        self.born: dict[tuple[str, ...], int] = {}
        self._unix_nano = unix_nano
        self._caps = caps
        if not family.labels:
            self.add((), 0)  # a counter without labels is there from the start

    def add(self, labels: tuple[str, ...], amount: int) -> None:
        """Count; `amount` >= 0."""
        if self._caps:
            labels = tuple([cap.of(value) for cap, value in zip(self._caps, labels, strict=True)])
        try:
            self.values[labels] += amount
        except KeyError:
            self.values[labels] = amount
            self.born[labels] = self._unix_nano()

    def restore(self, labels: dict[str, str], value: int, created_unix_nano: int) -> None:
        """A series of an earlier process."""
        values = tuple(labels.get(label, UNKNOWN) for label in self.family.labels)
        for cap, one in zip(self._caps, values, strict=bool(self._caps)):
            cap.of(one)
        self.values[values] = self.values.get(values, 0) + value
        self.born[values] = created_unix_nano

    def points(self, born_until: int) -> list[Point]:
        """Every series; one that was born after `born_until` is still shown at 0."""
        return [Point(labels, value if self.born[labels] <= born_until else 0, self.born[labels]) for labels, value in self.values.items()]
