"""The configuration: what it means by default, where values come from, and that everything wrong is said at once."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from decimal import Decimal
from pathlib import Path

import pytest

from receiver.config import (
    Access,
    AccessKey,
    Config,
    ConfigError,
    Otlp,
    OtlpGrpc,
    as_table,
    commented,
    effective,
    format_duration,
    format_size,
    load,
    parse_duration,
    parse_endpoint,
    parse_size,
    paths,
)
from receiver.config.fields import keys_of
from receiver.config.kinds import Rows, Table
from receiver.core.attribution import DIMENSIONS

DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
OTHER = "60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752"


def loaded(toml: str = "", *, tmp_path: Path, environ: dict[str, str] | None = None, assignments: tuple[str, ...] = ()) -> Config:
    file = tmp_path / "spantoll.toml"
    file.write_text(toml)
    return load(file, environ=environ or {}, assignments=assignments)


def problems(toml: str = "", *, tmp_path: Path, environ: dict[str, str] | None = None, assignments: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(toml, tmp_path=tmp_path, environ=environ, assignments=assignments)
    return caught.value.problems


def test_nothing_said_is_every_default() -> None:
    """The first run needs no configuration."""
    assert load(None, environ={}) == Config()


def test_the_defaults_are_the_promised_ones() -> None:
    """Listeners, waits and limits that the documents name."""
    config = Config()
    assert (config.otlp.grpc.endpoint, config.otlp.http.endpoint) == ("localhost:4317", "localhost:4318")
    assert (config.operator.endpoint, config.customer.endpoint) == ("localhost:8102", "localhost:8101")
    assert config.otlp.max_request_size == 64 << 20
    assert config.window.decision_wait_after_root_received == 6.0
    assert (config.window.lone_call_wait, config.window.idle_wait, config.window.decision_wait) == (10.0, 600.0, 21_600.0)
    assert (config.window.max_bytes, config.window.max_traces, config.window.max_trace_spans) == (256 << 20, 200_000, 10_000)
    assert config.window.seen_horizon == 3_600.0


def test_the_configuration_cannot_be_changed() -> None:
    """Every section is handed to its user as a value."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().window.idle_wait = 1.0  # type: ignore[misc]  # the point of the test


def test_the_commented_file_is_the_defaults(tmp_path: Path) -> None:
    """Whoever starts from `check-config --defaults` changes nothing by it."""
    assert loaded(commented(), tmp_path=tmp_path) == Config()


def test_the_examples_in_the_commented_file_are_right(tmp_path: Path) -> None:
    """Every line that is a comment's sign, a blank and TOML can be uncommented, all of them together."""
    uncommented = re.sub(r"^# (?=\[\[|[a-z0-9_-]+ = )", "", commented(), flags=re.MULTILINE)
    config = loaded(uncommented, tmp_path=tmp_path)
    assert config.access.keys
    assert config.operator.keys
    assert config.usage.scopes
    assert config.prices.overrides
    assert config.prices.aliases
    assert config.attribution.keys


def test_every_key_has_a_sentence() -> None:
    """A key without an explanation is a key that nobody can set."""
    for path, described in paths().items():
        assert described.metadata["says"].strip().endswith((".", ")")), path
        if isinstance(described.metadata["kind"], Rows):
            for name, inner in keys_of(described.metadata["kind"].row).items():
                assert inner.metadata["says"].strip().endswith("."), (path, name)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("6s", 6.0),
        ("10m", 600.0),
        ("6h", 21_600.0),
        ("1h30m", 5_400.0),
        ("250ms", 0.25),
        ("1m250ms", 60.25),
        ("0", 0.0),
        ("0s", 0.0),
        ("30d", 2_592_000.0),
    ],
)
def test_durations_are_prometheus_notation(text: str, seconds: float) -> None:
    """As in Prometheus' own configuration."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "6", "s", "6 s", "-6s", "1.5h", "1m1h", "6S", "٦s", "1h1h", "6s\n"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    """No unit, no sign, no fraction, units from large to small, each once."""
    with pytest.raises(ValueError):
        parse_duration(text)


@pytest.mark.parametrize("seconds", [0.0, 0.25, 6.0, 60.25, 5_400.0, 21_600.0, 2_592_000.0, 31_536_000.0, 604_800.0, 90_061.001])
def test_durations_are_read_back_as_written(seconds: float) -> None:
    """A dump of the configuration is that configuration."""
    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "count"),
    [("64MiB", 64 << 20), ("256 KiB", 256 << 10), ("2GiB", 2 << 30), ("20MB", 20_000_000), ("5kB", 5_000), ("17B", 17), ("1024", 1024)],
)
def test_sizes_are_bytes(text: str, count: int) -> None:
    """Binary and decimal suffixes mean what they say."""
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "MiB", "-1B", "1.5MiB", "64mib", "64 M", "0x10", "1MiB2"])
def test_what_is_no_size_is_refused(text: str) -> None:
    """A size that is guessed at is a limit that is not kept."""
    with pytest.raises(ValueError):
        parse_size(text)


@pytest.mark.parametrize("count", [0, 1, 1023, 1024, 1_500_000, 64 << 20, 3 << 30])
def test_sizes_are_read_back_as_written(count: int) -> None:
    """Nothing is rounded."""
    assert parse_size(format_size(count)) == count


@pytest.mark.parametrize(
    ("text", "host", "port", "loopback"),
    [
        ("localhost:4317", "localhost", 4317, True),
        ("127.8.8.8:1", "127.8.8.8", 1, True),
        ("[::1]:0", "::1", 0, True),
        ("0.0.0.0:4317", "0.0.0.0", 4317, False),  # noqa: S104 -- read, not bound
        ("[::]:65535", "::", 65535, False),
        ("10.0.0.1:80", "10.0.0.1", 80, False),
        ("A.example:1", "a.example", 1, False),
    ],
)
def test_endpoints_have_a_host_and_a_port(text: str, host: str, port: int, loopback: bool) -> None:
    """IPv6 in brackets, names in any case; what is no loopback by its name counts as reachable from elsewhere."""
    endpoint = parse_endpoint(text)
    assert endpoint == (host, port)
    assert endpoint.is_loopback is loopback
    assert str(endpoint) == text.lower()


@pytest.mark.parametrize(
    "text",
    [
        "", "4317", ":4317", "localhost", "localhost:", "localhost:http", "localhost:65536", "localhost:-1", "::1:4317", "[::g]:1",
        "http://localhost:4317", "localhost:4318/v1/traces", "[::1:4317", "a b:1", "x:٣",
    ],
)  # fmt: skip
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    """A URL, a missing port, a bare IPv6 address."""
    with pytest.raises(ValueError):
        parse_endpoint(text)


def test_set_goes_before_the_environment_and_that_before_the_file(tmp_path: Path) -> None:
    """The nearer to the hand, the more it counts; what a source does not say is left to the one below."""
    toml = "[window]\nidle_wait = '1m'\nlone_call_wait = '1s'\ndecision_wait = '1h'"
    environ = {"SPANTOLL_WINDOW__IDLE_WAIT": "2m", "SPANTOLL_WINDOW__LONE_CALL_WAIT": "2s"}
    window = loaded(toml, tmp_path=tmp_path, environ=environ, assignments=("window.idle_wait=3m",)).window
    assert (window.idle_wait, window.lone_call_wait, window.decision_wait, window.seen_horizon) == (180.0, 2.0, 3_600.0, 3_600.0)


def test_a_later_set_goes_before_an_earlier_one(tmp_path: Path) -> None:
    """As on every command line."""
    assert loaded(tmp_path=tmp_path, assignments=("log.level=debug", "log.level=error")).log.level == "error"


@pytest.mark.parametrize(
    ("assignment", "path", "value"),
    [
        ("otlp.max_request_size=16MiB", "otlp.max_request_size", 16 << 20),
        ("otlp.max_request_size=1048576", "otlp.max_request_size", 1 << 20),
        ('otlp.max_request_size="1MiB"', "otlp.max_request_size", 1 << 20),
        ("otlp.grpc.endpoint=", "otlp.grpc.endpoint", ""),
        ("otlp.http.traces_path=/otlp/v1/traces", "otlp.http.traces_path", "/otlp/v1/traces"),
        ("store.directory=2026-01-01", "store.directory", "2026-01-01"),
        ("store.directory = 17 ", "store.directory", "17"),
        ("shutdown.release=true", "shutdown.release", True),
        ("metrics.dimensions=user, session", "metrics.dimensions", ("user", "session")),
        ('metrics.dimensions=["user"]', "metrics.dimensions", ("user",)),
        ("metrics.dimensions=", "metrics.dimensions", ()),
        ("prices.aliases.my-deployment=gpt-4o", "prices.aliases", {"my-deployment": "gpt-4o"}),
        ('prices.aliases."gpt 4.1"=gpt-4.1', "prices.aliases", {"gpt 4.1": "gpt-4.1"}),
        ('prices.aliases={a = "b"}', "prices.aliases", {"a": "b"}),
        ('attribution.keys.tenant=["app.tenant", "t"]', "attribution.keys", {"tenant": ("app.tenant", "t")}),
        (f'access.key=[{{account = "acme", sha256 = "{DIGEST}"}}]', "access.keys", (AccessKey(account="acme", sha256=DIGEST),)),
    ],
)
def test_set_takes_toml_or_a_bare_string(tmp_path: Path, assignment: str, path: str, value: object) -> None:
    """Nobody has to quote twice in a shell, and everything that TOML can say can be said; the environment takes the same."""
    key, _, text = assignment.partition("=")
    variable = "SPANTOLL_" + "__".join(part.strip().upper() for part in key.split("."))
    ways = [loaded(tmp_path=tmp_path, assignments=(assignment,))]
    if '"' not in key:
        ways.append(loaded(tmp_path=tmp_path, environ={variable: text.strip()}))
    for config in ways:
        found: object = config
        for name in path.split("."):
            found = getattr(found, name)
        assert found == value


def test_tables_of_names_are_merged_over_the_sources(tmp_path: Path) -> None:
    """One more alias on the command line does not take away those of the file."""
    config = loaded('[prices.aliases]\na = "gpt-4o"\nb = "gpt-4o"', tmp_path=tmp_path, assignments=("prices.aliases.b=gpt-5",))
    assert config.prices.aliases == {"a": "gpt-4o", "b": "gpt-5"}


def test_foreign_variables_of_the_environment_are_left_alone(tmp_path: Path) -> None:
    """Kubernetes puts SPANTOLL_PORT and the like into every pod beside a service of that name."""
    environ = {
        "SPANTOLL_PORT": "tcp://10.0.0.1:8102",
        "SPANTOLL_SERVICE_HOST": "10.0.0.1",
        "SPANTOLL_PORT_8102_TCP_ADDR": "10.0.0.1",
        "PATH": "/bin",
    }
    assert loaded(tmp_path=tmp_path, environ=environ) == Config()


def test_everything_wrong_is_said_at_once(tmp_path: Path) -> None:
    """Unknown keys, wrong types, bad values, bad rows and contradictions, of every source, in one reading."""
    toml = f"""
[otlp]
max_request_size = "64 megs"
discard_other_signals = "no"
[otlp.grpc]
enpoint = "localhost:1"
[windows]
idle_wait = "1m"
[window]
decision_wait = "5m"
[[access.key]]
account = "acme"
[[prices.override]]
match = "x"
rates = 3
from = 2027-01-01
[[access.key]]
account = "b c"
sha256 = "{DIGEST}"
"""
    found = problems(
        toml, tmp_path=tmp_path, environ={"SPANTOLL_LOG__LEVEL": "loud"}, assignments=("customer.endpoint=localhost:8102", "nonsense")
    )
    wanted = [
        "otlp.max_request_size",
        "otlp.discard_other_signals",
        "otlp.grpc.enpoint",
        "windows",
        "access.key[0].sha256",
        "access.key[1].account",
        "prices.override[0].rates",
        "log.level",
        "--set nonsense",
        "window.idle_wait",
        "customer.endpoint",
    ]
    for path in wanted:
        assert any(problem.startswith(path) for problem in found), (path, found)
    assert len(found) == len(wanted), found


def test_a_problem_names_the_key_the_source_what_was_found_and_what_is_allowed(tmp_path: Path) -> None:
    """One sentence is enough to mend it."""
    (problem,) = problems("[log]\nlevel = 'loud'", tmp_path=tmp_path)
    assert problem.startswith("log.level (in ")
    assert "spantoll.toml" in problem
    assert 'found "loud"' in problem
    assert '"debug", "info", "warning", "error"' in problem


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("window.idle_wiat", "window.idle_wait"),
        ("window.wait_after_root", "window.decision_wait_after_root_received"),
        ("windw.idle_wait", "window"),
        ("otlp.grpc.max_request_size", "otlp.max_request_size"),
        ("grpc", "otlp.grpc"),
        ("endpoint", "otlp.grpc.endpoint"),
        ("prices.alias", "prices.aliases"),
        ("attribution.keys.tenent", "attribution.keys.tenant"),
        ("access.keys", "access.key"),
    ],
)
def test_the_nearest_right_key_is_named(tmp_path: Path, wrong: str, right: str) -> None:
    """Typing errors, forgotten sections, and a key that stands in another section."""
    (problem,) = problems(tmp_path=tmp_path, assignments=(f"{wrong}=1",))
    assert f"{wrong.split('.', maxsplit=1)[0] if right == 'window' else wrong} (in" in problem
    assert re.search(rf"did you mean {re.escape(right)}(\?| or)", problem), problem


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("window.idle_wait=7", "a duration needs its unit"),
        ("window.idle_wait=8d", "from 0s to 7d"),
        ("window.max_traces=0", "from 1 to"),
        ("window.max_traces=true", "a whole number"),
        ("window.max_traces=1.5", "a whole number"),
        ("otlp.max_request_size=true", "a size such as"),
        ("otlp.http.traces_path=v1/traces", 'begins with "/"'),
        ("otlp.grpc.endpoint=http://localhost:4317", "host:port"),
        ("metrics.dimensions=model", "is none of them"),
        ("metrics.dimensions=user,user", "stands twice"),
        ("tls.cert_file=/nonexistent.pem", "No such file"),
        ("otlp=3", "a section with keys of its own"),
        ("log.level.x=3", "one of"),
        ("prices.aliases.x.y=3", "a model's name"),
        ("prices.aliases=3", "a table of names"),
        ("access.key=3", "an array of tables"),
        ('usage.scope=[{scope = "("}]', "a regular expression"),
        ('usage.scope=[{scope = "x", version = "1.2"}]', "a range such as"),
        ('usage.scope=[{scope = "x", mode = "INCLUSIVE"}]', "one of"),
        ("store.directory=", "not empty"),
        ('store.directory="a\\u0000b"', "a folder"),
    ],
)
def test_a_wrong_value_is_told_what_is_allowed(tmp_path: Path, assignment: str, said: str) -> None:
    """Each kind of value says what it takes."""
    found = problems(tmp_path=tmp_path, assignments=(assignment,))
    assert any(said in problem for problem in found), found


def test_a_value_cannot_smuggle_in_other_keys(tmp_path: Path) -> None:
    """A line break in an environment variable is part of its value."""
    (problem,) = problems(tmp_path=tmp_path, environ={"SPANTOLL_WINDOW__MAX_TRACES": '5\n"x" = 3'})
    assert problem.startswith("window.max_traces")


@pytest.mark.parametrize("content", ["[window", "a = 1\na = 2", "\x00", "[window]\nidle_wait ="])
def test_a_file_that_is_no_toml_is_one_problem(tmp_path: Path, content: str) -> None:
    """The parser's own words, with the file's name."""
    (problem,) = problems(content, tmp_path=tmp_path)
    assert "spantoll.toml: is no TOML" in problem


def test_a_missing_file_is_a_problem_beside_the_others(tmp_path: Path) -> None:
    """What the environment says is checked all the same."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "missing.toml", environ={"SPANTOLL_LOG__LEVEL": "loud"})
    assert [problem.split(" ")[0] for problem in caught.value.problems] == [f"{tmp_path / 'missing.toml'}:", "log.level"]


SECRET_FILES = "[tls]\ncert_file = '{0}'\nkey_file = '{0}'\n"


@pytest.mark.parametrize(
    ("assignments", "starts"),
    [
        (("otlp.grpc.endpoint=0.0.0.0:4317",), ["otlp.grpc.endpoint", "otlp.grpc.endpoint"]),
        (("otlp.grpc.endpoint=0.0.0.0:4317", "otlp.grpc.insecure=true"), ["otlp.grpc.endpoint"]),
        (("otlp.http.endpoint=receiver.internal:4318",), ["otlp.http.endpoint", "otlp.http.endpoint"]),
        (("operator.endpoint=0.0.0.0:8102",), ["operator.endpoint", "operator.endpoint", "operator.allowed_hosts"]),
        (("customer.endpoint=[::]:8101", "customer.insecure=true"), ["customer.endpoint", "customer.allowed_hosts"]),
        (("customer.endpoint=[::]:8101", "customer.insecure=true", "access.required=true"), ["customer.allowed_hosts"]),
        (("otlp.http.endpoint=localhost:4317",), ["otlp.http.endpoint"]),
        (("otlp.http.endpoint=127.0.0.1:4317",), ["otlp.http.endpoint"]),
        (("otlp.http.endpoint=", "otlp.grpc.endpoint="), ["otlp.grpc.endpoint, otlp.http.endpoint"]),
        (("otlp.max_in_flight=1MiB",), ["otlp.max_in_flight"]),
        (("window.decision_wait=5m",), ["window.idle_wait"]),
        (
            ("window.decision_wait=1s", "window.idle_wait=1s", "window.lone_call_wait=1s"),
            ["window.decision_wait_after", "window.remote_root_wait"],
        ),
        (("metrics.max_series=100",), ["metrics.max_series_per_account"]),
        ((f'access.key=[{{account="a", sha256="{DIGEST}"}}, {{account="b", sha256="{DIGEST}"}}]',), ["access.key[1].sha256"]),
        (("tls.cert_file=FILE",), ["tls.key_file"]),
        (("tls.key_file=FILE",), ["tls.cert_file"]),
        (("tls.client_ca_file=FILE",), ["tls.client_ca_file"]),
    ],
)
def test_contradictions_are_found(tmp_path: Path, assignments: tuple[str, ...], starts: list[str]) -> None:
    """Each value is right for itself, together they cannot be run."""
    file = tmp_path / "some.pem"
    file.write_text("")
    found = problems(tmp_path=tmp_path, assignments=tuple(text.replace("FILE", str(file)) for text in assignments))
    assert len(found) == len(starts), found
    assert all(problem.startswith(start) for problem, start in zip(found, starts, strict=True)), found


@pytest.mark.parametrize(
    "assignments",
    [
        (f'access.key=[{{account="a", sha256="{DIGEST}"}}]', "otlp.grpc.endpoint=0.0.0.0:4317", "tls.cert_file=FILE", "tls.key_file=FILE"),
        (f'access.key=[{{account="a", sha256="{DIGEST}"}}]', "otlp.http.endpoint=0.0.0.0:4318", "otlp.http.insecure=true"),
        ("access.required=true", "otlp.http.endpoint=0.0.0.0:4318", "otlp.http.insecure=true"),
        (
            f'operator.key=[{{name="p", sha256="{DIGEST}"}}]',
            "operator.endpoint=0.0.0.0:8102",
            "operator.insecure=true",
            'operator.allowed_hosts=["spantoll"]',
        ),
        ("operator.endpoint=10.0.0.1:8102", "tls.cert_file=FILE", "tls.key_file=FILE", "tls.client_ca_file=FILE"),
        ("otlp.grpc.endpoint=127.0.0.1:4317", "otlp.http.endpoint=[::1]:4317"),
        (
            "otlp.grpc.endpoint=localhost:0",
            "otlp.http.endpoint=localhost:0",
            "operator.endpoint=localhost:0",
            "customer.endpoint=localhost:0",
        ),
        ("otlp.grpc.endpoint=",),
        ("customer.endpoint=", "operator.endpoint="),
        (f'access.key=[{{account="a", sha256="{DIGEST}"}}, {{account="a", sha256="{OTHER}"}}]',),
    ],
)
def test_what_goes_together_is_taken(tmp_path: Path, assignments: tuple[str, ...]) -> None:
    """The checks refuse no sound set-up: TLS and keys, explicit plain text, mutual TLS, free ports, listeners that are off."""
    file = tmp_path / "some.pem"
    file.write_text("")
    loaded(tmp_path=tmp_path, assignments=tuple(text.replace("FILE", str(file)) for text in assignments))


@pytest.mark.parametrize(
    ("assignments", "says"),
    [
        ((), []),
        (("tls.cert_file=FILE", "tls.key_file=FILE"), ["speaks no TLS"]),
        (("tls.cert_file=FILE", "tls.key_file=FILE", "otlp.grpc.insecure=true"), []),
        (
            (f'access.key=[{{account="a", sha256="{DIGEST}"}}]', "otlp.grpc.insecure=true", "otlp.grpc.endpoint=10.0.0.1:4317"),
            ["reached from other machines"],
        ),
        (("otlp.grpc.endpoint=",), []),
    ],
)
def test_the_native_server_is_taken_only_where_it_is_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, assignments: tuple[str, ...], says: list[str]
) -> None:
    """Installed or not: no TLS, and no bound on what a message inflates to, are said before anything listens."""
    file = tmp_path / "some.pem"
    file.write_text("")
    chosen = ("otlp.grpc.server=native", *(text.replace("FILE", str(file)) for text in assignments))
    for installed in (True, False):
        monkeypatch.setattr("importlib.util.find_spec", lambda _name, found=installed: object() if found else None)
        expected = says if installed or "otlp.grpc.endpoint=" in assignments else ["spantoll[fast]", *says]
        found = problems(tmp_path=tmp_path, assignments=chosen) if expected else []
        if not expected:
            loaded(tmp_path=tmp_path, assignments=chosen)
        assert len(found) == len(expected), found
        assert all(say in problem and "otlp.grpc.server" in problem for say, problem in zip(expected, found, strict=True)), found


def test_a_dump_is_the_same_configuration_but_for_its_secrets(tmp_path: Path) -> None:
    """What `check-config` prints can be read back, and holds no digest whole."""
    toml = f"""
[otlp.http]
idle_timeout = "90s"
[access]
[[access.key]]
account = "acme"
sha256 = "{DIGEST}"
[prices.aliases]
"gpt 4" = "gpt-4o"
[attribution.keys]
user = ["app.user"]
[[usage.scope]]
scope = 'acme\\.tracing'
cumulative = ["A"]
"""
    config = loaded(toml, tmp_path=tmp_path)
    dump = effective(config)
    assert DIGEST not in dump
    assert 'sha256 = "9f86d081..."' in dump
    again = loaded(dump.replace("9f86d081...", DIGEST), tmp_path=tmp_path)
    assert again == config


def test_a_key_put_where_its_hash_belongs_is_not_repeated(tmp_path: Path) -> None:
    """Error messages end in logs."""
    found = problems(
        "[[access.key]]\naccount = 'a'\nsha256 = 'spt_secret'\n[[operator.key]]\nname = 'p'\nsha256 = 'spt_secret'", tmp_path=tmp_path
    )
    found += problems(tmp_path=tmp_path, assignments=("access.key=spt_secret",))
    assert len(found) == 3
    assert "spt_secret" not in "".join(found)


def test_rows_of_usage_scopes_become_table_rows(tmp_path: Path) -> None:
    """The counting rules take rows of their own table; only what was said is in them."""
    config = loaded(
        "[[usage.scope]]\nscope = 'acme'\nversion = '>=1.2,<2'\nprovider = ['anthropic']\nmode = 'EX'\ncumulative = true", tmp_path=tmp_path
    )
    assert [as_table(row) for row in config.usage.scopes] == [
        {"scope": "acme", "version": ">=1.2,<2", "provider": ["anthropic"], "mode": "EX", "cumulative": True}
    ]


def test_every_dimension_can_be_extended_but_the_calls_own() -> None:
    """Model and provider are the call's own and priced; all else may be said by keys of the user's own."""
    (kind,) = [described.metadata["kind"] for path, described in paths().items() if path == ("attribution", "keys")]
    assert isinstance(kind, Table)
    assert set(kind.keys) == set(DIMENSIONS) - {"model", "provider"}


def test_sections_can_be_made_by_hand() -> None:
    """Tests and embedders build a section from its values."""
    config = Config(otlp=Otlp(grpc=OtlpGrpc(endpoint="localhost:0")), access=Access(keys=(AccessKey(account="a", sha256=DIGEST),)))
    assert config.otlp.grpc.endpoint == "localhost:0"
    assert tomllib.loads(effective(config))["access"]["key"][0]["account"] == "a"


def test_a_section_becomes_a_table(tmp_path: Path) -> None:
    """The price layers take the rows of `[[prices.override]]` as tables; none is an empty list."""
    assert as_table(Config().prices) == {"override": []}
    config = loaded("[[prices.override]]\nmatch = 'm'\nfrom = 2026-11-01\nmultiplier = 0.85", tmp_path=tmp_path)
    moment = 1_793_491_200_000_000_000
    assert as_table(config.prices) == {"override": [{"match": "m", "from": moment, "multiplier": Decimal("0.85")}]}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("match = 'm'", "rates or a multiplier"),
        ("match = 'm'\nrates = {output = 1}", "input"),
        ("match = 'm'\nrates = {input = 1}\nmultiplier = 2", "rates or a multiplier"),
        ("match = 'm'\nrates = {input = 1}\nfrom = 2026-02-01\nto = 2026-01-01", "from is not before to"),
        ("match = 'm'\nrates = {input = -1}", "an amount in USD"),
        ("match = 'm'\nrates = {inputs = 1}", "did you mean prices.override[0].rates.input?"),
        ("match = 'm'\nrates = {input = 1}\nfrom = 'soon'", "a date such as"),
        ("match = 'm'\nrates = {input = 1}\ntier = 'slow'", "one of"),
    ],
)
def test_an_override_that_could_not_be_used_is_refused(tmp_path: Path, row: str, said: str) -> None:
    """A contract that is written down wrongly must not silently bill the list price."""
    (problem,) = problems(f"[[prices.override]]\n{row}", tmp_path=tmp_path)
    assert problem.startswith("prices.override[0]"), problem
    assert said in problem, problem


def test_money_is_read_as_it_is_written(tmp_path: Path) -> None:
    """0.1 USD is a tenth, not the nearest binary fraction."""
    config = loaded('[[prices.override]]\nmatch = "m"\nrates = {input = 0.1, output = 3}', tmp_path=tmp_path)
    assert config.prices.overrides[0].rates == {"input": Decimal("0.1"), "output": Decimal(3)}
