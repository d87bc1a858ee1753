"""The command line: only the parser stands here, each verb has a file of its own.

What a verb works with (servers, price lists) is imported when the verb runs, so that `--help` answers at once.

Exit codes, the same for every verb: 0 all is well, 1 something could not be done, 2 the command line or the configuration is wrong.
"""

from __future__ import annotations

import platform

import click

from receiver import __version__
from receiver.cli.account import account
from receiver.cli.attribute import attribute
from receiver.cli.backup import backup
from receiver.cli.check_config import check_config
from receiver.cli.credit import credit
from receiver.cli.demo import demo
from receiver.cli.dev import dev
from receiver.cli.forget import forget
from receiver.cli.lightning import lightning
from receiver.cli.price import price
from receiver.cli.report import report
from receiver.cli.serve import serve
from receiver.cli.token import token
from receiver.cli.verify import verify

_EPILOG = """
\b
Start here:
  spantoll demo                         see it work on recorded agent runs, in half a minute
  spantoll serve                        take spans on localhost:4317 (gRPC) and localhost:4318 (HTTP)
  spantoll attribute traces.jsonl       what the model calls in a file cost, and who spent it
  spantoll price claude-sonnet-4-5      what a model costs
  spantoll account add acme             an account of its own, and the key that opens it
  spantoll credit topup --sat 1000      pay for more spans over Lightning
  spantoll check-config --defaults      every key of the configuration, explained
"""


@click.group(
    name="spantoll",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=_EPILOG,
)
@click.version_option(__version__, "--version", message=f"spantoll %(version)s (Python {platform.python_version()})")
def main() -> None:
    """Say what every model call in your OpenTelemetry traces really cost, and who spent it.

    Point an OTLP exporter at the daemon and scrape its /metrics: each call is counted once, however many spans tell of it,
    and priced at the price of its moment.
    """


for verb in (serve, demo, account, attribute, price, check_config, credit, dev, report, forget, lightning, backup, verify):
    main.add_command(verb)
credit.add_command(token)
