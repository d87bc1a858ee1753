"""Attribution remembers by shapes and skips what no span's keys could say: that changes no answer."""

from __future__ import annotations

from functools import cache
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from receiver.core.attribution import AttributionRules, Charge, attribute, slots
from receiver.core.calls.call import LLMCall
from receiver.core.calls.tree import Tree
from receiver.core.prices.priced import Basis, PricedCall, Quote
from receiver.core.span import Source, Span
from receiver.core.usage import Klass, Tokens
from receiver.core.usage.reading import Reading
from receiver.tables import load_toml
from tests.unit.spans import group, reader

QUOTE = Quote(basis=Basis.LIST, cost_pusd=1, source="genai-prices", version="1", model="gpt-4o", provider="openai")
#: Keys of every strength, of a kind, a conversation, a container, a tool, an agent and a graph.
KEYS = (
    "spantoll.tenant", "spantoll.session", "user.id", "enduser.id", "session.id", "gen_ai.conversation.id", "gen_ai.agent.name",
    "gen_ai.operation.name", "gen_ai.tool.name", "metadata", "langgraph_node", "gen_ai.workflow.name", "app.tenant", "gen_ai.request.model",
)  # fmt: skip
VALUES = ("one", "two", "chat", "execute_tool", "invoke_agent", '{"session_id": "three", "tenant_id": "four"}', "none", 7, ["one"])
NAMES = ("chat gpt-4o", "invoke_agent planner", "execute_tool look_up", "GET /", "")
SOURCES = (
    Source(resource={"service.name": "shop"}, scope="some.scope", scope_version="1"),
    Source(resource={"service.name": "shop", "user.id": "of the resource"}, scope="other.scope", scope_version="1"),
)
SPANS = st.tuples(
    st.sampled_from(NAMES),
    st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(VALUES)), max_size=5),
    st.sampled_from(Klass),
    st.sampled_from(SOURCES),
    st.integers(0, 11),
    st.integers(0, 1),
)


@cache
def rules() -> AttributionRules:
    return AttributionRules.from_tables(load_toml("attribution.toml"), {"tenant": ["app.tenant"]})


def made(told: list[Any], *, with_keys: bool) -> list[Span]:
    """The spans of two traces; each has the parent that was drawn for it, if that came before it in its trace."""
    spans: list[Span] = []
    for number, (name, attributes, klass, source, parent, trace) in enumerate(told, 1):
        above = next((one for one in spans if one.span_id[-1] == parent and one.trace_id[-1] == trace + 1), None)
        span = Span(
            source, (trace + 1).to_bytes(16, "big"), number.to_bytes(8, "big"), above.span_id if above else b"", name, 1,
            number, 1_000 - number, tuple(attributes), 0, 0, 0, False, 100, 0,
        )  # fmt: skip
        if with_keys:
            reader().read(span)
        span.reading = Reading(klass=klass, tokens=Tokens(input_total=1, uncached=1))
        spans.append(span)
    return spans


def charges(spans: list[Span], using: AttributionRules) -> list[Charge]:
    tree = Tree(group(spans))
    calls = [span for span in spans if span.reading is not None and span.reading.klass is Klass.MODEL_CALL]
    return attribute([PricedCall(LLMCall(account="a", span=span, reading=span.reading, tree=tree), QUOTE) for span in calls], using)  # type: ignore[arg-type]  # has a reading


@given(st.lists(SPANS, min_size=1, max_size=10))
@settings(max_examples=200)
def test_what_is_remembered_and_skipped_changes_no_answer(told: list[Any]) -> None:
    """Rules that have met everything before, by objects of keys, say what new ones say of spans that nobody read and all are asked."""
    found = charges(made(told, with_keys=True), rules())
    fresh = AttributionRules.from_tables(load_toml("attribution.toml"), {"tenant": ["app.tenant"]})
    with mock.patch.object(AttributionRules, "fillable", return_value=slots.EVERY):
        assert charges(made(told, with_keys=False), fresh) == found
        assert charges(made(told, with_keys=True), rules()) == found
