"""Usage that stands inside one attribute: Langfuse's buckets, and a provider's own usage object.

A box is read after all plain keys and only for what they lack. What a model answered may hold usage too; it is never opened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from receiver.core.usage.coerce import MAX_DEPTH, container, count, text
from receiver.core.usage.reading import CacheMode
from receiver.core.usage.rules import DETAILS, Boxes, Rules

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from receiver.core.usage.fields import Counts


class RawUsage:
    """A provider's usage object, flattened: the shallowest value of each key."""

    __slots__ = ("around_input", "flat")

    def __init__(self, box: Mapping[str, Any]) -> None:
        self.flat: dict[str, Any] = {}
        self.around_input: Mapping[str, Any] | None = None  #: the object that holds the provider's own input count
        for level in _levels(box):
            for key, value in level.items():
                if not isinstance(value, dict | list):
                    self.flat.setdefault(key.rpartition(".")[2] if "." in key else key, value)
            if self.around_input is None and ("input_tokens" in level or "inputTokens" in level):
                self.around_input = level

    def first(self, names: tuple[str, ...]) -> int | None:
        """The first count above 0 among these spellings, else the first 0."""
        found: int | None = None
        for name in names:
            if name in self.flat:
                number = count(self.flat[name])
                if number is not None and number > 0:
                    return number
                if number == 0:
                    found = 0
        return found

    def first_text(self, names: tuple[str, ...]) -> str | None:
        """The first text among these spellings."""
        return next((found for name in names if (found := text(self.flat.get(name)))), None)

    def mode_beside(self, span_input: int, boxes: Boxes) -> CacheMode | None:
        """What the raw input tells beside the span's: None where it tells nothing.

        Equal inputs, and the raw one belongs to a provider whose input leaves the cache out (its cache counts stand beside it): the
        span's leaves it out too. Equal without such counts (OpenAI's shape), or the raw parts add up to the span's: it is contained.
        """
        level = self.around_input
        if level is None:
            return None
        raw = count(level.get("input_tokens", level.get("inputTokens")))
        if raw is None or raw < 0:
            return None
        beside = [count(level[key]) for key in boxes.exclusive_beside if key in level]
        if raw == span_input:
            return CacheMode.EXCLUSIVE if beside else CacheMode.INCLUSIVE
        if beside and raw + sum(number for number in beside if number is not None and number > 0) == span_input:
            return CacheMode.INCLUSIVE
        return None


def _levels(box: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """`box` and the objects in it, shallowest first. Lists are not usage (content, iterations, details by modality)."""
    level: list[Mapping[str, Any]] = [box]
    for _ in range(MAX_DEPTH):
        yield from level
        level = [value for outer in level for value in outer.values() if isinstance(value, dict)]
        if not level:
            return


def add_raw(raw: RawUsage, key: str, boxes: Boxes, counts: Counts) -> None:
    """Fill what `counts` lack from a raw usage object that stood under `key`."""
    if not counts.stated and not key.startswith(boxes.details_only):
        found_input, found_output = raw.first(boxes.names["input"]), raw.first(boxes.names["output"])
        if found_input is not None or found_output is not None:
            counts.input, counts.output = found_input, found_output
            counts.vocabulary = key
            counts.mode = boxes.mode_if_sole.get(key)
            if counts.total is None:
                counts.total = raw.first(boxes.names["total"])
    total = raw.first(boxes.names["total"])
    if total and counts.input is not None and raw.first(boxes.names["input"]) == counts.input:
        counts.total = total  # the provider's own; another on the span may be the emitter's sum of what it knew
    for name in DETAILS:
        spellings = boxes.names[name]
        if spellings and not getattr(counts, name):
            found = raw.first(spellings)
            if found is not None:
                setattr(counts, name, found)


def add_langfuse(value: Any, rules: Rules, counts: Counts) -> None:
    """Read `langfuse.observation.usage_details` into `counts`; nothing happens when it states no usage.

    Its buckets are disjoint (input is what is left of the input) when they add up to the total or there is none; they are parts
    of input and output when those two alone make the total. OpenAI's names and nested details are parts too; Anthropic's own
    shape (with a nested `cache_creation`, which only splits what is written) leaves the cache out of its input.
    """
    box = container(value)
    if box is None:
        return
    found: dict[str, int] = {}
    other_input = other_output = 0
    nested = False
    raw_names = {"input_tokens", "prompt_tokens", "promptTokens"} & box.keys()
    for key, number, inside in _numbers(box):
        name = rules.langfuse.get(key)
        nested = nested or inside.endswith("_details")
        if name is None:
            if not inside and key.startswith("input_"):
                other_input += number
            elif not inside and key.startswith("output_"):
                other_output += number
        elif not found.get(name):
            found[name] = number
    if "input" not in found and "output" not in found:
        return
    stated_input, stated_output = found.get("input", 0), found.get("output", 0)
    write = max(found.get("cache_write", 0), found.get("cache_write_5m", 0) + found.get("cache_write_1h", 0))
    cached = found.get("cache_read", 0) + write
    parts_in = cached + other_input + sum(found.get(name, 0) for name in ("audio_in", "image_in", "video_in"))
    parts_out = other_output + sum(found.get(name, 0) for name in ("reasoning", "audio_out", "image_out"))
    total = found.get("total")
    counts.vocabulary = "langfuse"
    for name in DETAILS:
        if name in found:
            setattr(counts, name, found[name])
    if raw_names == {"input_tokens"} and not {"cache_read_input_tokens", "cache_creation_input_tokens"}.isdisjoint(box):
        counts.mode = CacheMode.EXCLUSIVE  # Anthropic's own usage object
        counts.input, counts.output, counts.total = stated_input, stated_output, total
        return
    if raw_names or nested:
        disjoint = False
    elif total is None or total == stated_input + parts_in + stated_output + parts_out:
        disjoint = True
    elif total == stated_input + stated_output:
        disjoint = False
    else:  # neither sum fits: the buckets do not tell, the later evidence decides
        counts.input, counts.output, counts.total = stated_input, stated_output, total
        return
    counts.mode = CacheMode.INCLUSIVE
    counts.input = stated_input + (parts_in if disjoint else 0)
    counts.output = stated_output + (parts_out if disjoint else 0)
    counts.total = counts.input + counts.output


def _numbers(box: Mapping[str, Any]) -> Iterator[tuple[str, int, str]]:
    """(bucket, count, the key of the nested object that holds it or "") of every believable count."""
    for key, value in box.items():
        nested = isinstance(value, dict)
        for name, part in value.items() if nested else ((key, value),):
            number = count(part)
            if number is not None and number >= 0:
                head, _, tail = name.rpartition(".")
                yield (tail if head else name), number, key if nested else head
