"""What the book knows of one model, for people: the answer of `spantoll price MODEL`."""

from __future__ import annotations

from difflib import get_close_matches
from fractions import Fraction
from typing import Any, Final

from receiver.core.prices.cards import EARLIEST, LATEST, REQUEST_RATES, Card, RawRates, segment_at
from receiver.core.prices.catalogue import TIER_CONTEXT
from receiver.core.prices.layers import Hit, Layers
from receiver.core.prices.model_ids import MAKERS, MAX_NAME, registry_name, spellings

#: How many near names are offered for a model that is not listed.
NEAR: Final = 8


def describe(layers: Layers, model: str, provider: str | None, *, at: int) -> dict[str, Any]:
    """Provider, rates in USD per million tokens, tiers, and where they come from, at a moment (unix nanoseconds).

    `found` is False for a model of no list; then `near` names what it may have been. Every entry of `rates` has `tier`
    ("standard", "batch" ...), `above_input_tokens` (0: any length) and rates as decimal strings: tokens per million,
    `web_search` and `request` per thousand. `valid_from` and `valid_to` are unix nanoseconds, None where open.
    """
    hit = layers.find((model,), provider=provider, gateway=None)
    if hit is None:
        return {"asked": model, "found": False, "provider": provider, "near": _near(layers, model, provider)}
    segment = segment_at(hit.model.timeline("", borrowed=hit.borrowed), at)
    return {
        "asked": model,
        "found": True,
        "sure": hit.sure,
        "provider": registry_name(hit.provider),
        "listed_by": hit.model.provider,
        "model": hit.model.id,
        "source": hit.model.source,
        "version": hit.model.version,
        "valid_from": None if segment.start <= EARLIEST else segment.start,
        "valid_to": None if segment.end >= LATEST else segment.end,
        "by_time_of_day": len(segment.choices) > 1,
        "rates": _rates(hit, at),
        "other_rates": dict(hit.model.other),
        "near": [],
    }


def _rates(hit: Hit, at: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for tier in TIER_CONTEXT:
        segment = segment_at(hit.model.timeline(tier, borrowed=hit.borrowed), at)
        if tier and not segment.tier_listed:
            continue
        card = segment.card(at)
        if card is not None:
            rows += [{"tier": tier or "standard", **row} for row in _by_length(card)]
    return rows


def _by_length(card: Card) -> list[dict[str, Any]]:
    thresholds = [0, *sorted(above for above, _ in card.tiers)]
    return [
        {"above_input_tokens": above, "rates": {name: _usd(name, rate) for name, rate in _at(card.raw, above).items()}}
        for above in thresholds
    ]


def _at(raw: RawRates, threshold: int) -> dict[str, Fraction]:
    rates: dict[str, Fraction] = {}
    for name, (base, tiers) in raw.items():
        rates[name] = next((rate for above, rate in reversed(tiers) if above <= threshold), base) if threshold else base
    return rates


def _usd(name: str, pusd: Fraction) -> str:
    """USD per million tokens, or per thousand requests, to twelve places."""
    usd = pusd / (10**9 if name in REQUEST_RATES else 10**6)
    scaled = round(usd * 10**12)
    return f"{scaled // 10**12}.{scaled % 10**12:012d}".rstrip("0").rstrip(".")


def _near(layers: Layers, model: str, provider: str | None) -> list[str]:
    """Listed models with a similar name, as "provider/model", most similar first."""
    wanted = provider and layers.provider_of(provider)
    names: dict[str, str] = {}
    for seller in (wanted,) if wanted else (*MAKERS, None):  # who makes a model is named before who resells it
        for one in layers.lists:
            for listed in one.models(seller):
                names.setdefault(listed.id.lower(), f"{registry_name(listed.provider)}/{listed.id}")
    if not names and wanted:
        return _near(layers, model, None)
    asked = [spelling.name for spelling in spellings(model[:MAX_NAME])] or [model[:MAX_NAME].lower()]
    close: dict[str, None] = {}
    for name in (asked[0], asked[-1]):
        close.update(dict.fromkeys(get_close_matches(name, names, n=NEAR, cutoff=0.6)))
    return [names[name] for name in close][:NEAR]
