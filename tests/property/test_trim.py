"""What is cut down when it is decoded says what it said before, and holds nothing that nobody reads."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from receiver import app
from receiver.config import Config
from receiver.core.span import Source, Span, Value
from receiver.core.usage import Reader
from receiver.otlp.anyvalue import cut
from receiver.otlp.decode import run
from tests.exports import attribute, model_call, request
from tests.otlp_json import as_otlp_json

THEORY = app.theory(Config())
RULES, NAMES = THEORY.rules, THEORY.attribution
READER = Reader(RULES)

BOXES = (
    "gen_ai.usage.raw",
    "gen_ai.usage",
    "ai.response.providerMetadata",
    "ai.response.providerMetadata.anthropic",
    "mlflow.chat.tokenUsage",
)
COSTS = tuple(RULES.cost_json)
CONTAINERS = tuple(sorted(NAMES.containers))
PROSE = "my secret is 12345"

counts = st.sampled_from(sorted(RULES.boxes.counts | {"input_tokens", "prompt_tokens"}))
buckets = st.sampled_from(sorted(RULES.langfuse))
others = st.sampled_from(
    ["citations", "text", "a.b", "usage", "input_tokens_details", "service_tier", "speed", "x.input_tokens", "input_x", "o", ""]
)
labels = st.sampled_from(
    ["user_id", "tenant", "session.id", "requester_metadata", "tags", "langgraph_node", "agent_name", "model", "total", "version"]
)
names = st.one_of(counts, buckets, others, labels)
scalars: st.SearchStrategy[Any] = st.one_of(
    st.integers(-2, 5_000), st.floats(0, 1e6), st.booleans(), st.none(),
    st.sampled_from([PROSE, "12", "7.5", "batch", "fast", "auto", "", " gpt-4o ", "None", "feature:x", "ü"]),
)  # fmt: skip
objects = st.recursive(
    st.dictionaries(names, scalars, max_size=5),
    lambda inner: st.dictionaries(names, st.one_of(scalars, inner, st.lists(st.one_of(scalars, inner), max_size=2)), max_size=5),
    max_leaves=12,
)


def spelled(found: dict[str, Any], how: str, limit: int) -> Value:
    """As instrumentations write an object: JSON, JSON in JSON, a Python repr, a kvlist, JSON that a limit has cut, a list."""
    text: Value
    if how == "kvlist":
        return found
    if how == "repr":
        text = repr(found)
    elif how == "listed":
        text = json.dumps([found])
    else:
        text = json.dumps(found)
    if how == "twice":
        text = json.dumps(text)
    return cut(text.encode(), limit if how != "cut" else 30).decode()


def span(attributes: tuple[tuple[str, Value], ...]) -> Span:
    source = Source(resource={}, scope="x", scope_version="1")
    return Span(source, bytes(15) + b"\1", bytes(7) + b"\1", b"", "chat", 3, 1, 2, attributes, 0, 0, 0, False, 0, 0)


def trimmed(pair: tuple[str, Value]) -> tuple[str, Value]:
    trim = THEORY.trim_of(pair[0])
    assert trim is not None
    return pair[0], trim(pair[1])


@settings(max_examples=400, deadline=None)
@given(
    key=st.sampled_from([*BOXES, RULES.langfuse_key, *COSTS, *CONTAINERS, *RULES.model_parameters, "langfuse.trace.tags"]),
    found=objects,
    how=st.sampled_from(["json", "twice", "repr", "kvlist", "cut", "listed"]),
    stated=st.integers(0, 50),
)
@example(key="gen_ai.usage.raw", found={"a": {"b": {"input_tokens": 3}}, "input_tokens": []}, how="json", stated=3)
@example(key="langfuse.observation.usage_details", found={"input": 3, "input_tokens_details": {"o": 1}}, how="json", stated=0)
@example(key="metadata", found={"tags": ["secret", "feature:x"], "user_id": "\ud800"}, how="json", stated=0)
def test_what_is_kept_says_the_same(key: str, found: dict[str, Any], how: str, stated: int) -> None:
    """The reading and the facts of a span are those of the whole value, beside a plain count or alone; trimming again changes nothing."""
    pair = (key, spelled(found, how, RULES.limit_of(key) or 65_536))
    less = trimmed(pair)
    assert trimmed(less) == less
    for beside in ((), (("gen_ai.usage.input_tokens", stated), ("gen_ai.operation.name", "chat"))):
        whole, cut_down = span((*beside, pair)), span((*beside, less))
        assert READER.read(whole) == READER.read(cut_down)
        assert NAMES.facts(whole) == NAMES.facts(cut_down)


@pytest.mark.parametrize("key", [*BOXES, RULES.langfuse_key, *COSTS, *CONTAINERS, *RULES.model_parameters])
@pytest.mark.parametrize("how", ["json", "twice", "repr", "kvlist", "cut"])
def test_nothing_else_is_kept(key: str, how: str) -> None:
    """What was said stays out, in values of any kind, at any depth, and in what was no object at all."""
    found: dict[str, Any] = {
        "answer": {"x": PROSE, "input_tokens": PROSE, "input": PROSE, "output_tokens": 2, "user_id": [PROSE]},
        "messages": [{"role": "user", "content": PROSE}],
        "input_tokens": PROSE,
        "total": PROSE,
        "total_cost": PROSE,
        "service_tier": PROSE,
        "tags": [PROSE, PROSE],
        "note": PROSE.encode() if how == "kvlist" else PROSE,
        "prompt": {"model": PROSE},
    }
    assert "secret" not in repr(trimmed((key, spelled(found, how, RULES.limit_of(key) or 65_536)))[1])
    assert "secret" not in repr(trimmed((key, PROSE))[1])
    assert "secret" not in repr(trimmed((key, [PROSE]))[1])


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize("where", ["span", "resource", "scope"])
def test_it_is_cut_down_before_it_is_held(where: str, long: bool) -> None:
    """Both encodings, short and long, on spans, resources and scopes, met before or not: memory holds what is read, and counts that."""
    held = {"user_id": "ann", "note": PROSE * (500 if long else 1)}
    given = [attribute("metadata", json.dumps(held)), attribute("llm.invocation_parameters", json.dumps({"temperature": 1, "x": PROSE}))]
    message = request([model_call(1, 1)])
    resource_spans = message.resource_spans[0]
    scope_spans = resource_spans.scope_spans[0]
    {"span": scope_spans.spans[0], "resource": resource_spans.resource, "scope": scope_spans.scope}[where].attributes.extend(given)
    decoder = app.decoder(Config(), THEORY)
    sizes = set()
    for _ in range(2):
        for export in (
            run(decoder.protobuf(message.SerializeToString(), received_unix_nano=1)),
            run(decoder.json(as_otlp_json(message.SerializeToString()), received_unix_nano=1)),
        ):
            (decoded,) = export.spans
            source = decoded.source
            found = {"span": dict(decoded.attributes), "resource": source.resource, "scope": source.attributes}[where]
            assert found["metadata"] == '{"user_id":"ann"}'
            assert found["llm.invocation_parameters"] == ""
            assert "secret" not in repr((decoded.attributes, source.resource, source.attributes))
            sizes.add(decoded.size)
    assert max(sizes) < 4_000
