"""What some tokens cost at some rates: the only multiplication in the house, and one rounding a component.

Tokens are told apart first: the buckets of `Tokens` are disjoint, the kinds inside them (audio, image, reasoning) are subsets
and are taken out of their bucket before it is multiplied, so nothing is billed twice whatever a span claims.
"""

from __future__ import annotations

from typing import Final

from receiver.core.money import divide_half_even
from receiver.core.prices.cards import (
    NO_AUDIO_IN,
    NO_AUDIO_OUT,
    NO_CACHE_READ,
    NO_CACHE_WRITE_1H,
    NO_CACHE_WRITE_5M,
    NO_IMAGE_OUT,
    NO_OUTPUT,
    NO_WEB_SEARCH,
    Rates,
)
from receiver.core.usage.reading import Tokens

#: (cost, bits of `Rates.missing` that mattered, gross cache savings, cache write premium); amounts in pico-USD
Cost = tuple[int, int, int, int]

#: What these return is not generated token by token, so their providers bill the input alone.
INPUT_ONLY_FAMILIES: Final = frozenset({"embedding", "rerank", "moderation"})


def cost_of(rates: Rates, tokens: Tokens, *, unknown_write_1h: bool = False) -> Cost:
    """Price one request. `unknown_write_1h`: cache writes of unknown life count as written for an hour, else for five minutes."""
    (
        _, uncached, read, write_5m, write_1h, write_unknown, output,
        reasoning, audio_in, image_in, video_in, audio_read, audio_out, image_out, compaction_in, compaction_out, searches,
    ) = tokens  # fmt: skip
    if (
        audio_in or image_in or video_in or audio_read or audio_out or image_out or compaction_in or compaction_out or searches
        or rates.request or rates.scale != 1 or (reasoning and rates.reasoning is not None)
    ):  # fmt: skip
        return _by_component(rates, tokens, unknown_write_1h=unknown_write_1h)
    r_in, r_read, r_5m, r_1h, r_out = rates.text
    if not (read or write_5m or write_1h or write_unknown):
        return uncached * r_in + output * r_out, rates.missing & NO_OUTPUT if output else 0, 0, 0
    if write_unknown:
        if unknown_write_1h:
            write_1h += write_unknown
        else:
            write_5m += write_unknown
    used = rates.missing
    if used:
        used &= (
            (NO_CACHE_READ if read else 0) | (NO_CACHE_WRITE_5M if write_5m else 0) | (NO_CACHE_WRITE_1H if write_1h else 0)
            | (NO_OUTPUT if output else 0)
        )  # fmt: skip
    return (
        uncached * r_in + read * r_read + write_5m * r_5m + write_1h * r_1h + output * r_out,
        used,
        read * (r_in - r_read),
        write_5m * (r_5m - r_in) + write_1h * (r_1h - r_in),
    )


def _by_component(rates: Rates, tokens: Tokens, *, unknown_write_1h: bool) -> Cost:
    """The same with every kind of token, fees, and rates that are no whole numbers."""
    r_in, r_read, r_5m, r_1h, r_out = rates.text
    write_5m, write_1h = tokens.cache_write_5m, tokens.cache_write_1h
    if unknown_write_1h:
        write_1h += tokens.cache_write_unknown
    else:
        write_5m += tokens.cache_write_unknown

    # A subset never exceeds what is left of its bucket: a contradiction on the span must not make a negative amount.
    text_in = tokens.uncached
    audio_in = min(tokens.audio_in, text_in)
    text_in -= audio_in
    image_in = min(tokens.image_in, text_in)
    text_in -= image_in
    video_in = min(tokens.video_in, text_in)
    text_in -= video_in
    audio_read = min(tokens.audio_cache_read, tokens.cache_read)
    text_read = tokens.cache_read - audio_read
    text_out = tokens.output_total
    audio_out = min(tokens.audio_out, text_out)
    text_out -= audio_out
    image_out = min(tokens.image_out, text_out)
    text_out -= image_out
    reasoning = 0
    if rates.reasoning is not None:
        reasoning = min(tokens.reasoning, text_out)
        text_out -= reasoning

    components = (
        text_in * r_in,
        audio_in * rates.audio_in,
        image_in * rates.image_in,
        video_in * rates.video_in,
        text_read * r_read,
        audio_read * rates.cache_read_audio,
        write_5m * r_5m,
        write_1h * r_1h,
        text_out * r_out,
        audio_out * rates.audio_out,
        image_out * rates.image_out,
        reasoning * (rates.reasoning or 0),
        tokens.compaction_in * r_in,
        tokens.compaction_out * r_out,
        tokens.web_searches * rates.web_search,
        rates.request,
    )
    savings = text_read * (r_in - r_read) + audio_read * (rates.audio_in - rates.cache_read_audio)
    premium = write_5m * (r_5m - r_in) + write_1h * (r_1h - r_in)
    scale = rates.scale
    if scale == 1:
        cost = sum(components)
    else:
        cost = sum(divide_half_even(part, scale) for part in components)
        savings, premium = divide_half_even(savings, scale), divide_half_even(premium, scale)
    used = rates.missing & (
        (NO_CACHE_READ if tokens.cache_read else 0)
        | (NO_CACHE_WRITE_5M if write_5m else 0)
        | (NO_CACHE_WRITE_1H if write_1h else 0)
        | (NO_AUDIO_IN if audio_in else 0)
        | (NO_AUDIO_OUT if audio_out else 0)
        | (NO_IMAGE_OUT if image_out else 0)
        | (NO_WEB_SEARCH if tokens.web_searches else 0)
        | (NO_OUTPUT if tokens.output_total or tokens.compaction_out else 0)
    )
    return cost, used, savings, premium
