"""The operator's and the customers' listeners over real sockets: what they show, and whom they let in."""

from __future__ import annotations

import asyncio
import datetime as dt
import gzip
import json
import ssl
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from receiver.access.accounts import Accounts
from receiver.access.keys import hash_key
from receiver.access.tls import Tls, TlsFiles
from receiver.config import Credit, Customer, Operator, OperatorKey
from receiver.errors import Overloaded
from receiver.web.customer import customer_server
from receiver.web.guard import SECURITY_HEADERS
from receiver.web.operator import MAX_WINDOW_ROWS, operator_server
from receiver.web.server import WebServer
from tests.fakes import ManualClock
from tests.integration.web_helpers import ask, raw

KEY = "spt_operator"
TOKEN = "spo_" + "t" * 43
#: What a route that changes something asks for.
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
EXPOSITION = b"# HELP x Something.\n" * 1_000


class Daemon:
    """What the listener asks of the daemon, recorded."""

    def __init__(self) -> None:
        self.accepts: list[str] = []
        self.releases = 0
        self.limits: list[int] = []
        self.refusal = ""
        self.fault: Exception | None = None

    async def exposition(self, accept: str) -> tuple[str, bytes]:
        self.accepts.append(accept)
        return "text/plain; version=0.0.4; charset=utf-8", EXPOSITION

    def ready(self) -> tuple[bool, str]:
        return not self.refusal, self.refusal

    async def release(self) -> int:
        if self.fault is not None:
            raise self.fault
        self.releases += 1
        return 3

    def window(self, *, limit: int) -> list[dict[str, Any]]:
        self.limits.append(limit)
        return [{"trace_id": "00ff", "waits_for": "root"}][:limit]

    def sources(self) -> list[dict[str, Any]]:
        return [{"account": "default", "service": "shop", "spans": 5}]

    async def overview(self) -> dict[str, Any]:
        return {"calls": 1}


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


@pytest.fixture
async def server(daemon: Daemon) -> AsyncIterator[WebServer]:
    server = operator_server(Operator(endpoint="localhost:0"), daemon, token=TOKEN)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def locked(daemon: Daemon) -> AsyncIterator[WebServer]:
    """The same behind a key."""
    server = operator_server(
        Operator(endpoint="localhost:0", keys=(OperatorKey(name="prometheus", sha256=hash_key(KEY)),)), daemon, token=TOKEN
    )
    await server.start()
    yield server
    await server.stop()


# --- what it shows -------------------------------------------------------------------------------------------------------------------


async def test_metrics_are_shown_in_the_format_that_is_asked_for(server: WebServer, daemon: Daemon) -> None:
    """The Accept header is the exposition's business; Content-Type and body come back as they are."""
    answer = await ask(server, "GET", "/metrics", headers={"Accept": "application/openmetrics-text", "Accept-Encoding": "identity"})
    assert (answer.status, answer.body) == (200, EXPOSITION)
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert daemon.accepts == ["application/openmetrics-text"]


async def test_a_large_scrape_is_compressed(server: WebServer) -> None:
    """Prometheus asks for gzip, and a scrape is ten times smaller in it."""
    answer = await ask(server, "GET", "/metrics", headers={"Accept-Encoding": "gzip"})
    assert answer.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(answer.body) == EXPOSITION


async def test_healthy_and_ready_are_told_apart(server: WebServer, daemon: Daemon) -> None:
    """A daemon that is starting is alive and takes nothing: probes need both."""
    assert (await ask(server, "GET", "/-/healthy")).status == 200
    assert (await ask(server, "GET", "/-/ready")).json == {"status": "ready"}
    daemon.refusal = "replaying the journal: 40 %"
    answer = await ask(server, "GET", "/-/ready")
    assert answer.status == 503
    assert answer.json == {"error": "not_ready", "message": "replaying the journal: 40 %"}
    assert answer.headers["Retry-After"] == "1"
    assert (await ask(server, "GET", "/-/healthy")).status == 200


async def test_release_closes_open_traces(server: WebServer, daemon: Daemon) -> None:
    """POST only: a GET changes nothing, whoever follows a link to it."""
    answer = await ask(server, "POST", "/-/release", headers=AUTHORIZED)
    assert (answer.status, answer.json) == (200, {"released_traces": 3})
    assert (await ask(server, "GET", "/-/release")).status == 405
    assert daemon.releases == 1


async def test_the_window_is_shown_up_to_a_limit(server: WebServer, daemon: Daemon) -> None:
    """200,000 traces may be open; a screen of them is what a person reads."""
    assert (await ask(server, "GET", "/-/window")).json == {"limit": 100, "traces": [{"trace_id": "00ff", "waits_for": "root"}]}
    await ask(server, "GET", f"/-/window?limit={MAX_WINDOW_ROWS}")
    assert daemon.limits == [100, MAX_WINDOW_ROWS]
    for wrong in ("0", "-1", "x", str(MAX_WINDOW_ROWS + 1), "9" * 5_000, "%D9%A3"):
        answer = await ask(server, "GET", f"/-/window?limit={wrong}")
        assert (answer.status, answer.json["error"]) == (400, "bad_limit"), wrong
    assert (await ask(server, "GET", "/-/window?" + "a=1&" * 50)).status == 400


async def test_sources_are_shown(server: WebServer) -> None:
    """Who sends."""
    assert (await ask(server, "GET", "/api/v1/sources")).json == {"sources": [{"account": "default", "service": "shop", "spans": 5}]}


async def test_the_index_lists_every_route(server: WebServer) -> None:
    """A newcomer opens the address and sees what is there."""
    text = (await ask(server, "GET", "/")).body.decode()
    for route in server.routes:
        assert f"{route.method:<5} {route.path}" in text
        assert route.says in text


async def test_the_customers_listener_says_what_it_is() -> None:
    """And shows nothing of anybody."""
    server = customer_server(Customer(endpoint="localhost:0"), Accounts(Credit(), clock=ManualClock()))
    await server.start()
    try:
        answer = await ask(server, "GET", "/")
        assert answer.status == 200
        assert b"Spantoll" in answer.body
        assert (await ask(server, "GET", "/metrics")).status == 404
    finally:
        await server.stop()


async def test_head_is_get_without_a_body(server: WebServer) -> None:
    """RFC 9110 9.3.2."""
    answer = await ask(server, "HEAD", "/-/healthy")
    assert (answer.status, answer.body) == (200, b"")


# --- errors --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status", "error"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/metrics/", 404, "not_found"),
        ("GET", "//metrics", 404, "not_found"),
        ("POST", "/metrics", 405, "method_not_allowed"),
        ("DELETE", "/-/release", 405, "method_not_allowed"),
        ("OPTIONS", "/-/release", 405, "method_not_allowed"),
    ],
)
async def test_errors_are_json(server: WebServer, method: str, path: str, status: int, error: str) -> None:
    """A stable word for programs and a sentence for people, never a page of the framework's."""
    answer = await ask(server, method, path)
    assert answer.status == status
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json["error"] == error
    assert answer.json["message"]
    if status == 405:
        assert answer.headers["Allow"]


async def test_an_overload_is_retryable(server: WebServer, daemon: Daemon) -> None:
    """The daemon's own refusal, with its delay."""
    daemon.fault = Overloaded(reason="shutdown", retry_after_seconds=5)
    answer = await ask(server, "POST", "/-/release", headers=AUTHORIZED)
    assert (answer.status, answer.json["error"], answer.headers["Retry-After"]) == (503, "shutdown", "5")


async def test_a_fault_is_logged_and_not_shown(server: WebServer, daemon: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    """The answer names no internals, the log holds the traceback."""
    daemon.fault = RuntimeError("the secret")
    answer = await ask(server, "POST", "/-/release", headers=AUTHORIZED)
    assert (answer.status, answer.json["error"]) == (500, "internal")
    assert b"secret" not in answer.body
    assert any(record.exc_info and "the secret" in str(record.exc_info[1]) for record in caplog.records)


@pytest.mark.parametrize(
    "request_", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nHost: localhost\r\nbad header\r\n\r\n", b"GET /" + b"a" * 20_000]
)
async def test_what_is_no_http_is_a_json_error(server: WebServer, request_: bytes) -> None:
    """Also where the parser gives up."""
    head, _, body = (await raw(server, request_)).partition(b"\r\n\r\n")
    assert b" 400 " in head.splitlines()[0]
    assert json.loads(body)["error"] == "malformed"


# --- whom it lets in -----------------------------------------------------------------------------------------------------------------


async def test_localhost_is_both_loopback_addresses(server: WebServer) -> None:
    """Clients try ::1 or 127.0.0.1 first, as they like."""
    hosts = {address for address, _ in server.bound}
    assert "127.0.0.1" in hosts
    assert len({port for _, port in server.bound}) == 1
    for host in hosts:
        assert (await ask(server, "GET", "/-/healthy", host=host)).status == 200


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "localhost.", "127.0.0.1:8102", "[::1]:8102", "127.1.2.3"])
async def test_loopback_names_are_ours(server: WebServer, host: str) -> None:
    """With any port: it may be forwarded."""
    assert (await ask(server, "GET", "/metrics", headers={"Host": host})).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8102", "10.0.0.1", "localhost.evil.example", "", "[::2]", "127.0.0.1.evil.example", "[::1"]
)
@pytest.mark.parametrize("path", ["/metrics", "/-/healthy", "/nothing"])
async def test_a_foreign_host_is_refused(server: WebServer, host: str, path: str) -> None:
    """DNS rebinding: a page's own name that points to 127.0.0.1 is still that page's name; open routes are no exception."""
    answer = await ask(server, "GET", path, headers={"Host": host})
    assert (answer.status, answer.json["error"]) == (421, "unknown_host")


@pytest.mark.parametrize(
    "request_", [b"GET /metrics HTTP/1.0\r\n\r\n", b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"]
)
async def test_no_host_or_two_hosts_are_refused(server: WebServer, request_: bytes) -> None:
    """Which of two names counts is a matter of taste, so neither does."""
    answer = await raw(server, request_.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert answer.split(b" ")[1] in (b"421", b"400")


async def test_further_names_can_be_allowed(daemon: Daemon) -> None:
    """`operator.allowed_hosts`, for what a reverse proxy or a cluster calls it."""
    server = operator_server(Operator(endpoint="localhost:0", allowed_hosts=("spantoll.internal",)), daemon)
    await server.start()
    try:
        assert (await ask(server, "GET", "/metrics", headers={"Host": "Spantoll.Internal:8102"})).status == 200
        assert (await ask(server, "GET", "/metrics", headers={"Host": "other.internal"})).status == 421
    finally:
        await server.stop()


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://localhost:1", "http://localhost.evil.example", "file://", "x"])
@pytest.mark.parametrize(("method", "path"), [("POST", "/-/release"), ("GET", "/metrics"), ("OPTIONS", "/-/release")])
async def test_a_foreign_origin_is_refused(server: WebServer, daemon: Daemon, origin: str, method: str, path: str) -> None:
    """A web page of anybody's can send to 127.0.0.1; the browser says whose it is. A preflight gets no permission either."""
    answer = await ask(server, method, path, headers={"Origin": origin, "Access-Control-Request-Method": "POST"})
    assert (answer.status, answer.json["error"]) == (403, "foreign_origin")
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    assert daemon.releases == 0


async def test_our_own_origin_is_let_in(server: WebServer) -> None:
    """A page of ours, under the name that it was opened by."""
    port = server.bound[0][1]
    for name in ("localhost", "127.0.0.1"):
        answer = await ask(
            server, "POST", "/-/release", headers={**AUTHORIZED, "Host": f"{name}:{port}", "Origin": f"http://{name}:{port}"}
        )
        assert answer.status == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_a_crossing_post_is_refused(server: WebServer, daemon: Daemon, site: str) -> None:
    """A form without an Origin header still says where it comes from; a followed link to a GET does no harm."""
    assert (await ask(server, "POST", "/-/release", headers={**AUTHORIZED, "Sec-Fetch-Site": site})).status == 403
    assert (await ask(server, "GET", "/", headers={"Sec-Fetch-Site": site})).status == 200
    assert daemon.releases == 0


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "TEXT/PLAIN; charset=utf-8"]
)
@pytest.mark.parametrize("data", [b"", b"{}"])
async def test_what_a_form_can_send_is_refused(server: WebServer, daemon: Daemon, content_type: str, data: bytes) -> None:
    """These types need no preflight, so a page can send them unasked; JSON cannot be sent so."""
    answer = await ask(server, "POST", "/-/release", headers={**AUTHORIZED, "Content-Type": content_type}, data=data)
    assert (answer.status, answer.json["error"]) == (415, "unsupported_type")
    assert daemon.releases == 0
    assert (await ask(server, "POST", "/-/release", headers={**AUTHORIZED, "Content-Type": "application/json"}, data=data)).status == 200


async def test_a_body_without_a_type_is_refused(server: WebServer) -> None:
    """A page can send a Blob without one."""
    head = f"POST /-/release HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {TOKEN}\r\n"
    request = f"{head}Content-Length: 2\r\n\r\n{{}}".encode()
    assert (await raw(server, request)).split(b" ")[1] == b"415"


async def test_every_answer_has_the_security_headers(server: WebServer) -> None:
    """Pages, data and errors alike; no cookie is set."""
    for method, path in [("GET", "/"), ("GET", "/metrics"), ("GET", "/nothing"), ("POST", "/-/release"), ("GET", "/-/window?limit=x")]:
        answer = await ask(server, method, path)
        assert {name: answer.headers.get(name) for name in SECURITY_HEADERS} == dict(SECURITY_HEADERS)
        assert "Set-Cookie" not in answer.headers


OPEN = {"/-/healthy", "/-/ready", "/", "/assets/{asset}"}


async def test_every_route_but_the_probes_asks_for_the_key(locked: WebServer, daemon: Daemon) -> None:
    """The route table itself is walked, so that a new route cannot be forgotten; unknown paths ask too, so none can be found out."""
    routes: Sequence[tuple[str, str]] = [
        *((route.method, route.path) for route in locked.routes),
        ("GET", "/nothing"),
        ("DELETE", "/metrics"),
    ]
    assert len(routes) > 7
    for method, path in routes:
        for authorization in (None, "Bearer wrong", f"Basic {KEY}", KEY, "Bearer", f"Bearer {KEY}x"):
            answer = await ask(locked, method, path, headers={"Authorization": authorization} if authorization else None)
            if path in OPEN:
                assert answer.status == (404 if "{" in path else 200), path
            else:
                assert (answer.status, answer.json["error"]) == (401, "unauthenticated"), (path, authorization)
                assert answer.headers["WWW-Authenticate"] == "Bearer"
                assert KEY not in answer.body.decode()
    assert daemon.releases == 0


async def test_the_key_opens_every_route(locked: WebServer) -> None:
    """As Prometheus sends it."""
    for route in locked.routes:
        answer = await ask(locked, route.method, route.path, headers={"Authorization": f"Bearer {KEY}"})
        assert answer.status == (404 if "{" in route.path else 200), route.path


async def test_a_stopped_listener_is_gone(daemon: Daemon) -> None:
    """Stop ends the connections, also idle ones, and may be called again."""
    server = operator_server(Operator(endpoint="localhost:0"), daemon)
    await server.start()
    port = server.bound[0][1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await server.stop()
    await server.stop()
    assert await reader.read() == b""
    writer.close()
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", port)


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate for localhost and its key, as PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = folder / "cert.pem", folder / "key.pem"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pem, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, pem, plain))
    return certificate_file, key_file


async def test_tls_is_spoken_where_a_certificate_is_given(daemon: Daemon, tmp_path: Path) -> None:
    """A client that trusts it is answered, plain text is not."""
    certificate, key = self_signed(tmp_path)
    server = operator_server(Operator(endpoint="localhost:0"), daemon, ssl_context=Tls(TlsFiles(certificate, key)).ssl_context)
    await server.start()
    port = server.bound[0][1]
    try:
        trusting = ssl.create_default_context(cafile=str(certificate))
        async with aiohttp.ClientSession() as session, session.get(f"https://localhost:{port}/-/healthy", ssl=trusting) as response:
            assert response.status == 200
        assert b"200" not in await raw(server, b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    finally:
        await server.stop()
