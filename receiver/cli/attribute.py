"""`spantoll attribute`: the daemon's own way from spans to costs, over files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

import click

from receiver.cli.files import Document, UnreadableFile, documents
from receiver.cli.options import configured, formatted, read_config, usable_configuration
from receiver.core.attribution import DIMENSIONS
from receiver.errors import ReceiverError
from receiver.otlp.export import Encoding

#: From here on a person wonders whether anything happens (a second or two of work).
PROGRESS_FROM_BYTES: Final = 16 << 20


class Offline(Protocol):
    """What the composition root offers for files."""

    def feed(self, body: bytes, encoding: Encoding) -> int:
        """Take one export; raises a ReceiverError for one that the daemon would refuse."""

    def finish(self, notes: tuple[str, ...] = ()) -> dict[str, Any]:
        """The report ("spantoll.report/1") of all that was fed."""


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "--by",
    "dimensions",
    multiple=True,
    default=("agent", "model"),
    show_default="agent and model",
    type=click.Choice(DIMENSIONS),
    help="Dimension to break the cost down by in the table; may be repeated. The JSON report holds all of them.",
)
@formatted
@configured
def attribute(
    files: tuple[str, ...], dimensions: tuple[str, ...], output_format: str, config_file: str | None, assignments: tuple[str, ...]
) -> None:
    """Say what the model calls in recorded spans cost, and who spent it.

    Each FILE is OTLP protobuf, OTLP/JSON or JSON lines as the OpenTelemetry collector's file exporter writes them, also
    packed with gzip; - is standard input. What it is is told by its content. Several files are one stream: a trace may be
    spread over them, and a span that comes twice counts once.

    \b
    Examples:
      spantoll attribute traces.jsonl
      spantoll attribute --by user --by model export-*.pb
      zcat traces.jsonl.gz | spantoll attribute --format json - | jq .totals

    Exit codes: 0 all was read, 1 something in the files could not be read (named on standard error and under `notes`; the
    report covers the rest), 2 the command line or the configuration is wrong.
    """  # noqa: D301 -- click wants the backspace itself, which keeps the lines below it as they are
    config = read_config(config_file, assignments)
    from receiver import app  # noqa: PLC0415 -- brings the rule tables and price lists in, which --help need not wait for

    with usable_configuration():
        offline: Offline = app.offline(config)
    problems = list(_feed_all(offline, files))
    report = offline.finish(notes=tuple(problems))
    for problem in problems:
        click.secho(problem, fg="red", err=True)
    if output_format == "json":
        click.echo(json.dumps(report, indent=2))
    else:
        from receiver.cli.tables import print_report  # noqa: PLC0415 -- brings rich in, which JSON need not wait for

        print_report(report, dimensions)
    sys.exit(1 if problems else 0)


def _feed_all(offline: Offline, files: tuple[str, ...]) -> Iterator[str]:
    """Feed every export of every file; yields a sentence for each that could not be read."""
    with _progress(files) as advanced:
        for name in files:
            try:
                with _opened(name) as stream:
                    for document in documents(stream, _said(name)):
                        problem = _feed(offline, document)
                        if problem:
                            yield problem
                        advanced(_position(stream))
            except UnreadableFile as error:
                yield str(error)
            except OSError as error:
                yield f"{_said(name)}: cannot be read ({error.strerror or error})"
            advanced(None)


def _feed(offline: Offline, document: Document) -> str:
    try:
        offline.feed(document.body, document.encoding)
    except ReceiverError as error:
        return f"{document.where}: {error}"
    return ""


@contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    if name == "-":
        yield sys.stdin.buffer
    else:
        with Path(name).open("rb") as stream:
            yield stream


def _said(name: str) -> str:
    return "standard input" if name == "-" else name


def _position(stream: BinaryIO) -> int:
    return stream.tell() if stream.seekable() else 0


@contextmanager
def _progress(files: tuple[str, ...]) -> Iterator[Callable[[int | None], None]]:
    """A bar on standard error while there is much to read and a person to see it; told the position in the file, None at its end."""
    sizes = [Path(name).stat().st_size if name != "-" else 0 for name in files]
    if not sys.stderr.isatty() or sum(sizes) < PROGRESS_FROM_BYTES:
        yield lambda _position: None
        return
    from rich.console import Console  # noqa: PLC0415 -- needed on this way only
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading", total=sum(sizes))
        done, at = 0, 0

        def advanced(position: int | None) -> None:
            nonlocal done, at
            if position is None:
                done += sizes[at]
                at += 1
            bar.update(task, completed=done + (position or 0))

        yield advanced
