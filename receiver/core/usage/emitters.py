"""What is known of instrumentation scopes: rows of (scope, version, provider) with facts, and the emitter they add up to.

Neither the provider nor the name of a key tells whether an input count contains the cached tokens: the scope with its version and
the provider do. So this knowledge is a table (`usage.toml`, and `[[usage.scope]]` in the operator's config, which stands first).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from receiver.core.usage.reading import CacheMode, Klass

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Version = tuple[int, ...]
_BOUND: Final = re.compile(r"\s*(>=|<=|==|>|<)\s*v?(\d+(?:\.\d+)*)\s*$")
_NUMBERS: Final = re.compile(r"v?(\d+(?:\.\d+)*)")
_COMPARE: Final[Mapping[str, Callable[[Version, Version], bool]]] = {
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
    "==": lambda a, b: a == b,
    ">": lambda a, b: a > b,
    "<": lambda a, b: a < b,
}
_COLUMNS: Final = frozenset(
    (
        "scope", "version", "provider", "attribute", "mode", "tier", "drops_cache", "cumulative", "incomplete", "reasoning_apart",
        "cost_cumulative", "own_total",
    )
)  # fmt: skip
_FLAGS: Final = ("drops_cache", "reasoning_apart", "cost_cumulative", "own_total")
_TIERS: Final = ("standard", "flex", "priority", "batch", "scale")
_WRAPPERS: Final = frozenset((Klass.AGENT, Klass.NONE))


def version_of(text: str) -> Version | None:
    """The leading numbers of a version ("1.3b0" is 1.3), without trailing zeros so that 2 equals 2.0; None when there are none."""
    match = _NUMBERS.match(text.strip())
    if match is None:
        return None
    numbers = [int(part[:9]) for part in match.group(1).split(".")[:6]]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


class VersionRange:
    """Such as ">=1.2,<2". A scope without a version is in no range: nothing is known of it."""

    __slots__ = ("_bounds",)

    def __init__(self, text: str) -> None:
        self._bounds: list[tuple[str, Version]] = []
        for part in text.split(","):
            match = _BOUND.match(part)
            if match is None:
                raise ValueError(f'{part.strip()!r} is no version bound: write for example ">=1.2,<2"')
            self._bounds.append((match.group(1), version_of(match.group(2)) or ()))

    def __contains__(self, version: str) -> bool:
        numbers = version_of(version)
        return numbers is not None and all(_COMPARE[sign](numbers, bound) for sign, bound in self._bounds)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeRow:
    """One row of the table of emitters; a condition that is None holds for every span."""

    scope: re.Pattern[str]
    version: VersionRange | None = None
    providers: frozenset[str] | None = None
    attribute: tuple[str, str] | None = None  #: (key, value) that the span must state
    mode: CacheMode | None = None
    drops_cache: bool = False
    cumulative: frozenset[Klass] = frozenset()
    incomplete: frozenset[Klass] = frozenset()
    reasoning_apart: bool = False
    cost_cumulative: bool = False
    own_total: bool = False
    tier: str | None = None


def scope_row(row: Mapping[str, Any], where: str, normalise: Callable[[str], str], problems: list[str]) -> ScopeRow | None:
    """A checked row. What is wrong with it is added to `problems`, a sentence each, and None is returned."""
    before = len(problems)
    known = ", ".join(sorted(_COLUMNS))
    problems.extend(f"{where}.{column}: there is no such key; a row has {known}" for column in sorted(row.keys() - _COLUMNS))
    scope = row.get("scope")
    pattern = re.compile("")
    if not isinstance(scope, str) or not scope:
        problems.append(f"{where}.scope: a regular expression for the scope's name is needed, found {scope!r}")
    else:
        try:
            pattern = re.compile(scope)
        except re.error as error:
            problems.append(f"{where}.scope: {scope!r} is no regular expression ({error})")
    versions = None
    if row.get("version"):
        try:
            versions = VersionRange(str(row["version"]))
        except ValueError as error:
            problems.append(f"{where}.version: {error}")
    mode = row.get("mode") or None
    if mode not in (None, "IN", "EX"):
        problems.append(f'{where}.mode: {mode!r} is neither "IN" (input contains the cached tokens) nor "EX" (it does not)')
        mode = None
    problems.extend(
        f"{where}.{name}: true or false is needed, found {row[name]!r}" for name in _FLAGS if not isinstance(row.get(name, False), bool)
    )
    tier = row.get("tier") or None
    if tier not in (None, *_TIERS):
        problems.append(f"{where}.tier: {tier!r} is none of {', '.join(_TIERS)}")
    attribute = row.get("attribute") or None
    if attribute is not None and not (isinstance(attribute, str) and "=" in attribute):
        problems.append(f'{where}.attribute: "key=value" is needed, found {attribute!r}')
        attribute = None
    providers = row.get("provider") or None
    if isinstance(providers, str):
        providers = [providers]
    if providers is not None and not (isinstance(providers, list | tuple) and all(isinstance(name, str) for name in providers)):
        problems.append(f"{where}.provider: a name or a list of names is needed, found {providers!r}")
        providers = None
    cumulative = _classes(row.get("cumulative", False), f"{where}.cumulative", problems)
    incomplete = _classes(row.get("incomplete", False), f"{where}.incomplete", problems)
    if len(problems) > before:
        return None
    key, _, wanted = attribute.partition("=") if attribute else ("", "", "")
    return ScopeRow(
        scope=pattern,
        version=versions,
        providers=frozenset(normalise(name) for name in providers) if providers else None,
        attribute=(key.strip(), wanted.strip()) if attribute else None,
        mode=CacheMode(mode) if mode else None,
        drops_cache=bool(row.get("drops_cache")),
        cumulative=cumulative,
        incomplete=incomplete,
        reasoning_apart=bool(row.get("reasoning_apart")),
        cost_cumulative=bool(row.get("cost_cumulative")),
        own_total=bool(row.get("own_total")),
        tier=tier,
    )


def _classes(value: object, where: str, problems: list[str]) -> frozenset[Klass]:
    """`true` means the wrappers: a scope whose model-call spans rise must say so by its letter."""
    if isinstance(value, bool):
        return _WRAPPERS if value else frozenset()
    if isinstance(value, list | tuple) and all(letter in ("L", "A", "T", "N") for letter in value):
        return frozenset(Klass(letter) for letter in value)
    problems.append(f"{where}: true, false or a list of the classes L, A, T, N is needed, found {value!r}")
    return frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the table says of one scope, version and provider."""

    mode: CacheMode | None = None
    drops_cache: bool = False
    cumulative: frozenset[Klass] = frozenset()
    incomplete: frozenset[Klass] = frozenset()
    reasoning_apart: bool = False
    cost_cumulative: bool = False
    own_total: bool = False

    def joined(self, first: Facts) -> Facts:
        """These facts and `first`, whose mode comes first."""
        return Facts(
            mode=first.mode or self.mode,
            drops_cache=first.drops_cache or self.drops_cache,
            cumulative=first.cumulative | self.cumulative,
            incomplete=first.incomplete | self.incomplete,
            reasoning_apart=first.reasoning_apart or self.reasoning_apart,
            cost_cumulative=first.cost_cumulative or self.cost_cumulative,
            own_total=first.own_total or self.own_total,
        )


class Emitter:
    """One (scope, version): the rows that match it, folded per provider on first use."""

    __slots__ = ("_facts", "_rows", "conditional", "known", "scope", "version")

    def __init__(self, scope: str, version: str, rows: Sequence[ScopeRow]) -> None:
        self.scope = scope
        self.version = version
        matching = [row for row in rows if row.scope.match(scope) and (row.version is None or version in row.version)]
        self.known = bool(matching)
        self._rows = tuple(row for row in matching if row.attribute is None)
        #: rows that also ask for an attribute or set a tier: looked at span by span
        self.conditional = tuple(row for row in matching if row.attribute is not None or row.tier is not None)
        self._facts: dict[str | None, Facts] = {}

    def facts(self, provider: str | None) -> Facts:
        """The table's facts for calls to `provider`."""
        facts = self._facts.get(provider)
        if facts is None:
            if len(self._facts) >= 256:  # provider names come from clients
                self._facts.clear()
            facts = self._facts[provider] = fold([row for row in self._rows if row.providers is None or provider in row.providers])
        return facts


def fold(rows: Sequence[ScopeRow]) -> Facts:
    """The first stated mode, and every other fact that any row states."""
    return Facts(
        mode=next((row.mode for row in rows if row.mode is not None), None),
        drops_cache=any(row.drops_cache for row in rows),
        cumulative=frozenset().union(*(row.cumulative for row in rows)),
        incomplete=frozenset().union(*(row.incomplete for row in rows)),
        reasoning_apart=any(row.reasoning_apart for row in rows),
        cost_cumulative=any(row.cost_cumulative for row in rows),
        own_total=any(row.own_total for row in rows),
    )
