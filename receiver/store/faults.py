"""Named points at which a test makes the store fail. They cost one look at a global unless armed.

    SPANTOLL_FAULT=after_commit:kill            every time
    SPANTOLL_FAULT=before_commit:enospc@3       the third time only
    SPANTOLL_FAULT=before_write:delay,before_reply:kill@20

The points of a transaction, in order: `before_write`, `after_write`, `before_commit`, `after_commit`, `before_reply` (on the event loop,
before anybody hears of it). The actions: `kill` (SIGKILL to ourselves), `enospc`, `eio` (as the disk would answer), `delay` (0.2 s).
"""

from __future__ import annotations

import errno
import os
import signal
import time
from typing import Final

POINTS: Final = ("before_write", "after_write", "before_commit", "after_commit", "before_reply")
ACTIONS: Final = ("kill", "enospc", "eio", "delay")
DELAY_SECONDS: Final = 0.2
VARIABLE: Final = "SPANTOLL_FAULT"

#: point -> (action, the how many-th time, or 0 for every time). Empty unless armed: `if ARMED: strike(...)` is all that a point costs.
ARMED: dict[str, tuple[str, int]] = {}
_passed: dict[str, int] = {}


def arm(text: str) -> None:
    """Arm the points that `text` names, and no others. Raises ValueError for what is no point or no action."""
    ARMED.clear()
    _passed.clear()
    for part in filter(None, text.split(",")):
        point, _, rest = part.partition(":")
        action, _, number = rest.partition("@")
        if point not in POINTS or action not in ACTIONS or (number and not number.isdecimal()):
            raise ValueError(f"{VARIABLE}: {part!r} is no point:action[@n] of points {', '.join(POINTS)} and actions {', '.join(ACTIONS)}")
        if point == "before_reply" and action in ("enospc", "eio"):
            raise ValueError(f"{VARIABLE}: {part!r}: no disk is asked there")
        ARMED[point] = (action, int(number or 0))


def strike(point: str) -> None:
    """Do what is armed at this point. Raises OSError with ENOSPC or EIO."""
    action, at = ARMED.get(point, ("", 0))
    if not action:
        return
    _passed[point] = _passed.get(point, 0) + 1
    if at and _passed[point] != at:
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "delay":
        time.sleep(DELAY_SECONDS)
    else:
        code = errno.ENOSPC if action == "enospc" else errno.EIO
        raise OSError(code, f"{os.strerror(code)} (armed at {point})")


arm(os.environ.get(VARIABLE, ""))
