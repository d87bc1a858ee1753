"""Whether a span's input count already contains the cached tokens, and how we know.

The first evidence that speaks decides; its label goes with the call, and from there into the report and the metrics:

    E0a   the vocabulary always contains them (AI SDK input details, Anthropic SDK, MLflow, Codex)
    E0b   the vocabulary never does (Claude Code's bare names)
    E0c   Langfuse's buckets, by their sum
    E0d   the provider's own usage object stands beside the count
    E1    the total is input + output + cached: not contained
    E2    more was cached than the input counts: not contained (Google's own counts may exceed the prompt a little: contained)
    E3    the table of emitters
    E4    nothing: contained, as the GenAI semantic conventions have it since 1.40. A guess, and said to be one
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from receiver.core.usage.reading import CacheMode

if TYPE_CHECKING:
    from receiver.core.usage.emitters import Facts
    from receiver.core.usage.fields import Counts

Evidence = tuple[CacheMode, str]

_IN: Final = CacheMode.INCLUSIVE
_EX: Final = CacheMode.EXCLUSIVE
#: input + output never proves anything by itself: several emitters compute such a total from an input without the cache.
_BY_TOTAL: Final[Evidence] = (_EX, "E1")
_MORE_THAN_INPUT: Final[Evidence] = (_EX, "E2")
#: Google counts a few percent more cached tokens than the prompt has (PostHog/posthog-js pull request 4473); far more is E2.
_GOOGLE_PERCENT: Final = 110
_MORE_THAN_INPUT_GOOGLE: Final[Evidence] = (_IN, "E2")


def cache_mode(
    counts: Counts, *, facts: Facts, provider: str | None, models: tuple[str, ...], proves_inclusive: bool, beside: CacheMode | None
) -> Evidence:
    """Mode and evidence label. `beside` is what a raw usage object told (`RawUsage.mode_beside`)."""
    if counts.vocabulary == "langfuse":
        if counts.mode is not None:
            return counts.mode, "E0c"
    elif (stated := by_vocabulary(counts.mode, proves_inclusive)) is not None:
        return stated
    if beside is not None:
        return beside, "E0d"
    cached = (counts.cache_read or 0) + write_total(counts)
    bedrock_openai = is_bedrock_openai(provider, models)
    if cached:
        found = by_figures(
            counts.input or 0,
            counts.output or 0,
            counts.total,
            cached,
            reasoning=counts.reasoning or 0,
            google=is_google(provider, models),
            bedrock_openai=bedrock_openai,
        )
        if found is not None:
            return found
    return by_table(facts, bedrock_openai=bedrock_openai)


def by_vocabulary(mode: CacheMode | None, proves_inclusive: bool) -> Evidence | None:
    """E0a and E0b: the names themselves tell."""
    if proves_inclusive:
        return _IN, "E0a"
    if mode is not None:
        return mode, "E0a" if mode is _IN else "E0b"
    return None


def by_figures(
    stated_input: int,
    stated_output: int,
    total: int | None,
    cached: int,
    *,
    reasoning: int,
    google: bool,
    bedrock_openai: bool,
) -> Evidence | None:
    """E1 and E2, for cached > 0: the figures themselves tell."""
    if total is not None and total != stated_input + stated_output and not bedrock_openai:
        whole = stated_input + stated_output + cached
        if total == whole or (reasoning and total == whole + reasoning):
            return _BY_TOTAL
    if cached > stated_input:
        return _MORE_THAN_INPUT_GOOGLE if google and cached * 100 <= stated_input * _GOOGLE_PERCENT else _MORE_THAN_INPUT
    return None


def by_table(facts: Facts, *, bedrock_openai: bool) -> Evidence:
    """E3 and E4."""
    if facts.mode is not None and not bedrock_openai:
        return facts.mode, "E3"
    return _IN, "E4"


def is_google(provider: str | None, models: tuple[str, ...]) -> bool:
    """Google's own models, whose cached count may exceed the prompt; Claude on Vertex counts as Anthropic does."""
    return provider is not None and provider.startswith("gcp.") and not any("claude" in model for model in models)


def is_bedrock_openai(provider: str | None, models: tuple[str, ...]) -> bool:
    """Whether neither a total nor the table of Bedrock's emitters tells: an OpenAI model on Bedrock.

    Its streams state an input that holds the cache write and a total that holds it twice (maximhq/bifrost pull request 6942).
    """
    return provider == "aws.bedrock" and any("openai" in model or "gpt-" in model for model in models)


def write_total(counts: Counts) -> int:
    """Tokens written to a cache. LangChain's Anthropic usage states a whole of 0 beside the parts by life."""
    return max(counts.cache_write or 0, (counts.cache_write_5m or 0) + (counts.cache_write_1h or 0))
