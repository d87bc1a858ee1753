"""`spantoll forget`: take a user out of the books."""

from __future__ import annotations

import json
from typing import Final

import click

from receiver.cli.operator_api import operator_api
from receiver.cli.options import configured, formatted, read_config
from receiver.logs import printable

#: Every charge is looked at: two seconds a million, beside a daemon that goes on working.
WAIT_SECONDS: Final = 600.0


@click.command()
@click.option("--user", required=True, metavar="NAME", help="As spans name the user, or as reports show the hash of the name.")
@click.option("--account", metavar="NAME", help="Only in the books of this account. Without it, in all.")
@formatted
@configured
def forget(user: str, account: str | None, output_format: str, config_file: str | None, assignments: tuple[str, ...]) -> None:
    """Take a user out of charges, metrics and what is still to be counted. What was spent stays in every sum.

    Asking again does no harm, and finds what has come since.

    \b
    Examples:
      spantoll forget --user ada@example.org
      spantoll forget --user hash:5f0c2a9be17d44c1a20b31d7 --account acme

    Exit codes: 0 done, 1 it could not be done (the sentence says why), 2 the command line or the configuration is wrong.
    """  # noqa: D301 -- click wants the backspace itself, which keeps the lines below it as they are
    body = {"user": user, **({} if account is None else {"account": account})}
    with operator_api(read_config(config_file, assignments)) as api:
        answer = api.call("POST", "/api/v1/forget", body, wait_seconds=WAIT_SECONDS)
    if output_format == "json":
        click.echo(json.dumps(answer, indent=2))
        return
    click.echo(f"The name was taken out of {answer['charges']:,} charges and {answer['series']:,} series of the metrics.")
    for note in answer["notes"]:
        click.echo(printable(f"Note: {note.replace('`journal_until`', answer['journal_until'])}."))
