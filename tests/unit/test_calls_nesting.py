"""The tree rule, row by row: the innermost carriers are counted, and what only repeats them is not."""

from __future__ import annotations

import pytest

from receiver.core.calls import Doubt
from tests.unit.spans import Story, buckets, reading, tokens

TOOL, AGENT = reading("T"), reading("A")


@pytest.mark.parametrize("klass", ["L", "A", "T", "N"])
def test_a_sole_carrier_is_counted_whatever_it_is(klass: str) -> None:
    """Usage that nothing below repeats is some call's usage."""
    story = Story()
    story.span(reading(klass, tokens(100, 9)))
    assert buckets(story.count().calls) == (100, 0, 0, 9)


@pytest.mark.parametrize("klass", ["A", "T", "N"])
@pytest.mark.parametrize("amount", [(50, 5), (100, 9), (900, 90)])
def test_a_wrapper_above_a_carrier_counts_nothing(klass: str, amount: tuple[int, int]) -> None:
    """Whether it holds less, as much or more than what it wraps."""
    story = Story()
    top = story.span(reading(klass, tokens(*amount)))
    story.span(reading("L", tokens(100, 9)), under=story.span(AGENT, under=top))
    counted = story.count()
    assert buckets(counted.calls) == (100, 0, 0, 9)
    assert counted.counters["aggregate_suppressed_tokens_total", (top.source.scope,)] == sum(amount)


def test_a_plain_span_between_two_tellers_of_one_call_is_looked_through() -> None:
    """An HTTP server's span between a client and a gateway says nothing of agents or tools."""
    story = Story()
    outer = story.span(reading("L", tokens(100, 9)))
    http = story.span(reading("N"), under=outer, service="gateway")
    inner = story.span(reading("L", tokens(100, 9, read=20)), under=http, service="gateway", scope="litellm")
    counted = story.count()
    assert [(call.span, call.merged) for call in counted.calls] == [(inner, (outer,))]
    assert counted.counters["same_call_merged_total", (outer.source.scope, "litellm")] == 1


def test_the_call_merges_nearest_first() -> None:
    """Three levels of one call: the innermost pays, then the spans outward."""
    story = Story()
    top = story.span(reading("L", tokens(100, 9)), scope="crewai")
    middle = story.span(reading("L", tokens(100, 9)), under=top, scope="litellm")
    inner = story.span(reading("L", tokens(100, 9)), under=middle)
    [call] = story.count().calls
    assert (call.span, call.merged) == (inner, (middle, top))


def test_the_paying_span_is_completed_from_the_outer_one() -> None:
    """Response id, tier, cost and the cache split come from where they are known; names are kept in order, inner first."""
    story = Story()
    known = {"response_id": "chatcmpl-1", "tier": "flex", "emitted_cost_pusd": 77, "emitted_cost_key": "gen_ai.usage.cost"}
    outer = story.span(reading("L", tokens(100, 9, read=20), models=("smart",), **known))
    story.span(reading("L", tokens(100, 9), models=("gpt-4o",)), under=outer)
    [call] = story.count().calls
    got = call.reading
    assert (got.response_id, got.tier, got.emitted_cost_pusd, got.models) == ("chatcmpl-1", "flex", 77, ("gpt-4o", "smart"))
    assert buckets([call]) == (80, 20, 0, 9)


def test_a_cache_split_of_other_counts_is_not_taken() -> None:
    """Where the two differ in input, the inner one's counts stand as they are."""
    story = Story()
    outer = story.span(reading("L", tokens(140, 9, read=20)))
    story.span(reading("L", tokens(100, 9)), under=outer)
    [call] = story.count().calls
    assert buckets([call]) == (100, 0, 0, 9)
    assert Doubt.WRAPPER_DIFFERS in call.doubts


def test_a_guessed_cache_mode_yields_to_one_that_was_known() -> None:
    """The same cached tokens, told by one who guessed and one who knew whether the input holds them."""
    story = Story()
    outer = story.span(reading("L", tokens(1100, 9, read=1000), cache_evidence="E1"))
    story.span(reading("L", tokens(1000, 9, read=1000), cache_evidence="E4", known_emitter=False), under=outer, scope="mine")
    [call] = story.count().calls
    assert buckets([call]) == (100, 1000, 0, 9)
    assert Doubt.CACHE_MODE_GUESS not in call.doubts


def test_calls_proven_different_are_two() -> None:
    """Other models and other outputs: a model call that calls another model."""
    story = Story()
    outer = story.span(reading("L", tokens(100, 9), models=("gpt-4o",)))
    story.span(reading("L", tokens(50, 3), models=("claude-sonnet-4-5",)), under=outer)
    assert buckets(story.count().calls) == (150, 0, 0, 12)


def test_one_call_of_differing_counts_is_one_and_doubted() -> None:
    """Nothing proves two calls, so there is one; that its tellers differ is said."""
    story = Story()
    outer = story.span(reading("L", tokens(900, 90)))
    story.span(reading("L", tokens(300, 30)), under=outer)
    [call] = story.count().calls
    assert buckets([call]) == (300, 0, 0, 30)
    assert call.doubts == {Doubt.WRAPPER_DIFFERS}


def test_agreeing_tellers_of_several_scopes_are_one_call_and_the_richest_pays() -> None:
    """A framework's call over two instrumentations of its client."""
    story = Story()
    outer = story.span(reading("L", tokens(100, 9)), scope="framework")
    rich = story.span(reading("L", tokens(100, 9, read=20)), under=outer, scope="first", at=(1, 90))
    poor = story.span(reading("L", tokens(100, 9)), under=outer, scope="second", at=(2, 89))
    [call] = story.count().calls
    assert (call.span, set(call.merged)) == (rich, {outer, poor})


def test_a_model_call_over_several_of_one_scope_is_their_sum() -> None:
    """A client that loops over tools inside one span."""
    story = Story()
    outer = story.span(reading("L", tokens(300, 30)))
    story.span(reading("L", tokens(100, 10)), under=outer, at=(1, 40))
    story.span(reading("L", tokens(200, 20)), under=outer, at=(50, 90))
    counted = story.count()
    assert buckets(counted.calls) == (300, 0, 0, 30)
    assert not any(call.doubts for call in counted.calls)


def test_what_is_the_same_call_as_a_sum_is_no_call() -> None:
    """Two instrumentations around one loop: both hold the sum of the calls in it."""
    story = Story()
    top = story.span(reading("L", tokens(300, 30)), scope="framework")
    outer = story.span(reading("L", tokens(300, 30)), under=top)
    story.span(reading("L", tokens(100, 10)), under=outer, at=(1, 40))
    story.span(reading("L", tokens(200, 20)), under=outer, at=(50, 90))
    assert buckets(story.count().calls) == (300, 0, 0, 30)


def test_a_lookup_below_an_agent_does_not_stand_for_what_it_generated() -> None:
    """An agent whose only instrumented child is an embedding is still the only carrier of its own calls."""
    story = Story()
    top = story.span(reading("A", tokens(1000, 77)))
    story.span(reading("L", tokens(7, 0), family="embedding", models=("text-embedding-3-small",)), under=top)
    assert buckets(story.count().calls) == (1007, 0, 0, 77)


def test_a_never_counted_span_is_no_carrier() -> None:
    """A raw repeat of a request stands below the call that counts."""
    story = Story()
    outer = story.span(reading("L", tokens(100, 9)))
    story.span(reading("X", tokens(100, 9)), under=outer)
    [call] = story.count().calls
    assert (call.span, call.merged) == (outer, ())


def test_a_deep_chain_of_tellers_is_one_call() -> None:
    """Ten thousand nested tellers: counted once, without recursion."""
    story = Story()
    above = None
    for place in range(10_000):
        above = story.span(reading("L", tokens(100, 9), models=(f"model-{place}", "gpt-4o")), under=above, at=(place / 1000, 100))
    [call] = story.count().calls
    assert call.span is above
    assert len(call.merged) == 9_999
    assert len(call.reading.models) <= 16
