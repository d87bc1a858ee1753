"""`spantoll serve`: the daemon, and the lines that tell a newcomer what to do next."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping

import click

from receiver import __version__, logs
from receiver.access.keys import KeyNeed
from receiver.cli.options import configured, read_config, usable_configuration
from receiver.config import Config, base_url

log = logging.getLogger(__name__)

NOBODY_HAS_A_KEY = (
    "every request must carry a key, and no account has one yet, so all are refused: make one with `spantoll account add NAME`, which the"
    " running daemon takes up at once"
)


@click.command()
@configured
def serve(config_file: str | None, assignments: tuple[str, ...]) -> None:
    """Run the daemon until it is told to stop.

    Without any configuration it listens on this machine only: OTLP/gRPC on localhost:4317, OTLP/HTTP on localhost:4318,
    metrics and administration on localhost:8102, the customers' page on localhost:8101.

    \b
    Examples:
      spantoll serve
      spantoll serve --config spantoll.toml
      spantoll serve --set otlp.grpc.endpoint=localhost:14317 --set log.level=debug
      SPANTOLL_WINDOW__IDLE_WAIT=2m spantoll serve

    \b
    Signals: SIGTERM and SIGINT stop it in order (a second one at once), SIGHUP reads certificates again,
    SIGUSR1 closes every open trace.

    Exit codes: 0 it was told to stop, 1 it could not go on, 2 the command line or the configuration is wrong.
    """  # noqa: D301 -- click wants the backspace itself, which keeps the lines below it as they are
    config = read_config(config_file, assignments)
    logs.configure(level=config.log.level, format=config.log.format)
    from receiver import app  # noqa: PLC0415 -- brings the servers in, which --help and a wrong configuration need not wait for

    with usable_configuration():
        sys.exit(app.run(config, started=lambda ports, keys: announce(config, ports, keys)))


def announce(config: Config, ports: Mapping[str, int], keys: KeyNeed = KeyNeed.NOT_ASKED) -> None:
    """Say what listens where and how to send: sentences on a terminal, log lines elsewhere.

    Args:
        config: what is run.
        ports: the bound port of each listener that is on, by its section: "otlp.grpc", "otlp.http", "operator", "customer".
        keys: whether exporters must send one, by the configuration or the books.

    """
    if keys is KeyNeed.NOBODY_HAS_ONE and not config.l402.enabled:
        log.warning("%s", NOBODY_HAS_A_KEY)
    if sys.stderr.isatty() and config.log.format != "json":
        click.echo(welcome(config, ports, keys), err=True)
        return
    for name, url in addresses(config, ports).items():
        log.info("listening", extra={"listener": name, "address": url})
    for variables in exporter_settings(config, ports, keys).values():
        log.info("an exporter is pointed here by these environment variables", extra={"environment": " ".join(variables)})


def welcome(config: Config, ports: Mapping[str, int], keys: KeyNeed = KeyNeed.NOT_ASKED) -> str:
    """What a person reads after `spantoll serve`."""
    lines = [f"spantoll {__version__} is listening:"]
    lines += [f"  {_SAID[name]:<10} {url}" for name, url in addresses(config, ports).items()]
    for protocol, variables in exporter_settings(config, ports, keys).items():
        lines += ["", f"To send spans over {protocol}, start your program with:", *(f"  export {variable}" for variable in variables)]
    return "\n".join([*lines, ""])


_SAID = {"otlp.grpc": "OTLP/gRPC", "otlp.http": "OTLP/HTTP", "operator": "operator", "customer": "customer"}
_PATHS = {"otlp.grpc": "", "operator": "/metrics", "customer": "/"}


def addresses(config: Config, ports: Mapping[str, int]) -> dict[str, str]:
    """Where each listener is reached, as a URL, by its section."""
    paths = {**_PATHS, "otlp.http": config.otlp.http.traces_path}
    return {name: base_url(config, name, port) + paths[name] for name, port in ports.items()}


def exporter_settings(config: Config, ports: Mapping[str, int], keys: KeyNeed = KeyNeed.NOT_ASKED) -> dict[str, list[str]]:
    """Environment variables of any OpenTelemetry SDK (OTLP exporter specification), by what they select."""
    settings: dict[str, list[str]] = {}
    if "otlp.grpc" in ports:
        settings["gRPC"] = [
            f"OTEL_EXPORTER_OTLP_ENDPOINT={base_url(config, 'otlp.grpc', ports['otlp.grpc'])}",
            "OTEL_EXPORTER_OTLP_PROTOCOL=grpc",
        ]
    if "otlp.http" in ports:
        base = base_url(config, "otlp.http", ports["otlp.http"])
        path = config.otlp.http.traces_path
        # SDKs put /v1/traces behind the general variable, and take the one for traces as it is
        at = f"OTEL_EXPORTER_OTLP_ENDPOINT={base}" if path == "/v1/traces" else f"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT={base}{path}"
        settings["HTTP"] = [at, "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"]
    if keys is not KeyNeed.NOT_ASKED:
        for variables in settings.values():
            variables.append(
                "OTEL_EXPORTER_OTLP_HEADERS='authorization=Bearer%20<key>'"
            )  # the blank percent-encoded: the value is baggage syntax
    return settings
