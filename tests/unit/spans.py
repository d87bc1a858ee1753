"""Spans made by hand: the same objects that the decoder makes, read by the same Reader, or given a Reading of the test's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from receiver.core.calls import Counted, CountOptions, LLMCall, count
from receiver.core.span import Source, Span, Value
from receiver.core.usage import Klass, Reader, Reading, Rules, Tokens
from receiver.core.window.group import Group, ReleasedTrace, TraceKey, Trigger
from receiver.tables import load_toml

if TYPE_CHECKING:
    from collections.abc import Mapping

MS = 1_000_000
T0 = 1_790_000_000_000_000_000  #: when all hand-made traces start


@cache
def rules() -> Rules:
    """The packaged tables."""
    return Rules.from_tables(load_toml("usage.toml"))


@cache
def reader() -> Reader:
    """One Reader for all tests: it only caches."""
    return Reader(rules())


def tokens(total_in: int, out: int, *, read: int = 0, write: int = 0, write_5m: int = 0, write_1h: int = 0, reasoning: int = 0) -> Tokens:
    """Buckets of a call with `total_in` input tokens, the cached ones included; `write` is of unknown life."""
    return Tokens(
        input_total=total_in,
        uncached=total_in - read - write - write_5m - write_1h,
        cache_read=read,
        cache_write_unknown=write,
        cache_write_5m=write_5m,
        cache_write_1h=write_1h,
        output_total=out,
        reasoning=reasoning,
    )


def reading(klass: str = "L", usage: Tokens | None = None, **more: Any) -> Reading:
    """A Reading as a Reader would give it, of a known emitter."""
    more.setdefault("models", ("gpt-4o",) if klass == "L" else ())
    return Reading(klass=Klass(klass), tokens=usage, **more)


@dataclass
class Story:
    """What one account's spans tell: add spans, then count."""

    spans: list[Span] = field(default_factory=list)
    _ids: int = 0
    _sources: dict[tuple[object, ...], Source] = field(default_factory=dict)

    def span(
        self,
        what: Reading | Mapping[str, Value],
        *,
        under: Span | bytes | None = None,
        trace: int = 1,
        scope: str = "opentelemetry.instrumentation.openai.v1",
        version: str = "0.62.4",
        service: str = "app",
        name: str = "span",
        at: tuple[float, float] = (0, 100),
        kind: int = 3,
        status: int = 0,
        sampled: bool = False,
        dropped: int = 0,
        span_id: bytes | None = None,
        resource: Mapping[str, Value] | None = None,
    ) -> Span:
        """Add a span. `what`: its Reading, or attributes to be read; `at`: start and end in ms; `under`: parent, b"..." for a lost one."""
        self._ids += 1
        key = (scope, version, service, str(resource))
        source = self._sources.get(key)
        if source is None:
            source = Source(resource={"service.name": service, **(resource or {})}, scope=scope, scope_version=version)
            self._sources[key] = source
        made = Span(
            source,
            trace.to_bytes(16, "big"),
            span_id or self._ids.to_bytes(8, "big"),
            under.span_id if isinstance(under, Span) else under or b"",
            name,
            kind,
            T0 + round(at[0] * MS),
            T0 + round(at[1] * MS),
            () if isinstance(what, Reading) else tuple(what.items()),
            0,
            status,
            dropped,
            sampled,
            500,
            0,
        )
        if isinstance(what, Reading):
            made.reading = what
        else:
            reader().read(made)
        self.spans.append(made)
        return made

    def count(self, **options: Any) -> Counted:
        """Count everything as one Group, released once."""
        return count(group(self.spans), rules=rules(), last_values=no_value, options=CountOptions(**options))


def no_value(_key: tuple[str, ...]) -> tuple[int, ...] | None:
    """No cumulative source was seen before."""
    return None


def group(spans: list[Span], *, account: str = "default") -> Group:
    """All spans as one Group of traces that were never released before."""
    traces: dict[bytes, list[Span]] = {}
    for span in spans:
        traces.setdefault(span.trace_id, []).append(span)
    return Group(account, tuple(released(key, own, account=account) for key, own in traces.items()))


def released(
    trace_id: bytes,
    spans: list[Span],
    *,
    account: str = "default",
    generation: int = 0,
    earlier: tuple[Span, ...] = (),
    charged: frozenset[bytes] = frozenset(),
) -> ReleasedTrace:
    """One trace as the window lets it go."""
    return ReleasedTrace(
        key=TraceKey(account, trace_id),
        trigger=Trigger.ROOT,
        generation=generation,
        spans=tuple(spans),
        earlier=earlier,
        charged=charged,
    )


class Books:
    """Release a story in several generations, as the window does when spans come late, and keep what was charged."""

    def __init__(self) -> None:
        self.earlier: dict[bytes, list[Span]] = {}
        self.charged: dict[bytes, set[bytes]] = {}
        self.generation: dict[bytes, int] = {}
        self.values: dict[tuple[str, ...], tuple[int, ...]] = {}
        self.calls: list[LLMCall] = []

    def release(self, spans: list[Span]) -> Counted:
        """Release these new spans, with all earlier ones of every trace so far, as one Group."""
        new: dict[bytes, list[Span]] = {}
        for span in spans:
            new.setdefault(span.trace_id, []).append(span)
        traces = [
            released(
                trace_id,
                new.get(trace_id, []),
                generation=self.generation.get(trace_id, 0),
                earlier=tuple(self.earlier.get(trace_id, ())),
                charged=frozenset(self.charged.get(trace_id, ())),
            )
            for trace_id in dict.fromkeys([*self.earlier, *new])
        ]
        counted = count(Group("default", tuple(traces)), rules=rules(), last_values=self.values.get)
        self.values.update(counted.cumulative)
        self.calls += counted.calls
        for call in counted.calls:
            self.charged.setdefault(call.span.trace_id, set()).add(call.span.span_id)
        for trace_id, own in new.items():
            self.earlier.setdefault(trace_id, []).extend(own)
            self.generation[trace_id] = self.generation.get(trace_id, 0) + 1
        return counted


def buckets(calls: list[LLMCall]) -> tuple[int, int, int, int]:
    """Uncached, cache read, cache written, output: summed over calls."""
    used = [call.reading.tokens or Tokens() for call in calls]
    return (
        sum(one.uncached for one in used),
        sum(one.cache_read for one in used),
        sum(one.cache_write for one in used),
        sum(one.output_total for one in used),
    )
