"""Static keys from the configuration: `Authorization: Bearer KEY` names the account.

The configuration holds SHA-256 digests, never keys: a key has 256 bits of its own, so no salt and no slow hash is needed. A lookup
hashes what was presented and looks that digest up; what an attacker can time is a digest that he cannot choose. Keys appear in no
message and no log.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from typing import TYPE_CHECKING, Final

from receiver.errors import Unauthenticated

if TYPE_CHECKING:
    from collections.abc import Iterable

#: The account of every request while no keys are configured.
DEFAULT_ACCOUNT: Final = "default"
#: Marks a key as ours, so that secret scanners and people can tell what leaked.
KEY_PREFIX: Final = "spt_"
KEY_BYTES: Final = 32  #: 256 random bits: beyond guessing

_DIGEST = re.compile(r"[0-9a-f]{64}")
_NO_DIGEST: Final = bytes(32)  #: compared against when nothing was found, so that both ways do the same work


class Keys:
    """The accounts by key. With no entries at all, everyone is account "default"."""

    __slots__ = ("_accounts",)

    def __init__(self, entries: Iterable[tuple[str, str]] = ()) -> None:
        """`entries`: (account, SHA-256 of the key in hex); an account may have several keys. Judge them with `problems` first."""
        self._accounts: dict[bytes, tuple[bytes, str]] = {}
        for account, digest_hex in entries:
            digest = bytes.fromhex(digest_hex)
            assert len(digest) == 32
            self._accounts[digest] = (digest, account)

    @property
    def required(self) -> bool:
        """Whether a request must carry a key."""
        return bool(self._accounts)

    def account(self, authorization: str | None) -> str:
        """The account that an `Authorization` header names; raises Unauthenticated."""
        if not self._accounts:
            return DEFAULT_ACCOUNT
        if authorization is None:
            raise Unauthenticated("this receiver needs a key: send the header `Authorization: Bearer KEY`")
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated("only the scheme Bearer is known here: send the header `Authorization: Bearer KEY`")
        digest = _digest(key.strip())
        known, account = self._accounts.get(digest, (_NO_DIGEST, ""))
        if not hmac.compare_digest(digest, known):
            raise Unauthenticated("the key that was sent is not known here: check it, or ask the operator for one")
        return account


def generate_key() -> str:
    """A new key: shown to its owner once and never stored; the configuration gets `hash_key` of it."""
    return KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)


def hash_key(key: str) -> str:
    """SHA-256 of a key in hex, as the configuration holds it."""
    return _digest(key).hex()


def key_problems(entries: Iterable[tuple[str, str]]) -> list[str]:
    """What is wrong with configured keys, a sentence each (without repeating the digest: it may be a key put there by mistake)."""
    problems: list[str] = []
    owners: dict[str, str] = {}
    for account, digest in entries:
        if not account:
            problems.append("a key has no account: give its account a name")
        if not _DIGEST.fullmatch(digest):
            problems.append(
                f"the key of account {account!r} is no SHA-256 digest (64 hex digits in lower case): store the digest, never the key itself"
            )
        elif owners.setdefault(digest, account) != account:
            problems.append(f"accounts {owners[digest]!r} and {account!r} have the same key: make one of them a key of its own")
    return problems


def exposure_problems(where: str, endpoint: str, *, loopback: bool, tls: bool, insecure: bool, keys: bool) -> list[str]:
    """Why a listener must not be opened, a sentence each; none on loopback.

    Beyond this machine a listener needs an encrypted channel, or the operator's word that something else encrypts it
    (`insecure = true`), and keys: whoever reaches it could otherwise write another's costs. `where` is the section, e.g. "otlp.grpc".
    """
    if loopback:
        return []
    problems: list[str] = []
    if not tls and not insecure:
        problems.append(
            f"{where}.endpoint = {endpoint!r} is reachable from other machines without TLS: set {where}.tls, "
            f"or {where}.insecure = true where the network is trusted"
        )
    if not keys:
        problems.append(f"{where}.endpoint = {endpoint!r} is reachable from other machines, but no keys are configured: add one")
    return problems


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
