"""What deploy/exporters/README.md says of a key in the environment, with the SDKs that are here; and its Python is Python."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.daemon import Daemon, daemon
from tests.require import need, need_program

pytestmark = pytest.mark.e2e
README = (Path(__file__).parents[2] / "deploy" / "exporters" / "README.md").read_text()
JS = Path(__file__).parent / "js"
KEY = "a-key-for-the-exporters"
KEYED = f'access.key=[{{account = "acme", sha256 = "{hashlib.sha256(KEY.encode()).hexdigest()}"}}]'

SPEAK = """
import sys
from importlib import import_module
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

provider = TracerProvider()
exporter = import_module(f"opentelemetry.exporter.otlp.proto.{sys.argv[1]}.trace_exporter").OTLPSpanExporter()
provider.add_span_processor(SimpleSpanProcessor(exporter))
provider.get_tracer("any").start_span("any").end()
provider.shutdown()
"""


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon that takes spans with the key only."""
    with daemon(tmp_path_factory.mktemp("keyed"), KEYED) as one:
        yield one


@pytest.mark.parametrize("space", [" ", "%20"])
@pytest.mark.parametrize(
    ("sdk", "transport"), [("python", "http"), ("python", "grpc"), ("javascript", "json"), ("javascript", "proto"), ("javascript", "grpc")]
)
def test_a_key_in_the_environment(keyed: Daemon, sdk: str, transport: str, space: str) -> None:
    """The header arrives whole, with a space in it as well as with `%20`."""
    endpoint = f"http://{keyed.grpc}" if transport == "grpc" else keyed.http
    env = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer{space}{KEY}"}
    if sdk == "python":
        command = [sys.executable, "-c", SPEAK, transport]
    else:
        need((JS / "node_modules").exists(), "the JavaScript exporters are not installed (npm ci --prefix tests/e2e/js)")
        command = [need_program("node", "nodejs"), "send.js", transport, endpoint if transport == "grpc" else f"{endpoint}/v1/traces"]
    before = keyed.metric("spantoll_receiver_accepted_spans_total")
    subprocess.run(command, cwd=JS, env=env, capture_output=True, timeout=60, check=True)
    assert keyed.metric("spantoll_receiver_accepted_spans_total") > before


def test_the_python_of_the_recipes_is_python() -> None:
    """Every Python snippet compiles."""
    snippets = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(snippets) > 5
    for snippet in snippets:
        compile(snippet, "deploy/exporters/README.md", "exec")
