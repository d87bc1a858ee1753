"""A trace in the first part of its life: open. It holds its spans and knows what it waits for.

A trace is let go by the earliest of these rules:

    it is full                          at once                                               TRACE_SPANS
    its root came                       quiet for `decision_wait_after_root_received`         ROOT
      and it is nothing but a root call   quiet for `lone_call_wait`                          LONE_CALL
    a remote parent has not come        quiet for `remote_root_wait`: then its child is root  ROOT
    none of these                       quiet for `idle_wait`                                 IDLE
    however busy it is                  `decision_wait` since its first span                  AGE

"Quiet" counts from its last *new* span; a resend keeps nothing awake. Moments are those of the receiver: what a client
writes into a span's times moves no deadline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from receiver.core.usage.reading import Klass
from receiver.core.window.group import Trigger

if TYPE_CHECKING:
    from receiver.core.span import Span
    from receiver.core.window.limits import WindowLimits
    from receiver.core.window.released import SeenTrace


class OpenTrace:
    """The new spans of one trace, by span id, in arrival order."""

    __slots__ = (
        "account",
        "carriers",
        "filed",
        "first_held",
        "full_at",
        "last_held",
        "queued",
        "remote_parents",
        "rooted",
        "seen",
        "size",
        "spans",
        "trace_id",
    )

    def __init__(self, account: str, trace_id: bytes, *, now: float, full_at: int, seen: SeenTrace | None) -> None:
        self.account = account
        self.trace_id = trace_id
        self.spans: dict[bytes, Span] = {}
        self.size = 0  #: accounted bytes
        self.first_held = now
        self.last_held = now
        self.full_at = full_at  #: so many new spans release it
        self.seen = seen  #: what is left of its earlier life when a late span re-opened it
        self.rooted = seen is not None and seen.rooted  #: a span without a parent came, or stood for one at an earlier release
        self.remote_parents: list[bytes] | None = None  #: parents in other processes that may yet come
        self.carriers: list[Span] | None = None  #: spans with usage or a cost
        self.filed = 0  #: how many of these the pair index has filed
        self.queued = False  #: among the window's open traces

    @property
    def generation(self) -> int:
        """How often it was released before."""
        return 0 if self.seen is None else self.seen.generation + 1

    def due(self, limits: WindowLimits) -> tuple[float, Trigger]:
        """When it is released if no more spans come, and by which rule."""
        if len(self.spans) >= self.full_at:
            return self.last_held, Trigger.TRACE_SPANS
        if self.rooted:
            wait, trigger = limits.decision_wait_after_root_received, Trigger.ROOT
            if self.is_only_a_root_call():
                wait, trigger = limits.lone_call_wait, Trigger.LONE_CALL
        elif self._waits_for_remote_parent():
            wait, trigger = max(limits.remote_root_wait, limits.decision_wait_after_root_received), Trigger.ROOT
        else:
            wait, trigger = limits.idle_wait, Trigger.IDLE
        if self.seen is not None and self.seen.costs_more_than(limits.max_trace_spans):
            # All its earlier spans are read back and counted again: not for every straggler of a giant.
            wait = max(wait, limits.idle_wait)
        quiet, aged = self.last_held + wait, self.age_limit(limits)
        return (quiet, trigger) if quiet < aged else (aged, Trigger.AGE)

    def age_limit(self, limits: WindowLimits) -> float:
        """When it is released however busy it is."""
        return self.first_held + limits.decision_wait

    def is_only_a_root_call(self) -> bool:
        """One model call without a parent, and nothing else so far."""
        return len(self.spans) == 1 and self.seen is None and self.carriers is not None and tells_of_a_call(self.carriers[0])

    def lone_call(self, gateways: tuple[str, ...]) -> Span | None:
        """Its only span with usage, when nothing ties that call to the trace it was made in: no parent, or a gateway's own trace.

        A trace that was released before is none: its calls have been counted.
        """
        if self.carriers is None or len(self.carriers) != 1 or self.seen is not None:
            return None
        call = self.carriers[0]
        if tells_of_a_call(call) and (not call.parent_span_id or call.source.scope.startswith(gateways)):
            return call
        return None

    def _waits_for_remote_parent(self) -> bool:
        """A parent in another process has not come. Those that came are struck off, so each is looked at once."""
        parents = self.remote_parents
        while parents and (parents[-1] in self.spans or (self.seen is not None and parents[-1] in self.seen)):
            parents.pop()
        return bool(parents)

    def __repr__(self) -> str:
        return f"OpenTrace({self.trace_id.hex()}, generation {self.generation}, {len(self.spans)} spans)"


def tells_of_a_call(carrier: Span) -> bool:
    """A span with usage that may be one of several tellers of a model call: classed as one, or not classed at all."""
    reading = carrier.reading
    return reading is not None and (reading.klass is Klass.MODEL_CALL or reading.klass is Klass.NONE)
