"""The Reader and its tables: vocabularies, emitters, operator rows, limits, and that what it remembers changes nothing."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receiver.core.usage import CacheMode, Reader, Reading, Rules, Tokens
from receiver.core.usage import reader as reader_module
from receiver.core.usage.draft import NAMES, Draft, values_of
from receiver.core.usage.fields import Counts
from receiver.core.usage.rules import DETAILS
from receiver.errors import ConfigError
from receiver.tables import load_toml
from tests.unit.usage_spans import buckets, read, reader, rules, span, usage

GU = "gen_ai.usage."


def with_rows(*rows: dict[str, Any]) -> Reader:
    return Reader(Rules.from_tables(load_toml("usage.toml"), rows))


# ------------------------------------------------------------------------------------------------------ vocabularies


@pytest.mark.parametrize(
    ("attributes", "expect"),
    [
        ({GU + "prompt_tokens": 8334, GU + "output_tokens": 325}, (8334, 325)),
        ({"ai.usage.promptTokens": 10, "ai.usage.completionTokens": 2}, (10, 2)),
        ({"ai.usage.tokens": 7}, (7, 0)),
        ({"llm.usage.prompt_tokens": 5, "llm.usage.completion_tokens": 1}, (5, 1)),
        ({"decision.token_count.prompt": 5, "decision.token_count.completion": 1}, (5, 1)),
        ({"llm.token.counts.prompt": 5, "llm.token.counts.completion": 1}, (5, 1)),
        ({"usage.prompt_tokens": 5, "usage.completion_tokens": 1}, (5, 1)),
        ({GU + "input_tokens": 100, GU + "output_tokens": 9, "llm.token_count.prompt": 50, "llm.token_count.completion": 3}, (100, 9)),
        ({GU + "input_tokens": 0, GU + "output_tokens": 0, "llm.token_count.prompt": 50, "llm.token_count.completion": 3}, (50, 3)),
        ({GU + "input_tokens": float("nan"), GU + "output_tokens": 9, "ai.usage.promptTokens": 50}, (50, 9)),
        ({"mlflow.chat.tokenUsage": '"{\\"input_tokens\\": 5, \\"output_tokens\\": 1, \\"total_tokens\\": 6}"'}, (5, 1)),
        ({"openclaw.tokens.input": 5, "openclaw.tokens.output": 1}, (5, 1)),
        ({"braintrust.metrics": '{"prompt_tokens": 5, "completion_tokens": 1, "tokens": 6, "time_to_first_token": 0.4}'}, (5, 1)),
        ({"mirascope.response.usage": {"input_tokens": 5, "output_tokens": 1}}, (5, 1)),
    ],
)
def test_spellings_of_one_count_are_synonyms_never_addends(attributes: dict[str, Any], expect: tuple[int, int]) -> None:
    """The first vocabulary that states usage wins; the others only fill what it lacks."""
    found = usage(read(attributes))
    assert (found.input_total, found.output_total) == expect


@pytest.mark.parametrize("key", rules().details["cache_read"])
def test_every_spelling_of_cached_tokens_is_read(key: str) -> None:
    """Cached tokens that are not seen are billed at ten times their price."""
    attributes = {GU + "input_tokens": 100, GU + "output_tokens": 9, key: 20}
    assert buckets(read(attributes)) == (80, 20, 0, 9)
    assert buckets(read({**attributes, key: "20", rules().details["cache_read"][0]: 20})) == (80, 20, 0, 9)


@pytest.mark.parametrize("key", rules().details["cache_write"])
def test_every_spelling_of_cache_writes_is_read(key: str) -> None:
    """They cost more than fresh input."""
    assert buckets(read({GU + "input_tokens": 100, GU + "output_tokens": 9, key: 20})) == (80, 0, 20, 9)


@pytest.mark.parametrize(
    "box",
    [
        (GU + "raw", {"input_tokens": 100, "prompt_tokens_details": {"cached_tokens": 20}}),
        (
            "metadata.usage_object",
            "{'prompt_tokens': 100, 'prompt_tokens_details': {'cached_tokens': 20}, 'cache_read_input_tokens': None}",
        ),
        ("langsmith.metadata.usage_metadata", '{"input_tokens": 100, "input_token_details": {"cache_read": 20}}'),
        ("gen_ai.usage.input_tokens_details", '{"cached_tokens": 20}'),
        ("ai.response.providerMetadata", '{"openai": {"cachedPromptTokens": 20}}'),
        ("ai.response.providerMetadata.google", {"usageMetadata": {"cachedContentTokenCount": 20}}),
    ],
)
def test_a_raw_usage_object_fills_what_plain_keys_lack(box: tuple[str, Any]) -> None:
    """It is the only place of cached tokens for some emitters; a plain key that states them comes first."""
    attributes = {GU + "input_tokens": 100, GU + "output_tokens": 9, box[0]: box[1]}
    assert buckets(read(attributes, scope="x")) == (80, 20, 0, 9)
    assert buckets(read({**attributes, GU + "cache_read.input_tokens": 30}, scope="x"))[1] == 30


def test_provider_metadata_is_no_usage_of_its_own() -> None:
    """It completes counts; where the AI SDK states none it may be of a part of the call."""
    assert read({"ai.response.providerMetadata": {"anthropic": {"usage": {"input_tokens": 5}}}}).tokens is None


def test_what_the_model_answered_is_never_opened() -> None:
    """Prompts and completions are none of our business, whatever usage they hold."""
    for key in (
        "output.value",
        "gen_ai.completion",
        "mlflow.spanOutputs",
        "gen_ai.input.messages",
        "gen_ai.output.messages",
        "input.value",
    ):
        assert rules().limit_of(key) == 0
        assert read({key: '{"usage": {"input_tokens": 5, "output_tokens": 1}}'}).tokens is None


def test_only_a_total_is_no_usage() -> None:
    """A total cannot be priced: input and output differ in price."""
    assert read({"llm.token_count.total": 100}).tokens is None


def test_an_absurd_count_is_missing_and_flagged() -> None:
    """A forged 2^63 must not reach the books, and must not go unseen."""
    reading = read({GU + "input_tokens": 2**62, GU + "output_tokens": 9})
    assert (usage(reading).input_total, reading.rejected) == (0, 1)
    reading = read({GU + "input_tokens": 100, GU + "output_tokens": -9})
    assert (usage(reading).output_total, reading.rejected) == (0, 1)
    assert read({GU + "input_tokens": 100, GU + "output_tokens": float("nan")}).rejected == 0


def test_a_providers_own_total_tells_more_than_an_emitters() -> None:
    """OpenInference's processor for the AI SDK adds up a total that lacks Gemini's thoughts; the raw usage object has the true one."""
    gemini = {"usageMetadata": {"promptTokenCount": 100, "thoughtsTokenCount": 4, "totalTokenCount": 113}}
    plain = {
        GU + "input_tokens": 100,
        GU + "output_tokens": 9,
        "llm.token_count.total": 109,
        "ai.response.providerMetadata": {"google": gemini},
    }
    assert usage(read(plain, scope="ai", version="")).output_total == 13
    of_another = {"google": {"usageMetadata": {**gemini["usageMetadata"], "promptTokenCount": 50}}}
    assert usage(read({**plain, "ai.response.providerMetadata": of_another}, scope="ai", version="")).output_total == 9


def test_a_usage_object_whose_end_was_cut_off_is_flagged() -> None:
    """An SDK's limit on the length of attributes: what it held is missing, and must not go unseen."""
    plain = {GU + "input_tokens": 133, GU + "output_tokens": 4}
    whole = '{"anthropic": {"usage": {"input_tokens": 133, "cache_read_input_tokens": 2304}}}'
    assert read({**plain, "ai.response.providerMetadata": whole}).rejected == 0
    assert read({**plain, "ai.response.providerMetadata": whole[:60]}).rejected == 1
    assert read({**plain, "ai.response.providerMetadata": "not an object"}).rejected == 0


def test_of_a_repeated_key_the_first_counts() -> None:
    """Keys must be unique on the wire; where they are not, both readers of the span agree on the first."""
    pairs = (
        (GU + "input_tokens", 5),
        (GU + "output_tokens", 1),
        (GU + "input_tokens", 50),
        ("gen_ai.request.model", "a"),
        ("gen_ai.request.model", "b"),
    )
    reading = reader().read(span(pairs))
    assert (usage(reading).input_total, reading.models) == (5, ("a",))


# ---------------------------------------------------------------------------------------------------------- emitters


@pytest.mark.parametrize(
    ("scope", "version", "klass", "fact"),
    [
        ("litellm", "", "chat", "drops_cache"),
        ("opentelemetry.instrumentation.openai.v1", "0.62.4", "chat", "drops_cache"),
        ("opentelemetry.instrumentation.openai_v2", "2.4b0", "chat", "drops_cache"),
        ("pydantic-ai", "1.0.1", "chat", "drops_cache"),
        ("opentelemetry.instrumentation.openai_agents", "", "chat", "drops_cache"),
        ("openinference.instrumentation.openai_agents", "2.6.0", "chat", "drops_cache"),
        ("io.opentelemetry.openai-java-1.1", "2.33.1-alpha", "chat", "mode_in_table"),
        ("strands.telemetry.tracer", "", "invoke_agent", "cumulative"),
        ("openinference.instrumentation.smolagents", "0.1", "invoke_agent", "cumulative"),
        ("opentelemetry.instrumentation.crewai.instrumentation", "0.36.0", "invoke_agent", "cumulative"),
        ("org.springframework.boot", "3.5.7", "chat", "cumulative"),
        ("org.springframework.ai", "1.1.0", "chat", "cumulative"),
        ("traceai_anthropic", "0.1.0", "chat", "usage_incomplete"),
    ],
)
def test_what_is_known_of_an_emitter_goes_with_its_calls(scope: str, version: str, klass: str, fact: str) -> None:
    """Facts of the table, for the classes that they are about."""
    attributes = {"gen_ai.operation.name": klass, "gen_ai.provider.name": "anthropic", GU + "input_tokens": 5}
    assert getattr(read(attributes, scope=scope, version=version), fact) is True


@pytest.mark.parametrize(
    ("scope", "version", "klass", "fact"),
    [
        ("pydantic-ai", "2.68.0", "chat", "drops_cache"),
        ("strands.telemetry.tracer", "", "chat", "cumulative"),
        ("org.springframework.boot", "4.0.0", "chat", "cumulative"),
        ("opentelemetry.instrumentation.genai.openai", "1.3b0", "chat", "drops_cache"),
        ("opentelemetry.instrumentation.genai.openai_agents", "1.0", "chat", "drops_cache"),
        ("io.opentelemetry.openai-java-1.1", "2.31.1-alpha", "chat", "mode_in_table"),
    ],
)
def test_and_not_with_others(scope: str, version: str, klass: str, fact: str) -> None:
    """A later version, another class or another scope has not the fact."""
    attributes = {"gen_ai.operation.name": klass, "gen_ai.provider.name": "anthropic", GU + "input_tokens": 5}
    assert getattr(read(attributes, scope=scope, version=version), fact) is False


def test_the_last_step_alone_is_marked_incomplete() -> None:
    """AI SDK up to 5 writes the usage of the last step around all steps; from 6 on it is the sum, told by its details."""
    attributes: dict[str, Any] = {"ai.operationId": "ai.generateText", "ai.usage.promptTokens": 20, "ai.usage.completionTokens": 7}
    assert read(attributes, scope="ai").usage_incomplete
    assert not read({**attributes, "ai.usage.inputTokenDetails.noCacheTokens": 20}, scope="ai").usage_incomplete


def test_a_cost_that_may_be_the_sessions_is_marked() -> None:
    """The Claude Agent SDK's cost goes on rising in a resumed session, its token counts do not."""
    reading = read(
        {"openinference.span.kind": "AGENT", "llm.token_count.prompt": 5, "llm.cost.total": 0.5},
        scope="openinference.instrumentation.claude_agent_sdk",
    )
    assert (reading.emitted_cost_cumulative, reading.cumulative) == (True, False)


def test_an_emitter_in_no_table_is_unknown() -> None:
    """It is read all the same, and said to be unknown."""
    assert not read({GU + "input_tokens": 5}, scope="home.made").known_emitter
    assert read({GU + "input_tokens": 5}, scope="opentelemetry.instrumentation.genai.openai").known_emitter


def test_an_operators_row_stands_before_the_tables() -> None:
    """A new instrumentation, or one that we know wrongly, is one row in the config."""
    by = with_rows({"scope": "^home\\.", "version": ">=2,<3", "provider": "Anthropic", "mode": "EX", "cumulative": True})
    attributes = {GU + "input_tokens": 100, GU + "output_tokens": 9, GU + "cache_read.input_tokens": 90, "gen_ai.system": "anthropic"}
    reading = read(attributes, scope="home.made", version="2.1", by=by)
    assert (buckets(reading), reading.cache_evidence, reading.known_emitter) == ((100, 90, 0, 9), "E3", True)
    assert read({**attributes, "gen_ai.operation.name": "invoke_agent"}, scope="home.made", version="2.1", by=by).cumulative
    assert not read({**attributes, "gen_ai.operation.name": "chat"}, scope="home.made", version="2.1", by=by).cumulative
    assert read(attributes, scope="home.made", version="3.0", by=by).cache_mode is CacheMode.INCLUSIVE
    assert read({**attributes, "gen_ai.system": "openai"}, scope="home.made", version="2.1", by=by).cache_evidence == "E4"
    by = with_rows(
        {"scope": "x", "provider": ("openai", "aws"), "mode": "EX", "cumulative": ("L",), "version": "", "attribute": "", "tier": ""}
    )
    reading = read({**attributes, "gen_ai.system": "bedrock", "llm.request.type": "chat"}, scope="x", by=by)
    assert (reading.cache_mode, reading.cumulative) == (CacheMode.EXCLUSIVE, True)
    by = with_rows({"scope": "opentelemetry.instrumentation.genai.anthropic", "mode": "EX"})
    assert read(attributes, scope="opentelemetry.instrumentation.genai.anthropic", by=by).cache_mode is CacheMode.EXCLUSIVE


def test_an_operators_row_marks_batch_calls() -> None:
    """No emitter marks batch calls, so an attribute of the operator's own does."""
    by = with_rows({"scope": ".*", "attribute": "app.queue=nightly", "tier": "batch"})
    used = {GU + "input_tokens": 5, GU + "output_tokens": 1}
    assert by.rules.limit_of("app.queue") > 0
    assert read({**used, "app.queue": "nightly"}, scope="x", by=by).tier == "batch"
    assert read({**used, "app.queue": "live"}, scope="x", by=by).tier is None
    assert read({**used, "openai.response.service_tier": "default"}, scope="x", by=by).tier == "standard"
    by = with_rows({"scope": "worker", "tier": "batch"}, {"scope": "x", "attribute": "batch=true", "tier": "batch"})
    assert read(used, scope="worker", by=by).tier == "batch"
    assert read({**used, "batch": True}, scope="x", by=by).tier == "batch"


def test_everything_wrong_with_an_operators_rows_is_said_at_once() -> None:
    """One reading of the config, one list of problems, each with its place."""
    with pytest.raises(ConfigError) as caught:
        with_rows(
            {"scope": "(", "mode": "SOMETIMES", "version": "1.x"},
            {"mode": "IN", "colour": "red", "tier": "cheap", "attribute": "key", "provider": 7, "cumulative": "yes", "drops_cache": "no"},
        )
    told = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 10
    for place in ("scope[0].scope", "scope[0].mode", "scope[0].version", "scope[1].colour", "scope[1].tier", "scope[1].attribute"):
        assert f"usage.{place}" in told


# ------------------------------------------------------------------------------------------------------------ limits


def test_every_key_that_a_rule_reads_is_wanted() -> None:
    """A key that the decoder drops cannot be read."""
    assert all(rules().limit_of(key) > 0 for key in reader()._deciding)
    for key in (
        GU + "input_tokens",
        "anthropic.usage.anything",
        "ai.usage.inputTokenDetails.noCacheTokens",
        "gen_ai.usage.partial.input_tokens",
    ):
        assert 0 < rules().limit_of(key) <= 64
    assert rules().limit_of("gen_ai.usage.raw") == 65_536
    assert rules().limit_of("ai.response.providerMetadata.anthropic") == 65_536
    assert rules().limit_of("gen_ai.response.id") >= 256
    assert rules().limit_of("http.url") == 0


# ------------------------------------------------------------------------------------------------------------ Reader


def test_a_draft_has_the_fields_of_a_reading() -> None:
    """A Draft becomes a Reading by changing its class, so it must have the same slots, and be locked then."""
    base = Reading(klass=read({}).klass)
    assert sorted(Draft.__slots__) == sorted(NAMES) == sorted(field.name for field in fields(Reading))
    locked = Draft(values_of(base)).locked()
    assert locked == base
    assert type(locked) is Reading
    assert replace(locked, tier="flex").tier == "flex"
    with pytest.raises(AttributeError):
        locked.tier = "flex"  # type: ignore[misc]  # that is what is tested


def test_spans_that_state_no_counts_share_one_reading() -> None:
    """Four of five spans are such; they must cost nothing to keep."""
    attributes = {"gen_ai.operation.name": "execute_tool", "gen_ai.agent.name": "a"}
    assert read(attributes) is read({**attributes, "gen_ai.agent.name": "b"})


def test_names_that_are_no_text_do_no_harm() -> None:
    """A client may send a list where a name belongs."""
    reading = read({"gen_ai.request.model": ["a", "b"], "gen_ai.system": {"a": 1}, "gen_ai.operation.name": 7, GU + "input_tokens": 5})
    assert (reading.models, reading.provider, reading.operation) == ((), None, None)


def test_the_memory_of_the_reader_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scopes, keys, names and texts come from clients: what is remembered of them must not grow, nor change what is said."""
    for name in ("MAX_SOURCES", "MAX_SHAPES", "MAX_STATICS", "MAX_NAMES"):
        monkeypatch.setattr(reader_module, name, 4)
    small = Reader(rules())
    for number in range(50):
        attributes = {f"key.{number}": 1, "gen_ai.request.model": f"m{number}", GU + "input_tokens": number + 1}
        reading = read(attributes, scope=f"scope{number % 9}", name=f"name{number}", by=small)
        assert (usage(reading).input_total, reading.models) == (number + 1, (f"m{number}",))
        assert len(small._by_source) <= 4
        assert len(small._by_scope) <= 4
        assert sum(len(known.plans) for known in small._by_scope.values()) <= 4
        assert sum(len(plan.statics) for known in small._by_scope.values() for plan in known.plans.values()) <= 4
        assert all(len(known.names) <= 4 for known in small._by_scope.values())


NUMBERS = st.one_of(
    st.integers(0, 40), st.sampled_from([-1, 2**70, 1.5, 7.0, float("nan"), "12", '"12"', "x", True, None, [1]]), st.integers(0, 10**9)
)
COUNT_KEYS = st.sampled_from(
    [GU + "input_tokens", GU + "output_tokens", GU + "total_tokens", "llm.token_count.prompt", "llm.token_count.completion"]
    + [rules().details[name][0] for name in DETAILS]
)
SCOPES = st.sampled_from(
    ["", "ai", "openlit", "com.anthropic.sdk.python", "opentelemetry.instrumentation.vertexai", "opentelemetry.instrumentation.botocore"]
)
SYSTEMS = st.sampled_from(["openai", "anthropic", "gemini", "aws", "xai", "none"])


@settings(max_examples=200, deadline=None)
@given(
    counts=st.dictionaries(COUNT_KEYS, NUMBERS, max_size=8), scope=SCOPES, system=SYSTEMS, model=st.sampled_from(["m", "openai.gpt-oss"])
)
def test_the_short_way_comes_to_what_the_long_way_comes_to(counts: dict[str, Any], scope: str, system: str, model: str) -> None:
    """Whatever is stated: both ways agree, buckets add up, no part is larger than its whole, nothing raises."""
    attributes = {**counts, "gen_ai.system": system, "gen_ai.request.model": model}
    quick = read(attributes, scope=scope)
    known = reader()._by_scope[scope, ""]
    plan = known.plans[tuple(attributes)]
    statics = reader()._statics_of(known.emitter, plan, "span", tuple(attributes.values()))
    long = reader_module.measure(plan.shape, tuple(attributes.values()), statics, rules()).locked()
    assert quick == long
    if quick.tokens is not None:
        found = usage(quick)
        assert found.reasoning <= found.output_total
        assert found.audio_in + found.image_in + found.video_in <= found.uncached
        assert found.audio_cache_read <= found.cache_read
        assert found.audio_out + found.image_out <= found.output_total


@settings(max_examples=100, deadline=None)
@given(
    attributes=st.dictionaries(
        st.one_of(COUNT_KEYS, st.sampled_from(sorted(rules()._limits)), st.text(max_size=8)),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.binary(max_size=8)),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
            max_leaves=6,
        ),
        max_size=6,
    )
)
def test_nothing_that_a_client_sends_breaks_the_reader(attributes: dict[str, Any]) -> None:
    """Any value under any key is read or missing, never an error."""
    assert isinstance(read(attributes, scope="com.anthropic.claude_code"), Reading)


def test_counts_and_tokens_name_the_same_parts() -> None:
    """A part that is read must be one that is kept."""
    known = set(Tokens._fields) | {"cache_write"}
    assert set(DETAILS) <= known
    assert set(DETAILS) < set(Counts.__slots__)


def test_a_providers_own_counts_stand_in_where_no_others_are() -> None:
    """Pydantic AI 1.0 leaves its own out when genai-prices does not know the usage object; Anthropic's input lacks the cache."""
    details = {"gen_ai.usage.details.input_tokens": 11251, "gen_ai.usage.details.output_tokens": 196}
    cached = {"gen_ai.usage.details.cache_read_input_tokens": 5739, "gen_ai.usage.details.cache_creation_input_tokens": 1427}
    assert buckets(read(details | cached, scope="pydantic-ai")) == (11251, 5739, 1427, 196)
    assert buckets(read(details, scope="pydantic-ai")) == (11251, 0, 0, 196)
    own = {GU + "input_tokens": 18417, GU + "output_tokens": 196}
    assert buckets(read(own | details | cached, scope="pydantic-ai")) == (11251, 5739, 1427, 196)


def test_a_total_of_the_emitters_own_adding_proves_nothing() -> None:
    """OpenLIT adds Google's prompt and candidates, and writes the thoughts beside them."""
    attributes = {
        "gen_ai.provider.name": "gemini", GU + "input_tokens": 7170, GU + "output_tokens": 150, GU + "reasoning_tokens": 14,
        "gen_ai.client.token.usage": 7320,
    }  # fmt: skip
    assert usage(read(attributes, scope="openlit.instrumentation.google_ai_studio")).output_total == 164
    assert usage(read(attributes, scope="openlit.instrumentation.openai")).output_total == 150


LANGFUSE_3_2 = {"input": 7689, "output": 177, "cache_creation_input_tokens": 829, "cache_read_input_tokens": 2795}
SPLIT = {"cache_creation": {"ephemeral_5m_input_tokens": 829, "ephemeral_1h_input_tokens": 0}}
NESTED = {"input": 7689, "output": 177, "input_tokens_details": {"cached_tokens": 2795}}


@pytest.mark.parametrize(("stated", "expect"), [(LANGFUSE_3_2 | SPLIT, (7689, 2795, 829, 177)), (NESTED, (4894, 2795, 0, 177))])
def test_langfuse_objects_in_buckets(stated: dict[str, Any], expect: tuple[int, int, int, int]) -> None:
    """Only nested details say that the input holds the cache; a nested `cache_creation` splits what was written (Langfuse 3.2)."""
    attributes = {"langfuse.observation.usage_details": json.dumps(stated), "langfuse.observation.type": "generation"}
    assert buckets(read(attributes, scope="langfuse-sdk")) == expect


def test_monocles_model_calls_are_known_to_be_such() -> None:
    """Their counts stand in span events: a class is what is needed to say that they are missing."""
    assert read({"span.type": "inference"}, scope="monocle_apptrace").klass.value == "L"
    assert read({"span.type": "agentic.tool.invocation"}, scope="monocle_apptrace").klass.value == "T"
    assert read({"span.type": "workflow"}, scope="monocle_apptrace").klass.value == "A"
