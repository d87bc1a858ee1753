"""The operator's token: one secret in the data folder, so that whoever may read the folder may administer its daemon.

A listener on loopback is reached by every program of the machine, so reading is free there, while what changes money or access asks
for this token. It is made at the first start, readable by the daemon's user alone, and stands in no log, error or repr.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from receiver.access.keys import KEY_BYTES, Keys, hash_key
from receiver.errors import ReceiverError, Unauthenticated

TOKEN_FILE: Final = "operator.token"  # noqa: S105 -- a file's name
TOKEN_PREFIX: Final = "spo_"  # noqa: S105 -- tells people and secret scanners what leaked
#: Who the token's holder is, beside the names of `[[operator.key]]`.
OPERATOR: Final = "operator"
_MODE: Final = 0o600
_LONGEST_BYTES: Final = 256  #: nothing longer can be a token
_TOKEN: Final = re.compile(rb"(spo_[A-Za-z0-9_-]{40,200})\n?")


class TokenUnusable(ReceiverError):
    """The token cannot be made, read or trusted."""


class OperatorCredentials:
    """Who may use the operator's listener: to look, whoever reaches it unless keys are configured; to change, a key or the token."""

    __slots__ = ("_free", "_keys")

    def __init__(self, keys: Iterable[tuple[str, str]] = (), *, token: str = "") -> None:
        """`keys`: (who, SHA-256 in hex) of each `[[operator.key]]`. `token`: "" for none."""
        entries = list(keys)
        self._free = not entries
        self._keys = Keys([*entries, (OPERATOR, hash_key(token))] if token else entries)

    def account(self, authorization: str | None, *, changes: bool) -> str:
        """Who it is, "" for anyone who only looks. Raises Unauthenticated."""
        if self._free and not changes:
            return ""
        if not self._keys.required:
            raise Unauthenticated(
                "this daemon has no operator token, so nothing can be changed over this listener: add an [[operator.key]]"
            )
        try:
            return self._keys.account(authorization)
        except Unauthenticated as error:
            raise Unauthenticated(
                "this needs the operator's key: send the header `Authorization: Bearer TOKEN` with what stands in the file"
                f" {TOKEN_FILE} of the data folder, or the key of an [[operator.key]]"
            ) from error


def ensure_token(directory: Path) -> str:
    """The token of a data folder; made when there is none. For who holds the folder's lock. Raises TokenUnusable."""
    path = directory / TOKEN_FILE
    token = TOKEN_PREFIX + secrets.token_urlsafe(KEY_BYTES)
    fresh = directory / f".{TOKEN_FILE}.{os.getpid()}"
    try:
        fresh.unlink(missing_ok=True)
        _write(fresh, token)
        try:
            os.link(fresh, path)  # whole or not at all, and never in place of one that is there
        except FileExistsError:
            return read_token(directory)
        finally:
            fresh.unlink()
        _sync(directory)
    except OSError as error:
        raise TokenUnusable(f"{path} cannot be made ({error.strerror}): make the data folder writable for this user") from error
    return token


def read_token(directory: Path) -> str:
    """The token of a data folder. Raises TokenUnusable, which says what to do."""
    path = directory / TOKEN_FILE
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise TokenUnusable(f"{path} is missing: is store.directory that of the daemon? It makes the file when it starts") from None
    except OSError as error:
        raise TokenUnusable(
            f"{path} cannot be read ({error.strerror}): use the user that runs the daemon, who alone may read it"
        ) from error
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise TokenUnusable(f"{path} is no file: remove it, and the daemon makes a new one when it starts")
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise TokenUnusable(
                f"{path} can be read by others than its owner, so its token is no secret any more: remove it, and the daemon makes a"
                " new one when it starts"
            )
        found = _TOKEN.fullmatch(os.read(handle, _LONGEST_BYTES))
    finally:
        os.close(handle)
    if found is None:
        raise TokenUnusable(f"{path} holds no token: remove it, and the daemon makes a new one when it starts")
    return found[1].decode("ascii")


def _write(path: Path, text: str) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
    with os.fdopen(handle, "w", encoding="ascii") as file:
        os.fchmod(file.fileno(), _MODE)  # whatever the umask says
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    """Make what was linked or removed in a folder durable."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
