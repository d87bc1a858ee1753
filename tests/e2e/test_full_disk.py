"""A real file system of 4 MB that runs full under a real daemon: nothing is acknowledged that does not hold, and it goes on by itself."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.daemon import Daemon, daemon, eventually
from tests.e2e.test_kill import PRICE_MSAT, SETTINGS, body, shown
from tests.exports import CALL_PUSD
from tests.reconcile import Reckoning, Request
from tests.require import need

pytestmark = pytest.mark.e2e

SIZE = 4 << 20
FILLER = SIZE // 2  #: what somebody else's files take, and give back later
#: Requests after which it must have run full: each takes more than a kilobyte of log.
MOST = 20_000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """The data folder of a daemon that runs in `tmp_path`, on a file system of its own."""
    place = tmp_path / "spantoll-data"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0700", "tmpfs", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    need(mounted.returncode == 0, f"a file system of {SIZE >> 20} MB cannot be mounted here ({mounted.stderr.strip()})")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_runs_full_and_gets_space_again(disk: Path, tmp_path: Path) -> None:
    """Refused as retryable while it is full, with the metrics up; accepted again once there is space, without a restart; all adds up."""
    filler = disk / "filler"
    filler.write_bytes(os.urandom(FILLER))
    books = Reckoning(price_msat=PRICE_MSAT)
    with daemon(tmp_path, *SETTINGS, quick=False) as running:
        refusals = fill(running, books)
        assert refusals == {503}
        assert b"disk is full" in running.post(body(MOST + 1), "application/x-protobuf")[1]
        assert running.metric("spantoll_receiver_accepted_spans_total") == 3 * len(books.acknowledged)
        assert books.differences(disk / "spantoll.db", shown=shown(running)) == [], "while it is full"
        filler.unlink()
        for number in books.unacknowledged:
            eventually(lambda number=number: send(running, books, number), what="it is taken now")
        running.release()
        eventually(lambda: running.metric("spantoll_window_traces") == 0, what="every trace is closed")
        assert books.differences(disk / "spantoll.db", shown=shown(running), complete=True) == []
        assert running.stop() == 0
    with daemon(tmp_path, *SETTINGS) as running:
        assert books.differences(disk / "spantoll.db", shown=shown(running), complete=True) == []


def test_a_disk_that_is_full_at_a_kill_is_found_whole(disk: Path, tmp_path: Path) -> None:
    """What was cut off by the full disk and then by the kill is no row; everything acknowledged is there once there is space."""
    filler = disk / "filler"
    filler.write_bytes(os.urandom(FILLER))
    books = Reckoning(price_msat=PRICE_MSAT)
    with daemon(tmp_path, *SETTINGS, quick=False) as running:
        fill(running, books)
        running.process.kill()
        running.process.wait()
    filler.unlink()
    with daemon(tmp_path, *SETTINGS, quick=False) as running:  # nothing closes by itself between the two looks
        assert books.differences(disk / "spantoll.db", shown=shown(running)) == []
        for number in books.unacknowledged:
            assert send(running, books, number)
        running.release()
        eventually(lambda: running.metric("spantoll_window_traces") == 0, what="every trace is closed")
        assert books.differences(disk / "spantoll.db", shown=shown(running), complete=True) == []


def fill(running: Daemon, books: Reckoning) -> set[int]:
    """Send until three in a row are refused, closing traces now and then; the codes of the refusals."""
    rng, codes, in_a_row = random.Random(1), set[int](), 0
    for number in range(1, MOST):
        if send(running, books, number, codes):
            in_a_row = 0
        else:
            in_a_row += 1
            if in_a_row == 3:
                return codes
        if rng.random() < 0.01:
            try:
                running.release()
            except OSError:  # 503: the close found no space either, and is tried again
                continue
    raise AssertionError("it never ran full")


def send(running: Daemon, books: Reckoning, number: int, codes: set[int] | None = None) -> bool:
    """One request of an agent and two calls; whether it was acknowledged."""
    ids = tuple((number.to_bytes(16, "big"), span.to_bytes(8, "big")) for span in (1, 2, 3))
    books.sent[number] = Request(ids, dict.fromkeys(ids[1:], CALL_PUSD))
    status, _ = running.post(body(number), "application/x-protobuf")
    if status == 200:
        books.acknowledged.add(number)
    elif codes is not None:
        codes.add(status)
    return status == 200
