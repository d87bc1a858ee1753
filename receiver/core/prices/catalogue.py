"""A price list: providers, their models, and the rules by which a name finds its model.

Most rules are equalities, so a provider's models are indexed by name; only its few patterns are tried one by one, in the order
of the list, and only as far as the first equality. Rules, rates and timelines are compiled when they are first asked for: a
daemon that sees five models compiles five.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from fractions import Fraction
from typing import Any, Final

from receiver.core.prices.cards import Price, Segment, Variant, read_price, read_variant, timeline
from receiver.core.prices.model_ids import MAKERS

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
        self._timelines: dict[tuple[str, bool, Fraction | None], tuple[Segment, ...]] = {}

    @property
    def other(self) -> Mapping[str, str]:
        """Prices in units that spans do not count (hours, characters, pages): for people to read."""
        other: Mapping[str, str] = self._raw.get("other", {})
        return other

    @property
    def prices(self) -> tuple[Price, ...]:
        """All its standard prices, in the order of the list."""
        if self._prices is None:
            self._variants = tuple(read_variant(one, unit=self._unit) for one in self._raw.get("variants", ()))
            self._prices = tuple(read_price(one, unit=self._unit) for one in self._raw["prices"])
        return self._prices

    @property
    def tiers(self) -> tuple[str, ...]:
        """Service tiers that have rates of their own."""
        assert self.prices
        return tuple(name for name, context in TIER_CONTEXT.items() if any(_fits(variant, context) for variant in self._variants))

    def timeline(self, tier: str, *, borrowed: bool = False, factor: Fraction | None = None) -> tuple[Segment, ...]:
        """Its cards over time for a service tier. `borrowed`: another provider sells it at this price. `factor` multiplies every rate.

        A reseller's price follows the maker's list price and its batch discount, but not its rush tiers and hours of the day.
        """
        key = (tier, borrowed, factor)
        found = self._timelines.get(key)
        if found is None:
            prices = [price for price in self.prices if price.window is None] if borrowed else self.prices
            context = TIER_CONTEXT[tier] if not borrowed or tier == "batch" else {}
            found = self._timelines[key] = timeline(prices or self.prices, self._variants, context=context, factor=factor)
        return found

    @property
    def by_the_hour(self) -> bool:
        """Its price depends on the time of day."""
        return any(price.window is not None for price in self.prices)


def _fits(variant: Variant, context: Mapping[str, str]) -> bool:
    return bool(context) and all(context.get(key) == value for key, value in variant.when.items())


class _Patterns:
    """Many rules asked at once: can any of them fit? Turns down a junk name in a few microseconds."""

    __slots__ = ("_anywhere", "_ends", "_equal", "_rest", "_starts")

    def __init__(self, clauses: Iterable[Any]) -> None:
        texts: dict[str, dict[str, None]] = {"=": {}, "^": {}, "$": {}, "~": {}, "/": {}}
        rest: list[Matcher] = []
        for clause in clauses:
            if isinstance(clause, str):
                texts[clause[0]][clause[1:]] = None
            else:
                rest.append(matcher(clause))
        self._equal = frozenset(texts["="])
        self._starts, self._ends, self._anywhere = tuple(texts["^"]), tuple(texts["$"]), tuple(texts["~"])
        if texts["/"]:
            rest.append(re.compile("|".join(f"(?:{pattern})" for pattern in texts["/"])).search)
        self._rest = tuple(rest)

    def may_fit(self, name: str) -> bool:
        """False: no rule fits a lower-case name."""
        if name in self._equal or name.startswith(self._starts) or name.endswith(self._ends):
            return True
        for part in self._anywhere:
            if part in name:
                return True
        return any(matches(name) for matches in self._rest)


class _Shelf:
    """One provider's models, indexed."""

    __slots__ = ("_equal", "_matchers", "_models", "_patterns", "_raw", "fallback", "id", "provider_match")

    def __init__(self, raw: Mapping[str, Any], *, unit: str, source: str, version: str) -> None:
        self.id: str = raw["id"]
        self.fallback: tuple[str, ...] = tuple(raw.get("fallback", ()))
        self.provider_match: Any = raw.get("provider_match")
        self._raw = raw["models"]
        self._models = [Model(one, provider=self.id, unit=unit, source=source, version=version) for one in self._raw]
        self._equal: dict[str, int] = {}
        self._matchers: list[tuple[int, Matcher]] | None = None
        self._patterns = _Patterns(())

    def find(self, name: str) -> Model | None:
        """The first model of the list whose rule fits. `name` is lower case."""
        matchers = self._matchers
        if matchers is None:
            matchers = self._index()
        best = self._equal.get(name)
        if self._patterns.may_fit(name):
            for at, matches in matchers:
                if best is not None and at >= best:
                    break
                if matches(name):
                    return self._models[at]
        return self._models[best] if best is not None else None

    def clauses(self) -> Iterator[Any]:
        """The rules of all its models, alternatives apart."""
        for one in self._raw:
            yield from _alternatives(one["match"])

    def _index(self) -> list[tuple[int, Matcher]]:
        self._matchers = []
        patterns: list[Any] = []
        for at, one in enumerate(self._raw):
            for part in _alternatives(one["match"]):
                if isinstance(part, str) and part[0] == "=":
                    self._equal.setdefault(part[1:], at)
                else:
                    self._matchers.append((at, matcher(part)))
                    patterns.append(part)
        self._patterns = _Patterns(patterns)
        return self._matchers

    def models(self) -> list[Model]:
        """Its models, in the order of the list."""
        return self._models


def _alternatives(clause: Any) -> Iterator[Any]:
    if isinstance(clause, dict) and "or" in clause:
        for part in clause["or"]:
            yield from _alternatives(part)
    else:
        yield clause


def matcher(clause: Any) -> Matcher:
    """The rule of a clause as a function of a lower-case name.

    Kinds: `=` equal, `^` starts, `$` ends, `~` contains, `/` regular expression; {"or": [...]} and {"and": [...]} of them.
    """
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

    __slots__ = ("_makers", "_shelves", "date", "lenders", "source", "version")

    def __init__(self, raw: Mapping[str, Any]) -> None:
        if raw.get("schema") != SCHEMA:
            raise ValueError(f"a price list of schema {raw.get('schema')!r}; this version reads {SCHEMA!r}")
        self.source: str = raw["source"]
        self.version: str = raw["version"]
        self.date: str = str(raw["date"])  #: ISO date until which the list is known to be right
        self._makers: _Patterns | None = None
        self._shelves = {one["id"]: _Shelf(one, unit=raw["unit"], source=self.source, version=self.version) for one in raw["providers"]}
        #: provider -> makers whose models it sells at their prices, where its own list lacks them
        self.lenders = {shelf.id: shelf.fallback for shelf in self._shelves.values() if shelf.fallback}

    def find(self, provider: str, name: str) -> Model | None:
        """The model that a provider calls by a lower-case name."""
        shelf = self._shelves.get(provider)
        return shelf.find(name) if shelf is not None else None

    def makers_may_have(self, name: str) -> bool:
        """False: no maker of models lists a lower-case name, so none needs to be asked."""
        if self._makers is None:
            self._makers = _Patterns(part for maker in MAKERS if maker in self._shelves for part in self._shelves[maker].clauses())
        return self._makers.may_fit(name)

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
        """The models of a provider, or of all."""
        for name, shelf in self._shelves.items():
            if provider is None or name == provider:
                yield from shelf.models()
