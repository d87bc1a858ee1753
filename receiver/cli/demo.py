"""`spantoll demo`: what the daemon does, in half a minute, on recorded runs of real agent frameworks."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import click

from receiver.errors import ReceiverError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from receiver.demo import Row, Scrape, Script

_NEXT: Final = """\
What to run next:
  spantoll serve                                  take your own spans
  export OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318 OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf
  python your_agents.py                           any OpenTelemetry instrumentation of model calls
  curl -s localhost:8102/metrics | grep spantoll_cost_usd_total
"""


@click.command()
def demo() -> None:
    """Start a daemon, play recorded agent runs into it, and hold what it shows against the truth.

    Six runs of LangGraph, Strands, CrewAI, Google ADK, OpenInference and the Vercel AI SDK go over gRPC, HTTP and JSON into a
    daemon on free ports. Their spans tell of most calls twice; what is shown at the end must equal what the model server
    behind them logged. It takes about half a minute, needs no network, and leaves nothing behind.

    Exit codes: 0 every number agrees with the truth, 1 one does not, or the demo could not be played.
    """
    from rich.console import Console  # noqa: PLC0415 -- --help need not wait for it

    from receiver.demo import Script, differences, total  # noqa: PLC0415 -- the same

    console = Console()
    script = Script.load()
    try:
        last = _played(script, console)
    except ReceiverError as error:
        click.secho(str(error), fg="red", err=True)
        sys.exit(1)
    console.print(_table(last, "what /metrics shows at the end"))
    found = differences(script.truth, last.agents)
    for sentence in found:
        console.print(f"[red]differs[/red]  {sentence}")
    if found:
        sys.exit(1)
    truth = total(script.truth)
    tokens = truth.input_tokens + truth.output_tokens
    console.print(
        f"[green]All of it agrees with the truth[/green]: {truth.calls} calls, {tokens:,} tokens, {_usd(truth.cost_pusd)} USD,"
        f" {last.duplicate_spans} resent spans counted once.\n"
        f"Adding up the tokens on the spans would have shown {script.plain_sum_tokens:,}"
        f" ({script.plain_sum_tokens / tokens:.2f} times as many).\n"
    )
    console.print(_NEXT, highlight=False, soft_wrap=True)


def _played(script: Script, console: Console) -> Scrape:
    from rich.live import Live  # noqa: PLC0415 -- --help need not wait for it

    from receiver.demo import Player, own_daemon, play  # noqa: PLC0415 -- the same

    said = ""
    with own_daemon() as ports:
        player = Player(ports)
        try:
            with Live(console=console, auto_refresh=False, transient=True) as live:

                def show(scrape: Scrape, says: str) -> None:
                    nonlocal said
                    if not console.is_terminal and says != said:  # a log of what was played, where nothing can be redrawn
                        console.print(says, highlight=False)
                    said = says
                    if console.is_terminal:
                        live.update(_table(scrape, says), refresh=True)

                return play(script, player, show=show)
        finally:
            player.close()


def _table(scrape: Scrape, says: str) -> RenderableType:
    from rich.table import Table  # noqa: PLC0415 -- --help need not wait for it

    from receiver.demo import total  # noqa: PLC0415 -- the same

    table = Table(
        title="what every agent's model calls cost",
        caption=f"{says}\n{scrape.open_traces} open traces, provisional {scrape.provisional_usd:.6f} USD",
    )
    for name in ("agent", "model"):
        table.add_column(name, no_wrap=True)
    for name in ("calls", "tokens in", "tokens out", "USD"):
        table.add_column(name, justify="right", no_wrap=True)
    for (agent, model), row in sorted(scrape.models.items()):
        table.add_row(agent, model, *_cells(row))
    table.add_section()
    table.add_row("all", "", *_cells(total(scrape.agents)), style="bold")
    return table


def _cells(row: Row) -> list[str]:
    return [f"{row.calls:,}", f"{row.input_tokens:,}", f"{row.output_tokens:,}", _usd(row.cost_pusd)]


def _usd(pusd: int) -> str:
    return f"{pusd / 1e12:.6f}"
