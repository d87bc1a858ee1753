"""A report and a price as tables for eyes. Every name in them comes from clients, so none is taken as markup or as a control code."""

from __future__ import annotations

import sys
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from receiver.core.prices.cards import REQUEST_RATES, TOKEN_RATES
from receiver.core.report import DOUBT_SENTENCES
from receiver.logs import printable

_PIPE_WIDTH: Final = 120
_MOST_MISSING: Final = 10  #: lines; the JSON report holds all


def print_report(report: dict[str, Any], dimensions: tuple[str, ...], *, console: Console | None = None) -> None:
    """The totals, a table a dimension, the doubts, and what is missing: the report's notes say the same in sentences."""
    console = console or new_console()
    totals = report["totals"]
    duplicates = f" ({totals['duplicate_spans']:,} came twice)" if totals["duplicate_spans"] else ""
    console.print(f"{totals['spans']:,} spans{duplicates} in {totals['traces']:,} traces, {totals['calls']:,} model calls")
    if totals["cost_usd"] is None:
        console.print(Text("none of them has a price", style="bold yellow"))
    else:
        console.print(Text(f"{dollars(totals['cost_usd'])} in all", style="bold"), end="")
        console.print(Text(f", and {totals['unpriced_calls']:,} calls without a price" if totals["unpriced_calls"] else "", style="yellow"))
    for dimension in dimensions:
        console.print(_by(dimension, report["attributions"].get(dimension, [])))
    if totals["doubts"]:
        console.print(_doubts(totals["doubts"]))
    if report["missing"]:
        console.print(_missing(report["missing"]))


def print_price(described: dict[str, Any], *, console: Console | None = None) -> None:
    """What a model costs: the operator's own prices, then which list, which rates, since when; or what it may have been called."""
    console = console or new_console()
    own = described["overrides"]
    for row in own:
        console.print(Text("[[prices.override]] goes before the lists: " + printable(_conditions(row)), style="bold"))
    if not described["found"]:
        asked, rest = printable(described["asked"]), "" if own else ": its calls would be unpriced, not free"
        console.print(Text(f"{asked} is in no price list{rest}.", style="yellow"))
        if described["near"]:
            console.print(Text("Did you mean: " + ", ".join(printable(name) for name in described["near"])))
        return
    heading = f"{described['provider']}/{described['model']}, as {described['source']} {described['version']} says"
    console.print(Text(printable(heading), style="bold"))
    if not described["sure"]:
        console.print(
            Text(f"{printable(described['asked'])} is not listed under that name: its calls carry the doubt model_alias", style="yellow")
        )
    since, until = moment(described["valid_from"]), moment(described["valid_to"])
    if since or until:
        console.print(f"valid{' from ' + since if since else ''}{' until ' + until if until else ''}")
    if described["by_time_of_day"]:
        console.print("the rates change with the time of day; these are of the moment that was asked for")
    console.print("USD per million tokens (web search and request: per thousand):")
    console.print(_rates(described["rates"]))
    for unit, amount in described["other_rates"].items():
        console.print(Text(printable(f"also listed, in a unit that spans do not count: {unit} {amount}"), style="dim"))


def _conditions(row: dict[str, Any]) -> str:
    """A row of `[[prices.override]]` on one line."""
    shown: dict[str, Any] = {key: moment(value) if key in ("from", "to") else value for key, value in row.items()}
    rates: dict[str, str] = shown.pop("rates", {})
    return ", ".join(f"{key} {value}" for key, value in [*shown.items(), *rates.items()])


def moment(unix_nano: int | None) -> str:
    """A moment as people write it, "" for none."""
    return "" if unix_nano is None else f"{datetime.fromtimestamp(unix_nano // 10**9, UTC):%Y-%m-%d %H:%M} UTC".replace(" 00:00 UTC", "")


def dollars(amount: str | None) -> str:
    """An exact amount as dollars, to the micro-dollar; an amount that nobody knows is said to be unknown, not 0."""
    return "unpriced" if amount is None else f"${Decimal(amount):,.6f}"


def _by(dimension: str, rows: list[dict[str, Any]]) -> Table:
    table = new_table(f"by {dimension}")
    table.add_column(dimension, overflow="fold")
    some_unpriced = any(row["unpriced_calls"] for row in rows)
    for heading in ("calls", *(["unpriced"] if some_unpriced else []), "input tokens", "output tokens", "cost", "share"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        name = Text("unknown", style="dim") if row["key"] is None else Text(printable(str(row["key"])))
        unpriced = [Text(f"{row['unpriced_calls']:,}" if row["unpriced_calls"] else "", style="yellow")] if some_unpriced else []
        counts = (f"{row['input_tokens']:,}", f"{row['output_tokens']:,}")
        share = "" if row["share"] is None else f"{float(row['share']):.1%}"
        table.add_row(name, f"{row['calls']:,}", *unpriced, *counts, dollars(row["cost_usd"]), share)
    return table


def _doubts(doubts: dict[str, int]) -> Table:
    table = new_table("doubts: numbers that may be wrong, and why")
    table.add_column("reason", no_wrap=True)
    table.add_column("calls", justify="right")
    table.add_column("meaning", overflow="fold")
    for reason, calls in sorted(doubts.items(), key=lambda item: (-item[1], item[0])):
        table.add_row(reason, f"{calls:,}", DOUBT_SENTENCES.get(reason, ""))
    return table


def _missing(missing: list[dict[str, Any]]) -> Table:
    table = new_table("missing: model calls that could not be counted whole")
    table.add_column("spans", justify="right")
    table.add_column("reason", no_wrap=True)
    table.add_column("scope", overflow="fold")
    table.add_column("model", overflow="fold")
    kinds = Counter((lack["reason"], lack["scope"] or "", lack["model"] or "") for lack in missing)
    for (reason, scope, model), spans in kinds.most_common(_MOST_MISSING):
        table.add_row(f"{spans:,}", reason, Text(printable(scope)), Text(printable(model)))
    if len(kinds) > _MOST_MISSING:
        table.caption = f"and {len(kinds) - _MOST_MISSING:,} kinds more: see --format json"
    return table


def new_console() -> Console:
    """Standard output; where it is no terminal there is no width to keep to, but lines that people can still read."""
    return Console() if sys.stdout.isatty() else Console(width=_PIPE_WIDTH)


def new_table(title: str) -> Table:
    """Columns without lines around them."""
    return Table(title=title or None, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")


def _rates(rows: list[dict[str, Any]]) -> Table:
    """A row per tier and length of request; a column per rate that any row has."""
    table = new_table("")
    stated = {name for row in rows for name in row["rates"]}
    names = [name for name in (*TOKEN_RATES, *REQUEST_RATES) if name in stated]
    table.add_column("tier", no_wrap=True)
    table.add_column("input above", justify="right")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")  # breaks at its blanks where the terminal is narrow
    for row in rows:
        above = f"{row['above_input_tokens']:,}" if row["above_input_tokens"] else ""
        table.add_row(row["tier"], above, *(str(row["rates"].get(name, "")) for name in names))
    return table
