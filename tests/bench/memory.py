"""What open spans hold in memory: bytes a span of a generated load that the window keeps, in this process.

    python -m tests.bench.memory
    python -m tests.bench.memory --spans 50000 --lines

The second half of the spans is shown alone, too: by then the daemon's bounded tables (attributes met before) are full.

The spans go through the daemon's own intake; its window is told to wait for ever and to hold as much as comes. Resident memory is read from
/proc/self/smaps_rollup before and after, without the bodies, which are made and dropped one cycle at a time. Beside it stands what the
window *accounts* for the same spans: `window.max_bytes` bounds that, so it should not be much less than what is really held.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import resource
import sys
import tracemalloc
from collections.abc import Sequence
from typing import Final

from receiver import app, config
from receiver.otlp.export import Encoding
from tests.bench import report
from tests.bench.load import NAMES, Load, cycles_of, load
from tests.bench.process import Process

MIB: Final = 1 << 20
LINES: Final = 15  #: that --lines shows
#: The window's waits and bounds at their highest.
SETTINGS: Final = (
    "window.decision_wait_after_root_received=1d",
    "window.remote_root_wait=1d",
    "window.lone_call_wait=1d",
    "window.idle_wait=7d",
    "window.decision_wait=30d",
    "window.max_bytes=1024GiB",
    "window.max_traces=100000000",
)


async def measure(one: Load, *, spans: int, lines: int = 0) -> report.Record:
    """Hold so many spans and weigh them; with `lines`, also say which lines of code made most of what is held (which weighs itself)."""
    process = Process(os.getpid())
    daemon = app.Daemon(config.load(environ={}, assignments=SETTINGS))
    for _ in range(2):  # its tables of attributes and names are there before, and so are this script's own bodies
        await _export(daemon, one.cycle())
    gc.collect()
    if lines:
        tracemalloc.start()
    held, accounted, before = daemon.window.spans, daemon.window.bytes, process.smaps()
    steps: list[tuple[int, int]] = []
    cycles = cycles_of(spans, one)
    for number in range(cycles):
        await _export(daemon, one.cycle())
        if (number + 1) % max(1, cycles // 10) == 0:
            steps.append((daemon.window.spans - held, process.smaps()["Rss"] - before["Rss"]))
    gc.collect()
    after, count = process.smaps(), daemon.window.spans - held
    half, half_rss = steps[(len(steps) - 1) // 2]
    return {
        "load": one.name,
        "batch": one.batch,
        "spans": count,
        "traces": daemon.window.traces,
        "sent": cycles * one.distinct,
        "rss_bytes_per_span": (after["Rss"] - before["Rss"]) / count,
        "second_half_bytes_per_span": (after["Rss"] - before["Rss"] - half_rss) / max(1, count - half),
        "private_dirty_bytes_per_span": (after["Private_Dirty"] - before["Private_Dirty"]) / count,
        "accounted_bytes_per_span": (daemon.window.bytes - accounted) / count,
        "rss_mib": after["Rss"] / MIB,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "steps": steps,
        "lines": [[f"{each.traceback[0]}", each.size / count] for each in _lines(lines)],
    }


def _lines(most: int) -> list[tracemalloc.Statistic]:
    if not most:
        return []
    snapshot = tracemalloc.take_snapshot()
    tracemalloc.stop()
    return snapshot.statistics("lineno")[:most]


async def _export(daemon: app.Daemon, bodies: Sequence[bytes]) -> None:
    for body in bodies:
        await daemon.intake.export("default", body, encoding=Encoding.PROTOBUF, transport="http")


def main(arguments: Sequence[str] | None = None) -> int:
    options = report.parser(__doc__)
    options.add_argument("--load", choices=NAMES, default="generated", help="default: generated")
    options.add_argument("--batch", type=report.positive, default=512, help="spans in a request (default 512)")
    options.add_argument("--spans", type=report.positive, default=1_000_000, help="spans to hold (default 1000000: about 1 GiB)")
    options.add_argument(
        "--lines", action="store_true", help="also the lines that made most of it (slow; the other figures then weigh the tracing)"
    )
    chosen = options.parse_args(arguments)
    logging.disable(logging.INFO)  # the daemon's line on each new source
    seed = random.randrange(1 << 32) if chosen.seed is None else chosen.seed

    where = report.machine()
    report.say_machine(where)
    found = asyncio.run(measure(load(chosen.load, chosen.batch, seed=seed), spans=chosen.spans, lines=LINES if chosen.lines else 0))
    lost = found["sent"] - found["spans"]
    columns = ("load", "spans", "RSS B/span", "second half", "private dirty", "accounted", "accounted : RSS", "RSS MiB", "peak MiB")
    row = [
        found["load"],
        f"{found['spans']}",
        f"{found['rss_bytes_per_span']:.0f}",
        f"{found['second_half_bytes_per_span']:.0f}",
        f"{found['private_dirty_bytes_per_span']:.0f}",
        f"{found['accounted_bytes_per_span']:.0f}",
        f"{found['accounted_bytes_per_span'] / max(1.0, found['rss_bytes_per_span']):.2f}",
        f"{found['rss_mib']:.0f}",
        f"{found['peak_mib']:.0f}",
    ]
    print(report.table(columns, [row]))
    print("on the way, RSS B/span: " + "  ".join(f"{count}: {grown / count:.0f}" for count, grown in found["steps"]))
    for line, size in found["lines"]:
        print(f"{size:8.1f} B/span  {line}")
    if lost:
        print(f"{lost} spans that were sent are not in the window")
    report.write(chosen.json, {"machine": where, "seed": seed, **found})
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
