"""Who stands above whom: the spans of a Group as trees, with the parents that were lost on the way repaired.

Rule 1: parents are looked up inside one trace; what joins traces is a matter of twins, never of the tree.
Rule 2: a span whose parent is missing is adopted by the tightest agent span of its trace that contains it in time (an agent
  only by one that does so strictly), of the same service if there is one. Where two instrumentations tell of one run side by
  side, an agent of its own scope is nearer than one in the other branch. Exporter-side filters and span sampling remove spans
  from the middle of a trace. Only agents adopt: that can undo a double count, and it can never merge two model calls.
Rule 3: whatever a client sends, `ancestors` ends: a ring of parents is opened at one edge (an adopted one if there is one).

A trace is indexed when its first parent is asked for: traces without model calls cost nothing.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Final

from receiver.core.usage.reading import Klass

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence

    from receiver.core.span import Span
    from receiver.core.window.group import Group


MAX_CLIMB: Final = 64  #: levels looked at to see whether one agent stands above another; real agents nest ten deep


class Tree:
    """The spans of a Group: one tree (or several) a trace."""

    __slots__ = ("_adopted", "_indexed", "_parents", "_spans", "_subtree_order", "repaired")

    def __init__(self, group: Group) -> None:
        self._spans: dict[bytes, Sequence[Span]] = {
            trace.key.trace_id: trace.earlier + trace.spans if trace.earlier else trace.spans for trace in group.traces
        }
        self._parents: dict[Span, Span] = {}
        self._indexed: set[bytes] = set()
        self._subtree_order: dict[bytes, list[Span]] = {}
        self._adopted: set[Span] = set()
        self.repaired = False  #: in some trace indexed so far a span came twice, a parent did not come, or parents formed a ring

    @property
    def traces(self) -> Sequence[bytes]:
        """The trace ids of the Group, in its order."""
        return list(self._spans)

    def trace_spans(self, trace_id: bytes) -> Sequence[Span]:
        """Every span of a trace, earlier generations first; () for a trace that is not in this Group."""
        return self._spans.get(trace_id, ())

    @property
    def adopted(self) -> int:
        """How many spans were given a parent by rule 2, in the traces indexed so far."""
        return len(self._adopted)

    def lost_its_parent(self, span: Span) -> bool:
        """It names a parent that is not in the trace; the span above it, if any, is a guess."""
        return bool(span.parent_span_id) and (self.parent(span) is None or span in self._adopted)

    def parent(self, span: Span) -> Span | None:
        """The span above, repaired where it was lost; None at the top."""
        if span.trace_id not in self._indexed:
            self.index(span.trace_id)
        return self._parents.get(span)

    def ancestors(self, span: Span) -> Iterator[Span]:
        """The spans above, nearest first."""
        node = self.parent(span)
        while node is not None:
            yield node
            node = self._parents.get(node)

    def index(self, trace_id: bytes) -> dict[Span, Span]:
        """Index a trace once; returns span -> parent over all traces indexed so far (do not change it)."""
        parents = self._parents
        if trace_id in self._indexed:
            return parents
        self._indexed.add(trace_id)
        spans = self._spans.get(trace_id, ())
        if len(spans) < 2:
            return parents
        by_id = {span.span_id: span for span in spans}
        if len(by_id) != len(spans):  # a span that came twice in one Group; the first counts, as at intake
            by_id = {}
            for span in spans:
                by_id.setdefault(span.span_id, span)
            spans = self._spans[trace_id] = tuple(by_id.values())
            self.repaired = True
        orphans: list[Span] = []
        suspects: list[Span] = []  # in a ring at least one span does not begin after its parent
        for span in spans:
            parent_id = span.parent_span_id
            if parent_id:
                parent = by_id.get(parent_id)
                if parent is None:
                    orphans.append(span)
                else:
                    parents[span] = parent
                    if parent.start_unix_nano >= span.start_unix_nano:
                        suspects.append(span)
        adopted: set[Span] = set()
        if orphans:
            self.repaired = True
            agents = [span for span in spans if span.reading is not None and span.reading.klass is Klass.AGENT]
            if agents:
                found = _adoptions(orphans, agents, parents)
                parents.update(found)
                adopted.update(found)
                suspects += [span for span, above in found.items() if above.start_unix_nano >= span.start_unix_nano]
        if suspects:
            self._open_rings(suspects, adopted)
        if adopted:
            self._adopted |= adopted
        return parents

    def _open_rings(self, suspects: Iterable[Span], adopted: set[Span]) -> None:
        """Cut one edge of every ring: an adopted one if there is one, else above its first span in time. Each ring has a suspect."""
        parents = self._parents
        seen: dict[Span, Span] = {}  # span -> the suspect below it that led there
        for suspect in suspects:
            node: Span | None = suspect
            while node is not None and node not in seen:
                seen[node] = suspect
                node = parents.get(node)
            if node is not None and seen[node] is suspect:
                ring = [node]
                while (above := parents[ring[-1]]) is not node:
                    ring.append(above)
                cut = min(ring, key=lambda span: (span not in adopted, span.start_unix_nano, span.span_id))
                del parents[cut]
                adopted.discard(cut)
                self.repaired = True

    def leaves_first(self, trace_id: bytes) -> Sequence[Span]:
        """The spans of a trace in an order in which every span comes before its parent (for sums over subtrees)."""
        order = self._subtree_order.get(trace_id)
        if order is None:
            parents = self.index(trace_id)
            children: dict[Span, int] = {}
            spans = self._spans.get(trace_id, ())
            for span in spans:
                above = parents.get(span)
                if above is not None:
                    children[above] = children.get(above, 0) + 1
            order = [span for span in spans if span not in children]
            for span in order:  # grows while it is walked: a parent joins when its last child has been passed
                above = parents.get(span)
                if above is not None:
                    children[above] -= 1
                    if not children[above]:
                        order.append(above)
            self._subtree_order[trace_id] = order
        return order


def _adoptions(orphans: Sequence[Span], agents: Sequence[Span], parents: Mapping[Span, Span]) -> dict[Span, Span]:
    """For each orphan the agent that adopts it; none for an orphan that no agent contains."""
    found = _tightest_in(orphans, agents, lambda span: span.source.service)
    rest = [orphan for orphan in orphans if orphan not in found]
    if rest:
        found.update(_tightest(rest, agents))
    own_scope = _tightest_in(orphans, agents, lambda span: (span.source.service, span.source.scope))
    for orphan, own in own_scope.items():
        if own is not found[orphan] and not _is_above(own, found[orphan], parents):
            found[orphan] = own
    return found


def _is_above(upper: Span, lower: Span, parents: Mapping[Span, Span]) -> bool:
    node = parents.get(lower)
    for _ in range(MAX_CLIMB):
        if node is None or node is upper:
            break
        node = parents.get(node)
    return node is upper


def _tightest_in(orphans: Sequence[Span], agents: Sequence[Span], part_of: Callable[[Span], Hashable]) -> dict[Span, Span]:
    """`_tightest` inside each part (a service, a scope of it) by itself."""
    parts: dict[Hashable, tuple[list[Span], list[Span]]] = {}
    for orphan in orphans:
        parts.setdefault(part_of(orphan), ([], []))[0].append(orphan)
    for agent in agents:
        part = parts.get(part_of(agent))
        if part is not None:
            part[1].append(agent)
    found: dict[Span, Span] = {}
    for own_orphans, own_agents in parts.values():
        if own_agents:
            found.update(_tightest(own_orphans, own_agents))
    return found


def _tightest(orphans: Iterable[Span], agents: Sequence[Span]) -> dict[Span, Span]:
    """For each orphan the agent of least duration that contains it; n log n.

    A clock of milliseconds gives an agent and the call it begins with one start, so the ends may be equal; but no agent contains
    itself or its equal.
    """
    lost_agents: list[Span] = []
    others: list[Span] = []
    for orphan in orphans:
        (lost_agents if orphan.reading is not None and orphan.reading.klass is Klass.AGENT else others).append(orphan)
    return {**_sweep(others, agents, slack=0), **_sweep(lost_agents, agents, slack=1)}


def _sweep(orphans: Iterable[Span], agents: Sequence[Span], *, slack: int) -> dict[Span, Span]:
    """The tightest agents with start + slack <= an orphan's start and end - slack >= its end.

    Orphans are asked in falling order of their end, and by then exactly the agents that end late enough have been entered into
    a Fenwick tree over the agents' starts; a prefix minimum of it answers. (Asking every agent for every orphan would let one
    crafted trace of 10,000 spans hold the loop for seconds.)
    """
    starts = sorted({agent.start_unix_nano for agent in agents})
    best: list[tuple[int, int, bytes, Span] | None] = [None] * (len(starts) + 1)
    entering = sorted(agents, key=lambda span: span.end_unix_nano)
    found: dict[Span, Span] = {}
    for orphan in sorted(orphans, key=lambda span: span.end_unix_nano, reverse=True):
        while entering and entering[-1].end_unix_nano - slack >= orphan.end_unix_nano:
            agent = entering.pop()
            entry = (agent.end_unix_nano - agent.start_unix_nano, -agent.start_unix_nano, agent.span_id, agent)
            place = bisect_left(starts, agent.start_unix_nano) + 1
            while place < len(best):
                held = best[place]
                if held is None or entry[:3] < held[:3]:
                    best[place] = entry
                place += place & -place
        place = bisect_right(starts, orphan.start_unix_nano - slack)
        winner: tuple[int, int, bytes, Span] | None = None
        while place:
            held = best[place]
            if held is not None and (winner is None or held[:3] < winner[:3]):
                winner = held
            place &= place - 1
        if winner is not None:
            found[orphan] = winner[3]
    return found
