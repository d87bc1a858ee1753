"""What Spantoll asks of a Lightning node: make an invoice, look one up, say when something may have been paid. Nothing else.

There is no call that pays, so the daemon's credential need not be able to spend, and who breaks in cannot empty the wallet.

Rule 1: `lookup` is the truth. `subscribe` only makes us look sooner: every node's push loses, doubles or reorders events.
Rule 2: an adapter translates its node's errors into the two below, by whether waiting can mend them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from receiver.core.invoices import NodeState
from receiver.errors import ReceiverError


class NodeUnavailable(ReceiverError):
    """The node gave no answer, or said that it is not ready. It may be well a moment later; nothing is lost meanwhile."""


class NodeRefused(ReceiverError):
    """The node understood and refuses: a wrong credential, a missing right, an amount that it does not take. Somebody must act."""


class WrongInvoice(ReceiverError):
    """What the node returned is not what it was asked for. It is shown to nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """Who answers at the other end."""

    payee: str  #: public key in hex: what signs its invoices
    network: str  #: "bitcoin", "testnet", "signet", "regtest"
    version: str  #: as it calls itself
    ready: bool = True  #: whether it follows the chain: an invoice of one that does not cannot be paid yet


@dataclass(frozen=True, slots=True, kw_only=True)
class Invoice:
    """What a node says about one of its invoices."""

    payment_hash: bytes
    bolt11: str
    state: NodeState
    received_msat: int = 0  #: what came in, once SETTLED; 0 when it does not say
    settled_unix_nano: int = 0  #: 0 when it does not say
    preimage: bytes = field(default=b"", repr=False)  #: some nodes show it before it is paid: it goes nowhere then


@dataclass(frozen=True, slots=True)
class Hint:
    """Something may have happened to this invoice; look. May be lost, come twice, late or out of order, and be of another application."""

    payment_hash: bytes
    cursor: str | None = None  #: where to go on after it; None when the node has none, or its backlog is not all sent yet


class LightningClient(Protocol):
    """A node. Every call raises NodeUnavailable or NodeRefused, and has its own deadline."""

    name: str  #: the adapter, for logs

    async def node(self) -> Node:
        """Who it is. Also the health check; kept off the way of credit, since nodes hang in it when their chain backend is gone."""

    async def create(self, *, amount_msat: int, description: str, expiry_seconds: int, description_hash: bytes | None = None) -> Invoice:
        """A new invoice over a fixed amount. With `description_hash` (32 bytes) it says that in place of the description."""

    async def lookup(self, payment_hash: bytes) -> Invoice:
        """What it says of an invoice; `state` is UNKNOWN, and all else empty, for one that it does not know."""

    def subscribe(self, cursor: str | None) -> AbstractAsyncContextManager[AsyncIterator[Hint]]:
        """The stream of hints from `cursor` on (None: from now). Once entered, the node is listening as far as it can be told.

        Ends, or raises NodeUnavailable, when the connection does.
        """

    async def close(self) -> None:
        """Give back connections."""
