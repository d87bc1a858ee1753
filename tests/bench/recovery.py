"""How long a start takes after `kill -9`, by how much is in the journal: time to ready, memory, and whether the loop kept its turns.

    python -m tests.bench.recovery
    python -m tests.bench.recovery --spans 1000000 --open 0.1

A journal is written first (the generated load, 64 spans a request, without waiting for the disk), in which all traces but the share
`--open` are closed. Then a daemon is started on it as a process, twice: each reads all of it. Ready means that exports are taken again.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from receiver import app, config
from receiver.otlp.export import Encoding
from receiver.store.journal import SqliteJournal
from tests.bench import report
from tests.bench.books import OLD_SPANS
from tests.bench.chain import LeapingClock
from tests.bench.load import cycles_of, load
from tests.bench.process import Process
from tests.bench.wire import _stalls
from tests.e2e.daemon import daemon, samples

BATCH: Final = 64
STARTS: Final = 2


async def fill(folder: Path, *, spans: int, share_open: float, seed: int) -> tuple[int, int]:
    """(spans that are journalled, of them open)."""
    one = load("generated", BATCH, seed=seed)
    cycles = cycles_of(spans, one)
    clock = LeapingClock()
    journal = SqliteJournal(folder / "spantoll.db", clock=clock, durable=False)
    settings = config.load(environ={}, assignments=(OLD_SPANS, "window.max_bytes=64GiB", "window.max_traces=100000000"))
    filled = app.Daemon(settings, clock=clock, journal=journal)
    list(journal.replay())
    closed = round(cycles * (1 - share_open))
    try:
        for number in range(cycles):
            for body in one.cycle():
                await filled.intake.export("default", body, encoding=Encoding.PROTOBUF, transport="grpc")
                while journal._backlog > 8 << 20:  # noqa: ASYNC110 -- the writer's thread is what is waited for
                    await asyncio.sleep(0.001)
            if number < closed:
                await filled.closing.release_all(now=clock.monotonic())
    finally:
        await journal.stop()
    return cycles * one.spans, (cycles - closed) * one.spans


def start(folder: Path) -> dict[str, float]:
    """One start: seconds from exec to ready (an empty folder's taken off by the caller), memory, stalls."""
    begun = time.monotonic()
    with daemon(folder, "window.max_bytes=64GiB", "window.max_traces=100000000", quick=False) as running:
        seconds = time.monotonic() - begun
        process = Process(running.process.pid)
        shown = list(samples(running.get("/metrics")))
        stalls = _stalls(shown)
        open_traces = sum(value for name, _, value in shown if name == "spantoll_window_traces")
        found = {
            "seconds": seconds,
            "peak_mib": process.kib("VmHWM") / 1024,
            "rss_mib": process.kib("VmRSS") / 1024,
            "worst_stall": max((float(bound) for bound, count in stalls.items() if count), default=0.0),
            "open_traces": open_traces,
        }
        running.process.kill()  # so that the next one reads as much
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    options = report.parser(__doc__)
    options.add_argument("--spans", type=report.positive, default=1_000_000, help="journalled spans (default 1000000)")
    options.add_argument("--open", type=float, default=0.1, metavar="SHARE", help="the share of them that is open (default 0.1)")
    chosen = options.parse_args(arguments)
    seed = random.randrange(1 << 32) if chosen.seed is None else chosen.seed
    where = report.machine()
    report.say_machine(where)
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="spantoll-bench-") as empty:
        nothing = start(Path(empty))
    with tempfile.TemporaryDirectory(prefix="spantoll-bench-") as place:
        folder = Path(place) / "spantoll-data"
        folder.mkdir()
        begun = time.monotonic()
        spans, opened = asyncio.run(fill(folder, spans=chosen.spans, share_open=chosen.open, seed=seed))
        size = sum(file.stat().st_size for file in folder.iterdir())
        print(f"{spans:,} spans ({opened:,} open) written in {time.monotonic() - begun:.0f} s, {size / spans:.0f} bytes a span on the disk")
        starts = [start(Path(place)) for _ in range(STARTS)]
    print(f"an empty start: {nothing['seconds']:.2f} s, {nothing['peak_mib']:.0f} MiB")
    for one in starts:
        more = one["seconds"] - nothing["seconds"]
        print(
            f"ready after {one['seconds']:.2f} s: {more * 1e6 / spans:.1f} us a span; peak {one['peak_mib']:.0f} MiB,"
            f" stalls up to {one['worst_stall']:g} s, {one['open_traces']:g} open traces"
        )
    report.write(
        chosen.json, {"machine": where, "seed": seed, "spans": spans, "open": opened, "bytes": size, "empty": nothing, "starts": starts}
    )
    return 0 if all(one["open_traces"] * 8 == opened for one in starts) else 1


if __name__ == "__main__":
    sys.exit(main())
