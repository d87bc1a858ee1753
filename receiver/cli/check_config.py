"""`spantoll check-config`: is the configuration right, and what does it come to."""

from __future__ import annotations

import click

from receiver.cli.options import configured, read_config, usable_configuration
from receiver.config import commented, effective


@click.command("check-config")
@click.option(
    "--defaults", is_flag=True, help="Write every key at its default with its explanation instead: a configuration to start from."
)
@configured
def check_config(config_file: str | None, assignments: tuple[str, ...], defaults: bool) -> None:
    """Check the configuration and show what it comes to.

    Everything that is wrong is reported at once: unknown keys (with the nearest right one), wrong values, contradictions,
    then price lists and certificates that cannot be used.
    The effective values, file, environment and --set taken together, are written to standard output as TOML with secrets
    masked.

    \b
    Examples:
      spantoll check-config --config spantoll.toml
      spantoll check-config --set otlp.grpc.endpoint=0.0.0.0:4317
      spantoll check-config --defaults > spantoll.toml

    Exit codes: 0 the configuration can be run, 2 it cannot.
    """  # noqa: D301 -- click wants the backspace itself, which keeps the lines below it as they are
    if defaults:
        click.echo(commented(), nl=False)
        return
    config = read_config(config_file, assignments)
    from receiver import app  # noqa: PLC0415 -- brings the servers in, which --defaults and a wrong configuration need not wait for

    with usable_configuration():
        app.check(config)
    click.echo(effective(config), nl=False)
    click.secho("The configuration is right.", fg="green", err=True)
