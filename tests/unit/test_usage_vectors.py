"""The test vectors that are about one span, by their ids: (uncached, cache read, cache write, output) of what it says."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.unit.usage_spans import buckets, read, usage

GU = "gen_ai.usage."
CHAT = {"gen_ai.operation.name": "chat"}


@dataclass
class Vector:
    """What one emitter wrote, and what it means."""

    id: str
    scope: str
    attributes: dict[str, Any]
    expect: tuple[int, int, int, int]
    version: str = ""
    more: dict[str, Any] = field(default_factory=dict)  #: fields of the Reading


def anthropic(**counts: int) -> dict[str, Any]:
    return {**CHAT, "gen_ai.provider.name": "anthropic", **{GU + key.replace("__", "."): value for key, value in counts.items()}}


VECTORS = [
    Vector(
        "v01",
        "opentelemetry.instrumentation.genai.anthropic",
        anthropic(input_tokens=130213, output_tokens=10, cache_read__input_tokens=128955, cache_write__input_tokens=1253),
        (5, 128955, 1253, 10),
        version="1.3b0",
        more={"cache_evidence": "E3"},
    ),
    Vector(
        "v02",
        "openlit.instrumentation.anthropic",
        anthropic(input_tokens=5000, output_tokens=10, total_tokens=5010, cache_read__input_tokens=3000),
        (5000, 3000, 0, 10),
        more={"cache_evidence": "E3"},
    ),
    Vector(
        "v03",
        "opentelemetry.instrumentation.botocore.bedrock-runtime",
        {**CHAT, "gen_ai.system": "aws.bedrock", GU + "input_tokens": 4, GU + "output_tokens": 20, GU + "cache_read.input_tokens": 9000},
        (4, 9000, 0, 20),
        version="0.66b2",
        more={"cache_evidence": "E2"},
    ),
    Vector(
        "v04",
        "strands.telemetry.tracer",
        {
            **CHAT,
            "gen_ai.system": "strands-agents",
            GU + "input_tokens": 1000,
            GU + "prompt_tokens": 1000,
            GU + "output_tokens": 20,
            GU + "completion_tokens": 20,
            GU + "total_tokens": 1520,
            GU + "cache_read_input_tokens": 500,
        },
        (1000, 500, 0, 20),
        more={"cache_evidence": "E1"},
    ),
    Vector(
        "v06",
        "ai",
        {
            "ai.operationId": "ai.generateText.doGenerate",
            "ai.model.provider": "anthropic.messages",
            "ai.usage.inputTokens": 4110,
            "ai.usage.outputTokens": 5,
            "ai.usage.inputTokenDetails.noCacheTokens": 10,
            "ai.usage.inputTokenDetails.cacheReadTokens": 4000,
            "ai.usage.inputTokenDetails.cacheWriteTokens": 100,
        },
        (10, 4000, 100, 5),
        more={"cache_evidence": "E0a"},
    ),
    Vector(
        "v17",
        "openinference.instrumentation.openai",
        {
            "openinference.span.kind": "LLM",
            "llm.token_count.prompt": 100,
            "llm.token_count.completion": 9,
            "llm.token_count.prompt_details.cache_read": 20,
            GU + "input_tokens": 100,
            GU + "output_tokens": 9,
            GU + "cache_read.input_tokens": 20,
        },
        (80, 20, 0, 9),
    ),
    Vector(
        "v18",
        "opentelemetry.instrumentation.google_generativeai",
        {
            "llm.request.type": "chat",
            "gen_ai.system": "Google",
            GU + "input_tokens": 100,
            GU + "output_tokens": 10,
            GU + "reasoning_tokens": 20,
            GU + "total_tokens": 130,
        },
        (100, 0, 0, 30),
    ),
    Vector(
        "v20",
        "org.springframework.boot",
        {
            **CHAT,
            "gen_ai.system": "anthropic",
            GU + "input_tokens": "40",
            GU + "output_tokens": "6",
            GU + "total_tokens": "46",
            GU + "cache_read.input_tokens": "900",
            GU + "cache_creation.input_tokens": "10",
        },
        (40, 900, 10, 6),
        more={"cache_evidence": "E2"},
    ),
    Vector(
        "v21",
        "com.anthropic.claude_code.tracing",
        {
            "span.type": "llm_request",
            "model": "claude-sonnet-4-5-20250929",
            "input_tokens": 3,
            "output_tokens": 40,
            "cache_read_tokens": 20000,
            "cache_creation_tokens": 500,
        },
        (3, 20000, 500, 40),
        more={"cache_evidence": "E0b", "models": ("claude-sonnet-4-5-20250929",), "operation": "llm_request"},
    ),
    Vector(
        "v26",
        "litellm",
        {**CHAT, GU + "input_tokens": 100, GU + "output_tokens": 9, "litellm.cache_hit": "True"},
        (100, 0, 0, 9),  # kept for statistics; the flag makes it 0 where calls are counted
        more={"cache_hit": True},
    ),
    Vector(
        "v28",
        "langfuse-sdk",
        {
            "langfuse.observation.type": "generation",
            "langfuse.observation.usage_details": json.dumps(
                {"input": 86, "input_cached_tokens": 17817, "output": 40, "output_reasoning_tokens": 10, "total": 17953}
            ),
        },
        (86, 17817, 0, 50),
        more={"cache_evidence": "E0c"},
    ),
    Vector(
        "v38",
        "logfire",
        {
            "gen_ai.system": "openai",
            GU + "input_tokens": 3324,
            GU + "output_tokens": 557,
            GU + "raw": json.dumps({"input_tokens": 3324, "output_tokens": 557, "input_tokens_details": {"cached_tokens": 640}}),
        },
        (2684, 640, 0, 557),
        more={"cache_evidence": "E0d"},
    ),
    Vector(
        "v39",
        "langfuse-sdk",
        {
            "langfuse.observation.type": "generation",
            "langfuse.observation.usage_details": json.dumps(
                {
                    "cache_creation_input_tokens": 900,
                    "cache_read_input_tokens": 3072,
                    "cache_creation_ephemeral_5m_input_tokens": 900,
                    "cache_creation_ephemeral_1h_input_tokens": 0,
                    "input": 120,
                    "output": 568,
                }
            ),
        },
        (120, 3072, 900, 568),
        more={"cache_evidence": "E0c", "has_write_split": True},
    ),
    Vector(
        "v40",
        "langfuse-sdk",
        {
            "langfuse.observation.type": "generation",
            "langfuse.observation.usage_details": json.dumps(
                {
                    "input_tokens": 8735,
                    "input_tokens_details": {"cached_tokens": 1024},
                    "output_tokens": 448,
                    "output_tokens_details": {"reasoning_tokens": 0},
                    "total_tokens": 9183,
                }
            ),
        },
        (7711, 1024, 0, 448),
        more={"cache_evidence": "E0c"},
    ),
    Vector(
        "v41",
        "ai",
        {
            "ai.operationId": "ai.generateText.doGenerate",
            "ai.model.provider": "anthropic.messages",
            "ai.usage.inputTokens": 133,
            "ai.usage.outputTokens": 464,
            "ai.response.providerMetadata": json.dumps(
                {
                    "anthropic": {
                        "usage": {
                            "input_tokens": 133,
                            "cache_read_input_tokens": 2304,
                            "cache_creation_input_tokens": 640,
                            "output_tokens": 464,
                            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 640},
                            "service_tier": "standard",
                        },
                        "cacheCreationInputTokens": 640,
                    }
                }
            ),
        },
        (133, 2304, 640, 464),
        more={"cache_evidence": "E0d", "tier": "standard", "has_write_split": True, "provider": "anthropic"},
    ),
    Vector(
        "v46",
        "opentelemetry.instrumentation.google_genai",
        {
            "gen_ai.operation.name": "generate_content",
            "gen_ai.system": "gcp.gemini",
            GU + "input_tokens": 1000,
            GU + "output_tokens": 50,
            GU + "cache_read.input_tokens": 1020,
        },
        (0, 1000, 0, 50),
        more={"clamped": 1, "cache_evidence": "E2"},
    ),
    Vector(
        "v49",
        "mirascope.llm",
        {
            **CHAT,
            GU + "input_tokens": 100,
            GU + "output_tokens": 9,
            "mirascope.response.usage": json.dumps({"input_tokens": 100, "cache_read_tokens": 80, "output_tokens": 9}),
        },
        (20, 80, 0, 9),
        more={"cache_evidence": "E0d"},
    ),
]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.id)
def test_a_span_is_read_as_its_vector_says(vector: Vector) -> None:
    """One span of one emitter means these disjoint buckets, by this evidence."""
    reading = read(vector.attributes, scope=vector.scope, version=vector.version)
    assert buckets(reading) == vector.expect
    for name, value in vector.more.items():
        assert getattr(reading, name) == value, name


def test_v41_keeps_the_life_of_its_cache_writes() -> None:
    """An hour's cache write costs more than five minutes', so the split is kept wherever it stands."""
    vector = next(vector for vector in VECTORS if vector.id == "v41")
    found = usage(read(vector.attributes, scope=vector.scope))
    assert (found.cache_write_5m, found.cache_write_1h, found.cache_write_unknown) == (0, 640, 0)
