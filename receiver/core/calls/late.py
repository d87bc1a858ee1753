"""Spans that come after their trace was released: the rules run on the whole, and only what is new is charged.

  a call that a charged span tells of          it is charged already: nothing
  a new call below a charged span that is      nothing: that span's own charge stands for it (the sum of an agent whose model calls
  an aggregate now                             came late)
  any other new call                           charged now
A charge is never taken back: a counter does not fall, and corrections of credit are made in the ledger, by hand.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from receiver.core.calls.nesting import Candidate
    from receiver.core.calls.tree import Tree
    from receiver.core.span import Span


class Outcome(StrEnum):
    """What became of a late span; the label `outcome` of `late_span_total`."""

    CHARGED = "charged"  #: it tells of a call that is charged now
    ALREADY_CHARGED = "already_charged"  #: it tells of a call that was charged before
    BELOW_CHARGED = "below_charged"  #: its call stands below an agent whose sum was charged
    AGGREGATE = "aggregate"  #: it only repeats spans below it
    NO_USAGE = "no_usage"  #: it holds no usage


class Charged:
    """The paying spans of earlier generations of a Group's traces."""

    __slots__ = ("_above", "_ids", "_suppressed", "_tree")

    def __init__(self, ids: Mapping[bytes, Collection[bytes]], aggregates: Collection[Span], tree: Tree) -> None:
        self._ids = ids  #: trace id -> span ids
        self._tree = tree
        self._suppressed = {span for span in aggregates if self.paid_by(span)}
        self._above: dict[Span, bool] = {}

    def paid_by(self, span: Span) -> bool:
        """It is the paying span of a call that was charged."""
        return span.span_id in self._ids.get(span.trace_id, ())

    def judge(self, candidate: Candidate) -> Outcome:
        """What becomes of a call: only CHARGED is charged now."""
        if any(self.paid_by(span) for span in candidate.spans):
            return Outcome.ALREADY_CHARGED
        if self._suppressed and any(self._below_suppressed(span) for span in candidate.spans):
            return Outcome.BELOW_CHARGED
        return Outcome.CHARGED

    def _below_suppressed(self, span: Span) -> bool:
        """Does one of the spans above hold a charge that stands for this one? Each span is walked over once."""
        path = []
        node: Span | None = span
        answer = False
        while node is not None:
            if node in self._above:
                answer = self._above[node]
                break
            path.append(node)
            node = self._tree.parent(node)
            if node in self._suppressed:
                answer = True
                break
        for passed in path:
            self._above[passed] = answer
        return answer
