"""Real exporters of real SDKs against the daemon as a process."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import SpanKind

from tests.e2e.daemon import daemon
from tests.require import need, need_program

pytestmark = pytest.mark.e2e
JS = Path(__file__).parent / "js"
#: Two gpt-4o calls of 1,000 input and 500 output tokens at 2.50 and 10 USD a million.
TWO_CALLS_USD = 0.015


def speak(exporter: SpanExporter, service: str) -> None:
    """One agent with two model calls, as an instrumentation writes them, through the SDK's batch processor."""
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    tracer = provider.get_tracer("opentelemetry.instrumentation.genai.openai", "1.3.0")
    with tracer.start_as_current_span(
        "invoke_agent planner", attributes={"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "planner"}
    ):
        for at in range(2):
            attributes = {
                "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt-4o",
                "gen_ai.response.model": "gpt-4o", "gen_ai.response.id": f"resp_{service}_{at}",
                "gen_ai.usage.input_tokens": 1000, "gen_ai.usage.output_tokens": 500,
            }  # fmt: skip
            with tracer.start_as_current_span("chat gpt-4o", kind=SpanKind.CLIENT, attributes=attributes):
                pass
    provider.shutdown()


@pytest.mark.parametrize("compression", ["none", "gzip", "deflate"])
def test_the_python_http_exporter(tmp_path: Path, compression: str) -> None:
    """OTLP/HTTP from the Python SDK, in every compression that it offers."""
    with daemon(tmp_path) as one:
        speak(HttpExporter(endpoint=f"{one.http}/v1/traces", compression=Compression(compression)), "py-http")
        one.release()
        assert one.metric("spantoll_calls_total", agent="planner", model="gpt-4o") == 2
        assert one.metric("spantoll_cost_usd_total", agent="planner") == pytest.approx(TWO_CALLS_USD, abs=1e-15)


@pytest.mark.parametrize("compression", ["NoCompression", "Gzip"])
def test_the_python_grpc_exporter(tmp_path: Path, compression: str) -> None:
    """OTLP/gRPC from the Python SDK, plain and gzip."""
    import grpc

    with daemon(tmp_path) as one:
        speak(GrpcExporter(endpoint=one.grpc, insecure=True, compression=getattr(grpc.Compression, compression)), "py-grpc")
        one.release()
        assert one.metric("spantoll_calls_total", agent="planner", model="gpt-4o") == 2
        assert one.metric("spantoll_cost_usd_total", agent="planner") == pytest.approx(TWO_CALLS_USD, abs=1e-15)


@pytest.mark.parametrize("kind", ["grpc", "json", "proto"])
def test_the_javascript_exporters(tmp_path: Path, kind: str) -> None:
    """OTLP/gRPC, OTLP/HTTP JSON and OTLP/HTTP protobuf from the JavaScript SDK."""
    node = need_program("node", "nodejs")
    need((JS / "node_modules").exists(), "the JavaScript exporters are not installed (npm ci --prefix tests/e2e/js)")
    with daemon(tmp_path) as one:
        url = f"http://{one.grpc}" if kind == "grpc" else f"{one.http}/v1/traces"
        done = subprocess.run([node, "send.js", kind, url], cwd=JS, capture_output=True, text=True, timeout=60, check=True)
        assert json.loads(done.stdout)["ok"] is True, done.stdout + done.stderr
        one.release()
        assert one.metric("spantoll_calls_total", agent="planner", model="gpt-4o") == 2
        assert one.metric("spantoll_cost_usd_total", agent="planner") == pytest.approx(TWO_CALLS_USD, abs=1e-15)
