"""A report as a table for eyes. Every name in it comes from clients, so none is taken as markup or as a control code."""

from __future__ import annotations

import sys
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from receiver.cli.tables import dollars
from receiver.logs import printable

#: Where there is no terminal there is no width to keep to, but lines that people can still read.
_PIPE_WIDTH: Final = 140


def print_costs(answer: dict[str, Any], *, console: Console | None = None) -> None:
    """The stretch and its total, a row a key, and what the numbers do not hold."""
    console = console or (Console() if sys.stdout.isatty() else Console(width=_PIPE_WIDTH))
    totals, by = answer["totals"], answer["by"]
    console.print(Text(printable(_stretch(answer)), style="dim"))
    console.print(Text(f"{totals['calls']:,} model calls, ") + _total(totals))
    if by and answer["rows"]:
        console.print(_rows(answer))
    for note in answer["notes"]:
        console.print(Text(printable(note), style="yellow"))
    for heading, found in (("no price", totals["unpriced_reasons"]), ("missing", totals["missing"])):
        if found:
            console.print(Text(f"{heading}: " + ", ".join(f"{reason} {count:,}" for reason, count in found.items())))


def _stretch(answer: dict[str, Any]) -> str:
    since, until = answer["since"], answer["until"]
    when = f"{'from ' + since if since else ''}{' ' if since and until else ''}{'until ' + until if until else ''}" or "all that is kept"
    whose = f", account {answer['account']}" if answer["account"] is not None else ""
    return f"{when}{whose}, time zone {answer['tz']}"


def _total(totals: dict[str, Any]) -> Text:
    if totals["cost_usd"] is None:
        return Text("none of them with a price", style="bold yellow")
    average = f", {dollars(totals['average_usd'])} a call" if totals["average_usd"] is not None else ""
    return Text(f"{dollars(totals['cost_usd'])} in all{average}", style="bold")


def _rows(answer: dict[str, Any]) -> Table:
    by, rows, rest = answer["by"], answer["rows"], answer["rest"]
    shown = [*rows, *([rest] if rest is not None else [])]
    some_unpriced = any(row["unpriced_calls"] for row in shown)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in by:
        table.add_column(name.replace("_", " "), overflow="fold")
    for heading in (
        "calls",
        *(["unpriced"] if some_unpriced else []),
        "input tokens",
        "cached",
        "output tokens",
        "cost",
        "a call",
        "share",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in shown:
        if row is rest:
            names = [Text(f"({row['keys']:,} others)", style="dim"), *[Text("")] * (len(by) - 1)]
        else:
            names = [_name(row["key"][name]) for name in by]
        unpriced = [Text(f"{row['unpriced_calls']:,}" if row["unpriced_calls"] else "", style="yellow")] if some_unpriced else []
        table.add_row(
            *names,
            f"{row['calls']:,}",
            *unpriced,
            f"{row['input_tokens']:,}",
            f"{row['cache_read_tokens']:,}",
            f"{row['output_tokens']:,}",
            dollars(row["cost_usd"]),
            "" if row["average_usd"] is None else dollars(row["average_usd"]),
            f"{row['share']:.1%}",
        )
    return table


def _name(value: str | None) -> Text:
    return Text("(none)", style="dim") if value is None else Text(printable(value))
