"""`spantoll lightning`: the node that receives top-ups, looked at before anyone pays it."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Final

import click

from receiver.cli.options import configured, formatted, read_config

_MARKS: Final = {"well": ("ok", "green"), "note": ("note", "yellow"), "wrong": ("WRONG", "red")}


@click.group()
def lightning() -> None:
    """Look at the Lightning node that receives top-ups.

    Exit codes: 0 done, 1 it could not be done, 2 the command line or the configuration is wrong.
    """


@lightning.command("check")
@formatted
@configured
def check(output_format: str, config_file: str | None, assignments: tuple[str, ...]) -> None:
    """Say what the node is, what its credential may do, and whether it can be paid.

    Asks the node that [lightning] names, beside a running daemon or without one. A credential that could pay is refused, and
    the command that bakes the right one is shown. Nothing is paid.

    \b
    Examples:
      spantoll lightning check --config spantoll.toml
      spantoll lightning check --set lightning.backend=lnd --set lightning.lnd.url=https://localhost:8080 \\
        --set lightning.lnd.cert_file=tls.cert --set lightning.lnd.macaroon_file=spantoll.macaroon

    Exit codes: 0 top-ups can be received, 1 they cannot, 2 the command line or the configuration is wrong.
    """  # noqa: D301 -- click wants the backspace itself, which keeps the lines below it as they are
    config = read_config(config_file, assignments)
    from receiver.lightning.examination import examine  # noqa: PLC0415 -- brings HTTP in, which --help need not wait for

    found = asyncio.run(examine(config.lightning))
    if output_format == "json":
        shown = [{"grade": each.grade.value, "says": each.says, "do": each.do} for each in found]
        click.echo(json.dumps({"backend": config.lightning.backend, "findings": shown}, indent=2))
    else:
        for each in found:
            mark, colour = _MARKS[each.grade.value]
            click.echo(f"{click.style(f'{mark:>5}', fg=colour)}  {each.says}")
            if each.do:
                click.echo(f"       {each.do}")
    sys.exit(1 if any(each.grade.value == "wrong" for each in found) else 0)
