"""The daemon as a process, over the real wire: CPU in microseconds a span, memory, stalls of its loop, and whether its metrics are right.

    python -m tests.bench.wire
    python -m tests.bench.wire --subject http --subject "grpc native" --load generated --batch 8 --rounds 5

Each run starts a daemon of its own on one core and sends from another one, several requests at once, as fast as answers come.
After a warm-up, CPU (user and system) is read from /proc before the first request and again once the daemon is idle after the last,
so the closing of its traces is in it. /proc counts ticks of 10 ms: let a run last for seconds. The metrics must show exactly what was
acknowledged, in calls, tokens and cost, by agent and model; exit code 1 if a run shows anything else or a request was not taken.

Subjects: `grpc` (grpcio's asyncio server), `grpc native` (pygrpc-native's, where the extra `fast` is installed) and `http` (aiohttp's).
"""

from __future__ import annotations

import importlib.util
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.bench import report
from tests.bench.books import OLD_SPANS, Sample, differences, of_metrics, samples
from tests.bench.load import BATCHES, NAMES, Load, cycles_of, load
from tests.bench.process import Process, cores
from tests.bench.senders import Sent, send_grpc, send_http
from tests.e2e.daemon import Daemon, daemon

STALL: Final = "spantoll_loop_stall_seconds"
#: A stall that the design does not allow (DESIGN section 6).
LONG_STALL_SECONDS: Final = 0.05

Send = Callable[..., Sent]


@dataclass(frozen=True)
class Subject:
    """A way into the daemon."""

    name: str
    listener: str
    send: Send
    settings: tuple[str, ...] = ()
    needs: str = ""  #: a module


SUBJECTS: Final = (
    Subject("grpc", "otlp.grpc", send_grpc),
    Subject("grpc native", "otlp.grpc", send_grpc, ("otlp.grpc.server=native",), needs="pygrpc_native"),
    Subject("http", "otlp.http", send_http),
)


def is_there(subject: Subject) -> bool:
    """Whether what it needs is installed."""
    return not subject.needs or importlib.util.find_spec(subject.needs) is not None


@dataclass
class Run:
    """What one run came to."""

    us_per_span: float
    us_per_request: float
    spans_per_second: float
    p50_ms: float
    p99_ms: float
    rss_mib: float  #: before the load
    peak_mib: float
    stored_bytes_per_span: float  #: on the disk after a stop, journal and charges together
    stalls: dict[str, int]  #: upper bound of the bucket in seconds -> stalls in it
    problems: dict[str, int]
    findings: list[str]

    @property
    def long_stalls(self) -> int:
        return sum(count for bound, count in self.stalls.items() if float(bound) > LONG_STALL_SECONDS)

    @property
    def worst_stall(self) -> str:
        return max((bound for bound, count in self.stalls.items() if count), key=float, default="0")


@dataclass
class Case:
    """A load through one way."""

    subject: Subject
    load: Load
    runs: list[Run] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.subject.name}, {self.load.name} {self.load.batch}"


def measure(case: Case, *, cycles: int, wait_seconds: float, in_flight: int) -> Run:
    """One run: a daemon, a warm-up, the load, and what its metrics show of both."""
    one = case.load
    warm_up, made = one.cycle(), [one.cycle() for _ in range(cycles)]
    bodies = [body for cycle in made for body in cycle]
    waits = ("decision_wait_after_root_received", "lone_call_wait", "idle_wait", "remote_root_wait")
    settings = [f"window.{wait}={round(wait_seconds * 1000)}ms" for wait in waits]
    with tempfile.TemporaryDirectory(prefix="spantoll-bench-") as folder, cores() as (on_first, on_second):
        on_first()
        with daemon(Path(folder), *settings, OLD_SPANS, *case.subject.settings, quick=False) as running:
            on_second()
            process, port = Process(running.process.pid), running.ports[case.subject.listener]
            first = case.subject.send(port, warm_up, in_flight=in_flight)
            process.settle(wait_seconds)
            stalls = _stalls(_scrape(running))
            process.forget_peak()
            rss, used = process.kib("VmRSS"), process.cpu_seconds()
            sent = case.subject.send(port, bodies, in_flight=in_flight)
            seconds = process.settle(wait_seconds) - used
            peak = process.kib("VmHWM")
            shown = _scrape(running)
            problems = first.problems + sent.problems
            findings = [f"{count} requests were answered {problem}" for problem, count in problems.items()]
            open_traces = sum(value for name, _, value in shown if name == "spantoll_window_traces")
            if open_traces:
                findings.append(f"{open_traces:g} traces are still open")
            findings += differences(one.worth([warm_up, *made]), of_metrics(shown))
            running.stop()
            stored = sum(file.stat().st_size for file in Path(folder).rglob("spantoll.db*"))
    spans = cycles * one.spans
    latencies = sorted(sent.latencies) or [0.0]
    return Run(
        us_per_span=seconds * 1e6 / spans,
        us_per_request=seconds * 1e6 / len(bodies),
        spans_per_second=spans / sent.wall_seconds,
        p50_ms=statistics.median(latencies) * 1e3,
        p99_ms=latencies[int(len(latencies) * 0.99)] * 1e3,
        rss_mib=rss / 1024,
        peak_mib=peak / 1024,
        stored_bytes_per_span=stored / (spans + one.spans),
        stalls={bound: count - stalls.get(bound, 0) for bound, count in _stalls(shown).items()},
        problems=dict(problems),
        findings=findings,
    )


def _scrape(running: Daemon) -> list[Sample]:
    return list(samples(running.get("/metrics")))


def _stalls(shown: Sequence[Sample]) -> dict[str, int]:
    """Stalls by bucket, each counted once (an exposition's buckets contain the smaller ones)."""
    found: dict[str, int] = {}
    below = 0
    for name, labels, value in shown:
        if name == f"{STALL}_bucket":
            found[labels["le"].replace("+Inf", "inf")] = int(value) - below
            below = int(value)
    return found


def _row(case: Case) -> list[str]:
    def spread(value: Callable[[Run], float], digits: int) -> str:
        return report.spread([value(run) for run in case.runs], digits)

    return [
        case.subject.name,
        case.load.name,
        f"{case.load.batch}",
        spread(lambda run: run.us_per_span, 2),
        spread(lambda run: run.us_per_request, 0),
        spread(lambda run: run.spans_per_second, 0),
        f"{statistics.median(run.p50_ms for run in case.runs):.1f}",
        f"{statistics.median(run.p99_ms for run in case.runs):.1f}",
        f"{statistics.median(run.rss_mib for run in case.runs):.0f}",
        spread(lambda run: run.peak_mib, 0),
        max((run.worst_stall for run in case.runs), key=float),
        f"{sum(run.long_stalls for run in case.runs)}",
        report.verdict([finding for run in case.runs for finding in run.findings]),
    ]


COLUMNS: Final = (
    "subject", "load", "spans/request", "us CPU/span", "us CPU/request", "spans/s", "p50 ms", "p99 ms",
    "RSS MiB", "peak MiB", "stalls up to s", "over 50 ms", "metrics",
)  # fmt: skip


def _cycles(one: Load, *, spans: int, requests: int) -> int:
    """Whole cycles for about so many spans, but for no more than so many requests."""
    return cycles_of(min(spans, requests * one.batch), one)


def main(arguments: Sequence[str] | None = None) -> int:
    there = [subject for subject in SUBJECTS if is_there(subject)]
    options = report.parser(__doc__)
    report.choose_loads(options)
    options.add_argument(
        "--subject", action="append", choices=[subject.name for subject in there], help="only this one; may be repeated (default: all)"
    )
    options.add_argument("--spans", type=report.positive, default=100_000, help="spans of a run (default 100000)")
    options.add_argument("--requests", type=report.positive, default=10_000, help="most requests of a run (default 10000)")
    options.add_argument("--rounds", type=report.positive, default=3, help="runs of each case, in turn (default 3)")
    options.add_argument("--wait", type=float, default=1.0, metavar="S", help="how long the window waits for a quiet trace (default 1)")
    options.add_argument("--in-flight", type=report.positive, default=16, help="requests at once (default 16)")
    chosen = options.parse_args(arguments)
    seed = random.randrange(1 << 32) if chosen.seed is None else chosen.seed

    where = report.machine()
    report.say_machine(where)
    for subject in SUBJECTS:
        if subject not in there:
            print(f"without {subject.name}: {subject.needs} is not installed")
    print(f"seed {seed}, {chosen.rounds} rounds, {chosen.in_flight} requests at once, the window waits {chosen.wait:g} s")
    subjects = [subject for subject in there if not chosen.subject or subject.name in chosen.subject]
    loads = [load(name, batch, seed=seed) for name in chosen.load or NAMES for batch in chosen.batch or BATCHES]
    cases = [Case(subject, one) for one in loads for subject in subjects]
    for number in range(chosen.rounds):
        for case in cases:
            print(f"round {number + 1}/{chosen.rounds} {case.name}", file=sys.stderr)
            cycles = _cycles(case.load, spans=chosen.spans, requests=chosen.requests)
            run = measure(case, cycles=cycles, wait_seconds=chosen.wait, in_flight=chosen.in_flight)
            case.runs.append(run)
            for finding in run.findings:
                print(f"{case.name}: {finding}")
    print(report.table(COLUMNS, [_row(case) for case in cases]))
    record = {
        "machine": where,
        "seed": seed,
        "cases": [
            {"subject": case.subject.name, "load": case.load.name, "batch": case.load.batch, "runs": [vars(run) for run in case.runs]}
            for case in cases
        ],
    }
    report.write(chosen.json, record)
    return 1 if any(run.findings for case in cases for run in case.runs) else 0


if __name__ == "__main__":
    sys.exit(main())
