"""Prices that an operator states: contracts with an account, and overrides of the list.

A row says which calls it is for (`match`, `provider`, `account`, `tier`), when it holds (`from`, `to`), and what they cost:
rates in USD per million tokens, or a `multiplier` of the price that the lists give. Rates replace the whole card: a rate that
the row leaves out falls back to the row's own input rate and the price says so, it is never taken from the list and never 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

from receiver.core.prices.cards import (
    EARLIEST,
    LATEST,
    REQUEST_RATES,
    TOKEN_RATES,
    Price,
    Segment,
    read_moment,
    read_number,
    read_rates,
    timeline,
)
from receiver.core.prices.catalogue import TIER_CONTEXT, Matcher
from receiver.core.prices.model_ids import provider_id

#: Other spellings of the rates' names: those of the price lists that people copy from.
_RATE_NAMES: Final = {
    **{name: name for name in (*TOKEN_RATES, *REQUEST_RATES)},
    **{f"{name}_mtok": name for name in TOKEN_RATES},
    "cache_write": "cache_write_5m",
    "cache_write_mtok": "cache_write_5m",
    "input_audio_mtok": "input_audio",
    "cache_audio_read_mtok": "cache_read_audio",
    "web_search_kcount": "web_search",
    "web_searches_kcount": "web_search",
    "requests_kcount": "request",
}
_KEYS: Final = frozenset(
    {"match", "model", "prefix", "regex", "provider", "account", "tier", "rates", "multiplier", "from", "to", "valid_from", "valid_to"}
)
_MAX_MULTIPLIER: Final = 1_000  # more is a price in another unit


@dataclass(frozen=True, slots=True)
class Override:
    """One row, compiled."""

    matches: Matcher  #: of a lower-case name
    provider: str | None  #: id in the price list, or the stated name where the list does not know it; None: all
    account: str | None  #: None: all
    tier: str | None  #: None: all
    start: int  #: unix nanoseconds, included
    end: int  #: excluded
    segments: tuple[Segment, ...]  #: its card; () when it multiplies
    factor: Fraction | None
    source: str
    version: str


def check_overrides(rows: Sequence[Mapping[str, Any]], *, path: str = "prices.override") -> list[str]:
    """All that is wrong with the rows, a sentence each, with the place of each."""
    problems: list[str] = []
    for at, row in enumerate(rows):
        problems += [f"{path}[{at}]: {problem}" for problem in _problems(row)]
    return problems


def _problems(row: Mapping[str, Any]) -> list[str]:
    problems: list[str] = []
    given = {key: value for key, value in row.items() if value is not None}
    known = f"known are {', '.join(sorted(_KEYS))} and the rates {', '.join((*TOKEN_RATES, *REQUEST_RATES))}"
    problems += [f"{key!r} is no key of a price; {known}" for key in sorted(given.keys() - _KEYS - _RATE_NAMES.keys())]
    ways = [key for key in ("match", "model", "prefix", "regex") if given.get(key)]
    if len(ways) != 1:
        problems.append("name the models once, with match (a name, * stands for any text), model (exactly), prefix or regex")
    elif not isinstance(given[ways[0]], str):
        problems.append(f"{ways[0]} = {given[ways[0]]!r} is no text")
    else:
        try:
            _matcher(given)
        except re.error as error:
            problems.append(f"{ways[0]} = {given[ways[0]]!r} is no regular expression: {error}")
    if given.get("tier", "") not in ("", "standard", *TIER_CONTEXT):
        problems.append(f"tier = {given['tier']!r} is unknown; known are standard, {', '.join(name for name in TIER_CONTEXT if name)}")
    rates: dict[str, Any] = {}
    try:
        rates = _rates(given)
        compiled = read_rates(rates, unit="usd")
        if compiled and "input" not in compiled:
            problems.append("the rate of input tokens is missing; state 0 if they are free")
    except ValueError as error:
        problems.append(str(error))
    multiplier = given.get("multiplier")
    if multiplier is not None:
        try:
            if read_number(multiplier, "multiplier") > _MAX_MULTIPLIER:
                problems.append(f"multiplier = {multiplier!r} is over {_MAX_MULTIPLIER:,}")
        except ValueError as error:
            problems.append(str(error))
    if (multiplier is None) == (not rates):
        problems.append("state either rates or a multiplier of the list price")
    try:
        start, end = _period(given)
        if start >= end:
            problems.append("from is not before to, so it would never hold")
    except ValueError as error:
        problems.append(str(error))
    return problems


def compile_overrides(rows: Iterable[Mapping[str, Any]], *, source: str, version: str = "") -> list[Override]:
    """Rows without problems as overrides, in their order."""
    compiled: list[Override] = []
    for row in rows:
        given = {key: value for key, value in row.items() if value is not None}
        start, end = _period(given)
        multiplier = given.get("multiplier")
        provider = given.get("provider") or None
        tier = given.get("tier") or None
        compiled.append(
            Override(
                matches=_matcher(given),
                provider=(provider_id(provider) or provider.lower()) if provider else None,
                account=given.get("account") or None,
                tier="" if tier == "standard" else tier,
                start=start,
                end=end,
                segments=timeline([Price(read_rates(_rates(given), unit="usd"))]) if multiplier is None else (),
                factor=None if multiplier is None else read_number(multiplier, "multiplier"),
                source=source,
                version=version,
            )
        )
    return compiled


def _period(given: Mapping[str, Any]) -> tuple[int, int]:
    start, end = given.get("from", given.get("valid_from")), given.get("to", given.get("valid_to"))
    return EARLIEST if start is None else read_moment(start, "from"), LATEST if end is None else read_moment(end, "to")


def _rates(given: Mapping[str, Any]) -> dict[str, Any]:
    table = given.get("rates", {})
    if not isinstance(table, Mapping):
        raise ValueError(f"rates = {table!r} is no table of rates")  # noqa: TRY004 -- one kind of error for whatever a file may hold
    rates: dict[str, Any] = {}
    flat = {key: value for key, value in given.items() if key in _RATE_NAMES}
    for key, value in (*table.items(), *flat.items()):
        name = _RATE_NAMES.get(str(key), str(key))
        if name in rates:
            raise ValueError(f"the rate {name} is stated twice")
        rates[name] = value
    return {name: value for name, value in rates.items() if value is not None}


def _matcher(given: Mapping[str, Any]) -> Matcher:
    if text := given.get("model"):
        exact = text.lower()
        return lambda name: name == exact
    if text := given.get("prefix"):
        prefix = text.lower()
        return lambda name: name.startswith(prefix)
    if text := given.get("regex"):
        return re.compile(text, re.IGNORECASE).search
    text = given["match"].lower()
    if "*" in text:
        return re.compile(".*".join(re.escape(part) for part in text.split("*")), re.DOTALL).fullmatch
    return lambda name: name == text
