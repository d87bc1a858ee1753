"""The second act: credit runs out, an export is refused, an invoice is paid, the export goes through, and the books are checked.

The daemon enforces credit, and the account was given exactly what the first act costs. So the next new span is one too many.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from receiver.demo.daemon import PATIENCE_SECONDS, DemoFailed, OwnDaemon
from receiver.demo.player import Player, Refused
from receiver.demo.script import Capture, Script, distinct_spans, new_run

PRICE_PER_SPAN_MSAT: Final = 10
TOPUP_SAT: Final = 1_000


def credit_settings(script: Script) -> tuple[str, ...]:
    """The configuration in which the first act uses up all credit there is, to the last span."""
    return (
        "credit.enforce=true",
        f"credit.price_per_span_msat={PRICE_PER_SPAN_MSAT}",
        f"credit.start_balance_msat={script.spans * PRICE_PER_SPAN_MSAT}",
    )


@dataclass(frozen=True, slots=True)
class Scene:
    """One step of the act, as it is told."""

    who: str  #: "exporter", "customer", "daemon", "operator"
    says: str
    bolt11: str = ""  #: an invoice to be shown


class Counter:
    """The customer's and the operator's side of the daemon, over their HTTP APIs."""

    def __init__(self, daemon: OwnDaemon) -> None:
        self._daemon = daemon

    def balance_msat(self) -> int:
        return int(self._ask("customer", "/api/v1/credit")["posted_msat"])

    def top_up(self, amount_sat: int) -> dict[str, Any]:
        return self._ask("customer", "/api/v1/credit/topups", {"amount_sat": amount_sat})

    def settled(self, payment_hash: str) -> dict[str, Any]:
        """The top-up once it is paid, at most ten seconds later."""
        return self._ask("customer", f"/api/v1/credit/topups/{payment_hash}?wait=10")

    def pay(self, bolt11: str) -> None:
        self._ask("operator", "/api/v1/dev/pay", {"invoice": bolt11})

    def audit(self) -> dict[str, Any]:
        return self._ask("operator", "/api/v1/audit")

    def _ask(self, listener: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if listener == "operator":
            headers["Authorization"] = f"Bearer {self._daemon.operator_token()}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._daemon.url(listener) + path, data=data, headers=headers)  # noqa: S310 -- our own daemon
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:  # noqa: S310 -- our own daemon
                said: dict[str, Any] = json.load(answer)
                return said
        except urllib.error.HTTPError as error:
            raise DemoFailed(f"{path} was answered with {error.code}: {error.read().decode(errors='replace')}") from error
        except OSError as error:
            raise DemoFailed(f"the daemon does not answer: {error}") from error


def pay_and_go_on(script: Script, player: Player, counter: Counter, *, tell: Callable[[Scene], None]) -> list[str]:
    """Play it; returns what is wrong with the books at its end, a sentence each."""
    capture = next(each for each in script.captures if each.transport == "grpc")
    exports = new_run(capture)
    tell(
        Scene(
            "daemon",
            f"{script.spans} spans at {PRICE_PER_SPAN_MSAT} msat have used up the credit: {counter.balance_msat():,} msat are left",
        )
    )
    for transport in ("grpc", "http"):
        refused = player.send(transport, exports[0])
        if refused is None:
            return [f"an export over {transport} was taken although no credit is left"]
        tell(Scene("exporter", f"{refused.code}: {refused.message}"))
    topup = counter.top_up(TOPUP_SAT)
    tell(Scene("customer", f"asks for an invoice over {TOPUP_SAT:,} sat", bolt11=topup["bolt11"]))
    counter.pay(topup["bolt11"])
    tell(Scene("operator", "pays it with play money: spantoll dev pay " + topup["bolt11"][:24] + "..."))
    paid = counter.settled(topup["payment_hash"])
    tell(Scene("daemon", f"the invoice is {paid['state']}, the balance {counter.balance_msat():,} msat"))
    spans = _sent(capture, exports, player)
    tell(Scene("exporter", f"OK: the same export goes through, {spans} spans for {spans * PRICE_PER_SPAN_MSAT} msat"))
    expected = TOPUP_SAT * 1_000 - spans * PRICE_PER_SPAN_MSAT
    return books_differ(counter.audit(), balance_msat=counter.balance_msat(), expected_msat=expected, state=paid["state"])


def _sent(capture: Capture, exports: list[bytes], player: Player) -> int:
    for body in exports:
        refused: Refused | None = player.send(capture.transport, body)
        if refused is not None:
            raise DemoFailed(f"an export was refused although credit was paid: {refused.code}, {refused.message}")
    return distinct_spans(capture, exports)


def books_differ(audit: dict[str, Any], *, balance_msat: int, expected_msat: int, state: str) -> list[str]:
    """What is wrong: with the sum of all accounts, with what is shown against what was booked, with the balance."""
    found = []
    if audit["sum_msat"] != 0 or not audit["balanced"]:
        found.append(f"the books do not balance: {audit}")
    if balance_msat != expected_msat:
        found.append(f"the balance is {balance_msat:,} msat, paid minus used is {expected_msat:,} msat")
    if state != "settled":
        found.append(f"the invoice was paid and is shown as {state}")
    return found
