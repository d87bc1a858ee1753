"""Tells the operator's own server when an account runs low, and when it is refused for want of credit.

Written as Standard Webhooks has it (github.com/standard-webhooks/standard-webhooks), so that its libraries verify it: the headers
`webhook-id`, `webhook-timestamp` and `webhook-signature`, which is `v1,` and the base64 of HMAC-SHA256 over "id.timestamp.body".

An event is delivered at least once. It waits in memory while its receiver fails, longer and longer up to an hour and for a day in all;
should the process end meanwhile, the next one finds the account as it is and says it again. An id is made of what it tells, so the same
fall of the same balance has the same id each time, whoever says it, and a receiver can tell what it has heard.

Spans are never kept waiting: telling is putting into a queue, which has a bound. Nothing but the configured URL is ever called: no
redirect is followed, no proxy of the environment asked, and nothing of an answer is read but its status.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import heapq
import hmac
import itertools
import json
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from receiver.clock import Clock
from receiver.core.credit import CreditPolicy, LowBalance
from receiver.core.ledger import Balance
from receiver.core.moments import rfc3339
from receiver.errors import ConfigError

if TYPE_CHECKING:
    import random

log = logging.getLogger(__name__)

LOW: Final = "credit.low"
EXHAUSTED: Final = "credit.exhausted"

#: One try, from the connection to the status: a receiver that needs longer is to answer first and work afterwards.
TRY_SECONDS: Final = 10.0
#: Waits between tries: 5, 10, 20 ... seconds up to an hour, each spread by JITTER; 32 tries are about a day.
FIRST_WAIT_SECONDS: Final = 5.0
LONGEST_WAIT_SECONDS: Final = 3_600.0
JITTER: Final = 0.2
MOST_TRIES: Final = 32
#: Events that wait. Each account has a few at most, so more are of a receiver that has been gone for long.
MAX_WAITING: Final = 1_000
#: Ids that are remembered, so that what this process has told already is not told again.
MAX_REMEMBERED: Final = 10_000

_PREFIX: Final = "whsec_"
#: As short a secret as is not worth guessing (Standard Webhooks asks for 24 bytes).
_LEAST_SECRET: Final = 24


@dataclass(frozen=True, slots=True)
class Event:
    """What is told."""

    id: str
    body: bytes
    tries: int = 0

    def after_try(self) -> Event:
        return Event(self.id, self.body, self.tries + 1)


class Webhook:
    """The receiver, and what it has not heard yet. One event loop owns it."""

    def __init__(
        self,
        url: str,
        secret: bytes,
        *,
        topup_url: Callable[[], str],
        clock: Clock,
        rng: random.Random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`secret`: as `read_secret` gives it. `topup_url`: where people pay."""
        self._url = url
        self._secret = secret
        self._topup_url = topup_url
        self._clock = clock
        self._rng = rng
        self._sleep = sleep
        self._due: list[tuple[float, int, Event]] = []  #: a heap by monotonic seconds
        self._numbers = itertools.count()
        self._told: OrderedDict[str, None] = OrderedDict()
        self._wake = asyncio.Event()
        #: told how each try ended: "delivered", "failed" (it is tried again), "given_up", "dropped" (too many wait)
        self.count: Callable[[str], None] = lambda _: None

    def low(self, low: LowBalance, balance: Balance) -> None:
        """A balance passed a mark on its way down."""
        self._tell(LOW, low.account, balance, mark_msat=low.mark_msat)

    def exhausted(self, account: str, balance: Balance) -> None:
        """An account is refused for want of credit."""
        self._tell(EXHAUSTED, account, balance)

    def begin(self, accounts: Iterable[tuple[str, Balance, CreditPolicy]]) -> None:
        """At the start: say again how things are, for the last process may have ended before it was heard."""
        for name, balance, policy in accounts:
            if not (policy.enforce and policy.enabled and (balance.credits_msat or balance.debits_msat)):
                continue  # nothing is refused, or nothing has ever moved
            passed = [mark for mark in policy.low_balance_marks_msat if balance.posted_msat < mark]
            if passed:
                self.low(LowBalance(name, min(passed), balance.posted_msat), balance)
            if policy.affordable(balance) == 0:
                self.exhausted(name, balance)

    async def run(self) -> None:
        """Deliver until cancelled. No answer ends it."""
        timeout = aiohttp.ClientTimeout(total=TRY_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False) as session:
            while True:
                self._wake.clear()
                if not self._due:
                    await self._wake.wait()
                    continue
                wait_seconds = self._due[0][0] - self._clock.monotonic()
                if wait_seconds > 0:
                    await self._wait(wait_seconds)
                    continue
                _, _, event = heapq.heappop(self._due)
                await self._deliver(session, event)

    async def _deliver(self, session: aiohttp.ClientSession, event: Event) -> None:
        why = await self._try(session, event)
        if why is None:
            self.count("delivered")
            return
        event = event.after_try()
        if event.tries >= MOST_TRIES:
            log.error("a webhook was not heard, and is given up after %d tries: %s", event.tries, why, extra={"id": event.id})
            self.count("given_up")
            return
        wait_seconds = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** (event.tries - 1))
        wait_seconds *= self._rng.uniform(1 - JITTER, 1 + JITTER)
        log.warning("a webhook was not heard (%s): tried again in %.0f s", why, wait_seconds, extra={"id": event.id, "tries": event.tries})
        self.count("failed")
        self._push(event, self._clock.monotonic() + wait_seconds)

    async def _try(self, session: aiohttp.ClientSession, event: Event) -> str | None:
        """One try; None when it was heard, else why not, without what the receiver says."""
        timestamp = str(self._clock.unix_nano() // 10**9)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "spantoll",
            "webhook-id": event.id,
            "webhook-timestamp": timestamp,
            "webhook-signature": signature(self._secret, event.id, timestamp, event.body),
        }
        try:
            async with session.post(self._url, data=event.body, headers=headers, allow_redirects=False) as answer:
                return None if 200 <= answer.status < 300 else f"HTTP {answer.status}"
        except TimeoutError:
            return f"no answer within {TRY_SECONDS:g} s"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return type(error).__name__

    def _tell(self, kind: str, account: str, balance: Balance, **more: Any) -> None:
        """`balance.credits_msat` is the same until money comes in, and then the next fall is another one."""
        told = json.dumps([kind, account, more, balance.credits_msat], sort_keys=True)
        event_id = f"evt_{hashlib.sha256(told.encode()).hexdigest()[:32]}"
        if event_id in self._told:
            return
        self._told[event_id] = None
        if len(self._told) > MAX_REMEMBERED:
            self._told.popitem(last=False)
        if len(self._due) >= MAX_WAITING:
            log.error("a webhook is dropped, since %d wait already", MAX_WAITING, extra={"id": event_id, "account": account})
            self.count("dropped")
            return
        data = {"account": account, "balance_msat": balance.posted_msat, "topup_url": self._topup_url(), **more}
        body = json.dumps({"type": kind, "timestamp": rfc3339(self._clock.unix_nano()), "data": data}).encode()
        self._push(Event(event_id, body), self._clock.monotonic())

    def _push(self, event: Event, at: float) -> None:
        heapq.heappush(self._due, (at, next(self._numbers), event))
        self._wake.set()

    async def _wait(self, seconds: float) -> None:
        """Until then, or until something new is told."""
        tasks = {asyncio.ensure_future(self._wake.wait()), asyncio.ensure_future(self._sleep(seconds))}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()


def signature(secret: bytes, event_id: str, timestamp: str, body: bytes) -> str:
    """The value of `webhook-signature`."""
    signed = b".".join((event_id.encode(), timestamp.encode(), body))
    return "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()


def read_secret(path: str) -> bytes:
    """The secret in a file: `whsec_` and base64, or the line as it is. Raises ConfigError."""
    at = "credit.webhook_secret_file"
    try:
        text = Path(path).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{at}: {path} cannot be read ({error})"]) from error
    secret = text.encode()
    if text.startswith(_PREFIX):
        secret = b""
        with suppress(binascii.Error, ValueError):
            secret = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    if len(secret) < _LEAST_SECRET:
        raise ConfigError([f"{at}: {path} holds no secret of at least {_LEAST_SECRET} bytes (whsec_ and base64, or a line of text)"])
    return secret
