"""When two readings tell of the same call, and what the one knows that the other lacks."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from receiver.core.usage.reading import Reading, Tokens

_VENDOR: Final = re.compile(
    r"^(?:(?:us|us-gov|eu|apac|global|jp|au|ca|sa)\.)?(?:anthropic|meta|amazon|cohere|mistral|ai21|openai|deepseek|qwen|writer|stability)\."
)
_TAIL: Final = re.compile(r"(?::(?:responses|completions|latest|free)|-latest|-v\d+(?::\d+)?|[-@]20\d\d-?\d\d-?\d\d)$")
_UNSURE: Final = frozenset({"", "E4"})  #: evidence of a cache mode that was not needed, or guessed
_MAX_NAMES: Final = 16  #: model names kept of one call; more come only from a hostile sender, and each is looked up in the prices


@lru_cache(maxsize=4096)
def _bare(model: str) -> str:
    """A model's name without vendor, region, date and endpoint, for comparing what two instrumentations wrote."""
    name = _VENDOR.sub("", model.strip().lower().rsplit("/", 1)[-1])
    shorter = _TAIL.sub("", name)
    while shorter and shorter != name:
        name, shorter = shorter, _TAIL.sub("", shorter)
    return name.replace(".", "-")  # OpenRouter writes claude-sonnet-4.5


def _names(reading: Reading) -> set[str]:
    names = {_bare(model) for model in reading.models}
    if reading.model_requested:
        names.add(_bare(reading.model_requested))
    names.discard("")
    return names


def models_share_a_name(one: Reading, other: Reading) -> bool:
    """A name that both state (asked, answered or the provider's), or one that the other's begins with."""
    mine, theirs = _names(one), _names(other)
    if not mine.isdisjoint(theirs):
        return True
    return any(a.startswith(b) or b.startswith(a) for a in mine for b in theirs)


def models_compatible(one: Reading, other: Reading) -> bool:
    """`models_share_a_name`, or a side that names no model."""
    if not (one.models or one.model_requested) or not (other.models or other.model_requested):
        return True
    return models_share_a_name(one, other)


def agree(one: Reading, other: Reading) -> bool:
    """Equal output, and equal input; or the one shows no cache, and its input is what the other shows as uncached, or none at all.

    (LangChain-based emitters lose Anthropic's cache counts, and are left with the fresh input; of a stream they may lose all input.)
    """
    a, b = one.tokens, other.tokens
    if a is None or b is None or a.output_total != b.output_total:
        return False
    if a.input_total == b.input_total:
        return True
    return _without_cache(a, b) or _without_cache(b, a)


def _without_cache(poor: Tokens, rich: Tokens) -> bool:
    """`poor` shows no cached tokens, and its input is the uncached part of `rich`."""
    if _cached(poor):
        return False
    if not poor.input_total:
        return poor.output_total > 0
    return _cached(rich) > 0 and poor.input_total == rich.uncached


def _cached(tokens: Tokens) -> int:
    return tokens.cache_read + tokens.cache_write


def complete(reading: Reading, others: Iterable[Reading]) -> Reading:
    """The paying span's reading with what it lacks taken from the other spans of the same call, nearest first.

    Counts are only taken where both agree, so this never changes how much a call used, only how it splits.
    """
    changes: dict[str, object] = {}
    tokens = reading.tokens
    drops_cache, evidence = reading.drops_cache, reading.cache_evidence
    has_cache_keys, has_write_split = reading.has_cache_keys, reading.has_write_split
    models = list(reading.models)
    lacking = [name for name in _LACKS if getattr(reading, name) is None]
    if reading.provider is not None:
        lacking = [name for name in lacking if name != "gateway"]  # a gateway above a client that called the provider itself
    for other in others:
        for name in tuple(lacking):
            value = getattr(other, name)
            if value is not None:
                changes[name] = value
                lacking.remove(name)
                if name == "emitted_cost_pusd":
                    changes |= {companion: getattr(other, companion) for companion in _COST_COMPANIONS}
        for model in other.models:
            if len(models) < _MAX_NAMES and model not in models:
                models.append(model)
        theirs = other.tokens
        if theirs is None:
            continue
        if tokens is None:
            tokens, has_cache_keys, has_write_split = theirs, other.has_cache_keys, other.has_write_split
            drops_cache, evidence = other.drops_cache, other.cache_evidence
            changes["cache_mode"] = other.cache_mode
            continue
        if _shows_the_split(tokens, theirs) or _proves_the_mode(tokens, evidence, theirs, other.cache_evidence):
            tokens = _with_input_of(tokens, theirs)
            has_cache_keys, has_write_split = True, other.has_write_split
            drops_cache, evidence = False, other.cache_evidence
            changes["cache_mode"] = other.cache_mode
        elif agree(reading, other):
            if other.has_cache_keys and not other.drops_cache:
                has_cache_keys, drops_cache = True, False
            if other.has_write_split and not has_write_split and theirs.cache_write == tokens.cache_write:
                tokens = tokens._replace(
                    cache_write_5m=theirs.cache_write_5m,
                    cache_write_1h=theirs.cache_write_1h,
                    cache_write_unknown=theirs.cache_write_unknown,
                )
                has_write_split = True
            if evidence == "E4" and other.cache_evidence not in _UNSURE and theirs.input_total == tokens.input_total:
                evidence = other.cache_evidence  # two tellers came to one number, and one of them knew
        if not tokens.reasoning and theirs.reasoning and theirs.output_total == tokens.output_total:
            tokens = tokens._replace(reasoning=theirs.reasoning)
    after = {
        "tokens": tokens,
        "models": tuple(models),
        "drops_cache": drops_cache,
        "cache_evidence": evidence,
        "has_cache_keys": has_cache_keys,
        "has_write_split": has_write_split,
    }
    changes |= {name: value for name, value in after.items() if value != getattr(reading, name)}
    return replace(reading, **changes) if changes else reading  # type: ignore[arg-type]  # names and types are Reading's own


_COST_COMPANIONS: Final = ("emitted_cost_key", "emitted_cost_before_margin_pusd", "emitted_cost_cumulative")
#: Fields of a Reading that may simply be taken from another teller of the same call when the paying span lacks them.
_LACKS: Final = ("response_id", "tier", "speed", "emitted_cost_pusd", "model_requested", "provider", "provider_stated", "gateway")


def _shows_the_split(mine: Tokens, theirs: Tokens) -> bool:
    """I show no cached tokens and they do, and the counts agree."""
    if _cached(mine) or not _cached(theirs) or mine.output_total != theirs.output_total:
        return False
    return mine.input_total in {theirs.input_total, theirs.uncached}


def _proves_the_mode(mine: Tokens, evidence: str, theirs: Tokens, their_evidence: str) -> bool:
    """We show the same cached tokens and output, and they knew better than I whether the input contains them.

    I only guessed and they did not; or I went by what is known of my emitter, and they show the provider's own usage object.
    """
    return (
        ((evidence == "E4" and their_evidence not in _UNSURE) or (evidence == "E3" and their_evidence == "E0d"))
        and _cached(mine) > 0
        and (mine.cache_read, mine.cache_write, mine.output_total) == (theirs.cache_read, theirs.cache_write, theirs.output_total)
        and mine.input_total != theirs.input_total
    )


def _with_input_of(mine: Tokens, theirs: Tokens) -> Tokens:
    """Their input, split as they split it; my output, and what only I know of it."""
    return theirs._replace(
        output_total=mine.output_total,
        reasoning=mine.reasoning or theirs.reasoning,
        audio_out=mine.audio_out or theirs.audio_out,
        image_out=mine.image_out or theirs.image_out,
        compaction_in=mine.compaction_in or theirs.compaction_in,
        compaction_out=mine.compaction_out or theirs.compaction_out,
        web_searches=mine.web_searches or theirs.web_searches,
    )
