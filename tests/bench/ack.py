"""What a durable acknowledgement costs: CPU of both modes of the store, and how long an answer takes beside the disk's own syncs.

    python -m tests.bench.ack
    python -m tests.bench.ack --batch 512 --rounds 5 --spans 200000

Both modes take turns in one run, on the same machine, folder and load (gRPC, the generated spans). CPU a span comes from runs with 16
requests at once. Latency comes from runs with one at a time, for a queue says nothing of the answer itself; what the disk takes for an
append of 64 KiB and its fdatasync is measured right before and after, in the same folder.

Goals: `durable` at most 1.5 times the CPU of `memory` at 512 spans a request; an answer's p99 at most twice the p99 of the disk + 10 ms.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.bench import report
from tests.bench.load import load
from tests.bench.senders import send_grpc
from tests.bench.wire import Case, Run, Subject, measure

MODES: Final = ("memory", "durable")
BATCHES: Final = (5, 512)
APPEND_BYTES: Final = 65_536  #: about what a commit of 512 spans appends
SYNCS: Final = 200
MOST_CPU: Final = 1.5  #: durable by memory
#: Of an answer's p99: so many times the disk's, and so many ms for everything else.
MOST_SYNCS: Final = 2
MOST_MS: Final = 10


@dataclass
class Pair:
    """One batch size in one mode."""

    mode: str
    batch: int
    busy: Case
    calm: Case
    syncs_ms: list[float] = field(default_factory=list)

    @property
    def us_per_span(self) -> float:
        return statistics.median(run.us_per_span for run in self.busy.runs)

    @property
    def p99_ms(self) -> float:
        return statistics.median(run.p99_ms for run in self.calm.runs)

    @property
    def sync_p99_ms(self) -> float:
        return percentile(self.syncs_ms, 0.99)

    @property
    def runs(self) -> list[Run]:
        return [*self.busy.runs, *self.calm.runs]


def percentile(values: Sequence[float], part: float) -> float:
    return sorted(values)[int(len(values) * part)] if values else 0.0


def syncs(count: int = SYNCS) -> list[float]:
    """Milliseconds of appends with fdatasync, where the daemons keep their folders."""
    taken = []
    with tempfile.NamedTemporaryFile(prefix="spantoll-bench-") as file:
        block = os.urandom(APPEND_BYTES)
        for _ in range(count):
            begun = time.perf_counter()
            os.write(file.fileno(), block)
            os.fdatasync(file.fileno())
            taken.append((time.perf_counter() - begun) * 1e3)
    return taken


def cycles(spans: int, requests: int, batch: int, a_cycle: int) -> int:
    """Whole cycles of about so many spans, in no more than so many requests."""
    return max(1, min(spans, requests * batch) // a_cycle)


COLUMNS: Final = (
    "mode", "spans/request", "us CPU/span", "ack p50 ms", "ack p99 ms", "sync p50 ms", "sync p99 ms", "stored B/span", "metrics",
)  # fmt: skip


def row(pair: Pair) -> list[str]:
    return [
        pair.mode,
        f"{pair.batch}",
        report.spread([run.us_per_span for run in pair.busy.runs], 1),
        report.spread([run.p50_ms for run in pair.calm.runs], 2),
        report.spread([run.p99_ms for run in pair.calm.runs], 2),
        f"{percentile(pair.syncs_ms, 0.5):.2f}",
        f"{pair.sync_p99_ms:.2f}",
        report.spread([run.stored_bytes_per_span for run in pair.busy.runs], 0),
        report.verdict([finding for run in pair.runs for finding in run.findings]),
    ]


def judged(pairs: Sequence[Pair]) -> list[str]:
    """Each goal, and whether it was reached."""
    found = []
    by = {(pair.mode, pair.batch): pair for pair in pairs}
    for batch in dict.fromkeys(pair.batch for pair in pairs):
        durable, memory = by["durable", batch], by["memory", batch]
        ratio = durable.us_per_span / memory.us_per_span if memory.us_per_span else 0.0
        goal = f" (goal {MOST_CPU})" if batch == 512 else ""
        found.append(f"{batch} spans a request: durable costs {ratio:.2f} times the CPU of memory{goal}")
        most = MOST_SYNCS * durable.sync_p99_ms + MOST_MS
        verdict = "reached" if durable.p99_ms <= most else "MISSED"
        found.append(f"{batch} spans a request: ack p99 {durable.p99_ms:.2f} ms, goal at most {most:.2f} ms: {verdict}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    options = report.parser(__doc__)
    options.add_argument("--batch", type=report.positive, action="append", help="spans a request; may be repeated (default 5 and 512)")
    options.add_argument("--spans", type=report.positive, default=100_000, help="spans of a run (default 100000)")
    options.add_argument("--requests", type=report.positive, default=4_000, help="most requests of a run (default 4000)")
    options.add_argument("--rounds", type=report.positive, default=3, help="runs of each case, in turn (default 3)")
    options.add_argument("--wait", type=float, default=1.0, metavar="S", help="how long the window waits for a quiet trace (default 1)")
    chosen = options.parse_args(arguments)
    seed = random.randrange(1 << 32) if chosen.seed is None else chosen.seed
    where = report.machine()
    report.say_machine(where)
    print(f"seed {seed}, {chosen.rounds} rounds, gRPC, generated spans; 16 requests at once for CPU, 1 for latency")
    pairs = []
    for batch in chosen.batch or BATCHES:
        one = load("generated", batch, seed=seed)
        for mode in MODES:
            subject = Subject(f"store.ack={mode}", "otlp.grpc", send_grpc, (f"store.ack={mode}",))
            pairs.append(Pair(mode, batch, Case(subject, one), Case(subject, one)))
    for number in range(chosen.rounds):
        for pair in pairs:
            print(f"round {number + 1}/{chosen.rounds} {pair.busy.name}", file=sys.stderr)
            pair.syncs_ms += syncs()
            one = pair.busy.load
            for case, in_flight, requests in ((pair.busy, 16, chosen.requests), (pair.calm, 1, chosen.requests // 4)):
                many = cycles(chosen.spans, requests, pair.batch, one.spans)
                case.runs.append(measure(case, cycles=many, wait_seconds=chosen.wait, in_flight=in_flight))
            pair.syncs_ms += syncs()
    print(report.table(COLUMNS, [row(pair) for pair in pairs]))
    for line in judged(pairs):
        print(line)
    findings = [finding for pair in pairs for run in pair.runs for finding in run.findings]
    for finding in findings:
        print(finding)
    record = {
        "machine": where,
        "seed": seed,
        "cases": [
            {
                "mode": pair.mode,
                "batch": pair.batch,
                "busy": [vars(run) for run in pair.busy.runs],
                "calm": [vars(run) for run in pair.calm.runs],
                "syncs_ms": {"p50": percentile(pair.syncs_ms, 0.5), "p99": pair.sync_p99_ms},
            }
            for pair in pairs
        ],
    }
    report.write(chosen.json, record)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
