"""From stated counts to disjoint buckets that add up (`Tokens`).

A count that contradicts the others is cut to what fits, never subtracted twice, and every cut is counted (`clamped`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from receiver.core.usage.cache_mode import write_total
from receiver.core.usage.reading import CacheMode, Tokens

if TYPE_CHECKING:
    from receiver.core.usage.fields import Counts


def tokens(counts: Counts, mode: CacheMode, *, reasoning_apart: bool) -> tuple[Tokens, int]:
    """The buckets of a span that states usage, and how many counts had to be cut.

    `reasoning_apart`: this emitter's output leaves reasoning out where no total tells.
    """
    clamped = 0
    stated = counts.input or 0
    read, written = counts.cache_read or 0, write_total(counts)
    write_5m, write_1h = counts.cache_write_5m or 0, counts.cache_write_1h or 0
    if mode is CacheMode.EXCLUSIVE:
        input_total = stated + read + written
    else:
        input_total = stated
        if read > stated:
            read, clamped = stated, clamped + 1
        if written > stated - read:
            written, clamped = stated - read, clamped + 1
            write_1h = min(write_1h, written)
            write_5m = min(write_5m, written - write_1h)
    uncached = input_total - read - written
    reasoning = counts.reasoning or 0
    output = output_total(
        counts.output or 0, reasoning, counts.total, input_total=input_total, stated_input=stated, reasoning_apart=reasoning_apart
    )
    if reasoning > output:
        reasoning, clamped = output, clamped + 1
    audio_cache_read = min(counts.audio_cache_read or 0, read)
    left = uncached
    modalities: list[int] = []
    for found in (max(0, (counts.audio_in or 0) - audio_cache_read), counts.image_in or 0, counts.video_in or 0):
        fits = min(found, left)
        clamped += fits < found
        left -= fits
        modalities.append(fits)
    audio_out = min(counts.audio_out or 0, output)
    image_out = min(counts.image_out or 0, output - audio_out)
    clamped += (audio_out < (counts.audio_out or 0)) + (image_out < (counts.image_out or 0))
    buckets = Tokens(
        input_total=input_total,
        uncached=uncached,
        cache_read=read,
        cache_write_5m=write_5m,
        cache_write_1h=write_1h,
        cache_write_unknown=written - write_5m - write_1h,
        output_total=output,
        reasoning=reasoning,
        audio_in=modalities[0],
        image_in=modalities[1],
        video_in=modalities[2],
        audio_cache_read=audio_cache_read,
        audio_out=audio_out,
        image_out=image_out,
        compaction_in=counts.compaction_in or 0,
        compaction_out=counts.compaction_out or 0,
        web_searches=counts.web_searches or 0,
    )
    return buckets, clamped


def output_total(output: int, reasoning: int, total: int | None, *, input_total: int, stated_input: int, reasoning_apart: bool) -> int:
    """All billed output. Reasoning is part of it unless the total, the emitter or the figures themselves say that it stands apart."""
    if not reasoning or total == input_total + output:
        return output
    if total == input_total + output + reasoning:
        return output + reasoning
    if total == stated_input + output:  # a total without the cache (OpenLIT, Spring AI)
        return output
    if reasoning_apart or reasoning > output:  # a part is never larger than the whole
        return output + reasoning
    return output
