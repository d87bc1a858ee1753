"""`spantoll demo`: a daemon of its own, real captures through the real wire, and its numbers held against the truth.

The captures are exports of real agent frameworks; the truth beside them is what the model server behind them logged, priced by
an independent list. The daemon runs as a process of its own on free ports; this module is its client, as any exporter and any
scraper would be.
"""

from __future__ import annotations

import base64
import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import IO, Any, Final

import grpc
from prometheus_client.parser import text_string_to_metric_families

from receiver import tables
from receiver.errors import ReceiverError

#: Nothing in the demo waits longer; it ends by itself well within a minute.
PATIENCE_SECONDS: Final = 40.0
#: Between two exports, so that an eye can follow.
PACE_SECONDS: Final = 0.15
#: Waits of the demo's window: its exports come within seconds, not within an SDK's batch delays. The captures keep the
#: prices of the day on which they were made.
SETTINGS: Final = (
    "window.decision_wait_after_root_received=2s",
    "window.lone_call_wait=4s",
    "window.idle_wait=4s",
    "window.remote_root_wait=2s",
    "prices.accept_start_before=3650d",
    "log.format=json",
    *(f"{listener}.endpoint=127.0.0.1:0" for listener in ("otlp.grpc", "otlp.http", "operator", "customer")),
)
#: In the truth: calls that the program made outside of any agent.
OUTSIDE: Final = ""
_EXPORT: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


class DemoFailed(ReceiverError):
    """The demo could not be played to its end."""


@dataclass
class Row:
    """What one agent spent."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_pusd: int = 0


@dataclass(frozen=True)
class Capture:
    """One recorded run of an agent program."""

    name: str
    transport: str  #: grpc, http (protobuf) or json
    shows: str
    exports: list[bytes]


@dataclass(frozen=True)
class Script:
    """What is played, and what it comes to."""

    captures: list[Capture]
    truth: dict[str, Row]  #: by agent
    plain_sum_tokens: int  #: input + output of every span added up: what a sum over the spans would show

    @classmethod
    def load(cls) -> Script:
        document = tables.load_json("demo.json.gz")
        captures = [
            Capture(each["name"], each["transport"], each["shows"], [base64.b64decode(body) for body in each["exports"]])
            for each in document["captures"]
        ]
        plain = document["plain_sum"]
        return cls(
            captures,
            {agent: Row(**row) for agent, row in document["agents"].items()},
            plain["input_tokens"] + plain["output_tokens"],
        )


@dataclass(frozen=True)
class Scrape:
    """What /metrics shows."""

    agents: dict[str, Row]
    models: dict[tuple[str, str], Row]  #: by (agent, model)
    open_traces: int
    provisional_usd: float
    duplicate_spans: int


class Player:
    """Plays a script against a daemon of its own."""

    def __init__(self, ports: dict[str, int]) -> None:
        self._http = f"http://127.0.0.1:{ports['otlp.http']}/v1/traces"
        self._metrics = f"http://127.0.0.1:{ports['operator']}/metrics"
        self._channel = grpc.insecure_channel(f"127.0.0.1:{ports['otlp.grpc']}")
        self._export: Callable[..., bytes] = self._channel.unary_unary(_EXPORT)

    def send(self, capture: Capture, body: bytes) -> None:
        """One export over the capture's transport; raises DemoFailed unless it is answered OK."""
        try:
            if capture.transport == "grpc":
                self._export(body, timeout=PATIENCE_SECONDS)
            else:
                content_type = "application/json" if capture.transport == "json" else "application/x-protobuf"
                request = urllib.request.Request(self._http, data=body, headers={"Content-Type": content_type})  # noqa: S310 -- our own daemon
                with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS):  # noqa: S310 -- our own daemon
                    pass
        except (grpc.RpcError, OSError) as error:
            raise DemoFailed(f"an export of {capture.name} was not taken: {error}") from error

    def scrape(self) -> Scrape:
        with urllib.request.urlopen(self._metrics, timeout=PATIENCE_SECONDS) as answer:  # noqa: S310 -- our own daemon
            return read_metrics(answer.read().decode())

    def close(self) -> None:
        self._channel.close()


def read_metrics(text: str) -> Scrape:
    """The few families that the demo shows, out of an exposition."""
    agents: dict[str, Row] = {}
    models: dict[tuple[str, str], Row] = {}
    single = {"spantoll_window_traces": 0.0, "spantoll_window_provisional_cost_usd": 0.0, "spantoll_receiver_duplicate_spans_total": 0.0}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = sample.labels
            if sample.name in single:
                single[sample.name] += sample.value
            elif sample.name in ("spantoll_calls_total", "spantoll_tokens_total", "spantoll_cost_usd_total"):
                for row in (
                    agents.setdefault(labels["agent"], Row()),
                    models.setdefault((labels["agent"], labels["model"]), Row()),
                ):
                    _add(row, sample.name, labels.get("type", ""), sample.value)
    traces, provisional, duplicates = single.values()
    return Scrape(agents, models, int(traces), provisional, int(duplicates))


def _add(row: Row, name: str, kind: str, value: float) -> None:
    if name == "spantoll_calls_total":
        row.calls += round(value)
    elif name == "spantoll_cost_usd_total":
        row.cost_pusd += round(value * 1e12)
    elif kind == "output":
        row.output_tokens += round(value)
    else:
        row.input_tokens += round(value)


def play(script: Script, player: Player, *, show: Callable[[Scrape, str], None], pace_seconds: float = PACE_SECONDS) -> Scrape:
    """Send every export, then wait until the window has let every trace go; returns the last scrape."""
    for capture in script.captures:
        says = f"{capture.name} over {_SPOKEN[capture.transport]}: {capture.shows}"
        for body in capture.exports:
            player.send(capture, body)
            show(player.scrape(), says)
            time.sleep(pace_seconds)
    ends = time.monotonic() + PATIENCE_SECONDS
    while (scrape := player.scrape()).open_traces:
        if time.monotonic() > ends:
            raise DemoFailed(f"{scrape.open_traces} traces are still open after {PATIENCE_SECONDS:g} s")
        show(scrape, "waiting until the open traces are quiet")
        time.sleep(pace_seconds)
    return scrape


_SPOKEN: Final = {"grpc": "OTLP/gRPC", "http": "OTLP/HTTP protobuf", "json": "OTLP/HTTP JSON"}


def differences(truth: dict[str, Row], shown: dict[str, Row]) -> list[str]:
    """Where the scrape and the truth differ, a sentence each: every agent, and the total.

    Calls that were made outside of any agent (`OUTSIDE` in the truth) may go by any other name: the total holds them. Cost is
    exact to 1 pico-USD a call, the rounding of the list that the truth was priced with.
    """
    named = [(f"agent {agent}", want, shown.get(agent, Row())) for agent, want in sorted(truth.items()) if agent != OUTSIDE]
    found: list[str] = []
    for who, want, got in (*named, ("all", total(truth), total(shown))):
        found += [
            f"{who}: {getattr(got, name):,} {name} instead of {getattr(want, name):,}"
            for name in ("calls", "input_tokens", "output_tokens")
            if getattr(want, name) != getattr(got, name)
        ]
        if abs(want.cost_pusd - got.cost_pusd) > want.calls:
            found.append(f"{who}: {got.cost_pusd:,} pico-USD instead of {want.cost_pusd:,}")
    return found


def total(rows: dict[str, Row]) -> Row:
    """The sum over all agents."""
    return Row(*(sum(getattr(row, each.name) for row in rows.values()) for each in fields(Row)))


@contextmanager
def own_daemon() -> Iterator[dict[str, int]]:
    """`spantoll serve` as a process of its own in an empty folder; yields the ports it bound. Raises DemoFailed."""
    words = [word for setting in SETTINGS for word in ("--set", setting)]
    with tempfile.TemporaryDirectory(prefix="spantoll-demo-") as folder:
        process = subprocess.Popen(  # noqa: S603 -- our own program with fixed words
            [sys.executable, "-m", "receiver", "serve", *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
        )
        lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        assert process.stderr is not None
        threading.Thread(target=_listen, args=(process.stderr, lines), daemon=True).start()
        try:
            yield _ports(lines)
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _ports(lines: queue.Queue[dict[str, Any] | None]) -> dict[str, int]:
    ports: dict[str, int] = {}
    heard: list[str] = []
    while True:
        try:
            line = lines.get(timeout=PATIENCE_SECONDS)
        except queue.Empty:
            line = None
        if line is None:
            raise DemoFailed("the daemon did not start: " + " | ".join(heard[-5:]))
        heard.append(json.dumps(line))
        if line.get("message") == "listening":
            port = urllib.parse.urlsplit(line["address"]).port
            assert port is not None
            ports[line["listener"]] = port
        elif line.get("message") == "ready":
            return ports


def _listen(stream: IO[str], lines: queue.Queue[dict[str, Any] | None]) -> None:
    for text in stream:
        try:
            lines.put(json.loads(text))
        except ValueError:
            lines.put({"message": text.rstrip()})
    lines.put(None)
