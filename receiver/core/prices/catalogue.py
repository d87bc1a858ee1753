"""A price list: providers, their models, and the rules by which a name finds its model.

Most rules are equalities, so a provider's models are indexed by name; only its few patterns are tried one by one, in the order
of the list, and only as far as the first equality. Rules, rates and timelines are compiled when they are first asked for: a
daemon that sees five models compiles five.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from receiver.core.prices.cards import Price, Segment, Variant, read_price, read_variant, timeline

SCHEMA: Final = "spantoll.prices/1"

Matcher = Callable[[str], object]

#: Request context that selects a model's service-tier rates, by the name that spans give the tier.
TIER_CONTEXT: Final[Mapping[str, Mapping[str, str]]] = {
    "": {},
    "batch": {"processing": "batch"},
    "flex": {"service_tier": "flex"},
    "priority": {"service_tier": "priority"},
    "fast": {"speed": "fast", "service_tier": "fast"},
}


class Model:
    """One model of one provider, its prices still as the file states them."""

    __slots__ = ("_prices", "_raw", "_timelines", "_unit", "_variants", "id", "provider", "source", "version")

    def __init__(self, raw: Mapping[str, Any], *, provider: str, unit: str, source: str, version: str) -> None:
        self.id: str = raw["id"]
        self.provider = provider  #: id in the price list
        self.source = source
        self.version = version
        self._raw = raw
        self._unit = unit
        self._prices: tuple[Price, ...] | None = None
        self._variants: tuple[Variant, ...] = ()
        self._timelines: dict[tuple[str, bool], tuple[Segment, ...]] = {}

    @property
    def other(self) -> Mapping[str, str]:
        """Prices in units that spans do not count (hours, characters, pages): for people to read."""
        other: Mapping[str, str] = self._raw.get("other", {})
        return other

    @property
    def prices(self) -> tuple[Price, ...]:
        if self._prices is None:
            self._variants = tuple(read_variant(one, unit=self._unit) for one in self._raw.get("variants", ()))
            self._prices = tuple(read_price(one, unit=self._unit) for one in self._raw["prices"])
        return self._prices

    @property
    def tiers(self) -> tuple[str, ...]:
        """Service tiers that have rates of their own."""
        assert self.prices
        found = [name for name, context in TIER_CONTEXT.items() for v in self._variants if _fits(v, context)]
        return tuple(dict.fromkeys(found))

    def timeline(self, tier: str, *, borrowed: bool = False) -> tuple[Segment, ...]:
        """Its cards over time for a service tier. `borrowed`: another provider sells it at this price.

        A reseller's price follows the maker's list price and its batch discount, but not its rush tiers and hours of the day.
        """
        key = (tier, borrowed)
        found = self._timelines.get(key)
        if found is None:
            prices = [price for price in self.prices if price.window is None] if borrowed else self.prices
            context = TIER_CONTEXT[tier] if not borrowed or tier == "batch" else {}
            found = self._timelines[key] = timeline(prices or self.prices, self._variants, context=context)
        return found

    @property
    def by_the_hour(self) -> bool:
        """Its price depends on the time of day."""
        return any(price.window is not None for price in self.prices)


def _fits(variant: Variant, context: Mapping[str, str]) -> bool:
    return bool(context) and all(context.get(key) == value for key, value in variant.when.items())


class _Shelf:
    """One provider's models, indexed."""

    __slots__ = ("_equal", "_matchers", "_models", "_raw", "fallback", "id", "provider_match")

    def __init__(self, raw: Mapping[str, Any], *, unit: str, source: str, version: str) -> None:
        self.id: str = raw["id"]
        self.fallback: tuple[str, ...] = tuple(raw.get("fallback", ()))
        self.provider_match: Any = raw.get("provider_match")
        self._raw = raw["models"]
        self._models = [Model(one, provider=self.id, unit=unit, source=source, version=version) for one in self._raw]
        self._equal: dict[str, int] = {}
        self._matchers: list[tuple[int, Matcher]] | None = None

    def find(self, name: str) -> Model | None:
        """The first model of the list whose rule fits. `name` is lower case."""
        matchers = self._matchers
        if matchers is None:
            matchers = self._index()
        best = self._equal.get(name, len(self._models))
        for at, matches in matchers:
            if at >= best:
                break
            if matches(name):
                return self._models[at]
        return self._models[best] if best < len(self._models) else None

    def _index(self) -> list[tuple[int, Matcher]]:
        self._matchers = []
        for at, one in enumerate(self._raw):
            for part in _alternatives(one["match"]):
                if isinstance(part, str) and part[0] == "=":
                    self._equal.setdefault(part[1:], at)
                else:
                    self._matchers.append((at, matcher(part)))
        return self._matchers

    def models(self) -> list[Model]:
        return self._models


def _alternatives(clause: Any) -> Iterator[Any]:
    if isinstance(clause, dict) and "or" in clause:
        for part in clause["or"]:
            yield from _alternatives(part)
    else:
        yield clause


def matcher(clause: Any) -> Matcher:
    """The rule of a clause as a function of a lower-case name. Kinds: `=` equal, `^` starts, `$` ends, `~` contains, `/` regular expression."""
    if isinstance(clause, dict):
        if "or" in clause:
            parts = [matcher(part) for part in clause["or"]]
            return lambda name: any(part(name) for part in parts)
        parts = [matcher(part) for part in clause["and"]]
        return lambda name: all(part(name) for part in parts)
    kind, text = clause[0], clause[1:]
    match kind:
        case "=":
            return lambda name: name == text
        case "^":
            return lambda name: name.startswith(text)
        case "$":
            return lambda name: name.endswith(text)
        case "~":
            return lambda name: text in name
        case "/":
            return re.compile(text).search
        case _:
            raise ValueError(f"{clause!r} is no match rule")


class Catalogue:
    """One layer's price list."""

    __slots__ = ("_shelves", "date", "source", "version")

    def __init__(self, raw: Mapping[str, Any]) -> None:
        if raw.get("schema") != SCHEMA:
            raise ValueError(f"a price list of schema {raw.get('schema')!r}; this version reads {SCHEMA!r}")
        self.source: str = raw["source"]
        self.version: str = raw["version"]
        self.date: str = str(raw["date"])  #: ISO date until which the list is known to be right
        self._shelves = {
            one["id"]: _Shelf(one, unit=raw["unit"], source=self.source, version=self.version) for one in raw["providers"]
        }

    def __contains__(self, provider: object) -> bool:
        return provider in self._shelves

    @property
    def providers(self) -> tuple[str, ...]:
        return tuple(self._shelves)

    def find(self, provider: str, name: str) -> Model | None:
        """The model that a provider calls by a lower-case name."""
        shelf = self._shelves.get(provider)
        return shelf.find(name) if shelf is not None else None

    def lenders(self, provider: str) -> tuple[str, ...]:
        """Makers whose models the provider sells at their prices, where its own list lacks them."""
        shelf = self._shelves.get(provider)
        return shelf.fallback if shelf is not None else ()

    def provider_called(self, stated: str) -> str | None:
        """The provider whose own rule fits a name that the table of spellings does not know."""
        lowered = stated.lower().strip()
        if lowered in self._shelves:
            return lowered
        for shelf in self._shelves.values():
            if shelf.provider_match is not None and matcher(shelf.provider_match)(lowered):
                return shelf.id
        return None

    def models(self, provider: str | None = None) -> Iterator[Model]:
        for name, shelf in self._shelves.items():
            if provider is None or name == provider:
                yield from shelf.models()
