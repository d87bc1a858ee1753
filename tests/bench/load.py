"""What is sent: request bodies with any number of spans in each, and what they are worth.

A load is played in *cycles*. A cycle always has the same spans, but every id in it is new (trace, span, parent, link and response ids,
and their hexadecimal text inside attributes), so that nothing is a duplicate and every table of ids meets keys in random order.
Bodies are serialized once; a cycle is made by writing new ids over the old ones in place, at about 1 us a span.

* `Generated`: traces of 8 spans (an agent, its helper, four model calls, two tools), 16 attributes each, leaves first as SDKs export
  them. Usage stands on the chats alone, nothing is cached and list prices are known, so its worth is a plain sum, made here.
* `Captures`: the recorded exports of `tests/data/captures`, their spans in order of arrival, cut anew. What they are worth is what the
  same bodies come to as files (`spantoll attribute`); other tests hold that against the truth. Each cycle happens an hour
  before the last one, so that the copies of one call do not look like two tellers of one.
"""

from __future__ import annotations

import math
import random
import struct
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Protocol

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from receiver import app
from receiver.config import Config
from receiver.core.usage import Reader
from receiver.otlp.decode import run
from tests.bench.books import Books, of_files
from tests.captures import all_bodies, scenarios

#: 1 is an exporter without batching, 5 a typical short trace, 64 and 512 batches of SDKs under load.
BATCHES: Final = (1, 5, 64, 512)
NAMES: Final = ("generated", "captures")

SPANS_A_TRACE: Final = 8
ATTRIBUTES_A_SPAN: Final = 16
#: Least traces in a cycle of the generated load: its numbers repeat after that many.
LEAST_TRACES: Final = 64
#: How much earlier each cycle of the captures happens than the one before it.
CYCLE_NANO: Final = 3_600 * 10**9
#: Characters at the end of a response id that are new in each cycle.
FRESH_TEXT: Final = 12


class Load(Protocol):
    """Bodies of export requests without end, cycle by cycle."""

    name: str
    batch: int  #: spans a request; the last request of a cycle may have fewer
    spans: int  #: in one cycle
    distinct: int  #: of those, without the ones that an exporter had sent twice

    def cycle(self) -> list[bytes]:
        """The next cycle's bodies, in the order in which they are to be sent."""

    def worth(self, cycles: Sequence[Sequence[bytes]]) -> Books:
        """What these cycles' calls used and cost."""


def load(name: str, batch: int, *, seed: int) -> Load:
    """The load of that name, with `batch` spans in each request. The ids of one seed are always the same."""
    return Generated(batch, seed=seed) if name == "generated" else Captures(batch, seed=seed)


def cycles_of(spans: int, one: Load) -> int:
    """Whole cycles that hold at least so many spans."""
    return max(1, -(-spans // one.spans))


# --- ids that are new in each cycle -----------------------------------------------------------------------------------------


class Ids:
    """Placeholders that stand in ready bodies, and new values of the same length to write over them."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._cycle = 0
        self._places: dict[bytes, int] = {}  #: placeholder -> its index in the values of a cycle
        self._raw: list[int] = []  #: sizes; the value after each is the hexadecimal text of it
        self._texts: list[bytes] = []
        self._moments: list[int] = []
        self._values: list[bytes] = []

    def add(self, raw: Iterable[bytes], texts: Iterable[str] = (), moments: Iterable[int] = ()) -> None:
        """Everything that changes from cycle to cycle; to be told once, before the first body is marked."""
        raw, texts = sorted(set(raw) - {b""}), sorted({text for text in texts if len(text) >= 2 * FRESH_TEXT})
        self._raw = [len(each) for each in raw]
        self._texts = [text.encode()[:-FRESH_TEXT] for text in texts]
        self._moments = sorted(set(moments) - {0})
        stand_ins = [form for each in raw for form in (each, each.hex().encode())]
        stand_ins += [text.encode() for text in texts]
        stand_ins += [struct.pack("<Q", moment) for moment in self._moments]
        self._places = {stand_in: at for at, stand_in in enumerate(stand_ins)}

    def marked(self, body: bytes, spans: Iterable[tuple[Span, str]]) -> Template:
        """Where placeholders stand in this body: each span's own within its bytes. `spans`: in order, each with its response id or ""."""
        spots: list[tuple[int, int, int]] = []
        end = 0
        for span, text in spans:
            part = span.SerializeToString()
            begin = body.index(part, end)
            end = begin + len(part)
            for stand_in in _stand_ins(span, text):
                place = self._places.get(stand_in)
                at = -1 if place is None else part.find(stand_in)
                while at >= 0 and place is not None:
                    spots.append((begin + at, begin + at + len(stand_in), place))
                    at = part.find(stand_in, at + 1)
        return Template(body, _apart(spots))

    def renew(self) -> Sequence[bytes]:
        """The values of the next cycle."""
        bytes_of = self._rng.randbytes
        values: list[bytes] = []
        for size in self._raw:
            value = bytes_of(size)
            values += (value, value.hex().encode())
        values += [begin + bytes_of(FRESH_TEXT // 2).hex().encode() for begin in self._texts]
        shift = self._cycle * CYCLE_NANO
        values += [struct.pack("<Q", moment - shift) for moment in self._moments]
        self._cycle += 1
        return values


def _apart(spots: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """In order; of two that overlap only the first (of the longest): an id inside the text of another one."""
    found: list[tuple[int, int, int]] = []
    for spot in sorted(spots, key=lambda spot: (spot[0], -spot[1])):
        if not found or spot[0] >= found[-1][1]:
            found.append(spot)
    return found


class Template:
    """A body and the spots where its ids stand."""

    def __init__(self, body: bytes, spots: Sequence[tuple[int, int, int]]) -> None:
        self._body = bytearray(body)
        self._spots = spots

    def filled(self, values: Sequence[bytes]) -> bytes:
        """The body with these values for ids."""
        body = self._body
        for start, end, place in self._spots:
            body[start:end] = values[place]
        return bytes(body)


def _raw_ids(span: Span) -> Iterator[bytes]:
    yield from (span.trace_id, span.span_id, span.parent_span_id)
    for link in span.links:
        yield from (link.trace_id, link.span_id)


def _moments(span: Span) -> Iterator[int]:
    yield from (span.start_time_unix_nano, span.end_time_unix_nano)
    yield from (event.time_unix_nano for event in span.events)


def _stand_ins(span: Span, text: str) -> set[bytes]:
    """All placeholders that can stand in a span's bytes."""
    raw = set(_raw_ids(span)) - {b""}
    return raw | {each.hex().encode() for each in raw} | {struct.pack("<Q", moment) for moment in _moments(span)} | {text.encode()}


# --- the generated load -----------------------------------------------------------------------------------------------------

#: Model -> its provider as spans name it, and USD per million tokens of input and of output (the providers' price pages, 2025-2026).
MODELS: Final = {
    "gpt-4o": ("openai", "2.5", "10"),
    "gpt-4o-mini": ("openai", "0.15", "0.6"),
    "claude-sonnet-4-5": ("anthropic", "3", "15"),
    "gemini-2.5-flash": ("google", "0.3", "2.5"),
}
#: Who leads a trace, and who helps.
CREWS: Final = (("planner", "researcher"), ("triage", "writer"), ("coder", "reviewer"), ("analyst", "charter"))
TOOLS: Final = ("search_web", "read_file", "query_orders", "run_tests")

#: A trace in the order in which its spans end: what it is, whether the helper does it, and the place of its parent.
SHAPE: Final = (
    ("chat", True, 3), ("tool", True, 3), ("chat", True, 3), ("agent", True, 7),
    ("chat", False, 7), ("tool", False, 7), ("chat", False, 7), ("agent", False, None),
)  # fmt: skip

Value = str | int | float | bool | list[str]


class Generated:
    """Spans as a clean instrumentation makes them (semantic conventions of GenAI, 1.37 and later)."""

    name = "generated"

    def __init__(self, batch: int, *, seed: int) -> None:
        self.batch = batch
        traces = math.lcm(SPANS_A_TRACE, batch) // SPANS_A_TRACE
        traces *= -(-LEAST_TRACES // traces)
        self.spans = self.distinct = traces * SPANS_A_TRACE
        self._books: Books = Counter()
        self._ids = Ids(seed)
        spans = list(self._made(traces, begin=time.time_ns() - 600 * 10**9))
        self._ids.add(raw for span in spans for raw in _raw_ids(span))
        self._templates = []
        for at in range(0, len(spans), batch):
            request = ExportTraceServiceRequest()
            resource_spans = request.resource_spans.add()
            resource_spans.resource.attributes.extend(
                _pairs(
                    {
                        "service.name": "assistants",
                        "service.version": "2026.11",
                        "host.name": "worker-1",
                        "telemetry.sdk.language": "python",
                    }
                )
            )
            scope_spans = resource_spans.scope_spans.add()
            scope_spans.scope.name, scope_spans.scope.version = "assistants.telemetry", "1.0.0"
            scope_spans.spans.extend(spans[at : at + batch])
            self._templates.append(self._ids.marked(request.SerializeToString(), ((span, "") for span in spans[at : at + batch])))

    def cycle(self) -> list[bytes]:
        values = self._ids.renew()
        return [template.filled(values) for template in self._templates]

    def worth(self, cycles: Sequence[Sequence[bytes]]) -> Books:
        return Counter({key: amount * len(cycles) for key, amount in self._books.items()})

    def _made(self, traces: int, *, begin: int) -> Iterator[Span]:
        rng = random.Random(8)  # the same spans in every run
        for number in range(traces):
            trace_id = rng.randbytes(16)
            span_ids = [rng.randbytes(8) for _ in SHAPE]
            lead, helper = CREWS[number % len(CREWS)]
            for place, (kind, by_helper, parent) in enumerate(SHAPE):
                agent = helper if by_helper else lead
                model = rng.choice(list(MODELS))
                start = begin + number * 1_000_000 + place * 20_000_000
                attributes = self._attributes(rng, kind, number, agent=agent, model=model, trace_id=trace_id, span_id=span_ids[place])
                assert len(attributes) == ATTRIBUTES_A_SPAN
                yield Span(
                    trace_id=trace_id,
                    span_id=span_ids[place],
                    parent_span_id=b"" if parent is None else span_ids[parent],
                    name=f"{attributes['gen_ai.operation.name']} {model if kind == 'chat' else agent}",
                    kind=Span.SPAN_KIND_CLIENT if kind == "chat" else Span.SPAN_KIND_INTERNAL,
                    flags=0x101,  # sampled; the parent is known to be local
                    start_time_unix_nano=start,
                    end_time_unix_nano=start + 15_000_000,
                    attributes=_pairs(attributes),
                )

    def _attributes(
        self, rng: random.Random, kind: str, number: int, *, agent: str, model: str, trace_id: bytes, span_id: bytes
    ) -> dict[str, Value]:
        provider, input_price, output_price = MODELS[model]
        everywhere: dict[str, Value] = {
            "gen_ai.provider.name": provider,
            "gen_ai.agent.name": agent,
            "gen_ai.agent.id": f"agent-{agent}-17",
            "gen_ai.conversation.id": f"conversation-{trace_id.hex()}",
            "user.id": f"user-{number % 16:04}",
            "session.id": f"session-{number % 32:06}",
            "app.tenant": f"tenant-{number % 4}",
            "deployment.environment.name": "production",
        }
        if kind == "chat":
            input_tokens, output_tokens = rng.randint(200, 8_000), rng.randint(10, 900)
            cost_pusd = input_tokens * _pusd(input_price) + output_tokens * _pusd(output_price)
            for measure, amount in (("calls", 1), ("input_uncached", input_tokens), ("output", output_tokens), ("cost_pusd", cost_pusd)):
                self._books[measure, agent, model] += amount
            return {
                "gen_ai.operation.name": "chat",
                **everywhere,
                "gen_ai.request.model": model,
                "gen_ai.response.model": model,
                "gen_ai.response.id": f"response-{span_id.hex()}",
                "gen_ai.response.finish_reasons": ["stop"],
                "gen_ai.usage.input_tokens": input_tokens,
                "gen_ai.usage.output_tokens": output_tokens,
                "gen_ai.request.temperature": 0.2,
            }
        more: dict[str, Value] = {"app.feature": f"feature-{number % 4}", "app.workflow": f"workflow-{number % 8}"}
        if kind == "tool":
            more |= {"gen_ai.tool.name": rng.choice(TOOLS), "gen_ai.tool.type": "function", "gen_ai.tool.call.id": f"call-{span_id.hex()}"}
            more |= {"app.tool.retries": 0, "app.tool.cached": False}
            return {"gen_ai.operation.name": "execute_tool", **everywhere, **more}
        more |= {"gen_ai.agent.description": "Answers, and delegates", "gen_ai.agent.version": "3"}
        more |= {"app.release": "2026.11.3", "app.team": "assistants", "app.stage": "stable"}
        return {"gen_ai.operation.name": "invoke_agent", **everywhere, **more}


def _pusd(usd_per_million: str) -> int:
    """USD per million tokens is, times a million, pico-USD a token."""
    return round(float(usd_per_million) * 10**6)


def _pairs(attributes: dict[str, Value]) -> list[KeyValue]:
    return [KeyValue(key=key, value=_any(value)) for key, value in attributes.items()]


def _any(value: Value) -> AnyValue:
    if isinstance(value, bool):  # before int, which it is too
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    if isinstance(value, str):
        return AnyValue(string_value=value)
    return AnyValue(array_value=ArrayValue(values=[_any(each) for each in value]))


# --- the captures -----------------------------------------------------------------------------------------------------------


class Captures:
    """Spans as real instrumentations sent them, prompts and answers included."""

    name = "captures"

    def __init__(self, batch: int, *, seed: int) -> None:
        self.batch = batch
        self._ids = Ids(seed)
        recorded = all_bodies(scenarios())
        texts = _response_ids(recorded)
        rows = [row for body in recorded for row in _rows(ExportTraceServiceRequest.FromString(body))]
        self.spans = len(rows)
        spans = [span for _, _, span in rows]
        self.distinct = len({(span.trace_id, span.span_id) for span in spans})
        self._ids.add(
            (raw for span in spans for raw in _raw_ids(span)), texts.values(), (moment for span in spans for moment in _moments(span))
        )
        self._templates = []
        for at in range(0, len(rows), batch):
            cut = rows[at : at + batch]
            self._templates.append(self._ids.marked(_joined(cut), ((span, texts.get(span.span_id, "")) for _, _, span in cut)))

    def cycle(self) -> list[bytes]:
        values = self._ids.renew()
        return [template.filled(values) for template in self._templates]

    def worth(self, cycles: Sequence[Sequence[bytes]]) -> Books:
        return of_files(cycles)


Row = tuple[ResourceSpans, ScopeSpans, Span]


def _rows(request: ExportTraceServiceRequest) -> Iterator[Row]:
    for resource_spans in request.resource_spans:
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                yield resource_spans, scope_spans, span


def _joined(rows: Iterable[Row]) -> bytes:
    """One request with these spans; neighbours of one resource and scope share them, as in a collector's batch."""
    request = ExportTraceServiceRequest()
    last: tuple[ResourceSpans | None, ScopeSpans | None] = (None, None)
    for resource_spans, scope_spans, span in rows:
        if last[0] is None or resource_spans.resource != last[0].resource:
            request.resource_spans.add(resource=resource_spans.resource, schema_url=resource_spans.schema_url)
            last = (resource_spans, None)
        if last[1] is None or scope_spans.scope != last[1].scope:
            request.resource_spans[-1].scope_spans.add(scope=scope_spans.scope, schema_url=scope_spans.schema_url)
            last = (resource_spans, scope_spans)
        request.resource_spans[-1].scope_spans[-1].spans.append(span)
    return request.SerializeToString()


def _response_ids(bodies: Iterable[bytes]) -> dict[bytes, str]:
    """The response id of each span that has one, as our own rules read it: what ties two tellers of one call together."""
    theory = app.theory(Config())
    decoder, reader = app.decoder(Config(), theory), Reader(theory.rules)
    found: dict[bytes, str] = {}
    for body in bodies:
        for span in run(decoder.protobuf(body, received_unix_nano=0)).spans:
            response_id = reader.read(span).response_id
            if response_id:
                found[span.span_id] = response_id
    return found
