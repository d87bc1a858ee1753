"""An agent's sum whose calls stand beside it: lost parents, or a framework whose spans are never current."""

from __future__ import annotations

import pytest

from receiver.core.span import Span
from tests.unit.spans import Story, buckets, reading, tokens


def agent_and_calls(story: Story, *, total_in: int = 300, **where: object) -> Span:
    """An agent's span that nothing hangs below, and two calls within its time."""
    agent = story.span(reading("A", tokens(total_in, 30)), scope="framework", at=(0, 100))
    for place, usage in enumerate((tokens(100, 10), tokens(200, 20, read=50))):
        more = {"scope": "client", "at": (10 + 40 * place, 40 + 40 * place), **where}
        if where.get("trace"):
            more["trace"] = 2 + place
        story.span(reading("L", usage), **more)  # type: ignore[arg-type]  # by name
    return agent


@pytest.mark.parametrize("total_in", [300, 250])
def test_an_agent_whose_calls_add_up_to_it_is_their_sum(total_in: int) -> None:
    """With the cached input or without it; the calls are counted, the agent is not, and nothing is doubted."""
    story = Story()
    agent = agent_and_calls(story, total_in=total_in)
    counted = story.count()
    assert buckets(counted.calls) == (250, 50, 0, 30)
    assert agent not in {call.span for call in counted.calls}
    assert counted.counters["aggregate_suppressed_tokens_total", ("framework",)] == total_in + 30
    assert all(not call.doubts for call in counted.calls)


def test_roots_of_other_traces_belong_only_to_their_own_process() -> None:
    """A client's spans that lost the context are roots; another service's calls at the same time are somebody else's."""
    for service, calls in (("app", 2), ("other", 3)):
        story = Story()
        agent_and_calls(story, trace=2, service=service)
        assert len(story.count().calls) == calls, service


@pytest.mark.parametrize("differs", [{"total_in": 301}, {"at": (90, 140)}], ids=str)
def test_what_does_not_add_up_or_lies_outside_leaves_the_agent_counted(differs: dict[str, object]) -> None:
    """Only the figures prove it: an agent beside calls of others has calls of its own."""
    story = Story()
    agent = agent_and_calls(story, **differs)  # type: ignore[arg-type]  # by name
    assert agent in {call.span for call in story.count().calls}


def test_the_calls_of_one_scope_may_be_the_ones() -> None:
    """A lookup beside them, or another library's call, is no part of the sum."""
    story = Story()
    agent = agent_and_calls(story)
    story.span(reading("L", tokens(7, 7)), scope="other", at=(50, 60))
    counted = story.count()
    assert len(counted.calls) == 3
    assert agent not in {call.span for call in counted.calls}


def test_calls_are_the_sum_of_one_agent_only() -> None:
    """Two agents of equal sums at one time: the calls prove one of them, the other is the only teller of its own."""
    story = Story()
    agent_and_calls(story)
    story.span(reading("A", tokens(300, 30)), scope="framework", at=(0, 101))
    assert len(story.count().calls) == 3
