"""What operators do to the daemon as a process: signals, wrong set-ups, certificates, questions under load, and what they read."""

from __future__ import annotations

import http.client
import json
import os
import pty
import re
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

from tests.e2e.daemon import PATIENCE_SECONDS, Daemon, daemon, eventually, samples
from tests.e2e.test_sdk_exporters import TWO_CALLS_USD, speak
from tests.exports import CALL_PUSD, agent, export, model_call
from tests.integration.test_tls import CA, CLIENT, OTHER_CA, SERVER, STRANGER, Pair, issue, store

pytestmark = pytest.mark.e2e
PROTOBUF = "application/x-protobuf"
LISTENERS = ("otlp.grpc", "otlp.http", "operator", "customer")
ROOT = Path(__file__).parents[2]


def said(one: Daemon, words: str) -> list[dict[str, Any]]:
    return [line for line in one.lines if words in str(line.get("message"))]


def cost_pusd(one: Daemon) -> int:
    return round(one.metric("spantoll_cost_usd_total") * 1e12)


# --- signals -----------------------------------------------------------------------------------------------------------------------


def test_sigusr1_closes_what_is_open_and_sighup_does_no_harm(tmp_path: Path) -> None:
    """Without certificates SIGHUP has nothing to read again, and the daemon lives."""
    with daemon(tmp_path, quick=False) as one:
        assert one.post(export(agent(1, 1), model_call(1, 2, parent=1)), PROTOBUF) == (200, b"")
        assert cost_pusd(one) == 0
        one.process.send_signal(signal.SIGHUP)
        one.process.send_signal(signal.SIGUSR1)
        eventually(lambda: cost_pusd(one) == CALL_PUSD, what="the open trace is closed")
        assert said(one, "SIGHUP")
        assert one.stop(signal.SIGINT) == 0, "Ctrl-C ends it in order, too"


def test_sigterm_finishes_what_is_in_flight(tmp_path: Path) -> None:
    """A request whose body is under way is taken and acknowledged; new ones and probes hear that it is going; the exit code is 0."""
    body = export(agent(1, 1), model_call(1, 2, parent=1))
    with daemon(tmp_path, "shutdown.release=true", "shutdown.drain_timeout=30s", quick=False) as one:
        client = http.client.HTTPConnection("127.0.0.1", one.ports["otlp.http"], timeout=PATIENCE_SECONDS)
        client.putrequest("POST", "/v1/traces")
        client.putheader("Content-Type", PROTOBUF)
        client.putheader("Content-Length", str(len(body)))
        client.endheaders(body[:10])
        eventually(lambda: one.metric("spantoll_receiver_in_flight_bytes") > 0, what="the request has begun")
        with grpc.insecure_channel(one.grpc) as channel:
            watching = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=""))
            assert next(watching).status == health_pb2.HealthCheckResponse.SERVING
            one.process.send_signal(signal.SIGTERM)
            assert next(watching).status == health_pb2.HealthCheckResponse.NOT_SERVING
            watching.cancel()
        probe = http.client.HTTPConnection("127.0.0.1", one.ports["operator"], timeout=PATIENCE_SECONDS)
        probe.request("GET", "/-/ready")
        answer = probe.getresponse()
        assert (answer.status, json.loads(answer.read())["error"]) == (503, "not_ready")
        probe.request("GET", "/-/healthy")
        assert probe.getresponse().read()
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", one.ports["otlp.http"]), 1).close()
        client.send(body[10:])
        assert (client.getresponse().status, one.process.wait(PATIENCE_SECONDS)) == (200, 0)
        client.close()
        probe.close()
    assert [line["traces"] for line in said(one, "closed on the way out")] == [1]


def test_a_second_sigterm_ends_it_at_once(tmp_path: Path) -> None:
    """However long the first one would have waited for a client; what it had acknowledged is as safe as after a kill."""
    with daemon(tmp_path, "shutdown.drain_timeout=10m", "otlp.http.body_timeout=10m") as one:
        with socket.create_connection(("127.0.0.1", one.ports["otlp.http"])) as client:
            client.sendall(b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{")
            eventually(lambda: one.metric("spantoll_receiver_in_flight_bytes") > 0, what="the request has begun")

            def ended() -> bool:
                if one.process.poll() is None:
                    one.process.send_signal(signal.SIGTERM)
                return one.process.poll() is not None

            eventually(ended, what="a further signal ends it")
        assert one.process.returncode == -signal.SIGKILL
    assert said(one, "a second time")


# --- wrong set-ups -----------------------------------------------------------------------------------------------------------------


def serve(folder: Path, *settings: str, config: Path | None = None, verb: str = "serve") -> subprocess.CompletedProcess[str]:
    """A daemon that is expected not to start."""
    free = [f"{name}.endpoint=127.0.0.1:0" for name in LISTENERS if not any(each.startswith(f"{name}.endpoint") for each in settings)]
    words = [word for setting in (*free, *settings) for word in ("--set", setting)] + (["--config", str(config)] if config else [])
    return subprocess.run(
        [sys.executable, "-m", "receiver", verb, *words],
        cwd=folder, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


@pytest.mark.parametrize("name", LISTENERS)
def test_a_taken_port_is_named_with_what_to_do(tmp_path: Path, name: str) -> None:
    """One sentence with the key and the address, exit code 1, nothing that looks like a crash."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        where = f"127.0.0.1:{other.getsockname()[1]}"
        ended = serve(tmp_path, f"{name}.endpoint={where}")
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    [line] = [json.loads(line) for line in ended.stderr.splitlines()]
    assert line["level"] == "error"
    assert line["message"].startswith(f"{name}.endpoint: cannot listen on {where}: the port is taken; ")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (("otlp.max_reqest_size=1MiB", "window.idle_wait=5"), ["2 problems", "did you mean otlp.max_request_size?", "window.idle_wait"]),
        (("tls.cert_file=FOLDER/junk", "tls.key_file=FOLDER/junk"), ["tls: cannot use the TLS files", "must be PEM"]),
        (("prices.litellm_file=FOLDER/junk",), ["prices.litellm_file", "FOLDER/junk"]),
        (("prices.litellm_file=FOLDER/absent",), ["prices.litellm_file", "FOLDER/absent"]),
        (("otlp.grpc.endpoint=0.0.0.0:4317",), ["tls.cert_file", "[[access.key]]"]),
        (("otlp.grpc.server=native", "otlp.grpc.endpoint=10.0.0.1:4317", "otlp.grpc.insecure=true"), ["otlp.grpc.server", '"aio"']),
        (("CONFIG=FOLDER/absent.toml",), ["absent.toml", "cannot be read"]),
        (("CONFIG=FOLDER",), ["FOLDER", "directory"]),
        (("CONFIG=FOLDER/junk",), ["junk", "is no TOML"]),
    ],
)
def test_a_wrong_configuration_is_said_in_sentences_by_both_verbs(tmp_path: Path, settings: tuple[str, ...], says: list[str]) -> None:
    """`serve` and `check-config` refuse the same things in the same words: exit code 2, every problem, no traceback."""
    with tempfile.TemporaryDirectory() as folder:  # whose name is short: a long value is shortened where it is quoted
        _a_wrong_configuration(tmp_path, Path(folder), settings, says)


def _a_wrong_configuration(tmp_path: Path, folder: Path, settings: tuple[str, ...], says: list[str]) -> None:
    (folder / "junk").write_bytes(b"\xff\xfe neither PEM nor JSON nor TOML")
    settings = tuple(setting.replace("FOLDER", str(folder)) for setting in settings)
    config = next((Path(setting.removeprefix("CONFIG=")) for setting in settings if setting.startswith("CONFIG=")), None)
    assignments = [setting for setting in settings if not setting.startswith("CONFIG=")]
    ends = [serve(tmp_path, *assignments, config=config, verb=verb) for verb in ("serve", "check-config")]
    assert [ended.returncode for ended in ends] == [2, 2]
    assert ends[0].stderr == ends[1].stderr
    assert "Traceback" not in ends[0].stderr
    assert ends[0].stderr.startswith("The configuration has ")
    for words in says:
        assert words.replace("FOLDER", str(folder)) in ends[0].stderr


def test_what_a_person_reads_at_the_start(tmp_path: Path) -> None:
    """On a terminal: what listens where, the variables to paste, then log lines as text; Ctrl-C ends it."""
    master, slave = pty.openpty()
    words = [word for name in LISTENERS for word in ("--set", f"{name}.endpoint=127.0.0.1:0")]
    process = subprocess.Popen(
        [sys.executable, "-m", "receiver", "serve", *words, "--set", f'access.key=[{{account="acme", sha256="{"0" * 64}"}}]'],
        cwd=tmp_path, stdin=slave, stdout=slave, stderr=slave, env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"},
    )  # fmt: skip
    os.close(slave)
    shown = b""
    try:
        while b"ready" not in shown:
            shown += os.read(master, 4_096)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) == 0
    finally:
        process.kill()
        process.wait()
        os.close(master)
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown.decode())
    assert re.search(
        r"spantoll \S+ is listening:\r\n  OTLP/gRPC +http://127.0.0.1:\d+\r\n  OTLP/HTTP +http://127.0.0.1:\d+/v1/traces\r\n", text
    )
    assert "export OTEL_EXPORTER_OTLP_PROTOCOL=grpc" in text
    assert text.count("export OTEL_EXPORTER_OTLP_HEADERS='authorization=Bearer%20<key>'") == 2
    assert "{" not in text, "no JSON where a person reads"


# --- certificates ------------------------------------------------------------------------------------------------------------------


def https(one: Daemon, folder: Path, ca: Pair, client: Pair | None = None) -> http.client.HTTPSConnection:
    context = ssl.create_default_context(cadata=ca.pem.decode())
    if client is not None:
        (folder / "client.pem").write_bytes(client.pem + client.key_pem)
        context.load_cert_chain(folder / "client.pem")
    return http.client.HTTPSConnection("localhost", one.ports["otlp.http"], timeout=PATIENCE_SECONDS, context=context)


def post(connection: http.client.HTTPSConnection, trace: int) -> int:
    connection.request("POST", "/v1/traces", export(agent(trace, 1), model_call(trace, 2, parent=1)), {"Content-Type": PROTOBUF})
    answer = connection.getresponse()
    answer.read()
    return answer.status


def is_refused(connection: http.client.HTTPSConnection) -> bool:
    """Whether the handshake fails; with TLS 1.3 a server's refusal may come only with the first read."""
    try:
        return post(connection, 1) != 200
    except OSError:
        return True
    finally:
        connection.close()


def test_mutual_tls_from_real_exporters_and_a_renewal_under_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only clients of our CA come in, on both transports; a renewal is taken by SIGHUP and by itself, and no connection is dropped."""
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # go before the exporter's own setting (psf/requests#3829)
        monkeypatch.delenv(variable, raising=False)
    files = store(tmp_path, SERVER, CA)
    (tmp_path / "ca.pem").write_bytes(CA.pem)
    (tmp_path / "client.crt").write_bytes(CLIENT.pem)
    (tmp_path / "client.key").write_bytes(CLIENT.key_pem)
    settings = (f"tls.cert_file={files.certificate}", f"tls.key_file={files.key}", f"tls.client_ca_file={files.client_ca}")
    with daemon(tmp_path, *settings, "operator.insecure=true", "customer.insecure=true", quick=False) as one:
        ports = one.ports
        http_exporter = HttpExporter(
            endpoint=f"https://localhost:{ports['otlp.http']}/v1/traces",
            certificate_file=str(tmp_path / "ca.pem"),
            client_certificate_file=str(tmp_path / "client.crt"),
            client_key_file=str(tmp_path / "client.key"),
        )
        speak(http_exporter, "over-http")
        credentials = grpc.ssl_channel_credentials(CA.pem, CLIENT.key_pem, CLIENT.pem)
        speak(GrpcExporter(endpoint=f"localhost:{ports['otlp.grpc']}", credentials=credentials), "over-grpc")
        one.release()
        assert one.metric("spantoll_cost_usd_total", agent="planner") == pytest.approx(2 * TWO_CALLS_USD, abs=1e-15)

        assert is_refused(https(one, tmp_path, CA)), "without a certificate"
        assert is_refused(https(one, tmp_path, CA, STRANGER)), "with a certificate of another CA"
        assert is_refused(https(one, tmp_path, OTHER_CA, CLIENT)), "by the client, which expects another server"
        plain = http.client.HTTPConnection("localhost", ports["otlp.http"], timeout=PATIENCE_SECONDS)
        plain.request("POST", "/v1/traces", b"", {"Content-Type": PROTOBUF})
        with pytest.raises((OSError, http.client.HTTPException)):
            plain.getresponse()
        plain.close()

        standing = https(one, tmp_path, CA, CLIENT)
        assert post(standing, 2) == 200
        store(tmp_path, issue("server", OTHER_CA), CA)
        one.process.send_signal(signal.SIGHUP)
        eventually(lambda: said(one, "TLS files reloaded"), what="SIGHUP reads the files again")
        assert post(standing, 3) == 200, "a connection that stands is left alone"
        assert is_refused(https(one, tmp_path, CA, CLIENT)), "new connections meet the new certificate"
        renewed = https(one, tmp_path, OTHER_CA, CLIENT)
        assert post(renewed, 5) == 200

        files.certificate.write_text("a renewal that went wrong")
        eventually(
            lambda: said(one, "the ones before stay in force"), what="a change of the files is seen, and what is unusable is not used"
        )
        again = https(one, tmp_path, OTHER_CA, CLIENT)
        assert post(again, 6) == 200
        for connection in (standing, renewed, again):
            connection.close()
        one.release()
        assert cost_pusd(one) == round(2 * TWO_CALLS_USD * 1e12) + 4 * CALL_PUSD


# --- questions ---------------------------------------------------------------------------------------------------------------------


def ask(one: Daemon, method: str, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", one.ports["operator"], timeout=PATIENCE_SECONDS)
    headers = {"Authorization": f"Bearer {one.token}", **headers}
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def test_the_operators_listener_is_no_toy_for_web_pages(tmp_path: Path) -> None:
    """A foreign name, a foreign page, a form, a preflight and a GET that would act are turned away; HEAD is GET without its body."""
    with daemon(tmp_path) as one:
        for path in ("/", "/metrics", "/-/healthy", "/-/ready", "/-/window", "/api/v1/sources"):
            got, head = ask(one, "GET", path, Accept_Encoding="identity"), ask(one, "HEAD", path, Accept_Encoding="identity")
            assert (got[0], head[0], head[2]) == (200, 200, b""), path
            assert got[2]
            assert ask(one, "GET", path, Host="rebound.example")[0] == 421, path
            assert ask(one, "GET", path, Origin="https://evil.example")[0] == 403, path
            assert ask(one, "POST", path)[0] == 405, path
            assert not any(name.startswith("access-control") for name in got[1])
        assert ask(one, "GET", "/-/release")[0] == 405
        assert ask(one, "POST", "/-/release", Host="rebound.example:80")[0] == 421
        assert ask(one, "POST", "/-/release", Origin="null")[0] == 403
        assert ask(one, "POST", "/-/release", Sec_Fetch_Site="cross-site")[0] == 403
        assert ask(one, "POST", "/-/release", Content_Type="text/plain")[0] == 415
        assert ask(one, "POST", "/-/release", Content_Type="application/x-www-form-urlencoded")[0] == 415
        status, headers, _ = ask(one, "OPTIONS", "/-/release", Origin="https://evil.example", Access_Control_Request_Method="POST")
        assert status == 403
        assert not any(name.startswith("access-control") for name in headers)
        assert ask(one, "POST", "/-/release")[0] == 200
        for limit in ("0", "-1", "x", "99999999999", ""):
            assert ask(one, "GET", f"/-/window?limit={limit}")[0] in (200, 400)
        assert ask(one, "GET", "/nowhere")[0] == 404
        assert ask(one, "GET", "/" + "x" * 20_000)[0] == 400
        with socket.create_connection(("127.0.0.1", one.ports["customer"])) as customer:
            customer.sendall(b"GET / HTTP/1.1\r\nHost: rebound.example\r\n\r\n")
            assert b" 421 " in customer.recv(200)


def test_questions_are_answered_while_spans_pour_in(tmp_path: Path) -> None:
    """Beside four busy exporters every answer to an operator is 200, and every acknowledged span is in the sums."""
    stop = threading.Event()
    with daemon(tmp_path) as one:

        def exporter(number: int) -> int:
            acknowledged = 0
            trace = number * 1_000_000
            while not stop.is_set():
                trace += 1
                spans = [agent(trace, 1, f"agent-{trace % 300}"), *(model_call(trace, at, parent=1) for at in range(2, 22))]
                code, answer = one.post(export(*spans, service=f"service-{trace % 50}"), PROTOBUF)
                assert (code, answer) == (200, b"")
                acknowledged += len(spans)
            return acknowledged

        questions = (("POST", "/-/release"), ("GET", "/-/window?limit=10000"), ("GET", "/api/v1/sources"), ("GET", "/metrics"))
        with ThreadPoolExecutor(4) as pool:
            exporters = [pool.submit(exporter, number) for number in range(1, 5)]
            try:
                for _ in range(15):
                    for method, path in questions:
                        assert ask(one, method, path)[0] == 200, path
            finally:
                stop.set()
            acknowledged = sum(each.result(PATIENCE_SECONDS) for each in exporters)
        one.release()
        assert one.metric("spantoll_receiver_accepted_spans_total") == acknowledged
        assert one.metric("spantoll_calls_total") == acknowledged * 20 // 21
        assert cost_pusd(one) == acknowledged * 20 // 21 * CALL_PUSD
        stalls = {have["le"]: value for name, have, value in samples(one.get("/metrics")) if name == "spantoll_loop_stall_seconds_bucket"}
        print("loop stalls", stalls, "spans", acknowledged)
        assert not [line for line in one.lines if line.get("level") in ("warning", "error")]
        assert one.stop() == 0
