#!/usr/bin/env python3
"""Compile the vendored price snapshot from the installed `genai-prices` package, and say what changed.

    python deploy/prices/refresh.py            report only: what would change against receiver/data/prices.json
    python deploy/prices/refresh.py --write    the same, then replace the snapshot and its licence notice

A refresh is refused (exit status 1, nothing written) when the new list is implausible:

* fewer than `MIN_MODELS` models, or more than 5 % of the known models gone: a truncated list must not unprice live traffic;
* a rate that jumps by more than a factor of 10 in either direction: usually a slipped decimal point at the source.

`--accept` writes all the same, after the report was read. The output is a pure function of the package: the same version
gives the same bytes, one model a line, so `git diff` shows what a reviewer has to judge.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import importlib.metadata
import json
import re
import sys
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

from genai_prices import types
from genai_prices.data import providers

DATA = Path(__file__).resolve().parents[2] / "receiver" / "data"
SNAPSHOT = DATA / "prices.json"
LICENSE = DATA / "genai-prices.LICENSE.txt"

SCHEMA = "spantoll.prices/1"
MIN_MODELS = 1_500  # 0.2.3 has 2,330; a list of less than two thirds of that was cut somewhere
MAX_SHRINK = 0.05
MAX_JUMP = 10

PUSD = 10**12
PER_TOKEN = {  # genai-prices' price key -> ours; both are prices of one million tokens there and of one token here
    "input_mtok": "input",
    "output_mtok": "output",
    "cache_read_mtok": "cache_read",
    "cache_write_mtok": "cache_write_5m",
    "cache_write_1h_mtok": "cache_write_1h",
    "input_audio_mtok": "input_audio",
    "input_image_mtok": "input_image",
    "input_video_mtok": "input_video",
    "cache_audio_read_mtok": "cache_read_audio",
    "output_audio_mtok": "output_audio",
    "output_image_mtok": "output_image",
    "output_reasoning_mtok": "output_reasoning",
}
PER_REQUEST = {"web_searches_kcount": "web_search", "requests_kcount": "request"}


def rate(usd: Decimal, per: int) -> int | str:
    """Pico-USD of one unit: an integer, or "numerator/denominator" where it is none."""
    exact = Fraction(usd) * PUSD / per
    return exact.numerator if exact.denominator == 1 else f"{exact.numerator}/{exact.denominator}"


def rate_or_tiers(price: Decimal | types.TieredPrices, per: int) -> Any:
    """A rate, or `[base, [above_input_tokens, rate], ...]`: above that many input tokens the whole request costs the other rate."""
    if isinstance(price, types.TieredPrices):
        return [rate(price.base, per), *([tier.start, rate(tier.price, per)] for tier in price.tiers)]
    return rate(price, per)


def rates(prices: types.ModelPrice) -> tuple[dict[str, Any], dict[str, str]]:
    """Our rates, and what is priced in units that spans do not count (hours, characters, pages), for people to read."""
    ours: dict[str, Any] = {}
    other: dict[str, str] = {}
    for key, price in sorted(prices.__dict__.items()):
        if price is None:
            continue
        if key in PER_TOKEN:
            ours[PER_TOKEN[key]] = rate_or_tiers(price, 1_000_000)
        elif key in PER_REQUEST:
            ours[PER_REQUEST[key]] = rate_or_tiers(price, 1_000)
        else:
            base = price.base if isinstance(price, types.TieredPrices) else price
            other[key] = str(base)
    return ours, other


def condition(constraint: Any) -> dict[str, Any]:
    """When a price holds: {}, {"from": date} or {"window": [start, end]}."""
    match constraint:
        case None:
            return {}
        case types.StartDateConstraint():
            return {"from": constraint.start_date.isoformat()}
        case types.TimeOfDateConstraint():
            return {"window": [_utc(constraint.start_time), _utc(constraint.end_time)]}
        case _:
            raise SystemExit(f"a condition that the snapshot cannot hold: {constraint!r}")


def _utc(moment: dt.time) -> str:
    if moment.utcoffset() not in (None, dt.timedelta(0)) or moment.second:
        raise SystemExit(f"a time of day that the snapshot cannot hold: {moment!r}")
    return moment.strftime("%H:%M")


def clause(match: Any) -> Any:
    """A match rule: a string whose first letter is its kind (= ^ $ ~ /), or {"or": [...]}, {"and": [...]}."""
    match match:
        case types.ClauseEquals():
            return "=" + match.equals.lower()
        case types.ClauseStartsWith():
            return "^" + match.starts_with.lower()
        case types.ClauseEndsWith():
            return "$" + match.ends_with.lower()
        case types.ClauseContains():
            return "~" + match.contains.lower()
        case types.ClauseRegex():
            return "/" + match.regex
        case types.ClauseOr():
            return {"or": [clause(part) for part in match.or_]}
        case types.ClauseAnd():
            return {"and": [clause(part) for part in match.and_]}
        case _:
            raise SystemExit(f"a match rule that the snapshot cannot hold: {match!r}")


def model(info: types.ModelInfo) -> dict[str, Any]:
    """One model's line."""
    conditional = [types.ConditionalPrice(prices=info.prices)] if isinstance(info.prices, types.ModelPrice) else info.prices
    prices: list[dict[str, Any]] = []
    others: dict[str, str] = {}
    for one in conditional:
        ours, other = rates(one.prices)
        others |= other
        if not ours and not other and info.id.endswith(":free"):
            ours = {"input": 0, "output": 0}  # its own name says so; any other model without a rate stays without one
        prices.append({**condition(one.constraint), "rates": ours})
    out: dict[str, Any] = {"id": info.id, "match": clause(info.match), "prices": prices}
    variants = [
        {"when": variant.when, **condition(variant.constraint), "rates": rates(variant.prices)[0]} for variant in info.price_variants or ()
    ]
    if variants := [variant for variant in variants if variant["rates"]]:
        if any("window" in variant for variant in variants):
            raise SystemExit(f"{info.id}: a service tier by time of day, which the snapshot cannot hold")
        out["variants"] = variants
    if others:
        out["other"] = others
    return out


def provider(info: types.Provider) -> dict[str, Any]:
    """One provider with its models."""
    out: dict[str, Any] = {"id": info.id, "name": info.name}
    if info.provider_match is not None:
        out["provider_match"] = clause(info.provider_match)
    if info.model_match is not None:
        out["model_match"] = clause(info.model_match)
    if info.fallback_model_providers:
        out["fallback"] = info.fallback_model_providers
    out["models"] = [model(one) for one in info.models]
    return out


def newest_date(today: dt.date) -> str:
    """The newest past date that the data itself tells of: the list is known to be right until then, at least."""
    found: set[str] = set()
    for info in providers:
        for one in info.models:
            found.update(re.findall(r"\b20\d\d-\d\d-\d\d\b", one.price_comments or ""))
            for part in [*(one.prices if isinstance(one.prices, list) else ()), *(one.price_variants or ())]:
                if isinstance(part.constraint, types.StartDateConstraint):
                    found.add(part.constraint.start_date.isoformat())
    return max(date for date in found if date <= today.isoformat())


def compile_snapshot(today: dt.date) -> dict[str, Any]:
    """The whole snapshot of the installed package."""
    return {
        "schema": SCHEMA,
        "source": "genai-prices",
        "version": importlib.metadata.version("genai-prices"),
        "date": newest_date(today),
        "unit": "pusd",
        "providers": [provider(info) for info in providers],
    }


def serialise(snapshot: dict[str, Any]) -> str:
    """JSON with one model a line, so that a diff reads like a price list."""
    lines = ["{"]
    lines += [f"{json.dumps(key)}: {json.dumps(value)}," for key, value in snapshot.items() if key != "providers"]
    lines.append('"providers": [')
    blocks: list[str] = []
    for one in snapshot["providers"]:
        head = ", ".join(f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in one.items() if key != "models")
        rows = ",\n".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in one["models"])
        blocks.append(f'{{{head}, "models": [\n{rows}\n]}}')
    return "\n".join([*lines, ",\n".join(blocks), "]", "}"]) + "\n"


@dataclasses.dataclass(frozen=True)
class Report:
    """What changed, and what makes it implausible."""

    lines: list[str]
    refusals: list[str]


def compare(old: dict[str, Any] | None, new: dict[str, Any]) -> Report:
    """What a reviewer should read, and what makes the new list implausible."""
    lines: list[str] = []
    refusals: list[str] = []
    after = dict(_models(new))
    if len(after) < MIN_MODELS:
        refusals.append(f"only {len(after):,} models, at least {MIN_MODELS:,} are expected")
    if old is None:
        return Report([f"{len(after):,} models of {len(new['providers'])} providers; there was no snapshot before"], refusals)
    before = dict(_models(old))
    gone, come = sorted(before.keys() - after.keys()), sorted(after.keys() - before.keys())
    if len(gone) > MAX_SHRINK * len(before):
        refusals.append(f"{len(gone):,} of {len(before):,} models are gone, more than {MAX_SHRINK:.0%}")
    lines += [f"{old['source']} {old['version']} ({old['date']}) -> {new['version']} ({new['date']})"]
    lines += [f"- {key}" for key in gone] + [f"+ {key}" for key in come]
    for key in sorted(before.keys() & after.keys()):
        if before[key] == after[key]:
            continue
        lines.append(f"~ {key}")
        was, now = dict(_flat(before[key])), dict(_flat(after[key]))
        for name in sorted(was.keys() | now.keys()):
            if was.get(name) == now.get(name):
                continue
            lines.append(f"    {name}: {_usd(was.get(name))} -> {_usd(now.get(name))}")
            if was.get(name) and now.get(name) and not (1 / Fraction(MAX_JUMP) <= now[name] / was[name] <= MAX_JUMP):
                refusals.append(f"{key} {name} jumps from {_usd(was[name])} to {_usd(now[name])}")
    if len(lines) == 1:
        lines.append("no model changed")
    return Report(lines, refusals)


def _models(snapshot: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for one in snapshot["providers"]:
        for row in one["models"]:
            yield f"{one['id']}/{row['id']}", row


def _flat(row: dict[str, Any]) -> Iterator[tuple[str, Fraction]]:
    """Every single rate of a model under a name that stays the same between versions."""
    for part in [*row["prices"], *row.get("variants", ())]:
        when = "/".join(f"{key}={value}" for key, value in part.get("when", {}).items())
        since = part.get("from") or "-".join(part.get("window", ())) or "start"
        for name, value in part["rates"].items():
            base, *tiers = value if isinstance(value, list) else [value]
            yield f"{when or 'standard'} {since} {name}", Fraction(base)
            for above, price in tiers:
                yield f"{when or 'standard'} {since} {name} above {above}", Fraction(price)


def _usd(pusd: Fraction | None) -> str:
    return "none" if pusd is None else f"{float(pusd) / 1e6:g} USD/M"


def main() -> int:
    """Compile, report, and write when asked and plausible."""
    parser = argparse.ArgumentParser(description="Compile receiver/data/prices.json from the installed genai-prices.")
    parser.add_argument("--write", action="store_true", help="replace the snapshot and its licence notice")
    parser.add_argument("--accept", action="store_true", help="write although the report refuses")
    args = parser.parse_args()
    new = compile_snapshot(dt.datetime.now(dt.UTC).date())
    old = json.loads(SNAPSHOT.read_text()) if SNAPSHOT.exists() else None
    report = compare(old, new)
    print("\n".join(report.lines))
    for refusal in report.refusals:
        print(f"REFUSED: {refusal}", file=sys.stderr)
    if report.refusals and not args.accept:
        return 1
    if args.write:
        SNAPSHOT.write_text(serialise(new))
        notice = importlib.metadata.distribution("genai-prices").locate_file(f"genai_prices-{new['version']}.dist-info/licenses/LICENSE")
        LICENSE.write_text(Path(str(notice)).read_text())
        print(f"wrote {SNAPSHOT} and {LICENSE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
