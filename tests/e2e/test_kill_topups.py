"""`kill -9` while invoices are made and paid: in the end credited is exactly what the wallet received, whatever anyone was told."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import threading
from pathlib import Path

import apsw
import pytest

from receiver.cli.operator_api import Failed, OperatorApi
from tests.e2e.daemon import Daemon, daemon, eventually

pytestmark = pytest.mark.e2e

LIVES = int(os.environ.get("SPANTOLL_KILLS", "4")) + 1
CLIENTS = 3
SETTINGS = ("lightning.max_unpaid=99",)


def test_kill_9_credits_what_was_paid_exactly_once(tmp_path: Path) -> None:
    """Several clients ask for invoices and pay them while the daemon dies again and again; one sum decides: wallet, top-ups and ledger."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    told: set[str] = set()  # payment hashes whose payment was acknowledged to its payer
    for number in range(LIVES):
        with daemon(tmp_path, *SETTINGS) as running:
            if number == LIVES - 1:
                received = eventually(lambda: settled(tmp_path, running), what="everything that was paid is credited")
                assert told <= received.keys()
                assert len(received) >= LIVES, "too little was paid for the kills to meet anything"
                api = OperatorApi(running.operator, running.token)
                assert api.call("GET", "/api/v1/audit")["balanced"]
                assert api.call("GET", "/api/v1/accounts/default/credit")["posted_msat"] == sum(received.values())
                lines = api.call("GET", "/api/v1/accounts/default/statement")["lines"]
                assert {line["receipt"]["payment_hash"]: line["amount_msat"] for line in lines} == received
                assert running.metric("spantoll_credit_topped_up_msat_total", account="default") == sum(received.values())
                assert running.metric("spantoll_invoices", state="settled") == len(received)
                assert running.stop() == 0
            else:
                first_paid, killed = threading.Event(), threading.Event()
                clients = [
                    threading.Thread(target=pay, args=(running, number * CLIENTS + client, told, first_paid, killed))
                    for client in range(CLIENTS)
                ]
                for each in clients:
                    each.start()
                assert first_paid.wait(60)
                killed.wait(rng.uniform(0.0, 0.4))  # an instant that nobody chose
                running.process.kill()
                running.process.wait()
                killed.set()
                for each in clients:
                    each.join()


def pay(running: Daemon, start: int, told: set[str], paid: threading.Event, killed: threading.Event) -> None:
    """Ask and pay until the daemon is gone; amounts that no other client asks for, so that each is an invoice of its own."""
    api = OperatorApi(running.operator, running.token)
    amount_sat = 1_000 + start
    while not killed.is_set():
        amount_sat += CLIENTS * LIVES
        try:
            asked = api.call("POST", "/api/v1/accounts/default/topups", {"amount_sat": amount_sat})
            api.call("POST", "/api/v1/dev/pay", {"invoice": asked["bolt11"]})
        except Failed as failed:
            if failed.status:
                raise
            return
        told.add(asked["payment_hash"])
        paid.set()


def settled(folder: Path, running: Daemon) -> dict[str, int]:
    """What the wallet received, by payment hash, once top-ups and ledger say the same; {} before."""
    connection = apsw.Connection(str(folder / "spantoll-data" / "spantoll.db"), flags=apsw.SQLITE_OPEN_READONLY)
    with contextlib.closing(connection), connection:
        kept = [json.loads(text) for name, text in connection.execute("SELECT name, text FROM shelf WHERE name <> 'key'")]
        topups = dict(connection.execute("SELECT lower(hex(payment_hash)), received_msat FROM topups WHERE state = 'settled'"))
        ledger = dict(connection.execute("SELECT substr(id, 4), amount_msat FROM transfers WHERE id LIKE 'ln:%'"))
    wallet = {hashlib.sha256(bytes.fromhex(each["preimage"])).hexdigest(): each["received_msat"] for each in kept if each["settle_index"]}
    assert running.process.poll() is None
    assert ledger.items() <= wallet.items(), "more was credited than the wallet received"
    return wallet if wallet == topups == ledger else {}
