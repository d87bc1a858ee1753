"""`spantoll credit`: what accounts have paid in advance, and how they pay more."""

from __future__ import annotations

import csv
import json
import sys
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from receiver.cli.operator_api import Failed, OperatorApi, operator_api, segment
from receiver.cli.options import configured, formatted, read_config
from receiver.config import format_duration
from receiver.core.credit import format_sat
from receiver.logs import printable

if TYPE_CHECKING:
    from rich.console import Console

F = TypeVar("F", bound=Callable[..., Any])

#: One question after a payment waits so long: below what proxies allow, and seldom enough.
POLL_SECONDS: Final = 25
#: And it is not asked more often than this, also when it does not wait.
SHORTEST_POLL_SECONDS: Final = 2.0
_CSV_COLUMNS: Final = ("at", "code", "amount_msat", "balance_msat", "transfers", "id", "cause", "payment_hash", "preimage")


def _of_account(verb: F) -> F:
    """Give a verb `--account`, as `account`."""
    return click.option("-a", "--account", default="default", show_default=True, metavar="NAME", help="Whose credit.")(verb)


@click.group()
def credit() -> None:
    """Balances, statements and top-ups of accounts.

    Each newly accepted span costs `credit.price_per_span_msat`; a Lightning payment is credited the moment it settles. These verbs ask
    the running daemon, or open its books themselves when none runs.

    Exit codes: 0 done, 1 it could not be done, 2 the command line or the configuration is wrong.
    """


@credit.command()
@configured
@formatted
@_of_account
def balance(config_file: str | None, assignments: tuple[str, ...], output_format: str, account: str) -> None:
    """What an account has, how long it lasts, and what happens at zero.

    \b
    Examples:
      spantoll credit balance
      spantoll credit balance --account acme --format json

    Exit codes: 0 all is well, 1 it could not be done, 2 the command line or the configuration is wrong.
    """  # noqa: D301 -- click wants the backspace itself, which keeps the lines below it as they are
    with operator_api(read_config(config_file, assignments)) as api:
        found = api.call("GET", f"{_path(account)}/credit")
    if output_format == "json":
        click.echo(json.dumps(found, indent=2))
        return
    from receiver.cli.credit_tables import balance_table  # noqa: PLC0415 -- --help need not wait for it

    _console().print(balance_table(found))


@credit.command()
@configured
@formatted
@_of_account
@click.option("--sat", type=click.IntRange(min=1), required=True, metavar="N", help="How much, in satoshi.")
@click.option("--wait/--no-wait", default=None, help="Stay until it is paid. Default: on a terminal.")
@click.option("--qr/--no-qr", default=None, help="Show the invoice as a QR code. Default: on a terminal.")
def topup(
    *,
    config_file: str | None,
    assignments: tuple[str, ...],
    output_format: str,
    account: str,
    sat: int,
    wait: bool | None,
    qr: bool | None,
) -> None:
    """Ask for a Lightning invoice and stay until it is paid.

    Asked again for the same amount, the open invoice is shown again; nothing is paid twice by it.

    \b
    Examples:
      spantoll credit topup --sat 1000
      spantoll credit topup --sat 50000 --account acme --no-wait --format json

    Exit codes: 0 it is paid (with --no-wait: the invoice was made), 1 it is not, 2 the command line or the configuration is wrong.
    """  # noqa: D301 -- click wants the backspace itself, which keeps the lines below it as they are
    as_json, terminal = output_format == "json", sys.stdout.isatty()
    wait = terminal if wait is None else wait
    qr = terminal and not as_json if qr is None else qr
    again = _same_options(config_file, assignments)
    with operator_api(read_config(config_file, assignments)) as api:
        made = api.call("POST", f"{_path(account)}/topups", {"amount_sat": sat})
        if as_json:
            click.echo(json.dumps(made, indent=2))
        else:
            show_invoice(made, qr=qr, again=again)
        if not wait:
            return
        paid = _wait_json(api, made) if as_json else _wait_live(api, made)
        if paid["state"] != "settled":
            raise Failed(
                f"the invoice was not paid in time ({paid['state']}): ask for a new one. What is paid late is credited all the same"
            )
        if as_json:
            click.echo(json.dumps(paid, indent=2))
            return
        found = api.call("GET", f"{_path(account)}/credit")
    from receiver.cli.credit_tables import balance_table  # noqa: PLC0415 -- --help need not wait for it

    console = _console()
    console.print(
        f"[bold green]paid[/]: {format_sat(paid['received_msat'])} sat. Proof of payment (preimage): {paid['preimage']}", soft_wrap=True
    )
    console.print(balance_table(found))


@credit.command()
@configured
@_of_account
@click.option("--since", metavar="WHEN", help="From this moment on: 2026-03-01 or 2026-03-01T09:30:00Z. Default: the last 31 days.")
@click.option("--until", metavar="WHEN", help="Before this moment. Default: now.")
@click.option("--tz", metavar="ZONE", help="Time zone of days and of times without an offset, such as Europe/Zurich. Default: UTC.")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(("table", "json", "csv")),
    default=None,
    help="A table for eyes, JSON or CSV for programs. Default: a table on a terminal, JSON otherwise.",
)
def statement(
    *,
    config_file: str | None,
    assignments: tuple[str, ...],
    account: str,
    since: str | None,
    until: str | None,
    tz: str | None,
    output_format: str | None,
) -> None:
    """What moved an account's balance, with the balance after each line.

    The spans of a day are one line; a top-up carries its receipt (payment hash and preimage).

    \b
    Examples:
      spantoll credit statement --account acme --since 2026-03-01 --until 2026-04-01 --tz Europe/Zurich
      spantoll credit statement --format csv > march.csv

    Exit codes: 0 all is well, 1 it could not be done, 2 the command line or the configuration is wrong.
    """  # noqa: D301 -- click wants the backspace itself, which keeps the lines below it as they are
    output_format = output_format or ("table" if sys.stdout.isatty() else "json")
    with operator_api(read_config(config_file, assignments)) as api:
        found = api.call("GET", f"{_path(account)}/statement", query={"since": since, "until": until, "tz": tz})
    if output_format == "json":
        click.echo(json.dumps(found, indent=2))
    elif output_format == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(_CSV_COLUMNS)
        for line in found["lines"]:
            receipt = line["receipt"] or {}
            row = {**line, "payment_hash": receipt.get("payment_hash", ""), "preimage": receipt.get("preimage") or ""}
            writer.writerow([row[column] for column in _CSV_COLUMNS])
    else:
        from receiver.cli.credit_tables import statement_table  # noqa: PLC0415 -- --help need not wait for it

        _console().print(statement_table(found))


@credit.command()
@configured
@formatted
@click.argument("account")
@click.option("--msat", type=int, metavar="N", help="How much, in millisatoshi; below 0 takes.")
@click.option("--sat", type=int, metavar="N", help="The same in satoshi.")
@click.option("--note", default="", metavar="TEXT", help="Why, for the statement.")
@click.option("--id", "client_id", metavar="ID", help="To repeat an adjustment that may have failed: with the same id it is made once.")
def adjust(
    *,
    config_file: str | None,
    assignments: tuple[str, ...],
    output_format: str,
    account: str,
    msat: int | None,
    sat: int | None,
    note: str,
    client_id: str | None,
) -> None:
    """Give an account credit, or take some back.

    \b
    Examples:
      spantoll credit adjust acme --sat 5000 --note "compensation for the outage"
      spantoll credit adjust acme --sat=-5000 --note "refunded by hand"

    Exit codes: 0 all is well, 1 it could not be done, 2 the command line or the configuration is wrong.
    """  # noqa: D301 -- click wants the backspace itself, which keeps the lines below it as they are
    if (msat is None) == (sat is None):
        raise click.UsageError("say how much: either --sat or --msat")
    amount_msat = msat if msat is not None else (sat or 0) * 1_000
    with operator_api(read_config(config_file, assignments)) as api:
        if client_id is None:
            client_id = f"cli-{uuid.uuid4()}"
            click.echo(f"id {client_id} (should this fail half-way, repeat it with --id {client_id})", err=True)
        done = api.call("POST", f"{_path(account)}/adjust", {"amount_msat": amount_msat, "id": client_id, "note": note})
    if output_format == "json":
        click.echo(json.dumps(done, indent=2))
        return
    from receiver.cli.credit_tables import balance_table  # noqa: PLC0415 -- --help need not wait for it

    console = _console()
    console.print("made before, so nothing moved" if done["outcome"] == "exists" else f"adjusted by {format_sat(done['amount_msat'])} sat")
    console.print(balance_table(done["balance"]))


@credit.command()
@configured
@formatted
def audit(config_file: str | None, assignments: tuple[str, ...], output_format: str) -> None:
    """Prove that the books add up: every balance is what its transfers come to, and all of them sum to 0.

    \b
    Example:
      spantoll credit audit

    Exit codes: 0 they do, 1 they do not or cannot be read, 2 the command line or the configuration is wrong.
    """  # noqa: D301 -- click wants the backspace itself, which keeps the lines below it as they are
    with operator_api(read_config(config_file, assignments)) as api:
        found = api.call("GET", "/api/v1/audit")
    if output_format == "json":
        click.echo(json.dumps(found, indent=2))
    elif found["balanced"]:
        click.secho("the books add up: every balance is what its transfers come to, and all of them sum to 0", fg="green")
    else:
        click.secho(f"the books do not add up: they sum to {found['sum_msat']:,} msat", fg="red")
        for each in found["differences"]:
            click.echo(printable(f"  {each['ledger_account']}: transfers come to {each['derived']}, shown is {each['shown']}"))
    if not found["balanced"]:
        sys.exit(1)


def _path(account: str) -> str:
    return f"/api/v1/accounts/{segment(account)}"


def _same_options(config_file: str | None, assignments: tuple[str, ...]) -> str:
    """The options that lead another command to the same data folder."""
    import shlex  # noqa: PLC0415 -- --help need not wait for it

    options = [*(["--config", config_file] if config_file else []), *(part for each in assignments for part in ("--set", each))]
    return "".join(f" {shlex.quote(option)}" for option in options)


def show_invoice(made: dict[str, Any], *, qr: bool, again: str) -> None:
    """The invoice as a phone reads it, as a wallet takes it, and what it is."""
    from receiver.cli.credit_tables import to_second  # noqa: PLC0415 -- --help need not wait for it

    console = _console()
    if qr:
        from receiver.cli.qr import terminal_qr  # noqa: PLC0415 -- --help need not wait for it

        console.print(terminal_qr(made["uri"].upper(), colour=console.color_system is not None))
    click.echo(made["bolt11"])  # on one line, so that it can be copied
    until = to_second(made["expires"])
    console.print(
        f"{format_sat(made['amount_msat'])} sat for account {printable(made['account'])}, to be paid before {until} UTC", markup=False
    )
    if made["play_money"]:
        console.print("This is play money: the invoice of a wallet without a node. Pay it from another terminal:", style="yellow")
        click.echo(f"  spantoll dev pay{again} {made['bolt11']}")


def _wait_json(api: OperatorApi, made: dict[str, Any]) -> dict[str, Any]:
    return _until_paid(api, made, lambda _: None)


def _wait_live(api: OperatorApi, made: dict[str, Any]) -> dict[str, Any]:
    """Count down while the daemon is asked."""
    from rich.live import Live  # noqa: PLC0415 -- --help need not wait for it

    from receiver.cli.credit_tables import Countdown  # noqa: PLC0415 -- --help need not wait for it

    console = _console()
    if not console.is_terminal:
        return _until_paid(api, made, lambda _: None)
    countdown = Countdown(made)
    try:
        with Live(countdown, console=console, refresh_per_second=4, transient=True):
            return _until_paid(api, made, countdown.set)
    except KeyboardInterrupt:
        left = countdown.left()
        click.echo(
            f"not waited for any longer; the invoice can be paid for another {format_duration(left)}, and is credited then", err=True
        )
        raise


def _until_paid(api: OperatorApi, topup: dict[str, Any], seen: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Ask until the top-up is settled or can no longer be paid."""
    path = f"{_path(topup['account'])}/topups/{topup['payment_hash']}"
    while topup["state"] == "open" and topup["expires_in_seconds"] > 0:
        wait_seconds = min(POLL_SECONDS, topup["expires_in_seconds"] + 1)
        asked = time.monotonic()
        topup = api.call("GET", path, query={"wait": wait_seconds}, wait_seconds=wait_seconds)
        seen(topup)
        if topup["state"] == "open":  # the daemon answers at once when too many wait already
            time.sleep(max(0.0, SHORTEST_POLL_SECONDS - (time.monotonic() - asked)))
    return topup


def _console() -> Console:
    """Standard output; where it is no terminal there is no width to keep to, but lines that people can still read."""
    from rich.console import Console  # noqa: PLC0415 -- --help need not wait for it

    return Console(highlight=False) if sys.stdout.isatty() else Console(width=200, highlight=False)
