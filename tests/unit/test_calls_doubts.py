"""Doubts and missing calls: what is not sure is said, what is sure is not doubted."""

from __future__ import annotations

from typing import Any

import pytest

from receiver.core.calls import Doubt
from receiver.core.span import STATUS_CODE_ERROR
from tests.unit.spans import Story, buckets, reading, tokens

USAGE = tokens(100, 9)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, set()),
        ({"cache_evidence": "E4"}, set()),
        ({"cache_evidence": "E4", "usage": tokens(100, 9, read=1)}, {Doubt.CACHE_MODE_GUESS}),
        ({"cache_evidence": "E3", "usage": tokens(100, 9, read=1)}, set()),
        ({"provider": "openai"}, {Doubt.CACHE_MODE_GUESS}),
        ({"provider": "openai", "mode_in_table": True}, set()),
        ({"provider": "openai", "mode_in_table": True, "drops_cache": True}, {Doubt.CACHE_MODE_GUESS}),
        ({"provider": "openai", "has_cache_keys": True}, set()),
        ({"provider": "openai", "family": "embedding"}, set()),
        ({"provider": "mistral_ai"}, set()),
        ({"known_emitter": False}, {Doubt.UNKNOWN_EMITTER}),
        ({"clamped": 1}, {Doubt.CLAMPED}),
        ({"rejected": 1}, {Doubt.CLAMPED}),
        ({"usage": tokens(0, 9)}, {Doubt.CLAMPED}),
        ({"usage": tokens(0, 9), "family": "image"}, set()),
    ],
    ids=str,
)
def test_doubts_of_a_reading(more: dict[str, Any], expected: set[Doubt]) -> None:
    """Each doubt has its own cause, whether the call is counted by the short way or the long one."""
    own = reading("L", **{"usage": USAGE, **more})
    story = Story()
    top = story.span(reading("A"))
    story.span(own, under=top)
    assert [call.doubts for call in story.count().calls] == [expected]
    story.span(reading("L", tokens(50, 3), response_id="other"), under=top, scope="other", at=(200, 300))
    assert [call.doubts for call in story.count().calls] == [expected, set()]


def test_a_known_teller_that_agrees_settles_an_unknown_one() -> None:
    """Two scopes came to the same counts, and one of them is known."""
    story = Story()
    outer = story.span(reading("L", USAGE))
    story.span(reading("L", USAGE, known_emitter=False, provider="openai"), under=outer, scope="mine")
    [call] = story.count().calls
    assert call.doubts == set()


def test_sampling_and_dropped_attributes_are_doubted_and_listed() -> None:
    """A trace with a sampling threshold is listed once, on its root; each span that lost attributes by itself."""
    story = Story()
    top = story.span(reading("A"), sampled=True)
    first = story.span(reading("L", USAGE), under=top, sampled=True, at=(1, 40))
    second = story.span(reading("L", USAGE), under=top, sampled=True, dropped=3, at=(50, 90))
    counted = story.count()
    assert [call.doubts for call in counted.calls] == [{Doubt.SAMPLED}, {Doubt.SAMPLED, Doubt.DROPPED_ATTRIBUTES}]
    assert [(missing.span, missing.reason) for missing in counted.missing] == [(top, "sampled"), (second, "dropped_attributes")]
    assert first is counted.calls[0].span


def test_a_trace_without_model_calls_that_was_sampled_is_listed() -> None:
    """The calls may be what was not sent."""
    story = Story()
    story.span(reading("N"), sampled=True)
    assert [missing.reason for missing in story.count().missing] == ["sampled"]


def test_an_agent_that_stands_for_several_calls_is_doubted() -> None:
    """Its sum is counted as one call; its model calls show nothing of their own."""
    story = Story()
    top = story.span(reading("A", tokens(300, 30)))
    for place in range(2):
        story.span(reading("L"), under=top, at=(place * 10, place * 10 + 9))
    counted = story.count()
    assert buckets(counted.calls) == (300, 0, 0, 30)
    assert counted.calls[0].doubts == {Doubt.OUTER_WITHOUT_INNER}
    assert counted.missing == []


@pytest.mark.parametrize(("failed", "doubts"), [(0, {Doubt.OUTER_WITHOUT_INNER}), (2, set())])
def test_a_model_call_that_stands_for_several_is_doubted(failed: int, doubts: set[Doubt]) -> None:
    """One span around the steps of a loop holds their sum; around a step that failed and its repetition it holds one call's."""
    story = Story()
    top = story.span(reading("L", tokens(300, 30)))
    story.span(reading("L"), under=top, at=(0, 9), status=failed)
    story.span(reading("L"), under=top, at=(10, 19))
    [call] = story.count().calls
    assert call.doubts == doubts


def test_an_agent_around_one_call_without_usage_is_not_doubted() -> None:
    """Its usage is that call's."""
    story = Story()
    story.span(reading("L"), under=story.span(reading("A", USAGE)))
    counted = story.count()
    assert counted.calls[0].doubts == set()
    assert counted.missing == []


@pytest.mark.parametrize(
    ("amount", "doubted"),
    [
        ((300, 30), False),
        ((200, 20), False),
        ((260, 30), False),
        ((500, 50), True),
        ((250, 25), True),
    ],
    ids=["sum", "last call only", "sum without the cache", "too much", "too little"],
)
def test_wrappers_that_do_not_add_up_are_doubted(amount: tuple[int, int], doubted: bool) -> None:
    """A wrapper may hold the sum, with or without cached input, or the last call; anything else is said."""
    story = Story()
    top = story.span(reading("A", tokens(*amount)))
    story.span(reading("L", tokens(100, 10, read=40)), under=top, at=(1, 40))
    story.span(reading("L", tokens(200, 20)), under=top, at=(50, 90))
    assert [Doubt.WRAPPER_DIFFERS in call.doubts for call in story.count().calls] == [doubted, doubted]


def test_a_model_call_without_usage_is_missing() -> None:
    """Never $0 in silence: listed with its model, and with the reason when it failed."""
    story = Story()
    top = story.span(reading("A"))
    story.span(reading("L", models=("gpt-4o",)), under=top, at=(1, 40))
    story.span(reading("L", models=()), under=top, status=STATUS_CODE_ERROR, at=(50, 90))
    counted = story.count()
    assert [(missing.model, missing.reason, missing.account) for missing in counted.missing] == [
        ("gpt-4o", "no_usage", "default"),
        (None, "error", "default"),
    ]


def test_a_usage_of_zero_is_no_usage() -> None:
    """A failed call states 0 and 0."""
    story = Story()
    story.span(reading("L", tokens(0, 0)), status=STATUS_CODE_ERROR)
    counted = story.count()
    assert counted.calls == []
    assert [missing.reason for missing in counted.missing] == ["error"]


@pytest.mark.parametrize("around", [True, False], ids=["outer", "inner"])
def test_a_teller_without_usage_of_a_counted_call_is_not_missing(around: bool) -> None:
    """Around it or inside it; but a lookup inside a chat is another call."""
    story = Story()
    outer = story.span(reading("L", None if around else USAGE))
    story.span(reading("L", USAGE if around else None), under=story.span(reading("N"), under=outer), scope="two")
    assert story.count().missing == []
    story.span(reading("L", family="embedding"), under=outer, scope="two")
    assert len(story.count().missing) == 1


def test_two_nested_tellers_without_usage_are_one_missing_call() -> None:
    """The inner one is listed."""
    story = Story()
    outer = story.span(reading("L"))
    inner = story.span(reading("L"), under=outer, scope="two")
    assert [missing.span for missing in story.count().missing] == [inner]


def test_a_call_of_a_tool_below_a_counted_call_is_missing() -> None:
    """A tool between makes it another call."""
    story = Story()
    outer = story.span(reading("L", USAGE))
    below = story.span(reading("L"), under=story.span(reading("T"), under=outer))
    assert [missing.span for missing in story.count().missing] == [below]


def test_a_counted_call_answers_for_one_sibling_without_usage_of_each_scope() -> None:
    """Two usage-less spans of another scope beside one counted call: one of them is another call."""
    story = Story()
    top = story.span(reading("A"))
    story.span(reading("L", USAGE), under=top, scope="one", at=(1, 90))
    told = story.span(reading("L"), under=top, scope="two", at=(2, 89))
    other = story.span(reading("L"), under=top, scope="two", at=(3, 88))
    assert [missing.span for missing in story.count().missing] == [other]
    assert told is not other


def test_a_response_cache_hit_is_no_call() -> None:
    """What LiteLLM answered from its own cache is a statistic, also where a second span tells of it, and its agent's sum counts nothing."""
    story = Story()
    top = story.span(reading("A", USAGE))
    story.span(reading("L", USAGE, cache_hit=True, response_id="r-1"), under=top, scope="litellm", at=(1, 90))
    story.span(reading("L", USAGE, response_id="r-1"), under=top, scope="two", at=(2, 89))
    counted = story.count()
    assert counted.calls == []
    assert counted.missing == []
    assert sum(amount for (name, _), amount in counted.counters.items() if name == "response_cache_hits_total") == 1
    assert sum(amount for (name, _), amount in counted.counters.items() if name == "response_cache_hit_tokens_total") == 109


@pytest.mark.parametrize(
    ("case", "doubted"),
    [
        ({}, True),
        ({"usage": tokens(40, 301)}, False),  # nine more
        ({"models": ("gpt-4o",)}, False),
        ({"scope": "outer"}, False),
        ({"at": (50, 150)}, False),
        ({"response_id": "msg_2"}, False),
    ],
    ids=str,
)
def test_twins_that_nearly_agree_are_doubted(case: dict[str, Any], doubted: bool) -> None:
    """A stream's first event counted twice parts two tellers of one call (LangChain over Anthropic's client): said, not joined."""
    story = Story()
    top = story.span(reading("A"))
    chain = story.span(reading("A"), under=top)
    story.span(reading("L", tokens(100, 310), models=("claude-sonnet-4-5",), response_id="msg_1"), under=chain, scope="outer")
    inner: dict[str, Any] = {"usage": tokens(40, 302), "models": ("claude-sonnet-4-5",), **case}
    scope, at = inner.pop("scope", "inner"), inner.pop("at", (5, 95))
    story.span(reading("L", **inner), under=top, scope=scope, at=at)
    calls = story.count().calls
    assert [Doubt.SUSPECTED_DOUBLE in call.doubts for call in calls] == [doubted, doubted]
