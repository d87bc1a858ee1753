"""Keys: `Authorization: Bearer KEY` names the account.

The configuration holds SHA-256 digests, never keys: a key has 256 bits of its own, so no salt and no slow hash is needed. A lookup
hashes what was presented and looks that digest up; what an attacker can time is a digest that he cannot choose. Keys appear in no
message and no log.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from enum import Enum
from typing import TYPE_CHECKING, Final

from receiver.errors import Unauthenticated

if TYPE_CHECKING:
    from collections.abc import Iterable

#: The account of every request while no keys are configured.
DEFAULT_ACCOUNT: Final = "default"
#: Marks a key as ours, so that secret scanners and people can tell what leaked.
KEY_PREFIX: Final = "spt_"
KEY_BYTES: Final = 32  #: 256 random bits: beyond guessing

NO_DIGEST: Final = bytes(32)  #: compared against when nothing was found, so that both ways do the same work
UNKNOWN_KEY: Final = "the key that was sent is not known here: check it, or ask the operator for one"


class KeyNeed(Enum):
    """Whether a request is asked for a key, and whether there is any."""

    NOT_ASKED = "not asked"  #: everyone is the account "default"
    ASKED = "asked"
    NOBODY_HAS_ONE = "nobody has one"  #: so nobody is let in


class Keys:
    """The accounts by key. With no entries at all, everyone is account "default"."""

    __slots__ = ("_accounts",)

    def __init__(self, entries: Iterable[tuple[str, str]] = ()) -> None:
        """`entries`: (account, SHA-256 of the key in hex); an account may have several keys. The configuration has judged them."""
        self._accounts: dict[bytes, tuple[bytes, str]] = {}
        for account, digest_hex in entries:
            known = bytes.fromhex(digest_hex)
            assert len(known) == 32
            self._accounts[known] = (known, account)

    @property
    def required(self) -> bool:
        """Whether a request must carry a key."""
        return bool(self._accounts)

    def account(self, authorization: str | None) -> str:
        """The account that an `Authorization` header names; raises Unauthenticated."""
        if not self._accounts:
            return DEFAULT_ACCOUNT
        presented = digest(bearer(authorization))
        known, account = self._accounts.get(presented, (NO_DIGEST, ""))
        if not hmac.compare_digest(presented, known):
            raise Unauthenticated(UNKNOWN_KEY)
        return account


def bearer(authorization: str | None) -> str:
    """The key in an `Authorization` header; raises Unauthenticated where there is none."""
    if authorization is None:
        raise Unauthenticated("this receiver needs a key: send the header `Authorization: Bearer KEY`")
    # OTEL_EXPORTER_OTLP_HEADERS is percent-encoded by its specification, but some programs (LiteLLM, Claude Code) send it as it stands.
    scheme, _, key = authorization.partition("%20" if authorization[6:9] == "%20" else " ")
    if scheme.lower() != "bearer":
        raise Unauthenticated("only the scheme Bearer is known here: send the header `Authorization: Bearer KEY`")
    return key.strip()


def generate_key() -> str:
    """A new key: shown to its owner once and never stored; the configuration gets `hash_key` of it."""
    return KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)


def hash_key(key: str) -> str:
    """SHA-256 of a key in hex, as the configuration holds it."""
    return digest(key).hex()


def digest(key: str) -> bytes:
    """SHA-256 of a key: what is kept and looked up in its place."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
