"""Accounts as tables for eyes. Notes are the operator's own words, yet none of them is taken as markup or as a control code."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.table import Table
from rich.text import Text

from receiver.cli.tables import new_console, new_table
from receiver.config import format_size
from receiver.core.credit import format_sat
from receiver.logs import printable


def print_accounts(answer: dict[str, Any]) -> None:
    """Every account on a line."""
    table = new_table("")
    table.add_column("account", overflow="fold")
    table.add_column("state", no_wrap=True)
    for heading in ("balance, sat", "msat a span", "limit, sat"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("without credit", no_wrap=True)
    table.add_column("keys", justify="right", no_wrap=True)
    table.add_column("note", overflow="fold")
    for each in answer["accounts"]:
        credit = each["credit"]
        table.add_row(
            Text(printable(each["account"])),
            Text("enabled") if each["enabled"] else Text("disabled", style="bold red"),
            format_sat(each["balance_msat"]),
            f"{credit['price_per_span_msat']:,}",
            format_sat(credit["credit_limit_msat"]),
            credit["on_exhausted"] if credit["enforce"] else "metered",
            f"{len(each['keys'])}",
            Text(printable(each["note"])),
        )
    new_console().print(table)
    if not answer["key_required"]:
        new_console().print("No key exists, so everything belongs to the account default.")


def print_account(answer: dict[str, Any]) -> None:
    """One account: terms, limits, keys."""
    credit, limits, own = answer["credit"], answer["limits"], set(answer["own"])
    shown = {
        "enforce": "yes, refused without credit" if credit["enforce"] else "no, metered and shown",
        "price_per_span_msat": f"{credit['price_per_span_msat']:,} msat a span",
        "credit_limit_msat": f"{format_sat(credit['credit_limit_msat'])} sat below 0",
        "on_exhausted": credit["on_exhausted"],
        "max_debt_msat": f"{format_sat(credit['max_debt_msat'])} sat",
        "max_in_flight": "" if limits["max_in_flight"] is None else format_size(limits["max_in_flight"]),
        "max_open_spans": "" if limits["max_open_spans"] is None else f"{limits['max_open_spans']:,}",
        "max_series": "" if limits["max_series"] is None else f"{limits['max_series']:,}",
    }
    table = new_table("")
    table.add_column("", no_wrap=True)
    table.add_column(printable(answer["account"]), overflow="fold")
    table.add_column("", style="dim", no_wrap=True)
    table.add_row("state", Text("enabled") if answer["enabled"] else Text("disabled", style="bold red"), "")
    table.add_row("balance", f"{format_sat(answer['balance_msat'])} sat", "")
    for name, value in shown.items():
        table.add_row(name, value, "" if name in own else "as for everyone")
    table.add_row("created", answer["created"] or "", "")
    table.add_row("note", Text(printable(answer["note"])), "")
    new_console().print(table)
    new_console().print(_keys(answer["keys"]) if answer["keys"] else "It has no key.")


def _keys(keys: Iterable[dict[str, Any]]) -> Table:
    table = new_table("keys")
    for heading in ("begins with", "made", "opens it until"):
        table.add_column(heading, no_wrap=True)
    for key in keys:
        made = key["created"] or "in the configuration"
        table.add_row(printable(key["hint"]), made, key["expires"] or "")
    return table
