"""Agents whose sum is told by model calls that do not stand below them.

An agent's span that nothing hangs below looks like the only teller of its calls. But where a framework never makes its spans current,
or a pipeline lost the parents, the calls stand elsewhere: under what was current before, or as roots of traces of their own. The
figures prove it: the calls of the same process that lie within the agent's span add up to exactly its input and output.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final

from receiver.core.calls.nesting import Candidate, Member, reading_of, tokens_of
from receiver.core.calls.twins import SLACK_NANO, interval
from receiver.core.usage.reading import Klass

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from receiver.core.span import Span

MAX_STEPS: Final = 65_536  #: model calls looked at for all agents of one Group, some 30 ms


def sums_of_calls_beside(candidates: Sequence[Candidate]) -> dict[Span, Sequence[Member]]:
    """The counted spans that only repeat model calls which stand beside them, with these."""
    sums = [candidate for candidate in candidates if _may_be_a_sum(candidate)]
    if not sums or len(sums) == len(candidates):
        return {}
    calls = sorted(
        (candidate.span for candidate in candidates if reading_of(candidate.span).klass is Klass.MODEL_CALL),
        key=lambda span: (span.start_unix_nano, span.span_id),
    )
    found: dict[Span, Sequence[Member]] = {}
    taken: set[Span] = set()
    steps = 0
    for candidate in sorted(sums, key=lambda one: (one.span.end_unix_nano - one.span.start_unix_nano, one.span.span_id)):
        span = candidate.span
        start, end = interval(span)
        within = []
        for call in calls[bisect_left(calls, start - SLACK_NANO, key=lambda call: call.start_unix_nano) :]:
            steps += 1
            if call.start_unix_nano > end or steps > MAX_STEPS:
                break
            if call.end_unix_nano <= end + SLACK_NANO and call not in taken and _may_belong(call, span):
                within.append(call)
        for calls_of_it in _ways(within):
            if _add_up(span, calls_of_it):
                found[span] = [Member(call, False, False) for call in calls_of_it]
                taken.update(calls_of_it)
                break
    return found


def _may_be_a_sum(candidate: Candidate) -> bool:
    reading = reading_of(candidate.span)
    return reading.klass is not Klass.MODEL_CALL and tokens_of(reading) != (0, 0) and not candidate.others


def _may_belong(call: Span, span: Span) -> bool:
    """In one trace; or a root of its own trace, which its process began inside the span."""
    return call.trace_id == span.trace_id or (not call.parent_span_id and call.source.process == span.source.process)


def _ways(calls: Sequence[Span]) -> Iterator[Sequence[Span]]:
    """All of them, those of each scope, and those that generated text."""
    if not calls:
        return
    yield calls
    by_scope: dict[str, list[Span]] = {}
    for call in calls:
        by_scope.setdefault(call.source.scope, []).append(call)
    if len(by_scope) > 1:
        yield from by_scope.values()
    generating = [call for call in calls if reading_of(call).family == "gen"]
    if 0 < len(generating) < len(calls):
        yield generating


def _add_up(span: Span, calls: Iterable[Span]) -> bool:
    """To exactly the span's output, and to its input with or without what was cached."""
    total_in = total_out = fresh_in = 0
    for call in calls:
        tokens = reading_of(call).tokens
        if tokens is not None:
            total_in += tokens.input_total
            total_out += tokens.output_total
            fresh_in += tokens.uncached
    stated_in, stated_out = tokens_of(reading_of(span))
    return stated_out == total_out and stated_in in {total_in, fresh_in}
