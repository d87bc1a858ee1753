"""Class, operation, models, provider, tier, cost and ids of a span."""

from __future__ import annotations

from typing import Any

import pytest

from receiver.core.usage import Klass, Reader
from tests.unit.usage_spans import read, rules

USED = {"gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 1}


@pytest.mark.parametrize(
    ("letter", "attributes", "more"),
    [
        ("X", {"gen_ai.operation.name": "chat"}, {"name": "raw_gen_ai_request"}),
        ("X", {"gen_ai.operation.name": "fetch_response"}, {}),
        ("X", {"gen_ai.operation.name": "count_tokens"}, {}),
        ("X", USED, {"name": "anthropic.messages.count_tokens"}),
        ("X", {"gen_ai.operation.name": "chat", "ag2.usage.kind": "model_call"}, {}),
        ("L", {"gen_ai.operation.name": "chat", "ag2.usage.kind": "compaction"}, {}),
        ("X", {"gen_ai.operation.name": "chat", "gen_ai.usage.partial.input_tokens": 5}, {}),
        ("X", {"pydantic_ai.decision.usage.input_tokens": 5}, {}),
        ("A", {"gen_ai.operation.name": "invoke_agent", "gen_ai.aggregated_usage.input_tokens": 5}, {}),
        ("L", {"gen_ai.operation.name": "chat", "gen_ai.aggregated_usage.input_tokens": 5, **USED}, {}),
        ("L", {"langfuse.observation.type": "generation", "openinference.span.kind": "CHAIN"}, {}),
        ("L", {"langfuse.observation.type": "embedding"}, {}),
        ("T", {"langfuse.observation.type": '"tool"'}, {}),
        ("A", {"langfuse.observation.type": "span", "gen_ai.operation.name": "chat"}, {}),
        ("L", {"openinference.span.kind": "RERANKER"}, {}),
        ("T", {"openinference.span.kind": "TOOL"}, {}),
        ("A", {"openinference.span.kind": "AGENT", "gen_ai.operation.name": "chat"}, {}),
        ("L", {"gen_ai.span.kind": "LLM", "gen_ai.operation.name": "invoke_agent"}, {}),
        ("L", {"ai.operationId": "ai.generateText.doGenerate"}, {}),
        ("A", {"ai.operationId": "ai.generateText"}, {}),
        ("T", {"ai.operationId": "ai.toolCall"}, {}),
        ("L", {"gen_ai.operation.name": "embeddings"}, {}),
        ("T", {"gen_ai.operation.name": "execute_tool"}, {}),
        ("A", {"gen_ai.operation.name": "invoke_workflow"}, {}),
        ("L", {"gen_ai.operation.name": "something_new", "llm.request.type": "chat"}, {}),
        ("N", {"gen_ai.operation.name": "something_new"}, {}),
        ("A", {"traceloop.span.kind": "task"}, {}),
        ("T", {"traceloop.span.kind": "tool"}, {}),
        ("L", {"llm.request.type": "anything"}, {}),
        ("L", {"langsmith.span.kind": "llm"}, {}),
        ("A", {"langsmith.span.kind": "chain"}, {}),
        ("L", {"mlflow.spanType": '"CHAT_MODEL"'}, {}),
        ("A", {"mlflow.spanType": '"AGENT"'}, {}),
        ("L", {"span.type": "llm_request"}, {"scope": "com.anthropic.claude_code.tracing"}),
        ("T", {"span.type": "tool.execution"}, {"scope": "com.anthropic.claude_code.tracing"}),
        ("A", {"span.type": "interaction"}, {"scope": "com.anthropic.claude_code.tracing"}),
        ("N", {"span.type": "llm_request"}, {"scope": "app"}),
        ("L", {"span.type": "llm"}, {"scope": "@voltagent/core"}),
        ("T", {"span.type": "tool"}, {"scope": "@voltagent/core"}),
        ("N", {"span.type": "memory"}, {"scope": "@voltagent/core"}),
        ("X", {"openinference.span.kind": "LLM", "mastra.span.type": "model_chunk"}, {}),
        ("A", {"gen_ai.operation.name": "model_generation", "mastra.span.type": "model_generation"}, {}),
        ("A", {}, {"name": "session_task.turn", "scope": "codex_core"}),
        ("L", USED, {"name": "call_llm", "scope": "gcp.vertex.agent"}),
        ("N", USED, {"name": "call_llm", "scope": "app"}),
        ("N", USED, {"name": "handle_responses", "scope": "codex_core"}),
        ("N", {}, {}),
    ],
)
def test_the_first_row_whose_key_is_present_decides_the_class(letter: str, attributes: dict[str, Any], more: dict[str, Any]) -> None:
    """The order of the table is the order of trust."""
    assert read(attributes, **more).klass is Klass(letter)


def test_a_carrier_holds_usage_or_a_cost_and_may_be_counted() -> None:
    """Zeros carry nothing, and what is never counted is no carrier whatever it holds."""
    assert read(USED).is_carrier
    assert read({"gen_ai.usage.cost": 0.5}).is_carrier
    assert not read({"gen_ai.usage.input_tokens": 0, "gen_ai.usage.output_tokens": 0}).is_carrier
    assert not read(USED, name="raw_gen_ai_request").is_carrier
    assert not read({"gen_ai.aggregated_usage.input_tokens": 5, "gen_ai.operation.name": "invoke_agent"}).is_carrier


def test_an_agent_step_repeats_the_usage_of_its_model_call() -> None:
    """AI SDK 7 puts `ai.usage.*` onto the step as well; it is not the step's own."""
    counts = {"ai.usage.inputTokens": 10, "ai.usage.outputTokens": 1}
    assert read({"gen_ai.operation.name": "agent_step", **counts}, scope="gen_ai").tokens is None
    assert read({"gen_ai.operation.name": "chat", **counts}, scope="gen_ai").tokens is not None


@pytest.mark.parametrize(
    ("family", "attributes"),
    [
        ("gen", {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o"}),
        ("embedding", {"gen_ai.operation.name": "embeddings"}),
        ("embedding", {"ai.operationId": "ai.embedMany.doEmbed"}),
        ("embedding", {"openinference.span.kind": "EMBEDDING"}),
        ("embedding", {"gen_ai.request.model": "text-embedding-3-small", **USED}),
        ("rerank", {"openinference.span.kind": "RERANKER"}),
        ("image", {"gen_ai.operation.name": "image_generation"}),
        ("transcription", {"gen_ai.operation.name": "audio", "gen_ai.request.model": "whisper-1"}),
        ("speech", {"llm.request.type": "aspeech"}),
        ("moderation", {"gen_ai.request.model": "omni-moderation-latest", **USED}),
    ],
)
def test_the_family_is_what_is_billed(family: str, attributes: dict[str, Any]) -> None:
    """The operation tells, or the model's name where there is none."""
    assert read(attributes).family == family


def test_every_stated_model_is_kept_best_first() -> None:
    """The price is looked up by the first name that has one; the order is that of trust."""
    reading = read(
        {
            "gen_ai.request.model": "smart",
            "gen_ai.response.model": "smart",
            "litellm.provider.model": "gpt-4o",
            "llm.model_name": "gpt-4o-2024-08-06",
        }
    )
    assert reading.models == ("gpt-4o", "smart", "gpt-4o-2024-08-06")
    assert reading.model_requested == "smart"


@pytest.mark.parametrize(
    "parameters",
    [
        '{"temperature": 1, "model": "gpt-4.1"}',
        "{'model': 'gpt-4.1', 'stream': True}",
        '{"model": "gpt-4.1", "tools": [{"type": "funct',
        {"model": "gpt-4.1"},
    ],
)
def test_a_model_among_the_parameters_is_the_last_to_be_read(parameters: Any) -> None:
    """Whole, as a repr, cut at the byte limit, or as a kvlist; but only where no key names one."""
    assert read({"gen_ai.request.parameters": parameters}).models == ("gpt-4.1",)
    assert read({"gen_ai.request.parameters": parameters, "llm.model_name": "gpt-4o"}).models == ("gpt-4o",)


def test_parameters_that_are_not_read_are_not_remembered() -> None:
    """They differ on every call: a memory of them would never be of use."""
    by = Reader(rules())
    for number in range(5):
        read({"llm.invocation_parameters": f'{{"seed": {number}}}', "llm.model_name": "gpt-4o", **USED}, by=by)
    assert by._statics == 1


def test_bare_names_are_read_in_their_scope_alone() -> None:
    """`model` and `input_tokens` mean nothing in a scope that is not known for them."""
    bare = {"model": "claude-haiku-4-5", "input_tokens": 3, "output_tokens": 4, "speed": "fast"}
    assert read(bare, scope="app").models == ()
    assert read(bare, scope="app").tokens is None
    reading = read(bare, scope="com.anthropic.claude_code.tracing")
    assert (reading.models, reading.speed, reading.provider) == (("claude-haiku-4-5",), "fast", "anthropic")


@pytest.mark.parametrize(
    ("provider", "attributes"),
    [
        ("openai", {"gen_ai.provider.name": "openai", "gen_ai.system": "anthropic"}),
        ("anthropic", {"gen_ai.system": "Anthropic"}),
        ("openai", {"gen_ai.system": "openai.responses"}),
        ("anthropic", {"ai.model.provider": "anthropic.messages"}),
        ("gcp.vertex_ai", {"ai.model.provider": "google.vertex.chat"}),
        ("gcp.gemini", {"gen_ai.system": "gcp.gen_ai"}),
        ("aws.bedrock", {"gen_ai.system": "AWS"}),
        ("aws.bedrock", {"gen_ai.system": "bedrock_converse"}),
        ("azure.ai.openai", {"llm.provider": "azure", "llm.system": "openai"}),
        ("mistral_ai", {"llm.system": "mistralai"}),
        ("x_ai", {"gen_ai.system": "xai"}),
        ("newcomer", {"gen_ai.system": "Newcomer"}),
        ("anthropic", {"gen_ai.system": "strands-agents", "gen_ai.request.model": "claude-sonnet-4-5"}),
        ("openai", {"gen_ai.system": "langchain", "langsmith.metadata.ls_provider": "openai"}),
        ("openai", {"langfuse.observation.metadata.ls_provider": '"openai"'}),
        ("azure.ai.openai", {"server.address": "acme.openai.azure.com", "gen_ai.request.model": "prod"}),
        ("openai", {"server.address": "https://api.openai.com/v1/"}),
        ("aws.bedrock", {"gen_ai.request.model": "us.anthropic.claude-sonnet-4-5-20250929-v1:0"}),
        ("gcp.gemini", {"gen_ai.request.model": "gemini-2.5-flash"}),
        ("anthropic", {"gen_ai.request.model": "openrouter/anthropic/claude-sonnet-4.5"}),
        (None, {"gen_ai.request.model": "house-blend"}),
        (None, {}),
    ],
)
def test_the_provider_is_the_one_that_bills(provider: str | None, attributes: dict[str, Any]) -> None:
    """In the registry's spelling; frameworks that put their own name there are passed over, the model's name is the last resort."""
    assert read(attributes).provider == provider


def test_a_gateway_is_no_provider_but_remembered() -> None:
    """Its model is priced at the provider behind it."""
    reading = read({"gen_ai.system": "OpenRouter", "gen_ai.request.model": "anthropic/claude-sonnet-4.5"})
    assert (reading.provider, reading.gateway, reading.provider_stated) == ("anthropic", "openrouter", "OpenRouter")


@pytest.mark.parametrize(
    ("tier", "attributes"),
    [
        ("flex", {"openai.response.service_tier": "flex", "openai.request.service_tier": "priority"}),
        ("standard", {"gen_ai.openai.response.service_tier": "default"}),
        ("priority", {"openai.request.service_tier": "priority"}),
        ("batch", {"anthropic.response.service_tier": "batch"}),
        (None, {"openai.request.service_tier": "auto"}),
        ("priority", {"ai.response.providerMetadata": '{"openai": {"serviceTier": "priority"}}', **USED}),
        (None, {}),
    ],
)
def test_the_tier_is_the_billed_one(tier: str | None, attributes: dict[str, Any]) -> None:
    """What was answered comes before what was asked for; "auto" asks for nothing."""
    assert read(attributes).tier == tier


@pytest.mark.parametrize(
    "stated", ["", "unknown", "N/A", "__fake_id__", "00000000-0000-0000-0000-000000000000", "---", "[Filtered]", 7, None]
)
def test_a_placeholder_is_no_response_id(stated: Any) -> None:
    """Two calls with the same placeholder are not one call."""
    assert read({"gen_ai.response.id": stated, **USED}).response_id is None
    assert read({"gen_ai.response.id": stated, "ai.response.id": "chatcmpl-1", **USED}).response_id == "chatcmpl-1"


@pytest.mark.parametrize(
    ("pusd", "key", "attributes"),
    [
        (5_000_000_000, "litellm.cost.total", {"litellm.cost.total": 0.005, "gen_ai.cost.total_cost": 0.006}),
        (6_000_000_000, "gen_ai.cost.total_cost", {"gen_ai.cost.total_cost": "0.006", "gen_ai.cost.input_cost": 0.001}),
        (3_000_000_000, "langfuse.observation.cost_details", {"langfuse.observation.cost_details": '{"input": 0.001, "output": 0.002}'}),
        (4_000_000_000, "langfuse.observation.cost_details", {"langfuse.observation.cost_details": '{"input": 1, "total": 0.004}'}),
        (7_000_000_000, "operation.cost", {"gen_ai.usage.cost": 0.008, "llm.cost.total": 0, "operation.cost": 0.007}),
        (None, None, {"gen_ai.usage.cost": 0.0}),
        (None, None, {"gen_ai.usage.cost": -1}),
        (None, None, {"github.copilot.cost": 1}),
    ],
)
def test_an_emitted_cost_is_the_first_above_zero(pusd: int | None, key: str | None, attributes: dict[str, Any]) -> None:
    """An emitter's 0 means that it did not know the model; parts are never added to a total; credits are not USD."""
    reading = read(attributes)
    assert (reading.emitted_cost_pusd, reading.emitted_cost_key) == (pusd, key)


def test_the_cost_before_the_operators_margin_is_kept_beside() -> None:
    """LiteLLM's total holds the margin of whoever runs the proxy."""
    reading = read({"gen_ai.cost.total_cost": 0.012, "gen_ai.cost.original_cost": 0.01, **USED}, scope="litellm")
    assert (reading.emitted_cost_pusd, reading.emitted_cost_before_margin_pusd) == (12_000_000_000, 10_000_000_000)


def test_web_searches_are_requests_with_a_fee_of_their_own() -> None:
    """They stand in the provider's usage object."""
    reading = read({**USED, "gen_ai.usage.raw": '{"input_tokens": 10, "server_tool_use": {"web_search_requests": 3}}'})
    assert reading.tokens is not None
    assert reading.tokens.web_searches == 3


def test_compaction_is_additional() -> None:
    """The Anthropic SDK states what a compaction took apart from the call's own counts."""
    reading = read(
        {**USED, "anthropic.usage.compaction.input_tokens": 500, "anthropic.usage.compaction.output_tokens": 50},
        scope="com.anthropic.sdk.python",
    )
    assert reading.tokens is not None
    assert reading.tokens[:2] == (10, 10)
    assert (reading.tokens.compaction_in, reading.tokens.compaction_out) == (500, 50)
