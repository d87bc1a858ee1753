"""`spantoll dev`: what only the wallet without a node can do."""

from __future__ import annotations

import json

import click

from receiver.cli.operator_api import operator_api
from receiver.cli.options import configured, formatted, read_config
from receiver.core.credit import format_sat
from receiver.logs import printable


@click.group()
def dev() -> None:
    """Try the credit loop without a Lightning node.

    While `lightning.backend` is "dev", invoices are real in form and worth nothing: a command pays them.

    Exit codes: 0 done, 1 it could not be done, 2 the command line or the configuration is wrong.
    """


@dev.command()
@configured
@formatted
@click.argument("invoice")
@click.option("--msat", type=click.IntRange(min=1), metavar="N", help="Pay this much instead, which must be at least what is asked.")
def pay(config_file: str | None, assignments: tuple[str, ...], output_format: str, invoice: str, msat: int | None) -> None:
    """Pay an invoice of the dev wallet, as its payer would.

    \b
    Examples:
      spantoll credit topup --sat 1000 --no-wait
      spantoll dev pay lnbcrt10u1...

    Exit codes: 0 it is paid, 1 it could not be, 2 the command line or the configuration is wrong.
    """  # noqa: D301 -- click wants the backspace itself, which keeps the lines below it as they are
    body = {"invoice": invoice} if msat is None else {"invoice": invoice, "amount_msat": msat}
    with operator_api(read_config(config_file, assignments)) as api:
        paid = api.call("POST", "/api/v1/dev/pay", body)
    if output_format == "json":
        click.echo(json.dumps(paid, indent=2))
        return
    click.secho(f"paid {format_sat(paid['paid_msat'])} sat of play money", fg="green")
    click.echo(f"proof of payment (preimage): {paid['preimage']}")
    topup, balance = paid["topup"], paid["balance"]
    if topup is None:
        click.echo("no account asked for this invoice, so none is credited")
    elif topup["state"] != "settled":
        click.echo(f"it is credited to account {printable(topup['account'])} within a minute")
    elif balance is not None:
        click.echo(f"credited to account {printable(topup['account'])}, whose balance is now {format_sat(balance['posted_msat'])} sat")
