"""How things are, in one small answer that a page may ask for every few seconds (`GET /api/v1/overview`).

It is cheap and bounded whatever the daemon holds: each list has LISTED rows at most, the ones that want attention first, beside the number
of all; it is put together in slices, once a second at most, however many pages ask. What calls cost by any dimension and hour is not in
it: that is the reports' (`/api/v1/report`); `calls` tells a page whether it is worth asking for one again.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar

from receiver import __version__
from receiver.clock import Clock
from receiver.core.credit import Credit, CreditPolicy, format_sat
from receiver.core.ledger import Balance
from receiver.core.moments import rfc3339
from receiver.core.money import format_usd
from receiver.core.sources import SourceKey, SourceLine, Sources
from receiver.core.window import Window
from receiver.metrics import Metrics

#: Rows of each list: a screen of them.
LISTED: Final = 25
#: For how long an answer is given again.
FRESH_SECONDS: Final = 1.0
#: Rows that are looked at in one go: 2 ms of the loop.
_SLICE: Final = 1_000
#: The evidence for where cached tokens are counted when there is none (`core.usage.cache_mode`).
_GUESS: Final = "E4"

_Row = TypeVar("_Row")


class Ledger(Protocol):
    """Balances."""

    def balance(self, account: str) -> Balance: ...


class Terms(Protocol):
    """On what terms accounts are."""

    def policy(self, name: str) -> CreditPolicy: ...


class Wallet(Protocol):
    """The Lightning side (`admin.credit.CreditOffice`)."""

    @property
    def up(self) -> bool | None: ...
    def invoices(self) -> dict[str, int]: ...


class Money(Protocol):
    """The books and who has to do with them (`offices.Offices`)."""

    @property
    def ledger(self) -> Ledger: ...
    @property
    def register(self) -> Terms: ...
    @property
    def credit(self) -> Credit: ...
    @property
    def desk(self) -> Wallet | None: ...
    def accounts(self) -> Mapping[str, int]: ...
    @property
    def audited(self) -> tuple[bool, int] | None:
        """Whether the books added up when they last were, and when that was (Unix nanoseconds); None before the first time."""


class Overview:
    """Looks at everything. One event loop owns it."""

    def __init__(
        self,
        *,
        ready: Callable[[], tuple[bool, str]],
        waiting: Callable[[int], Sequence[Mapping[str, Any]]],
        window: Window,
        provisional_pusd: Callable[[], int],
        metrics: Metrics,
        sources: Sources,
        money: Money,
        backend: str,
        clock: Clock,
    ) -> None:
        """`waiting`: rows of the oldest open traces; `backend`: the wallet's kind (`lightning.backend`)."""
        self._ready = ready
        self._waiting = waiting
        self._window = window
        self._provisional_pusd = provisional_pusd
        self._metrics = metrics
        self._sources = sources
        self._money = money
        self._backend = backend
        self._clock = clock
        self._at = -math.inf  #: monotonic seconds
        self._last: dict[str, Any] = {}
        self._alone = asyncio.Lock()

    async def shown(self) -> dict[str, Any]:
        """The answer, at most FRESH_SECONDS old. Its shape is `Overview` in `openapi.json`."""
        async with self._alone:
            if self._clock.monotonic() - self._at >= FRESH_SECONDS:
                self._last = await self._look()
                self._at = self._clock.monotonic()
            return self._last

    async def _look(self) -> dict[str, Any]:
        is_ready, reason = self._ready()
        calls, cost_pusd = self._metrics.sums()
        return {
            "at": rfc3339(self._clock.unix_nano()),
            "version": __version__,
            "ready": is_ready,
            "reason": reason,
            "calls": calls,
            "cost_pusd": cost_pusd,
            "cost_usd": format_usd(cost_pusd),
            "spans": {
                name: int(self._metrics.exact(f"receiver_{name}_spans"))
                for name in ("accepted", "duplicate", "late", "refused", "rejected")
            },
            "open": self._open(),
            "unpriced": await self._unpriced(),
            "sources": await self._senders(),
            "accounts": await self._accounts(),
            "lightning": self._lightning(),
            "books": self._books(),
        }

    def _open(self) -> dict[str, Any]:
        window, pusd = self._window, self._provisional_pusd()
        return {
            "traces": window.traces,
            "spans": window.spans,
            "bytes": window.bytes,
            "oldest_seconds": round(window.oldest_age(now=self._clock.monotonic()), 3),
            "provisional_pusd": pusd,
            "provisional_usd": format_usd(pusd),
            "rows": list(self._waiting(LISTED)),
        }

    async def _unpriced(self) -> dict[str, Any]:
        """Models that have no price, and calls that show no usage: the most calls first."""
        rows = self._metrics.unpriced()
        shown = await _first(rows, lambda row: (-row[1], row[0]))
        return {
            "total": len(rows),
            "calls": sum([calls for _, calls, _ in rows]),
            "rows": [
                {"account": account, "model": model, "reason": reason, "calls": calls, "tokens": tokens}
                for (account, model, reason), calls, tokens in shown
            ],
        }

    async def _senders(self) -> dict[str, Any]:
        """Who sends, and what that lacks: those that lack most first."""
        lines = self._sources.lines()
        lacking = 0
        for at in range(0, len(lines), _SLICE):
            lacking += sum([any(_lacks(line).values()) for _, line in lines[at : at + _SLICE]])
            await asyncio.sleep(0)
        shown = await _first(lines, _most_lacking)
        return {
            "total": len(lines),
            "lacking": lacking,
            "rows": [
                {
                    "account": account,
                    "service": service or None,
                    "scope": scope or None,
                    "version": version or None,
                    "spans": line.spans,
                    "calls": line.calls,
                    "lacks": _lacks(line),
                    "last_seen": rfc3339(line.last_seen_unix_nano) if line.last_seen_unix_nano else None,
                }
                for (account, service, scope, version), line in shown
            ],
        }

    async def _accounts(self) -> dict[str, Any]:
        """Those that run dry first, then the ones that spent most."""
        money, now = self._money, self._clock.monotonic()
        ledger, credit, register = money.ledger, money.credit, money.register

        def urgency(name: str) -> tuple[float, int, str]:
            runway = credit.runway_seconds(name, now=now) if register.policy(name).enforce else math.inf
            return runway, -ledger.balance(name).debits_msat, name

        names = list(money.accounts())
        rows = []
        for name in await _first(names, urgency):
            balance, policy, runway = ledger.balance(name), register.policy(name), credit.runway_seconds(name, now=now)
            price = policy.price_per_span_msat
            rows.append(
                {
                    "account": name,
                    "enabled": policy.enabled,
                    "enforce": policy.enforce,
                    "balance_msat": balance.posted_msat,
                    "balance_sat": format_sat(balance.posted_msat).replace(",", ""),
                    "spans_left": max(0, balance.available_msat) // price if price else None,
                    "runway_seconds": None if math.isinf(runway) else round(runway),
                }
            )
        return {"total": len(names), "rows": rows}

    def _lightning(self) -> dict[str, Any]:
        desk = self._money.desk
        return {
            "backend": self._backend,
            "up": None if desk is None else desk.up,
            "play_money": self._backend == "dev",
            "invoices": {} if desk is None else desk.invoices(),
        }

    def _books(self) -> dict[str, Any]:
        audited = self._money.audited
        return {"balanced": None, "audited": None} if audited is None else {"balanced": audited[0], "audited": rfc3339(audited[1])}


def _lacks(line: SourceLine) -> dict[str, int]:
    """What is missing in what a source sends, as numbers of calls (and of spans where none of them is a model call); 0: nothing."""
    return {
        "model_calls": line.spans if not line.calls and not line.calls_without_usage else 0,
        "usage": line.calls_without_usage,
        "cache_evidence": sum([calls for (_, evidence), calls in line.cache_modes.items() if evidence == _GUESS]),
    }


def _most_lacking(row: tuple[SourceKey, SourceLine]) -> tuple[Any, ...]:
    key, line = row
    lacks = _lacks(line)
    return -lacks["usage"], -lacks["cache_evidence"], -lacks["model_calls"], -line.calls, key


async def _first(rows: Sequence[_Row], key: Callable[[_Row], Any]) -> Iterable[_Row]:
    """The LISTED first ones in order, without holding the loop for long."""
    found: list[_Row] = []
    for at in range(0, len(rows), _SLICE):
        found = heapq.nsmallest(LISTED, [*found, *rows[at : at + _SLICE]], key=key)
        await asyncio.sleep(0)
    return found
