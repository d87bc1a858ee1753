"""The short way for the plain span: one vocabulary, one spelling for each count, no usage object.

Three of four spans that state usage are of this form. It comes to what the long way (`reader`) comes to, a property test holds the
two equal; for anything out of the ordinary it answers None and the long way is taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from receiver.core.usage.buckets import output_total
from receiver.core.usage.cache_mode import by_figures
from receiver.core.usage.coerce import MAX_COUNT, count
from receiver.core.usage.draft import Draft
from receiver.core.usage.reading import CacheMode, Tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from receiver.core.span import Value
    from receiver.core.usage.fields import Quick
    from receiver.core.usage.statics import Statics

_EX: Final = CacheMode.EXCLUSIVE
_new_tuple: Final = tuple.__new__


def quick_draft(quick: Quick, values: Sequence[Value], statics: Statics) -> Draft | None:
    """A Draft with its tokens and all that belongs to them, or None: take the long way."""
    if quick.pair is not None:
        sent, got = quick.pair(values)
        if type(sent) is int and type(got) is int and 0 < sent <= MAX_COUNT and 0 <= got <= MAX_COUNT:
            draft = Draft(statics.values)
            draft.tokens = _new_tuple(Tokens, (sent, sent, 0, 0, 0, 0, got, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0))
            return draft
    for place in quick.zeros:
        if values[place] != 0:
            return None
    found: list[int] = []
    for place in quick.places:
        number = values[place] if place >= 0 else 0
        if type(number) is not int or not 0 <= number <= MAX_COUNT:
            number = count(number)
            if number is None or number < 0:
                return None
        found.append(number)
    stated, output, total, read, written, write_5m, write_1h, reasoning = found
    if not stated or (not total and quick.places[2] >= 0):
        return None  # a zero may mean "not told"
    written = max(written, write_5m + write_1h)
    cached = read + written
    mode, evidence = statics.still
    input_total = stated
    if cached:
        if evidence[:2] != "E0":
            told = by_figures(
                stated,
                output,
                total or None,
                cached,
                reasoning=reasoning,
                google=statics.google,
                bedrock_openai=statics.bedrock_openai,
            )
            if told is not None:
                mode, evidence = told
        if mode is _EX:
            input_total = stated + cached
        elif cached > stated:
            return None  # something has to be cut
    if reasoning:
        output = output_total(
            output,
            reasoning,
            total or None,
            input_total=input_total,
            stated_input=stated,
            reasoning_apart=statics.reasoning_apart,
        )
        if reasoning > output:
            return None
    draft = Draft(statics.values)
    draft.tokens = _new_tuple(
        Tokens,
        (
            input_total, input_total - cached, read, write_5m, write_1h, written - write_5m - write_1h, output, reasoning,
            0, 0, 0, 0, 0, 0, 0, 0, 0,
        ),
    )  # fmt: skip
    if quick.has_cache_keys:
        draft.has_cache_keys = True
        draft.has_write_split = quick.has_write_split
        draft.cache_mode = mode
        draft.cache_evidence = evidence
    return draft
