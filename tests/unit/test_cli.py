"""The command line: what it says, what it reads, and how it ends."""

from __future__ import annotations

import gzip
import io
import json
import logging
import subprocess
import sys
import time
import tomllib
import types
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from receiver import __version__
from receiver.access.keys import KeyNeed
from receiver.cli import main
from receiver.cli.files import Document, UnreadableFile, documents
from receiver.cli.serve import NOBODY_HAS_A_KEY, announce, exporter_settings, welcome
from receiver.cli.tables import dollars, print_price, print_report
from receiver.config import Config, Operator, Otlp, OtlpGrpc, OtlpHttp, Tls, commented
from receiver.core.calls.call import Doubt
from receiver.core.report import DOUBT_SENTENCES
from receiver.errors import ConfigError, MalformedExport
from receiver.otlp.export import Encoding

ROOT = Path(__file__).parents[2]
CAPTURE = ROOT / "tests/data/captures/vercel-ai-sdk-v6-otlp-json"
PROTOBUF = (CAPTURE / "export-001.pb").read_bytes()
JSON = (CAPTURE / "export-001.otlp.json").read_bytes()
DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
PORTS = {"otlp.grpc": 4317, "otlp.http": 4318, "operator": 8102, "customer": 8101}


def invoke(*arguments: str, stdin: bytes | None = None, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(main, arguments, input=stdin, env=env or {})


# --- help and version ----------------------------------------------------------------------------------------------------------------


def verbs() -> dict[str, click.Command]:
    return main.commands


def test_the_verbs_are_there() -> None:
    """Names that scripts rely on."""
    assert {"serve", "check-config", "attribute", "price"} <= set(verbs())


def test_every_verb_and_option_has_help() -> None:
    """A newcomer learns the program from the program: each verb with examples and exit codes, each option with a sentence."""
    assert main.help
    assert main.epilog
    for name, verb in verbs().items():
        assert verb.help, name
        assert "Exit codes" in verb.help, name
        if verb.params:
            assert f"spantoll {name}" in verb.help, f"{name} shows no example"
        for parameter in verb.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{name} {parameter.name}"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["serve", "-h"], ["check-config", "--help"], ["attribute", "--help"], ["price", "--help"]]
)
def test_help_is_printed(arguments: list[str]) -> None:
    """Long and short."""
    result = invoke(*arguments)
    assert result.exit_code == 0
    assert "spantoll" in result.output


def test_python_m_receiver_is_the_program() -> None:
    """As a process: the version, under the program's own name."""
    run = subprocess.run([sys.executable, "-m", "receiver", "--version"], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith(f"spantoll {__version__} ")
    usage = subprocess.run(
        [sys.executable, "-m", "receiver", "nonsense"], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )
    assert usage.returncode == 2
    assert usage.stderr.startswith("Usage: spantoll")


def test_help_does_not_wait_for_the_servers() -> None:
    """What a verb works with is imported when the verb runs."""
    code = "import sys, receiver.cli; print([m for m in ('grpc', 'aiohttp', 'rich', 'google.protobuf') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, cwd=ROOT)
    assert run.stdout.strip() == "[]"


# --- check-config --------------------------------------------------------------------------------------------------------------------


def test_check_config_shows_what_it_comes_to(tmp_path: Path) -> None:
    """File, environment and --set together, as TOML that can be read back."""
    file = tmp_path / "c.toml"
    file.write_text("[window]\nidle_wait = '1m'")
    result = invoke("check-config", "--config", str(file), "--set", "log.level=debug", env={"SPANTOLL_WINDOW__LONE_CALL_WAIT": "3s"})
    assert result.exit_code == 0
    shown = tomllib.loads(result.stdout)
    assert (shown["window"]["idle_wait"], shown["window"]["lone_call_wait"], shown["log"]["level"]) == ("1m", "3s", "debug")


def test_check_config_takes_the_file_from_the_environment(tmp_path: Path) -> None:
    """SPANTOLL_CONFIG names it, for containers."""
    file = tmp_path / "c.toml"
    file.write_text("[log]\nlevel = 'error'")
    result = invoke("check-config", env={"SPANTOLL_CONFIG": str(file)})
    assert tomllib.loads(result.stdout)["log"]["level"] == "error"


def test_check_config_masks_secrets() -> None:
    """Its output ends in tickets."""
    result = invoke("check-config", "--set", f'access.key=[{{account="a", sha256="{DIGEST}"}}]')
    assert result.exit_code == 0
    assert DIGEST not in result.output


@pytest.mark.parametrize("verb", [["check-config"], ["serve"], ["price", "gpt-4o"], ["attribute", "-"]])
def test_a_wrong_configuration_ends_every_verb_with_all_problems(verb: list[str]) -> None:
    """Exit code 2, one line a problem, nothing on standard output."""
    result = invoke(*verb, "--set", "log.level=loud", "--set", "window.idle_wiat=1m")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "2 problems" in result.stderr
    assert "log.level" in result.stderr
    assert "did you mean window.idle_wait?" in result.stderr


def test_check_config_writes_a_file_to_start_from() -> None:
    """The same text as config.toml in the repository."""
    result = invoke("check-config", "--defaults")
    assert (result.exit_code, result.stdout) == (0, commented())


# --- serve ---------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """A composition root that records what the verbs ask of it."""
    fake = types.SimpleNamespace(configs=[])

    def run(config: Config, *, started: Any) -> int:
        fake.configs.append(config)
        started(PORTS, KeyNeed.NOT_ASKED)
        return 7

    fake.run = run
    monkeypatch.setitem(sys.modules, "receiver.app", fake)
    monkeypatch.setattr("receiver.app", fake, raising=False)
    monkeypatch.setattr("receiver.logs.configure", lambda **_settings: None)
    return fake


def test_serve_runs_on_defaults(app: types.SimpleNamespace) -> None:
    """No configuration is needed, and the exit code is the daemon's."""
    result = invoke("serve")
    assert result.exit_code == 7
    assert app.configs == [Config()]


def test_a_terminal_is_told_where_to_send() -> None:
    """What listens where, and the lines to paste."""
    text = welcome(Config(), PORTS)
    assert "http://localhost:8102/metrics" in text
    assert "http://localhost:4318/v1/traces" in text
    assert "export OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4317" in text
    assert "HEADERS" not in text


def test_the_bound_ports_are_told() -> None:
    """With port 0 nobody else could know them."""
    config = Config(otlp=Otlp(grpc=OtlpGrpc(endpoint="localhost:0"), http=OtlpHttp(endpoint="")))
    settings = exporter_settings(config, {"otlp.grpc": 40_000})
    assert settings == {"gRPC": ["OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:40000", "OTEL_EXPORTER_OTLP_PROTOCOL=grpc"]}


def test_a_key_is_asked_for_percent_encoded() -> None:
    """The header variable is of baggage syntax: a plain blank in it is cut off by SDKs."""
    for variables in exporter_settings(Config(), PORTS, KeyNeed.ASKED).values():
        assert variables[-1] == "OTEL_EXPORTER_OTLP_HEADERS='authorization=Bearer%20<key>'"


def test_a_daemon_that_nobody_can_send_to_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """Keys are asked for and there are none, in the configuration or in the books: every exporter would be refused."""
    for keys in KeyNeed:
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="receiver.cli.serve"):
            announce(Config(), PORTS, keys)
        said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert said == ([NOBODY_HAS_A_KEY] if keys is KeyNeed.NOBODY_HAS_ONE else [])
        settings = " ".join(getattr(record, "environment", "") for record in caplog.records)
        assert ("OTEL_EXPORTER_OTLP_HEADERS" in settings) == (keys is not KeyNeed.NOT_ASKED)


def test_tls_and_plain_text_are_told_apart() -> None:
    """HTTPS where a certificate is set, HTTP where a listener says that it is insecure."""
    config = Config(tls=Tls(cert_file="c", key_file="k"), otlp=Otlp(http=OtlpHttp(insecure=True)))
    text = welcome(config, PORTS)
    assert "https://localhost:4317" in text
    assert "http://localhost:4318" in text
    assert "https://localhost:8102" in text


def test_a_wildcard_address_is_called_by_a_name_that_the_guard_lets_in() -> None:
    """0.0.0.0 is an address to listen on, not one to call."""
    config = Config(operator=Operator(endpoint="0.0.0.0:8102", allowed_hosts=("spantoll.internal",), insecure=True))
    assert "http://spantoll.internal:8102/metrics" in welcome(config, PORTS)


def test_a_path_of_its_own_is_told_by_the_traces_variable() -> None:
    """SDKs put /v1/traces behind the general variable, so another path needs the special one."""
    config = Config(otlp=Otlp(http=OtlpHttp(traces_path="/in")))
    assert exporter_settings(config, PORTS)["HTTP"][0] == "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://localhost:4318/in"


def test_a_pipe_gets_log_lines(caplog: pytest.LogCaptureFixture) -> None:
    """The same facts, as fields."""
    with caplog.at_level("INFO"):
        announce(Config(), PORTS)
    addresses = {getattr(record, "address", "") for record in caplog.records}
    assert "http://localhost:8102/metrics" in addresses
    assert any("OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4317" in getattr(record, "environment", "") for record in caplog.records)


# --- files ---------------------------------------------------------------------------------------------------------------------------


def read(data: bytes) -> list[Document]:
    return list(documents(io.BytesIO(data), "f"))


def framed(*bodies: bytes) -> bytes:
    return b"".join(len(body).to_bytes(4, "big") + body for body in bodies)


LINE = json.dumps(json.loads(JSON)).encode()
PRETTY = json.dumps(json.loads(JSON), indent=2).encode()


@pytest.mark.parametrize(
    "pack", [lambda data: data, gzip.compress, lambda data: gzip.compress(gzip.compress(data))], ids=["plain", "gzip", "gzip2"]
)
@pytest.mark.parametrize(
    ("data", "encoding", "bodies"),
    [
        (PROTOBUF, Encoding.PROTOBUF, [PROTOBUF]),
        (framed(PROTOBUF, b"", PROTOBUF), Encoding.PROTOBUF, [PROTOBUF, b"", PROTOBUF]),
        (LINE, Encoding.JSON, [LINE]),
        (LINE + b"\n" + LINE + b"\r\n\n" + LINE + b"\n", Encoding.JSON, [LINE] * 3),
        (b"\n\n" + LINE + b"\n{}\n", Encoding.JSON, [LINE, b"{}"]),
        (PRETTY, Encoding.JSON, [PRETTY]),
        (PRETTY + b"\n" + PRETTY + PRETTY, Encoding.JSON, [PRETTY] * 3),
        (b"\xef\xbb\xbf" + LINE, Encoding.JSON, [LINE]),
        (b"\xef\xbb\xbf" + PRETTY, Encoding.JSON, [PRETTY]),
        (b"{}", Encoding.JSON, [b"{}"]),
        (b"", None, []),
        (b"\n \n", None, []),
    ],
    ids=["pb", "pb-framed", "json", "lines", "blank-first", "pretty", "several", "bom", "bom-pretty", "empty-object", "empty", "blank"],
)
def test_a_file_is_known_by_its_content(pack: Any, data: bytes, encoding: Encoding | None, bodies: list[bytes]) -> None:
    """Protobuf, framed protobuf, JSON, JSON lines, documents in a row, each also in gzip; names do not matter."""
    found = read(pack(data))
    assert [document.body for document in found] == bodies
    assert {document.encoding for document in found} <= {encoding}


@pytest.mark.parametrize("name", ["export-001.pb"])
def test_every_capture_is_known_as_protobuf(name: str) -> None:
    """Real exports of all instrumentations, none mistaken for anything else."""
    found = [next(documents(io.BytesIO(path.read_bytes()), "f")).encoding for path in ROOT.glob(f"tests/data/captures/*/{name}")]
    assert len(found) > 50
    assert set(found) == {Encoding.PROTOBUF}


def test_protobuf_that_begins_like_json_is_protobuf() -> None:
    """A message of 123 bytes begins with a line feed and a brace; what follows tells it from JSON."""
    resource = b"\x0a\x22" + b"\x0a\x20" + b"a" * 32  # field 1, 34 bytes: a quotation mark to whoever reads it as text
    resource_spans = resource + b"\x1a" + bytes([123 - len(resource) - 2]) + b"u" * (123 - len(resource) - 2)
    message = b"\x0a" + bytes([len(resource_spans)]) + resource_spans
    assert message.startswith(b'\n{\n"')
    assert read(message) == [Document(message, Encoding.PROTOBUF, "f")]


def test_bad_utf8_in_json_reaches_the_decoder_as_it_is() -> None:
    """Cut-off text is common in prompts; the decoder keeps such spans."""
    bad = b'{"resourceSpans": [{"schemaUrl": "\xff"}]}'
    assert [document.body for document in read(bad + b"\n" + bad)] == [bad, bad]
    spread = b'{\n"schemaUrl": "\xff"}'
    assert [document.body for document in read(spread)] == [spread]


def test_lines_are_read_as_they_come() -> None:
    """A file of any size, and a pipe that is still being written."""
    stream = io.BytesIO(LINE + b"\n" + LINE + b"\n")
    iterator = documents(stream, "f")
    assert next(iterator).where == "f, line 1"
    assert next(iterator).where == "f, line 2"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x28\xb5\x2f\xfdxxxx", "zstd -d f"),
        (b"[" + LINE + b"]", "jq -c '.[]' f"),
        (b"hello", "neither OTLP protobuf"),
        (b"<html>", "neither OTLP protobuf"),
        (gzip.compress(LINE)[:-20], "damaged or cut off"),
        (gzip.compress(LINE)[:200] + b"\0" * 50, "damaged or cut off"),
        (gzip.compress(gzip.compress(gzip.compress(LINE))), "unpack it first"),
        (framed(PROTOBUF)[:-1], "export 1: is cut off"),
        (framed(PROTOBUF) + b"\0\0", "export 2: is cut off"),
        (PRETTY[:-5], "is no JSON"),
        (PRETTY + b"\nnonsense", "is no JSON"),
        (b'{"a":' + b"[" * 100_000, "is no JSON"),
        (b" " * 5_000 + LINE, "begins with more than"),
    ],
    ids=[
        "zstd",
        "array",
        "text",
        "html",
        "gzip-cut",
        "gzip-bad",
        "gzip3",
        "frame-cut",
        "length-cut",
        "json-cut",
        "json-tail",
        "deep",
        "blanks",
    ],
)
def test_a_file_that_is_no_export_says_what_to_do(data: bytes, said: str) -> None:
    """The sentence names the file, the place and the way out."""
    with pytest.raises(UnreadableFile) as caught:
        read(data)
    assert str(caught.value).startswith("f")
    assert said in str(caught.value)


# --- attribute -----------------------------------------------------------------------------------------------------------------------


def report(**changes: Any) -> dict[str, Any]:
    row = {
        "key": "planner",
        "calls": 2,
        "unpriced_calls": 1,
        "cost_pusd": 5,
        "cost_usd": "0.0075",
        "share": 1.0,
        "input_tokens": 1500,
        "output_tokens": 7,
    }
    return {
        "schema": "spantoll.report/1",
        "totals": {
            "traces": 1, "spans": 3, "duplicate_spans": 1, "calls": 2, "priced_calls": 1, "unpriced_calls": 1, "cost_usd": "0.0075",
            "doubts": {"clamped": 1},
        },
        "calls": [],
        "attributions": {
            "agent": [row, {**row, "key": None, "cost_usd": None, "share": None}],
            "model": [{**row, "key": "[red]gpt\x1b[2J"}],
        },
        "missing": [{"trace_id": "0", "span_id": "0", "scope": "s", "model": None, "reason": "no_usage"}],
        "notes": [],
        **changes,
    }  # fmt: skip


class Offline:
    """What the composition root gives for files, recording what it is fed."""

    def __init__(self) -> None:
        self.fed: list[tuple[bytes, Encoding]] = []

    def feed(self, body: bytes, encoding: Encoding) -> int:
        if b"broken" in body:
            raise MalformedExport("the body is no OTLP export")
        self.fed.append((body, encoding))
        return 1

    def finish(self, notes: tuple[str, ...] = ()) -> dict[str, Any]:
        return report(notes=list(notes))


@pytest.fixture
def offline(app: types.SimpleNamespace) -> Offline:
    engine = Offline()
    app.offline = lambda _config: engine
    return engine


def test_several_files_are_one_stream(tmp_path: Path, offline: Offline) -> None:
    """In the order given, each by its own format; JSON where no terminal is."""
    (tmp_path / "a.pb").write_bytes(PROTOBUF)
    (tmp_path / "b").write_bytes(gzip.compress(LINE + b"\n" + LINE))
    result = invoke("attribute", str(tmp_path / "a.pb"), str(tmp_path / "b"))
    assert result.exit_code == 0
    assert offline.fed == [(PROTOBUF, Encoding.PROTOBUF), (LINE, Encoding.JSON), (LINE, Encoding.JSON)]
    assert json.loads(result.stdout)["schema"] == "spantoll.report/1"


def test_standard_input_is_a_file(offline: Offline) -> None:
    """`-`, at the end of a pipe."""
    result = invoke("attribute", "-", stdin=LINE)
    assert result.exit_code == 0
    assert offline.fed == [(LINE, Encoding.JSON)]


def test_what_cannot_be_read_spoils_nothing_else(tmp_path: Path, offline: Offline) -> None:
    """A broken last line and a foreign file: named on standard error and in the notes, exit code 1, the rest counted."""
    (tmp_path / "a.jsonl").write_bytes(LINE + b'\n{"broken": \n' + LINE)
    (tmp_path / "b.txt").write_bytes(b"hello")
    (tmp_path / "c.pb").write_bytes(PROTOBUF)
    result = invoke("attribute", *(str(tmp_path / name) for name in ("a.jsonl", "b.txt", "c.pb")))
    assert result.exit_code == 1
    assert len(offline.fed) == 3
    notes = json.loads(result.stdout)["notes"]
    assert len(notes) == 2
    assert "a.jsonl, line 2: the body is no OTLP export" in notes[0]
    assert "b.txt: is neither" in notes[1]
    assert all(note in result.stderr for note in notes)


@pytest.mark.parametrize("arguments", [[], ["/nonexistent.pb"], ["--format", "yaml", "-"], ["--by", "colour", "-"]])
def test_a_wrong_command_line_is_exit_code_2(arguments: list[str]) -> None:
    """Before any work."""
    assert invoke("attribute", *arguments).exit_code == 2


def test_price_lists_that_cannot_be_used_are_configuration(app: types.SimpleNamespace) -> None:
    """What shows only when the tables are compiled is shown like every other problem."""

    def unusable(_config: Config) -> Offline:
        raise ConfigError(["prices.litellm_file: is no price list"])

    app.offline = app.price_book = unusable
    for arguments in (["attribute", "-"], ["price", "gpt-4o"]):
        result = invoke(*arguments, stdin=b"")
        assert result.exit_code == 2
        assert "prices.litellm_file: is no price list" in result.stderr


def rendered(show: Any, *arguments: Any) -> str:
    console = Console(file=io.StringIO(), width=160, force_terminal=True, color_system=None, legacy_windows=False)
    show(*arguments, console=console)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]  # it is the StringIO of the line above
    return text


def test_a_report_is_shown_as_tables() -> None:
    """Totals, a table a dimension, doubts with their meaning, what is missing; what has no price is never $0."""
    text = rendered(print_report, report(), ("agent", "model"))
    for part in ("3 spans (1 came twice) in 1 traces, 2 model calls", "$0.007500 in all", "1 calls without a price", "by agent", "planner"):
        assert part in text
    for part in ("unknown", "unpriced", "1,500", "100.0%", "clamped", DOUBT_SENTENCES["clamped"][:60], "no_usage"):
        assert part in text
    assert "$0.000000" not in text


def test_a_report_without_any_price_says_so() -> None:
    """What has no price did not cost $0."""
    unpriced = report()
    unpriced["totals"]["cost_usd"] = None
    text = rendered(print_report, unpriced, ())
    assert "none of them has a price" in text
    assert "$0" not in text


def test_names_of_clients_are_no_markup_and_no_control_codes() -> None:
    """A model called "[red]" is shown so, and none clears the screen."""
    text = rendered(print_report, report(), ("model",))
    assert "[red]gpt\\u001b[2J" in text
    assert "\x1b[2J" not in text


def test_every_doubt_is_explained() -> None:
    """The closed list of doubts and the sentences for it are the same list."""
    assert set(DOUBT_SENTENCES) == {doubt.value for doubt in Doubt}


def test_an_amount_that_nobody_knows_is_not_zero() -> None:
    """Micro-dollars are shown, exactly as counted."""
    assert (dollars(None), dollars("0"), dollars("1234.5678919")) == ("unpriced", "$0.000000", "$1,234.567892")


def test_the_table_is_printed_when_asked_for(offline: Offline) -> None:
    """`--format table` in a pipe."""
    result = invoke("attribute", "--format", "table", "--by", "agent", "-", stdin=LINE)
    assert result.exit_code == 0
    assert "planner" in result.stdout
    assert "by model" not in result.stdout


# --- price ---------------------------------------------------------------------------------------------------------------------------


def described(*, found: bool = True, **changes: Any) -> dict[str, Any]:
    """What a price book says of a model (`core.prices.describe`)."""
    if not found:
        return {"asked": "gpt-4q[red]", "found": False, "provider": None, "near": ["openai/gpt-4o"], **changes}
    rates = [
        {"tier": "standard", "above_input_tokens": 0, "rates": {"input": "2.5", "output": "10"}},
        {"tier": "standard", "above_input_tokens": 200_000, "rates": {"input": "5"}},
        {"tier": "batch", "above_input_tokens": 0, "rates": {"input": "1.25", "web_search": "10"}},
    ]
    known = {
        "asked": "gpt-4o", "found": True, "sure": True, "provider": "openai", "listed_by": "openai", "model": "gpt-4o",
        "source": "genai-prices", "version": "0.2.3", "valid_from": None, "valid_to": None, "by_time_of_day": False, "rates": rates,
        "other_rates": {}, "near": [],
    }  # fmt: skip
    return {**known, **changes}


class Book:
    """A price book that knows one model."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None, int]] = []

    def describe(self, model: str, provider: str | None = None, *, at: int) -> dict[str, Any]:
        self.asked.append((model, provider, at))
        return described(found=model == "gpt-4o", asked=model)


@pytest.fixture
def book(app: types.SimpleNamespace) -> Book:
    book = Book()
    app.price_book = lambda _config: book
    return book


@pytest.mark.parametrize("at", ["2026-11-01", "2026-11-01T00:00:00", "2026-11-01T01:00:00+0100"])
def test_a_price_is_shown(book: Book, at: str) -> None:
    """As JSON in a pipe; a date is its midnight in UTC."""
    result = invoke("price", "gpt-4o", "--provider", "openai", "--at", at)
    assert result.exit_code == 0
    assert json.loads(result.stdout) == described(overrides=[])
    assert book.asked == [("gpt-4o", "openai", 1_793_491_200_000_000_000)]


def test_a_price_is_asked_for_now(book: Book) -> None:
    """Without --at, as a table when that is wanted."""
    before = time.time_ns()
    result = invoke("price", "gpt-4o", "--format", "table")
    assert "2.5" in result.stdout
    assert before <= book.asked[0][2] <= time.time_ns()


def test_a_model_without_a_price_is_exit_code_1(book: Book) -> None:
    """So that a script notices."""
    assert invoke("price", "gpt-4q").exit_code == 1


def test_every_rate_of_a_price_is_shown() -> None:
    """Tiers, the cliff at a length, fees, and until when it holds."""
    text = rendered(print_price, described(valid_to=1_793_491_200_000_000_000, sure=False, overrides=[]))
    for part in (
        "openai/gpt-4o, as genai-prices 0.2.3 says",
        "valid until 2026-11-01",
        "200,000",
        "batch",
        "1.25",
        "web search",
        "model_alias",
    ):
        assert part in text


def test_an_unknown_model_is_said_to_be_unpriced_and_not_free() -> None:
    """With the names that may have been meant; the name itself is no markup."""
    text = rendered(print_price, described(found=False, overrides=[]))
    assert "gpt-4q[red] is in no price list" in text
    assert "not free" in text
    assert "Did you mean: openai/gpt-4o" in text


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        ('match = "gpt*", rates = {input = 0.1, output = 3}', True),
        ('match = "gpt-4q", account = "acme", rates = {input = 2}, from = 2026-01-01, to = 2027-01-01', True),
        ('match = "gpt-4q", rates = {input = 2}, to = 2026-01-01', False),
        ('match = "other", rates = {input = 2}', False),
    ],
)
def test_prices_of_ones_own_are_shown_first(book: Book, row: str, shown: bool) -> None:
    """A model that only `[[prices.override]]` knows has a price, where and while the row holds."""
    arguments = ["price", "gpt-4q", "--at", "2026-11-01", "--set", f"prices.override=[{{{row}}}]"]
    result = invoke(*arguments)
    assert result.exit_code == (0 if shown else 1)
    assert bool(json.loads(result.stdout)["overrides"]) == shown
    text = invoke(*arguments, "--format", "table").stdout
    assert ("[[prices.override]] goes before the lists: match gpt" in text) == shown
    assert ("not free" in text) != shown
