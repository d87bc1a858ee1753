"""Where a fact of a span is kept: a small integer for each (dimension, strength).

A span's facts are a dict from slot to text. What a span inherits is then one dict, too: its ancestors' facts, overlaid by
nearer ones, so that "nearest first" is a plain overlay and "strength before nearness" is the order in which slots are asked.
"""

from __future__ import annotations

from typing import Final

#: The dimensions that are looked up on spans; `model` and `provider` are the call's own.
WALKED: Final = ("tenant", "user", "session", "workflow", "task", "feature", "route", "prompt_version", "tool", "agent")

OWN: Final = 0  #: `spantoll.<dimension>` and the operator's keys
STRONG: Final = 1
WEAK: Final = 2


def slot(dimension: str, strength: int) -> int:
    """The slot of a dimension's facts of one strength."""
    return 3 * WALKED.index(dimension) + strength


#: Those of all dimensions.
EVERY: Final = frozenset(range(3 * len(WALKED)))

AGENT_OWN: Final = slot("agent", OWN)
AGENT_NAME: Final = slot("agent", STRONG)  #: inherited: the agent that is decided so far
AGENT_RESORT: Final = slot("agent", WEAK)
AGENT_GRAPH: Final = 3 * len(WALKED)  #: the graph node that the span is in
AGENT_PLACEHOLDER: Final = AGENT_GRAPH + 1  #: a name that names nobody in particular
AGENT_STATED: Final = AGENT_GRAPH + 2  #: inherited: the last name that a span stated
AGENT_LAST: Final = AGENT_GRAPH + 3  #: the resource's main agent
FEATURE_LAST: Final = AGENT_GRAPH + 4  #: the resource's service
ROOT_NAME: Final = AGENT_GRAPH + 5  #: inherited: the name of the span that began the trace
#: The same facts of the resource stand this much higher, so that one dict holds both.
OF_RESOURCE: Final = 64
#: Always in an inherited dict, and always None.
NOTHING: Final = -1

USER: Final = tuple(slot("user", strength) for strength in (OWN, STRONG, WEAK))
SESSION_STRONG: Final = slot("session", STRONG)
ROUTE: Final = slot("route", STRONG)
TOOL: Final = slot("tool", STRONG)

#: Dimensions of a whole trace: where no span above the call says it, the only value in its trace holds.
OF_TRACE: Final = ("tenant", "user", "session", "workflow")

# What a span is, as far as attribution asks: bits, plain integers (an IntFlag costs a microsecond an operation).
IS_AGENT: Final = 1
IS_INVOKE_AGENT: Final = 2
IS_TASK: Final = 4
IS_TOOL: Final = 8
IS_MODEL: Final = 16
KINDS: Final = {"agent": IS_AGENT, "invoke_agent": IS_INVOKE_AGENT, "task": IS_TASK, "tool": IS_TOOL, "model": IS_MODEL}

# How the value of a key becomes a fact.
AS_TEXT: Final = 0
AS_AGENT_NAME: Final = 1
AS_GRAPH_NAME: Final = 2
AS_GRAPH_PATH: Final = 3
AS_GRAPH_NODE: Final = 4
AS_TAGS: Final = 5
