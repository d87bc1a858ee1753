"""`spantoll report` and `spantoll forget` as a person and a program read them; the API behind them is played."""

from __future__ import annotations

import csv
import importlib
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from click.testing import CliRunner, Result

from receiver.cli import main
from receiver.cli.operator_api import Failed
from receiver.core.tally import NUMBERS, Question, Tally


class Api:
    """What a verb asked, and what it is told."""

    def __init__(self, answer: dict[str, Any] | Failed) -> None:
        self.answer = answer
        self.asked: list[tuple[str, str, Any]] = []

    @contextmanager
    def __call__(self, _config: object) -> Iterator[Api]:
        yield self

    def call(self, method: str, path: str, body: Any = None, query: Any = None, *, wait_seconds: float = 0.0) -> dict[str, Any]:
        assert wait_seconds > 30, "a report of many charges takes its time"
        self.asked.append((method, path, body if query is None else query))
        if isinstance(self.answer, Failed):
            raise self.answer
        return self.answer


def costs(*by: str, top: int = 10) -> dict[str, Any]:
    """A report of three keys, one of them nobody's, one unpriced."""
    tally = Tally(Question(by=by, top=top))
    numbers = dict.fromkeys(NUMBERS, 0)

    def add(*key: str | None, reason: str = "", doubts: str = "", **told: int) -> None:
        tally.add(key, tuple((numbers | told).values()), unpriced_reason=reason, doubts=doubts)

    add("=cmd()", *["gpt-4o"] * (len(by) - 1), calls=4, cost_pusd=10**13 + 1, uncached=1_000, cache_read=10, output=7)
    add(None, *[None] * (len(by) - 1), calls=2, cost_pusd=10**12, doubtful_calls=2, doubts="clamped")
    add("[red]\x1b[31m", *["x"] * (len(by) - 1), calls=1, unpriced_calls=1, reason="unknown_model")
    tally.missing["no_usage"] = 3
    return tally.as_json()


def run(monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any] | Failed, *arguments: str) -> tuple[Result, Api]:
    api = Api(answer)
    for verb in ("report", "forget"):
        monkeypatch.setattr(importlib.import_module(f"receiver.cli.{verb}"), "operator_api", api)
    return CliRunner().invoke(main, arguments), api


def test_what_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dimensions may be repeated or be a list; the rest goes to the server as it was written."""
    result, api = run(
        monkeypatch, costs("agent"), "report", "--by", "agent,model", "--by", "day", "--by", "agent", "--since", "2026-11-01", "--until",
        "2026-12-01", "--tz", "Europe/Berlin", "--account", "acme", "--top", "5",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    query = {"by": "agent,model,day", "since": "2026-11-01", "until": "2026-12-01", "tz": "Europe/Berlin", "account": "acme", "top": 5}
    assert api.asked == [("GET", "/api/v1/report", query)]


def test_json_is_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs get what the API says, nothing else on standard output; it is the default where no terminal is."""
    result, _ = run(monkeypatch, costs("agent"), "report")
    assert json.loads(result.stdout) == costs("agent")


def test_the_table_shows_nobody_unpriced_and_hostile_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's key is (none), a cost that nobody knows is unpriced, and a name can neither colour nor move anything."""
    result, _ = run(monkeypatch, costs("agent", top=2), "report", "--format", "table")
    assert result.exit_code == 0, result.output
    assert "(none)" in result.stdout
    assert "$11.000000 in all" in result.stdout
    assert "(1 others)" in result.stdout
    assert "no_usage 3" in result.stdout
    assert "unknown_model 1" in result.stdout
    result, _ = run(monkeypatch, costs("agent"), "report", "--format", "table")
    assert "[red]\\u001b[31m" in result.stdout
    assert "\x1b" not in result.stdout
    assert "unpriced" in result.stdout


def test_csv_is_exact_and_starts_no_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    """The integer sums to the total, nobody is an empty cell, and what `--top` left out is a line of its own."""
    answer = costs("agent", "model", top=1)
    result, _ = run(monkeypatch, answer, "report", "--by", "agent,model", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [row["agent"] for row in rows] == ["'=cmd()", "(others: 2)"]
    assert sum(int(row["cost_pusd"]) for row in rows) == answer["totals"]["cost_pusd"]
    rows = list(csv.DictReader(io.StringIO(run(monkeypatch, costs("agent"), "report", "--format", "csv")[0].stdout)))
    assert [(row["agent"], row["cost_usd"]) for row in rows] == [("'=cmd()", "10.000000000001"), ("", "1"), ("[red]\\u001b[31m", "")]


def test_a_refusal_is_shown_as_the_server_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A question that cannot be answered is exit code 1 and a sentence; one that is none, exit code 2."""
    result, _ = run(monkeypatch, Failed("'Mars' is no time zone"), "report", "--tz", "Mars")
    assert (result.exit_code, "'Mars' is no time zone" in result.output) == (1, True)
    result, api = run(monkeypatch, costs("agent"), "report", "--by", "colour")
    assert (result.exit_code, api.asked) == (2, [])
    assert "account, tenant, user" in result.output


def test_forget_says_what_was_done_and_what_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many, and until when the journal and for how long backups still hold the name."""
    answer = {"account": None, "charges": 1_234, "series": 2, "journal_until": "2026-11-25T10:00:00Z", "notes": ["gone by `journal_until`"]}
    result, api = run(monkeypatch, answer, "forget", "--user", "ada", "--format", "table")
    assert result.exit_code == 0, result.output
    assert api.asked == [("POST", "/api/v1/forget", {"user": "ada"})]
    assert "1,234 charges" in result.output
    assert "gone by 2026-11-25T10:00:00Z" in result.output
    result, api = run(monkeypatch, answer, "forget", "--user", "ada", "--account", "acme")
    assert api.asked == [("POST", "/api/v1/forget", {"user": "ada", "account": "acme"})]
    assert json.loads(result.stdout) == answer
    assert run(monkeypatch, answer, "forget")[0].exit_code == 2, "somebody must be named"
