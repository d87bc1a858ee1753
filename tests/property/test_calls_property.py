"""Whatever trees clients send: every call is counted once, in whichever order and in however many pieces its spans come."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from receiver.core.calls import Counted, CountOptions, LLMCall, Tree, _Count, _plain
from receiver.core.usage.reading import Klass, Tokens
from tests.unit.spans import Books, Story, group, no_value, reading, rules, tokens

if TYPE_CHECKING:
    from collections.abc import Iterable

    from receiver.core.span import Span

# Few values of each, so that spans agree, overlap and share ids by chance.
AMOUNTS = [None, None, tokens(100, 9), tokens(100, 9, read=20), tokens(120, 9, read=20), tokens(200, 18), tokens(7, 0), tokens(0, 0)]
SCOPES = ["one", "two", "litellm"]
FAMILIES = ["gen", "gen", "gen", "embedding"]
IDS = [None, None, None, "r-1", "r-2"]
MODELS = [(), ("gpt-4o",), ("gpt-4o", "smart"), ("claude-sonnet-4-5",)]


@st.composite
def stories(draw: st.DrawFn, *, most: int = 14, simple: bool = False) -> list[Span]:
    """Spans of up to three traces: parents anywhere (later, lost, in a ring), every class, times on a coarse clock."""
    story = Story()
    count = draw(st.integers(1, most))
    for place in range(count):
        klass = draw(st.sampled_from("LLLAATN" if simple else "LLLAATNX"))
        usage = draw(st.sampled_from(AMOUNTS)) if klass == "L" or not simple else None
        more: dict[str, Any] = {}
        if klass == "L":
            more = {"family": draw(st.sampled_from(FAMILIES)), "response_id": draw(st.sampled_from(IDS))}
        known = reading(klass, usage, models=draw(st.sampled_from(MODELS)), cumulative=klass == "A" and draw(st.booleans()), **more)
        if simple:
            under = draw(st.sampled_from([None, *range(place)]))
            parent = None if under is None else story.spans[under].span_id
        else:
            parent = draw(st.sampled_from([None, None, b"lostlost", *(number.to_bytes(8, "big") for number in range(1, count + 1))]))
        start = draw(st.integers(0, 6))
        story.span(
            known,
            under=parent,
            trace=1 if simple else draw(st.sampled_from([1, 1, 1, 2, 3])),
            scope="one" if simple else draw(st.sampled_from(SCOPES)),
            service=draw(st.sampled_from(["app", "app", "other"])),
            at=(start * 10, start * 10 + draw(st.integers(0, 6)) * 10),
            status=draw(st.sampled_from([0, 2])),
        )
    return story.spans


def count_all(spans: Iterable[Span]) -> Counted:
    return Story(spans=list(spans)).count()


def essence(counted: Counted) -> tuple[object, ...]:
    """What was found, without the objects it was found in."""
    return (
        [summary(call) for call in counted.calls],
        Counter((missing.span.span_id, missing.reason) for missing in counted.missing),
        counted.counters,
        counted.cumulative,
    )


def summary(call: LLMCall) -> tuple[object, ...]:
    return (call.span.trace_id, call.span.span_id, frozenset(span.span_id for span in call.merged), call.reading.tokens, call.doubts)


@given(stories())
def test_no_span_is_in_two_calls(spans: list[Span]) -> None:
    """A span's usage is charged at most once."""
    told = Counter(span for call in count_all(spans).calls for span in (call.span, *call.merged))
    assert all(times == 1 for times in told.values())


@given(stories())
def test_every_model_call_with_usage_that_nothing_below_repeats_is_counted(spans: list[Span]) -> None:
    """A leaf is a call: it pays, or another teller of the same call pays for it."""
    told = {span for call in count_all(spans).calls for span in (call.span, *call.merged)}
    parents = {(span.trace_id, span.parent_span_id) for span in spans}
    for span in spans:
        known = span.reading
        assert known is not None
        if known.klass is Klass.MODEL_CALL and known.is_carrier and (span.trace_id, span.span_id) not in parents:
            assert span in told


@given(stories())
def test_every_carrier_is_told_or_stands_above_one_that_is(spans: list[Span]) -> None:
    """Usage never vanishes: what is not counted repeats something that is counted below it, or the sum of what is beside it."""
    counted = count_all(spans)
    told = {span for call in counted.calls for span in (call.span, *call.merged)}
    tree = counted.calls[0].tree if counted.calls else None
    above: set[Span] = set()
    repeats = {span for span in spans if span.reading is not None and span.reading.is_carrier and is_a_sum_of(told, span)}
    for span in told | repeats:  # what wraps a span that only repeats the calls beside it repeats them too
        if tree is not None:
            above.update(tree.ancestors(span))
    for span in spans:
        if span.reading is not None and span.reading.is_carrier and span not in told:
            unchanged = span.reading.cumulative  # a running total that did not rise is no call
            assert span in above or unchanged or span in repeats


def is_a_sum_of(told: Iterable[Span], span: Span) -> bool:
    """Some of the model calls within its time add up to it (the rule says which; here any will do)."""
    tokens = span.reading.tokens if span.reading is not None else None
    within = [
        other.reading.tokens
        for other in told
        if other.reading is not None and other.reading.tokens is not None and other.reading.klass is Klass.MODEL_CALL
        if span.start_unix_nano <= other.start_unix_nano and other.end_unix_nano <= span.end_unix_nano
    ]
    outputs = {0}
    for usage in within:
        outputs |= {output + usage.output_total for output in outputs}
    return tokens is not None and span.reading is not None and span.reading.klass is not Klass.MODEL_CALL and tokens.output_total in outputs


@given(stories(), st.randoms(use_true_random=False))
def test_the_order_of_arrival_changes_nothing(spans: list[Span], chance: Any) -> None:
    """Exporters batch, retry and race: calls, counts, doubts and counters are those of the set of spans."""
    shuffled = list(spans)
    chance.shuffle(shuffled)
    assert essence(count_all(spans)) == essence(count_all(shuffled))


@given(stories(), st.lists(st.integers(0, 3), min_size=14, max_size=14))
def test_no_span_pays_twice_over_generations(spans: list[Span], turns: list[int]) -> None:
    """However late spans come, each charge is new."""
    books = Books()
    for turn in range(4):
        new = [span for span, at in zip(spans, turns, strict=False) if at == turn]
        if new:
            books.release(new)
    paid = Counter((call.span.trace_id, call.span.span_id) for call in books.calls)
    assert all(times == 1 for times in paid.values())
    assert all(amount >= 0 for call in books.calls for amount in (call.reading.tokens or Tokens()))


@given(stories())
def test_a_trace_that_comes_back_unchanged_charges_nothing(spans: list[Span]) -> None:
    """A late span that says nothing of calls re-opens the traces, and adds nothing."""
    books = Books()
    books.release(spans)
    late = Story(_ids=900)
    news = [late.span(reading("N"), trace=int.from_bytes(trace_id, "big")) for trace_id in dict.fromkeys(s.trace_id for s in spans)]
    again = books.release(news)
    assert again.calls == []
    assert again.missing == []
    assert again.cumulative == {}


@given(stories(most=10, simple=True))
@settings(max_examples=200)
def test_the_short_way_finds_what_the_long_way_finds(spans: list[Span]) -> None:
    """Most traces take the short way; where it says anything, the rules in full say the same."""
    one = group(spans)
    short = _plain(one, Tree(one))
    if short is not None:
        assert essence(short) == essence(_Count(one, Tree(one), rules(), no_value, CountOptions()).run())


@given(stories())
def test_a_completed_reading_keeps_its_parts_whole(spans: list[Span]) -> None:
    """The buckets of every counted call add up to its input, and nothing is negative."""
    for call in count_all(spans).calls:
        used = call.reading.tokens
        if used is not None:
            assert used.input_total == used.uncached + used.cache_read + used.cache_write
            assert min(used) >= 0
            assert used.reasoning <= used.output_total
