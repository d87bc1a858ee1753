"""`kill -9` on the real process, under load, again and again, at random instants and at each named point of a commit.

Clients resend what was not acknowledged, and some of what was. In the end the reconciler recomputes debits, charges and counters from what
was sent: 0 units lost, 0 doubled. SPANTOLL_KILL_ROUNDS says how many lives (5, in CI 20; 200 for a long look).
"""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from receiver.store import faults
from tests.e2e.daemon import PATIENCE_SECONDS, Daemon, daemon, eventually
from tests.exports import CALL_PUSD, agent, export, model_call
from tests.reconcile import Reckoning, Request
from tests.sampling import often

pytestmark = pytest.mark.e2e

ROUNDS = int(os.environ.get("SPANTOLL_KILL_ROUNDS") or often(5, 20))
CLIENTS = 3
PRICE_MSAT = 10
#: Commits that a start takes by itself; a point that is passed so often is passed under load.
UNDER_LOAD = 12
SETTINGS = ("prices.accept_start_before=3650d", f"credit.price_per_span_msat={PRICE_MSAT}")


class Exporters:
    """Clients that remember what they sent: each request is a trace of an agent and two calls."""

    def __init__(self, rng: random.Random) -> None:
        self.books = Reckoning(price_msat=PRICE_MSAT)
        self._rng = rng
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def load(self, running: Daemon, *, resend: list[int], new: int) -> None:
        """Send these again, then up to `new` new ones, from several clients at once, until all is answered or the process is gone."""
        todo = list(resend)
        left = new

        def following() -> int | None:
            nonlocal left
            with self._lock:
                if todo:
                    return todo.pop(0)
                if not left:
                    return None
                left -= 1
                number = next(self._numbers)
                ids = tuple((number.to_bytes(16, "big"), span.to_bytes(8, "big")) for span in (1, 2, 3))
                self.books.sent[number] = Request(ids, dict.fromkeys(ids[1:], CALL_PUSD))
                return number

        def client() -> None:
            while (number := following()) is not None:
                try:
                    status, _ = running.post(body(number), "application/x-protobuf")
                except OSError:
                    return
                if status == 200:
                    self.books.acknowledged.add(number)

        clients = [threading.Thread(target=client) for _ in range(CLIENTS)]
        for each in clients:
            each.start()
        for each in clients:
            each.join(PATIENCE_SECONDS)

    def resends(self) -> list[int]:
        """Everything that was not acknowledged, and some of what was."""
        known = sorted(self.books.acknowledged)
        return [*self.books.unacknowledged, *self._rng.sample(known, min(10, len(known)))]


def body(number: int) -> bytes:
    return export(agent(number, 1), model_call(number, 2, parent=1), model_call(number, 3, parent=1))


def shown(running: Daemon) -> dict[str, int]:
    return {
        "accepted_spans": round(running.metric("spantoll_receiver_accepted_spans_total")),
        "calls": round(running.metric("spantoll_calls_total")),
        "cost_pusd": round(running.metric("spantoll_cost_usd_total") * 1e12),
        "debited_msat": round(running.metric("spantoll_credit_debited_msat_total")),
    }


def check(folder: Path, books: Reckoning) -> None:
    """What a dead daemon left is whole."""
    assert books.differences(folder / "spantoll-data" / "spantoll.db") == []


def finish(folder: Path, exporters: Exporters) -> None:
    """The last life, in peace: all is acknowledged, all is closed, and everything is equal; so it is after a clean stop and a start."""
    database = folder / "spantoll-data" / "spantoll.db"
    with daemon(folder, *SETTINGS) as running:
        exporters.load(running, resend=exporters.resends(), new=0)
        running.release()
        eventually(lambda: running.metric("spantoll_window_traces") == 0, what="every trace is closed")
        assert exporters.books.differences(database, shown=shown(running), complete=True) == []
        assert running.stop() == 0
    with daemon(folder, *SETTINGS) as running:
        assert exporters.books.differences(database, shown=shown(running), complete=True) == []
        assert running.stop() == 0


def test_killed_at_random_instants(tmp_path: Path) -> None:
    """Several lives: under load, some while they were still reading back what the one before had left."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    exporters = Exporters(rng)
    for number in range(ROUNDS):
        if number % 5 == 4:
            killed_while_starting(tmp_path, rng.uniform(0.0, 2.0))
        else:
            with daemon(tmp_path, *SETTINGS) as running:
                killer = threading.Timer(rng.uniform(0.02, 0.6), running.process.kill)
                killer.start()
                exporters.load(running, resend=exporters.resends(), new=10_000)
                killer.join()
                running.process.wait(PATIENCE_SECONDS)
        check(tmp_path, exporters.books)
    assert len(exporters.books.acknowledged) > ROUNDS
    finish(tmp_path, exporters)


def test_killed_at_each_named_point(tmp_path: Path) -> None:
    """Before and after each step of a commit under load: one folder, a life for each."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    exporters = Exporters(rng)
    for point in faults.POINTS:
        at = UNDER_LOAD + rng.randrange(60)
        print(f"{point} the {at}th time")
        with daemon(tmp_path, *SETTINGS, env={faults.VARIABLE: f"{point}:kill@{at}"}) as running:
            exporters.load(running, resend=exporters.resends(), new=10_000)
            assert running.process.wait(PATIENCE_SECONDS) == -9, point
        check(tmp_path, exporters.books)
    finish(tmp_path, exporters)


@pytest.mark.parametrize("fault", ["before_commit:eio", "after_commit:eio"])
def test_a_disk_that_fails_ends_it_and_it_goes_on(tmp_path: Path, fault: str) -> None:
    """Nothing is acknowledged any more, the metrics stay for a while, the exit code is 1; the next start has all that was acknowledged."""
    exporters = Exporters(random.Random(1))
    with daemon(tmp_path, *SETTINGS, env={faults.VARIABLE: f"{fault}@{UNDER_LOAD + 20}"}) as running:
        exporters.load(running, resend=[], new=100)
        assert 0 < len(exporters.books.acknowledged) < 100
        status, answer = running.post(body(1_000), "application/x-protobuf")
        assert status == 503, answer
        assert running.metric("spantoll_receiver_accepted_spans_total") >= 3 * len(exporters.books.acknowledged)
        assert running.process.wait(PATIENCE_SECONDS) == 1
    check(tmp_path, exporters.books)
    finish(tmp_path, exporters)


def killed_while_starting(folder: Path, seconds: float) -> None:
    """A start that is killed after so long, wherever it is by then."""
    endpoints = [f"{name}.endpoint=127.0.0.1:0" for name in ("otlp.grpc", "otlp.http", "operator", "customer")]
    process = subprocess.Popen(
        [sys.executable, "-m", "receiver", "serve", *(word for each in (*endpoints, *SETTINGS) for word in ("--set", each))],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
    assert process.wait(PATIENCE_SECONDS) == -9


def test_the_reconciler_finds_what_is_wrong(tmp_path: Path) -> None:
    """It can fail: a span too few, a debit too many, a counter that is off by one are each named."""
    exporters = Exporters(random.Random(1))
    database = tmp_path / "spantoll-data" / "spantoll.db"
    with daemon(tmp_path, *SETTINGS) as running:
        exporters.load(running, resend=[], new=5)
        running.release()
        numbers = shown(running)
        books = exporters.books
        assert books.differences(database, shown=numbers, complete=True) == []
        assert "calls: 11 is shown, 10 is in the books" in books.differences(database, shown=numbers | {"calls": 11})
        lost = (99).to_bytes(16, "big"), (1).to_bytes(8, "big")
        books.sent[99] = Request((lost,), {lost: CALL_PUSD})
        books.acknowledged.add(99)
        assert len(books.differences(database)) == 1
        assert len(books.differences(database, complete=True)) == 2
        del books.sent[99], books.sent[3]
        found = books.differences(database)
        assert any("never sent" in each for each in found)
        books = Reckoning(price_msat=PRICE_MSAT + 1)
        books.sent, books.acknowledged = exporters.books.sent, exporters.books.acknowledged - {3, 99}
        assert any("debited 150 msat for spans worth 165" in each for each in books.differences(database))
        assert running.stop() == 0
