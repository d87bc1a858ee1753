"""What a set of names leads to, worked out once: the card in force for a stretch of time, and all of a quote but its amounts.

Entries are remembered in a bounded table with two generations: what was asked for lately stays, junk names push out junk
names, and a name that leads nowhere is remembered as such.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from receiver.core.calls.call import Doubt
from receiver.core.prices.cards import EARLIEST, LATEST, Card, Segment, segment_at
from receiver.core.prices.layers import Hit
from receiver.core.prices.model_ids import registry_name
from receiver.core.prices.overrides import Override
from receiver.core.prices.priced import Basis

NO_DOUBTS: Final[frozenset[Doubt]] = frozenset()
MODEL_ALIAS: Final = frozenset({Doubt.MODEL_ALIAS})


class Stretch:
    """What holds from one moment to another."""

    __slots__ = ("basis", "card", "doubts", "end", "segment", "source", "start", "version")

    def __init__(
        self, start: int, end: int, segment: Segment, *, basis: Basis, source: str, version: str, doubts: frozenset[Doubt]
    ) -> None:
        self.start = start  #: unix nanoseconds, included
        self.end = end  #: excluded
        self.segment = segment
        #: the card where the time of day does not matter, else None
        self.card: Card | None = segment.choices[0][1] if len(segment.choices) == 1 else None
        self.basis = basis
        self.source = source
        self.version = version
        self.doubts = doubts


class Entry:
    """What a set of names, a provider and a service tier lead to."""

    __slots__ = ("_base", "_overrides", "_tier", "hit", "last", "model", "provider", "reason")

    def __init__(
        self, hit: Hit | None, overrides: Sequence[Override], *, names: Sequence[str], provider: str | None, same: bool, tier: str
    ) -> None:
        self.hit = hit
        #: label of the priced model; where only the operator's own row prices it, the best name as stated
        self.model = hit.model.id if hit is not None else names[0] if overrides else None
        #: as stated, unless somebody else sells it
        self.provider = registry_name(hit.provider) if hit is not None and not same else provider
        self.reason = "unknown_model" if names else "no_model"  #: why there is no price, where there is none
        self.last: Stretch | None = None  #: the answer of the last time: traffic is of now
        self._tier = tier
        self._base = hit.model.timeline(tier, borrowed=hit.borrowed) if hit is not None else ()
        self._overrides = [
            (one, one.segments or (hit.model.timeline(tier, borrowed=hit.borrowed, factor=one.factor) if hit is not None else ()))
            for one in overrides
        ]

    def stretch(self, moment: int) -> Stretch | None:
        """What holds at a moment (unix nanoseconds); None when nothing prices these names then."""
        start, end = EARLIEST, LATEST
        for one, segments in self._overrides:
            if moment < one.start:
                end = min(end, one.start)
            elif moment >= one.end:
                start = max(start, one.end)
            elif segments:
                listed = segment_at(segments, moment)
                own_tier = one.tier == self._tier and bool(one.segments)
                self.last = Stretch(
                    max(start, one.start, listed.start), min(end, one.end, listed.end), listed,
                    basis=self._basis(listed, own_tier=own_tier), source=one.source, version=one.version,
                    doubts=NO_DOUBTS if one.segments or self.hit is None or self.hit.sure else MODEL_ALIAS,
                )  # fmt: skip
                return self.last
        hit = self.hit
        if hit is None:
            return None
        segment = segment_at(self._base, moment)
        self.last = Stretch(
            max(start, segment.start), min(end, segment.end), segment,
            basis=self._basis(segment, own_tier=False), source=hit.model.source, version=hit.model.version,
            doubts=NO_DOUBTS if hit.sure else MODEL_ALIAS,
        )  # fmt: skip
        return self.last

    def _basis(self, segment: Segment, *, own_tier: bool) -> Basis:
        """Whether the rates are this tier's own, or a neighbour's were taken."""
        borrowed = self.hit is not None and self.hit.borrowed and self.hit.model.by_the_hour
        return Basis.PARTIAL if borrowed or (self._tier and not segment.tier_listed and not own_tier) else Basis.LIST


K = TypeVar("K")
V = TypeVar("V")


class Remembered(Generic[K, V]):
    """A table of at most `most` answers. Two generations: when the young one is full it becomes the old one, and what was asked
    for in neither is forgotten. Cheaper than true least-recently-used, and as safe against junk."""  # noqa: D205, D209 -- one thought

    __slots__ = ("_half", "_make", "_old", "young")

    def __init__(self, make: Callable[[K], V], *, most: int) -> None:
        self._make = make
        self._half = max(1, most // 2)
        self.young: dict[K, V] = {}  #: looked into by the hot path before it asks
        self._old: dict[K, V] = {}

    def __len__(self) -> int:
        return len(self.young) + len(self._old)

    def ask(self, key: K) -> V:
        """The answer for a key: remembered, or made."""
        found = self.young.get(key)
        if found is not None:
            return found
        found = self._old.pop(key, None)
        if found is None:
            found = self._make(key)
        if len(self.young) >= self._half:
            self._old, self.young = self.young, {}
        self.young[key] = found
        return found
