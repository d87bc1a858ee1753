"""The LNbits adapter against a stand-in that answers as LNbits 1.6.2 was seen to: what many can write to is asked, not believed."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from receiver.core.books import MemoryLedger
from receiver.core.invoices import NodeState
from receiver.lightning.client import NodeRefused, NodeUnavailable, WrongInvoice
from receiver.lightning.credential import Credential, CredentialRefused
from receiver.lightning.lnbits import LnbitsClient
from receiver.lightning.rest import Rest
from receiver.lightning.topups import TopUpDesk
from receiver.lightning.watcher import Watcher
from tests.fake_nodes import ADMIN_KEY, KEY, PAYEE, SECRET, FakeLnbits, served
from tests.fakes import ManualClock

SAT = 1_000


@asynccontextmanager
async def met(fake: FakeLnbits, tmp_path: Path, *, key: str = KEY, network: str = "regtest") -> AsyncIterator[LnbitsClient]:
    """A client of `fake`."""
    file = tmp_path / "key"
    file.write_text(f"{key}\n")
    async with served(fake.app()) as url:
        client = LnbitsClient(Rest(url), Credential(file=str(file)), network=network)
        try:
            yield client
        finally:
            await client.close()


# The key


async def test_the_admin_key_is_refused_before_anything_is_asked_of_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """LNbits tells the wallet's id to its admin key alone; such a key makes no invoice, no lookup and no stream, and is shown nowhere."""
    caplog.set_level(logging.DEBUG)
    fake = FakeLnbits()
    async with met(fake, tmp_path, key=ADMIN_KEY) as client:
        calls = (client.node(), client.lookup(bytes(32)), client.create(amount_msat=SAT, description="", expiry_seconds=60))
        for call in (*calls, client.subscribe(None).__aenter__()):
            with pytest.raises(CredentialRefused, match="admin key") as caught:
                await call
            assert ADMIN_KEY not in str(caught.value)
        told = caplog.text + repr(vars(client)) + repr(client.credential)
    assert {path for _, path, _ in fake.asked} == {"/api/v1/wallet"}
    assert ADMIN_KEY not in told


@pytest.mark.parametrize("key", ["", "two words", "ä" * 32, "x" * 20_000, "../../../../etc/passwd-0123"])
async def test_what_is_no_key_is_not_sent(key: str, tmp_path: Path) -> None:
    """It goes into a header and an address, so only what a key looks like does."""
    fake = FakeLnbits()
    async with met(fake, tmp_path, key=key) as client:
        with pytest.raises(CredentialRefused):
            await client.node()
    assert not fake.asked


async def test_a_key_that_was_replaced_is_noticed_in_a_lookup(tmp_path: Path) -> None:
    """LNbits answers a lookup to anyone, without the details: that is no "paid", and the new key is used as soon as its file has it."""
    fake = FakeLnbits()
    row = fake.put(1, status="success")
    async with met(fake, tmp_path) as client:
        assert (await client.lookup(bytes.fromhex(row["payment_hash"]))).state is NodeState.SETTLED
        fake.keys = {"a" * 32}
        with pytest.raises(CredentialRefused, match="replaced"):
            await client.lookup(bytes.fromhex(row["payment_hash"]))
        (tmp_path / "key2").write_text("a" * 32)
        (tmp_path / "key2").rename(tmp_path / "key")
        assert (await client.lookup(bytes.fromhex(row["payment_hash"]))).received_msat == 250_000


async def test_another_key_is_another_wallet(tmp_path: Path) -> None:
    """Who signs is asked anew when the key was changed: the new wallet may be on another server's node."""
    fake = FakeLnbits(keys={KEY, "b" * 32})
    fake.put(1)
    async with met(fake, tmp_path) as client:
        assert (await client.node()).payee == PAYEE
        fake.secret = SECRET + 1
        fake.put(2)
        (tmp_path / "key").write_text("b" * 32)
        assert (await client.node()).payee != PAYEE


# Who it is


async def test_the_signer_is_read_from_an_invoice(tmp_path: Path) -> None:
    """From the newest that it received itself: what it paid is signed by others. It is asked once."""
    fake = FakeLnbits()
    fake.put(1)
    fake.secret = 7
    fake.put(2, amount_msat=-5_000)  # somebody else's invoice, which this wallet paid
    async with met(fake, tmp_path) as client:
        node = await client.node()
        assert (node.payee, node.network, node.version) == (PAYEE, "regtest", "LNbits")
        await client.node()
    assert sum(path == "/api/v1/payments" for _, path, _ in fake.asked) == 1


async def test_a_new_wallet_makes_one_invoice_to_know_its_node(tmp_path: Path) -> None:
    """Over 1 sat, for a minute, shown to nobody."""
    fake = FakeLnbits()
    async with met(fake, tmp_path) as client:
        assert (await client.node()).payee == PAYEE
        await client.node()
    (body,) = [body for method, _, body in fake.asked if method == "POST"]
    assert (body["amount"], body["expiry"]) == (1, 60)


async def test_a_server_that_was_moved_to_another_node_is_met_again(tmp_path: Path) -> None:
    """Its first invoice is refused, since it is not of the node that was expected; the next request is of the new one."""
    fake, clock, books = FakeLnbits(), ManualClock(), MemoryLedger()
    async with met(fake, tmp_path) as client:
        desk = TopUpDesk(client=client, topups=books, clock=clock, watch=lambda _: None)
        await desk.request("acme", 500 * SAT)
        fake.secret = SECRET + 1
        with pytest.raises(WrongInvoice, match="another node"):
            await desk.request("acme", 600 * SAT)
        row = await desk.request("acme", 600 * SAT)
        assert row.payee == (await client.node()).payee != PAYEE


async def test_a_wallet_on_another_network_is_refused(tmp_path: Path) -> None:
    """What its invoices are for is what counts."""
    async with met(FakeLnbits(network="testnet"), tmp_path, network="bitcoin") as client:
        with pytest.raises(NodeRefused, match=r"for testnet, and lightning\.network is bitcoin"):
            await client.node()


# Invoices


async def test_an_invoice_is_asked_for_in_whole_satoshis(tmp_path: Path) -> None:
    """LNbits drops a fraction silently, so none is asked for; the memo fits, and nothing but receiving is asked."""
    fake = FakeLnbits()
    async with met(fake, tmp_path) as client:
        made = await client.create(amount_msat=250 * SAT, description="x" * 700, expiry_seconds=900)
        with pytest.raises(NodeRefused, match="whole satoshis"):
            await client.create(amount_msat=1_500, description="", expiry_seconds=900)
    assert fake.asked[-1] == ("POST", "/api/v1/payments", {"out": False, "unit": "sat", "amount": 250, "memo": "x" * 640, "expiry": 900})
    assert (made.state, made.preimage) == (NodeState.OPEN, b"")
    assert made.payment_hash.hex() == fake.payments[0]["payment_hash"]


async def test_what_a_lookup_tells(tmp_path: Path) -> None:
    """Open, paid, failed and unknown; no preimage before it is paid; the amount of the row, whatever its fee."""
    fake = FakeLnbits()
    async with met(fake, tmp_path) as client:
        for number, (status, state) in enumerate(
            [("pending", NodeState.OPEN), ("success", NodeState.SETTLED), ("failed", NodeState.CANCELED)], 1
        ):
            row = fake.put(number, status=status)
            row["fee"] = -250_000
            said = await client.lookup(bytes.fromhex(row["payment_hash"]))
            paid = state is NodeState.SETTLED
            assert (said.state, said.bolt11) == (state, row["bolt11"])
            assert (said.received_msat, said.preimage) == ((250_000, number.to_bytes(32)) if paid else (0, b""))
            assert (said.settled_unix_nano > 0) is paid
        unknown = await client.lookup(bytes(32))
    assert (unknown.state, unknown.bolt11) == (NodeState.UNKNOWN, "")


async def test_what_is_no_money(tmp_path: Path) -> None:
    """The paying side of a payment that the wallet made to itself has no amount received; a preimage of zeros, or none, is none."""
    fake = FakeLnbits()
    async with met(fake, tmp_path) as client:
        own = fake.put(1, status="success", amount_msat=-250_000)
        assert (await client.lookup(bytes.fromhex(own["payment_hash"]))).received_msat == 0
        for number, preimage in enumerate(("0" * 64, None, "xyz"), 2):
            row = fake.put(number, status="success", preimage=preimage)
            assert (await client.lookup(bytes.fromhex(row["payment_hash"]))).preimage == b""


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (520, {"detail": "Failed to connect to the node", "status": "failed"}, NodeUnavailable),
        (500, {"detail": "Unexpected error! ID: 1"}, NodeUnavailable),
        (502, "<html>", NodeUnavailable),
        (429, {"detail": "Rate limit exceeded"}, NodeUnavailable),
        (200, "<html>a page</html>", NodeUnavailable),
        (401, {"detail": "No Api Key provided."}, CredentialRefused),
        (403, {"detail": "Invalid adminkey."}, CredentialRefused),
        (400, {"detail": "Amount must be positive"}, NodeRefused),
        (307, "", NodeRefused),
    ],
)
async def test_each_error_by_whether_waiting_helps(status: int, body: Any, kind: type[Exception], tmp_path: Path) -> None:
    """520 is the node behind it; a redirect is a server that nobody has set up, which gets no key a second time."""
    fake = FakeLnbits()
    async with met(fake, tmp_path) as client:
        await client.wallet()
        fake.refusal = (status, body)
        for call in (client.node(), client.lookup(bytes(32)), client.create(amount_msat=SAT, description="", expiry_seconds=60)):
            with pytest.raises((NodeUnavailable, NodeRefused)) as caught:
                await call
            assert isinstance(caught.value, kind)
            assert KEY not in str(caught.value)


# The stream


async def quiet(watcher: Watcher) -> None:
    """Until the watcher has looked at all that it was told of."""
    for _ in range(500):
        await asyncio.sleep(0.01)
        if watcher.up and not watcher._hinted and not watcher._everything:
            return
    raise AssertionError("the watcher did not come to rest")


async def test_forged_messages_and_replayed_ones_credit_nothing(tmp_path: Path) -> None:
    """Anyone may write to the socket: nonsense, foreign hashes, "success" of an unpaid invoice; and 100 copies of a true one are one."""
    fake, clock, books = FakeLnbits(), ManualClock(), MemoryLedger()
    async with met(fake, tmp_path) as client:
        watcher = Watcher(client=client, topups=books, ledger=books, clock=clock, rng=random.Random(1))
        desk = TopUpDesk(client=client, topups=books, clock=clock, watch=watcher.watch)
        unpaid, paid = await desk.request("acme", 500 * SAT), await desk.request("acme", 600 * SAT)
        watching = asyncio.create_task(watcher.run())
        await quiet(watcher)
        told = {"wallet_balance": 9, "payment": {"payment_hash": unpaid.payment_hash.hex(), "status": "success", "amount": 10**9}}
        foreign = {"payment": {"payment_hash": "ab" * 32, "status": "success"}}
        forged = [json.dumps(told), json.dumps(foreign), '{"pending":false,"status":"success"}', "nonsense", "[]", '{"payment":[1]}']
        for text in [*forged, json.dumps({"payment": {"payment_hash": 7}})] * 10:
            await fake.push(text)
        await quiet(watcher)
        assert not books.transfers()
        row = next(row for row in fake.payments if row["payment_hash"] == paid.payment_hash.hex())
        row["status"] = "success"
        for _ in range(100):
            await fake.push(json.dumps({"payment": {"payment_hash": paid.payment_hash.hex()}}))
        await watcher.wait_settled(paid.payment_hash, seconds=10)
        await quiet(watcher)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    assert books.balance("acme").posted_msat == 600 * SAT
    assert len(books.transfers()) == 1
    assert watcher.counts["hints"] >= 100


async def test_without_a_websocket_payments_are_found_by_looking(tmp_path: Path) -> None:
    """The subscription is refused in words, and a look credits all the same."""
    fake, clock, books = FakeLnbits(), ManualClock(), MemoryLedger()
    async with met(fake, tmp_path) as client:
        watcher = Watcher(client=client, topups=books, ledger=books, clock=clock, rng=random.Random(1))
        row = await TopUpDesk(client=client, topups=books, clock=clock, watch=watcher.watch).request("acme", 500 * SAT)
        fake.payments[0]["status"] = "success"
        client.rest.url += "/elsewhere"
        client._checked = KEY
        with pytest.raises(NodeUnavailable, match="found by looking"):
            await client.subscribe(None).__aenter__()
        client.rest.url = client.rest.url.removesuffix("/elsewhere")
        clock.advance(2)
        assert await watcher._pass()
    assert books.balance("acme").posted_msat == 500 * SAT
    assert (await books.find(row.payment_hash)).received_msat == 500 * SAT  # type: ignore[union-attr] -- it exists
