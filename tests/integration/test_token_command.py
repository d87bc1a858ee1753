"""`spantoll credit token` against a real daemon: bought by hand and by a program, topped up, and every refusal in a sentence."""

from __future__ import annotations

import asyncio
import importlib
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from click.testing import CliRunner, Result

from receiver.cli import main
from tests.integration.test_daemon_credit import serving, spans
from tests.integration.test_l402 import ON, by_http, pay

#: The module; the package has the command under this name.
token: Any = importlib.import_module("receiver.cli.token")


async def run(*arguments: str, text: str | None = None) -> Result:
    """The command in a thread of its own, as it waits for the daemon in this one."""
    return await asyncio.to_thread(CliRunner().invoke, main, ["credit", "token", *arguments], text)


async def test_a_program_buys_one_pays_and_sends(tmp_path: Path) -> None:
    """JSON out, the payment elsewhere, the header back; the same token is topped up."""
    async with serving(tmp_path, *ON) as (daemon, ports):
        at = ("--url", f"http://127.0.0.1:{ports['customer']}")
        result = await run("--sat", "100", *at)
        assert result.exit_code == 0, result.output
        sold = json.loads(result.stdout)
        mine = ("--token", sold["token"], "--preimage", await pay(ports, sold["topup"]["bolt11"]))
        result = await run(*mine, *at)
        assert result.exit_code == 0, result.output
        shown = json.loads(result.stdout)
        assert shown["account"] == sold["account"]
        assert shown["balance"]["posted_msat"] == 100_000
        name, _, value = shown["otlp_headers"].partition("=")
        assert (name, unquote(value)) == ("authorization", shown["authorization"])
        assert not set(value) & set(", =+/ "), "what stands in an environment variable of OTLP is percent-encoded"
        assert await by_http(ports, spans(1, 1), shown["authorization"]) == 200
        made = json.loads((await run(*mine, *at, "--sat", "250")).stdout)
        assert (made["account"], made["amount_msat"]) == (sold["account"], 250_000)
        await pay(ports, made["bolt11"])
        assert daemon.offices.ledger.balance(sold["account"]).posted_msat == 350_000 - 10


async def test_a_person_pastes_the_proof_of_payment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no preimage of the invoice is asked for again; then the key and the exporter's header are shown."""
    monkeypatch.setattr(token, "_somebody_answers", lambda: True)
    async with serving(tmp_path, *ON) as (daemon, ports):
        paid: list[str] = []
        prompt: Any = token.click.prompt
        loop = asyncio.get_running_loop()

        def after_payment(*args: Any, **kwargs: Any) -> Any:
            (row,) = asyncio.run_coroutine_threadsafe(_open(daemon), loop).result(20)
            paid.append(asyncio.run_coroutine_threadsafe(pay(ports, row.bolt11), loop).result(20))
            answers = iter(("nonsense", "00" * 32, f" {paid[0].upper()} "))
            monkeypatch.setattr("click.termui.visible_prompt_func", lambda _text: next(answers))
            return prompt(*args, **kwargs)

        monkeypatch.setattr(token.click, "prompt", after_payment)
        result = await run("--sat", "100", "--url", f"http://127.0.0.1:{ports['customer']}", "--format", "table")
        assert result.exit_code == 0, result.output
        assert result.output.count("not the preimage of that invoice") == 2
        credential = re.search(r"Authorization: (L402 \S+)", result.output)
        assert credential is not None
        assert await by_http(ports, spans(1, 1), credential[1]) == 200
        assert "export OTEL_EXPORTER_OTLP_TRACES_HEADERS=" in result.output
        assert "has 100 sat" in result.output


async def _open(daemon: Any) -> Any:
    return await daemon.offices.books.topups.unsettled(watched_since_unix_nano=0)


async def test_a_pipe_is_told_how_to_go_on(tmp_path: Path) -> None:
    """Nobody can be asked there."""
    async with serving(tmp_path, *ON) as (_, ports):
        result = await run("--sat", "100", "--url", f"http://127.0.0.1:{ports['customer']}", "--format", "table")
        assert result.exit_code == 0
        assert "token: AgE" in result.output
        assert "--preimage PROOF_OF_PAYMENT" in result.output


async def test_refusals_are_sentences(tmp_path: Path) -> None:
    """No account to sell, an amount that is not taken, a credential that is none, nobody there, something else there."""
    async with serving(tmp_path / "off") as (_, ports):
        result = await run("--sat", "100", "--url", f"http://127.0.0.1:{ports['customer']}")
        assert (result.exit_code, "sells no accounts" in result.output) == (1, True)
    async with serving(tmp_path / "closed", "access.required=true") as (_, ports):
        result = await run("--sat", "100", "--url", f"http://127.0.0.1:{ports['customer']}")
        assert (result.exit_code, "sells no accounts" in result.output) == (1, True)
    async with serving(tmp_path / "on", *ON) as (_, ports):
        at = ("--url", f"http://127.0.0.1:{ports['customer']}")
        result = await run("--sat", "1", *at)
        assert (result.exit_code, "whole satoshis" in result.output) == (1, True)
        result = await run("--token", "AgEI", "--preimage", "00" * 32, *at)
        assert (result.exit_code, "as it was given" in result.output) == (1, True)
        for port, says in ((1, "does not answer"), (ports["otlp.http"], "nothing is served")):
            result = await run("--sat", "100", "--url", f"http://127.0.0.1:{port}")
            assert (result.exit_code, says in result.output) == (1, True), result.output


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--token", "x"),
        ("--token", "x", "--sat", "5"),
        ("--token", "x", "--preimage", "short"),
        ("--sat", "0"),
        ("--sat", "5", "--url", "localhost:8101"),
    ],
)
async def test_a_wrong_command_line_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    """Nothing is asked of anyone."""
    assert (await run(*arguments)).exit_code == 2
