"""In which order the slots of a dimension are asked.

Of the request (tenant, user, session, workflow): `spantoll.*` and the operator's keys on spans, then on the resource; then strong
keys on spans, weak keys on spans, then the resource's. Where the spans above a call are silent, the only value in its trace holds,
before anything weaker is asked. Of a place in the trace (task, feature, route, prompt version, tool): the same, but other places
say nothing of it. What is missing in an inherited dict is missing for all that have the same slots, so the order is worked out once
for each set of slots.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import Any, Final, NamedTuple

from receiver.core.attribution import slots

Facts = dict[int, Any]


class Plan(NamedTuple):
    """How to take all dimensions out of an inherited dict."""

    take: Callable[[Facts], tuple[str | None, ...]]  #: values in the order of `slots.WALKED`
    contested: frozenset[int]  #: slots that would come before what was found, if the trace held a single value for them


def _of_request(dimension: str) -> tuple[tuple[int, bool], ...]:
    """(slot, whether the rest of the trace is asked, too)."""
    own, strong, weak = (slots.slot(dimension, strength) for strength in (slots.OWN, slots.STRONG, slots.WEAK))
    last = {"workflow": ((slots.ROOT_NAME, False),)}.get(dimension, ())
    resource = tuple((at + slots.OF_RESOURCE, False) for at in (strong, weak))
    return ((own, True), (own + slots.OF_RESOURCE, False), (strong, True), (weak, True), *resource, *last)


def _of_place(dimension: str) -> tuple[tuple[int, bool], ...]:
    own, strong, weak = (slots.slot(dimension, strength) for strength in (slots.OWN, slots.STRONG, slots.WEAK))
    last = (slots.FEATURE_LAST,) if dimension == "feature" else ()
    order = (own, own + slots.OF_RESOURCE, strong, weak, strong + slots.OF_RESOURCE, weak + slots.OF_RESOURCE, *last)
    return tuple((at, False) for at in order)


_OF_AGENT: Final = tuple(
    (at, False)
    for at in (
        slots.AGENT_OWN,
        slots.AGENT_OWN + slots.OF_RESOURCE,
        slots.AGENT_NAME,
        slots.AGENT_RESORT,
        slots.AGENT_NAME + slots.OF_RESOURCE,
        slots.AGENT_PLACEHOLDER,
        slots.AGENT_LAST,
    )
)

#: By dimension, in the order of `slots.WALKED`.
ORDERS: Final = tuple(
    _OF_AGENT if dimension == "agent" else _of_request(dimension) if dimension in slots.OF_TRACE else _of_place(dimension)
    for dimension in slots.WALKED
)


def plan_of(present: frozenset[int]) -> Plan:
    """The plan for inherited dicts that have exactly these slots."""
    chosen: list[int] = []
    contested: set[int] = set()
    for order in ORDERS:
        for at, of_trace in order:
            if at in present:
                chosen.append(at)
                break
            if of_trace:
                contested.add(at)
        else:
            chosen.append(slots.NOTHING)
    return Plan(itemgetter(*chosen), frozenset(contested))
