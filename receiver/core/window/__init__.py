"""The window: spans wait here until their trace has had time to complete.

One structure, one life. A trace is *open* (`open.py`), then *released* (`released.py`), then *forgotten*; the key is
(account, trace id). The window is also the index of what was seen: an open trace knows its span ids because it holds the
spans, a released one keeps them packed. A span that comes after its trace was released, a *late* one, opens it again:
one generation more, with all its earlier spans read back from the journal, so that the rules of counting run on the whole.

Rule 1: nothing here reads a clock; every call is told `now` (monotonic seconds).
Rule 2: what enters leaves once, as a new span of one ReleasedTrace. A bound releases early, it never drops.
Rule 3: traces that may tell of the same call leave in one Group (`pairs.py`), and come back as one.
Rule 4: what leaves, and in which order, depends on the calls and their arguments alone.

What lateness costs: releasing a trace again reads back all its released spans. A trace is let go for its size only when its
new spans outnumber those, and a straggler of a trace with more than `max_trace_spans` released ones waits `idle_wait`. So
a trace of n spans that comes in one stream costs O(n) in all, and a dribble to a giant costs one reading per `idle_wait`.
"""

from receiver.core.window.group import Group, ReleasedTrace, TraceKey, Trigger
from receiver.core.window.limits import WindowLimits
from receiver.core.window.window import WaitingTrace, Window

__all__ = ["Group", "ReleasedTrace", "TraceKey", "Trigger", "WaitingTrace", "Window", "WindowLimits"]
