"""Who spent it: agents by name, node and place; users and sessions by strength, then nearness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import pytest

from receiver.core.attribution import AttributionRules, Charge, attribute
from receiver.core.calls.call import Doubt, LLMCall
from receiver.core.calls.tree import Tree
from receiver.core.prices.priced import Basis, PricedCall, Quote
from receiver.core.span import Source, Span, Value
from receiver.core.usage.reading import CacheMode, Klass, Reading, Tokens
from receiver.core.window.group import Group, ReleasedTrace, TraceKey, Trigger
from receiver.tables import load_toml

QUOTE = Quote(basis=Basis.LIST, cost_pusd=7, source="genai-prices", version="1", model="gpt-4o", provider="openai")


@cache
def packaged() -> AttributionRules:
    return AttributionRules.from_tables(load_toml("attribution.toml"))


class Told:
    """Spans of one account, and who spent what they cost."""

    def __init__(self, **resource: Value) -> None:
        self.resource = {"service.name": "shop", **resource}
        self.spans: list[Span] = []

    def span(
        self,
        name: str = "span",
        attributes: Mapping[str, Value] | Sequence[tuple[str, Value]] = (),
        *,
        under: Span | None = None,
        klass: str = "N",
        trace: int = 1,
        scope: str = "some.scope",
        resource: Mapping[str, Value] | None = None,
        status: int = 0,
        kind: int = 1,
    ) -> Span:
        pairs = tuple(attributes.items()) if isinstance(attributes, Mapping) else tuple(attributes)
        source = Source(resource=dict(resource or self.resource), scope=scope, scope_version="1.2")
        number = len(self.spans) + 1
        made = Span(
            source,
            trace.to_bytes(16, "big"),
            number.to_bytes(8, "big"),
            under.span_id if under else b"",
            name,
            kind,
            number,
            1_000_000 - number,
            pairs,
            0,
            status,
            0,
            False,
            100,
            0,
        )
        made.reading = Reading(klass=Klass(klass), models=("gpt-4o",) if klass == "L" else (), provider="openai")
        self.spans.append(made)
        return made

    def call(self, attributes: Mapping[str, Value] | Sequence[tuple[str, Value]] = (), **more: Any) -> Span:
        return self.span("chat gpt-4o", attributes, klass="L", **more)

    def charge(self, span: Span, *merged: Span, rules: AttributionRules | None = None, **call: Any) -> Charge:
        traces: dict[bytes, list[Span]] = {}
        for one in self.spans:
            traces.setdefault(one.trace_id, []).append(one)
        tree = Tree(
            Group(
                "acme",
                tuple(
                    ReleasedTrace(key=TraceKey("acme", key), trigger=Trigger.ROOT, generation=0, spans=tuple(spans))
                    for key, spans in traces.items()
                ),
            )
        )
        assert span.reading is not None
        reading = call.pop("reading", span.reading)
        counted = LLMCall(account="acme", span=span, merged=merged, reading=reading, tree=tree, **call)
        return attribute([PricedCall(counted, QUOTE)], rules or packaged())[0]


def test_the_nearest_name_pays() -> None:
    """A sub-agent pays for its own calls, its boss for the boss's."""
    told = Told()
    boss = told.span("a", {"gen_ai.agent.name": "boss"})
    tool = told.span("execute_tool ask", under=boss, klass="T")
    helper = told.span("b", {"gen_ai.agent.name": "helper"}, under=tool)
    assert told.charge(told.call(under=helper)).agent == "helper"
    assert told.charge(told.call(under=boss)).agent == "boss"


@pytest.mark.parametrize(
    ("name", "attributes", "agent"),
    [
        ("invoke_agent planner", {}, "planner"),
        ("agent planner", {}, "planner"),
        ("planner.run", {"openinference.span.kind": "AGENT"}, "planner"),
        ("planner._agent", {"gen_ai.span.kind": "AGENT"}, "planner"),
        ("planner", {"langfuse.observation.type": "agent"}, "planner"),
        ("planner.kickoff", {"mlflow.spanType": '"AGENT"'}, "planner"),
        ("planner", {"mastra.span.type": "agent_run"}, "planner"),
        ("x", {"traceloop.span.kind": "agent", "traceloop.entity.name": "planner"}, "planner"),
        ("x", {"gen_ai.operation.name": "invoke_agent", "ai.telemetry.functionId": "planner"}, "planner"),
        ("ai.generateText planner", {"openinference.span.kind": "AGENT", "operation.name": "ai.generateText planner"}, "planner"),
        ("planner.agent", {"agentops.span.kind": "agent"}, "planner"),
        ("planner", {"langwatch.span.type": "agent"}, "planner"),
        ("x", {"span.type": "agentic.invocation", "entity.1.name": "planner"}, "planner"),
        ("x", {"crewai.agent.role": "planner"}, "planner"),
        ("x", {"lk.agent_name": "planner"}, "planner"),
        ("x", {"agent_name": "planner"}, "planner"),
        ("x", {"graph.node.id": "planner"}, "planner"),
        ("x", {"gen_ai.agent.name": "planner", "agent.name": "other"}, "planner"),
        ("x", {"gen_ai.agent.id": "planner-1"}, "planner-1"),
        ("x", {"acme.tracing.agent_name": "planner"}, "planner"),
    ],
)
def test_an_agent_is_named_by_attributes_or_by_its_span(name: str, attributes: dict[str, Value], agent: str) -> None:
    """Every vocabulary has its own way to name the agent of a span."""
    told = Told()
    assert told.charge(told.call(under=told.span(name, attributes, klass="A"))).agent == agent


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("invoke_agent unknown", {}),
        ("LangGraph", {"openinference.span.kind": "CHAIN"}),
        ("planner", {"openinference.span.kind": "CHAIN"}),
        ("x", {"traceloop.span.kind": "task", "traceloop.entity.name": "planner"}),
        ("x", {"gen_ai.agent.name": "n/a"}),
        ("x", {"gen_ai.agent.name": ""}),
        ("x", {"gen_ai.agent.name": "[Filtered]"}),
        ("x", {"gen_ai.agent.name": True}),
        ("x", {"graph.node.id": "8f14e45f-ceea-467f-a8f2-4f1d2ab01c33"}),
        ("x", {"gen_ai.agent.id": "b7d55e60b8edb42f"}),
    ],
)
def test_what_names_nobody_is_no_agent(name: str, attributes: dict[str, Value]) -> None:
    """Placeholders, random ids, scrubbed values and steps of a chain are not agents: the agent is unknown."""
    told = Told()
    assert told.charge(told.call(under=told.span(name, attributes))).agent is None


def test_v54_a_model_calls_own_node_id_is_no_agent() -> None:
    """v54: converters write the id of the call itself into graph.node.id of the model's span."""
    told = Told()
    agent = told.span("planner", {"openinference.span.kind": "AGENT"}, klass="A")
    assert told.charge(told.call({"openinference.span.kind": "LLM", "graph.node.id": "llm_1347"}, under=agent)).agent == "planner"


def test_a_placeholder_is_skipped_for_a_real_name_above() -> None:
    """openai-agents-v2 writes `OpenAI Agent` on every span; the real name stands above it."""
    told = Told()
    agent = told.span("x", {"agent.name": "triage"})
    assert told.charge(told.call({"gen_ai.agent.name": "OpenAI Agent"}, under=agent)).agent == "triage"


def test_last_resorts_come_in_order() -> None:
    """Function id, a skipped placeholder, the resource's main agent: each only where nothing better is told."""
    told = Told(**{"gen_ai.main_agent.name": "main"})
    assert told.charge(told.call()).agent == "main"
    assert told.charge(told.call({"gen_ai.agent.name": "Agent"})).agent == "Agent"
    assert told.charge(told.call({"gen_ai.agent.name": "Agent", "ai.telemetry.functionId": "summary"})).agent == "summary"


@pytest.mark.parametrize(
    "attributes",
    [
        {"metadata": '{"lc_agent_name": "researcher", "langgraph_node": "model"}'},
        {"metadata": '{"langgraph_checkpoint_ns": "team:1|researcher:2|model:3", "langgraph_node": "model"}'},
        {"traceloop.association.properties.langgraph_node": "researcher"},
        {"langfuse.observation.metadata.langgraph_checkpoint_ns": '"researcher:fec0-84|tools:12"'},
        {"langsmith.metadata.langgraph_node": "researcher"},
        {"gen_ai.step.name": "researcher"},
        {"lc_agent_name": "researcher"},
        {"metadata": {"langgraph_node": "researcher"}},
    ],
)
def test_a_graph_node_below_a_named_agent_is_finer(attributes: dict[str, Value]) -> None:
    """The node was entered below the agent that the root names, so the node's work is the node's cost."""
    told = Told()
    team = told.span("invoke_agent team")
    assert told.charge(told.call(attributes, under=team)).agent == "researcher"
    assert told.charge(told.call(under=told.span("node", attributes, under=team))).agent == "researcher"


def test_plumbing_is_no_node() -> None:
    """Every graph has a `model` and a `tools` node: they name nobody."""
    told = Told()
    team = told.span("invoke_agent team")
    assert (
        told.charge(told.call({"langgraph_node": "call_model", "langgraph_checkpoint_ns": "__start__:1|agent:2"}, under=team)).agent
        == "team"
    )


def test_an_agent_started_inside_a_node_beats_the_nodes_copied_context() -> None:
    """LangGraph copies its node onto everything below, also below an agent that the node started."""
    told = Told()
    node = told.span("node", {"langgraph_node": "research"})
    agent = told.span("invoke_agent searcher", {"langgraph_node": "research"}, under=node)
    bare = told.span("invoke_agent searcher", under=node)
    assert told.charge(told.call({"langgraph_node": "research"}, under=agent)).agent == "searcher"
    assert told.charge(told.call({"langgraph_node": "research"}, under=bare)).agent == "searcher"


def test_a_name_that_is_copied_down_does_not_hide_the_node() -> None:
    """Splunk's instrumentation writes the graph's own name on every span of it; only where it is new it names somebody."""
    told = Told()
    graph = told.span("invoke_agent order_desk", {"gen_ai.agent.name": "order_desk"})
    step = told.span("step intake", {"gen_ai.step.name": "intake", "gen_ai.agent.name": "order_desk"}, under=graph)
    model = told.span("step model", {"gen_ai.step.name": "model", "gen_ai.agent.name": "order_desk"}, under=step)
    assert told.charge(told.call({"gen_ai.agent.name": "order_desk"}, under=model)).agent == "intake"


def test_key_strength_comes_before_nearness() -> None:
    """An id of one conversation on the model's span must not hide the session on the root."""
    told = Told()
    root = told.span("POST /chat", {"session.id": "s-1", "user.id": "u-1"})
    call = told.call({"gen_ai.conversation.id": "conv-9", "llm.user": "weak"}, under=told.span("a", under=root))
    charge = told.charge(call)
    assert (charge.session, charge.user) == ("s-1", "u-1")


def test_any_key_that_ends_in_a_conversation_is_a_session_of_last_resort() -> None:
    """VoltAgent's is one; a stated session comes first."""
    told = Told()
    root = told.span("root", {"voltagent.conversation_id": "conv-9"})
    assert told.charge(told.call({}, under=root)).session == "conv-9"
    assert told.charge(told.call({"session.id": "s-1"}, under=root)).session == "s-1"


def test_an_entity_is_an_agents_name_only_where_nothing_better_names_one() -> None:
    """VoltAgent writes it on every span below an agent, of a tool's call too."""
    told = Told()
    entity = {"entity.type": "agent", "entity.name": "researcher"}
    root = told.span("root", entity)
    assert told.charge(told.call(entity, under=root)).agent == "researcher"
    assert told.charge(told.call({**entity, "gen_ai.agent.name": "writer"}, under=root)).agent == "writer"


def test_a_session_that_copies_the_conversation_is_as_weak() -> None:
    """OpenInference on Pydantic AI writes the conversation id of one agent run into session.id."""
    told = Told()
    root = told.span("POST /chat", {"session.id": "s-1"})
    both = {"session.id": "conv-9", "gen_ai.conversation.id": "conv-9"}
    assert told.charge(told.call(both, under=root)).session == "s-1"
    alone = Told()
    assert alone.charge(alone.call(both)).session == "conv-9"


def test_a_weak_key_speaks_where_the_strong_one_on_its_span_is_empty() -> None:
    """LiteLLM writes every key on every span, most of them empty."""
    told = Told()
    assert told.charge(told.call({"user.id": "", "llm.user": "u-1"}, trace=1)).user == "u-1"
    assert told.charge(told.call({"user.id": "", "llm.user": "u-2"}, trace=2)).user == "u-2"
    assert told.charge(told.call({"user.id": "u-3", "llm.user": "u-2"}, trace=3)).user == "u-3"


def test_the_only_value_in_the_trace_holds() -> None:
    """LiteLLM and others write the user on a model's span only; a call beside it belongs to the same request."""
    told = Told()
    root = told.span("root")
    told.call({"user.id": "u-1"}, under=root)
    silent = told.call(under=root)
    assert told.charge(silent).user == "u-1"
    told.call({"user.id": "u-2"}, under=root)
    assert told.charge(silent).user is None


def test_another_trace_of_the_group_says_nothing() -> None:
    """Traces are released together because they may tell of the same call, not because they share a user."""
    told = Told()
    told.call({"user.id": "u-1"}, trace=2)
    assert told.charge(told.call(trace=1)).user is None


def test_a_call_told_in_two_traces_is_attributed_by_both() -> None:
    """Of a lost-context pair only the outer trace knows agent and user: the inner span pays, all spans are asked."""
    told = Told()
    root = told.span("POST /chat", {"user.id": "u-1", "session.id": "s-1"})
    outer = told.call(under=told.span("invoke_agent planner", under=root))
    inner = told.call(trace=2)
    charge = told.charge(inner, outer)
    assert (charge.agent, charge.user, charge.session, charge.workflow) == ("planner", "u-1", "s-1", "POST /chat")
    assert charge.merged_span_ids == (outer.span_id,)


def test_the_nearest_of_the_calls_own_spans_is_asked_first() -> None:
    """The paying span's own words come before those of a twin, those before what stands above."""
    told = Told()
    root = told.span("root", {"user.id": "root"})
    outer = told.call({"user.id": "outer", "gen_ai.agent.name": "of-outer"}, under=root)
    inner = told.call({"gen_ai.agent.name": "of-inner"}, under=outer)
    charge = told.charge(inner, outer)
    assert (charge.user, charge.agent) == ("outer", "of-inner")


@pytest.mark.parametrize(
    ("key", "value", "dimension", "expected"),
    [
        ("enduser.id", "u", "user", "u"),
        ("ai.telemetry.metadata.userId", "u", "user", "u"),
        ("metadata", '{"user_id": 42}', "user", "42"),
        ("metadata", '{"nested": {"user_id": "u"}}', "user", "u"),
        ("mirascope.ops.session.attributes", '{"user.id":"u","tenant":"t"}', "tenant", "t"),
        ("lmnr.association.properties.user_id", "u", "user", "u"),
        ("gen_ai.request.user", "u", "user", "u"),
        ("vendor.context.userId", "u", "user", "u"),
        ("metadata", '{"agent_name": "planner"}', "agent", "planner"),
        ("vendor.user.id", 17.0, "user", "17"),
        ("mirascope.ops.session.id", "s", "session", "s"),
        ("vendor.session_id", "s", "session", "s"),
        ("traceloop.association.properties.tenant", "t", "tenant", "t"),
        ("litellm.team.id", "t", "tenant", "t"),
        ("litellm.metadata.user_api_key_end_user_id", "u", "user", "u"),
        ("gen_ai.workflow.name", "w", "workflow", "w"),
        ("gen_ai.prompt.version", 3, "prompt_version", "3"),
        ("mlflow.linkedPrompts", '[{"name": "greet", "version": "7"}]', "prompt_version", "7"),
        ("tag.tags", ["prod", "feature:search"], "feature", "search"),
        ("langsmith.span.tags", "prod, feature:search", "feature", "search"),
        ("langfuse.trace.tags", '["prod", "feature=search"]', "feature", "search"),
    ],
)
def test_many_spellings_say_the_same(key: str, value: Value, dimension: str, expected: str) -> None:
    """Each instrumentation has its own key for a user, a session, a tenant."""
    told = Told()
    assert getattr(told.charge(told.call({key: value})), dimension) == expected


@pytest.mark.parametrize(
    "value",
    ["", "  ", "null", "None", "[Scrubbed due to 'session']", "[Filtered]", "<REDACTED>", "***", '""', float("nan"), True, None, b"x"],
)
def test_what_was_scrubbed_is_missing(value: Value) -> None:
    """Pipelines remove what looks personal; the words that they put there are nobody's name."""
    told = Told()
    root = told.span("root", {"session.id": "s-1"})
    assert told.charge(told.call({"session.id": value}, under=root)).session == "s-1"


def test_a_default_name_of_a_gateway_is_nobody() -> None:
    """LiteLLM calls whoever holds the master key default_user_id; the API's own user parameter knows better."""
    told = Told()
    charge = told.charge(told.call({"metadata.user_api_key_user_id": "default_user_id", "llm.user": "emp-301"}))
    assert charge.user == "emp-301"


def test_the_resource_comes_last() -> None:
    """A resource speaks for all traces of a process, a span for its own request."""
    told = Told(**{"user.id": "of-process"})
    assert told.charge(told.call()).user == "of-process"
    assert told.charge(told.call({"gen_ai.user": "weak, but of this call"})).user == "weak, but of this call"


def test_claude_codes_user_is_the_resources() -> None:
    """On Claude Code's spans user.id is the hash of an installation; who it is stands on the resource."""
    told = Told(**{"user.id": "u-alice"})
    scope = "com.anthropic.claude_code.tracing"
    assert told.charge(told.call({"user.id": "0f4c9a"}, scope=scope)).user == "u-alice"
    hash_only = Told()
    assert hash_only.charge(hash_only.call({"user.id": "0f4c9a"}, scope=scope)).user == "0f4c9a"


def test_claude_codes_sub_agent_is_named_by_the_tool_that_runs_it() -> None:
    """With OTEL_LOG_TOOL_DETAILS=1 the tool's span says of which type the sub-agent is; the calls below carry only a random id."""
    told = Told()
    turn = told.span("claude_code.interaction")
    tool = told.span("claude_code.tool", {"span.type": "tool", "tool_name": "Agent", "subagent_type": "researcher"}, under=turn, klass="T")
    assert told.charge(told.call({"agent_id": "a8862ad0ff31b854a"}, under=tool)).agent == "researcher"
    assert told.charge(told.call(under=turn)).agent is None


def test_a_thread_of_the_process_is_no_session() -> None:
    """OpenTelemetry's `thread.id` is the number of a thread; the Java agent writes it on every span."""
    told = Told()
    assert told.charge(told.call({"thread.id": 1, "thread.name": "main"})).session is None


@pytest.mark.parametrize(
    "dimension", ["tenant", "user", "session", "agent", "workflow", "task", "feature", "route", "prompt_version", "tool"]
)
def test_spantolls_own_attribute_comes_first(dimension: str) -> None:
    """`spantoll.<dimension>` on a span, then on the resource, before any key of an instrumentation."""
    loud = {
        "tenant.id": "x", "user.id": "x", "session.id": "x", "gen_ai.agent.name": "x", "gen_ai.workflow.name": "x", "gen_ai.task.name": "x",
        "feature": "x", "gen_ai.prompt.version": "x",
    }  # fmt: skip
    told = Told(**{f"spantoll.{dimension}": "resource"})
    assert getattr(told.charge(told.call(loud)), dimension) == "resource"
    root = told.span("root", {f"spantoll.{dimension}": "span"})
    assert getattr(told.charge(told.call(loud, under=root)), dimension) == "span"


def test_the_operators_keys_come_before_the_tables() -> None:
    """`attribution.keys` of the configuration: a house has its own words."""
    rules = AttributionRules.from_tables(load_toml("attribution.toml"), {"tenant": ["app.customer"]})
    told = Told()
    root = told.span("root", {"app.customer": "initech"})
    call = told.call({"tenant.id": "other"}, under=root)
    assert told.charge(call, rules=rules).tenant == "initech"
    assert told.charge(call).tenant == "other"
    assert rules.limit_of("app.customer") > 0
    assert packaged().limit_of("app.customer") == 0


def test_place_in_the_trace() -> None:
    """Task, tool and route are those of the nearest span above that has one; a feature falls back to the service."""
    told = Told()
    server = told.span("POST", {"http.route": "/chat"}, kind=2)
    task = told.span("x", {"traceloop.span.kind": "task", "traceloop.entity.name": "summarise"}, under=server)
    tool = told.span("execute_tool ask_clerk", {"gen_ai.operation.name": "execute_tool"}, under=task, klass="T")
    charge = told.charge(told.call({"http.route": "/v1/messages"}, under=tool))
    assert (charge.task, charge.tool, charge.route, charge.feature, charge.workflow) == ("summarise", "ask_clerk", "/chat", "shop", "POST")
    beside = told.charge(told.call(under=server))
    assert (beside.task, beside.tool) == (None, None)


def test_a_gateways_route_is_not_the_applications() -> None:
    """Between a client's span and the gateway's stands the gateway's server span; the application's route is above both."""
    told = Told()
    app = told.span("POST", {"http.route": "/chat"})
    client = told.call(under=app)
    gateway = told.span("POST", {"http.route": "/v1/chat/completions"}, under=client)
    assert told.charge(told.call(under=gateway), client).route == "/chat"


def test_a_lone_calls_own_name_is_no_workflow() -> None:
    """The root span's name stands for the workflow only where the root is something else than the call."""
    told = Told()
    assert told.charge(told.call()).workflow is None


def test_a_charge_says_what_was_counted_and_at_which_price() -> None:
    """Everything that a bill, a page or a repricing needs is on the charge."""
    told = Told()
    reading = Reading(
        klass=Klass.MODEL_CALL,
        operation="chat",
        tokens=Tokens(input_total=5, uncached=5, output_total=2),
        models=("gpt-4o-2024-08-06", "gpt-4o"),
        provider="azure",
        cache_mode=CacheMode.EXCLUSIVE,
        cache_evidence="E3",
    )
    charge = told.charge(told.call(status=2), reading=reading, doubts={Doubt.SAMPLED, Doubt.CLAMPED})
    assert charge.tokens == Tokens(input_total=5, uncached=5, output_total=2)
    assert (charge.account, charge.operation, charge.model, charge.provider) == ("acme", "chat", "gpt-4o-2024-08-06", "azure")
    assert (charge.cache_mode, charge.cache_evidence, charge.outcome) == ("EX", "E3", "error")
    assert charge.doubts == ("clamped", "sampled")
    assert (charge.service, charge.scope, charge.scope_version) == ("shop", "some.scope", "1.2")
    assert charge.quote is QUOTE


def test_unwanted_keys_are_not_kept() -> None:
    """The decoder keeps what somebody reads: prompts never enter, containers up to 64 KiB, names up to 1 KiB."""
    rules = packaged()
    assert rules.limit_of("gen_ai.agent.name") == 1_024
    assert rules.limit_of("vendor.anything.user_id") == 1_024
    assert rules.limit_of("metadata") == 65_536
    assert rules.limit_of("openinference.span.kind") > 0
    assert rules.limit_of("service.name") > 0
    for prompt in (
        "gen_ai.prompt",
        "input.value",
        "gen_ai.input.messages",
        "llm.input_messages.0.message.content",
        "traceloop.entity.input",
    ):
        assert rules.limit_of(prompt) == 0


@pytest.mark.parametrize(
    "attributes",
    [
        {"user.id": ["a", "b"]},
        {"user.id": {"a": 1}, "openinference.span.kind": ["AGENT"]},
        {"metadata": "[" * 30_000 + "]" * 30_000},
        {"metadata": "{" * 5 + '"user_id": "u"'},
        {"metadata": '{"user_id": ' + "9" * 5_000 + "}"},
        {"metadata": "[1, 2]"},
        {"metadata": '{"user_id": {"a": {"b": {"c": {"d": 1}}}}}'},
        {"tag.tags": [["feature:x"], None, 3]},
        {"langgraph_checkpoint_ns": "|||:::"},
    ],
)
def test_strange_values_are_missing_values(attributes: dict[str, Value]) -> None:
    """Whatever a client sends, a call is attributed: to nobody where nothing is told."""
    told = Told()
    charge = told.charge(told.call(attributes))
    assert (charge.user, charge.agent, charge.feature) == (None, None, "shop")


def test_equal_keys_of_unequal_types_are_told_apart() -> None:
    """In Python 1 == 1.0 == True; a remembered answer for one must not be given for another."""
    told = Told()
    assert told.charge(told.call({"user.id": True}, trace=1)).user is None
    assert told.charge(told.call({"user.id": 1}, trace=2)).user == "1"
    assert told.charge(told.call({"user.id": True}, trace=3)).user is None


def test_of_a_repeated_key_the_first_counts() -> None:
    """OTLP says that keys MUST be unique; where a sender breaks it the receiver takes the first."""
    told = Told()
    assert told.charge(told.call([("user.id", "first"), ("user.id", "second")])).user == "first"


def test_depth_is_no_recursion() -> None:
    """A trace may be 10,000 spans deep: the walk is a loop."""
    told = Told()
    above = told.span("invoke_agent top", {"user.id": "u"})
    for _ in range(10_000):
        above = told.span(under=above)
    charge = told.charge(told.call(under=above))
    assert (charge.agent, charge.user) == ("top", "u")


def test_memories_are_bounded() -> None:
    """Keys, values and names are chosen by clients; what is remembered of them has a limit."""
    rules = AttributionRules.from_tables(load_toml("attribution.toml"))
    told = Told()
    for number in range(5_000):
        span = told.span(
            f"agent {number}",
            {f"k{number}.user_id": f"u{number}", "metadata": f'{{"session_id": "{number}"}}'},
            resource={"service.name": str(number)},
        )
        rules.facts(span)
        rules.facts_of_source(span.source)
    assert len(rules._shapes) <= 4_096
    assert len(rules._sources) <= 4_096
    assert len(rules._opened) <= 4_096
    assert len(rules.agents._of_spans) <= 4_096
    assert len(rules.agents._of_attributes) <= 4_096
    same = [told.span("x", {"user.id": str(number)}) for number in range(20_000)]
    for span in same:
        rules.facts(span)
    assert sum(len(shape.known) for shape in rules._shapes.values()) <= 16_384
    rules.facts(told.span("x", {f"{number}.user_id": "u" for number in range(300)}))
    assert max(map(len, rules._shapes)) <= 256


def test_a_span_named_for_a_method_names_no_agent() -> None:
    """LlamaIndex marks `FunctionCallingAgentWorker.run_step` as an agent: the one above it pays; alone it is better than nothing."""
    told = Told()
    planner = told.span("invoke_agent planner")
    step = told.span("FunctionCallingAgentWorker.run_step", {"openinference.span.kind": "AGENT"}, under=planner, klass="A")
    assert told.charge(told.call(under=step)).agent == "planner"
    alone = told.span("FunctionCallingAgentWorker.run_step", {"openinference.span.kind": "AGENT"}, klass="A", trace=2)
    assert told.charge(told.call(under=alone, trace=2)).agent == "FunctionCallingAgentWorker.run_step"


def test_respan_and_paid_name_their_customers() -> None:
    """Respan's customer is the user of the application, Paid's is who pays for it."""
    told = Told()
    respan = told.span("a", {"respan.customer_params.customer_identifier": "u-ann", "respan.threads.thread_identifier": "s-11"})
    charge = told.charge(told.call(under=respan))
    assert (charge.user, charge.session) == ("u-ann", "s-11")
    paid = told.charge(told.call({"external_customer_id": "acme", "external_agent_id": "support"}, trace=2))
    assert (paid.tenant, paid.agent, paid.user) == ("acme", "support", None)
