"""A report and a price as tables for eyes. Every name in them comes from clients, so none is taken as markup or as a control code."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from receiver.logs import printable

#: What a doubt means, in half a sentence; the reasons are `core.calls.call.Doubt`.
DOUBTS: Final = {
    "cache_mode_guess": "whether its input count holds the cached tokens is a guess",
    "suspected_double": "looks like another counted call, and no rule joins or parts the two",
    "emitted_cost_differs": "the span states a cost that differs by more than 2 %",
    "wrapper_differs": "the agent around it states other sums than its calls",
    "unknown_emitter": "its instrumentation is not known here",
    "model_alias": "its model is in no price list under the name that it states",
    "outer_without_inner": "stands for several model calls that show no usage themselves",
    "sampled": "spans of its trace were sampled away",
    "dropped_attributes": "attributes were dropped before they came",
    "clamped": "its counts contradict each other and were cut",
}
_MOST_MISSING: Final = 10  #: lines; the JSON report holds all


def print_report(report: dict[str, Any], dimensions: tuple[str, ...], *, console: Console | None = None) -> None:
    """The totals, a table a dimension, the doubts, and what is missing."""
    console = console or Console()
    totals = report["totals"]
    duplicates = f" ({totals['duplicate_spans']:,} came twice)" if totals["duplicate_spans"] else ""
    console.print(f"{totals['spans']:,} spans{duplicates} in {totals['traces']:,} traces, {totals['calls']:,} model calls")
    console.print(Text(f"{dollars(totals['cost_usd'])} in all", style="bold"), end="")
    console.print(Text(f", and {totals['unpriced_calls']:,} calls without a price" if totals["unpriced_calls"] else "", style="yellow"))
    for dimension in dimensions:
        console.print(_by(dimension, report["attributions"].get(dimension, [])))
    if totals["doubts"]:
        console.print(_doubts(totals["doubts"]))
    if report["missing"]:
        console.print(_missing(report["missing"]))
    for note in report["notes"]:
        console.print(Text(printable(str(note)), style="yellow"))


def print_price(described: dict[str, Any], *, console: Console | None = None) -> None:
    """Everything that a price book says of a model, nested parts as tables of their own."""
    console = console or Console()
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _flat(described):
        table.add_row(name, Text(printable(value)))
    console.print(table)


def dollars(amount: str | None) -> str:
    """An exact amount as dollars, to the micro-dollar; an amount that nobody knows is said to be unknown, not 0."""
    return "unpriced" if amount is None else f"${Decimal(amount):,.6f}"


def _by(dimension: str, rows: list[dict[str, Any]]) -> Table:
    table = _table(f"by {dimension}")
    table.add_column(dimension, overflow="fold")
    for heading in ("calls", "unpriced", "input tokens", "output tokens", "cost", "share"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        name = Text("unknown", style="dim") if row["key"] is None else Text(printable(str(row["key"])))
        unpriced = Text(f"{row['unpriced_calls']:,}", style="yellow") if row["unpriced_calls"] else Text("")
        counts = (f"{row['input_tokens']:,}", f"{row['output_tokens']:,}")
        share = "" if row["share"] is None else f"{float(row['share']):.1%}"
        table.add_row(name, f"{row['calls']:,}", unpriced, *counts, dollars(row["cost_usd"]), share)
    return table


def _doubts(doubts: dict[str, int]) -> Table:
    table = _table("doubts: numbers that may be wrong, and why")
    table.add_column("reason", no_wrap=True)
    table.add_column("calls", justify="right")
    table.add_column("meaning", overflow="fold")
    for reason, calls in sorted(doubts.items(), key=lambda item: (-item[1], item[0])):
        table.add_row(reason, f"{calls:,}", DOUBTS.get(reason, ""))
    return table


def _missing(missing: list[dict[str, Any]]) -> Table:
    table = _table("missing: model calls that could not be counted whole")
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


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """A nested value as (dotted name, text)."""
    if isinstance(value, dict):
        return [pair for key, inner in value.items() for pair in _flat(inner, f"{name}.{key}" if name else str(key))]
    if isinstance(value, (list, tuple)) and any(isinstance(item, dict) for item in value):
        return [pair for at, inner in enumerate(value) for pair in _flat(inner, f"{name}[{at}]")]
    if isinstance(value, (list, tuple)):
        return [(name, ", ".join(map(str, value)))]
    return [(name, "" if value is None else str(value))]
