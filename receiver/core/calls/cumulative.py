"""Sources whose usage is a running total: what is counted is the difference to the last value.

Strands' `invoke_agent`, smolagents' agent spans and Traceloop's CrewAI agent spans carry the totals of the agent object's life. As
long as their model calls are instrumented they are aggregates and count 0; where such a span is the only carrier, its difference
to the last value of the same (account, service, scope, agent, session) is counted. A value that fell is a new object: counted whole.
Spring AI 1.x carries, on each chat of a tool loop, the sum since the loop began (spring-projects/spring-ai#6411).
The opposite is a wrapper that holds too little: it is counted as it stands, and marked as incomplete.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from receiver.core.calls.nesting import reading_of
from receiver.core.usage.reading import Klass, Reading, Tokens

if TYPE_CHECKING:
    from receiver.core.calls.tree import Tree
    from receiver.core.span import Span, Value

LastValues = Callable[[tuple[str, ...]], tuple[int, ...] | None]

_AGENT_KEYS: Final = ("gen_ai.agent.id", "gen_ai.agent.name", "agent.name", "crewai.agent.role")
_SESSION_KEYS: Final = ("session.id", "gen_ai.conversation.id", "langfuse.session.id", "traceloop.association.properties.session_id")
_LAST_STEP_ONLY: Final = frozenset({"ai.generateText", "ai.generateObject"})
_FINISH_KEYS: Final = ("gen_ai.response.finish_reasons", "gen_ai.response.finish_reason")


def is_running_total(span: Span) -> bool:
    """A span that is no model call itself, of a source whose usage runs on from run to run."""
    reading = reading_of(span)
    return reading.cumulative and reading.klass is not Klass.MODEL_CALL and reading.tokens is not None


def key_of(span: Span, tree: Tree, account: str) -> tuple[str, ...]:
    """Whose running total it is: (account, service, scope, agent's id or name, session)."""
    agent = _first(span, _AGENT_KEYS) or span.name
    session = _first(span, _SESSION_KEYS)
    if not session:
        for above in tree.ancestors(span):
            session = _first(above, _SESSION_KEYS)
            if session:
                break
    return (account, span.source.service, span.source.scope, agent, session)


def difference(reading: Reading, last: tuple[int, ...] | None) -> Reading:
    """The reading with only what came since `last`; whole when there was none or any count fell."""
    tokens = reading.tokens
    assert tokens is not None
    if last is None or len(last) != len(tokens) or any(now < before for now, before in zip(tokens, last, strict=True)):
        return reading
    # The emitted cost runs on as well, and there is no telling how much of it is new.
    return replace(
        reading,
        tokens=Tokens(*(now - before for now, before in zip(tokens, last, strict=True))),
        emitted_cost_pusd=None,
        emitted_cost_key=None,
        emitted_cost_before_margin_pusd=None,
        emitted_cost_cumulative=False,
    )


def spring_differences(spans: Sequence[Span], tree: Tree) -> dict[Span, Reading]:
    """The readings of Spring AI 1.x chats that go on a tool loop: less what the chat before them already said.

    `spans` are paying model-call spans. A chat goes on the one before it (same parent, scope and model) when that one finished
    with a tool call and no count is lower than its.
    """
    loops: dict[tuple[object, ...], list[Span]] = {}
    for span in spans:
        reading = reading_of(span)
        if reading.cumulative and reading.klass is Klass.MODEL_CALL and reading.tokens is not None:
            parent = tree.parent(span)
            place: object = parent if parent is not None else (span.trace_id, span.parent_span_id)
            loops.setdefault((place, span.source.scope, reading.models), []).append(span)
    found: dict[Span, Reading] = {}
    for loop in loops.values():
        loop.sort(key=lambda span: (span.start_unix_nano, span.end_unix_nano, span.span_id))
        for before, span in pairwise(loop):
            if "tool" in _first(before, _FINISH_KEYS).lower() and before.end_unix_nano <= span.start_unix_nano:
                less = difference(reading_of(span), tuple(reading_of(before).tokens or ()))
                if less is not reading_of(span):
                    found[span] = less
    return found


def last_step_only(reading: Reading) -> bool:
    """The outer span of Vercel's AI SDK before 6 where it is counted itself: of several steps it holds only the last.

    From 6 on it holds the sum, and says how the input was cached (evidence E0a).
    """
    return reading.klass is Klass.AGENT and reading.operation in _LAST_STEP_ONLY and reading.cache_evidence != "E0a"


def _first(span: Span, keys: Sequence[str]) -> str:
    best = ""
    rank = len(keys)
    for key, value in span.attributes:
        if key in keys and (place := keys.index(key)) < rank and (text := _text(value)):
            best, rank = text, place
    return best


def _text(value: Value) -> str:
    if isinstance(value, list):
        return " ".join(str(item) for item in value)
    return value if isinstance(value, str) else ""
