"""`spantoll backup`: a copy of the books while they are in use."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Any, Final

import click

from receiver.cli.operator_api import Failed, OperatorApi, operator_api
from receiver.cli.options import configured, formatted, read_config
from receiver.logs import printable

#: A backup copies, checks and syncs some hundred MB a second; a slow disk with large books may take this long.
WAIT_SECONDS: Final = 6 * 3_600.0
#: How often a terminal shows how far it is.
LOOK_SECONDS: Final = 0.3


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace a file that is there already.")
@formatted
@configured
def backup(path: Path, force: bool, output_format: str, config_file: str | None, assignments: tuple[str, ...]) -> None:
    """Copy the books to the file PATH, of one moment, while a daemon goes on working (or without one).

    The copy is checked before it takes its place. It holds charges, credit, accounts (keys as digests), open traces and counters, and no
    prompts. The operator's token, the key of privacy.hash and certificates are files of their own: keep them, too.

    \b
    Examples:
      spantoll backup /var/backups/spantoll.db
      spantoll backup --force nightly.db && spantoll verify nightly.db

    \b
    To restore one, with the daemon stopped:
      mkdir -p spantoll-data/old && mv spantoll-data/spantoll.db* spantoll-data/old/
      cp spantoll.db spantoll-data/spantoll.db
    Charges, reports and credit go on from the moment of the backup; counters on /metrics begin anew at 0.

    Exit codes: 0 done, 1 it could not be done, 2 the command line or the configuration is wrong.
    """  # noqa: D301 -- click wants the backspace itself, which keeps the lines below it as they are
    target = path.absolute()  # of this machine: the daemon has a working directory of its own
    with operator_api(read_config(config_file, assignments)) as api:
        answer = _made(api, {"path": str(target), "force": force})
    if output_format == "json":
        click.echo(json.dumps(answer, indent=2))
        return
    click.echo(printable(f"{answer['path']}: {answer['bytes']:,} bytes, taken {answer['taken']}, whole when it was made."))


def _made(api: OperatorApi, body: dict[str, Any]) -> dict[str, Any]:
    """The answer; on a terminal a bar meanwhile."""
    if not sys.stderr.isatty():
        return api.call("POST", "/api/v1/backup", body, wait_seconds=WAIT_SECONDS)
    outcome: list[dict[str, Any] | Failed] = []

    def ask() -> None:
        try:
            outcome.append(api.call("POST", "/api/v1/backup", body, wait_seconds=WAIT_SECONDS))
        except Failed as failed:
            outcome.append(failed)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    with click.progressbar(length=100, label="copied", file=sys.stderr, show_eta=False) as bar:
        while asking.is_alive():
            asking.join(LOOK_SECONDS)
            try:
                told = api.call("GET", "/api/v1/backup")
            except Failed:
                continue
            if told["running"] and told["total_pages"]:
                bar.update(100 * told["done_pages"] // told["total_pages"] - bar.pos)
    if isinstance(outcome[0], Failed):
        raise outcome[0]
    return outcome[0]
