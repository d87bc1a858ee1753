"""The wallet for trying things out, and the desk that asks a wallet for invoices."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from receiver.core.books import MemoryLedger
from receiver.core.invoices import InvoiceState, NodeState, TopUp
from receiver.errors import ConfigError
from receiver.lightning import bolt11
from receiver.lightning.client import Invoice, Node, NodeRefused, NodeUnavailable, WrongInvoice
from receiver.lightning.dev import DevWallet, MemoryShelf, check_exposure
from receiver.lightning.topups import TopUpDesk, TopUpLimits, TopUpRefused
from tests.fakes import ManualClock

SAT = 1_000


async def wallet(shelf: MemoryShelf | None = None, clock: ManualClock | None = None) -> tuple[DevWallet, ManualClock]:
    clock = clock or ManualClock()
    return await DevWallet.open(shelf or MemoryShelf(), clock), clock


async def test_an_invoice_is_real_and_hides_its_preimage() -> None:
    """What the wallet makes any BOLT-11 reader takes: regtest, the amount, its own key; the preimage comes only after payment."""
    dev, clock = await wallet()
    made = await dev.create(amount_msat=250 * SAT, description="credit for ünïcode", expiry_seconds=600)
    said = bolt11.decode(made.bolt11)
    assert (said.network, said.amount_msat, said.description) == ("regtest", 250 * SAT, "credit for ünïcode")
    assert said.payee == (await dev.node()).payee
    assert said.expires_unix == clock.unix_nano() // 10**9 + 600
    assert (made.state, made.preimage) == (NodeState.OPEN, b"")
    assert (await dev.lookup(made.payment_hash)) == made
    preimage = await dev.pay(made.bolt11.upper())
    paid = await dev.lookup(made.payment_hash)
    assert (paid.state, paid.received_msat, paid.preimage) == (NodeState.SETTLED, 250 * SAT, preimage)
    assert repr(preimage) not in repr(paid)


async def test_what_the_wallet_refuses_to_pay() -> None:
    """Twice, too late, too little, another wallet's, no invoice at all: each refused in words, and nothing is settled."""
    dev, clock = await wallet()
    other, _ = await wallet(clock=clock)
    made = await dev.create(amount_msat=SAT, description="", expiry_seconds=60)
    with pytest.raises(NodeRefused, match="not one of them"):
        await other.pay(made.bolt11)
    with pytest.raises(NodeRefused, match="too little"):
        await dev.pay(made.bolt11, amount_msat=999)
    with pytest.raises(bolt11.MalformedInvoice):
        await dev.pay("lnbcrt1nonsense")
    assert (await dev.lookup(made.payment_hash)).state is NodeState.OPEN
    results = await asyncio.gather(dev.pay(made.bolt11), dev.pay(made.bolt11), return_exceptions=True)
    assert sorted(isinstance(result, NodeRefused) for result in results) == [False, True]
    late = await dev.create(amount_msat=SAT, description="", expiry_seconds=60)
    clock.now += 60
    assert (await dev.lookup(late.payment_hash)).state is NodeState.CANCELED  # as LND says of expired ones
    with pytest.raises(NodeRefused, match="expired"):
        await dev.pay(late.bolt11)
    assert (await dev.lookup(bytes(32))).state is NodeState.UNKNOWN
    with pytest.raises(NodeRefused, match="above 0"):
        await dev.create(amount_msat=0, description="", expiry_seconds=60)


async def test_more_than_was_asked_is_received() -> None:
    """A payer may send more, as to a real node; the lookup says what came."""
    dev, _ = await wallet()
    made = await dev.create(amount_msat=SAT, description="", expiry_seconds=60)
    await dev.pay(made.bolt11, amount_msat=SAT + 1)
    assert (await dev.lookup(made.payment_hash)).received_msat == SAT + 1


async def test_the_wallet_outlives_its_process() -> None:
    """Opened again on the same shelf it has the same key, the same invoices, paid and unpaid, and goes on counting settlements."""
    shelf = MemoryShelf()
    dev, clock = await wallet(shelf)
    first = await dev.create(amount_msat=SAT, description="", expiry_seconds=60)
    second = await dev.create(amount_msat=SAT, description="", expiry_seconds=60)
    await dev.pay(first.bolt11)
    again, _ = await wallet(shelf, clock)
    assert await again.node() == await dev.node()
    assert (await again.lookup(first.payment_hash)).state is NodeState.SETTLED
    await again.pay(second.bolt11)
    async with again.subscribe("0") as hints:
        heard = [await anext(hints), await anext(hints)]
    assert [(hint.payment_hash, hint.cursor) for hint in heard] == [(first.payment_hash, "1"), (second.payment_hash, "2")]


async def test_subscribers_hear_of_payments_from_their_cursor_on() -> None:
    """Live payments come to all subscribers; earlier ones only from a cursor, which may be lost and then replays nothing."""
    dev, _ = await wallet()
    made = [await dev.create(amount_msat=SAT, description="", expiry_seconds=60) for _ in range(3)]
    await dev.pay(made[0].bolt11)
    await dev.pay(made[1].bolt11)
    async with dev.subscribe(None) as live, dev.subscribe("1") as replayed:
        await dev.pay(made[2].bolt11)
        assert (await anext(live)).payment_hash == made[2].payment_hash
        assert [(await anext(replayed)).payment_hash for _ in range(2)] == [made[1].payment_hash, made[2].payment_hash]


def test_play_money_is_not_served_to_strangers_unsaid() -> None:
    """Off loopback the dev wallet is refused; allowed, there is a sentence to log; on loopback there is nothing to say."""
    assert check_exposure(["127.0.0.1", "::1", "localhost"], allow_off_loopback=False) is None
    with pytest.raises(ConfigError, match="allow_off_loopback"):
        check_exposure(["127.0.0.1", "0.0.0.0"], allow_off_loopback=False)  # noqa: S104 -- the case under test
    assert "play money" in str(check_exposure(["example.org"], allow_off_loopback=True))


async def desk(client: Any = None, **limits: int) -> tuple[TopUpDesk, MemoryLedger, list[TopUp], ManualClock]:
    clock = ManualClock()
    client = client or await DevWallet.open(MemoryShelf(), clock)
    if isinstance(client, Altered):
        client.inner = await DevWallet.open(MemoryShelf(), clock)
    books, watched = MemoryLedger(), list[TopUp]()
    return TopUpDesk(client=client, topups=books, clock=clock, watch=watched.append, limits=TopUpLimits(**limits)), books, watched, clock


class Altered:
    """A wallet whose answers are changed on their way."""

    name = "altered"
    inner: DevWallet

    def __init__(
        self, *, invoice: dict[str, Any] | None = None, asked: dict[str, Any] | None = None, node: dict[str, Any] | None = None
    ) -> None:
        self.invoice, self.asked, self.nodes = invoice or {}, asked or {}, node or {}

    async def node(self) -> Node:
        return replace(await self.inner.node(), **self.nodes)

    async def create(self, **asked: Any) -> Invoice:
        await asyncio.sleep(0)  # as any call to a real node waits
        return replace(await self.inner.create(**(asked | self.asked)), **self.invoice)


async def test_one_open_invoice_serves_all_requests_for_its_amount() -> None:
    """Asked again, and twice at the same moment, an account gets the invoice that it has; near its expiry a new one."""
    counter, books, watched, clock = await desk(Altered())
    first, second = await asyncio.gather(counter.request("acme", 500 * SAT), counter.request("acme", 500 * SAT))
    assert first == second == await counter.request("acme", 500 * SAT)
    assert await books.find(first.payment_hash) == first
    assert watched == [first]
    assert (await counter.request("other", 500 * SAT)).payment_hash != first.payment_hash
    assert (await counter.request("acme", 600 * SAT)).payment_hash != first.payment_hash
    clock.now += 2_701
    renewed = await counter.request("acme", 500 * SAT)
    assert renewed.payment_hash != first.payment_hash
    assert renewed.expires_unix_nano > first.expires_unix_nano
    assert not counter._locks


async def test_what_the_desk_does_not_make() -> None:
    """Amounts outside the limits or not in whole satoshis, and more unpaid invoices than allowed, are refused with a reason."""
    counter, books, _, clock = await desk(max_payable=2)
    for amount_msat in (0, 99 * SAT, 100 * SAT + 1, 1_000_001 * SAT):
        with pytest.raises(TopUpRefused) as refused:
            await counter.request("acme", amount_msat)
        assert refused.value.reason == "amount"
    await counter.request("acme", 100 * SAT)
    await counter.request("acme", 101 * SAT)
    with pytest.raises(TopUpRefused) as refused:
        await counter.request("acme", 102 * SAT)
    assert refused.value.reason == "too_many"
    assert len(await books.of_account("acme", limit=10)) == 2
    clock.now += 3_601
    assert (await counter.request("acme", 102 * SAT)).state is InvoiceState.OPEN


@pytest.mark.parametrize(
    ("client", "what"),
    [
        (Altered(asked={"amount_msat": 1}), "amount"),
        (Altered(asked={"expiry_seconds": 86_400}), "expiry"),  # what LND makes of an expiry of 0
        (Altered(invoice={"payment_hash": bytes(32)}), "payment hash"),
        (Altered(invoice={"bolt11": "lnbcrt1"}), "no invoice"),
        (Altered(node={"network": "bitcoin"}), "network"),
        (Altered(node={"payee": "02" * 33}), "node"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_wrong_invoice_is_shown_to_nobody(client: Altered, what: str) -> None:
    """What the wallet returned is compared with what was asked; on any difference there is no top-up."""
    counter, books, watched, _ = await desk(client)
    with pytest.raises(WrongInvoice, match=what):
        await counter.request("acme", 500 * SAT)
    assert not await books.of_account("acme", limit=10)
    assert not watched


async def test_a_node_that_cannot_be_paid_makes_no_invoice() -> None:
    """While the node does not follow the chain nobody could pay, so nothing is shown."""
    counter, _, _, _ = await desk(Altered(node={"ready": False}))
    with pytest.raises(NodeUnavailable):
        await counter.request("acme", 500 * SAT)


async def test_clocks_that_disagree_are_named() -> None:
    """An invoice dated far from our time is refused with a sentence about the clocks, for its expiry would mean nothing."""
    clock = ManualClock()
    books = MemoryLedger()
    dev = await DevWallet.open(MemoryShelf(), clock)
    ahead = ManualClock(now=clock.now + 301)
    counter = TopUpDesk(client=dev, topups=books, clock=ahead, watch=lambda _: None)
    with pytest.raises(WrongInvoice, match="clocks"):
        await counter.request("acme", 500 * SAT)
