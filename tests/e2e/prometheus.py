"""A real Prometheus beside a real daemon, with the files of deploy/prometheus at the pace of a test."""

from __future__ import annotations

import json
import re
import secrets
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.e2e.daemon import PATIENCE_SECONDS, Daemon, eventually
from tests.require import need_program

DEPLOYED = Path(__file__).parents[2] / "deploy" / "prometheus"


class Prometheus:
    """Its HTTP API."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/api/v1"

    def get(self, path: str, **parameters: str) -> Any:
        """The `data` of an answer; None while it is starting. A query that it refuses fails the test with its words."""
        url = f"{self.url}/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as answer:  # noqa: S310 -- loopback
                return json.load(answer)["data"]
        except urllib.error.HTTPError as refusal:
            if refusal.code == 503:
                return None
            raise AssertionError(f"{parameters}: {refusal.read().decode()}") from refusal
        except OSError:
            return None

    def query(self, promql: str) -> list[dict[str, Any]]:
        """The result of an instant query, as a list of series or, of a scalar, of one value."""
        data = self.get("query", query=promql)
        if data is None:
            return []
        found: list[dict[str, Any]] = [{"metric": {}, "value": data["result"]}] if data["resultType"] == "scalar" else data["result"]
        return found

    def firing(self) -> dict[str, dict[str, Any]]:
        """What fires now, by the alert's name."""
        data = self.get("alerts") or {"alerts": []}
        return {alert["labels"]["alertname"]: alert for alert in data["alerts"] if alert["state"] == "firing"}


def operator_key(folder: Path) -> tuple[str, str]:
    """(a setting with the hash of a key for the operator's listener, the file with the key)."""
    import hashlib

    key, file = secrets.token_hex(32), folder / "prometheus.key"
    file.write_text(key)
    return f'operator.key=[{{name = "prometheus", sha256 = "{hashlib.sha256(key.encode()).hexdigest()}"}}]', str(file)


@contextmanager
def prometheus(folder: Path, config: Path) -> Iterator[Prometheus]:
    """One with this configuration, on a port that it takes itself and says in its log."""
    program, log = need_program("prometheus", "prometheus"), folder / "prometheus.log"
    options = (f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}", "--web.listen-address=127.0.0.1:0")
    with log.open("wb") as stderr:
        process = subprocess.Popen([program, *options, "--enable-feature=exemplar-storage"], stderr=stderr)

    def listening() -> re.Match[str] | None:
        assert process.poll() is None, log.read_text()
        return re.search(r'msg="Listening on".*address=\S*:(\d+)', log.read_text())

    try:
        yield Prometheus(int(eventually(listening, what="Prometheus listens")[1]))
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)


@contextmanager
def scraping(folder: Path, one: Daemon, key_file: str) -> Iterator[Prometheus]:
    """Prometheus with the deployed configuration and alerts, except that it looks each second and that no alert waits."""
    config = (DEPLOYED / "prometheus.yml").read_text()
    for was, now in (
        ("interval: 15s", "interval: 1s"),
        ("spantoll:8102", one.operator.removeprefix("http://")),
        ("/run/secrets/operator", key_file),
    ):
        assert was in config
        config = config.replace(was, now)
    (folder / "prometheus.yml").write_text(config)
    (folder / "alerts.yml").write_text(re.sub(r"(?m)^( +for:) \w+$", r"\1 0s", (DEPLOYED / "alerts.yml").read_text()))
    with prometheus(folder, folder / "prometheus.yml") as running:
        yield running
