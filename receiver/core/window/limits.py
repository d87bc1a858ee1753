"""How long the window waits and how much it holds.

The names are those of the OpenTelemetry Collector's groupbytrace and tail_sampling processors where they have one.
Seconds are monotonic seconds, bytes are accounted bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MIB: Final = 1 << 20

#: What an open trace costs beside its spans' own records: its object, its dict of span ids, its two queue entries and
#: its slot in the account's table (measured on CPython 3.11: 120 B a span at 8 spans a trace, 920 B for a trace of one call).
OPEN_TRACE_BYTES: Final = 640
#: Its share per span of that dict, once it outgrows the first few.
OPEN_SPAN_BYTES: Final = 45
#: What a model call costs in the pair index: one entry per key that it can be found by.
PAIR_CALL_BYTES: Final = 200
#: What a released trace costs beside its packed ids: its object, its queue entry and its slot in the account's table (measured on CPython
#: 3.11: 312 B), and the journal's note of the rows it is in (106 B).
SEEN_TRACE_BYTES: Final = 420


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowLimits:
    """Each wait and each bound of the window, with the default that the daemon ships."""

    #: s of quiet after the root came; the batch delay of an OpenTelemetry SDK is 5 s, so other processes' spans are in by then
    decision_wait_after_root_received: float = 6.0
    #: s of quiet after which a remote parent that has not come counts as one that never will: its child is the root
    remote_root_wait: float = 30.0
    #: s of quiet for a trace that is one root model call: two batch delays, since its twin may sit in another trace
    lone_call_wait: float = 10.0
    #: s of quiet for a trace without a root; one model call may run for minutes before its parents end
    idle_wait: float = 600.0
    #: s since its first span, after which a trace is released whatever it waits for
    decision_wait: float = 21_600.0
    #: accounted bytes of all open traces: the bound that holds memory
    max_bytes: int = 256 * MIB
    max_traces: int = 200_000  #: open traces
    max_trace_spans: int = 10_000  #: new spans of one trace
    #: s for which the ids of a released trace are remembered; an OTLP exporter gives up a resend after minutes
    seen_horizon: float = 3_600.0
    #: accounted bytes of all released traces; over it the oldest are forgotten before `seen_horizon`
    seen_max_bytes: int = 256 * MIB
