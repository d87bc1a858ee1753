"""Whether the input contains the cached tokens: each evidence, and which of them comes first."""

from __future__ import annotations

import json
from typing import Any

import pytest

from receiver.core.usage import CacheMode
from tests.unit.usage_spans import buckets, read, usage

GU = "gen_ai.usage."
IN, EX = CacheMode.INCLUSIVE, CacheMode.EXCLUSIVE


def counts(sent: int, got: int, *, read: int = 0, write: int = 0, total: int | None = None) -> dict[str, Any]:
    attributes: dict[str, Any] = {GU + "input_tokens": sent, GU + "output_tokens": got}
    attributes |= {GU + "cache_read.input_tokens": read, GU + "cache_creation.input_tokens": write}
    if total is not None:
        attributes[GU + "total_tokens"] = total
    return attributes


@pytest.mark.parametrize(
    ("label", "mode", "scope", "attributes"),
    [
        (
            "E0a",
            IN,
            "gen_ai",
            counts(100, 9, read=90) | {"ai.usage.inputTokenDetails.noCacheTokens": 10, "gen_ai.provider.name": "anthropic"},
        ),
        ("E0a", IN, "com.anthropic.sdk.python", counts(100, 9, read=90) | {"anthropic.usage.cache_creation.ephemeral_5m_input_tokens": 0}),
        ("E0a", IN, "mlflow", {"mlflow.chat.tokenUsage": '{"input_tokens": 100, "output_tokens": 9, "cache_read_input_tokens": 90}'}),
        (
            "E0a",
            IN,
            "codex_cli",
            {
                "codex.turn.token_usage.input_tokens": "100",
                "codex.turn.token_usage.output_tokens": 9,
                "codex.turn.token_usage.cached_input_tokens": 90,
            },
        ),
        ("E0b", EX, "com.anthropic.claude_code.tracing", {"input_tokens": 100, "output_tokens": 9, "cache_read_tokens": 90}),
        ("E0d", EX, "x", counts(100, 9, read=90) | {GU + "raw": {"input_tokens": 100, "cache_read_input_tokens": 90}}),
        ("E0d", IN, "x", counts(100, 9, read=90) | {GU + "raw": {"input_tokens": 10, "cache_read_input_tokens": 90}}),
        ("E0d", IN, "x", counts(100, 9, read=90) | {GU + "raw": {"input_tokens": 100, "input_token_details": {"cache_read": 90}}}),
        ("E0d", EX, "x", counts(100, 9, read=90) | {GU + "raw": {"inputTokens": 100, "cacheReadInputTokens": 90}}),
        ("E1", EX, "x", counts(100, 9, read=60, write=30, total=199)),
        ("E1", EX, "x", counts(100, 9, read=60, write=30, total=204) | {GU + "reasoning_tokens": 5}),
        ("E2", EX, "x", counts(100, 9, read=90, write=11)),
        ("E2", IN, "x", counts(1000, 9, read=1020) | {"gen_ai.system": "gemini"}),
        ("E2", EX, "x", counts(1000, 9, read=9000) | {"gen_ai.system": "gemini"}),
        ("E2", EX, "x", counts(1000, 9, read=1020) | {"gen_ai.system": "vertex_ai", "gen_ai.request.model": "claude-sonnet-4@20250514"}),
        ("E3", EX, "openlit.instrumentation.anthropic", counts(100, 9, read=90, total=109) | {"gen_ai.provider.name": "anthropic"}),
        ("E3", IN, "openlit.instrumentation.openai", counts(100, 9, read=90, total=109) | {"gen_ai.provider.name": "openai"}),
        ("E3", EX, "agent_framework", counts(100, 9, read=90) | {"gen_ai.provider.name": "anthropic"}),
        ("E3", EX, "ai", counts(100, 9, read=90) | {"ai.model.provider": "amazon-bedrock"}),
        ("E3", EX, "org.springframework.boot", counts(100, 9, read=90, total=109) | {"gen_ai.system": "bedrock_converse"}),
        ("E4", IN, "x", counts(100, 9, read=90)),
        ("E4", IN, "x", counts(100, 9, read=60, write=40)),
        ("E4", IN, "x", counts(100, 9, read=90, total=109)),
        (
            "E4",
            IN,
            "opentelemetry.instrumentation.botocore",
            counts(100, 9, read=90, total=199) | {"gen_ai.system": "aws.bedrock", "gen_ai.request.model": "openai.gpt-oss-120b-1:0"},
        ),
    ],
)
def test_the_first_evidence_decides(label: str, mode: CacheMode, scope: str, attributes: dict[str, Any]) -> None:
    """Each row of the evidence, with everything that later rows would say differently."""
    reading = read(attributes, scope=scope)
    assert (reading.cache_evidence, reading.cache_mode) == (label, mode)
    found = usage(reading)
    stated = 1000 if attributes.get(GU + "input_tokens") == 1000 else 100
    if mode is EX:
        assert (found.uncached, found.input_total) == (stated, stated + found.cache_read + found.cache_write)
    else:
        assert found.input_total == stated


@pytest.mark.parametrize(
    ("version", "mode"), [("1.20.0", EX), ("1.33.9", EX), ("1.34.0", IN), ("v1.62", IN), ("2", IN), ("", IN), ("unknown", IN)]
)
def test_a_version_range_speaks_for_its_versions_alone(version: str, mode: CacheMode) -> None:
    """Strands changed from one mode to the other; of an unversioned scope the range says nothing."""
    reading = read(counts(100, 9, read=90, total=109), scope="strands.telemetry.tracer", version=version)
    assert (reading.cache_mode, reading.cache_evidence) == (mode, "E3")


@pytest.mark.parametrize(
    ("details", "expect"),
    [
        ({"input": 10, "input_cached_tokens": 90, "output": 9, "total": 109}, (10, 90, 0, 9)),
        ({"input": 10, "input_cached_tokens": 90, "output": 9}, (10, 90, 0, 9)),
        ({"input": 100, "input_cached_tokens": 90, "output": 9, "output_reasoning": 4, "total": 109}, (10, 90, 0, 9)),
        (
            {"prompt_tokens": 100, "completion_tokens": 9, "total_tokens": 109, "prompt_tokens_details": {"cached_tokens": 90}},
            (10, 90, 0, 9),
        ),
        ({"prompt_tokens": 100, "completion_tokens": 9, "prompt_tokens_details.cached_tokens": 90}, (10, 90, 0, 9)),
        ({"input_tokens": 10, "output_tokens": 9, "cache_read_input_tokens": 90, "cache_creation_input_tokens": 0}, (10, 90, 0, 9)),
        (
            {
                "input_tokens": 10,
                "output_tokens": 9,
                "cache_read_input_tokens": 80,
                "cache_creation_input_tokens": 10,
                "cache_creation": {"ephemeral_1h_input_tokens": 10},
            },
            (10, 80, 10, 9),
        ),
        ({"input": 10, "input_cache_creation_5m": 50, "input_cache_creation_1h": 40, "output": 9}, (10, 0, 90, 9)),
        ({"input": 10, "input_audio": 5, "output": 9, "output_audio": 3, "total": 27}, (15, 0, 0, 12)),
    ],
)
def test_langfuse_buckets_tell_by_their_sum(details: dict[str, Any], expect: tuple[int, int, int, int]) -> None:
    """Buckets that add up to the total are disjoint; where input and output alone make it, the others are parts of them."""
    reading = read({"langfuse.observation.usage_details": json.dumps(details)}, scope="langfuse-sdk")
    assert buckets(reading) == expect
    assert reading.cache_evidence in ("E0c", "")


def test_no_cache_count_needs_no_evidence() -> None:
    """A label on a call that has no cache count would be noise in the metrics."""
    reading = read({GU + "input_tokens": 100, GU + "output_tokens": 9})
    assert (reading.cache_evidence, reading.has_cache_keys) == ("", False)
    assert read(counts(100, 9)).has_cache_keys


def test_the_parts_of_a_cache_write_by_life_beat_a_whole_of_zero() -> None:
    """LangChain's Anthropic usage states 0 for the whole when it states the parts."""
    attributes: dict[str, Any] = {GU + "input_tokens": 1000, GU + "output_tokens": 9, GU + "cache_creation.input_tokens": 0}
    attributes[GU + "input_token_details"] = (
        "{'cache_read': 100, 'cache_creation': 0, 'ephemeral_5m_input_tokens': 30, 'ephemeral_1h_input_tokens': 70}"
    )
    found = usage(read(attributes))
    assert (found.cache_read, found.cache_write_5m, found.cache_write_1h, found.cache_write_unknown, found.uncached) == (
        100,
        30,
        70,
        0,
        800,
    )


def test_a_write_of_unknown_life_is_what_the_parts_leave() -> None:
    """The rest of the whole is priced at the default life."""
    key = "anthropic.usage.cache_creation.ephemeral_1h_input_tokens"
    found = usage(read(counts(1000, 9, write=100) | {key: 40}, scope="com.anthropic.sdk.python"))
    assert (found.cache_write_1h, found.cache_write_unknown) == (40, 60)


@pytest.mark.parametrize(
    ("attributes", "output", "reasoning"),
    [
        (counts(100, 10, total=130) | {GU + "reasoning_tokens": 20}, 30, 20),
        (counts(100, 30, total=130) | {GU + "reasoning_tokens": 20}, 30, 20),
        (counts(100, 30) | {GU + "reasoning_tokens": 20}, 30, 20),
        (counts(100, 10) | {GU + "reasoning_tokens": 20}, 30, 20),
        (counts(100, 30) | {GU + "reasoning_tokens": 20, "gen_ai.system": "xai"}, 50, 20),
        (counts(100, 30, total=130) | {GU + "reasoning_tokens": 20, "gen_ai.system": "xai"}, 30, 20),
        (counts(100, 30) | {GU + "reasoning_tokens": 20, "gen_ai.system": "perplexity"}, 50, 20),
        (counts(100, 10, total=110) | {GU + "reasoning_tokens": 20}, 10, 10),
    ],
)
def test_reasoning_is_output_once(attributes: dict[str, Any], output: int, reasoning: int) -> None:
    """The total, the provider or a part larger than its whole tell that reasoning stands apart; else it is within the output."""
    reading = read(attributes)
    found = usage(reading)
    assert (found.output_total, found.reasoning) == (output, reasoning)
    assert reading.clamped == (1 if reasoning == 10 else 0)


@pytest.mark.parametrize(
    ("scope", "details", "output"),
    [("ai", False, 30), ("ai", True, 20), ("opentelemetry.instrumentation.vertexai", False, 30), ("x", False, 20)],
)
def test_google_thoughts_are_apart_where_the_emitter_is_known_for_it(scope: str, details: bool, output: int) -> None:
    """AI SDK up to 5 and Traceloop leave Gemini's thoughts out of the output; from 6 on (it writes details) they are within."""
    attributes: dict[str, Any] = {
        "gen_ai.system": "google.generative-ai",
        GU + "input_tokens": 5,
        GU + "output_tokens": 20,
        GU + "reasoning_tokens": 10,
    }
    if details:
        attributes["ai.usage.inputTokenDetails.noCacheTokens"] = 5
    assert usage(read(attributes, scope=scope)).output_total == output


def test_a_total_without_the_cache_still_holds_all_output() -> None:
    """OpenLIT's total is input + output as it states them, with the cache in neither: reasoning cannot stand beside that."""
    attributes = counts(100, 10, read=90, total=110) | {GU + "reasoning_tokens": 20, "gen_ai.provider.name": "anthropic"}
    reading = read(attributes, scope="openlit.instrumentation.anthropic")
    assert (buckets(reading), reading.clamped) == ((100, 90, 0, 10), 1)


def test_subsets_are_cut_to_what_holds_them() -> None:
    """Audio that is cached is not fresh audio, and no part is larger than its whole; each cut is counted."""
    attributes = counts(100, 10, read=60) | {GU + "audio.input_tokens": 70, GU + "audio.cache_read.input_tokens": 30}
    found = usage(read(attributes))
    assert (found.uncached, found.audio_in, found.audio_cache_read) == (40, 40, 30)
    reading = read({**attributes, GU + "audio.input_tokens": 80, GU + "image.input_tokens": 5, GU + "audio.output_tokens": 11})
    found = usage(reading)
    assert (found.audio_in, found.image_in, found.audio_out) == (40, 0, 10)
    assert reading.clamped == 3
