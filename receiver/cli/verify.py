"""`spantoll verify`: whether the books are whole and add up."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from receiver.cli.options import configured, formatted, read_config
from receiver.errors import ReceiverError
from receiver.logs import printable


@click.command()
@click.argument("path", required=False, type=click.Path(path_type=Path), metavar="[PATH]")
@formatted
@configured
def verify(path: Path | None, output_format: str, config_file: str | None, assignments: tuple[str, ...]) -> None:
    """Check the books: every page, every checksum, every sum that can be worked out twice.

    PATH is a database, such as a backup, or a folder with one. Without it, the books of the configuration are checked. Nothing is
    changed, and a daemon that uses them may go on.

    \b
    Examples:
      spantoll verify
      spantoll verify /var/backups/spantoll.db
      spantoll verify --format json

    Exit codes: 0 all is well, 1 something was found or could not be read.
    """  # noqa: D301 -- click wants the backspace itself, which keeps the lines below it as they are
    from receiver.store.folder import DATABASE  # noqa: PLC0415 -- what a verb works with is imported when it runs
    from receiver.store.verify import CHECKS  # noqa: PLC0415 -- the same
    from receiver.store.verify import verify as check  # noqa: PLC0415 -- the same

    place = Path(read_config(config_file, assignments).store.directory) if path is None else path
    if place.is_dir():
        place /= DATABASE
    shown = Shown()
    try:
        verified = check(place, progress=shown.progress)
    except ReceiverError as error:
        raise click.ClickException(printable(str(error))) from error
    finally:
        shown.clear()
    if output_format == "json":
        answer = {
            "path": str(place),
            "whole": not verified.findings,
            "counted": verified.counted,
            "findings": [{"check": finding.check, "what": finding.what} for finding in verified.findings],
        }
        click.echo(json.dumps(answer, indent=2))
    else:
        wrong = {finding.check for finding in verified.findings}
        for name, _ in CHECKS:
            click.echo(f"{name:<9} {click.style('wrong', fg='red') if name in wrong else 'not checked' if 'pages' in wrong else 'whole'}")
        click.echo("looked at " + ", ".join(f"{number:,} {what}" for what, number in verified.counted.items()))
        for finding in verified.findings:
            click.echo(printable(f"{finding.check}: {finding.what}"))
        if verified.findings:
            click.echo("\nKeep this database as it is, and restore the last backup that `spantoll verify` finds whole.", err=True)
    sys.exit(1 if verified.findings else 0)


class Shown:
    """One line that says how far it is, on a terminal only."""

    def __init__(self) -> None:
        self._on = sys.stderr.isatty()
        self._last = ""

    def progress(self, check: str, done: int, total: int) -> None:
        if not self._on:
            return
        line = f"{check}{f' {100 * done // total} %' if total else ' …'}"
        if line != self._last:
            self._last = line
            click.echo(f"\r\033[K{line}", nl=False, err=True)

    def clear(self) -> None:
        if self._on:
            click.echo("\r\033[K", nl=False, err=True)
