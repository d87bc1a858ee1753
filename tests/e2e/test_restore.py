"""From a damaged database back to work, as an operator does it: backup, refusal, the commands that the refusal says, and on."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.daemon import PATIENCE_SECONDS, daemon, eventually
from tests.e2e.test_kill import SETTINGS, Exporters, shown
from tests.exports import CALL_PUSD

pytestmark = pytest.mark.e2e


def spantoll(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A verb in that folder, which ends by itself."""
    return subprocess.run(
        [sys.executable, "-m", "receiver", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )


def damage(database: Path, how: str) -> None:
    data = bytearray(database.read_bytes())
    if how == "truncated":
        del data[len(data) // 2 :]
    else:
        data[100:400] = os.urandom(300)  # the first page: the schema itself
    database.write_bytes(data)


@pytest.mark.parametrize("how", ["flipped", "truncated"])
def test_a_damaged_database_is_restored_by_the_commands_that_the_refusal_says(tmp_path: Path, how: str) -> None:
    """The backup is made while spans come in; after the restore the books are those of its moment, and the counters begin at 0."""
    exporters = Exporters(random.Random(1))
    database = tmp_path / "spantoll-data" / "spantoll.db"
    with daemon(tmp_path, *SETTINGS) as running:
        exporters.load(running, resend=[], new=60)
        running.release()
        eventually(lambda: running.metric("spantoll_window_traces") == 0, what="every trace is closed")
        before = shown(running)
        made = spantoll(tmp_path, "backup", "BACKUP.db")
        assert made.returncode == 0, made.stderr
        assert spantoll(tmp_path, "verify").returncode == 0, "while the daemon runs"
        exporters.load(running, resend=[], new=20)
        assert running.stop() == 0
    assert spantoll(tmp_path, "verify", "BACKUP.db").returncode == 0
    damage(database, how)
    damaged = database.read_bytes()
    for _ in range(2):
        refused = spantoll(tmp_path, "serve", *(word for each in SETTINGS for word in ("--set", each)))
        assert refused.returncode == 1
        assert "Traceback" not in refused.stderr
        assert database.read_bytes() == damaged, "it is left as it is"
    assert spantoll(tmp_path, "verify").returncode == 1
    commands = re.search(r"mkdir -p .*? && mv .*? && cp BACKUP\.db [\w./-]+", refused.stderr)
    assert commands is not None, refused.stderr
    subprocess.run(commands[0], shell=True, cwd=tmp_path, check=True)  # noqa: S602 -- as the operator would type it
    with daemon(tmp_path, *SETTINGS) as running:
        assert any("restored backup" in line.get("message", "") for line in running.lines)
        assert running.metric("spantoll_calls_total") == 0
        assert running.metric("spantoll_credit_debited_msat_total") == 0 < before["debited_msat"], "what they restart with is not in them"
        exporters.load(running, resend=list(exporters.books.sent), new=0)  # what the backup has is known, the rest is new
        running.release()
        eventually(lambda: running.metric("spantoll_window_traces") == 0, what="every trace is closed")
        assert running.metric("spantoll_receiver_duplicate_spans_total") == 3 * 60
        assert running.metric("spantoll_calls_total") == 2 * 20
        assert running.metric("spantoll_cost_usd_total") * 1e12 == pytest.approx(2 * 20 * CALL_PUSD)
        assert exporters.books.differences(database, complete=True) == []
        assert running.stop() == 0
