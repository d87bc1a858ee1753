"""Which attributes of a span state counts, and the counts that they state.

A span's *shape* is the tuple of its attribute keys. All that depends only on the shape and the emitter (which spelling comes first,
which keys prove something) is worked out once per shape; a span then costs a look at its own values.
"""

from __future__ import annotations

from dataclasses import replace
from operator import itemgetter
from typing import TYPE_CHECKING, Final, NamedTuple

from receiver.core.usage.coerce import count
from receiver.core.usage.reading import CacheMode
from receiver.core.usage.rules import DETAILS, Rules, Vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from receiver.core.span import Value
    from receiver.core.usage.emitters import Emitter

Places = tuple[int, ...]  # indexes into a span's values, in order of precedence

#: The details that the short way reads; any other must be 0 there.
_QUICK_DETAILS: Final = ("cache_read", "cache_write", "cache_write_5m", "cache_write_1h", "reasoning")


class Counts:
    """The counts of one span as stated: not yet normalised. None: not stated."""

    __slots__ = (*DETAILS, "input", "mode", "output", "rejected", "total", "vocabulary")

    input: int | None
    output: int | None
    total: int | None
    cache_read: int | None
    cache_write: int | None
    cache_write_5m: int | None
    cache_write_1h: int | None
    reasoning: int | None
    audio_in: int | None
    image_in: int | None
    video_in: int | None
    audio_cache_read: int | None
    audio_out: int | None
    image_out: int | None
    compaction_in: int | None
    compaction_out: int | None
    web_searches: int | None

    def __init__(self) -> None:
        self.input = self.output = self.total = None
        self.cache_read = self.cache_write = self.cache_write_5m = self.cache_write_1h = self.reasoning = None
        self.audio_in = self.image_in = self.video_in = self.audio_cache_read = self.audio_out = self.image_out = None
        self.compaction_in = self.compaction_out = self.web_searches = None
        self.vocabulary = ""  #: the vocabulary that won, "" none
        self.mode: CacheMode | None = None  #: set where the form of the counts itself tells the cache mode
        self.rejected = 0  #: values that were there but are no believable counts

    @property
    def stated(self) -> bool:
        """Usage is stated at all: an input or an output, be it 0."""
        return self.input is not None or self.output is not None


class Quick(NamedTuple):
    """Where the counts of a plain shape stand (see `quick`)."""

    places: tuple[int, ...]  #: of input, output, total and `_QUICK_DETAILS`; -1: not on the span
    zeros: Places  #: counts that must be 0 for the short way
    vocabulary: Vocabulary
    has_cache_keys: bool
    has_write_split: bool
    pair: Callable[[Sequence[Value]], tuple[Value, Value]] | None  #: input and output, where these alone are stated


class Shape:
    """Where the counts stand in spans of one emitter with one tuple of keys."""

    __slots__ = (
        "boxes",
        "cache_places",
        "costs",
        "costs_before_margin",
        "details",
        "is_quiet",
        "langfuse",
        "only_never_counts",
        "proves_inclusive",
        "quick",
        "response_ids",
        "vocabularies",
    )

    def __init__(self, keys: Sequence[str], emitter: Emitter, rules: Rules) -> None:
        place: dict[str, int] = {}
        for index, key in enumerate(keys):
            place.setdefault(key, index)  # of a repeated key the first counts
        bare = rules.bare_scope.match(emitter.scope) is not None

        def places(wanted: Sequence[str]) -> Places:
            return tuple(place[key] for key in wanted if key in place)

        self.vocabularies: tuple[tuple[Vocabulary, Places, Places, Places], ...] = tuple(
            (_beside(vocabulary, place), places(vocabulary.input), places(vocabulary.output), places(vocabulary.total))
            for vocabulary in rules.vocabularies
            if (vocabulary.scope is None or vocabulary.scope.match(emitter.scope))
            and any(key in place for key in (*vocabulary.input, *vocabulary.output, *vocabulary.total))
        )
        self.details: tuple[tuple[str, Places], ...] = tuple(
            (name, found) for name in DETAILS if (found := places(rules.details[name]) + (places(rules.bare_details[name]) if bare else ()))
        )
        self.cache_places = any(name in DETAILS[:4] for name, _ in self.details)
        self.boxes: tuple[tuple[str, int], ...] = tuple((key, place[key]) for key in rules.boxes.keys if key in place) + tuple(
            (key, index) for key, index in place.items() if key.startswith(rules.boxes.prefixes)
        )
        self.langfuse = place.get(rules.langfuse_key)
        sdk = rules.sdk_scope.match(emitter.scope) is not None
        self.proves_inclusive = any(
            key.startswith(rules.inclusive_prefixes) or (sdk and key.startswith(rules.inclusive_sdk_prefixes)) for key in place
        )
        states_usage = bool(self.vocabularies or self.boxes) or self.langfuse is not None
        self.only_never_counts = not states_usage and any(
            key in rules.never_count_keys or key.startswith(rules.never_count_prefixes) for key in place
        )
        self.costs: tuple[tuple[str, int], ...] = tuple((key, place[key]) for key in rules.cost if key in place)
        self.costs_before_margin = places(rules.cost_before_margin)
        self.response_ids = places(rules.response_id)
        #: nothing here differs from one span to the next but the names: readings can be shared
        self.is_quiet = not (
            self.vocabularies or self.boxes or self.costs or self.response_ids or self.details or self.langfuse is not None
        )
        self.quick = self._quick()

    def _quick(self) -> Quick | None:
        """The places for the short way, None where a count has several spellings or stands in a box."""
        if len(self.vocabularies) != 1 or self.boxes or self.langfuse is not None:
            return None
        vocabulary, *spellings = self.vocabularies[0]
        if any(len(places) > 1 for places in (*spellings, *(places for _, places in self.details))) or not spellings[0]:
            return None
        details = dict(self.details)
        places = [*spellings, *(details.pop(name, ()) for name in _QUICK_DETAILS)]
        return Quick(
            places=tuple(place[0] if place else -1 for place in places),
            zeros=tuple(place for rest in details.values() for place in rest),
            vocabulary=vocabulary,
            has_cache_keys=self.cache_places,
            has_write_split=bool(places[5] or places[6]),
            pair=itemgetter(spellings[0][0], spellings[1][0]) if spellings[1] and not spellings[2] and not self.details else None,
        )


def _beside(vocabulary: Vocabulary, place: Collection[str]) -> Vocabulary:
    """The vocabulary as the keys beside it qualify it."""
    return vocabulary if vocabulary.exclusive_beside.isdisjoint(place) else replace(vocabulary, mode=CacheMode.EXCLUSIVE)


def gather(shape: Shape, values: Sequence[Value], operation: str | None, counts: Counts) -> None:
    """Add what the plain keys state to `counts`, for what these still lack.

    The first vocabulary that states usage wins (one that states only zeros does not, while another states more: emitters write
    zeros for "not told"); the others are the same call in other words.
    """
    zeros: tuple[Vocabulary, int | None, int | None, int | None] | None = None
    for vocabulary, inputs, outputs, totals in shape.vocabularies:
        if operation in vocabulary.not_on:
            continue
        found_input = _first(values, inputs, counts)
        found_output = _first(values, outputs, counts)
        found_total = _first(values, totals, counts)
        if not found_input and not found_output:
            if zeros is None and (found_input is not None or found_output is not None):
                zeros = (vocabulary, found_input, found_output, found_total)
            elif counts.total is None:
                counts.total = found_total
            continue
        _adopt(counts, vocabulary, found_input, found_output, found_total)
    if zeros is not None and not counts.stated:
        _adopt(counts, *zeros)
    for name, places in shape.details:
        if not getattr(counts, name):
            found = _first(values, places, counts)
            if found is not None:
                setattr(counts, name, found)


def _adopt(counts: Counts, vocabulary: Vocabulary, found_input: int | None, found_output: int | None, found_total: int | None) -> None:
    if not counts.vocabulary:
        counts.vocabulary = vocabulary.name
        counts.mode = vocabulary.mode
    if counts.input is None:
        counts.input = found_input
    if counts.output is None:
        counts.output = found_output
    if counts.total is None:
        counts.total = found_total


def _first(values: Sequence[Value], places: Places, counts: Counts) -> int | None:
    """The first count above 0, else the first 0: spellings of one count are synonyms, and a zero may mean "not told"."""
    found: int | None = None
    for place in places:
        number = count(values[place])
        if number:
            if number > 0:
                return number
            counts.rejected += 1
        elif number == 0:
            found = 0
    return found
