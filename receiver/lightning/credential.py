"""The one secret that opens a node, from a file or an environment variable, and shown by nothing.

It is read again when its file changes, so that a credential that was replaced is in force without a restart.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from receiver.lightning.client import NodeRefused

#: Longer than any credential: what is larger is some other file, and is not read into memory.
_MOST_BYTES: Final = 16_384


class CredentialRefused(NodeRefused):
    """It is none, is not taken, or can do what it should not. Concerns every call alike."""

    def __init__(self, problem: str, mend: str = "") -> None:
        self.problem = problem
        self.mend = mend  #: the command that makes a right one
        super().__init__(f"{problem}; a right one: {mend}" if mend else problem)


class Credential:
    """A secret by where it is kept. Neither `repr` nor an error tells what it is."""

    def __init__(self, *, file: str = "", env: str = "", environ: Mapping[str, str] = os.environ) -> None:
        """Exactly one of `file` (a path) and `env` (the name of an environment variable)."""
        assert bool(file) != bool(env)
        self._file = Path(file) if file else None
        self._env = env
        self._environ = environ
        self._stamp: tuple[int, ...] = ()
        self._secret = b""

    def __repr__(self) -> str:
        return f"Credential({self.origin})"

    @property
    def origin(self) -> str:
        """Where it comes from, for people."""
        return f"the environment variable {self._env}" if self._file is None else str(self._file)

    def read(self) -> bytes:
        """The secret as it is kept now, without white space around text.

        Raises:
            CredentialRefused: it is not there, or it is no credential.
        """
        secret = self._environ.get(self._env, "").encode().strip() if self._file is None else self._of_file(self._file)
        if not secret:
            raise CredentialRefused(f"{self.origin} is empty: it should hold the credential of the Lightning node")
        return secret

    def _of_file(self, file: Path) -> bytes:
        try:
            found = file.stat()
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
            if stamp != self._stamp:
                with file.open("rb") as stream:
                    secret = stream.read(_MOST_BYTES + 1)
                self._secret, self._stamp = secret if _is_binary(secret) else secret.strip(), stamp
        except OSError as error:
            problem = error.strerror or type(error).__name__
            raise CredentialRefused(f"the credential of the Lightning node, {file}, cannot be read: {problem}") from None
        if len(self._secret) > _MOST_BYTES:
            raise CredentialRefused(f"{file} is larger than {_MOST_BYTES:,} bytes, so it is no credential of a Lightning node")
        return self._secret


def _is_binary(secret: bytes) -> bool:
    """Whether white space at its ends may belong to it."""
    return not (secret.isascii() and secret.decode("ascii").strip().isprintable())
