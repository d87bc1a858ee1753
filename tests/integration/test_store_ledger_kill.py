"""SIGKILL at random moments and at every named point while debits and payments are written: the books balance, to the unit."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import apsw
import pytest

from receiver.store import faults
from receiver.store.ledger import contradictions, derived_totals, stored_totals
from receiver.store.records import Decoder
from receiver.store.replay import ACCEPTED
from tests.integration.store_ledger_child import ACCOUNTS, PRICE_MSAT
from tests.sampling import often

ROUNDS = int(os.environ.get("SPANTOLL_KILL_ROUNDS") or often(8, 20)) // 2 or 1
PATIENCE_SECONDS = 60.0


class Said:
    """All that children said so far."""

    def __init__(self) -> None:
        self.spans: Counter[str] = Counter()
        self.moved: dict[str, tuple[str, int]] = {}  #: transfer -> account, amount
        self.lives = 0

    def hear(self, output: bytes) -> dict[str, int]:
        """Take in what one child said; the balances that it found at its start."""
        found: dict[str, int] = {}
        for line in output.split(b"\n")[:-1]:  # a line that was cut off was not said
            kind, *words = line.decode().split()
            if kind == "R":
                found = {account: int(msat) for account, msat in zip(words[::2], words[1::2], strict=True)}
            elif kind == "A":
                self.spans[words[0]] += int(words[1])
            else:
                account, name, amount = words
                self.moved[f"ln:{name}" if kind == "S" else name] = (account, int(amount))
        return found


def run(folder: Path, said: Said, *, seed: int, kill_after: int | None = None, fault: str = "") -> dict[str, int]:
    """One child until it is dead: killed by us once it has said so much, or by the fault. The balances that it found."""
    said.lives += 1
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.store_ledger_child", str(folder), str(seed), str(said.lives * 1_000_000)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        env={**os.environ, faults.VARIABLE: fault},
    )
    output = b""
    with child:
        assert child.stdout is not None
        while read := os.read(child.stdout.fileno(), 1 << 16):
            output += read
            if kill_after is not None and len(output) >= kill_after and b"\n" in output:
                child.kill()
                kill_after = None
        child.wait(PATIENCE_SECONDS)
    assert child.returncode == -9, output[-300:]
    return said.hear(output)


def reconcile(folder: Path, said: Said) -> dict[str, int]:
    """What was said is in the books, once; each debit is the price of the spans that are there. The balances that follow."""
    connection = apsw.Connection(str(folder / "spantoll.db"))
    assert connection.execute("PRAGMA integrity_check").get == "ok"
    decoder, spans = Decoder(), Counter[str]()
    for account, body in connection.execute("SELECT account, body FROM journal WHERE kind = ?", (ACCEPTED,)):
        spans[account] += len(decoder.row(body))
    rows = connection.execute("SELECT id, debit_account, credit_account, amount_msat, code FROM transfers").fetchall()
    debited: Counter[str] = Counter()
    moved = {}
    for transfer, debit, credit, amount_msat, code in rows:
        if code == "usage":
            debited[debit.removeprefix("customer:")] += amount_msat
        else:
            sign = 1 if credit.startswith("customer:") else -1
            account = (credit if sign > 0 else debit).removeprefix("customer:")
            moved[transfer] = (account, sign * amount_msat)
    assert said.moved.items() <= moved.items(), "it was said to hold"
    for account in ACCOUNTS:
        assert debited[account] == PRICE_MSAT * spans[account]
        assert spans[account] >= said.spans[account], "acknowledged, and lost"
    assert derived_totals(connection) == stored_totals(connection)
    assert sum(totals.net_msat for totals in stored_totals(connection).values()) == 0
    assert list(contradictions(connection)) == []
    connection.close()
    return {account: sum(msat for mine, msat in moved.values() if mine == account) - debited[account] for account in ACCOUNTS}


def test_killed_at_random_moments(tmp_path: Path) -> None:
    """One folder, four lives (ten in CI; SPANTOLL_KILL_ROUNDS / 2): each begins with the balances that the last one left on the disk."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    said = Said()
    expected = dict.fromkeys(ACCOUNTS, 0)
    for number in range(ROUNDS):
        assert run(tmp_path, said, seed=seed + number, kill_after=rng.randrange(100, 20_000)) == expected
        expected = reconcile(tmp_path, said)
    assert said.spans.total() > 10 * ROUNDS
    assert len(said.moved) > ROUNDS


@pytest.mark.parametrize("point", faults.POINTS)
@pytest.mark.parametrize("at", [1, 17])
def test_killed_at_every_named_point(tmp_path: Path, point: str, at: int) -> None:
    """Before and after each step of a commit, the first time and under way."""
    said = Said()
    run(tmp_path, said, seed=7, fault=f"{point}:kill@{at}")
    expected = reconcile(tmp_path, said)
    assert bool(said.spans) == (at > 1)
    assert run(tmp_path, said, seed=8, kill_after=0) == expected
    reconcile(tmp_path, said)
