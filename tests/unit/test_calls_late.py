"""Late spans: the rules run on the whole, only new calls are charged, and nothing is charged twice."""

from __future__ import annotations

from tests.unit.spans import Books, Story, buckets, reading, tokens

USAGE = tokens(100, 9)


def outcomes(books_counters: dict[tuple[str, tuple[str, ...]], int]) -> dict[str, int]:
    return {labels[0]: amount for (name, labels), amount in books_counters.items() if name == "late_span_total"}


def test_a_late_inner_span_of_a_charged_call_adds_nothing() -> None:
    """The outer span was charged; that the inner one would have paid changes no charge."""
    story, books = Story(), Books()
    outer = story.span(reading("L", USAGE))
    books.release([outer])
    late = books.release([story.span(reading("L", USAGE), under=outer)])
    assert buckets(books.calls) == (100, 0, 0, 9)
    assert outcomes(late.counters) == {"already_charged": 1}


def test_a_late_outer_span_and_a_late_sum_add_nothing() -> None:
    """They repeat what was charged."""
    story, books = Story(), Books()
    root = story.span(reading("A", USAGE))
    outer = story.span(reading("L", USAGE), under=root)
    inner = story.span(reading("L", USAGE), under=outer)
    books.release([inner])
    late = books.release([outer, root])
    assert buckets(books.calls) == (100, 0, 0, 9)
    assert outcomes(late.counters) == {"already_charged": 1, "aggregate": 1}


def test_a_late_call_elsewhere_is_charged_now() -> None:
    """Another call of the same trace."""
    story, books = Story(), Books()
    root = story.span(reading("A"))
    books.release([root, story.span(reading("L", USAGE), under=root)])
    late = books.release([story.span(reading("L", tokens(50, 3)), under=root), story.span(reading("T"), under=root)])
    assert buckets(books.calls) == (150, 0, 0, 12)
    assert outcomes(late.counters) == {"charged": 1, "no_usage": 1}


def test_a_late_twin_in_another_trace_adds_nothing() -> None:
    """A trace that was released alone comes back with its twin's."""
    story, books = Story(), Books()
    root = story.span(reading("A"))
    books.release([root, story.span(reading("L", USAGE), under=root, scope="one", at=(1, 90))])
    books.release([story.span(reading("L", USAGE), trace=2, scope="two", at=(2, 89))])
    assert buckets(books.calls) == (100, 0, 0, 9)


def test_calls_at_any_depth_below_a_charged_sum_add_nothing_ever() -> None:
    """Also when they come in several generations, and below a wrapper that comes late itself."""
    story, books = Story(), Books()
    root = story.span(reading("A", tokens(300, 30)))
    step = story.span(reading("A", tokens(300, 30)), under=root)
    first = story.span(reading("L", tokens(100, 10)), under=step)
    second = story.span(reading("L", tokens(200, 20)), under=step)
    for spans in ([root], [step, first], [second]):
        books.release(spans)
    assert buckets(books.calls) == (300, 0, 0, 30)
    assert [call.span for call in books.calls] == [root]


def test_a_running_total_is_not_taken_twice_when_its_trace_comes_back() -> None:
    """A late span re-opens the trace of a charged total: its last value stands."""
    story, books = Story(), Books()
    root = story.span(reading("A", tokens(300, 30), cumulative=True, models=("gpt-4o",)))
    books.release([root])
    values = dict(books.values)
    late = books.release([story.span(reading("T"), under=root)])
    assert late.calls == []
    assert late.cumulative == {}
    assert books.values == values


def test_a_total_that_had_not_risen_is_not_taken_later() -> None:
    """Its trace comes back after the last value has moved on: it did not fall since, it is old."""
    story, books = Story(), Books()
    for trace, used in ((1, 100), (2, 100), (3, 300)):
        books.release([story.span(reading("A", tokens(used, 9), cumulative=True), trace=trace)])
    books.release([story.span(reading("T"), trace=2)])
    assert buckets(books.calls) == (300, 0, 0, 9)


def test_what_was_missing_is_listed_once() -> None:
    """A model call without usage is not listed again when its trace comes back."""
    story, books = Story(), Books()
    root = story.span(reading("A"))
    first = books.release([root, story.span(reading("L"), under=root)])
    late = books.release([story.span(reading("L", USAGE), under=root, at=(200, 300))])
    assert len(first.missing) == 1
    assert late.missing == []
