"""Charges made by hand, for the report and the metrics."""

from __future__ import annotations

from typing import Any

from receiver.core.attribution import Charge
from receiver.core.prices.priced import Basis, Quote
from receiver.core.usage.reading import Tokens


def quote(cost_pusd: int | None = 1_000, *, model: str | None = "gpt-4o", provider: str | None = "openai", **more: Any) -> Quote:
    """A list price, or, for a cost of None, no price."""
    if cost_pusd is None:
        more.setdefault("unpriced_reason", "unknown_model")
        return Quote(basis=Basis.UNPRICED, cost_pusd=None, source="", version="", model=None, provider=None, **more)
    more.setdefault("basis", Basis.LIST)
    return Quote(cost_pusd=cost_pusd, source="genai-prices", version="2026-11", model=model, provider=provider, **more)


def charge(number: int = 1, *, cost_pusd: int | None = 1_000, trace: int = 1, priced_as: Quote | None = None, **fields: Any) -> Charge:
    """A charge with 100 input tokens (60 uncached, 30 read, 10 written) and 9 output tokens, unless said otherwise."""
    told: dict[str, Any] = {
        "account": "acme",
        "trace_id": trace.to_bytes(16, "big"),
        "span_id": number.to_bytes(8, "big"),
        "merged_span_ids": (),
        "start_unix_nano": number,
        "scope": "some.scope",
        "scope_version": "1",
        "service": "shop",
        "operation": "chat",
        "tokens": Tokens(input_total=100, uncached=60, cache_read=30, cache_write_5m=10, output_total=9, reasoning=4),
        "quote": priced_as or quote(cost_pusd),
        "cache_mode": "IN",
        "cache_evidence": "E4",
        "outcome": "ok",
        "doubts": (),
        "model": "gpt-4o-2024-08-06",
        "provider": "openai",
        **dict.fromkeys(("agent", "workflow", "task", "feature", "route", "user", "session", "tenant", "prompt_version", "tool")),
    }
    return Charge(**(told | fields))
