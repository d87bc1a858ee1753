"""Twins: one call that is told twice side by side, or in another trace, and what keeps two calls two."""

from __future__ import annotations

import pytest

from receiver.core.calls import Doubt
from receiver.core.calls.same import agree, models_compatible
from tests.unit.spans import Story, buckets, reading, tokens

USAGE = tokens(100, 9)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("gpt-4o", "gpt-4o-2024-08-06", True),
        ("openai/gpt-4o", "gpt-4o:responses", True),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-sonnet-4-5", True),
        ("claude-sonnet-4-5@20250929", "anthropic/claude-sonnet-4.5", True),
        ("gpt-4o", "claude-sonnet-4-5", False),
        ("models/gemini-2.5-flash", "gemini-2.5-flash", True),
    ],
)
def test_compatible_models(one: str, other: str, same: bool) -> None:
    """Vendor prefix, region, date, endpoint and a dot for a dash do not part two names; nothing else joins them."""
    assert models_compatible(reading("L", models=(one,)), reading("L", models=(other,))) is same


def test_a_side_without_a_model_is_compatible_with_any() -> None:
    """What does not say its model contradicts none."""
    assert models_compatible(reading("L", models=()), reading("L", models=("gpt-4o",)))


def test_agreement_allows_a_side_that_lost_its_cache() -> None:
    """Its input is then what the other shows as uncached; any other difference is none."""
    rich, poor = reading("L", tokens(4092, 71, read=3072, write=900)), reading("L", tokens(120, 71))
    assert agree(rich, poor)
    assert agree(poor, rich)
    assert not agree(rich, reading("L", tokens(121, 71)))
    assert not agree(rich, reading("L", tokens(120, 70)))
    assert not agree(rich, reading("L"))


@pytest.mark.parametrize(
    ("case", "calls"),
    [
        ({}, 1),
        ({"scope": "one"}, 2),
        ({"usage": tokens(100, 8)}, 2),
        ({"models": ("claude-sonnet-4-5",)}, 2),
        ({"at": (91, 99)}, 2),
        ({"family": "embedding"}, 2),
        ({"ids": ("a-1", "b-1")}, 2),
        ({"ids": ("a-1", None)}, 1),
        ({"ids": ("a-1", "a-1"), "usage": tokens(100, 8)}, 1),
        ({"ids": ("a-1", "a-1"), "scope": "one"}, 1),
        ({"ids": ("a-1", "a-1"), "scope": "one", "usage": tokens(100, 8)}, 2),
        ({"ids": ("a-1", "a-1"), "scope": "one", "at": (91, 99)}, 2),
        ({"ids": ("a-1", "a-1"), "at": (91, 99)}, 1),
        ({"ids": ("a-1", "a-1"), "at": (91, 99), "usage": tokens(100, 8)}, 2),
    ],
    ids=str,
)
def test_siblings(case: dict[str, object], calls: int) -> None:
    """What joins two siblings and what parts them, one difference at a time."""
    story = Story()
    top = story.span(reading("A"))
    ids = case.get("ids", (None, None))
    story.span(reading("L", USAGE, response_id=ids[0]), under=top, scope="one", at=(1, 90))  # type: ignore[index]  # a pair
    other = reading(
        "L",
        case.get("usage", USAGE),  # type: ignore[arg-type]  # Tokens
        response_id=ids[1],  # type: ignore[index]  # a pair
        models=case.get("models", ("gpt-4o",)),
        family=case.get("family", "gen"),
    )
    story.span(other, under=top, scope=str(case.get("scope", "two")), at=case.get("at", (2, 89)))  # type: ignore[arg-type]  # a pair
    assert len(story.count().calls) == calls


def test_another_place_is_another_call() -> None:
    """Two agents that run for different times, each with an equal call from its own instrumentation, stay two, and are doubted."""
    story = Story()
    root = story.span(reading("N"))
    for scope, end in (("one", 100), ("two", 110)):
        agent = story.span(reading("A"), under=root, scope=scope, at=(0, end))
        story.span(reading("L", USAGE), under=agent, scope=scope, at=(1, 90))
        story.span(reading("L", tokens(5, 1)), under=story.spans[-2], scope=scope, at=(91, 92))
    counted = story.count()
    assert len(counted.calls) == 4
    assert [Doubt.SUSPECTED_DOUBLE in call.doubts for call in counted.calls] == [True, True, True, True]


@pytest.mark.parametrize("client_under", ["root", "agent"])
def test_a_framework_whose_spans_are_never_current(client_under: str) -> None:
    """The client's spans stand under what was current before: they join the calls further down the framework's own branch."""
    story = Story()
    root = story.span(reading("N"), scope="app", at=(0, 300))
    agent = story.span(reading("A"), under=root, scope="framework", at=(1, 299))
    for start in (10, 150):
        turn = story.span(reading("N"), under=agent, scope="framework", at=(start, start + 100))
        story.span(reading("L", USAGE), under=turn, scope="framework", at=(start + 1, start + 90))
        story.span(reading("L", USAGE), under=root if client_under == "root" else agent, scope="client", at=(start + 3, start + 88))
    counted = story.count()
    assert buckets(counted.calls) == (200, 0, 0, 18)
    assert all(len(call.merged) == 1 for call in counted.calls)


def test_a_client_that_shows_no_usage_is_told_by_the_framework() -> None:
    """A stream may show its usage on the framework's span alone: the client's is no missing call then, unless it sticks out."""
    for end, missing in ((88, 0), (120, 1)):
        story = Story()
        root = story.span(reading("N"), scope="app", at=(0, 300))
        agent = story.span(reading("A"), under=root, scope="framework", at=(1, 299))
        turn = story.span(reading("N"), under=agent, scope="framework", at=(1, 200))
        story.span(reading("L", USAGE), under=turn, scope="framework", at=(2, 90))
        story.span(reading("L"), under=root, scope="client", at=(3, end))
        counted = story.count()
        assert (len(counted.calls), len(counted.missing)) == (1, missing)


@pytest.mark.parametrize(
    ("differs", "calls"), [({}, 1), ({"usage": tokens(100, 8)}, 2), ({"at": (3, 99)}, 2), ({"models": ("claude-sonnet-4-5",)}, 2)], ids=str
)
def test_a_span_of_a_third_scope_ends_a_branch(differs: dict[str, object], calls: int) -> None:
    """A client's call under what stands above a branch joins it only inside, with equal counts and models; never across a third scope."""
    for between, found in (("framework", calls), ("app", 2)):
        story = Story()
        root = story.span(reading("N"), scope="app")
        above = story.span(reading("N"), under=root, scope=between, at=(1, 99))
        step = story.span(reading("N"), under=above, scope="framework", at=(1, 95))
        story.span(reading("L", USAGE), under=step, scope="framework", at=(2, 90))
        story.span(reading("L", tokens(7, 7)), under=step, scope="framework", at=(91, 92))
        usage, models = differs.get("usage", USAGE), differs.get("models", ("gpt-4o",))
        inner = reading("L", usage, models=models)  # type: ignore[arg-type]  # Tokens
        story.span(inner, under=root, scope="client", at=differs.get("at", (3, 89)))  # type: ignore[arg-type]  # a pair
        assert len(story.count().calls) == found + 1, between


def test_two_callback_handlers_grow_two_branches_of_one_run() -> None:
    """Their tops began and ended together, so the equal calls in them are one."""
    story = Story()
    root = story.span(reading("N"), scope="app")
    for scope, late in (("one", 0), ("two", 1)):
        agent = story.span(reading("A"), under=root, scope=scope, at=(1 + late, 99 - late))
        story.span(reading("L", USAGE), under=agent, scope=scope, at=(5 + late, 50 - late))
        story.span(reading("L", tokens(7, 7)), under=agent, scope=scope, at=(60 + late, 90 - late))
    assert buckets(story.count().calls) == (107, 0, 0, 16)


def test_a_call_takes_one_twin_of_a_scope_the_tightest() -> None:
    """Of two equal inner calls only the one that fits best in time is its twin."""
    story = Story()
    top = story.span(reading("A"))
    outer = story.span(reading("L", USAGE), under=top, scope="one", at=(0, 90))
    loose = story.span(reading("L", USAGE), under=top, scope="two", at=(30, 60))
    tight = story.span(reading("L", USAGE), under=top, scope="two", at=(1, 89))
    counted = story.count()
    pairs = {frozenset((call.span, *call.merged)) for call in counted.calls}
    assert pairs == {frozenset((outer, tight)), frozenset((loose,))}


def test_a_usage_less_model_call_around_one_stands_for_it() -> None:
    """The twin is then beside that one."""
    story = Story()
    top = story.span(reading("A"))
    around = story.span(reading("L"), under=top, scope="one", at=(1, 90))
    story.span(reading("L", USAGE), under=around, scope="two", at=(2, 80))
    story.span(reading("L", USAGE), under=top, scope="three", at=(3, 85))
    counted = story.count()
    assert len(counted.calls) == 1
    assert counted.missing == []
    assert counted.counters["sibling_dedup_total", ("same_place",)] == 1


def test_a_wrapper_that_holds_another_call_does_not_stand_for_one() -> None:
    """A wrapper of two calls is an agent's run, not a call's."""
    story = Story()
    top = story.span(reading("N"))
    wrapper = story.span(reading("A"), under=top, scope="ai", at=(0, 95))
    story.span(reading("L", USAGE), under=wrapper, scope="ai", at=(2, 80))
    story.span(reading("L", tokens(7, 7)), under=wrapper, scope="ai", at=(81, 90))
    story.span(reading("L", USAGE), under=top, scope="other", at=(3, 90))
    assert len(story.count().calls) == 3


def test_a_span_that_lost_its_parent_joins_the_call_around_it() -> None:
    """The server's span between a client and a gateway was dropped on the way; switchable, and doubted then."""
    story = Story()
    top = story.span(reading("A"), scope="one")
    story.span(reading("L", USAGE), under=story.span(reading("N"), under=top), scope="one", at=(1, 90))
    story.span(reading("L", USAGE), under=b"lostlost", scope="litellm", service="gateway", at=(5, 80))
    assert len(story.count().calls) == 1
    off = story.count(lost_parent=False)
    assert [Doubt.SUSPECTED_DOUBLE in call.doubts for call in off.calls] == [True, True]


def test_lost_context_needs_a_root_inside_in_the_same_process() -> None:
    """A span with a parent, or of another process, is somebody else's call."""
    for differs, calls in (({}, 1), ({"service": "other"}, 2), ({"under": b"parentid"}, 2), ({"at": (1, 99)}, 2)):
        story = Story()
        story.span(reading("L", USAGE), under=story.span(reading("A")), scope="one", at=(1, 90))
        story.span(reading("L", USAGE), **{"trace": 2, "scope": "two", "at": (2, 94), **differs})  # type: ignore[arg-type]  # by name
        assert len(story.count().calls) == calls, differs


def test_an_instance_id_tells_processes_apart() -> None:
    """Two replicas of one service are two processes."""
    story = Story()
    story.span(reading("L", USAGE), under=story.span(reading("A")), scope="one", resource={"service.instance.id": "1"}, at=(1, 90))
    story.span(reading("L", USAGE), trace=2, scope="two", resource={"service.instance.id": "2"}, at=(2, 89))
    assert len(story.count().calls) == 2


def test_one_id_in_two_traces_is_one_call_where_they_overlap() -> None:
    """Switchable: an id is drawn by a provider, a trace by a client."""
    story = Story()
    for trace, scope in ((1, "one"), (2, "two")):
        story.span(reading("L", USAGE, response_id="chatcmpl-1"), under=b"parentid", trace=trace, scope=scope, service=scope)
    assert len(story.count().calls) == 1
    assert len(story.count(response_id_across_traces=False).calls) == 2


def test_equal_parallel_calls_of_two_tellers_stay_as_many_as_they_are() -> None:
    """Fan-out of one prompt: a hundred equal calls, each told in two traces, are a hundred calls."""
    story = Story()
    top = story.span(reading("A"), at=(0, 300))
    for place in range(100):
        story.span(reading("L", USAGE), under=top, scope="framework", at=(place, 100 + place))
        story.span(reading("L", USAGE), trace=2 + place, scope="client", at=(place + 0.5, 99.5 + place))
    counted = story.count()
    assert buckets(counted.calls) == (10_000, 0, 0, 900)
    assert all(len(call.merged) == 1 for call in counted.calls)


def test_three_tellers_become_one_call_that_keeps_the_richest() -> None:
    """A framework, a callback and the client: joined by id and by place."""
    story = Story()
    top = story.span(reading("A"))
    framework = story.span(reading("L", USAGE), under=top, scope="one", at=(1, 95))
    callback = story.span(reading("L", USAGE, response_id="r-1"), under=top, scope="two", at=(3, 94))
    client = story.span(reading("L", tokens(100, 9, read=10), response_id="r-1"), under=top, scope="three", at=(2, 90))
    [call] = story.count().calls
    assert call.span is client
    assert set(call.merged) == {framework, callback}
    assert call.reading.response_id == "r-1"


@pytest.mark.parametrize(("response_id", "calls"), [("chatcmpl-24e8f037ff0c4a56b81f", 1), ("chatcmpl-123", 2)])
def test_a_span_that_was_ended_twice_is_one_call(response_id: str, calls: int) -> None:
    """Its id is too long to come twice, so the smaller counts are an early guess (LiteLLM 1.60's streams); a short one tells nothing."""
    story = Story()
    for trace, (usage, end) in enumerate(((tokens(34, 6), 105), (tokens(1771, 221), 442)), 1):
        story.span(reading("L", usage, response_id=response_id), scope="litellm", trace=trace, at=(0, end))
    found = story.count().calls
    assert len(found) == calls
    assert buckets(found) == ((1771, 0, 0, 221) if calls == 1 else (1805, 0, 0, 227))


def test_the_same_long_id_one_after_the_other_is_two_calls() -> None:
    """Without an overlap in time even a long id joins nothing of one scope that does not agree."""
    story = Story()
    for start, usage in ((0.0, tokens(100, 9)), (200.0, tokens(120, 9))):
        story.span(reading("L", usage, response_id="chatcmpl-24e8f037ff0c4a56b81f"), trace=1, at=(start, start + 90))
    assert len(story.count().calls) == 2


def test_a_teller_that_lost_its_input_does_not_pay() -> None:
    """LangChain's Anthropic streams may state no input at all: the client's own span knows it."""
    story = Story()
    top = story.span(reading("A"))
    chain = story.span(reading("A"), under=top, scope="langsmith")
    story.span(reading("L", tokens(0, 254), models=("claude-sonnet-4-5",)), under=chain, scope="langsmith")
    sdk = reading("L", tokens(10667, 254, read=3573, write_5m=1215), models=("claude-sonnet-4-5",))
    story.span(sdk, under=top, scope="com.anthropic.sdk.python", at=(1, 99))
    [call] = story.count().calls
    assert buckets([call]) == (5879, 3573, 1215, 254)
    assert call.doubts == set()
