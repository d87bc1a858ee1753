"""The README's exporter snippets, run as they stand but for the ports."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.daemon import Daemon, daemon, eventually
from tests.require import need, need_program

pytestmark = pytest.mark.e2e
README = (Path(__file__).parents[2] / "README.md").read_text()
JS = Path(__file__).parent / "js"

SPEAK_PYTHON = """
tracer = trace.get_tracer("opentelemetry.instrumentation.genai.openai", "1.3.0")
with tracer.start_as_current_span("chat gpt-4o", attributes={
    "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt-4o", "gen_ai.response.id": "resp_1",
    "gen_ai.usage.input_tokens": 1000, "gen_ai.usage.output_tokens": 500, "gen_ai.agent.name": "reader",
}):
    pass
provider.shutdown()
"""

SPEAK_JAVASCRIPT = """
const span = provider.getTracer("opentelemetry.instrumentation.genai.openai", "1.3.0").startSpan("chat gpt-4o", {attributes: {
  "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt-4o", "gen_ai.response.id": "resp_1",
  "gen_ai.usage.input_tokens": 1000, "gen_ai.usage.output_tokens": 500, "gen_ai.agent.name": "reader",
}});
span.end();
provider.shutdown();
"""


def snippet(name: str) -> str:
    found = re.search(rf"<!-- snippet: {name} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert found, f"README.md has no snippet {name}"
    return found[1]


def at_ports(text: str, one: Daemon) -> str:
    """The snippet with this daemon's ports in the place of the default ones."""
    moved = text.replace("localhost:4317", one.grpc).replace("localhost:4318", one.http.removeprefix("http://"))
    assert moved != text
    return moved


def holds_one_call(one: Daemon) -> None:
    one.release()
    assert one.metric("spantoll_calls_total", agent="reader", model="gpt-4o") == 1
    assert one.metric("spantoll_cost_usd_total", agent="reader") == pytest.approx(0.0075, abs=1e-15)


@pytest.mark.parametrize("name", ["python-grpc", "python-http"])
def test_the_python_snippets(tmp_path: Path, name: str) -> None:
    """What a reader pastes sends spans that are counted."""
    with daemon(tmp_path) as one:
        (tmp_path / "app.py").write_text(at_ports(snippet(name), one) + SPEAK_PYTHON)
        subprocess.run([sys.executable, "app.py"], cwd=tmp_path, check=True, timeout=60)
        holds_one_call(one)


def test_the_javascript_snippet(tmp_path: Path) -> None:
    """The same in JavaScript."""
    node = need_program("node", "nodejs")
    need((JS / "node_modules").exists(), "the JavaScript exporters are not installed (npm ci --prefix tests/e2e/js)")
    with daemon(tmp_path) as one:
        script = tmp_path / "app.js"
        script.write_text(at_ports(snippet("javascript"), one) + SPEAK_JAVASCRIPT)
        (tmp_path / "node_modules").symlink_to(JS / "node_modules")
        subprocess.run([node, script.name], cwd=tmp_path, check=True, timeout=60)
        holds_one_call(one)


@contextmanager
def collector(folder: Path, config: str) -> Iterator[None]:
    program = shutil.which("otelcol") or shutil.which("otelcol-contrib")
    need(program, "no OpenTelemetry Collector (otelcol) is installed (tests/e2e/collector/build makes one, with Go)")
    assert program is not None
    (folder / "collector.yaml").write_text(config + "  telemetry: {metrics: {level: none}}\n")
    process = subprocess.Popen([program, "--config", str(folder / "collector.yaml")], cwd=folder)
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


def test_the_collector_snippet(tmp_path: Path) -> None:
    """A collector with the README's configuration passes on what an SDK sends it."""
    from tests.e2e.ports import free_port

    with daemon(tmp_path) as one:
        port = free_port()
        config = at_ports(snippet("collector"), one).replace("localhost:14317", f"127.0.0.1:{port}")
        with collector(tmp_path, config):
            sender = at_ports(snippet("python-grpc"), one).replace(one.grpc, f"127.0.0.1:{port}") + SPEAK_PYTHON
            (tmp_path / "app.py").write_text(sender)
            subprocess.run([sys.executable, "app.py"], cwd=tmp_path, check=True, timeout=60)
            eventually(lambda: one.metric("spantoll_receiver_accepted_spans_total") == 1, what="the collector passed the span on")
        holds_one_call(one)
