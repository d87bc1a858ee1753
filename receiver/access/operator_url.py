"""Where the operator's listener of a running daemon is, written into the data folder, so that commands find it on any port.

The file is a hint, the folder's lock is the truth: it is believed only while the process that wrote it holds the lock. After a crash
another program may listen on that port, and must not be sent the operator's token.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
from pathlib import Path
from typing import Final

from receiver.config import Endpoint
from receiver.errors import ReceiverError

log = logging.getLogger(__name__)

URL_FILE: Final = "operator.url"
_LONGEST_BYTES: Final = 512


class NoOperatorListener(ReceiverError):
    """The daemon that holds the folder says nowhere how its operator's listener is reached."""


def write_url(directory: Path, bound: tuple[str, int], *, tls: bool) -> None:
    """Say where the listener is. For who holds the folder's lock. With a full disk the log says so, and commands find nothing.

    Args:
        directory: the data folder.
        bound: address and port of the listener's first socket.
        tls: whether it speaks TLS.

    """
    address = ipaddress.ip_address(bound[0])
    if address.is_unspecified:  # every address of the machine, so this one too
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    url = f"{'https' if tls else 'http'}://{Endpoint(str(address), bound[1])}"
    fresh = directory / f".{URL_FILE}.{os.getpid()}"
    try:
        fresh.write_text(f"{url}\n{os.getpid()}\n", encoding="ascii")
        fresh.replace(directory / URL_FILE)
    except OSError as error:
        log.warning("commands such as `spantoll account` cannot find this daemon: %s", error)
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)


def remove_url(directory: Path) -> None:
    """It is not to be reached there any more; harmless where nothing was said. Also at the start, for what a crash left behind."""
    with contextlib.suppress(OSError):  # a file that stays is not believed without the lock
        (directory / URL_FILE).unlink(missing_ok=True)


def read_url(directory: Path, pid: str) -> str | None:
    """Where the listener of process `pid` is, which holds the folder's lock; None when it has not said so (yet)."""
    try:
        with (directory / URL_FILE).open("rb") as file:
            lines = file.read(_LONGEST_BYTES).decode("ascii", "replace").splitlines()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise NoOperatorListener(f"{directory / URL_FILE} cannot be read ({error.strerror}): use the user that runs the daemon") from error
    return lines[0] if len(lines) == 2 and lines[1] == pid else None
