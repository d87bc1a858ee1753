"""CPU of the chain in one process, in microseconds a span: decode alone, everything together, and stage by stage.

    python -m tests.bench.chain
    python -m tests.bench.chain --load generated --batch 8 --rounds 9 --profile

Everything together is what the daemon does with a request behind its wire and until its charges are on the metrics:
decode, unseen, read, accept, hold, release, count, price, attribute, close, observe, driven through the daemon's own Intake and Closing.
Each round has a daemon and ids of its own. About every `--hold` spans the clock leaps ahead, so that the window lets go what it holds;
of the captures after each cycle, for copies of one call in one window would make work that real traffic does not.

CPU is `time.process_time`; how much of it Python's garbage collector took stands beside it, with its longest pause. What the metrics
show at the end of a round is held against what was sent; exit code 1 if they differ.
"""

from __future__ import annotations

import asyncio
import cProfile
import gc
import io
import logging
import pstats
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

from receiver import app, config
from receiver.clock import SystemClock
from receiver.otlp.decode import run
from receiver.otlp.export import Encoding
from tests.bench import report
from tests.bench.books import OLD_SPANS, Books, differences, of_metrics, samples
from tests.bench.load import BATCHES, NAMES, Load, cycles_of, load
from tests.bench.stages import REST, STAGES, split, watched

ACCOUNT = "default"
TRANSPORT = "grpc"
PROFILED = 10  #: functions that --profile shows


class LeapingClock(SystemClock):
    """The machine's clock, which can be told that time has passed."""

    def __init__(self) -> None:
        self._leapt = 0.0

    def leap(self, seconds: float) -> None:
        self._leapt += seconds

    def monotonic(self) -> float:
        return super().monotonic() + self._leapt


class Chain:
    """A daemon without its listeners."""

    def __init__(self) -> None:
        settings = config.load(environ={}, assignments=(OLD_SPANS,))
        self._wait = max(settings.window.idle_wait, settings.window.lone_call_wait, settings.window.remote_root_wait) + 1.0
        self._clock = LeapingClock()
        self._daemon = app.Daemon(settings, clock=self._clock)

    async def play(self, cycles: Sequence[Sequence[bytes]], *, hold: int, spans_a_cycle: int) -> None:
        """Every request, one after another; at the end of a cycle all traces are whole, so that is where they are let go."""
        export, held = self._daemon.intake.export, 0
        for bodies in cycles:
            for body in bodies:
                await export(ACCOUNT, body, encoding=Encoding.PROTOBUF, transport=TRANSPORT)
            held += spans_a_cycle
            if held >= hold:
                held = 0
                await self._let_go()
        await self._let_go()

    async def shown(self) -> Books:
        _, text = await self._daemon.exposition("")
        return of_metrics(samples(text.decode()))

    async def _let_go(self) -> None:
        self._clock.leap(self._wait)
        await self._daemon.closing.close_due(now=self._clock.monotonic())


@dataclass
class Case:
    """A load in requests of one size, and what was measured with it: a figure a round, in microseconds a span."""

    load: Load
    decode: list[float] = field(default_factory=list)
    chain: list[float] = field(default_factory=list)
    collector: list[float] = field(default_factory=list)  #: the garbage collector's part of `chain`
    pauses: list[float] = field(default_factory=list)  #: its longest pause, in milliseconds
    stages: dict[str, list[float]] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)  #: where the metrics were wrong

    @property
    def name(self) -> str:
        return f"{self.load.name} {self.load.batch}"

    def hold(self, most: int) -> int:
        """Spans that the window holds before it lets go."""
        return min(most, self.load.spans) if self.load.name == "captures" else most

    def as_json(self) -> report.Record:
        return {
            "load": self.load.name,
            "batch": self.load.batch,
            "us_per_span": {"decode": self.decode, "chain": self.chain, "collector": self.collector, "stages": self.stages},
            "longest_pause_ms": self.pauses,
            "findings": self.findings,
        }


class Collector:
    """Inside, what the garbage collector takes."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.longest = 0.0
        self._begun = 0.0

    def __enter__(self) -> Self:
        gc.collect()
        gc.callbacks.append(self._told)
        return self

    def __exit__(self, *_: object) -> None:
        gc.callbacks.remove(self._told)

    def _told(self, phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            self._begun = time.process_time()
        else:
            taken = time.process_time() - self._begun
            self.seconds += taken
            self.longest = max(self.longest, taken)


def measure(case: Case, *, spans: int, hold: int, decoding: Callable[[Sequence[bytes]], None]) -> None:
    """One round of one case."""
    made = [case.load.cycle() for _ in range(cycles_of(spans, case.load) + 1)]
    warm_up, cycles = made[:1], made[1:]
    total = len(cycles) * case.load.spans

    decoding(warm_up[0])
    begin = time.process_time()
    for bodies in cycles:
        decoding(bodies)
    case.decode.append((time.process_time() - begin) * 1e6 / total)

    async def play() -> float:
        chain = Chain()
        await chain.play(warm_up, hold=hold, spans_a_cycle=case.load.spans)
        with Collector() as collector:
            begin = time.process_time()
            await chain.play(cycles, hold=hold, spans_a_cycle=case.load.spans)
            seconds = time.process_time() - begin
        case.collector.append(collector.seconds * 1e6 / total)
        case.pauses.append(collector.longest * 1e3)
        case.findings += differences(case.load.worth(made), await chain.shown())
        return seconds

    case.chain.append(asyncio.run(play()) * 1e6 / total)


def measure_stages(case: Case, *, spans: int, hold: int) -> None:
    """One more round, with a stopwatch on every stage."""
    made = [case.load.cycle() for _ in range(cycles_of(spans, case.load) + 1)]

    async def play() -> dict[str, float]:
        chain = Chain()
        with watched() as watches:
            await chain.play(made[:1], hold=hold, spans_a_cycle=case.load.spans)
            for watch in watches.values():
                watch.seconds, watch.calls = 0.0, 0
            begin = time.perf_counter()
            await chain.play(made[1:], hold=hold, spans_a_cycle=case.load.spans)
            return split(watches, time.perf_counter() - begin)

    total = (len(made) - 1) * case.load.spans
    for stage, seconds in asyncio.run(play()).items():
        case.stages.setdefault(stage, []).append(seconds * 1e6 / total)


def profile(case: Case, *, spans: int, hold: int) -> str:
    """The functions that take the most time themselves, in one more round under cProfile."""
    made = [case.load.cycle() for _ in range(cycles_of(spans, case.load) + 1)]
    profiler = cProfile.Profile()

    async def play() -> None:
        chain = Chain()
        await chain.play(made[:1], hold=hold, spans_a_cycle=case.load.spans)
        with profiler:
            await chain.play(made[1:], hold=hold, spans_a_cycle=case.load.spans)

    asyncio.run(play())
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).strip_dirs().sort_stats("tottime").print_stats(PROFILED)
    return text.getvalue().strip()


def decode_alone() -> Callable[[Sequence[bytes]], None]:
    """A decoder that throws away what it made."""
    settings = config.load(environ={})
    decoder = app.decoder(settings, app.theory(settings))

    def decoding(bodies: Sequence[bytes]) -> None:
        for body in bodies:
            run(decoder.protobuf(body, received_unix_nano=1))

    return decoding


def tables(cases: Sequence[Case]) -> str:
    """CPU by case, then every stage."""
    best = [
        (
            case.load.name,
            f"{case.load.batch}",
            f"{min(case.decode):.2f}",
            report.spread(case.decode),
            f"{min(case.chain):.2f}",
            report.spread(case.chain),
            f"{case.collector[case.chain.index(min(case.chain))]:.2f}",
            f"{max(case.pauses):.0f}",
            f"{min(case.chain) * case.load.batch:.0f}",
            report.verdict(case.findings),
        )
        for case in cases
    ]
    columns = (
        "load",
        "spans/request",
        "decode",
        "median (range)",
        "chain",
        "median (range)",
        "of it gc",
        "longest gc ms",
        "us/request",
        "metrics",
    )
    rows = [[stage, *(f"{min(case.stages[stage]):.2f}" for case in cases)] for stage in [*(stage for stage, _, _ in STAGES), REST]]
    rows.append(["sum", *(f"{sum(min(values) for values in case.stages.values()):.2f}" for case in cases)])
    return (
        "us of CPU a span: best round, median of the rounds (lowest-highest)\n"
        + report.table(columns, best)
        + "\n\nus a span, stage by stage: best round of each\n"
        + report.table(["stage", *(case.name for case in cases)], rows)
    )


def main(arguments: Sequence[str] | None = None) -> int:
    options = report.parser(__doc__)
    report.choose_loads(options)
    options.add_argument("--spans", type=report.positive, default=50_000, help="in a round, rounded up to whole cycles (default 50000)")
    options.add_argument("--rounds", type=report.positive, default=5, help="rounds of each case, in turn (default 5)")
    options.add_argument(
        "--hold", type=report.positive, default=20_000, help="spans that the window holds before it lets go (default 20000)"
    )
    options.add_argument("--profile", action="store_true", help="also the ten functions that take the most time themselves, case by case")
    chosen = options.parse_args(arguments)
    logging.disable(logging.INFO)  # the daemon's line on each new source
    seed = random.randrange(1 << 32) if chosen.seed is None else chosen.seed

    where = report.machine()
    report.say_machine(where)
    print(f"seed {seed}, {chosen.spans} spans a round, {chosen.rounds} rounds, up to {chosen.hold} spans in the window")
    cases = [Case(load(name, batch, seed=seed)) for name in chosen.load or NAMES for batch in chosen.batch or BATCHES]
    decoding = decode_alone()
    for number in range(chosen.rounds):
        for case in cases:
            print(f"round {number + 1}/{chosen.rounds} {case.name}", file=sys.stderr)
            measure(case, spans=chosen.spans, hold=case.hold(chosen.hold), decoding=decoding)
            measure_stages(case, spans=chosen.spans, hold=case.hold(chosen.hold))
    print(tables(cases))
    if chosen.profile:
        for case in cases:
            print(f"\n{case.name}, under cProfile (which makes small functions look dearer)")
            print(profile(case, spans=chosen.spans, hold=case.hold(chosen.hold)))
    for case in cases:
        for finding in case.findings:
            print(f"{case.name}: {finding}")
    report.write(chosen.json, {"machine": where, "seed": seed, "spans": chosen.spans, "cases": [case.as_json() for case in cases]})
    return 1 if any(case.findings for case in cases) else 0


if __name__ == "__main__":
    sys.exit(main())
