"""The key of the hashes that stand for names (`[privacy] hash`): a file in the data folder that only its owner can read.

Whoever has the books and the key can try names out, so a backup of the books does not hold it. Without the key the same names get other
hashes from then on, and nobody can tell whose the old ones are: keep it where the operator's other secrets are.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from typing import Final

from receiver.errors import ReceiverError

FILE: Final = "privacy.key"  #: its name in the data folder
KEY_BYTES: Final = 32
_MODE: Final = 0o600


class KeyUnusable(ReceiverError):
    """The key's file cannot be read, or is none."""


def ensure_key(directory: str | Path) -> bytes:
    """The key of a folder, made if there is none. Raises KeyUnusable."""
    path = Path(directory) / FILE
    try:
        with contextlib.suppress(FileNotFoundError):
            return _read(path)
        _make(path)
        return _read(path)
    except OSError as error:
        raise KeyUnusable(f"{path} cannot be used ({error.strerror or error}): it must be readable for this user") from error


def _read(path: Path) -> bytes:
    if path.stat().st_mode & 0o077:
        raise KeyUnusable(f"{path} can be read by others than its owner: chmod 600 {path}")
    text = path.read_text("ascii", errors="replace").strip()
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise KeyUnusable(
            f"{path} holds no key of {KEY_BYTES} bytes in hex: restore it, or remove it, and a new one is made (the same names then"
            " get new hashes)"
        )
    return key


def _make(path: Path) -> None:
    """Whole or not at all, whatever happens meanwhile: a half key would be a new one at the next start."""
    made = path.with_name(f".{FILE}.{secrets.token_hex(4)}")
    descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(secrets.token_hex(KEY_BYTES) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(made, path)  # never in place of one that is there
    finally:
        made.unlink()
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
