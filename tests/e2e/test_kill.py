"""`kill -9` on the real process, under load, again and again: the numbers are those of the spans that were acknowledged."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest

from tests.e2e.daemon import Daemon, daemon
from tests.exports import CALL_PUSD, agent, export, model_call

pytestmark = pytest.mark.e2e

LIVES = 4
CLIENTS = 3
SETTINGS = ("prices.accept_start_before=3650d",)


def test_kill_9_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    """Clients resend what was not acknowledged, and some of what was. In the end: each call once, each span once."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    bodies = {number: export(agent(number, 1), model_call(number, 2, parent=1)) for number in range(1, 400)}
    waiting = list(bodies)
    acknowledged: list[int] = []
    for number in range(LIVES):
        last = number == LIVES - 1
        with daemon(tmp_path, *SETTINGS) as running:
            if last:
                drain(running, bodies, [*waiting, *rng.sample(acknowledged, min(20, len(acknowledged)))], acknowledged)
                running.release()
                assert running.metric("spantoll_calls_total") == len(bodies)
                assert running.metric("spantoll_cost_usd_total") == pytest.approx(len(bodies) * CALL_PUSD / 1e12)
                assert running.metric("spantoll_receiver_accepted_spans_total") == 2 * len(bodies)
                assert running.stop() == 0
            else:
                killer = threading.Timer(rng.uniform(0.05, 0.6), running.process.kill)
                killer.start()
                drain(running, bodies, waiting, acknowledged)
                killer.join()
                running.process.wait()
        waiting = [each for each in bodies if each not in set(acknowledged)]
    with daemon(tmp_path, *SETTINGS) as running:
        assert running.metric("spantoll_calls_total") == len(bodies), "and a clean stop keeps it all"


def drain(running: Daemon, bodies: dict[int, bytes], waiting: list[int], acknowledged: list[int]) -> None:
    """Send from several clients until everything is acknowledged or the process is gone."""
    todo = list(waiting)

    def client() -> None:
        while True:
            try:
                number = todo.pop()
            except IndexError:
                return
            try:
                status, _ = running.post(bodies[number], "application/x-protobuf")
            except OSError:
                return
            if status == 200:
                acknowledged.append(number)

    clients = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for each in clients:
        each.start()
    for each in clients:
        each.join()
