"""LiteLLM's `model_prices_and_context_window.json` as the last price list, for models that the others lack.

It is one flat table of names, each with the provider it is billed by, without history. What it says is taken with care: an
entry whose input and output cost nothing is how it writes "not known", so it is no price; a rate above 0.1 USD a token is a
unit error; a file with few models was cut off.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

from receiver.core.prices.cards import PUSD
from receiver.core.prices.catalogue import SCHEMA
from receiver.core.prices.model_ids import provider_id

#: The real file has thousands; fewer than this is a truncated download.
MIN_MODELS: Final = 500
#: The dearest models cost 0.0006 USD a token.
_MAX_USD_PER_TOKEN: Final = Fraction(1, 10)

_RATES: Final = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cache_read",
    "cache_creation_input_token_cost": "cache_write_5m",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h",
    "input_cost_per_audio_token": "input_audio",
    "output_cost_per_audio_token": "output_audio",
    "input_cost_per_image_token": "input_image",
    "output_cost_per_image_token": "output_image",
    "output_cost_per_reasoning_token": "output_reasoning",
}
_TIERS: Final = {
    "_batches": {"processing": "batch"},
    "_flex": {"service_tier": "flex"},
    "_priority": {"service_tier": "priority"},
}
_KEY: Final = re.compile(rf"({'|'.join(sorted(_RATES, key=len, reverse=True))})(?:_above_(\d+)k_tokens)?({'|'.join(_TIERS)})?$")
#: Modes whose price is told by tokens.
_MODES: Final = frozenset(
    {"chat", "completion", "responses", "embedding", "rerank", "audio_transcription", "realtime", "image_generation", ""}
)


def check_litellm(table: Mapping[str, Any]) -> list[str]:
    """What makes the file unusable as a price list, a sentence each."""
    models = sum(isinstance(entry, Mapping) and "litellm_provider" in entry for entry in table.values())
    if models < MIN_MODELS:
        return [f"prices.litellm_file: holds {models:,} models; a whole file has at least {MIN_MODELS:,}"]
    return []


def price_list(table: Mapping[str, Any], *, version: str) -> dict[str, Any]:
    """The file as a price list of our own schema. Entries without a believable token price are left out."""
    shelves: dict[str, list[dict[str, Any]]] = {}
    for name, entry in table.items():
        if name == "sample_spec" or not isinstance(entry, Mapping) or str(entry.get("mode", "")) not in _MODES:
            continue
        stated = str(entry.get("litellm_provider", ""))
        prices = _prices(entry)
        if prices is None or not stated:
            continue
        lowered = name.lower()
        names = [lowered]
        head, slash, rest = lowered.partition("/")
        if slash and (provider_id(head) is not None or head == stated.lower()):
            names.append(rest)
        rows = shelves.setdefault(provider_id(stated) or stated.lower(), [])
        rows.append({"id": names[-1], "match": {"or": [f"={one}" for one in names]}, **prices})
    return {
        "schema": SCHEMA,
        "source": "litellm",
        "version": version,
        "date": "",
        "unit": "pusd",
        "providers": [{"id": provider, "name": provider, "models": rows} for provider, rows in shelves.items()],
    }


def _prices(entry: Mapping[str, Any]) -> dict[str, Any] | None:
    """`prices` and `variants` of an entry, or None when it states no believable price of a token."""
    columns: dict[str, dict[str, list[tuple[int, str]]]] = {}
    for key, value in entry.items():
        match = _KEY.fullmatch(key)
        if match is None or value is None:
            continue
        rate = _rate(value)
        if rate is None:
            return None
        above = int(match[2]) * 1_000 if match[2] else 0
        columns.setdefault(match[3] or "", {}).setdefault(_RATES[match[1]], []).append((above, rate))
    tables = {tier: {name: _tiered(steps) for name, steps in rates.items() if min(steps)[0] == 0} for tier, rates in columns.items()}
    standard = tables.pop("", {})
    if "input" not in standard or all(standard.get(name) in (None, "0") for name in ("input", "output")):
        return None
    query = entry.get("search_context_cost_per_query")
    if isinstance(query, Mapping) and (fee := _rate(query.get("search_context_size_medium"))) is not None:
        standard["web_search"] = fee
    variants = [{"when": _TIERS[tier], "rates": rates} for tier, rates in tables.items() if rates]
    return {"prices": [{"rates": standard}], **({"variants": variants} if variants else {})}


def _tiered(steps: list[tuple[int, str]]) -> Any:
    steps.sort()
    (_, base), *above = steps
    return [base, *([threshold, rate] for threshold, rate in above)] if above else base


def _rate(usd: Any) -> str | None:
    """Pico-USD as a number in text; None when it is no believable rate of one token (or of one search)."""
    if isinstance(usd, bool) or not isinstance(usd, (int, float, Decimal)):
        return None
    try:
        exact = Fraction(str(usd))
    except ValueError:
        return None
    return str(exact * PUSD) if 0 <= exact <= _MAX_USD_PER_TOKEN else None
