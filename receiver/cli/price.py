"""`spantoll price`: what a model costs, and which price list says so."""

from __future__ import annotations

import datetime as dt
import json
import sys
import time
from decimal import Decimal
from typing import Any

import click

from receiver.cli.options import configured, formatted, read_config, usable_configuration
from receiver.config import Config, as_table
from receiver.core.prices.overrides import compile_overrides


@click.command()
@click.argument("model")
@click.option(
    "--provider",
    metavar="NAME",
    default=None,
    help="Provider as spans name it, such as anthropic or azure. Default: whoever lists the model first.",
)
@click.option(
    "--at",
    "moment",
    metavar="DATE",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"]),
    default=None,
    help="Price at this date or time (UTC), as 2026-11-01 or 2026-11-01T12:00:00. Default: now.",
)
@formatted
@configured
def price(  # noqa: PLR0917 -- click calls it by name
    model: str,
    provider: str | None,
    moment: dt.datetime | None,
    output_format: str,
    config_file: str | None,
    assignments: tuple[str, ...],
) -> None:
    """Show the price of MODEL, as a call of that name would be priced.

    MODEL is a name as spans state it: an id, a dated id, a Bedrock ARN, a deployment listed under [prices.aliases]. Prices of
    your own, [[prices.override]], are shown first.

    \b
    Examples:
      spantoll price gpt-4o
      spantoll price claude-sonnet-4-5 --provider anthropic --at 2026-03-01
      spantoll price my-deployment --set prices.aliases.my-deployment=gpt-4o --format json

    Exit codes: 0 the model has a price, 1 it has none and its calls would be unpriced, 2 the command line or the
    configuration is wrong.
    """  # noqa: D301 -- click wants the backspace itself, which keeps the lines below it as they are
    config = read_config(config_file, assignments)
    from receiver import app  # noqa: PLC0415 -- brings the price lists in, which --help need not wait for

    with usable_configuration():
        book = app.price_book(config)
    at = _unix_nano(moment)
    described = book.describe(model, provider, at=at)
    described["overrides"] = own = _own_prices(config, described, at)
    if output_format == "json":
        click.echo(json.dumps(described, indent=2))
    else:
        from receiver.cli.tables import print_price  # noqa: PLC0415 -- brings rich in, which JSON need not wait for

        print_price(described)
    sys.exit(0 if described["found"] or any("rates" in row for row in own) else 1)


def _own_prices(config: Config, described: dict[str, Any], at: int) -> list[dict[str, Any]]:
    """The rows of `[[prices.override]]` that hold for the model at that moment; their other conditions stand in them."""
    names = {str(described[key]).strip().lower() for key in ("asked", "model") if described.get(key)}
    rows = as_table(config.prices)["override"]
    compiled = compile_overrides(rows, source="override")
    holding = [row for row, one in zip(rows, compiled, strict=True) if one.start <= at < one.end and any(map(one.matches, names))]
    return [{key: _plain(value) for key, value in row.items()} for row in holding]


def _plain(value: Any) -> Any:
    """An amount as the decimal string that it is, for JSON."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return f"{value:f}" if isinstance(value, Decimal) else value


def _unix_nano(moment: dt.datetime | None) -> int:
    """A date or time as prices are asked for; UTC where it names no offset, now where there is none."""
    if moment is None:
        return time.time_ns()
    return int((moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp()) * 1_000_000_000
