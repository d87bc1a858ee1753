"""SIGKILL at random moments and at every named point: what was acknowledged is there, and nothing is there twice."""

from __future__ import annotations

import os
import random
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path

import apsw
import pytest

from receiver.store import faults
from tests.integration.store_helpers import trace_id
from tests.sampling import often

ROUNDS = int(os.environ.get("SPANTOLL_KILL_ROUNDS") or often(6, 20))
#: A child that says nothing for so long is stuck.
PATIENCE_SECONDS = 60.0


class Books:
    """All that children said so far."""

    def __init__(self) -> None:
        self.acknowledged: set[int] = set()
        self.closed: set[tuple[int, int]] = set()
        self.last = 0

    def hear(self, output: bytes) -> list[int] | None:
        """Take in what one child said; the ids that it found at its start."""
        found = None
        for line in output.split(b"\n")[:-1]:  # a line that was cut off was not said
            kind, *numbers = line.split()
            ids = [int(number) for number in numbers]
            if kind == b"R":
                found = ids
            elif kind == b"A":
                self.acknowledged.update(ids)
            else:
                self.closed.add((ids[0], ids[1]))
        return found


def run(folder: Path, books: Books, *, seed: int, kill_after: int | None = None, fault: str = "") -> list[int] | None:
    """One child until it is dead: killed by us after so many bytes of output, or by the fault. What it found at its start."""
    books.last += 1_000_000
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.store_child", str(folder), str(seed), str(books.last)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        env={**os.environ, faults.VARIABLE: fault},
    )
    assert child.stdout is not None
    output = b""
    with child, selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        deadline = time.monotonic() + PATIENCE_SECONDS
        begun: int | None = None
        while True:
            assert selector.select(max(0.0, deadline - time.monotonic())), "the child is stuck"
            read = os.read(child.stdout.fileno(), 1 << 16)
            if not read:
                break
            output += read
            if begun is None and b"\n" in output:
                begun = len(output)
            if kill_after is not None and begun is not None and len(output) - begun >= kill_after:
                child.send_signal(signal.SIGKILL)
                kill_after = None
    assert child.returncode == -signal.SIGKILL, output[-300:]
    return books.hear(output)


def reconcile(folder: Path, books: Books, found: list[int] | None) -> None:
    """Acknowledged is a part of what the next start found; nothing is twice in it, nor in the charges."""
    assert found is not None
    assert len(set(found)) == len(found), "an id is there twice"
    assert books.acknowledged <= set(found), "acknowledged, and lost"
    connection = apsw.Connection(str(folder / "spantoll.db"))
    charges = connection.execute("SELECT trace_id, span_id FROM charges").fetchall()
    assert len(set(charges)) == len(charges)
    assert {(trace_id(trace), span.to_bytes(8, "big")) for trace, span in books.closed} <= set(charges)
    assert connection.execute("SELECT count(*) FROM charges WHERE recount > 0").get == 0
    assert connection.execute("PRAGMA integrity_check").get == "ok"
    connection.close()


def test_killed_at_random_moments(tmp_path: Path) -> None:
    """One folder, six lives (twenty in CI; SPANTOLL_KILL_ROUNDS for more): each finds everything that all before it had acknowledged."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    books = Books()
    for number in range(ROUNDS):
        before = Books()
        before.acknowledged, before.closed = set(books.acknowledged), set(books.closed)
        found = run(tmp_path, books, seed=seed + number, kill_after=rng.randrange(20_000))
        reconcile(tmp_path, before, found)
    reconcile(tmp_path, books, run(tmp_path, Books(), seed=seed, kill_after=0))
    assert len(books.acknowledged) > 10 * ROUNDS


@pytest.mark.parametrize("point", faults.POINTS)
@pytest.mark.parametrize("at", [1, 17])
def test_killed_at_every_named_point(tmp_path: Path, point: str, at: int) -> None:
    """Before and after each step of a commit, the first time and under way."""
    books = Books()
    run(tmp_path, books, seed=7, fault=f"{point}:kill@{at}")
    assert bool(books.acknowledged) == (at > 1)
    reconcile(tmp_path, books, run(tmp_path, Books(), seed=8, kill_after=0))
