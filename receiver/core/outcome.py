"""What a Group comes to: the pure stretch from released spans to charges, the same for the daemon and for files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from receiver.core.attribution import AttributionRules, Charge, attribute
from receiver.core.calls import Counted, CountOptions, Missing, count
from receiver.core.journal import Close
from receiver.core.prices import PriceBook
from receiver.core.usage import Klass, Rules
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
    traces = tuple((trace.key, trace.generation) for trace in group.traces)
    return Outcome(Close(group.account, traces, tuple(charges), counted.cumulative), counted)


def not_worked_out(group: Group) -> Outcome:
    """What is true of a Group that a fault of ours keeps from being counted: it charges nothing, and its model calls are missing."""
    spans = [(trace.key.account, span) for trace in group.traces for span in trace.spans]
    missing = [
        Missing(account=account, span=span, model=next(iter(span.reading.models), None), reason=FAULT)
        for account, span in spans
        if span.reading is not None and span.reading.klass is Klass.MODEL_CALL
    ]
    traces = tuple((trace.key, trace.generation) for trace in group.traces)
    return Outcome(Close(group.account, traces, (), {}), Counted([], missing, Counter(), {}))
