"""The demo's own daemon: `spantoll serve` as a process of its own, on free ports and in an empty folder."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from receiver.access.operator_token import TOKEN_FILE
from receiver.errors import ReceiverError

#: Nothing in the demo waits longer; it ends by itself well within a minute.
PATIENCE_SECONDS: Final = 40.0
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


class DemoFailed(ReceiverError):
    """The demo could not be played to its end."""


@dataclass(frozen=True, slots=True)
class OwnDaemon:
    """A daemon that runs, and where it is reached."""

    ports: dict[str, int]  #: by the section that listens
    folder: Path  #: its data folder

    def url(self, listener: str) -> str:
        return f"http://127.0.0.1:{self.ports[listener]}"

    def operator_token(self) -> str:
        return (self.folder / TOKEN_FILE).read_text().strip()


@contextmanager
def own_daemon(settings: Sequence[str] = SETTINGS) -> Iterator[OwnDaemon]:
    """`spantoll serve` with `settings`, until the end of the block. Raises DemoFailed."""
    with tempfile.TemporaryDirectory(prefix="spantoll-demo-") as folder:
        words = [word for setting in (*settings, f"store.directory={folder}") for word in ("--set", setting)]
        # The user's own configuration is another daemon's.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SPANTOLL_")}
        process = subprocess.Popen(  # noqa: S603 -- our own program with fixed words
            [sys.executable, "-m", "receiver", "serve", *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        assert process.stderr is not None
        threading.Thread(target=_listen, args=(process.stderr, lines), daemon=True).start()
        try:
            yield OwnDaemon(_ports(lines), Path(folder))
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
