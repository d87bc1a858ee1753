"""How many bytes of requests may be in flight at once: the bound that keeps a flood from becoming an out-of-memory kill.

A request holds what it has sent so far (or announced), and after inflation what it came to, from its headers until its answer.
What does not fit is refused at once and politely, never queued: a queue of bytes is the memory that it was meant to save.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from receiver.errors import Overloaded

#: A refusal for memory passes as soon as others are answered, so the delay is the shortest that HTTP's whole seconds can say.
MEMORY_RETRY_SECONDS: Final = 1.0


class InFlight:
    """The in-flight byte budget of the whole daemon, and optionally of each account.

    `limit_bytes` is for all requests together and must be at least the largest legal request, else that one is refused forever
    (the configuration is checked for it). `account_limit_bytes(account)` keeps one account from filling it alone; None: no own limit.
    It is asked anew each time, so an operator can change it; what is in flight then may stay over it.
    """

    __slots__ = ("_account_limit", "_by_account", "_limit", "_peak", "_total")

    def __init__(self, limit_bytes: int, *, account_limit_bytes: Callable[[str], int | None] = lambda _: None) -> None:
        assert limit_bytes > 0
        self._limit = limit_bytes
        self._account_limit = account_limit_bytes
        self._total = 0
        self._peak = 0
        self._by_account: dict[str, int] = {}

    def reserve(self, account: str, size: int) -> None:
        """Hold `size` more bytes for `account`; when they do not fit raises Overloaded("memory") and holds nothing more."""
        assert size >= 0
        total = self._total + size
        held = self._by_account.get(account, 0) + size
        if total > self._limit:
            raise self._refusal("all requests", self._total, self._limit, size)
        own = self._account_limit(account)
        if own is not None and held > own:
            raise self._refusal(f"account {account!r}", held - size, own, size)
        self._total = total
        self._by_account[account] = held
        self._peak = max(self._peak, total)

    def release(self, account: str, size: int) -> None:
        """Give back `size` bytes that `reserve` granted to `account`."""
        held = self._by_account.get(account, 0) - size
        assert size >= 0
        assert held >= 0, f"account {account!r} gave back more bytes than it held"
        self._total -= size
        if held:
            self._by_account[account] = held
        else:
            self._by_account.pop(account, None)  # accounts come and go: an idle one costs nothing

    def held(self, account: str | None = None) -> int:
        """Bytes in flight now: of one account, or of all."""
        return self._total if account is None else self._by_account.get(account, 0)

    @property
    def peak(self) -> int:
        """The most bytes that were ever in flight at once."""
        return self._peak

    @staticmethod
    def _refusal(whose: str, held: int, limit: int, size: int) -> Overloaded:
        return Overloaded(
            reason="memory",
            retry_after_seconds=MEMORY_RETRY_SECONDS,
            detail=f"the receiver has no memory for this request just now: {held:,} of {limit:,} bytes of {whose} are in flight, "
            f"{size:,} more do not fit: send again in {MEMORY_RETRY_SECONDS:g} s",
        )
