"""The daemon as a process: started on free ports in an empty folder, read, stopped."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

#: Nothing here waits longer than this; a hang is a failure with a name. It is no measurement, so it is sized for a machine that is busy.
PATIENCE_SECONDS = 120.0

#: Short waits of the window, so that a test sees charges soon. The default waits are held by tests with a manual clock.
QUICK = (
    "window.decision_wait_after_root_received=100ms",
    "window.lone_call_wait=200ms",
    "window.idle_wait=300ms",
    "window.remote_root_wait=200ms",
)


@dataclass
class Daemon:
    """A running `spantoll serve`."""

    process: subprocess.Popen[str]
    folder: Path  #: it runs in this one, and its data folder is `spantoll-data` within
    ports: dict[str, int] = field(default_factory=dict)  #: otlp.grpc, otlp.http, operator, customer
    lines: list[dict[str, Any]] = field(default_factory=list)  #: its log so far

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.ports['otlp.grpc']}"

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.ports['otlp.http']}"

    @property
    def operator(self) -> str:
        return f"http://127.0.0.1:{self.ports['operator']}"

    def get(self, path: str, *, accept: str = "*/*") -> str:
        request = urllib.request.Request(self.operator + path, headers={"Accept": accept})  # noqa: S310 -- loopback
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:  # noqa: S310 -- loopback
            text: str = answer.read().decode()
            return text

    @property
    def token(self) -> str:
        """The operator's."""
        return (self.folder / "spantoll-data" / "operator.token").read_text().strip()

    def release(self) -> None:
        """Close every open trace now."""
        headers = {"Authorization": f"Bearer {self.token}"}
        request = urllib.request.Request(self.operator + "/-/release", method="POST", headers=headers)  # noqa: S310 -- loopback
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS):  # noqa: S310 -- loopback
            pass

    def post(self, body: bytes, content_type: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        request = urllib.request.Request(  # noqa: S310 -- loopback
            self.http + "/v1/traces", data=body, headers={"Content-Type": content_type, **(headers or {})}
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:  # noqa: S310 -- loopback
                return answer.status, answer.read()
        except urllib.error.HTTPError as refusal:
            return refusal.code, refusal.read()

    def metric(self, name: str, **labels: str) -> float:
        """Sum of the samples of `name` that carry these labels, over the others."""
        return sum(value for sample, have, value in samples(self.get("/metrics")) if sample == name and labels.items() <= have.items())

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(PATIENCE_SECONDS)


def samples(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """(name, labels, value) of every sample of a text exposition, by the client library's own parser."""
    from prometheus_client.parser import text_string_to_metric_families

    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield sample.name, dict(sample.labels), sample.value


@contextmanager
def daemon(folder: Path, *settings: str, quick: bool = True, env: dict[str, str] | None = None) -> Iterator[Daemon]:
    """Start on port 0 everywhere, wait for its line "ready", stop it at the end."""
    free = [f"{name}.endpoint=127.0.0.1:0" for name in ("otlp.grpc", "otlp.http", "operator", "customer")]
    options = [word for setting in (*free, *(QUICK if quick else ()), *settings) for word in ("--set", setting)]
    process = subprocess.Popen(
        [sys.executable, "-m", "receiver", "serve", *options, "--set", "log.format=json"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **(env or {})},
    )
    found = Daemon(process, folder)
    heard: queue.Queue[dict[str, Any] | None] = queue.Queue()
    assert process.stderr is not None
    assert process.stdout is not None
    listeners = [threading.Thread(target=_listen, args=(stream, found, heard), daemon=True) for stream in (process.stderr, process.stdout)]
    for listener in listeners:
        listener.start()
    try:
        while True:
            line = heard.get(timeout=PATIENCE_SECONDS)
            assert line is not None, f"the daemon ended while starting: {found.lines}"
            if line.get("message") == "listening":
                port = urllib.parse.urlsplit(line["address"]).port
                assert port is not None
                found.ports[line["listener"]] = port
            if line.get("message") == "ready":
                break
        yield found
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(PATIENCE_SECONDS)
        for listener in listeners:
            listener.join(PATIENCE_SECONDS)
        process.stderr.close()
        process.stdout.close()


def _listen(stream: IO[str], found: Daemon, heard: queue.Queue[dict[str, Any] | None]) -> None:
    for text in stream:
        try:
            line = json.loads(text)
        except ValueError:
            line = {"message": text.rstrip()}
        found.lines.append(line)
        heard.put(line)
    heard.put(None)


def eventually(look: Any, *, what: str) -> Any:
    """The first truthy answer of `look`; asks again until PATIENCE_SECONDS are over (bounded, never a measurement)."""
    import time

    ends = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < ends:
        answer = look()
        if answer:
            return answer
        threading.Event().wait(0.05)
    raise AssertionError(f"not within {PATIENCE_SECONDS:g} s: {what}")
