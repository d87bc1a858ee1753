"""When credit runs out: what real exporters do and say, what is lost and what is kept, and that the last credit is spent exactly."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.daemon import PATIENCE_SECONDS, Daemon, daemon, eventually, samples
from tests.e2e.ports import free_port
from tests.require import need, need_program

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]
JS = Path(__file__).parent / "js"
#: By what happens without credit; "accept" takes spans as debt up to 1 sat.
MODES = {
    "drop": ("credit.enforce=true",),
    "hold": ("credit.enforce=true", "credit.on_exhausted=hold"),
    "accept": ("credit.enforce=true", "credit.on_exhausted=accept", "credit.max_debt_msat=1000"),
}
#: A program that sends three spans through a real exporter of the Python SDK and logs as Python does by itself.
SPEAK = """
import sys
sys.path.insert(0, sys.argv[3])
from tests.e2e.test_sdk_exporters import GrpcExporter, HttpExporter, speak
kind, target = sys.argv[1:3]
exporter = GrpcExporter(endpoint=target, insecure=True) if kind == "grpc" else HttpExporter(endpoint=target + "/v1/traces")
speak(exporter, "py")
"""
SENT = 3  #: spans of each program
#: The sentence of each mode behind "credit of account 'default' is exhausted".
SAYS = {
    "drop": "(the balance is 0 sat), nothing was stored: top up at",
    "hold": "(the balance is 0 sat), nothing was stored yet; send again in 30 s: top up at",
    "accept": "(the balance is -0.03 sat), metered as debt: top up at",
}


def said(mode: str, one: Daemon) -> str:
    """What every refusal, and every debt, tells."""
    return f"credit of account 'default' is exhausted {SAYS[mode]} http://127.0.0.1:{one.ports['customer']}/topup"


def speak_python(one: Daemon, kind: str) -> str:
    """What the program's user reads."""
    target = one.grpc if kind == "grpc" else one.http
    done = subprocess.run(
        [sys.executable, "-c", SPEAK, kind, target, str(ROOT)], capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=True
    )
    return done.stdout + done.stderr


def ended(one: Daemon) -> dict[tuple[str, str, str], float]:
    """How requests ended, by transport, outcome and reason."""
    return {
        (labels["transport"], labels["outcome"], labels["reason"]): value
        for name, labels, value in samples(one.get("/metrics"))
        if name == "spantoll_receiver_requests_total"
    }


def stored(one: Daemon) -> tuple[float, float]:
    """Spans that were accepted, and msat that were debited for them."""
    return one.metric("spantoll_receiver_accepted_spans_total"), one.metric("spantoll_credit_debited_msat_total", account="default")


def give(one: Daemon, amount_msat: int) -> None:
    """What a top-up does, by the operator's hand."""
    body = json.dumps({"amount_msat": amount_msat, "id": f"gift-{amount_msat}"}).encode()
    headers = {"Authorization": f"Bearer {one.token}", "Content-Type": "application/json"}
    request = urllib.request.Request(one.operator + "/api/v1/accounts/default/adjust", data=body, headers=headers)  # noqa: S310 -- loopback
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:  # noqa: S310 -- loopback
        assert answer.status == 200


@pytest.mark.parametrize("kind", ["grpc", "http"])
@pytest.mark.parametrize("mode", MODES)
def test_the_python_exporters(tmp_path: Path, mode: str, kind: str) -> None:
    """Drop: lost, and the log says where to pay. Hold: lost too, for 30 s is beyond an SDK's patience. Accept: nothing is lost or said."""
    with daemon(tmp_path, *MODES[mode]) as one:
        log = speak_python(one, kind)
        if mode == "accept":
            assert log == "", "a warning in a successful answer reaches nobody in this SDK"
            assert ended(one) == {(kind, "accepted", ""): 1}
            assert stored(one) == (SENT, 10 * SENT)
            return
        if kind == "grpc":
            code = "FAILED_PRECONDITION" if mode == "drop" else "UNAVAILABLE"
            assert f"Failed to export traces to {one.grpc}, error code: StatusCode.{code}, error details: {said(mode, one)}" in log
        elif mode == "drop":
            assert f"Failed to export spans batch code: 402, reason: {said(mode, one)}" in log
        else:
            assert "Failed to export spans batch" in log
        assert ended(one) == {(kind, "refused", "credit_exhausted"): 1}, "it was asked once, and never again"
        assert stored(one) == (0, 0)
        assert [line["why"] for line in one.lines if line.get("message") == "spans of an account are refused from now on"] == [
            "exhausted" if mode == "drop" else "held"
        ]


@pytest.mark.parametrize("kind", ["grpc", "json", "proto"])
@pytest.mark.parametrize("mode", MODES)
def test_the_javascript_exporters(tmp_path: Path, mode: str, kind: str) -> None:
    """As Python's: each error that the program is given has the sentence, but for a hold over HTTP, of which only the fact is told."""
    node = need_program("node", "nodejs")
    need((JS / "node_modules").exists(), "the JavaScript exporters are not installed (npm ci --prefix tests/e2e/js)")
    transport = "grpc" if kind == "grpc" else "http"
    with daemon(tmp_path, *MODES[mode]) as one:
        url = f"http://{one.grpc}" if kind == "grpc" else f"{one.http}/v1/traces"
        done = subprocess.run([node, "send.js", kind, url], cwd=JS, capture_output=True, text=True, timeout=60, check=True)
        told = json.loads(done.stdout)
        if mode == "accept":
            assert told["ok"] is True
            assert ended(one) == {(transport, "accepted", ""): 1}
            assert stored(one) == (SENT, 10 * SENT)
            return
        assert told["ok"] is False
        if kind == "grpc":
            code = "9 FAILED_PRECONDITION" if mode == "drop" else "14 UNAVAILABLE"
            assert told["error"] == f"Error: {code}: {said(mode, one)}"
        elif mode == "drop":
            assert told["error"] == f"OTLPExporterError: {said(mode, one)}"
        else:
            assert told["error"] == "OTLPExporterError: Export failed with retryable status"
        assert ended(one) == {(transport, "refused", "credit_exhausted"): 1}
        assert stored(one) == (0, 0)


@contextmanager
def collector(folder: Path, one: Daemon) -> Iterator[tuple[str, str, Path]]:
    """A collector with two pipelines, over gRPC and over HTTP: where each takes OTLP/gRPC, and the log of both."""
    program = shutil.which("otelcol") or shutil.which("otelcol-contrib")
    need(program, "no OpenTelemetry Collector (otelcol) is installed (tests/e2e/collector/build makes one, with Go)")
    assert program is not None
    by_grpc, by_http = (f"127.0.0.1:{free_port()}" for _ in range(2))
    (folder / "collector.yaml").write_text(f"""
receivers:
  otlp/grpc: {{protocols: {{grpc: {{endpoint: "{by_grpc}"}}}}}}
  otlp/http: {{protocols: {{grpc: {{endpoint: "{by_http}"}}}}}}
exporters:
  otlp/grpc: {{endpoint: "{one.grpc}", tls: {{insecure: true}}}}
  otlphttp/http: {{endpoint: "{one.http}"}}
service:
  pipelines:
    traces/grpc: {{receivers: [otlp/grpc], exporters: [otlp/grpc]}}
    traces/http: {{receivers: [otlp/http], exporters: [otlphttp/http]}}
  telemetry: {{metrics: {{level: none}}, logs: {{encoding: json}}}}
""")
    log = folder / "collector.log"
    with log.open("w") as stream:
        process = subprocess.Popen([program, "--config", str(folder / "collector.yaml")], cwd=folder, stderr=stream)
        try:
            eventually(lambda: "Everything is ready" in log.read_text(), what="the collector listens")
            yield by_grpc, by_http, log
        finally:
            process.terminate()
            process.wait(PATIENCE_SECONDS)


def lines(log: Path, message: str) -> dict[str, dict[str, Any]]:
    """What each pipeline said with these words, by its name."""
    found = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{") and line.endswith("}")]
    return {line["otelcol.component.id"].partition("/")[2]: line for line in found if line["msg"] == message}


def send_both(by_grpc: str, by_http: str) -> None:
    for target in (by_grpc, by_http):
        done = subprocess.run([sys.executable, "-c", SPEAK, "grpc", target, str(ROOT)], timeout=PATIENCE_SECONDS, check=True)
        assert done.returncode == 0


def test_the_collector_drops_what_is_final(tmp_path: Path) -> None:
    """Permanent on both of its exporters, with the sentence; it never asks again, also when credit comes."""
    with daemon(tmp_path, *MODES["drop"]) as one, collector(tmp_path, one) as (by_grpc, by_http, log):
        send_both(by_grpc, by_http)
        eventually(lambda: len(lines(log, "Exporting failed. Dropping data.")) == 2, what="both exporters gave it up")
        dropped = lines(log, "Exporting failed. Dropping data.")
        for line in dropped.values():
            assert line["error"].startswith("not retryable error: Permanent error: ")
            assert said("drop", one) in line["error"]
            assert line["dropped_items"] == SENT
        assert "code = FailedPrecondition" in dropped["grpc"]["error"]
        assert "HTTP Status Code 402" in dropped["http"]["error"]
        for fact in ('reason:"CREDIT_EXHAUSTED"', 'key:"balance_msat"', 'key:"topup_url"'):
            assert fact in dropped["http"]["error"]
        assert ended(one) == {("grpc", "refused", "credit_exhausted"): 1, ("http", "refused", "credit_exhausted"): 1}
        assert stored(one) == (0, 0)


def test_the_collector_keeps_what_is_held_and_brings_it_once_credit_came(tmp_path: Path) -> None:
    """It waits as long as it was told on both of its exporters, and loses no span."""
    with daemon(tmp_path, *MODES["hold"]) as one, collector(tmp_path, one) as (by_grpc, by_http, log):
        send_both(by_grpc, by_http)
        waiting = "Exporting failed. Will retry the request after interval."
        eventually(lambda: len(lines(log, waiting)) == 2, what="both exporters wait")
        for line in lines(log, waiting).values():
            assert line["error"].startswith("Throttle (")
            assert said("hold", one) in line["error"]
            assert 24 <= float(line["interval"].removesuffix("s")) <= 37
        assert stored(one) == (0, 0)
        give(one, 1_000)
        eventually(lambda: stored(one) == (2 * SENT, 20 * SENT), what="both came again, about 30 s later")
        assert ended(one) == {
            (transport, *how): 1 for transport in ("grpc", "http") for how in (("refused", "credit_exhausted"), ("accepted", ""))
        }
        assert lines(log, "Exporting failed. Dropping data.") == {}


def test_the_collector_says_what_is_taken_as_debt(tmp_path: Path) -> None:
    """Stored, counted as sent, and a warning in its log each time."""
    with daemon(tmp_path, *MODES["accept"]) as one, collector(tmp_path, one) as (by_grpc, by_http, log):
        send_both(by_grpc, by_http)
        eventually(lambda: len(lines(log, "Partial success response")) == 2, what="both exporters warned")
        for line in lines(log, "Partial success response").values():
            assert "is exhausted (the balance is -0.0" in line["message"]
            assert "metered as debt: top up at http" in line["message"]
            assert line["dropped_spans"] == 0
        assert stored(one) == (2 * SENT, 20 * SENT)


#: A process of several clients at once: each thread sends its requests one after the other and adds up what was acknowledged.
STORM = """
import json, sys, threading, urllib.error, urllib.request
sys.path.insert(0, sys.argv[1])
import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from tests.exports import export, model_call
grpc_target, http_url, first, requests, spans = sys.argv[2], sys.argv[3], *map(int, sys.argv[4:])
acknowledged, answers, lock = 0, {}, threading.Lock()
channel = grpc.insecure_channel(grpc_target)
call = channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")
ready = threading.Barrier(requests)
def client(at):
    global acknowledged
    body = export(*(model_call(first + at, number) for number in range(1, spans + 1)))
    ready.wait()
    if at % 2:
        try:
            answer, code = call(body, timeout=60), "OK"
        except grpc.RpcError as error:
            answer, code = None, error.code().name
    else:
        request = urllib.request.Request(http_url, data=body, headers={"Content-Type": "application/x-protobuf"})
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                answer, code = reply.read(), str(reply.status)
        except urllib.error.HTTPError as error:
            answer, code = None, str(error.code)
    with lock:
        answers[code] = answers.get(code, 0) + 1
        if answer is not None:
            acknowledged += spans - ExportTraceServiceResponse.FromString(answer).partial_success.rejected_spans
threads = [threading.Thread(target=client, args=(at,)) for at in range(requests)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps({"acknowledged": acknowledged, "answers": answers}))
"""


@pytest.mark.parametrize("at_last_span", ["whole", "partial"])
def test_the_last_credit_is_spent_exactly(tmp_path: Path, at_last_span: str) -> None:
    """64 requests at once from four processes over both transports at credit for 1,000 spans: what was acknowledged is what was paid."""
    settings = ("credit.enforce=true", "credit.start_balance_msat=10000", f"credit.at_last_span={at_last_span}")
    with daemon(tmp_path, *settings) as one:
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", STORM, str(ROOT), one.grpc, f"{one.http}/v1/traces", str(1 + 16 * at), "16", "30"],
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ},
            )
            for at in range(4)
        ]
        reports = [json.loads(process.communicate(timeout=PATIENCE_SECONDS)[0]) for process in processes]
        acknowledged = sum(report["acknowledged"] for report in reports)
        expected = 990 if at_last_span == "whole" else 1_000
        assert acknowledged == expected
        assert stored(one) == (expected, 10 * expected)
        assert one.metric("spantoll_credit_balance_msat", account="default") == 10_000 - 10 * expected
        answers = {code for report in reports for code in report["answers"]}
        assert answers <= {"OK", "200", "FAILED_PRECONDITION", "402"}
        audit = json.loads(one.get("/api/v1/audit"))
        assert (audit["balanced"], audit["sum_msat"]) == (True, 0)
        assert one.stop() == 0
