"""What the window lets go: Groups of traces that are counted together."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from receiver.core.span import Span


class TraceKey(NamedTuple):
    """Trace ids are chosen by clients, so the account is part of every key."""

    account: str
    trace_id: bytes


class Trigger(Enum):
    """Why a trace was released; the label `trigger` of `window_released_total`."""

    ROOT = "root"  #: the root came, then quiet for `decision_wait_after_root_received`
    LONE_CALL = "lone_call"  #: one lone model call, `lone_call_wait` over
    IDLE = "idle"  #: no root, quiet for `idle_wait`
    AGE = "age"  #: `decision_wait` since its first span
    BYTES = "bytes"  #: the window was over `max_bytes`: oldest first
    TRACES = "traces"  #: over `max_traces`: oldest first
    TRACE_SPANS = "trace_spans"  #: this trace is over `max_trace_spans`
    PAIR = "pair"  #: released with the trace of its twin
    MANUAL = "manual"  #: POST /-/release, SIGUSR1, shutdown when asked


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasedTrace:
    """One trace of a Group, with all its spans: also those of an earlier release, read back when a late span re-opened it."""

    key: TraceKey
    trigger: Trigger
    generation: int  #: 0 at its first release, + 1 at each re-opening
    spans: tuple[Span, ...]  #: new ones, in arrival order
    earlier: tuple[Span, ...] = ()  #: spans of earlier generations (from the journal); empty at generation 0
    charged: frozenset[bytes] = frozenset()  #: span ids that an earlier generation charged (the paying span of each call)
    first_held: float = 0.0  #: monotonic seconds of its first span in this generation


@dataclass(frozen=True, slots=True)
class Group:
    """Traces that may tell of the same call; all of one account."""

    account: str
    traces: tuple[ReleasedTrace, ...]
