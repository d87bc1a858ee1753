"""The first act: every export of a script over its own transport, then the wait until all of it is counted."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import grpc
from google.rpc import status_pb2

from receiver.demo.daemon import PATIENCE_SECONDS, DemoFailed, OwnDaemon
from receiver.demo.script import Scrape, Script, read_metrics

#: Between two exports, so that an eye can follow.
PACE_SECONDS: Final = 0.15
_EXPORT: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


@dataclass(frozen=True, slots=True)
class Refused:
    """What an exporter hears of an export that was not stored."""

    code: str  #: "FAILED_PRECONDITION", "HTTP 402"
    message: str


class Player:
    """Plays a script against a daemon of its own."""

    def __init__(self, daemon: OwnDaemon) -> None:
        self._http = f"{daemon.url('otlp.http')}/v1/traces"
        self._metrics = f"{daemon.url('operator')}/metrics"
        self._channel = grpc.insecure_channel(f"127.0.0.1:{daemon.ports['otlp.grpc']}")
        self._export: Callable[..., bytes] = self._channel.unary_unary(_EXPORT)

    def send(self, transport: str, body: bytes) -> Refused | None:
        """One export; None when it was answered OK, else what the exporter hears. Raises DemoFailed when nobody answers."""
        try:
            if transport == "grpc":
                self._export(body, timeout=PATIENCE_SECONDS)
            else:
                content_type = "application/json" if transport == "json" else "application/x-protobuf"
                request = urllib.request.Request(self._http, data=body, headers={"Content-Type": content_type})  # noqa: S310 -- our own daemon
                with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS):  # noqa: S310 -- our own daemon
                    pass
        except urllib.error.HTTPError as error:
            status = status_pb2.Status.FromString(error.read()) if transport == "http" else status_pb2.Status(message=error.reason)
            return Refused(f"HTTP {error.code}", status.message)
        except grpc.RpcError as error:
            return Refused(error.code().name, error.details() or "")
        except OSError as error:
            raise DemoFailed(f"the daemon does not answer: {error}") from error
        return None

    def scrape(self) -> Scrape:
        with urllib.request.urlopen(self._metrics, timeout=PATIENCE_SECONDS) as answer:  # noqa: S310 -- our own daemon
            return read_metrics(answer.read().decode())

    def close(self) -> None:
        self._channel.close()


def play(script: Script, player: Player, *, show: Callable[[Scrape, str], None], pace_seconds: float = PACE_SECONDS) -> Scrape:
    """Send every export, then wait until the window has let every trace go; returns the last scrape."""
    for capture in script.captures:
        says = f"{capture.name} over {_SPOKEN[capture.transport]}: {capture.shows}"
        for body in capture.exports:
            refused = player.send(capture.transport, body)
            if refused is not None:
                raise DemoFailed(f"an export of {capture.name} was not taken: {refused.code}, {refused.message}")
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
