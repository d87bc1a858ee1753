"""What is kept of whom: names that are stored as a keyed hash only, and names that were asked to be forgotten.

A Charge passes here once, on its way from the rules to the books and the metrics: what leaves is all that anybody sees of it later.
The hash is keyed, for names can be guessed: who has the books without the key cannot try them out. It is the same for the same name
in the same dimension, so sums stay whole.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from receiver.core.attribution import Charge

KEY_BYTES: Final = 32
#: Marks a hash as one, and keeps it from being taken for a name.
PREFIX: Final = "hash:"
#: 96 bits: no two of a billion names meet (chance 1e-11), and a label stays short.
DIGEST_BYTES: Final = 12
_HASH: Final = re.compile(f"{PREFIX}[0-9a-f]{{{2 * DIGEST_BYTES}}}")
#: Hashes that are remembered: one costs 1 us, and an agent's calls name the same user again and again.
MAX_REMEMBERED: Final = 65_536

#: Where nobody knows when spans came.
NOT_KNOWN: Final[Mapping[tuple[bytes, bytes], int]] = MappingProxyType({})

#: The place of the session in the key of a cumulative source: (account, service, scope, agent, session).
_SESSION_OF_SOURCE: Final = 4


@dataclass(frozen=True, slots=True)
class Forgotten:
    """A user who was forgotten: calls that began before are nobody's any more, also those that are still to be closed."""

    account: str  #: "" for all
    user: str  #: the hash of the name, for the name itself is what must not be kept
    before_unix_nano: int


class Privacy:
    """The rules of `[privacy]` on one key. One event loop owns it, and `applied` may run on one thread at a time."""

    def __init__(self, hashed: Iterable[str] = (), *, key: bytes = bytes(KEY_BYTES)) -> None:
        """`hashed`: dimensions, each a field of Charge. `key`: KEY_BYTES secret bytes; the default is good for nothing but tests."""
        assert len(key) == KEY_BYTES
        self.hashed = tuple(dict.fromkeys(hashed))
        self._key = key
        self._remembered: dict[tuple[str, str], str] = {}
        self._forgotten: dict[tuple[str, str], int] = {}  #: (account or "", hash) -> before

    def hash(self, dimension: str, value: str) -> str:
        """The hash of a value, the same in every process that has the key."""
        known = self._remembered.get((dimension, value))
        if known is None:
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
            digest = hashlib.blake2b(
                value.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES, key=self._key, person=dimension.encode()[:16]
            )
            known = self._remembered[dimension, value] = PREFIX + digest.hexdigest()
        return known

    def shown(self, dimension: str, value: str) -> str:
        """A value as it is stored and shown."""
        return self.hash(dimension, value) if dimension in self.hashed else value

    def told(self, user: str) -> str:
        """The hash of a user who is named, or given as the hash that reports show."""
        return user if _HASH.fullmatch(user) else self.hash("user", user)

    def spellings(self, user: str) -> tuple[str, ...]:
        """How a user may stand in the books: by name (from while names were not hashed), or as the hash."""
        return tuple(dict.fromkeys((user, self.told(user))))

    def forget(self, forgotten: Forgotten) -> None:
        """From now on, also calls of this user that began before and are closed later name nobody."""
        place = (forgotten.account, forgotten.user)
        self._forgotten[place] = max(self._forgotten.get(place, 0), forgotten.before_unix_nano)

    def remember(self, *, before_unix_nano: int) -> None:
        """Whoever was forgotten before this moment has no open spans any more."""
        self._forgotten = {place: before for place, before in self._forgotten.items() if before >= before_unix_nano}

    @property
    def active(self) -> bool:
        """Whether anything may have to be changed."""
        return bool(self.hashed or self._forgotten)

    @property
    def forgets(self) -> bool:
        """Whether there is anybody whose open calls name nobody."""
        return bool(self._forgotten)

    def applied(self, charges: Sequence[Charge], received: Mapping[tuple[bytes, bytes], int] = NOT_KNOWN) -> tuple[Charge, ...]:
        """The charges as they may be kept.

        `received`: when a span came, by trace and span id. A client's clock may be ahead of ours, so a call that says that it began after
        its user was forgotten may have come before.
        """
        return tuple([self._applied(charge, received) for charge in charges])

    def source(self, key: tuple[str, ...]) -> tuple[str, ...]:
        """The key of a cumulative source as it may be kept."""
        if "session" not in self.hashed or len(key) <= _SESSION_OF_SOURCE or not key[_SESSION_OF_SOURCE]:
            return key
        return (*key[:_SESSION_OF_SOURCE], self.hash("session", key[_SESSION_OF_SOURCE]), *key[_SESSION_OF_SOURCE + 1 :])

    def sources(self, values: Mapping[tuple[str, ...], tuple[int, ...]]) -> dict[tuple[str, ...], tuple[int, ...]]:
        """Last values under the keys that may be kept."""
        return {self.source(key): numbers for key, numbers in values.items()}

    def _applied(self, charge: Charge, received: Mapping[tuple[bytes, bytes], int]) -> Charge:
        changed: dict[str, str | None] = {}
        for dimension in self.hashed:
            value = getattr(charge, dimension)
            if value is not None:
                changed[dimension] = self.hash(dimension, value)
        if self._forgotten and charge.user is not None and self._is_forgotten(charge, received):
            changed["user"] = None
        return charge._replace(**changed) if changed else charge  # type: ignore[arg-type]  # the names are those of dimensions

    def _is_forgotten(self, charge: Charge, received: Mapping[tuple[bytes, bytes], int]) -> bool:
        assert charge.user is not None
        told = self.hash("user", charge.user)
        found = (self._forgotten.get((account, told), 0) for account in ("", charge.account))
        began = charge.start_unix_nano
        return min(began, received.get((charge.trace_id, charge.span_id), began)) < max(found)
