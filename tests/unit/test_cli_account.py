"""`spantoll account`: what each verb asks of the API, and what people and programs read."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from receiver.cli import main
from receiver.cli.operator_api import Failed
from receiver.web.accounts import SETTINGS

#: `receiver.cli.account` is the group of verbs to who asks the package for it.
module: Any = importlib.import_module("receiver.cli.account")
KEY = "spt_" + "k" * 43
ACCOUNT: dict[str, Any] = {
    "account": "acme",
    "created": "2026-10-01T00:00:00Z",
    "enabled": True,
    "note": "[bold]pays[/] \x1b[31mlate",
    "balance_msat": -1_234_567,
    "credit": {"enforce": True, "price_per_span_msat": 10, "credit_limit_msat": 5_000, "on_exhausted": "hold", "max_debt_msat": 0},
    "limits": {"max_in_flight": 64 * 1024 * 1024, "max_open_spans": None, "max_series": 50},
    "own": ["enforce", "max_in_flight", "max_series"],
    "keys": [
        {"hint": "spt_Ab3d", "created": "2026-10-01T00:00:00Z", "expires": "2026-10-01T01:00:00Z", "source": "account"},
        {"hint": "sha256:9f86d081", "created": None, "expires": None, "source": "configuration"},
    ],
}


class Api:
    """Records what is asked, and answers."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer = answer
        self.fault: Exception | None = None
        self.calls: list[tuple[str, str, Any]] = []

    def call(self, method: str, path: str, body: Any = None, query: Any = None) -> dict[str, Any]:
        assert query is None
        self.calls.append((method, path, body))
        if self.fault is not None:
            raise self.fault
        return self.answer


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    found = Api(ACCOUNT)

    @contextmanager
    def opened(_config: Any) -> Iterator[Api]:
        yield found

    monkeypatch.setattr(module, "operator_api", opened)
    return found


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, ("account", *arguments))


@pytest.mark.parametrize(
    ("arguments", "call"),
    [
        (["list"], ("GET", "/api/v1/accounts", None)),
        (["show", "acme/team"], ("GET", "/api/v1/accounts/acme%2Fteam", None)),
        (["add", "acme"], ("POST", "/api/v1/accounts", {"account": "acme"})),
        (
            [
                "add",
                "acme",
                "--no-enforce",
                "--price-per-span-msat",
                "0",
                "--on-exhausted",
                "accept",
                "--max-debt-msat",
                "7",
                "--note",
                "x y",
            ],
            (
                "POST",
                "/api/v1/accounts",
                {
                    "account": "acme",
                    "enforce": False,
                    "price_per_span_msat": 0,
                    "on_exhausted": "accept",
                    "max_debt_msat": 7,
                    "note": "x y",
                },
            ),
        ),
        (
            [
                "set",
                "acme",
                "--enforce",
                "--credit-limit-msat",
                "9",
                "--max-in-flight",
                "64MiB",
                "--max-series",
                "10",
                "--max-open-spans",
                "5",
            ],
            (
                "PATCH",
                "/api/v1/accounts/acme",
                {"enforce": True, "credit_limit_msat": 9, "max_in_flight": 64 * 1024 * 1024, "max_series": 10, "max_open_spans": 5},
            ),
        ),
        (
            ["set", "acme", "--unset", "on-exhausted", "--unset", "note"],
            ("PATCH", "/api/v1/accounts/acme", {"on_exhausted": None, "note": None}),
        ),
        (["disable", "acme"], ("POST", "/api/v1/accounts/acme/disable", None)),
        (["enable", "acme"], ("POST", "/api/v1/accounts/acme/enable", None)),
        (["rotate-key", "acme"], ("POST", "/api/v1/accounts/acme/rotate-key", {"grace_seconds": 0})),
        (["rotate-key", "acme", "--grace", "1h30m"], ("POST", "/api/v1/accounts/acme/rotate-key", {"grace_seconds": 5_400})),
    ],
    ids=lambda value: " ".join(map(str, value))[:40],
)
def test_each_verb_asks_once_for_what_was_said(api: Api, arguments: list[str], call: tuple[str, str, Any]) -> None:
    """What is not said is not sent, so it stays as it is; JSON is the answer as it came."""
    if arguments[0] == "list":
        api.answer = {"key_required": True, "accounts": [ACCOUNT]}
    result = invoke(*arguments, "--format", "json")
    assert (result.exit_code, api.calls) == (0, [call]), result.output
    assert json.loads(result.stdout) == api.answer


@pytest.mark.parametrize(
    "arguments",
    [
        ["set", "acme"],
        ["add"],
        ["add", "acme", "--price-per-span-msat", "-1"],
        ["add", "acme", "--on-exhausted", "maybe"],
        ["add", "acme", "--max-in-flight", "big"],
        ["rotate-key", "acme", "--grace", "soon"],
        ["set", "acme", "--unset", "name"],
    ],
)
def test_a_wrong_command_line_asks_nothing(api: Api, arguments: list[str]) -> None:
    """Exit code 2, and a sentence that names what is wrong."""
    result = invoke(*arguments)
    assert (result.exit_code, api.calls) == (2, [])
    assert "Error:" in result.stderr


def test_a_refusal_is_shown_and_ends_with_1(api: Api) -> None:
    """The server's own sentence."""
    api.fault = Failed("account 'acme' exists already")
    result = invoke("add", "acme")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "Error: account 'acme' exists already\n")


def test_a_new_key_is_shown_with_what_to_do(api: Api) -> None:
    """Once, with the variable in the syntax of W3C baggage (a blank is %20), and whether from now on everybody needs one."""
    api.answer = {**ACCOUNT, "key": KEY, "first_key": False, "keys": ACCOUNT["keys"][:1]}
    text = invoke("add", "acme", "--format", "table").stdout
    assert f"  {KEY}\n" in text
    assert "will not be shown again" in text
    assert f'export OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer%20{KEY}"' in text
    assert "everybody" not in text
    api.answer["first_key"] = True
    text = invoke("add", "acme", "--format", "table").stdout
    assert "From now on a key is required of everybody" in text


def test_the_variable_is_read_by_a_real_exporter() -> None:
    """The SDK's own parser gives the header back as the receiver expects it."""
    from opentelemetry.util.re import parse_env_headers

    name, _, value = module.exporter_header(KEY).partition("=")
    assert name == "OTEL_EXPORTER_OTLP_HEADERS"
    assert parse_env_headers(value.strip('"'), liberal=True) == {"authorization": f"Bearer {KEY}"}


@pytest.mark.parametrize(
    ("expire", "says"), [(None, "open nothing any more"), ("2026-10-01T01:00:00Z", "open it until 2026-10-01T01:00:00Z")]
)
def test_a_rotation_says_what_becomes_of_the_old_keys(api: Api, expire: str | None, says: str) -> None:
    """Those of the configuration stay in force, which is said too."""
    api.answer = {**ACCOUNT, "key": KEY, "first_key": False, "replaced_keys": 1, "old_keys_expire": expire}
    text = invoke("rotate-key", "acme", "--format", "table").stdout
    assert says in text
    assert "[[access.key]]" in text


def test_accounts_are_shown_as_a_table_for_eyes(api: Api) -> None:
    """Money in satoshi, terms in words; a note is text, neither markup nor a control code."""
    api.answer = {"key_required": False, "accounts": [ACCOUNT, {**ACCOUNT, "account": "globex", "enabled": False, "note": ""}]}
    text = invoke("list", "--format", "table").stdout
    assert "-1,234.567" in text
    assert "[bold]pays[/]" in text
    assert "\x1b" not in text
    assert "disabled" in text
    assert "everything belongs to the account default" in text
    api.answer = ACCOUNT
    text = invoke("show", "acme", "--format", "table").stdout
    for word in ("-1,234.567 sat", "64MiB", "hold", "spt_Ab3d", "2026-10-01T01:00:00Z", "in the configuration", "as for everyone"):
        assert word in text
    assert "\x1b" not in text


def test_every_setting_of_the_api_is_an_option(api: Api) -> None:
    """Of `add` and `set`, and each can be taken back."""
    assert isinstance(module.account, click.Group)
    for verb in ("add", "set"):
        names = {parameter.name for parameter in module.account.commands[verb].params}
        assert set(SETTINGS) <= names
    assert {name.replace("-", "_") for name in module._SETTINGS} == set(SETTINGS)


def test_every_verb_and_option_has_help() -> None:
    """A newcomer learns the program from the program."""
    for name, verb in module.account.commands.items():
        assert verb.help, name
        assert invoke(name, "--help").exit_code == 0
        for parameter in verb.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{name} {parameter.name}"


def test_the_story_without_a_daemon(tmp_path: Path) -> None:
    """The real books in a folder: add, rotate, disable, list; the key is in the one answer that made it."""
    at = ("--set", f"store.directory={tmp_path / 'data'}", "--format", "json")
    made = json.loads(invoke("add", "acme", "--on-exhausted", "hold", *at).stdout)
    again = invoke("add", "acme", *at)
    assert (again.exit_code, again.stdout) == (1, "")
    assert "rotate-key acme" in again.stderr
    rotated = json.loads(invoke("rotate-key", "acme", "--grace", "10m", *at).stdout)
    assert rotated["key"] != made["key"]
    assert json.loads(invoke("disable", "acme", *at).stdout)["enabled"] is False
    listed = invoke("list", *at)
    assert [account["account"] for account in json.loads(listed.stdout)["accounts"]] == ["acme", "default"]
    for key in (made["key"], rotated["key"]):
        assert key not in listed.output
        assert not [file for file in (tmp_path / "data").iterdir() if key.encode() in file.read_bytes()]
