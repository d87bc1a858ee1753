"""The benchmark's scripts still run, each with the least load there is. Their figures are judged by nobody here."""

from __future__ import annotations

import importlib.util
import json
import logging
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from receiver import config
from tests.bench import chain, memory, wire
from tests.bench.books import Books, differences, of_files
from tests.bench.load import ATTRIBUTES_A_SPAN, BATCHES, NAMES, Load, load
from tests.bench.stages import REST, STAGES
from tests.require import need, need_time

ROOT = Path(__file__).parents[2]
SUBJECTS = ROOT / "tests" / "bench" / "subjects.toml"


@pytest.fixture(autouse=True)
def _logs_again() -> Iterator[None]:
    yield
    logging.disable(logging.NOTSET)  # a script silences the daemon's lines for its own process


def spans_of(bodies: list[bytes]) -> list[Any]:
    return [
        span
        for body in bodies
        for resource_spans in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope_spans in resource_spans.scope_spans
        for span in scope_spans.spans
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_cycle_has_new_ids_and_the_same_spans(name: str) -> None:
    """Else the daemon would drop the second cycle as duplicates, or count something else than is reckoned."""
    one = load(name, 64, seed=1)
    first, second = (spans_of(one.cycle()) for _ in range(2))
    assert len(first) == len(second) == one.spans
    assert [span.name for span in first] == [span.name for span in second]
    for part in ("trace_id", "span_id"):
        old, new = ({getattr(span, part) for span in spans} for spans in (first, second))
        assert len(old) == len(new)
        assert not old & new
    assert len({(span.trace_id, span.span_id) for span in first}) == one.distinct


@pytest.mark.parametrize("batch", BATCHES)
def test_the_generated_load_is_as_it_says(batch: int) -> None:
    """16 attributes a span, so many spans a request, and worth what the same bodies come to as files."""
    one = load("generated", batch, seed=2)
    cycles = [one.cycle() for _ in range(2)]
    assert {len(spans_of([body])) for body in cycles[0]} == {batch}
    assert {len(span.attributes) for span in spans_of(cycles[0])} == {ATTRIBUTES_A_SPAN}
    assert differences(one.worth(cycles), of_files(cycles)) == []


def test_cycles_of_captures_do_not_touch_each_other() -> None:
    """Copies of one call are apart in time and ids, so that two cycles are worth twice one."""
    one = load("captures", 64, seed=3)
    cycles = [one.cycle() for _ in range(2)]
    once = of_files(cycles[:1])
    assert differences(Counter({key: 2 * amount for key, amount in once.items()}), one.worth(cycles)) == []


def test_a_difference_is_found() -> None:
    """One token too few is said, in the total and by name."""
    worth: Books = Counter({("output", "planner", "gpt-4o"): 10, ("calls", "planner", "gpt-4o"): 1})
    shown: Books = Counter({("output", "planner", "gpt-4o"): 9, ("calls", "planner", "gpt-4o"): 1})
    assert differences(worth, worth) == []
    assert differences(worth, shown) == [
        "output: 9 shown, 10 acknowledged",
        "output of agent planner, model gpt-4o: 9 shown, 10 acknowledged",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_chain(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Decode, the whole chain, every stage and the profile give figures, and the metrics are exact."""
    if name != "generated":
        need_time("the benchmark's other loads")
    arguments = ["--load", name, "--batch", "64", "--spans", "1", "--rounds", "1", "--profile", "--json", str(tmp_path / "out.json")]
    assert chain.main(arguments) == 0
    (case,) = json.loads((tmp_path / "out.json").read_text())["cases"]
    figures = case["us_per_span"]
    assert figures["decode"][0] > 0
    assert figures["chain"][0] > 0
    assert set(figures["stages"]) == {REST, *(stage for stage, _, _ in STAGES)}
    assert all(figures["stages"][stage][0] > 0 for stage in ("decode", "read", "hold", "count", "price", "attribute", "observe"))
    printed = capsys.readouterr().out
    assert "exact" in printed
    assert "tottime" in printed


def test_chain_says_when_the_metrics_are_wrong(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A chain that loses something ends with exit code 1, however fast it is."""
    made = load

    def dearer(name: str, batch: int, *, seed: int) -> Load:
        one = made(name, batch, seed=seed)
        worth = one.worth
        monkeypatch.setattr(one, "worth", lambda cycles: worth(cycles) + Counter({("calls", "planner", "gpt-4o"): 1}))
        return one

    monkeypatch.setattr(chain, "load", dearer)
    assert chain.main(["--load", "generated", "--batch", "512", "--spans", "1", "--rounds", "1"]) == 1
    assert "WRONG" in capsys.readouterr().out


def test_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every span that is sent is held, and weighed."""
    assert memory.main(["--spans", "1500", "--json", str(tmp_path / "out.json"), "--lines"]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["spans"] == found["sent"] >= 1500
    assert found["accounted_bytes_per_span"] > 0
    assert "B/span" in capsys.readouterr().out


@pytest.mark.e2e
@pytest.mark.parametrize("subject", wire.SUBJECTS, ids=lambda subject: subject.name)
def test_wire(subject: wire.Subject, tmp_path: Path) -> None:
    """A daemon is started, loaded, weighed and stopped, and its metrics are exact. As a process: it ties its threads to a core."""
    need(wire.is_there(subject), f"{subject.needs} is not installed (extra fast)")
    if subject.name != "grpc":
        need_time("the benchmark of the other transports")
    arguments = ["--subject", subject.name, "--load", "generated", "--batch", "64", "--spans", "1", "--rounds", "1", "--wait", "0.1"]
    command = [sys.executable, "-m", "tests.bench.wire", *arguments, "--json", str(tmp_path / "out.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "exact" in done.stdout
    (case,) = json.loads((tmp_path / "out.json").read_text())["cases"]
    (run,) = case["runs"]
    assert run["findings"] == []
    assert run["us_per_span"] >= 0
    assert run["peak_mib"] > 0


@pytest.mark.e2e
@pytest.mark.parametrize(
    "script",
    [("ack", "--batch", "64", "--spans", "1", "--rounds", "1", "--wait", "0.1"), ("recovery", "--spans", "2000", "--open", "0.5")],
    ids=lambda words: words[0],
)
def test_the_store_s_scripts(script: tuple[str, ...], tmp_path: Path) -> None:
    """Both modes of the store, and a start on a journal that a kill left: figures, with metrics that are exact."""
    need_time("the benchmark of the store")
    name, *arguments = script
    command = [sys.executable, "-m", f"tests.bench.{name}", *arguments, "--json", str(tmp_path / "out.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "out.json").read_text())
    if name == "ack":
        assert [case["mode"] for case in record["cases"]] == ["memory", "durable"]
        assert all(run["findings"] == [] for case in record["cases"] for run in (*case["busy"], *case["calm"]))
    else:
        assert record["spans"] >= 2_000
        assert all(start["open_traces"] * 8 == record["open"] for start in record["starts"])


@pytest.mark.parametrize("name", ["spantoll", "spantoll native"])
def test_a_subject_can_be_started(name: str) -> None:
    """The start commands for the peers' script are made of settings that exist."""
    if "native" in name:
        need(importlib.util.find_spec("pygrpc_native"), "pygrpc-native is not installed (pip install spantoll[fast])")
    (subject,) = [each for each in tomllib.loads(SUBJECTS.read_text())["subject"] if each["name"] == name]
    words = [word.format(grpc_port=1, http_port=2, metrics_port=3, scratch="/tmp") for word in subject["start"]]  # noqa: S108 -- only parsed
    assert words[:2] == ["spantoll", "serve"]
    assert set(words[2::2]) == {"--set"}
    settings = config.load(environ={}, assignments=words[3::2])
    assert settings.otlp.grpc.server == ("native" if "native" in name else "aio")
    assert subject["settle_seconds"] > settings.window.idle_wait + 1
