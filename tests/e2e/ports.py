"""Ports for programs that cannot tell which one they took."""

from __future__ import annotations

import os
import random
import socket
from typing import Final

#: Below the ports that systems give to clients and to those who ask for any (32768 and up on Linux, 49152 elsewhere), so that nobody is
#: given one of ours between the look and its use.
FIRST: Final = 20_000
LAST: Final = 32_000
#: Each of pytest's processes draws from a part of its own.
PARTS: Final = 8

_part = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % PARTS
_mine = list(range(FIRST + _part, LAST, PARTS))
random.shuffle(_mine)


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens, and that nobody in this process is given again."""
    while True:
        port = _mine.pop()
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port
