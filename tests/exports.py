"""Export requests made by hand: spans of one agent and its model calls, as any instrumentation of the GenAI conventions writes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.fakes import UNIX_NANO

#: gpt-4o, 1,000 input and 500 output tokens, at 2.50 and 10 USD a million: 0.0075 USD.
CALL_PUSD = 7_500_000_000
SCOPE = "opentelemetry.instrumentation.genai.openai"


def attribute(key: str, value: Any) -> KeyValue:
    return KeyValue(key=key, value=any_value(value))


def any_value(value: Any) -> AnyValue:
    match value:
        case bool():
            return AnyValue(bool_value=value)
        case int():
            return AnyValue(int_value=value)
        case float():
            return AnyValue(double_value=value)
        case bytes():
            return AnyValue(bytes_value=value)
        case list():
            return AnyValue(array_value=ArrayValue(values=[any_value(each) for each in value]))
        case _:
            return AnyValue(string_value=value)


def span(
    trace: int, number: int, attributes: Mapping[str, Any] | None = None, *, parent: int = 0, start: int = UNIX_NANO, name: str = "a span"
) -> Span:
    """A span; `trace`, `number` and `parent` become ids, `start` is in Unix nanoseconds."""
    return Span(
        trace_id=trace.to_bytes(16, "big"),
        span_id=number.to_bytes(8, "big"),
        parent_span_id=parent.to_bytes(8, "big") if parent else b"",
        name=name,
        kind=Span.SPAN_KIND_CLIENT,
        start_time_unix_nano=start + number * 1_000_000,
        end_time_unix_nano=start + number * 1_000_000 + 500_000,
        attributes=[attribute(key, value) for key, value in (attributes or {}).items()],
    )


def model_call(trace: int, number: int, *, parent: int = 0, model: Any = "gpt-4o", start: int = UNIX_NANO, **more: Any) -> Span:
    """A chat call of CALL_PUSD; in the names of `more` two underscores stand for a dot."""
    attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": model,
        "gen_ai.response.model": model,
        "gen_ai.response.id": f"resp-{trace}-{number}",
        "gen_ai.usage.input_tokens": 1_000,
        "gen_ai.usage.output_tokens": 500,
    }
    return span(
        trace, number, attributes | {key.replace("__", "."): value for key, value in more.items()}, parent=parent, start=start, name="chat"
    )


def agent(trace: int, number: int, name: str = "planner", *, start: int = UNIX_NANO) -> Span:
    """The root of a trace."""
    return span(
        trace, number, {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": name}, start=start, name=f"invoke_agent {name}"
    )


def request(spans: Iterable[Span], *, service: str = "app", scope: str = SCOPE, version: str = "1.3.0") -> ExportTraceServiceRequest:
    """The message with one resource and one scope."""
    message = ExportTraceServiceRequest()
    resource = message.resource_spans.add()
    resource.resource.attributes.append(attribute("service.name", service))
    scoped = resource.scope_spans.add()
    scoped.scope.name, scoped.scope.version = scope, version
    scoped.spans.extend(spans)
    return message


def export(*spans: Span, **more: str) -> bytes:
    """The body of a request."""
    return request(spans, **more).SerializeToString()
