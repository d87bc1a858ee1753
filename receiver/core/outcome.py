"""What a Group comes to: the pure stretch from released spans to charges, the same for the daemon and for files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from receiver.core.attribution import AttributionRules, Charge, attribute
from receiver.core.calls import Counted, CountOptions, count
from receiver.core.journal import Close
from receiver.core.prices import PriceBook
from receiver.core.usage import Rules
from receiver.core.window import Group

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
