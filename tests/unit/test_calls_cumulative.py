"""Running totals: only what came since the last value is counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from receiver.core.calls import Doubt
from tests.unit.spans import Books, Story, buckets, reading, tokens

if TYPE_CHECKING:
    from receiver.core.span import Value
    from receiver.core.usage import Reading


def total(used_in: int, used_out: int, *, read: int = 0) -> Reading:
    """An agent's running total."""
    return reading("A", tokens(used_in, used_out, read=read), cumulative=True, models=("gpt-4o",), emitted_cost_pusd=5)


def test_a_total_is_keyed_by_agent_and_session() -> None:
    """Another agent, session, service or scope has a total of its own."""
    books = Books()
    for place, differs in enumerate(({}, {"name": "other"}, {"service": "other"}, {"scope": "other"})):
        story = Story()
        more = {"trace": place + 1, "scope": "strands", "name": "invoke_agent helper", **differs}
        books.release([story.span(total(100, 10), **more)])  # type: ignore[arg-type]  # by name
    assert buckets(books.calls) == (400, 0, 0, 40)
    assert len(books.values) == 4
    assert {key[0] for key in books.values} == {"default"}


def test_the_difference_keeps_its_parts_whole() -> None:
    """Cached input rises with the total; an emitted cost of the whole is no cost of the difference, and the doubt says it is one."""
    books, story = Books(), Story()
    books.release([story.span(total(100, 10, read=40), scope="strands")])
    [call] = books.release([story.span(total(300, 30, read=90), trace=2, scope="strands")]).calls
    assert buckets([call]) == (150, 50, 0, 20)
    assert call.reading.emitted_cost_pusd is None
    assert Doubt.OUTER_WITHOUT_INNER in call.doubts


def test_any_count_that_fell_starts_anew() -> None:
    """A new object whose total happens to be larger, but held less in the cache."""
    books, story = Books(), Story()
    books.release([story.span(total(100, 10, read=40), scope="strands")])
    books.release([story.span(total(300, 30, read=0), trace=2, scope="strands")])
    assert buckets(books.calls) == (360, 40, 0, 40)


def test_a_total_that_did_not_rise_is_no_call() -> None:
    """Nothing was used."""
    books, story = Books(), Story()
    for trace in (1, 2):
        books.release([story.span(total(100, 10), trace=trace, scope="strands")])
    assert len(books.calls) == 1


def test_a_total_above_its_calls_is_no_source() -> None:
    """With its model calls instrumented it is an aggregate, and leaves no last value."""
    story = Story()
    top = story.span(total(900, 90), scope="strands")
    story.span(reading("L", tokens(100, 10)), under=top, scope="strands")
    counted = story.count()
    assert buckets(counted.calls) == (100, 0, 0, 10)
    assert counted.cumulative == {}
    assert counted.calls[0].doubts == set()


def spring(used_in: int, used_out: int, reason: str) -> dict[str, Value]:
    """A chat as Spring AI writes it: all values are strings."""
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.system": "openai",
        "gen_ai.response.model": "gpt-4o",
        "gen_ai.response.finish_reasons": reason,
        "gen_ai.usage.input_tokens": str(used_in),
        "gen_ai.usage.output_tokens": str(used_out),
    }


@pytest.mark.parametrize(("version", "expected"), [("3.5.7", (400, 0, 0, 40)), ("4.0.0", (750, 0, 0, 75))])
def test_spring_ai_chats_of_one_tool_loop_are_counted_by_their_differences(version: str, expected: tuple[int, int, int, int]) -> None:
    """Spring AI 1.x adds up the loop on each chat (100, 250, 300 are three calls of 100, 150, 50); what follows a stop begins anew.

    Micrometer's scope has Spring Boot's version: 1.x runs on Boot 3 alone.
    """
    story = Story()
    top = story.span(reading("A"))
    loop = ((100, "TOOL_CALLS"), (250, '["TOOL_CALLS"]'), (300, "STOP"), (50, "STOP"), (50, "STOP"))
    for place, (used, reason) in enumerate(loop):
        at = (place * 10, place * 10 + 9)
        story.span(spring(used, used // 10, reason), under=top, at=at, scope="org.springframework.boot", version=version)
    assert buckets(story.count().calls) == expected


def test_vercels_outer_span_alone_is_counted_and_marked_incomplete() -> None:
    """It holds only the last step; the counter says so."""
    story = Story()
    story.span(
        {"ai.operationId": "ai.generateText", "ai.model.id": "gpt-4o", "ai.usage.promptTokens": 20, "ai.usage.completionTokens": 7},
        scope="ai", version="",
    )  # fmt: skip
    counted = story.count()
    assert buckets(counted.calls) == (20, 0, 0, 7)
    assert counted.calls[0].reading.usage_incomplete
    assert counted.counters["usage_incomplete_total", ("ai",)] == 1
