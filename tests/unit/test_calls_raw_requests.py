"""What the provider answered, beside the call: it completes what LiteLLM's own span leaves out, and adds no call."""

from __future__ import annotations

import pytest

from tests.unit.spans import Story, buckets

ANSWER = "{'input_tokens': 4779, 'cache_creation_input_tokens': 1243, 'cache_read_input_tokens': 3335, 'output_tokens': 194}"
OWN = {
    "llm.request.type": "completion",
    "gen_ai.system": "anthropic",
    "gen_ai.response.model": "claude-3-5-sonnet-20241022",
    "gen_ai.usage.completion_tokens": 194,
}
OBJECT = "{'completion_tokens': 194, 'prompt_tokens': 8114, 'cache_creation_input_tokens': 1243, 'cache_read_input_tokens': 3335}"


def told(own: dict[str, object], raw: dict[str, str], *, name: str = "raw_gen_ai_request") -> list[tuple[int, int, int, int]]:
    story = Story()
    request = story.span({**OWN, **own}, scope="litellm", version="", name="litellm_request")  # type: ignore[dict-item]  # plain values
    story.span(raw, under=request, scope="litellm", version="", name=name)
    return [buckets([call]) for call in story.count().calls]


@pytest.mark.parametrize(
    "own",
    [
        {"gen_ai.usage.prompt_tokens": 9357},  # 1.60: all input, nothing of the cache
        {"gen_ai.usage.prompt_tokens": 8114, "metadata.usage_object": OBJECT},  # 1.75: what was read from the cache, not what was written
        {
            "gen_ai.usage.prompt_tokens": 9357,
            "gen_ai.usage.cache_read.input_tokens": 3335,
            "gen_ai.usage.cache_creation.input_tokens": 1243,
        },
    ],
    ids=["1.60", "1.75", "1.106"],
)
def test_a_raw_request_completes_the_call_above_it(own: dict[str, object]) -> None:
    """All three generations of LiteLLM come to the provider's own counts."""
    assert told(own, {"llm.anthropic.usage": ANSWER}) == [(4779, 3335, 1243, 194)]


def test_a_raw_request_of_another_answer_tells_nothing() -> None:
    """Where the outputs differ it is no answer to this call."""
    other = ANSWER.replace("194", "195")
    assert told({"gen_ai.usage.prompt_tokens": 9357}, {"llm.anthropic.usage": other}) == [(9357, 0, 0, 194)]


def test_a_raw_request_alone_is_no_call() -> None:
    """It is never counted, whatever it holds."""
    story = Story()
    story.span({"llm.anthropic.usage": ANSWER}, scope="litellm", name="raw_gen_ai_request")
    assert story.count().calls == []
