"""`spantoll price`: what a model costs, and which price list says so."""

from __future__ import annotations

import datetime as dt
import json
import sys
import time

import click

from receiver.cli.options import configured, formatted, read_config, usable_configuration


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

    MODEL is a name as spans state it: an id, a dated id, a Bedrock ARN, a deployment listed under [prices.aliases].

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
    described = book.describe(model, provider, at=_unix_nano(moment))
    if output_format == "json":
        click.echo(json.dumps(described, indent=2))
    else:
        from receiver.cli.tables import print_price  # noqa: PLC0415 -- brings rich in, which JSON need not wait for

        print_price(described)
    sys.exit(0 if described["found"] else 1)


def _unix_nano(moment: dt.datetime | None) -> int:
    """A date or time as prices are asked for; UTC where it names no offset, now where there is none."""
    if moment is None:
        return time.time_ns()
    return int((moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp()) * 1_000_000_000
