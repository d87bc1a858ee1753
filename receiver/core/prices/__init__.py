"""Prices: from an LLMCall to a PricedCall.

    names of the call -model_ids-> spellings -layers-> model of a list -cards-> card in force at its start -cost-> pico-USD

`book` asks the questions in this order and remembers the answers; `catalogue` holds a price list, `overrides` and `litellm` are
layers of their own. Money is integer pico-USD everywhere; the only rounding is half-even, once a component.
"""

from __future__ import annotations

from receiver.core.prices.book import PriceBook, PriceOptions
from receiver.core.prices.overrides import check_overrides
from receiver.core.prices.priced import Basis, PricedCall, Quote

__all__ = ["Basis", "PriceBook", "PriceOptions", "PricedCall", "Quote", "check_overrides"]
