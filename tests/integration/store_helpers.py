"""A store in a temporary folder, and what is put into it."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from receiver.core.attribution import Charge
from receiver.core.journal import Acceptance, Close, Lack, Progress, Remembered
from receiver.core.span import Source, Span
from receiver.core.window.group import TraceKey
from receiver.store import faults
from receiver.store.journal import SqliteJournal
from tests.fakes import ManualClock
from tests.unit.charges import charge

SOURCES = [
    Source(resource={"service.name": "shop"}, scope="some.scope", scope_version="1"),
    Source(resource={"service.name": "bank", "extra": ["a", {"b": 1}]}, scope="other.scope", scope_version="", attributes={"x": None}),
]


def trace_id(number: int) -> bytes:
    return number.to_bytes(16, "big")


def span_id(number: int) -> bytes:
    return number.to_bytes(8, "big")


def span(number: int, *, trace: int = 1, parent: bytes = b"", **more: Any) -> Span:
    """A span with some attributes of every type."""
    fields: dict[str, Any] = {
        "source": SOURCES[number % 2],
        "trace_id": trace_id(trace),
        "span_id": span_id(number),
        "parent_span_id": parent,
        "name": f"span {number % 3}",
        "kind": 3,
        "start_unix_nano": 1_000 + number,
        "end_unix_nano": 2_000 + number,
        "attributes": (("model", "gpt-4o"), ("tokens", number), ("ratio", 0.5), ("ok", True), ("none", None), ("list", ["a", 1])),
        "flags": 0x101,
        "status_code": 0,
        "dropped_attributes": 0,
        "sampled": False,
        "size": 500,
        "received_unix_nano": 77,
    }
    return Span(**(fields | more))


def acceptance(*spans: Span, account: str = "acme", transport: str = "grpc") -> Acceptance:
    return Acceptance(account, 77, list(spans), transport)


def close(
    *traces: tuple[int, int, int],
    charges: Iterable[Charge] = (),
    account: str = "acme",
    trigger: str = "root",
    **more: Any,
) -> Close:
    """A close of (trace, generation, spans)s."""
    return Close(
        account,
        tuple((TraceKey(account, trace_id(trace)), generation) for trace, generation, _ in traces),
        tuple(charges),
        more.pop("cumulative", {}),
        spans=tuple(spans for _, _, spans in traces),
        triggers=tuple(trigger for _ in traces),
        counters=more.pop("counters", {}),
        missing=tuple(more.pop("missing", ())),
    )


def lack(number: int, *, trace: int = 1, model: str | None = "gpt-4o") -> Lack:
    return Lack("acme", trace_id(trace), span_id(number), 5, model, "no_usage")


@asynccontextmanager
async def opened(folder: Path, **options: Any) -> AsyncIterator[SqliteJournal]:
    """The journal in this folder, with its replay done if it is asked for nothing else; stopped at the end."""
    journal = SqliteJournal(folder / "spantoll.db", clock=ManualClock(), **options)
    try:
        yield journal
    finally:
        await journal.stop()


class SlowCommit:
    """The next commit lasts until it is told to end: what is asked meanwhile waits for the one after it."""

    #: Nobody waits longer: that would be a hang.
    PATIENCE_SECONDS = 60.0

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._begun, self._may_end = threading.Event(), threading.Event()
        monkeypatch.setattr(faults, "time", SimpleNamespace(sleep=self._last))
        faults.arm("before_commit:delay@1")

    def _last(self, _seconds: float) -> None:
        self._begun.set()
        assert self._may_end.wait(self.PATIENCE_SECONDS)

    async def begun(self) -> None:
        """The writer is inside it."""
        assert await asyncio.to_thread(self._begun.wait, self.PATIENCE_SECONDS)

    def end(self) -> None:
        self._may_end.set()


class Restored:
    """What a replay gives."""

    def __init__(self, journal: SqliteJournal) -> None:
        self.remembered: dict[TraceKey, Remembered] = {}
        self.groups: list[set[bytes]] = []
        self.opened: list[Acceptance] = []
        self.progress: list[Progress] = []
        for step in journal.replay():
            if isinstance(step, Progress):
                self.progress.append(step)
            elif isinstance(step, Acceptance):
                self.opened.append(step)
            else:
                assert not self.opened, "what is remembered comes first"
                self.groups.append({one.key.trace_id for one in step})
                self.remembered |= {one.key: one for one in step}

    @property
    def open_ids(self) -> list[bytes]:
        """Span ids that are open, in order."""
        return [one.span_id for accepted in self.opened for one in accepted.spans]

    @property
    def ids(self) -> list[bytes]:
        """All span ids, those of released traces first."""
        return [one for row in self.remembered.values() for one in cut(row.ids)] + self.open_ids


def cut(packed: bytes) -> list[bytes]:
    return [packed[at : at + 8] for at in range(0, len(packed), 8)]


def charge_of(number: int, *, trace: int = 1, **more: Any) -> Charge:
    return charge(number, trace=trace, **more)


def shuffled(rng: random.Random, items: Iterable[Any]) -> list[Any]:
    found = list(items)
    rng.shuffle(found)
    return found
