"""`spantoll demo`: what the daemon does, in half a minute, on recorded runs of real agent frameworks."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import click

from receiver.errors import ReceiverError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from receiver.demo.paying import Scene
    from receiver.demo.player import Player
    from receiver.demo.script import Row, Scrape, Script

_NEXT: Final = """\
What to run next:
  spantoll serve                                  take your own spans
  export OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318 OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf
  python your_agents.py                           any OpenTelemetry instrumentation of model calls
  curl -s localhost:8102/metrics | grep spantoll_cost_usd_total
  spantoll report --by agent                      what every agent cost, exactly
  spantoll credit topup --sat 1000                credit, once you serve with credit.enforce=true
"""


#: Columns of a terminal that the numbers of a table take, with all of its borders.
_NUMBERS_WIDTH: Final = 53
_COLOURS: Final = {"exporter": "red", "customer": "cyan", "operator": "magenta", "daemon": "yellow"}


@click.command()
def demo() -> None:
    """Start a daemon, play recorded agent runs into it, run out of credit, pay, go on, and hold everything against the truth.

    First act: six runs of LangGraph, Strands, CrewAI, Google ADK, OpenInference and the Vercel AI SDK go over gRPC, HTTP and JSON
    into a daemon on free ports. Their spans tell of most calls twice; what is shown at the end must equal what the model server
    behind them logged. Second act: the daemon enforces credit, which the first act has used up; an export is refused, an invoice is
    paid with play money, the export goes through, and the books must balance. It takes about half a minute, needs no network, and
    leaves nothing behind.

    Exit codes: 0 every number agrees with the truth, 1 one does not, or the demo could not be played.
    """
    from rich.console import Console  # noqa: PLC0415 -- --help need not wait for it

    from receiver.demo.script import Script  # noqa: PLC0415 -- the same

    console = Console()
    script = Script.load()
    try:
        found = _played(script, console)
    except ReceiverError as error:
        click.secho(str(error), fg="red", err=True)
        sys.exit(1)
    for sentence in found:
        console.print(f"[red]differs[/red]  {sentence}")
    if found:
        sys.exit(1)
    console.print(_NEXT, highlight=False, soft_wrap=True)


def _played(script: Script, console: Console) -> list[str]:
    """Both acts; what differs from the truth, a sentence each."""
    from receiver.demo.daemon import SETTINGS, own_daemon  # noqa: PLC0415 -- --help need not wait for it
    from receiver.demo.paying import Counter, credit_settings, pay_and_go_on  # noqa: PLC0415 -- the same
    from receiver.demo.player import Player  # noqa: PLC0415 -- the same
    from receiver.demo.script import differences  # noqa: PLC0415 -- the same

    with own_daemon((*SETTINGS, *credit_settings(script))) as daemon:
        player = Player(daemon)
        try:
            last = _first_act(script, player, console)
            console.print(_table(last, "what /metrics shows at the end", console.width))
            found = differences(script.truth, last.agents)
            if not found:
                _agreed(script, last, console)
            found += pay_and_go_on(script, player, Counter(daemon), tell=lambda scene: _told(scene, console))
            if not found:
                console.print("[green]The books balance[/green]: what was paid, minus what the new spans cost, is what is left.\n")
            return found
        finally:
            player.close()


def _first_act(script: Script, player: Player, console: Console) -> Scrape:
    from rich.live import Live  # noqa: PLC0415 -- --help need not wait for it

    from receiver.demo.player import play  # noqa: PLC0415 -- the same

    said = ""
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def show(scrape: Scrape, says: str) -> None:
            nonlocal said
            if not console.is_terminal and says != said:  # a log of what was played, where nothing can be redrawn
                console.print(says, highlight=False)
            said = says
            if console.is_terminal:
                live.update(_table(scrape, says, console.width), refresh=True)

        return play(script, player, show=show)


def _agreed(script: Script, last: Scrape, console: Console) -> None:
    from receiver.demo.script import total  # noqa: PLC0415 -- --help need not wait for it

    truth = total(script.truth)
    tokens = truth.input_tokens + truth.output_tokens
    console.print(
        f"[green]All of it agrees with the truth[/green]: {truth.calls} calls, {tokens:,} tokens, {_usd(truth.cost_pusd)} USD,"
        f" {last.duplicate_spans} resent spans counted once.\n"
        f"Adding up the tokens on the spans would have shown {script.plain_sum_tokens:,}"
        f" ({script.plain_sum_tokens / tokens:.2f} times as many).\n"
    )


def _told(scene: Scene, console: Console) -> None:
    from rich.text import Text  # noqa: PLC0415 -- --help need not wait for it

    line = Text(f"{scene.who:>8}  ", style=_COLOURS[scene.who])
    console.print(line.append(scene.says, style="default"), soft_wrap=True)
    if scene.bolt11:
        console.print(Text(f"{'':>8}  {scene.bolt11}", style="dim"), soft_wrap=True)


def _table(scrape: Scrape, says: str, width: int) -> RenderableType:
    from rich.table import Table  # noqa: PLC0415 -- --help need not wait for it

    from receiver.demo.script import total  # noqa: PLC0415 -- the same

    table = Table(
        title="what every agent's model calls cost",
        caption=f"{says}\n{scrape.open_traces} open traces, provisional {scrape.provisional_usd:.6f} USD",
    )
    names = max(24, width - _NUMBERS_WIDTH)  # in a narrow terminal names are cut, never numbers
    table.add_column("agent", no_wrap=True, max_width=names * 2 // 5)
    table.add_column("model", no_wrap=True, max_width=names - names * 2 // 5)
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
