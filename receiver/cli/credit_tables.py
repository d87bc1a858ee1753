"""Balances, statements and the wait for a payment, for eyes. Names and notes come from people, so none is taken as markup."""

from __future__ import annotations

import time
from typing import Any, Final

from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from receiver.core.credit import format_sat
from receiver.logs import printable

_AT_ZERO: Final = {
    "drop": "refused: exporters drop the spans and log why",
    "hold": "refused for now: exporters with a queue keep the spans and send them again",
    "accept": "taken as debt up to {debt} sat, then refused",
}


class Countdown:
    """What is drawn while an invoice waits for its payer."""

    def __init__(self, topup: dict[str, Any]) -> None:
        self._spinner = Spinner("dots")
        self._ends = 0.0
        self.set(topup)

    def set(self, topup: dict[str, Any]) -> None:
        """What the daemon said last."""
        self._ends = time.monotonic() + topup["expires_in_seconds"]

    def left(self) -> int:
        """Whole seconds until it cannot be paid any more."""
        return max(0, round(self._ends - time.monotonic()))

    def __rich__(self) -> Any:
        hours, seconds = divmod(self.left(), 3_600)
        clock = f"{hours}:{seconds // 60:02}:{seconds % 60:02}" if hours else f"{seconds // 60}:{seconds % 60:02}"
        self._spinner.update(text=f"waiting for the payment, {clock} left (Ctrl-C only ends the waiting)")
        return self._spinner


def balance_table(found: dict[str, Any]) -> Table:
    """What an account has, how long it lasts, and what happens at zero; `found` is the API's answer."""
    table = _grid(f"account {printable(found['account'])}")
    table.add_row("balance", f"{format_sat(found['posted_msat'])} sat")
    if found["held_msat"]:
        table.add_row("held", f"{format_sat(found['held_msat'])} sat for requests that are being stored")
    spans, price_msat = found["spans_left"], found["price_per_span_msat"]
    table.add_row("pays for", "any number of spans, they are free" if spans is None else f"{spans:,} spans at {price_msat:,} msat each")
    runway_seconds = found["runway_seconds"]
    if runway_seconds is None:
        table.add_row("lasts", "nothing is being spent")
    elif runway_seconds:
        table.add_row("lasts", f"{_lasting(runway_seconds)} at the pace of late")
    if not found["enabled"]:
        table.add_row("disabled", "every request is refused", style="yellow")
    elif not found["enforce"]:
        table.add_row("at zero", "metered and shown, never refused")
    else:
        table.add_row("at zero", _AT_ZERO[found["on_exhausted"]].format(debt=format_sat(found["max_debt_msat"])))
    if found["credit_limit_msat"] and found["enforce"]:
        table.add_row("zero is", f"{format_sat(-found['credit_limit_msat'])} sat, by the operator's leave")
    if found["topup_url"]:
        table.add_row("top up at", Text(printable(found["topup_url"])))
    return table


def statement_table(found: dict[str, Any]) -> Table:
    """A line for each movement, with the balance after it; `found` is the API's answer."""
    table = _grid(f"account {printable(found['account'])}, {to_second(found['since'])} to {to_second(found['until'])} UTC", header=True)
    table.add_column("when", no_wrap=True)
    table.add_column("what", no_wrap=True)
    for heading in ("sat", "balance"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("for", overflow="fold")
    table.add_row("", "before", "", format_sat(found["opening_msat"]), "", style="dim")
    for line in found["lines"]:
        amount = f"{'+' * (line['amount_msat'] > 0)}{format_sat(line['amount_msat'])}"
        table.add_row(to_second(line["at"]), line["code"], amount, format_sat(line["balance_msat"]), Text(printable(_what(line))))
    table.add_row("", "after", "", format_sat(found["closing_msat"]), "", style="bold")
    return table


def to_second(moment: str) -> str:
    """A moment of the API for eyes, in UTC: to the second."""
    return moment[:19].replace("T", " ")


def _what(line: dict[str, Any]) -> str:
    receipt = line["receipt"]
    if receipt is not None:
        return f"payment {receipt['payment_hash']}, preimage {receipt['preimage']}{', paid late' * receipt['late']}"
    if line["code"] == "usage":
        return f"spans, {line['transfers']:,} debit{'s' * (line['transfers'] != 1)}"
    return str(line["cause"])


def _grid(title: str, *, header: bool = False) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, show_header=header, header_style="dim")


def _lasting(seconds: float) -> str:
    """Two units are as exact as a forecast deserves."""
    whole = round(seconds)
    for name, size, small, part in (("d", 86_400, "h", 3_600), ("h", 3_600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size:,} {name} {whole % size // part} {small}"
    return f"{whole} s"
