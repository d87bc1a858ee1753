"""A wallet without a node: real signed BOLT-11 invoices on regtest, paid by a command, so that the whole loop runs anywhere.

**What it holds is not money.** Whoever reaches `pay` can settle any invoice of it, so it must not meter strangers: off loopback it
refuses to serve unless it is told to (`check_exposure`).

It answers as LND does where that is known: an expired invoice is CANCELED, a settled one cannot be paid twice, too little is
refused, more is accepted, and subscribers hear of settlements by a growing index that can be replayed.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from receiver.clock import Clock
from receiver.config import is_loopback
from receiver.core.invoices import SECOND_NANO, NodeState
from receiver.errors import ConfigError
from receiver.lightning import bolt11, secp256k1
from receiver.lightning.client import Hint, Invoice, Node, NodeRefused

NETWORK: Final = "regtest"
VERSION: Final = "spantoll dev wallet"
#: BOLT #9: a payer must know onions with a payload of any length (8) and must send the payment secret (14).
_FEATURES: Final = 1 << 8 | 1 << 14
_MIN_FINAL_CLTV_EXPIRY: Final = 80  # as LND asks
#: The name under which the signing key is kept; an invoice is kept under its payment hash.
_KEY: Final = "key"


class Shelf(Protocol):
    """Where the wallet keeps its key and its invoices: short texts by name. A store has one table for it."""

    def load(self) -> Awaitable[Mapping[str, str]]:
        """Everything that was kept."""

    def keep(self, name: str, text: str) -> Awaitable[None]:
        """Keep `text`, in place of an earlier one of this name; resolves when it is durable."""


class MemoryShelf:
    """A shelf that dies with its process."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    async def load(self) -> Mapping[str, str]:
        return dict(self._texts)

    async def keep(self, name: str, text: str) -> None:
        self._texts[name] = text


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """One invoice as the wallet keeps it."""

    preimage: bytes = field(repr=False)
    bolt11: str
    amount_msat: int
    expires_unix_nano: int
    received_msat: int = 0
    settled_unix_nano: int = 0
    settle_index: int = 0  #: 1, 2, 3 ... in the order of settlement; 0: not settled

    @property
    def payment_hash(self) -> bytes:
        return hashlib.sha256(self.preimage).digest()

    def to_text(self) -> str:
        return json.dumps(
            {
                "preimage": self.preimage.hex(),
                "bolt11": self.bolt11,
                "amount_msat": self.amount_msat,
                "expires_unix_nano": self.expires_unix_nano,
                "received_msat": self.received_msat,
                "settled_unix_nano": self.settled_unix_nano,
                "settle_index": self.settle_index,
            }
        )

    @classmethod
    def of_text(cls, text: str) -> _Kept:
        found = json.loads(text)
        return cls(**found | {"preimage": bytes.fromhex(found["preimage"])})


class DevWallet:
    """A `LightningClient` that is its own node. One event loop owns it."""

    name = "dev"

    def __init__(self, *, secret: int, shelf: Shelf, clock: Clock, entropy: Callable[[int], bytes], kept: Iterable[_Kept] = ()) -> None:
        """Use `open`, which finds key and invoices on the shelf."""
        self._secret = secret
        self._shelf = shelf
        self._clock = clock
        self._entropy = entropy
        self._invoices = {invoice.payment_hash: invoice for invoice in kept}
        self._last_index = max((invoice.settle_index for invoice in self._invoices.values()), default=0)
        self._turn = asyncio.Lock()  # payments one by one: indices become durable in their order, and none is paid twice
        self._subscribers: set[asyncio.Queue[Hint]] = set()
        self._payee = secp256k1.public_key(secret).hex()

    @classmethod
    async def open(cls, shelf: Shelf, clock: Clock, *, entropy: Callable[[int], bytes] = secrets.token_bytes) -> DevWallet:
        """The wallet of this shelf; the first time it makes its key."""
        texts = dict(await shelf.load())
        text = texts.pop(_KEY, None)
        if text is None:
            secret = 1 + int.from_bytes(entropy(40)) % (secp256k1.N - 1)  # 64 bits to spare: no key is likelier than another
            await shelf.keep(_KEY, f"{secret:064x}")
        else:
            secret = int(text, 16)
        return cls(secret=secret, shelf=shelf, clock=clock, entropy=entropy, kept=[_Kept.of_text(text) for text in texts.values()])

    async def node(self) -> Node:
        return Node(payee=self._payee, network=NETWORK, version=VERSION)

    async def create(self, *, amount_msat: int, description: str, expiry_seconds: int, description_hash: bytes | None = None) -> Invoice:
        if amount_msat <= 0 or expiry_seconds <= 0:
            raise NodeRefused("an invoice of the dev wallet has an amount and an expiry above 0")
        preimage, now_unix_nano = self._entropy(32), self._clock.unix_nano()
        timestamp = now_unix_nano // SECOND_NANO
        text = bolt11.encode(
            secret=self._secret,
            network=NETWORK,
            amount_msat=amount_msat,
            timestamp=timestamp,
            payment_hash=hashlib.sha256(preimage).digest(),
            description=description_hash or description.encode()[: bolt11.MAX_DESCRIPTION_BYTES].decode(errors="ignore"),
            payment_secret=self._entropy(32),
            expiry_seconds=expiry_seconds,
            min_final_cltv_expiry=_MIN_FINAL_CLTV_EXPIRY,
            features=_FEATURES,
        )
        expires_unix_nano = (timestamp + expiry_seconds) * SECOND_NANO
        invoice = _Kept(preimage=preimage, bolt11=text, amount_msat=amount_msat, expires_unix_nano=expires_unix_nano)
        await self._keep(invoice)
        return self._shown(invoice)

    async def lookup(self, payment_hash: bytes) -> Invoice:
        invoice = self._invoices.get(payment_hash)
        if invoice is None:
            return Invoice(payment_hash=payment_hash, bolt11="", state=NodeState.UNKNOWN)
        return self._shown(invoice)

    @asynccontextmanager
    async def subscribe(self, cursor: str | None) -> AsyncIterator[AsyncIterator[Hint]]:
        queue: asyncio.Queue[Hint] = asyncio.Queue()
        if cursor is not None:
            since = int(cursor)
            backlog = [invoice for invoice in self._invoices.values() if invoice.settle_index > since]
            for invoice in sorted(backlog, key=lambda invoice: invoice.settle_index):
                queue.put_nowait(Hint(invoice.payment_hash, str(invoice.settle_index)))
        self._subscribers.add(queue)
        try:
            yield _stream(queue)
        finally:
            self._subscribers.discard(queue)

    async def close(self) -> None:
        """Nothing is held open."""

    async def pay(self, text: str, *, amount_msat: int | None = None) -> bytes:
        """Settle one of its own invoices, as a payer would (`amount_msat`: more than was asked), and return the preimage.

        Raises:
            NodeRefused: it is not of this wallet, was paid before, has expired, or the amount is too small.
            MalformedInvoice: the text is no invoice.
        """
        asked = bolt11.decode(text)
        async with self._turn:
            invoice = self._invoices.get(asked.payment_hash)
            if invoice is None or asked.payee != self._payee:
                raise NodeRefused("the dev wallet pays its own invoices only, and this is not one of them")
            if invoice.settle_index:
                raise NodeRefused("this invoice is already paid")
            if self._clock.unix_nano() >= invoice.expires_unix_nano:
                raise NodeRefused("this invoice has expired: ask for a new one")
            received_msat = invoice.amount_msat if amount_msat is None else amount_msat
            if received_msat < invoice.amount_msat:
                raise NodeRefused(f"this invoice asks for {invoice.amount_msat:,} msat, {received_msat:,} are too little")
            self._last_index += 1
            settled = replace(
                invoice, received_msat=received_msat, settled_unix_nano=self._clock.unix_nano(), settle_index=self._last_index
            )
            await self._keep(settled)
        for queue in self._subscribers:
            queue.put_nowait(Hint(asked.payment_hash, str(settled.settle_index)))
        return settled.preimage

    async def _keep(self, invoice: _Kept) -> None:
        """Durable first, then known: what a lookup has told is still so after a crash."""
        await self._shelf.keep(invoice.payment_hash.hex(), invoice.to_text())
        self._invoices[invoice.payment_hash] = invoice

    def _shown(self, invoice: _Kept) -> Invoice:
        if not invoice.settle_index:
            expired = self._clock.unix_nano() >= invoice.expires_unix_nano
            state = NodeState.CANCELED if expired else NodeState.OPEN
            return Invoice(payment_hash=invoice.payment_hash, bolt11=invoice.bolt11, state=state)
        return Invoice(
            payment_hash=invoice.payment_hash,
            bolt11=invoice.bolt11,
            state=NodeState.SETTLED,
            received_msat=invoice.received_msat,
            settled_unix_nano=invoice.settled_unix_nano,
            preimage=invoice.preimage,
        )


async def _stream(queue: asyncio.Queue[Hint]) -> AsyncIterator[Hint]:
    while True:
        yield await queue.get()


def check_exposure(hosts: Iterable[str], *, allow_off_loopback: bool) -> str | None:
    """What must be said loudly before the dev wallet serves on these listeners, None when all are loopback.

    Raises:
        ConfigError: one is not, and nobody allowed it.
    """
    exposed = sorted({host for host in hosts if not is_loopback(host)})
    if not exposed:
        return None
    where = ", ".join(exposed)
    if not allow_off_loopback:
        problem = f'lightning.backend: "dev" is not money, and {where} is reached from other machines; name a real node, set it to "off"'
        raise ConfigError([f"{problem} (no top-ups), or say lightning.dev.allow_off_loopback = true"])
    return f"the dev wallet serves off loopback ({where}): its invoices are play money, and whoever may pay there has free credit"
