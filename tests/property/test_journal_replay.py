"""A replay gives what the plain fold gives, whatever was accepted, closed, forgotten, deleted and restarted in between."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from receiver.core.journal import Accepted, Closed, Series
from receiver.core.window.group import TraceKey
from receiver.store import records
from receiver.store.journal import SqliteJournal
from tests.fakes import ManualClock
from tests.integration.store_helpers import Restored, acceptance, charge_of, close, cut, span, span_id, trace_id
from tests.sampling import often

TRACES = 4


@dataclass
class Life:
    """What the model knows of a trace."""

    ids: list[bytes] = field(default_factory=list)
    covered: int = 0
    generation: int = -1
    charged: list[bytes] = field(default_factory=list)
    bond: set[int] | None = None


class Model:
    """The plain fold: one dict, step by step."""

    def __init__(self) -> None:
        self.lives: dict[int, Life] = {}
        self.rows = 0
        self.told: list[tuple[str, int]] = []  #: what observers must have heard since the start, or will from `unobserved`

    def closes(self, traces: list[int], leave: int, charged: bool) -> tuple[list[tuple[int, int, int]], list[tuple[int, bytes]]]:
        """Close these together; the last `leave` spans of each came too late for it. What the close row says."""
        rows, paid = [], []
        for trace in traces:
            life = self.lives[trace]
            fresh = max(0, len(life.ids) - leave - life.covered)
            if charged and fresh:
                paid.append((trace, life.ids[life.covered]))
                life.charged.append(life.ids[life.covered])
            life.covered += fresh
            life.generation += 1
            rows.append((trace, life.generation, fresh))
        if len(traces) > 1:
            bond = next((self.lives[trace].bond for trace in traces if self.lives[trace].bond is not None), None) or set()
            for trace in traces:
                if self.lives[trace].bond is None:
                    self.lives[trace].bond = bond
                    bond.add(trace)
        return rows, paid


accepts = st.tuples(st.just("accept"), st.lists(st.integers(1, TRACES), min_size=1, max_size=6))
close_ops = st.tuples(
    st.just("close"), st.lists(st.integers(1, TRACES), min_size=1, max_size=3, unique=True), st.integers(0, 2), st.booleans()
)
forgets = st.tuples(st.just("forget"), st.integers(1, TRACES))
others = st.tuples(st.sampled_from(["restart", "snapshot"]))
histories = st.lists(st.one_of(accepts, accepts, close_ops, close_ops, forgets, others), min_size=4, max_size=30)


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp())
    yield made
    shutil.rmtree(made)


@settings(max_examples=often(60, 200), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(history=histories, durable=st.booleans())
@example(  # a trace that was forgotten begins anew, while a row of its first life is still there for its neighbour
    history=[("accept", [1, 2]), ("close", [1], 0, True), ("forget", 1), ("accept", [1, 1]), ("close", [1], 1, True)], durable=True
)
@example(  # rows that nobody needs, but no snapshot has
    history=[("accept", [1]), ("snapshot",), ("accept", [2]), ("close", [2], 0, True), ("forget", 2), ("accept", [3]), ("forget", 9)],
    durable=True,
)
@example(  # the same, where all rows before are needless
    history=[("accept", [1]), ("close", [1], 0, True), ("forget", 1), ("accept", [2])], durable=True
)
@example(  # counted together, then one of them with a third
    history=[("accept", [1, 2, 3]), ("close", [1, 2], 0, True), ("accept", [2]), ("close", [2, 3], 0, False)], durable=True
)
def test_a_replay_is_the_fold(folder: Path, history: list[tuple[object, ...]], durable: bool) -> None:
    """Open spans in order, remembered ids, what paid, generations and bonds are those of the model, at each restart and at the end."""
    path = folder / "spantoll.db"
    for file in folder.iterdir():
        file.unlink()
    asyncio.run(play(path, [*history, ("restart",)], durable=durable))


async def play(path: Path, history: list[tuple[object, ...]], *, durable: bool) -> None:
    model = Model()
    heard: list[tuple[str, int]] = []
    number = 0

    def observer(entry: Accepted | Closed) -> None:
        heard.append(told(entry))

    def begun() -> SqliteJournal:
        fresh = SqliteJournal(path, clock=ManualClock(), durable=durable)
        heard[:] = [*snapshot, *map(told, fresh.unobserved())]
        compare(Restored(fresh), model)
        assert heard == model.told
        fresh.watch(observer)
        return fresh

    snapshot: list[tuple[str, int]] = []
    journal = begun()
    for operation, *arguments in history:
        if operation == "accept":
            (traces,) = arguments
            spans = []
            for trace in traces:  # type: ignore[attr-defined]  # the strategy's list
                number += 1
                model.lives.setdefault(trace, Life()).ids.append(span_id(number))
                spans.append(span(number, trace=trace))
            await journal.accept(acceptance(*spans))
            model.told.append(("accepted", len(spans)))
        elif operation == "close":
            traces, leave, charged = arguments
            known = [trace for trace in traces if trace in model.lives]  # type: ignore[attr-defined]  # the strategy's list
            if known:
                rows, paid = model.closes(known, leave, charged)  # type: ignore[arg-type]  # an int and a bool
                charges = [charge_of(int.from_bytes(one, "big"), trace=trace) for trace, one in paid]
                await journal.close([close(*rows, charges=charges, trigger="idle")])
                model.told.append(("closed", len(charges)))
        elif operation == "forget":
            (trace,) = arguments
            life = model.lives.get(trace)  # type: ignore[call-overload]  # an int
            if life is not None and life.covered == len(life.ids):  # the window forgets what is released
                journal.forget([TraceKey("acme", trace_id(trace))])  # type: ignore[arg-type]  # an int
                if life.bond is not None:
                    life.bond.discard(trace)  # type: ignore[arg-type]  # an int
                del model.lives[trace]  # type: ignore[arg-type]  # an int
        elif operation == "snapshot":
            snapshot[:] = heard
            await journal.snapshot([Series("calls", (("account", "acme"),), (len(heard),), 1)])
        else:
            for trace, life in model.lives.items():
                assert [one.span_id for one in journal.records(TraceKey("acme", trace_id(trace)))] == life.ids
            await journal.stop()
            journal = begun()
    await journal.stop()


def told(entry: Accepted | Closed) -> tuple[str, int]:
    return ("accepted", entry.spans) if isinstance(entry, Accepted) else ("closed", len(entry.charges))


def compare(restored: Restored, model: Model) -> None:
    open_ids = sorted(one for life in model.lives.values() for one in life.ids[life.covered :])  # ids are given in order
    assert restored.open_ids == open_ids
    for trace, life in model.lives.items():
        row = restored.remembered.get(TraceKey("acme", trace_id(trace)))
        assert (row is not None) == bool(life.covered)
        if row is not None:
            assert cut(row.ids) == life.ids[: life.covered]
            assert cut(row.charged) == life.charged
            assert row.generation == life.generation
            assert row.rooted == bool(life.covered)  # the spans of this test are roots
            group = next(one for one in restored.groups if trace_id(trace) in one)
            mates = {mate for mate in life.bond or {trace} if model.lives[mate].covered} | {trace}
            assert {trace_id(mate) for mate in mates} <= group
    for key, row in restored.remembered.items():  # what is remembered beyond the model was forgotten, and its rows are not gone yet
        trace = int.from_bytes(key.trace_id, "big")
        if trace not in model.lives:
            model.lives[trace] = Life(cut(row.ids), len(row.ids) // 8, row.generation, cut(row.charged))


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
attribute_lists = st.lists(st.tuples(st.sampled_from(["model", "tokens", "x"]), values), max_size=6)
moments = st.integers(0, 2**64 - 1)


@settings(max_examples=often(60, 200), deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            attribute_lists, moments, moments, st.integers(0, 3), st.integers(0, 2**32 - 1), st.integers(-(2**31), 2**31 - 1), st.booleans()
        ),
        min_size=1,
        max_size=8,
    )
)
def test_spans_come_back_from_a_row(rows: list[tuple[list[tuple[str, object]], int, int, int, int, int, bool]]) -> None:
    """Every field of every span, with the types of its values: 1, 1.0 and true stay apart."""
    spans = [
        span(
            number,
            trace=number % 3 + 1,
            parent=span_id(parent) if parent else b"",
            attributes=tuple(attributes),
            start_unix_nano=start,
            end_unix_nano=end,
            flags=flags,
            status_code=code,
            kind=code,
            sampled=sampled,
            dropped_attributes=flags,
            size=flags,
        )
        for number, (attributes, start, end, parent, flags, code, sampled) in enumerate(rows, 1)
    ]
    traces = records.trace_ids_of(spans)
    body = records.Encoder().body(spans, transport="http", begins=[True] * len(traces))
    row = records.Decoder().row(body)
    assert row.trace_ids == traces
    assert row.transport == "http"
    assert [fields(one) for one in row.spans(received_unix_nano=77)] == [fields(one) for one in spans]
    last = row.spans([len(spans) - 1], received_unix_nano=77)
    assert [fields(one) for one in last] == [fields(spans[-1])]


def fields(one: object) -> list[str]:
    own = [name for name in one.__slots__ if name != "source"]  # type: ignore[attr-defined]  # a Span
    source = one.source  # type: ignore[attr-defined]  # a Span
    return [f"{name} {getattr(one, name)!r}" for name in own] + [f"{name} {getattr(source, name)!r}" for name in source.__slots__]
