"""What a Group comes to: the pure stretch from released spans to charges, the same for the daemon and for files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from receiver.core.attribution import AttributionRules, Charge, attribute
from receiver.core.calls import Counted, CountOptions, Missing, count
from receiver.core.journal import Close, Lack
from receiver.core.prices import PriceBook
from receiver.core.usage import Klass, Rules
from receiver.core.usage.trim import Trim
from receiver.core.window import Group

FAULT: Final = "fault"  #: a reason of `Missing`: the rules failed on its Group

#: Last value of a cumulative source, by its key; None when there is none.
LastValues = Callable[[tuple[str, ...]], tuple[int, ...] | None]


@dataclass(frozen=True, slots=True)
class Theory:
    """The rules that turn spans into charges; immutable while the process runs."""

    rules: Rules
    counting: CountOptions
    book: PriceBook
    attribution: AttributionRules

    def limit_of(self, key: str) -> int:
        """How many bytes of this attribute's value any rule reads; 0: none of it."""
        return max(self.rules.limit_of(key), self.attribution.limit_of(key))

    def trim_of(self, key: str) -> Trim | None:
        """What cuts this attribute's value down to the parts that are read; None where a rule reads the whole."""
        counting, naming = self.rules.trim_of(key), self.attribution.trim_of(key)
        if counting is not None:
            return None if self.attribution.limit_of(key) else counting
        return None if self.rules.limit_of(key) else naming


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one Group came to."""

    close: Close
    counted: Counted


def work_out(group: Group, theory: Theory, last_values: LastValues) -> Outcome:
    """Count, price and attribute one Group. The same Group and last values give the same charges."""
    counted = count(group, rules=theory.rules, last_values=last_values, options=theory.counting)
    charges: list[Charge] = []
    if counted.calls:
        charges = attribute([theory.book.price(call) for call in counted.calls], theory.attribution)
    return Outcome(_close(group, charges, counted), counted)


def not_worked_out(group: Group) -> Outcome:
    """What is true of a Group that a fault of ours keeps from being counted: it charges nothing, and its model calls are missing."""
    spans = [(trace.key.account, span) for trace in group.traces for span in trace.spans]
    missing = [
        Missing(account=account, span=span, model=next(iter(span.reading.models), None), reason=FAULT)
        for account, span in spans
        if span.reading is not None and span.reading.klass is Klass.MODEL_CALL
    ]
    counted = Counted([], missing, Counter(), {})
    return Outcome(_close(group, [], counted), counted)


def _close(group: Group, charges: list[Charge], counted: Counted) -> Close:
    """What the journal keeps of it."""
    traces = group.traces
    counters = dict(counted.counters)
    for trace in traces:
        if trace.spans:  # a mate that only came back with its re-opened group was released before
            released = ("window_released_total", (trace.trigger.value,))
            counters[released] = counters.get(released, 0) + 1
    return Close(
        group.account,
        tuple((trace.key, trace.generation) for trace in traces),
        tuple(charges),
        counted.cumulative,
        spans=tuple(len(trace.spans) for trace in traces),
        triggers=tuple(trace.trigger.value for trace in traces),
        counters=counters,
        missing=tuple(
            Lack(lack.account, lack.span.trace_id, lack.span.span_id, lack.span.start_unix_nano, lack.model, lack.reason)
            for lack in counted.missing
        ),
    )
