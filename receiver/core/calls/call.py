"""The nouns of counting: an LLMCall is counted once; what could not be counted is Missing; what is not sure is a Doubt."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from receiver.core.span import Span
from receiver.core.usage.reading import Reading

if TYPE_CHECKING:
    from receiver.core.calls.tree import Tree


class Doubt(str, Enum):
    """Reasons why a number may be wrong: a closed list. A doubt never changes a number."""

    CACHE_MODE_GUESS = "cache_mode_guess"
    SUSPECTED_DOUBLE = "suspected_double"
    EMITTED_COST_DIFFERS = "emitted_cost_differs"
    WRAPPER_DIFFERS = "wrapper_differs"
    UNKNOWN_EMITTER = "unknown_emitter"
    MODEL_ALIAS = "model_alias"
    OUTER_WITHOUT_INNER = "outer_without_inner"
    SAMPLED = "sampled"
    DROPPED_ATTRIBUTES = "dropped_attributes"
    CLAMPED = "clamped"


@dataclass(slots=True, kw_only=True)
class LLMCall:
    """One model call, counted once."""

    account: str
    span: Span  #: the span that pays
    merged: tuple[Span, ...] = ()  #: other spans that tell of the same call, nearest first (outer, twins)
    reading: Reading  #: the call's reading: the paying span's, completed from the merged ones (8.6, 8.7)
    tree: Tree  #: the tree(s) of its Group: ancestors for attribution
    doubts: set[Doubt] = field(default_factory=set)


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """A model-call span that shows no usage, or a sign that spans or attributes were lost before they came."""

    account: str
    span: Span
    model: str | None
    reason: str  #: "no_usage", "sampled", "dropped_attributes"


@dataclass(slots=True)
class Counted:
    """What `count` found in one Group."""

    calls: list[LLMCall]
    missing: list[Missing]
    #: what happened on the way, for the metrics: (family name without prefix, label values in order) -> increment
    counters: dict[tuple[str, tuple[str, ...]], int]
    #: new last values of cumulative sources (8.8), to be written in the close transaction
    cumulative: dict[tuple[str, ...], tuple[int, ...]]
