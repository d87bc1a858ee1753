"""From "I want credit" to an invoice that can be shown: asked for once, checked, and kept before anyone sees it.

Refused requests never come here: exporters retry, and each retry would mint an invoice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from receiver.clock import Clock
from receiver.core.credit import format_sat
from receiver.core.invoices import MSAT_PER_SAT, SECOND_NANO, InvoiceState, TopUp, TopUps, payable, reusable
from receiver.errors import ReceiverError
from receiver.lightning import bolt11
from receiver.lightning.client import Invoice, LightningClient, Node, NodeUnavailable, WrongInvoice

#: A node's clock may differ from ours by this much before its invoice counts as a wrong one.
CLOCK_SKEW_SECONDS: Final = 300
#: How many of an account's newest top-ups are searched for one to use again: more than can be payable at once.
_SEARCHED: Final = 100


class TopUpRefused(ReceiverError):
    """A top-up that is not made; `reason` is stable: "amount" or "too_many"."""

    def __init__(self, reason: str, sentence: str) -> None:
        self.reason = reason
        super().__init__(sentence)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopUpLimits:
    """What the operator decided about top-ups."""

    least_msat: int = 100 * MSAT_PER_SAT
    most_msat: int = 1_000_000 * MSAT_PER_SAT
    expiry_seconds: int = 3_600
    max_payable: int = 8  #: invoices of one account that can be paid at once

    def __post_init__(self) -> None:
        assert 0 < self.least_msat <= self.most_msat
        assert self.max_payable < _SEARCHED


class TopUpDesk:
    """Makes top-ups. One event loop owns it."""

    def __init__(
        self, *, client: LightningClient, topups: TopUps, clock: Clock, watch: Callable[[TopUp], None], limits: TopUpLimits | None = None
    ) -> None:
        """`watch`: told of every new top-up (`Watcher.watch`)."""
        self._client = client
        self._topups = topups
        self._clock = clock
        self._watch = watch
        self._limits = limits or TopUpLimits()
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    async def request(self, account: str, amount_msat: int) -> TopUp:
        """An invoice over `amount_msat` for `account`: the open one of that amount while it has life left, else a new one.

        Raises:
            TopUpRefused: the amount is not allowed, or too many of the account's invoices are unpaid.
            NodeUnavailable, NodeRefused, WrongInvoice: nothing was made that can be paid.
        """
        self._check_amount(amount_msat)
        async with self._alone(account):  # two requests at once are one invoice
            node = await self._client.node()
            rows = [row for row in await self._topups.of_account(account, limit=_SEARCHED) if not self._of_stranger(row)]
            now_unix_nano = self._clock.unix_nano()
            found = reusable(rows, amount_msat=amount_msat, network=node.network, payee=node.payee, now_unix_nano=now_unix_nano)
            if found is not None:
                return found
            self._check_payable(account, rows)
            return await self._new(node, amount_msat, lambda _: account, f"Spantoll credit for {account}")

    async def request_by_stranger(self, account: str, amount_msat: int, *, description: str, description_hash: bytes) -> TopUp:
        """A new invoice for `account` that somebody asked for who need not be its owner; it says the hash of what he was told.

        What is open of these takes nothing from what the account itself may have open, and is never shown to it as its own.

        Raises:
            As `request`.
        """
        self._check_amount(amount_msat)
        async with self._alone(account):
            node = await self._client.node()
            rows = await self._topups.of_account(account, limit=_SEARCHED)
            self._check_payable(account, [row for row in rows if self._of_stranger(row)])
            return await self._new(node, amount_msat, lambda _: account, description, description_hash)

    async def request_for_new(self, amount_msat: int, account: Callable[[bytes], str], *, description: str) -> TopUp:
        """A new invoice for an account that is named after its payment hash. Raises as `request`."""
        self._check_amount(amount_msat)
        return await self._new(await self._client.node(), amount_msat, account, description)

    def _check_amount(self, amount_msat: int) -> None:
        limits = self._limits
        if not limits.least_msat <= amount_msat <= limits.most_msat or amount_msat % MSAT_PER_SAT:
            least, most = format_sat(limits.least_msat), format_sat(limits.most_msat)
            raise TopUpRefused("amount", f"a top-up is {least} to {most} whole satoshis, {format_sat(amount_msat)} is not")

    def _check_payable(self, account: str, rows: Iterable[TopUp]) -> None:
        most = self._limits.max_payable
        if payable(rows, now_unix_nano=self._clock.unix_nano()) >= most:
            raise TopUpRefused("too_many", f"account {account!r} has {most} unpaid invoices: pay one, or wait until they expire")

    def _of_stranger(self, row: TopUp) -> bool:
        """Whether it may count against what is open, and was made by `request_by_stranger`."""
        return row.state is InvoiceState.OPEN and row.expires_unix_nano > self._clock.unix_nano() and by_stranger(row.bolt11)

    async def _new(
        self, node: Node, amount_msat: int, account: Callable[[bytes], str], description: str, description_hash: bytes | None = None
    ) -> TopUp:
        """`account`: from the payment hash."""
        if not node.ready:
            raise NodeUnavailable("the Lightning node does not follow the chain yet, so nobody could pay: try again later")
        expiry_seconds = self._limits.expiry_seconds
        made = await self._client.create(
            amount_msat=amount_msat, description=description, expiry_seconds=expiry_seconds, description_hash=description_hash
        )
        now_unix_nano = self._clock.unix_nano()
        said = _checked(
            made,
            node,
            amount_msat=amount_msat,
            expiry_seconds=expiry_seconds,
            description_hash=description_hash,
            now_unix_nano=now_unix_nano,
        )
        row = TopUp(
            payment_hash=made.payment_hash,
            account=account(made.payment_hash),
            bolt11=made.bolt11,
            amount_msat=amount_msat,
            network=node.network,
            payee=said.payee,
            created_unix_nano=now_unix_nano,
            expires_unix_nano=said.expires_unix * SECOND_NANO,
        )
        await self._topups.add(row)
        self._watch(row)
        return row

    def _alone(self, account: str) -> AbstractAsyncContextManager[None]:
        return _Turn(self._locks, account)


class _Turn:
    """One at a time for each account; an account that nobody waits for costs nothing."""

    def __init__(self, locks: dict[str, tuple[asyncio.Lock, int]], account: str) -> None:
        self._locks = locks
        self._account = account

    async def __aenter__(self) -> None:
        lock, users = self._locks.get(self._account, (asyncio.Lock(), 0))
        self._locks[self._account] = (lock, users + 1)
        try:
            await lock.acquire()
        except BaseException:
            self._leave()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._locks[self._account][0].release()
        self._leave()

    def _leave(self) -> None:
        lock, users = self._locks[self._account]
        if users > 1:
            self._locks[self._account] = (lock, users - 1)
        else:
            del self._locks[self._account]


@lru_cache(4_096)
def by_stranger(text: str) -> bool:
    """Whether an invoice of ours was asked for by somebody who need not own its account: those alone hold a hash for a description."""
    try:
        return bolt11.decode(text).description_hash is not None
    except bolt11.MalformedInvoice:
        return False


def _checked(
    made: Invoice, node: Node, *, amount_msat: int, expiry_seconds: int, description_hash: bytes | None, now_unix_nano: int
) -> bolt11.Bolt11:
    """What the returned invoice says, once it says what was asked for; raises WrongInvoice."""
    try:
        said = bolt11.decode(made.bolt11)
    except bolt11.MalformedInvoice as error:
        raise WrongInvoice(f"the Lightning node returned no invoice: {error}") from error
    asked: dict[str, tuple[object, object]] = {
        "network": (said.network, node.network),
        "amount in msat": (said.amount_msat, amount_msat),
        "payment hash": (said.payment_hash.hex(), made.payment_hash.hex()),
        "node": (said.payee, node.payee),
        "expiry in seconds": (said.expiry_seconds, expiry_seconds),
    }
    if description_hash is not None:  # payers compare it with what they were told, and do not pay another
        asked["description hash"] = (said.description_hash and said.description_hash.hex(), description_hash.hex())
    for what, (found, wanted) in asked.items():
        if found != wanted:
            raise WrongInvoice(
                f"the Lightning node returned an invoice with another {what} than was asked for: {found} instead of {wanted}"
            )
    skew_seconds = said.timestamp - now_unix_nano // SECOND_NANO
    if abs(skew_seconds) > CLOCK_SKEW_SECONDS:
        raise WrongInvoice(f"the clocks of the Lightning node and of this machine differ by {abs(skew_seconds):,} s: set them right")
    return said
