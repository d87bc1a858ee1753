"""Secrets and prompts go in everywhere, everything is done that a daemon can be asked for, and none of them comes out anywhere."""

from __future__ import annotations

import json
import secrets
import signal
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import apsw
import grpc
import pytest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.e2e.daemon import PATIENCE_SECONDS, Daemon, daemon, eventually
from tests.exports import agent, attribute, model_call, request

pytestmark = pytest.mark.e2e

SETTINGS = (
    "prices.accept_start_before=3650d",
    'privacy.hash=["user", "session"]',
    'metrics.dimensions=["user", "session"]',
    "window.seen_horizon=1s",
    "log.level=debug",
    'access.key=[{account="static", sha256="%s"}]',
)
EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"

#: Attributes in which instrumentations record what was said, and what others put there by mistake.
SAID = (
    "gen_ai.prompt", "gen_ai.completion", "gen_ai.prompt.0.content", "gen_ai.completion.0.content", "gen_ai.input.messages",
    "gen_ai.output.messages", "gen_ai.system_instructions", "gen_ai.tool.call.arguments", "gen_ai.tool.call.result",
    "gen_ai.tool.definitions", "gen_ai.request.stop_sequences", "input.value", "output.value", "input.mime_type",
    "llm.input_messages.0.message.content", "llm.output_messages.0.message.content", "llm.prompts", "llm.invocation_parameters",
    "llm.prompt_template.template", "llm.prompt_template.variables", "llm.tools.0.tool.json_schema", "tool.parameters",
    "traceloop.entity.input", "traceloop.entity.output", "ai.prompt", "ai.prompt.messages", "ai.response.text", "ai.toolCall.args",
    "langfuse.observation.input", "langfuse.observation.output", "langfuse.trace.input", "lk.input_text", "lk.response.text",
    "logfire.msg", "request_data", "events", "all_messages_events", "mlflow.spanInputs", "mlflow.spanOutputs", "retrieval.documents",
    "http.request.header.authorization", "db.statement", "exception.message", "error.message", "anything.at.all",
)  # fmt: skip

#: What accept rows may hold until their traces are beyond the horizon, and nothing else ever: the names that charges are written under.
IN_ACCEPT_ROWS = ("user@", "session")

#: Attributes of which some parts are read. What else stands in them is not kept, however the object is spelled.
PARTLY_READ = (
    "metadata", "langfuse.trace.metadata", "langfuse.observation.metadata", "hidden_params", "mlflow.linkedPrompts",
    "llm.invocation_parameters", "gen_ai.request.parameters", "braintrust.metadata", "gen_ai.usage.raw", "ai.response.providerMetadata",
    "ai.response.providerMetadata.google", "llm.openai.usage", "langfuse.observation.usage_details", "langfuse.observation.cost_details",
)  # fmt: skip


class Canaries:
    """Unique texts by what they stand for."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def new(self, what: str) -> str:
        text = self.texts.setdefault(what, f"canary{len(self.texts)}x{secrets.token_hex(12)}")
        return text if "@" not in what else f"{text}@example.org"

    def found(self, text: str | bytes, *, but: tuple[str, ...] = ()) -> list[str]:
        raw = text.encode() if isinstance(text, str) else text
        return [what for what, canary in self.texts.items() if what not in but and canary.encode() in raw]


class Caller:
    """Asks for everything, and keeps every answer."""

    def __init__(self, running: Daemon) -> None:
        self.running = running
        self.answers: list[tuple[str, str]] = []

    def ask(self, url: str, body: bytes | None = None, *, key: str = "", content_type: str = "application/json", method: str = "") -> Any:
        headers = {"Content-Type": content_type} if body is not None else {}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        asked = urllib.request.Request(url, data=body, headers=headers, method=method or None)  # noqa: S310 -- loopback
        try:
            with urllib.request.urlopen(asked, timeout=PATIENCE_SECONDS) as answer:  # noqa: S310 -- loopback
                said, head = answer.read(), str(answer.headers)
        except urllib.error.HTTPError as refusal:
            said, head = refusal.read(), f"{refusal.code} {refusal.headers}"
        text = f"{head}\n{said.decode(errors='replace')}"
        self.answers.append((url, text))
        try:
            return json.loads(said)
        except ValueError:
            return text

    def operator(self, path: str, body: dict[str, Any] | None = None, *, key: str = "", method: str = "") -> Any:
        content = None if body is None else json.dumps(body).encode()
        return self.ask(self.running.operator + path, content, key=key or self.running.token, method=method)

    def customer(self, path: str, body: dict[str, Any] | None = None, *, key: str) -> Any:
        content = None if body is None else json.dumps(body).encode()
        return self.ask(f"http://127.0.0.1:{self.running.ports['customer']}{path}", content, key=key)

    def http(self, body: bytes, *, key: str, content_type: str = "application/x-protobuf") -> None:
        self.ask(self.running.http + "/v1/traces", body, key=key, content_type=content_type)

    def grpc(self, body: bytes, *, key: str) -> None:
        with grpc.insecure_channel(self.running.grpc) as channel:
            call = channel.unary_unary(EXPORT, request_serializer=bytes, response_deserializer=bytes)
            try:
                said = repr(call(body, metadata=(("authorization", f"Bearer {key}"),), timeout=PATIENCE_SECONDS))
            except grpc.RpcError as refusal:
                said = f"{refusal} {refusal.trailing_metadata()}"
        self.answers.append(("grpc", said))


def spans(canaries: Canaries, trace: int, **more: Any) -> list[Span]:
    """A run whose every corner holds something that must not be kept."""
    said = {key: canaries.new(key) for key in SAID}
    root = agent(trace, 1)
    call = model_call(trace, 2, parent=1, user__id=canaries.new("user@"), session__id=canaries.new("session"), **more)
    for each in (root, call):
        each.attributes.extend([attribute(key, value) for key, value in said.items()])
        each.attributes.extend(partly_read(canaries))
        each.attributes.append(attribute("gen_ai.prompt.list", [canaries.new("list"), 1]))
        each.attributes.append(attribute("gen_ai.prompt.bytes", canaries.new("bytes").encode()))
        event = each.events.add(name="gen_ai.content.prompt")
        event.attributes.append(attribute("gen_ai.prompt", canaries.new("event")))
        fault = each.events.add(name="exception")
        fault.attributes.append(attribute("exception.message", canaries.new("exception")))
        fault.attributes.append(attribute("exception.stacktrace", canaries.new("stacktrace")))
        link = each.links.add(trace_id=bytes(15) + b"\x09", span_id=bytes(7) + b"\x09", trace_state=canaries.new("link state"))
        link.attributes.append(attribute("input.value", canaries.new("link")))
        each.trace_state = f"vendor={canaries.new('trace state')}"
        each.status.message = canaries.new("status message")
    return [root, call]


def partly_read(canaries: Canaries) -> list[KeyValue]:
    """Objects with a text beside and below what is read of them: as JSON, as a Python repr, as a kvlist, cut, and no object at all."""
    found = []
    for number, key in enumerate(PARTLY_READ):
        said = canaries.new(f"in {key}")
        inner = {"input_tokens": 7, "total": 0.5, "user_id": "someone", "model": "gpt-4o", "prompt": said, "messages": [{"content": said}]}
        held: dict[str, Any] = {"note": said, "tags": [said], "requester_metadata": inner, **inner}
        text = (json.dumps(held), repr(held), json.dumps(held)[:-1], said)[number % 4]
        found.append(attribute(key, text))
    kvlist = KeyValue(key="metadata.usage_object")
    kvlist.value.kvlist_value.values.extend([attribute("input_tokens", 7), attribute("note", canaries.new("in a kvlist"))])
    tags = attribute("langfuse.trace.tags", [canaries.new("tag"), "feature:search"])
    return [*found, kvlist, tags]


def export(canaries: Canaries, trace: int, **more: Any) -> bytes:
    message = request(spans(canaries, trace, **more))
    resource = message.resource_spans[0].resource
    for key in ("process.command_args", "process.command_line", "host.name", "env.OPENAI_API_KEY", "api_key"):
        resource.attributes.append(attribute(key, canaries.new(key)))
    message.resource_spans[0].scope_spans[0].scope.attributes.append(attribute("note", canaries.new("scope attribute")))
    return message.SerializeToString()


def live(caller: Caller, canaries: Canaries, *, first_trace: int, key: str, poor: str, static: str) -> None:
    """Everything that can be asked for, well and badly."""
    trace = first_trace
    for send in (caller.http, caller.grpc):
        for body in (export(canaries, trace, model="gpt-4o"), export(canaries, trace + 1, model=["no", "model"])):
            send(body, key=key)
            send(body, key=key)  # a resend
            send(body, key=static)
            send(body, key=poor)  # no credit
            send(body, key=canaries.new("wrong key"))
            send(body[:-3] + canaries.new("broken body").encode(), key=key)
        trace += 2
    caller.http(json.dumps({"resourceSpans": [{"input.value": canaries.new("json")}]}).encode(), key=key, content_type="application/json")
    caller.http(b'{"resourceSpans": "' + canaries.new("bad json").encode(), key=key, content_type="application/json")
    caller.http(export(canaries, trace), key=key, content_type=f"text/{canaries.new('content type')}")
    for path in ("/metrics", "/-/window", "/-/ready", "/api/v1/sources", "/api/v1/accounts", "/api/v1/audit", "/", "/nowhere"):
        caller.operator(path)
    for method in ("GET", "POST"):
        caller.operator("/api/v1/forget", {"user": "x"}, key=canaries.new("wrong operator key"), method=method)
    caller.operator("/api/v1/accounts/rich/adjust", {"amount_msat": "x", "id": "1"}, method="POST")
    caller.operator("/-/release", {}, method="POST")
    for by in ("user", "session", "agent,model", "day", "nothing"):
        caller.operator(f"/api/v1/report?by={by}&tz=Europe/Berlin")
        caller.customer(f"/api/v1/report?by={by}", key=key)
    caller.customer("/api/v1/credit", key=canaries.new("wrong customer key"))
    caller.customer("/api/v1/credit/statement", key=key)


def test_no_secret_and_no_prompt_comes_out(tmp_path: Path) -> None:
    """Not in logs, metrics, errors, answers, dumps or files; the user's name not beyond the journal, and not even there in the end."""
    from receiver.access.keys import generate_key, hash_key

    canaries = Canaries()
    static = canaries.texts["static key"] = generate_key()
    settings = tuple(each % hash_key(static) if "%s" in each else each for each in SETTINGS)
    dump = {"PYTHONFAULTHANDLER": "1"}
    logs, callers = [], []
    with daemon(tmp_path, *settings, env=dump) as running:
        caller = Caller(running)
        callers.append(caller)
        canaries.texts["operator token"] = running.token
        for account in ("rich", "poor"):
            canaries.texts[f"key of {account}"] = caller.operator("/api/v1/accounts", {"account": account})["key"]
            assert canaries.texts[f"key of {account}"] in caller.answers.pop()[1], "shown once, and never again"
        key, poor = canaries.texts["key of rich"], canaries.texts["key of poor"]
        caller.operator("/api/v1/accounts/poor", {"enforce": True, "on_exhausted": "drop"}, method="PATCH")
        topup = caller.customer("/api/v1/credit/topups", {"amount_sat": 1_000}, key=key)
        paid = caller.operator("/api/v1/dev/pay", {"invoice": topup["bolt11"]})
        canaries.texts["preimage"] = paid["preimage"]
        caller.answers.pop()  # the payer's receipt
        live(caller, canaries, first_trace=100, key=key, poor=poor, static=static)
        running.process.send_signal(signal.SIGABRT)  # a dump of all threads
        running.process.wait(PATIENCE_SECONDS)
        logs.append(running)
    assert "Current thread" in said_by(logs[0]), "there was a dump to look at"
    seen_in_tables(tmp_path, canaries)
    with daemon(tmp_path, *settings) as running:  # reads the journal back
        caller = Caller(running)
        callers.append(caller)
        live(caller, canaries, first_trace=200, key=key, poor=poor, static=static)
        assert running.metric("spantoll_calls_total") > 0
        assert running.stop() == 0
        logs.append(running)
    seen_in_tables(tmp_path, canaries)
    for run in logs:
        assert canaries.found(said_by(run)) == [], "a log holds it"
    for caller in callers:
        for url, text in caller.answers:
            receipts = ("preimage",) if url.endswith("/api/v1/credit/statement") else ()  # the payer's own
            # A content type is said back to whose mistake it is, and to nobody else.
            assert canaries.found(text, but=("content type", *receipts)) == [], f"an answer of {url} holds it"
    # Traces are beyond the horizon after a second; then the rows that hold the user's name go.
    with daemon(tmp_path, *settings) as running:
        left = closes_at_the_end(tmp_path)
        eventually(lambda: running.metric("spantoll_journal_unreleased_rows") == left, what="all traces are beyond the horizon")
        assert running.stop() == 0  # with a last snapshot, after which rows may go
    for file in sorted((tmp_path / "spantoll-data").iterdir()):
        allowed = {"operator.token": ("operator token",), "spantoll.db": ("preimage",)}.get(file.name, ())
        assert canaries.found(file.read_bytes(), but=allowed) == [], f"{file.name} holds it"


def closes_at_the_end(folder: Path) -> int:
    """Journal rows behind the last accept row."""
    connection = apsw.Connection(str(folder / "spantoll-data" / "spantoll.db"), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        found: int = connection.execute("SELECT max(seq) - max(seq) FILTER (WHERE kind = 1) FROM journal").get
    finally:
        connection.close()
    return found


def said_by(running: Daemon) -> str:
    return "\n".join(json.dumps(line, ensure_ascii=False) for line in running.lines)


def seen_in_tables(folder: Path, canaries: Canaries) -> None:
    """No table holds a secret, and the user's name stands in accept rows alone. Files hold nothing that no table does.

    The shelf is the dev wallet's own: a node knows the preimages of its invoices.
    """
    data = folder / "spantoll-data"
    connection = apsw.Connection(str(data / "spantoll.db"))
    try:
        for (table,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall():
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            for row in connection.execute(f"SELECT * FROM {table}"):  # noqa: S608 -- the tables of our own database
                told = dict(zip(columns, row, strict=True))
                names = IN_ACCEPT_ROWS if table == "journal" and told["kind"] == 1 else ("preimage",) if table == "shelf" else ()
                raw = b" ".join(value if isinstance(value, bytes) else str(value).encode() for value in row)
                assert canaries.found(raw, but=names) == [], f"table {table} holds it"
                preimages = [value for value in row if isinstance(value, bytes) and value.hex() == canaries.texts["preimage"]]
                assert not preimages or table == "topups", f"table {table} holds a preimage"
    finally:
        connection.close()
    for file in data.iterdir():
        allowed = (*IN_ACCEPT_ROWS, "operator token" if file.name == "operator.token" else "preimage")
        assert canaries.found(file.read_bytes(), but=allowed) == [], f"{file.name} holds it"
