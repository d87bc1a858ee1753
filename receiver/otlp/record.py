"""What both encodings come to: the Export, the reasons to reject one span of it, and what a kept span weighs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from typing import Final

from receiver.core.span import Attributes, Span, Value

NAME_BYTES: Final = 1_024  #: of a span's, scope's or scope version's name; a name is a label, not a text

#: What a Span holds beside its pairs and its name: sys.getsizeof in CPython 3.11 on 64 bits (header of the garbage collector included),
#: each rounded up to the allocator's 16. Itself 160, its ids 64 + 48 + 48, its times 48 + 48, the tuple of its attributes 48.
#: What its pairs and its name hold is added where they are made, so what spans share is counted once.
SPAN_BYTES: Final = 464
SLOT_BYTES: Final = 8  #: an attribute's place in that tuple

MAX_SOURCES: Final = 1_024  #: distinct (resource, scope) that are remembered
MAX_SOURCE_BYTES: Final = 8_192  #: size on the wire up to which one is

#: Resource attributes that tell which process it is: kept whatever `limit_of` says of them.
PROCESS_KEYS: Final = ("service.name", "service.namespace", "service.instance.id")
PROCESS_BYTES: Final = 1_024  #: of each of them, where `limit_of` names no limit

#: Why a span is rejected alone; the label `reason` of `receiver_rejected_spans_total`.
REASONS: Final = {
    "invalid_trace_id": "trace_id is not 16 bytes, or all zero",
    "invalid_span_id": "span_id is not 8 bytes, or all zero",
    "invalid_parent_span_id": "parent_span_id is not 8 bytes; leave it out on a root span",
}

NO_TRACE: Final = bytes(16)
NO_SPAN: Final = bytes(8)


class Export:
    """What one request holds."""

    __slots__ = ("received", "received_unix_nano", "rejected", "sanitized", "spans", "walked")

    def __init__(self, received_unix_nano: int = 0) -> None:
        self.received_unix_nano = received_unix_nano
        self.spans: list[Span] = []
        self.rejected: Counter[str] = Counter()  #: a key of REASONS -> spans that were dropped alone
        self.received = 0  #: all spans in the request, rejected ones included
        self.sanitized = 0  #: wanted strings in which bad bytes were replaced by U+FFFD
        self.walked = 0  #: fields of long messages that were walked one by one, for their bound

    @property
    def errors(self) -> str:
        """`partial_success.error_message`: "" when nothing was rejected."""
        if not self.rejected:
            return ""
        parts = "; ".join(f"{count} {reason}: {REASONS[reason]}" for reason, count in sorted(self.rejected.items()))
        return f"rejected {self.rejected.total()} of {self.received} spans, which a resend cannot mend ({parts})"


#: A decoding in slices: whoever drives it lets others run at each yield, and finds the Export in StopIteration's value.
Steps = Generator[None, None, Export]


def run(steps: Steps) -> Export:
    """Drain a decoding, for who has nobody to let run between its slices."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # StopIteration is not generic; Steps says what it carries


def fault(trace_id: bytes, span_id: bytes, parent_span_id: bytes) -> str:
    """Why a span with these ids is rejected, a key of REASONS; "" when they are valid (trace.proto).

    An all-zero parent is no parent, as W3C Trace Context reads it. One of another length is rejected, not taken for a root: which
    span is whose child decides what is counted, and the collector refuses such a request whole.
    """
    if len(trace_id) != 16 or trace_id == NO_TRACE:
        return "invalid_trace_id"
    if len(span_id) != 8 or span_id == NO_SPAN:
        return "invalid_span_id"
    return "" if len(parent_span_id) in (0, 8) else "invalid_parent_span_id"


def first_of_each(pairs: Attributes) -> dict[str, Value]:
    """Of a repeated key the first counts."""
    found: dict[str, Value] = {}
    for key, value in pairs:
        found.setdefault(key, value)
    return found


def thresholded(trace_state: str) -> bool:
    """Whether a W3C tracestate says that other traces were sampled out: `ot=...;th:T` with a rejection threshold T other than 0.

    (OpenTelemetry, "TraceState: Probability Sampling": T is hex with its trailing zeros left out, 0 keeps every trace.)
    """
    for member in trace_state.split(","):
        vendor, _, fields = member.strip().partition("=")
        if vendor == "ot":
            return any(field[:3] == "th:" and field[3:].strip().strip("0") != "" for field in fields.split(";"))
    return False
