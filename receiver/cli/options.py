"""Options that verbs share, and how a wrong configuration is shown."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any, TypeVar

import click

from receiver.config import Config, ConfigError, load

F = TypeVar("F", bound=Callable[..., Any])

#: `auto`: a table for eyes, JSON for what reads a pipe.
FORMATS = ("table", "json")


class ConfigurationWrong(click.ClickException):
    """All problems at once, one a line; exit code 2."""

    exit_code = 2

    def __init__(self, error: ConfigError) -> None:
        super().__init__(str(error))
        self.problems = error.problems

    def show(self, file: IO[Any] | None = None) -> None:
        count = len(self.problems)
        click.secho(f"The configuration has {count} problem{'s' * (count != 1)}:", fg="red", err=True, file=file)
        for problem in self.problems:
            click.echo(f"  {problem}", err=True, file=file)


def configured(verb: F) -> F:
    """Give a verb `--config` and `--set`, as `config_file` and `assignments`."""
    verb = click.option(
        "--set",
        "assignments",
        multiple=True,
        metavar="SECTION.KEY=VALUE",
        help="Set one key, such as --set window.idle_wait=5m; may be repeated. Goes before the file and the environment.",
    )(verb)
    return click.option(
        "-c",
        "--config",
        "config_file",
        metavar="FILE",
        envvar="SPANTOLL_CONFIG",
        show_envvar=True,
        help="Configuration in TOML; without it every key has its default. `spantoll check-config --defaults` writes one to start from.",
    )(verb)


def formatted(verb: F) -> F:
    """Give a verb `--format`, as `output_format`: "table" or "json", resolved."""
    return formatted_as(FORMATS, "A table for eyes or JSON for programs.")(verb)


def formatted_as(formats: Sequence[str], says: str) -> Callable[[F], F]:
    """The same with other formats than those two beside them."""
    return click.option(
        "--format",
        "output_format",
        type=click.Choice(formats),
        default=None,
        callback=lambda _context, _option, value: value or ("table" if sys.stdout.isatty() else "json"),
        help=f"{says} Default: a table on a terminal, JSON otherwise.",
    )


@contextmanager
def usable_configuration() -> Iterator[None]:
    """Problems that show when the tables are compiled (a price list that is none) are shown like all others."""
    try:
        yield
    except ConfigError as error:
        raise ConfigurationWrong(error) from error


def read_config(config_file: str | None, assignments: tuple[str, ...]) -> Config:
    """The configuration of a verb; ends the program with every problem when it is wrong."""
    with usable_configuration():
        return load(config_file, assignments=assignments)
