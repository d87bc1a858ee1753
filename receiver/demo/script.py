"""What is played, and what it comes to: recorded exports, the truth beside them, and what a scrape shows of both."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from prometheus_client.parser import text_string_to_metric_families

from receiver import tables

#: In the truth: calls that the program made outside of any agent.
OUTSIDE: Final = ""


@dataclass
class Row:
    """What one agent spent."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_pusd: int = 0


@dataclass(frozen=True)
class Capture:
    """One recorded run of an agent program."""

    name: str
    transport: str  #: grpc, http (protobuf) or json
    shows: str
    exports: list[bytes]


def new_run(capture: Capture) -> list[bytes]:
    """The same program run once more: the capture's exports (protobuf) with trace and span ids of their own."""
    ids: dict[bytes, bytes] = {b"": b""}
    exports = []
    for body in capture.exports:
        request = ExportTraceServiceRequest.FromString(body)
        for span in spans_of(request):
            for name in ("trace_id", "span_id", "parent_span_id"):
                old = getattr(span, name)
                setattr(span, name, ids.setdefault(old, secrets.token_bytes(len(old)) if old else b""))
            for link in span.links:
                link.trace_id, link.span_id = ids.get(link.trace_id, link.trace_id), ids.get(link.span_id, link.span_id)
        exports.append(request.SerializeToString())
    return exports


def distinct_spans(capture: Capture, exports: Iterable[bytes]) -> int:
    """How many spans there are in exports of `capture`, those that were sent twice once."""
    ids: set[tuple[str | bytes, str | bytes]] = set()
    for body in exports:
        if capture.transport == "json":
            for resource in json.loads(body)["resourceSpans"]:
                for scope in resource["scopeSpans"]:
                    ids.update((span["traceId"], span["spanId"]) for span in scope["spans"])
        else:
            ids.update((span.trace_id, span.span_id) for span in spans_of(ExportTraceServiceRequest.FromString(body)))
    return len(ids)


def spans_of(request: ExportTraceServiceRequest) -> Iterator[Span]:
    """Every span of an export."""
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            yield from scope.spans


@dataclass(frozen=True)
class Script:
    """What is played, and what it comes to."""

    captures: list[Capture]
    truth: dict[str, Row]  #: by agent
    plain_sum_tokens: int  #: input + output of every span added up: what a sum over the spans would show

    @property
    def spans(self) -> int:
        """Distinct spans of all captures: what the accounts pay for."""
        return sum(distinct_spans(capture, capture.exports) for capture in self.captures)

    @classmethod
    def load(cls) -> Script:
        document = tables.load_json("demo.json.gz")
        captures = [
            Capture(each["name"], each["transport"], each["shows"], [base64.b64decode(body) for body in each["exports"]])
            for each in document["captures"]
        ]
        plain = document["plain_sum"]
        return cls(
            captures,
            {agent: Row(**row) for agent, row in document["agents"].items()},
            plain["input_tokens"] + plain["output_tokens"],
        )


@dataclass(frozen=True)
class Scrape:
    """What /metrics shows."""

    agents: dict[str, Row]
    models: dict[tuple[str, str], Row]  #: by (agent, model)
    open_traces: int
    provisional_usd: float
    duplicate_spans: int


def read_metrics(text: str) -> Scrape:
    """The few families that the demo shows, out of an exposition."""
    agents: dict[str, Row] = {}
    models: dict[tuple[str, str], Row] = {}
    single = {"spantoll_window_traces": 0.0, "spantoll_window_provisional_cost_usd": 0.0, "spantoll_receiver_duplicate_spans_total": 0.0}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = sample.labels
            if sample.name in single:
                single[sample.name] += sample.value
            elif sample.name in ("spantoll_calls_total", "spantoll_tokens_total", "spantoll_cost_usd_total"):
                for row in (
                    agents.setdefault(labels["agent"], Row()),
                    models.setdefault((labels["agent"], labels["model"]), Row()),
                ):
                    _add(row, sample.name, labels.get("type", ""), sample.value)
    traces, provisional, duplicates = single.values()
    return Scrape(agents, models, int(traces), provisional, int(duplicates))


def _add(row: Row, name: str, kind: str, value: float) -> None:
    if name == "spantoll_calls_total":
        row.calls += round(value)
    elif name == "spantoll_cost_usd_total":
        row.cost_pusd += round(value * 1e12)
    elif kind == "output":
        row.output_tokens += round(value)
    else:
        row.input_tokens += round(value)


def differences(truth: dict[str, Row], shown: dict[str, Row]) -> list[str]:
    """Where the scrape and the truth differ, a sentence each: every agent, and the total.

    Calls that were made outside of any agent (`OUTSIDE` in the truth) may go by any other name: the total holds them. Cost is
    exact to 1 pico-USD a call, the rounding of the list that the truth was priced with.
    """
    named = [(f"agent {agent}", want, shown.get(agent, Row())) for agent, want in sorted(truth.items()) if agent != OUTSIDE]
    found: list[str] = []
    for who, want, got in (*named, ("all", total(truth), total(shown))):
        found += [
            f"{who}: {getattr(got, name):,} {name} instead of {getattr(want, name):,}"
            for name in ("calls", "input_tokens", "output_tokens")
            if getattr(want, name) != getattr(got, name)
        ]
        if abs(want.cost_pusd - got.cost_pusd) > want.calls:
            found.append(f"{who}: {got.cost_pusd:,} pico-USD instead of {want.cost_pusd:,}")
    return found


def total(rows: dict[str, Row]) -> Row:
    """The sum over all agents."""
    return Row(*(sum(getattr(row, each.name) for row in rows.values()) for each in fields(Row)))
