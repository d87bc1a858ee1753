"""What a provider answered, on a span of its own that is never counted.

LiteLLM writes two spans for a call: `litellm_request` with its own counts, and below it `raw_gen_ai_request` with the provider's usage
object as it came. Versions up to 1.60 leave the cached tokens out of the first one, and up to 1.75 its input holds what was read
from Anthropic's cache but not what was written to it; the second one tells. It never adds a call: it only completes the one above it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from receiver.core.calls.nesting import Candidate, reading_of, tokens_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from receiver.core.calls.tree import Tree
    from receiver.core.span import Span


def add_answers(raw: Iterable[Span], candidates: Sequence[Candidate], tree: Tree) -> None:
    """Give each candidate the raw request right below one of its spans, if both come to the same output."""
    candidate_of = {span: candidate for candidate in candidates for span in candidate.spans}
    for span in raw:
        above = tree.parent(span)
        candidate = candidate_of.get(above) if above is not None else None
        if candidate is not None and tokens_of(reading_of(span))[1] == tokens_of(reading_of(candidate.span))[1]:
            candidate.others.append(span)
