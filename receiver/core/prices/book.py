"""The price book: what a call costs, from which list, and how sure that is.

`price(call)` is the one question of the close; `quote(reading, ...)` prices what a single span says. Both take the price in force
at the call's start. What cannot be priced says why and has no amount: unpriced is never 0.

Where a cost stands on the span too (an instrumentation computed it, or a gateway knows the invoice), the own price counts, but
for instrumentations that are known to drop cached token counts: there the stated cost is the better one when it lies between
the own prices with all input cached and with none (Spans that hide cached tokens make the own price too high.)

A quote is made for every model call, so what depends on names alone is worked out once and remembered in a bounded table:
finding a card costs microseconds, using it about one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from receiver.core.calls.call import Doubt, LLMCall
from receiver.core.prices.cards import LATEST, NANO, NO_OUTPUT, Card, Segment, segment_at, timeline
from receiver.core.prices.catalogue import TIER_CONTEXT, Catalogue
from receiver.core.prices.cost import INPUT_ONLY_FAMILIES, cost_of
from receiver.core.prices.layers import Hit, Layers
from receiver.core.prices.litellm import check_litellm, price_list
from receiver.core.prices.model_ids import MAX_NAME, registry_name
from receiver.core.prices.overrides import Override, check_overrides, compile_overrides
from receiver.core.prices.priced import Basis, PricedCall, Quote
from receiver.core.usage.reading import Reading, Tokens
from receiver.errors import ConfigError

#: How many combinations of names, provider and tier are remembered. A deployment has hundreds; junk names push out junk names.
MAX_REMEMBERED: Final = 8_192

_NO_DOUBTS: Final[frozenset[Doubt]] = frozenset()
_ALIAS: Final = frozenset({Doubt.MODEL_ALIAS})
_DIFFERS: Final = frozenset({Doubt.EMITTED_COST_DIFFERS})
#: A cost on a span is a rounded float: closer than this (or 1e-9 of it) it says the same as ours.
_SAME_PUSD: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceOptions:
    """What an operator may choose about pricing."""

    accept_before: float = 30 * 86_400.0  #: seconds a start may lie before its receipt and still be believed
    accept_after: float = 3_600.0  #: seconds it may lie after it
    prefer_reported: bool = False  #: a cost on the span counts before any price list
    cache_write_default: str = "5m"  #: "5m" or "1h": the life of cache writes whose life no span tells


class _Stretch:
    """What an entry says for one stretch of time: a card and everything of a quote that does not depend on tokens."""

    __slots__ = ("basis", "card", "doubts", "end", "model", "provider", "segment", "source", "start", "version")

    def __init__(self, start: int, end: int, segment: Segment, *, basis: Basis, source: str, version: str, hit: Hit | None, name: str, provider: str | None) -> None:
        self.start = start
        self.end = end
        self.segment = segment
        #: the card where the time of day does not matter, else None
        self.card: Card | None = segment.choices[0][1] if len(segment.choices) == 1 else None
        self.basis = basis
        self.source = source
        self.version = version
        self.model = hit.model.id if hit is not None else name
        self.provider = provider
        self.doubts = _NO_DOUBTS if hit is None or hit.sure or source not in _LIST_SOURCES else _ALIAS


#: Layers whose price follows from a model's name, so that a fall-back name matters.
_LIST_SOURCES: Final = frozenset({"patch", "genai-prices", "litellm"})


class _Entry:
    """What a set of names leads to."""

    __slots__ = ("_base", "_hit", "_overrides", "_provider", "_stated", "_tier", "last", "reason")

    def __init__(self, hit: Hit | None, overrides: Sequence[Override], *, tier: str, stated: str, provider: str | None) -> None:
        self._hit = hit
        self._overrides = overrides
        self._tier = tier
        self._stated = stated  #: the best name as stated: the label of a price that no list gave
        if hit is None or provider is not None:
            self._provider = provider
        else:
            self._provider = registry_name(hit.provider)
        self._base = hit.model.timeline(tier, borrowed=hit.borrowed) if hit is not None else ()
        self.last: _Stretch | None = None
        self.reason = "no_model" if not stated else "unknown_model"  #: why there is no price, where there is none

    @property
    def hit(self) -> Hit | None:
        return self._hit

    @property
    def provider(self) -> str | None:
        return self._provider

    def stretch(self, moment: int) -> _Stretch | None:
        """What holds at a moment; None when nothing prices these names then."""
        start, end = -LATEST, LATEST
        for one in self._overrides:
            if moment < one.start:
                end = min(end, one.start)
            elif moment >= one.end:
                start = max(start, one.end)
            elif one.segments or self._base:
                return self._by_override(one, max(start, one.start), min(end, one.end), moment)
        hit = self._hit
        if hit is None:
            return None
        segment = segment_at(self._base, moment)
        tier_missing = self._tier != "" and not segment.tier_listed
        guessed = tier_missing or (hit.borrowed and hit.model.by_the_hour)
        self.last = _Stretch(
            max(start, segment.start), min(end, segment.end), segment, basis=Basis.PARTIAL if guessed else Basis.LIST,
            source=hit.model.source, version=hit.model.version, hit=hit, name=self._stated, provider=self._provider,
        )  # fmt: skip
        return self.last

    def _by_override(self, one: Override, start: int, end: int, moment: int) -> _Stretch:
        segments = one.segments
        if not segments:
            assert self._hit is not None
            prices = [price for price in self._hit.model.prices if price.window is None or not self._hit.borrowed]
            context = TIER_CONTEXT[self._tier] if not self._hit.borrowed or self._tier == "batch" else {}
            segments = timeline(prices, self._hit.model.variants, context=context, factor=one.factor)
        segment = segment_at(segments, moment)
        guessed = self._tier != "" and not (segment.tier_listed or one.tier == self._tier)
        self.last = _Stretch(
            max(start, segment.start), min(end, segment.end), segment, basis=Basis.PARTIAL if guessed else Basis.LIST,
            source=one.source, version=one.version, hit=self._hit, name=self._stated, provider=self._provider,
        )  # fmt: skip
        return self.last


# A frozen dataclass sets its fields one by one through `object.__setattr__`, which costs more than the price itself. Quotes are
# made for every call, so they are filled through their slots: the same object, in half the time.
_new: Final = Quote.__new__
_set_basis: Final = Quote.basis.__set__  # type: ignore[attr-defined]  # mypy sees the field's type, at run time it is the slot
_set_cost: Final = Quote.cost_pusd.__set__  # type: ignore[union-attr]  # the same for all below
_set_source: Final = Quote.source.__set__  # type: ignore[attr-defined]
_set_version: Final = Quote.version.__set__  # type: ignore[attr-defined]
_set_model: Final = Quote.model.__set__  # type: ignore[union-attr]
_set_provider: Final = Quote.provider.__set__  # type: ignore[union-attr]
_set_reason: Final = Quote.unpriced_reason.__set__  # type: ignore[attr-defined]
_set_savings: Final = Quote.cache_savings_pusd.__set__  # type: ignore[attr-defined]
_set_premium: Final = Quote.cache_premium_pusd.__set__  # type: ignore[attr-defined]
_set_received: Final = Quote.at_receive_time.__set__  # type: ignore[attr-defined]
_set_doubts: Final = Quote.doubts.__set__  # type: ignore[attr-defined]
_set_incomplete: Final = Quote.usage_incomplete.__set__  # type: ignore[attr-defined]
_set_list_cost: Final = Quote.list_cost_pusd.__set__  # type: ignore[union-attr]
