"""What `spantoll credit` draws: the QR code as a phone reads it, the countdown, balances and statements for eyes."""

from __future__ import annotations

import io
from typing import Any

import click
import pytest
import segno
from rich.console import Console
from rich.text import Text

from receiver.cli import credit_tables, main
from receiver.cli.credit import _same_options
from receiver.cli.qr import modules, terminal_qr

#: As long as a real one, in upper case as it is drawn.
INVOICE = (
    "LIGHTNING:LNBCRT10U1P4SVNLPPP5884HZK0G5VMNZLW8EDGVUPCH0X77K4F3HWZPZLTGM7S2D5XJL6FSDPV2DCXZMN5DAKXCGRRWFJKG6T5YPNX7U3QV3JKVCT4D36QSP5"
    * 2
)
BALANCE: dict[str, Any] = {
    "account": "acme", "posted_msat": 1_234_567, "posted_sat": "1234.567", "held_msat": 0, "available_msat": 1_234_567,
    "available_sat": "1234.567", "price_per_span_msat": 10, "spans_left": 123_456, "runway_seconds": None, "enabled": True,
    "enforce": True, "on_exhausted": "drop", "credit_limit_msat": 0, "max_debt_msat": 0, "low_balance_marks_msat": [],
    "topup_url": "http://localhost:8101/", "lightning": {"backend": "dev", "up": True, "play_money": True},
}  # fmt: skip


def drawn(text: Text) -> list[list[bool]]:
    """What a phone sees of the characters: True where a module is dark. White is what is not painted with the foreground."""
    halves = {" ": (False, False), "▀": (True, False), "▄": (False, True), "█": (True, True)}
    rows: list[list[bool]] = []
    for line in text.plain.split("\n"):
        cells = [halves[character] for character in line]
        rows += [[upper for upper, _ in cells], [lower for _, lower in cells]]
    return rows


def decoded(rows: list[list[bool]]) -> str:
    """What a decoder of another make reads."""
    zxingcpp: Any = pytest.importorskip("zxingcpp")
    scale = 4
    image = bytes(0 if dark else 255 for row in rows for _ in range(scale) for dark in row for _ in range(scale))
    shape = [len(rows) * scale, len(rows[0]) * scale]
    found = zxingcpp.read_barcodes(memoryview(image).cast("B", shape=shape))
    assert found, "the decoder read nothing"
    return str(found[0].text)


def test_the_code_is_that_of_the_library() -> None:
    """Character by character, what is drawn is the library's matrix, with a light border and nothing else."""
    code = segno.make(INVOICE, error="l", boost_error=False, micro=False)
    wanted = [[bool(dark) for dark in row] for row in code.matrix_iter(border=2)]
    rows = drawn(terminal_qr(INVOICE))
    assert rows[: len(wanted)] == wanted == modules(INVOICE)
    assert not any(map(any, rows[len(wanted) :]))


@pytest.mark.parametrize("colour", [True, False])
def test_a_phone_reads_the_code(*, colour: bool) -> None:
    """A decoder reads the invoice back; without colours the light modules are painted, as a dark terminal needs it."""
    rows = drawn(terminal_qr(INVOICE, colour=colour))
    seen = rows if colour else [[not painted for painted in row] for row in rows]
    assert decoded(seen) == INVOICE


def test_the_code_is_black_on_white_on_every_terminal() -> None:
    """Each line states both colours, so that a dark theme does not invert it."""
    text = terminal_qr(INVOICE)
    printed = io.StringIO()
    Console(file=printed, force_terminal=True, color_system="truecolor", width=200).print(text)
    lines = printed.getvalue().splitlines()
    assert len(lines) == len(text.plain.split("\n"))
    assert all("38;2;0;0;0;48;2;255;255;255m" in line for line in lines)


def test_an_invoice_fits_a_terminal_of_80_columns() -> None:
    """An invoice of the length that the dev wallet makes needs no more columns than every terminal has."""
    assert len(INVOICE) < 320
    assert len(terminal_qr(INVOICE).plain.split("\n")[0]) <= 60


@pytest.mark.parametrize(
    ("left", "says"), [(3_661, "1:01:01"), (3_599, "59:59"), (61, "1:01"), (5, "0:05"), (0, "0:00")]
)  # fmt: skip
def test_the_countdown_says_what_is_left(left: int, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Minutes and seconds, hours only where there are some, and never below zero."""
    monkeypatch.setattr(credit_tables.time, "monotonic", lambda: 1_000.0)
    countdown = credit_tables.Countdown({"expires_in_seconds": left})
    assert f"payment, {says} left" in shown(countdown)
    monkeypatch.setattr(credit_tables.time, "monotonic", lambda: 1_000.0 + left + 10)
    assert "0:00 left" in shown(countdown)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, ["1,234.567 sat", "123,456 spans at 10 msat", "nothing is being spent", "refused: exporters drop"]),
        ({"spans_left": None}, ["any number of spans, they are free"]),
        ({"runway_seconds": 93_784.0}, ["1 d 2 h at the pace of late"]),
        ({"runway_seconds": 7_260.0}, ["2 h 1 min"]),
        ({"runway_seconds": 59.6}, ["1 min 0 s"]),
        ({"runway_seconds": 12.2}, ["12 s"]),
        ({"enforce": False}, ["metered and shown, never refused"]),
        ({"on_exhausted": "hold"}, ["keep the spans and send them again"]),
        ({"on_exhausted": "accept", "max_debt_msat": 5_000_000}, ["as debt up to 5,000 sat"]),
        ({"enabled": False}, ["every request is refused"]),
        ({"credit_limit_msat": 2_000}, ["-2 sat, by the operator's leave"]),
        ({"posted_msat": -1_500, "held_msat": 500}, ["-1.5 sat", "0.5 sat for requests"]),
    ],
)
def test_a_balance_for_eyes(changes: dict[str, Any], says: list[str]) -> None:
    """What is left is told in money, spans and time, and what happens at zero in a sentence."""
    text = shown(credit_tables.balance_table({**BALANCE, **changes}))
    for words in says:
        assert words in text


def test_a_statement_takes_nothing_for_markup() -> None:
    """Notes are typed by people: brackets and control characters in them are shown, not obeyed."""
    line = {
        "at": "2026-03-01T09:30:00.5Z", "code": "adjust", "amount_msat": -5, "balance_msat": 95, "transfers": 1, "id": "adjust:x",
        "cause": "[red]sorry[/red]\x1b[2J", "receipt": None,
    }  # fmt: skip
    found = {
        "account": "acme", "since": "2026-03-01T00:00:00Z", "until": "2026-04-01T00:00:00Z", "opening_msat": 100, "closing_msat": 95,
        "lines": [line],
    }  # fmt: skip
    text = shown(credit_tables.statement_table(found))
    assert "[red]sorry[/red]" in text
    assert "\x1b[2J" not in text
    assert "2026-03-01 09:30:00" in text
    assert "-0.005" in text


@pytest.mark.parametrize(
    ("config_file", "assignments", "options"),
    [
        (None, (), ""),
        ("my conf.toml", ("store.directory=/tmp/x y",), " --config 'my conf.toml' --set 'store.directory=/tmp/x y'"),
    ],
)
def test_the_other_command_meets_the_same_books(config_file: str | None, assignments: tuple[str, ...], options: str) -> None:
    """What is suggested for paying carries the options of this command, quoted for a shell."""
    assert _same_options(config_file, assignments) == options


@pytest.mark.parametrize("group", ["credit", "dev"])
def test_every_verb_shows_how_it_is_used(group: str) -> None:
    """Each verb of a group has an example that begins as it is typed, its exit codes, and a sentence for each option."""
    verbs = main.commands[group]
    assert isinstance(verbs, click.Group)
    for name, verb in verbs.commands.items():
        assert f"spantoll {group} {name}" in str(verb.help), name
        assert "Exit codes" in str(verb.help), name
        assert all(parameter.help for parameter in verb.params if isinstance(parameter, click.Option)), name


def shown(renderable: Any) -> str:
    printed = io.StringIO()
    Console(file=printed, width=160, highlight=False).print(renderable)
    return printed.getvalue()
