"""What is not sure of a counted call is said. A doubt never changes a number; being wrong without one is the worst defect.

  cache_mode_guess     cached tokens, and nothing told whether the input contains them; or a scope of which no cache mode is known
                       shows no cache counts at all, of a provider that caches by default
  unknown_emitter      the scope stands in no table and in no vocabulary's known list
  clamped              parts were larger than the whole and were cut, or a stated count was no believable number (also an input
                       of 0 for text that was generated)
  sampled              a span carries a sampling threshold: other spans of the trace may not have been sent
  dropped_attributes   the SDK dropped attributes of a span of the call
  outer_without_inner  a sum stands for several model calls below it that show no usage of their own, or a running total's
                       difference does: what other agents of that name used cannot be told apart
  wrapper_differs      what stands above repeats the call with other counts: children may have been lost, or counted twice
  suspected_double     another counted call agrees with it and overlaps in time (or nearly agrees, and lies within it), and no rule
                       joined them; two model-call spans of one scope aside, which tell of two calls

Where a second teller of the same call agrees, it settles what the first left open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from receiver.core.calls.call import Doubt
from receiver.core.calls.nesting import Candidate, Member, reading_of, tokens_of
from receiver.core.calls.same import agree, models_share_a_name
from receiver.core.calls.twins import SLACK_NANO, interval, reach
from receiver.core.usage.reading import Klass, Reading

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from receiver.core.span import Span

#: Providers that cache prompts without being asked, so that a call without any cache count is no proof of an empty cache.
CACHES_BY_DEFAULT: Final = frozenset({"openai", "azure.ai.openai", "deepseek", "gcp.gemini", "gcp.gen_ai", "gcp.vertex_ai", "x_ai"})


#: A stream's first event states an output of one to five tokens; some emitters add it to the count at the end.
FIRST_EVENT_TOKENS: Final = 8


def of_reading(reading: Reading) -> set[Doubt]:
    """The doubts that the call's own reading raises."""
    doubts: set[Doubt] = set()
    tokens = reading.tokens
    guessed = reading.cache_evidence == "E4" and tokens is not None and (tokens.cache_read > 0 or tokens.cache_write > 0)
    # An emitter that is known to leave cached tokens out tells nothing of them, however well its mode is known.
    tells = reading.has_cache_keys or (reading.mode_in_table and not reading.drops_cache)
    hidden = not tells and reading.provider in CACHES_BY_DEFAULT and reading.family == "gen"
    if guessed or hidden:
        doubts.add(Doubt.CACHE_MODE_GUESS)
    if not reading.known_emitter:
        doubts.add(Doubt.UNKNOWN_EMITTER)
    if reading.clamped or reading.rejected or _lost_its_input(reading):
        doubts.add(Doubt.CLAMPED)
    return doubts


def _lost_its_input(reading: Reading) -> bool:
    """Text came out, and nothing is said to have gone in (LangChain's Anthropic streams without a usage at their start)."""
    tokens = reading.tokens
    return tokens is not None and not tokens.input_total and tokens.output_total > 0 and reading.family == "gen"


def of_spans(candidate: Candidate) -> set[Doubt]:
    """The doubts that the call's spans raise together, those of `of_reading` aside."""
    doubts: set[Doubt] = set()
    for span in candidate.spans:
        if span.sampled:
            doubts.add(Doubt.SAMPLED)
        if span.dropped_attributes:
            doubts.add(Doubt.DROPPED_ATTRIBUTES)
    return doubts


def settled(candidate: Candidate) -> bool:
    """Another scope, a known one, tells of the same call with the same counts."""
    own = candidate.span
    return any(
        span.source.scope != own.source.scope
        and reading_of(span).known_emitter
        and tokens_of(reading_of(span)) == tokens_of(reading_of(own))
        for span in candidate.others
    )


def outer_differs(outer: Reading, inner: Reading, paying: Reading) -> bool:
    """A model-call span around the same call states other counts, and no id says that they are one call all the same."""
    if outer.tokens is None or inner.tokens is None or agree(outer, inner) or agree(outer, paying):
        return False
    return not (outer.response_id and outer.response_id == inner.response_id)


def wrapper_differs(span: Span, members: Sequence[Member], payer_of: Mapping[Span, Span]) -> bool:
    """An aggregate that is not what its counted descendants add up to, in any of the ways in which wrappers add up.

    They may hold the sum with what ran behind tools or without it, with embeddings or without them, with cached input or
    without it; or only the last call's counts (AI SDK 4/5, MS Agent Framework). A running total may be larger.
    """
    own = reading_of(span)
    if own.tokens is None:
        return False
    told: dict[Span, Member] = {}
    for member in members:  # two tellers of one call count once
        told.setdefault(payer_of.get(member.span, member.span), member)
    parts = [(reading_of(payer), member) for payer, member in told.items()]
    every = [reading for reading, _ in parts]
    near = [reading for reading, member in parts if not member.tool]
    shapes = [
        every,
        near,
        [reading for reading in every if reading.family == own.family],
        [reading for reading in near if reading.family == own.family],
    ]
    shapes += [[reading_of(max(told, key=lambda payer: (payer.end_unix_nano, payer.start_unix_nano, payer.span_id)))]]
    for shape in shapes:
        total_in, total_out, fresh_in = 0, 0, 0
        for reading in shape:
            if reading.tokens is not None:
                total_in += reading.tokens.input_total
                total_out += reading.tokens.output_total
                fresh_in += reading.tokens.uncached
        if own.tokens.output_total == total_out and {own.tokens.input_total, own.tokens.uncached} & {total_in, fresh_in}:
            return False
        if own.cumulative and own.tokens.output_total >= total_out and own.tokens.input_total >= fresh_in:
            return False
    return True


def suspected_doubles(candidates: Sequence[Candidate]) -> set[int]:
    """Places in `candidates` of those that agree with another one at the same time, and were neither joined to it nor told apart."""
    if len(candidates) < 2:
        return set()
    first = candidates[0].span.source.scope
    if all(_is_model_call(candidate) and candidate.span.source.scope == first and not candidate.others for candidate in candidates):
        return set()
    buckets: dict[tuple[str, int], list[tuple[int, int, bytes, int]]] = {}
    for place, candidate in enumerate(candidates):
        reading = reading_of(candidate.span)
        start, end = interval(candidate.span)
        entry = (start, end, candidate.span.span_id, place)
        step = tokens_of(reading)[1] // FIRST_EVENT_TOKENS
        for near in (step, step + 1):  # any two that are so close share one of them
            buckets.setdefault((reading.family, near), []).append(entry)
    found: set[int] = set()
    neighbours = reach(len(candidates))
    for bucket in buckets.values():
        bucket.sort()
        for at, (_, end, _, place) in enumerate(bucket):
            for other_start, _, _, other_place in bucket[at + 1 : at + 1 + neighbours]:
                if other_start > end:
                    break
                one, other = candidates[place], candidates[other_place]
                told_apart = _is_model_call(one) and _is_model_call(other) and not _scopes(one).isdisjoint(_scopes(other))
                if not told_apart and (agree(reading_of(one.span), reading_of(other.span)) or _nearly_agree(one, other)):
                    found |= {place, other_place}
    return found


def _nearly_agree(one: Candidate, other: Candidate) -> bool:
    """Model calls of one model, one while the other ran, whose outputs differ by no more than a stream's first event counts.

    (OpenInference's LangChain 0.1.29 adds Anthropic's `message_start`, as Traceloop does, and without an id nothing joins the two.)
    """
    mine, theirs = reading_of(one.span), reading_of(other.span)
    if not (_is_model_call(one) and _is_model_call(other)) or (mine.response_id and theirs.response_id):
        return False
    if abs(tokens_of(mine)[1] - tokens_of(theirs)[1]) > FIRST_EVENT_TOKENS or not models_share_a_name(mine, theirs):
        return False
    (a, b), (c, d) = interval(one.span), interval(other.span)
    return (a - SLACK_NANO <= c and d <= b + SLACK_NANO) or (c - SLACK_NANO <= a and b <= d + SLACK_NANO)


def stands_for_several(without_usage: int) -> bool:
    """A span counted as the only carrier of `without_usage` model calls below it that show nothing of their own.

    Also a model call's: one span around the steps of a loop holds their sum (Mastra 1.3 by its Arize exporter), so it is several calls.
    """
    return without_usage > 1


def _is_model_call(candidate: Candidate) -> bool:
    return reading_of(candidate.span).klass is Klass.MODEL_CALL


def _scopes(candidate: Candidate) -> set[str]:
    return {span.source.scope for span in candidate.spans}
