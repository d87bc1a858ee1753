"""Invoices that anyone may ask for, without a credential: how often, and how many can be open at once.

Each asks a node for work and keeps a row for good, so who asks is held back twice: by his address, and by what all strangers have open
together. The second bound holds against someone with many addresses: he
can keep others waiting until his invoices expire, and no more.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from receiver.clock import Clock
from receiver.core.invoices import TopUp
from receiver.core.rates import Buckets
from receiver.errors import TooManyRequests

_HOUR_SECONDS: Final = 3_600.0
#: When all slots are taken: one becomes free whenever an invoice is paid or expires, which nobody knows before.
_FULL_RETRY_SECONDS: Final = 60.0
#: Of an IPv6 address: a customer of an internet provider has at least so many addresses, all his own.
_V6_PREFIX: Final = 64


class Strangers:
    """What strangers have asked for. One event loop owns it."""

    def __init__(self, *, max_unpaid: int, per_hour: int, clock: Clock) -> None:
        """`per_hour`: invoices of one address, 0 for any number."""
        self._max_unpaid = max_unpaid
        self._buckets = Buckets(burst=per_hour, seconds=_HOUR_SECONDS) if per_hour else None
        self._clock = clock
        self._open: dict[bytes, int] = {}  #: payment hash -> Unix nanoseconds of its expiry
        self._asking = 0

    @contextmanager
    def asking(self, address: str) -> Iterator[None]:
        """Hold a place while the node is asked; `made` keeps it. Raises TooManyRequests."""
        now_unix_nano = self._clock.unix_nano()
        self._open = {payment_hash: until for payment_hash, until in self._open.items() if until > now_unix_nano}
        if len(self._open) + self._asking >= self._max_unpaid:
            raise TooManyRequests(
                f"{self._max_unpaid:,} invoices wait for strangers' payments, which is as many as this daemon allows: try again later",
                retry_after_seconds=_FULL_RETRY_SECONDS,
            )
        wait_seconds = 0.0 if self._buckets is None else self._buckets.take(network_of(address), now=self._clock.monotonic())
        if wait_seconds:
            raise TooManyRequests(
                f"too many invoices were asked for from this address: try again in {wait_seconds:,.0f} s", retry_after_seconds=wait_seconds
            )
        self._asking += 1
        try:
            yield
        finally:
            self._asking -= 1

    def made(self, topup: TopUp) -> None:
        """An invoice was given to a stranger."""
        self.waits(topup.payment_hash, topup.expires_unix_nano)

    def waits(self, payment_hash: bytes, expires_unix_nano: int) -> None:
        """An invoice that an earlier process gave still waits."""
        self._open[payment_hash] = expires_unix_nano

    def paid(self, payment_hash: bytes) -> None:
        """It waits for nobody any more."""
        self._open.pop(payment_hash, None)


def network_of(address: str) -> str:
    """Whom an address stands for: of IPv4 itself, of IPv6 its network of 64 bits."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, _V6_PREFIX), strict=False))
