"""What one span says of a model call: class, tokens, names, cost."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple


class Klass(Enum):
    """What kind of span it is. The value is a letter for tables: leaf, agent, tool, none, never (X)."""

    MODEL_CALL = "L"  #: one model call (leaf)
    AGENT = "A"  #: agent, chain, workflow, any other wrapper
    TOOL = "T"  #: tool execution
    NONE = "N"  #: says nothing of itself; treated like AGENT by the tree rule
    NEVER = "X"  #: never counted


class CacheMode(Enum):
    """Whether the span's input count already contains the cached tokens."""

    INCLUSIVE = "IN"
    EXCLUSIVE = "EX"


class Tokens(NamedTuple):
    """Tokens of a call. The buckets `uncached, cache_read, cache_write_5m, _1h, _unknown, output` are disjoint; the rest are subsets.

    input_total = uncached + cache_read + cache_write_5m + cache_write_1h + cache_write_unknown, always.
    """

    input_total: int = 0  #: all input, cached included
    uncached: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    cache_write_unknown: int = 0  #: written to a cache of unknown life; priced at the configured default (5m)
    output_total: int = 0  #: all billed output, reasoning included
    reasoning: int = 0  #: subset of output_total
    audio_in: int = 0  #: subset of uncached (the rest is text)
    image_in: int = 0
    video_in: int = 0
    audio_cache_read: int = 0  #: subset of cache_read
    audio_out: int = 0  #: subsets of output_total
    image_out: int = 0
    compaction_in: int = 0  #: additional to the above (Anthropic SDK), same model
    compaction_out: int = 0
    web_searches: int = 0  #: requests, not tokens: a fee each

    @property
    def cache_write(self) -> int:
        """Tokens written to a cache of any life."""
        return self.cache_write_5m + self.cache_write_1h + self.cache_write_unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one span says; immutable, may be shared by spans that say the same.

    A span that says nothing of a model call has klass and empty defaults.
    """

    klass: Klass
    family: str = "gen"  #: gen, embedding, rerank, image, speech, transcription, moderation (section 2)
    operation: str | None = None  #: as stated ("chat", "LLM", "ai.generateText.doGenerate" ...)
    tokens: Tokens | None = None  #: None: no usage on the span (None is not zero)
    has_cache_keys: bool = False  #: any cache count (also 0) stood on the span
    has_write_split: bool = False  #: a 5m/1h split stood on the span
    models: tuple[str, ...] = ()  #: every model name stated, best first (precedence of 3.2), as written
    model_requested: str | None = None
    provider: str | None = None  #: normalised by the synonym table; None when unknown
    provider_stated: str | None = None  #: as the span wrote it
    gateway: str | None = None  #: openrouter, litellm, ... when the stated provider is a gateway
    response_id: str | None = None
    tier: str | None = None  #: standard | flex | priority | batch | scale (3.4), None: not stated
    speed: str | None = None  #: "fast" has its own price
    emitted_cost_pusd: int | None = None  #: a cost > 0 that the emitter put on the span
    emitted_cost_key: str | None = None  #: the attribute that stated it
    emitted_cost_before_margin_pusd: int | None = None  #: LiteLLM's `original_cost`: what the provider takes of it
    emitted_cost_cumulative: bool = False  #: that cost may be the session's so far, not this call's
    cache_mode: CacheMode = CacheMode.INCLUSIVE
    cache_evidence: str = ""  #: "E0a" ... "E4", "" where no cache count was seen
    cache_hit: bool = False  #: answered from the emitter's own response cache: usage for statistics, cost 0
    cumulative: bool = False  #: scope is a cumulative source (8.8) where it is the only carrier
    mode_in_table: bool = False  #: the table of emitters states the cache mode for this scope and provider
    known_emitter: bool = True  #: scope stands in a table or in a vocabulary's known list
    drops_cache: bool = False  #: scope known to drop cached counts (8.10 rule 1)
    usage_incomplete: bool = False  #: numbers of this span are known to be partial
    clamped: int = 0  #: how many buckets had to be clamped (8.4)
    rejected: int = 0  #: how many stated counts were no believable number (negative, fractional, absurd) and are missing

    @property
    def is_carrier(self) -> bool:
        """It holds usage > 0 or a cost, so it may pay for a call."""
        if self.klass is Klass.NEVER:
            return False
        tokens = self.tokens
        return bool(self.emitted_cost_pusd) or (tokens is not None and (tokens.input_total > 0 or tokens.output_total > 0))
