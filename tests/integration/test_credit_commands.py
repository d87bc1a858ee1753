"""`spantoll credit` and `spantoll dev` against real books over loopback, with another process holding them and without one."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import json
import os
import re
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from receiver import app
from receiver.access.operator_token import read_token
from receiver.access.operator_url import URL_FILE
from receiver.cli import main
from receiver.cli.operator_api import OperatorApi
from receiver.config import load
from tests.unit.test_cli_credit import decoded

#: A hang is a failure; a command needs a second.
PATIENCE_SECONDS = 30


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


def spantoll(folder: Path, *arguments: str) -> Result:
    """Run a command on the books in `folder`."""
    return CliRunner().invoke(main, [*arguments, "--set", f"store.directory={folder}"])


def answer(folder: Path, *arguments: str) -> Any:
    """What a command prints as JSON, which is the default where nobody looks."""
    result = spantoll(folder, *arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@contextlib.contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Somebody holds the books and serves the operator's listener meanwhile, as a daemon does."""
    config = load(None, assignments=(f"store.directory={folder}",))
    opened, faults = threading.Event(), list[BaseException]()
    stopping: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def serve() -> None:
        done = asyncio.Event()
        stopping.append((asyncio.get_running_loop(), done))
        async with app.office(config):
            opened.set()
            await done.wait()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as fault:  # noqa: BLE001 -- shown by the thread that waits
            faults.append(fault)
            opened.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert opened.wait(PATIENCE_SECONDS)
    try:
        yield
    finally:
        for loop, done in stopping:
            loop.call_soon_threadsafe(done.set)
        thread.join(PATIENCE_SECONDS)
    assert not faults


@pytest.mark.parametrize("held", [True, False], ids=["a daemon runs", "none runs"])
def test_the_loop_by_commands(folder: Path, *, held: bool) -> None:
    """Invoice, payment, balance, statement, adjustment and audit are the same acts whether or not a daemon holds the books."""
    with holding(folder) if held else contextlib.nullcontext():
        asked = answer(folder, "credit", "topup", "--sat", "500")
        assert (asked["account"], asked["state"]) == ("default", "open")
        assert answer(folder, "credit", "topup", "--sat", "500")["bolt11"] == asked["bolt11"]
        paid = answer(folder, "dev", "pay", asked["bolt11"], "--msat", "600000")
        assert (paid["topup"]["state"], paid["balance"]["posted_msat"]) == ("settled", 600_000)
        again = spantoll(folder, "dev", "pay", asked["bolt11"])
        assert again.exit_code == 1
        assert "already paid" in again.output
        balance = answer(folder, "credit", "balance")
        assert (balance["posted_msat"], balance["spans_left"]) == (600_000, 60_000)
        adjusted = spantoll(folder, "credit", "adjust", "default", "--sat=-100", "--note", "taken")
        [client_id] = re.findall(r"--id (cli-[0-9a-f-]{36})", adjusted.stderr)
        repeated = answer(folder, "credit", "adjust", "default", "--msat=-100000", "--id", client_id)
        assert (json.loads(adjusted.stdout)["outcome"], repeated["outcome"]) == ("created", "exists")
        rows = list(csv.DictReader(io.StringIO(spantoll(folder, "credit", "statement", "--format", "csv").stdout)))
        assert [(row["code"], row["amount_msat"], row["balance_msat"], row["cause"]) for row in rows[1:]] == [
            ("adjust", "-100000", "500000", "taken")
        ]
        assert (rows[0]["payment_hash"], rows[0]["preimage"]) == (asked["payment_hash"], paid["preimage"])
        assert answer(folder, "credit", "audit")["balanced"]


def test_a_table_is_for_eyes(folder: Path) -> None:
    """Asked for as tables, balance, statement, top-up, payment and audit are sentences and columns; play money is said to be that."""
    topup = spantoll(folder, "credit", "topup", "--sat", "500", "--format", "table")
    [invoice] = set(re.findall(r"lnbcrt[0-9a-z]+", topup.stdout))
    assert "500 sat for account default" in topup.stdout
    assert "play money" in topup.stdout
    assert f"spantoll dev pay --set store.directory={folder} {invoice}" in topup.stdout
    assert "█" not in topup.stdout  # no picture where nobody looks, unless asked
    assert "█" in spantoll(folder, "credit", "topup", "--sat", "500", "--format", "table", "--qr").stdout
    paid = spantoll(folder, "dev", "pay", invoice, "--format", "table")
    assert "paid 500 sat of play money" in paid.stdout
    assert "balance is now 500 sat" in paid.stdout
    assert "50,000 spans at 10 msat each" in spantoll(folder, "credit", "balance", "--format", "table").stdout
    assert "+500" in spantoll(folder, "credit", "statement", "--format", "table").stdout
    assert "the books add up" in spantoll(folder, "credit", "audit", "--format", "table").stdout


@pytest.mark.parametrize(
    ("arguments", "exit_code", "says"),
    [
        (["credit", "balance", "--account", "nobody"], 1, "there is no account 'nobody'"),
        (["credit", "topup", "--sat", "1"], 1, "100 to 1,000,000 whole satoshis"),
        (["credit", "topup", "--sat", "0"], 2, "--sat"),
        (["credit", "topup", "--sat", "500", "--set", "lightning.backend=off"], 1, 'lightning.backend is "off"'),
        (["credit", "adjust", "default"], 2, "either --sat or --msat"),
        (["credit", "adjust", "default", "--sat", "1", "--msat", "1"], 2, "either --sat or --msat"),
        (["credit", "adjust", "default", "--sat", "0"], 1, "0 is neither"),
        (["credit", "statement", "--since", "yesterday"], 1, "no moment"),
        (["credit", "statement", "--tz", "Mars"], 1, "no time zone"),
        (["dev", "pay", "lnbcrt1nonsense"], 1, "no Lightning invoice"),
        (["dev", "pay", "lnbc1x", "--set", "lightning.backend=off"], 1, 'lightning.backend is "off"'),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(folder: Path, arguments: list[str], exit_code: int, says: str) -> None:
    """A refusal is the server's own sentence and exit code 1, a wrong command line 2; never a traceback."""
    result = spantoll(folder, *arguments)
    assert result.exit_code == exit_code, result.output
    assert says in result.output
    assert "Traceback" not in result.output


def test_waiting_ends_with_the_payment_and_prints_it(folder: Path) -> None:
    """`--wait` as JSON prints the invoice at once and the receipt when it is paid; nobody need run a daemon for it."""
    with paying(folder):
        result = spantoll(folder, "credit", "topup", "--sat", "700", "--wait", "--set", "lightning.invoice_expiry=1m")
    assert result.exit_code == 0, result.output
    first, second = objects(result.stdout)
    assert (first["state"], second["state"], second["received_msat"]) == ("open", "settled", 700_000)
    assert first["payment_hash"] == second["payment_hash"]


def test_on_a_terminal_a_phone_can_pay(folder: Path) -> None:
    """In a real terminal: the QR code on it is the invoice, the time left is counted down, and the payment ends it with the balance."""
    leader, follower = os.openpty()
    with paying(folder, when=lambda: b"left" in b"".join(seen)):
        seen: list[bytes] = []
        process = subprocess.Popen(
            [sys.executable, "-m", "receiver", "credit", "topup", "--sat", "700", "--set", f"store.directory={folder}"],
            stdout=follower,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor", "COLUMNS": "100", "LINES": "50"},
            cwd=Path(__file__).parents[2],
        )
        os.close(follower)
        try:
            ends = time.monotonic() + PATIENCE_SECONDS
            with contextlib.suppress(OSError):  # the terminal goes with its process
                while time.monotonic() < ends and select.select([leader], [], [], PATIENCE_SECONDS)[0]:
                    chunk = os.read(leader, 65_536)
                    if not chunk:
                        break
                    seen.append(chunk)
        finally:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, ends - time.monotonic()))
            os.close(leader)
            process.kill()
            code = process.wait()
    text = b"".join(seen).decode()
    assert code == 0, text
    [invoice] = set(re.findall(r"lnbcrt[0-9a-z]+", text))
    picture = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in text.split("\r\n") if "48;2;255;255;255" in line]
    halves = {" ": (False, False), "▀": (True, False), "▄": (False, True), "█": (True, True)}
    rows = [[halves[cell][half] for cell in line] for line in picture for half in (0, 1)]
    assert decoded(rows) == f"LIGHTNING:{invoice}".upper()
    assert re.search(r"waiting for the payment, 59:[0-5]\d left", text)
    assert "700 sat. Proof of payment" in text
    assert "70,000 spans" in text


def objects(text: str) -> list[Any]:
    """JSON objects that follow one another."""
    decoder, found = json.JSONDecoder(), []
    while text := text.lstrip():
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:]
    return found


@contextlib.contextmanager
def paying(folder: Path, *, when: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Somebody else pays the first invoice of account `default` as soon as there is one and `when` says so."""
    gone = threading.Event()

    def pay() -> None:
        while not gone.wait(0.02):
            with contextlib.suppress(Exception):  # nobody serves yet, or no more
                url = (folder / URL_FILE).read_text().split()[0]
                api = OperatorApi(url, read_token(folder))
                topups = api.call("GET", "/api/v1/accounts/default/topups")["topups"]
                if topups and when():
                    api.call("POST", "/api/v1/dev/pay", {"invoice": topups[0]["bolt11"]})
                    return

    thread = threading.Thread(target=pay)
    thread.start()
    try:
        yield
    finally:
        gone.set()
        thread.join(PATIENCE_SECONDS)
