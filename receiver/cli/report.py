"""`spantoll report`: what the books say, to the last unit."""

from __future__ import annotations

import csv
import io
import json
from typing import Any, Final

import click

from receiver.cli.operator_api import operator_api
from receiver.cli.options import configured, formatted_as, read_config
from receiver.core.tally import BY, MAX_ROWS, parse_by
from receiver.logs import printable

#: Reading ten million charges takes a minute.
WAIT_SECONDS: Final = 150.0
FORMATS: Final = ("table", "json", "csv")
#: Columns of the CSV behind those of the key.
CSV_COLUMNS: Final = (
    "calls", "priced_calls", "unpriced_calls", "doubtful_calls", "rolled_up_calls", "cost_usd", "cost_pusd", "average_usd", "share",
    "input_tokens", "uncached_input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens",
)  # fmt: skip
#: What a spreadsheet takes for a formula at the start of a cell.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def _by(_context: click.Context, _option: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    by = parse_by(value)
    for name in by:
        if name not in BY:
            raise click.BadParameter(f"{name!r} is none of {', '.join(BY)}")
    return by


@click.command()
@click.option(
    "--by",
    multiple=True,
    default=("agent",),
    show_default="agent",
    callback=_by,
    metavar="DIMENSION",
    help=f"Break the cost down by it; may be repeated, or be a list with commas: {', '.join(BY)}.",
)
@click.option("--since", metavar="MOMENT", help="From then on: 2026-11-01 (midnight in the time zone), or 2026-11-01T09:30:00Z.")
@click.option("--until", metavar="MOMENT", help="Up to then, and not from then on: --until 2026-12-01 ends with November.")
@click.option("--tz", metavar="ZONE", default="UTC", show_default=True, help="Whose days and hours: Europe/Berlin, America/New_York.")
@click.option("--account", metavar="NAME", help="Only what is this account's.")
@click.option("--top", type=click.IntRange(1, MAX_ROWS), help="So many rows, the dearest; the others are added up in one.")
@formatted_as(FORMATS, "A table for eyes, JSON for programs, CSV for spreadsheets.")
@configured
def report(
    *,
    by: tuple[str, ...],
    since: str | None,
    until: str | None,
    tz: str,
    account: str | None,
    top: int | None,
    output_format: str,
    config_file: str | None,
    assignments: tuple[str, ...],
) -> None:
    """Say what the model calls of a stretch of time cost, and who spent it.

    The answer is exact for every key, also for those that the metrics fold into `__overflow__`, and its rows sum to its total to
    the last pico-USD. A call belongs to the moment at which it started. It comes from the running daemon, or from its data folder
    while none runs.

    \b
    Examples:
      spantoll report --by agent
      spantoll report --by day,model --since 2026-11-01 --until 2026-12-01 --tz Europe/Berlin
      spantoll report --by user --top 20 --format csv

    Exit codes: 0 done, 1 it could not be done (the sentence says why), 2 the command line or the configuration is wrong.
    """  # noqa: D301 -- click wants the backspace itself, which keeps the lines below it as they are
    query = {"by": ",".join(by), "since": since, "until": until, "tz": tz, "account": account, "top": top}
    with operator_api(read_config(config_file, assignments)) as api:
        answer = api.call("GET", "/api/v1/report", query=query, wait_seconds=WAIT_SECONDS)
    if output_format == "json":
        click.echo(json.dumps(answer, indent=2))
    elif output_format == "csv":
        click.echo(as_csv(answer), nl=False)
    else:
        from receiver.cli.report_table import print_costs  # noqa: PLC0415 -- brings rich in, which JSON need not wait for

        print_costs(answer)


def as_csv(answer: dict[str, Any]) -> str:
    """A line a row (RFC 4180), and a last one for what `--top` left out.

    Nobody's key is an empty cell, and so is a cost that nobody knows. A name that a spreadsheet would take for a formula gets a `'`,
    and control characters in one are visible escapes: names come from clients. JSON has them as they are.
    """
    by = answer["by"]
    text = io.StringIO()
    out = csv.writer(text)
    out.writerow([*by, *CSV_COLUMNS])
    for row in answer["rows"]:
        out.writerow([*(_cell(row["key"][name]) for name in by), *(_cell(row[name]) for name in CSV_COLUMNS)])
    rest = answer["rest"]
    if rest is not None:
        names = [f"(others: {rest['keys']})", *[""] * (len(by) - 1)]
        out.writerow([*names, *(_cell(rest[name]) for name in CSV_COLUMNS)])
    return text.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return printable(f"'{value}" if value.startswith(_FORMULA) else value)
    return "" if value is None else value
