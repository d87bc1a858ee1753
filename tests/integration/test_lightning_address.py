"""Lightning Addresses on a real daemon, as a wallet asks: the request, the invoice and its hash, the settlement, and their limits."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from receiver.config import load
from receiver.core.books import MemoryLedger
from receiver.core.invoices import MSAT_PER_SAT as SAT
from receiver.lightning import bolt11
from receiver.lightning.client import LightningClient, WrongInvoice
from receiver.lightning.credential import Credential
from receiver.lightning.dev import DevWallet, MemoryShelf
from receiver.lightning.lnbits import LnbitsClient
from receiver.lightning.lnd import LndClient
from receiver.lightning.rest import Rest
from receiver.lightning.topups import TopUpDesk
from tests import fake_nodes
from tests.fakes import ManualClock
from tests.integration.test_daemon_credit import ask, serving
from tests.integration.test_l402 import customer, pay

ON = ("lightning.address=true", "lightning.topup_min_sat=10", "lightning.topup_max_sat=5000")
HASH = hashlib.sha256(b"what the payer was told").digest()


async def add(ports: dict[str, int], account: str) -> str:
    status, made = await ask(ports["operator"], "POST", "/api/v1/accounts", {"account": account})
    assert status == 201
    return str(made["key"])


async def wallet(ports: dict[str, int], account: str, msat: int) -> dict[str, Any]:
    """What a wallet does with ACCOUNT@HOST: LUD-16, then LUD-06 with its checks."""
    status, said, _ = await customer(ports["customer"], "GET", f"/.well-known/lnurlp/{account}")
    assert (status, said["tag"]) == (200, "payRequest")
    assert said["minSendable"] <= msat <= said["maxSendable"]
    callback = urlsplit(said["callback"])
    assert callback.port == ports["customer"]
    status, found, _ = await customer(ports["customer"], "GET", f"{callback.path}?amount={msat}")
    assert status == 200, found
    invoice = bolt11.decode(found["pr"])
    assert invoice.amount_msat == msat
    assert invoice.description_hash == hashlib.sha256(said["metadata"].encode()).digest()
    assert invoice.description is None
    assert found["routes"] == []
    return {**found, "said": said}


async def test_anyone_can_pay_to_an_account_again_and_again(tmp_path: Path) -> None:
    """Two payments of different amounts, each credited once; the payer sees that each was settled, with its preimage."""
    async with serving(tmp_path, *ON) as (daemon, ports):
        await add(ports, "acme")
        for number, msat in enumerate((10 * SAT, 5_000 * SAT, 5_000 * SAT), 1):
            found = await wallet(ports, "acme", msat)
            verify = urlsplit(found["verify"]).path
            status, told, _ = await customer(ports["customer"], "GET", verify)
            assert (status, told["settled"], told["preimage"], told["pr"]) == (200, False, None, found["pr"])
            preimage = await pay(ports, found["pr"])
            status, told, _ = await customer(ports["customer"], "GET", verify)
            assert (status, told["status"], told["settled"], told["preimage"]) == (200, "OK", True, preimage)
            assert daemon.metrics.exact("invoices", state="settled") == number
        assert daemon.offices.ledger.balance("acme").posted_msat == 10_010 * SAT


async def test_the_request_is_as_the_specifications_say(tmp_path: Path) -> None:
    """Bounds in millisatoshi from the configuration, metadata with the address, the origin that customers see."""
    async with serving(tmp_path, *ON, "credit.topup_url=https://pay.example.com/topup?x=1") as (_, ports):
        await add(ports, "acme")
        await add(ports, "Acme/Team")
        _, said, _ = await customer(ports["customer"], "GET", "/.well-known/lnurlp/acme")
        assert said == {
            "tag": "payRequest",
            "callback": "https://pay.example.com/api/v1/lnurlp/acme",
            "minSendable": 10_000,
            "maxSendable": 5_000_000,
            "metadata": '[["text/plain", "Spantoll credit for acme"], ["text/identifier", "acme@pay.example.com"]]',
        }
        _, said, _ = await customer(ports["customer"], "GET", "/.well-known/lnurlp/Acme%2FTeam")
        assert said["callback"] == "https://pay.example.com/api/v1/lnurlp/Acme%2FTeam"
        assert [kind for kind, _ in json.loads(said["metadata"])] == ["text/plain"], "LUD-16 has no such address"


async def test_refusals_read_as_wallets_expect(tmp_path: Path) -> None:
    """Status ERROR with a reason, beside an HTTP status that says the same."""
    async with serving(tmp_path, *ON, "lightning.public_per_hour=3") as (_, ports):
        await add(ports, "acme")
        at = "/api/v1/lnurlp/acme"
        for path, status in (
            ("/.well-known/lnurlp/nobody", 404),
            ("/api/v1/lnurlp/nobody?amount=10000", 404),
            (f"{at}/{'0' * 64}", 404),
            (f"{at}/xyz", 404),
            (at, 400),
            (f"{at}?amount=", 400),
            (f"{at}?amount=-5", 400),
            (f"{at}?amount=1e5", 400),
            (f"{at}?amount={'9' * 20}", 400),
            (f"{at}?amount=9000", 422),
            (f"{at}?amount=10001", 422),
            (f"{at}?amount=5001000", 422),
            (f"{at}?amount=10000", 429),
        ):
            found, said, _ = await customer(ports["customer"], "GET", path)
            assert (found, said["status"]) == (status, "ERROR"), path
            assert said["reason"]
        await ask(ports["operator"], "POST", "/api/v1/accounts/acme/disable")
        assert (await customer(ports["customer"], "GET", "/.well-known/lnurlp/acme"))[0] == 404


async def test_off_is_off(tmp_path: Path) -> None:
    """By default nobody learns which accounts there are."""
    assert not load(None, environ={}).lightning.address
    async with serving(tmp_path) as (_, ports):
        for path in ("/.well-known/lnurlp/default", "/api/v1/lnurlp/default?amount=1000000"):
            assert (await customer(ports["customer"], "GET", path))[0] == 404


async def test_strangers_take_nothing_from_the_account(tmp_path: Path) -> None:
    """Their invoices neither fill its places nor are shown to it as its own, and its own receipts are not theirs to see."""
    async with serving(tmp_path, *ON, "lightning.max_unpaid=2") as (_, ports):
        key = await add(ports, "acme")
        credential = f"Bearer {key}"
        open_ = [await wallet(ports, "acme", 100 * SAT) for _ in range(2)]
        assert open_[0]["pr"] != open_[1]["pr"], "two payers never share an invoice"
        status, said, _ = await customer(ports["customer"], "GET", "/api/v1/lnurlp/acme?amount=100000")
        assert (status, said["status"]) == (422, "ERROR")
        mine = []
        for sat in (100, 200):
            status, made, _ = await customer(ports["customer"], "POST", "/api/v1/credit/topups", {"amount_sat": sat}, credential=credential)
            assert status == 200
            assert made["bolt11"] not in {each["pr"] for each in open_}
            mine.append(made)
        assert (await customer(ports["customer"], "POST", "/api/v1/credit/topups", {"amount_sat": 300}, credential=credential))[0] == 422
        await pay(ports, mine[0]["bolt11"])
        for each in mine:
            assert (await customer(ports["customer"], "GET", f"/api/v1/lnurlp/acme/{each['payment_hash']}"))[0] == 404
        await add(ports, "other")
        verify = urlsplit(open_[0]["verify"]).path.replace("acme", "other")
        assert (await customer(ports["customer"], "GET", verify))[0] == 404


# --- the wallets ------------------------------------------------------------------------------------------------------------------


async def test_the_dev_wallet_signs_the_hash() -> None:
    """In place of the description, and the desk checks it."""
    dev = await DevWallet.open(MemoryShelf(), ManualClock())
    said = bolt11.decode((await dev.create(amount_msat=SAT, description="text", expiry_seconds=60, description_hash=HASH)).bolt11)
    assert (said.description_hash, said.description) == (HASH, None)
    said = bolt11.decode((await dev.create(amount_msat=SAT, description="text", expiry_seconds=60)).bolt11)
    assert (said.description_hash, said.description) == (None, "text")


async def test_lnd_and_lnbits_are_asked_for_the_hash(tmp_path: Path) -> None:
    """LND wants bytes as base64, LNbits hexadecimal; without one neither is asked for any."""
    lnd, lnbits = fake_nodes.FakeLnd(), fake_nodes.FakeLnbits()
    macaroon, key = tmp_path / "macaroon", tmp_path / "key"
    macaroon.write_bytes(lnd.macaroon)
    key.write_text(fake_nodes.KEY)

    async def asked(client: LightningClient) -> None:
        try:
            await client.create(amount_msat=SAT, description="text", expiry_seconds=600, description_hash=HASH)
            await client.create(amount_msat=SAT, description="text", expiry_seconds=600)
        finally:
            await client.close()

    async with fake_nodes.served(lnd.app()) as url:
        await asked(LndClient(Rest(url), Credential(file=str(macaroon)), network="regtest"))
    async with fake_nodes.served(lnbits.app()) as url:
        await asked(LnbitsClient(Rest(url), Credential(file=str(key)), network="regtest"))
    for told, wanted in ((lnd.asked, base64.b64encode(HASH).decode()), (lnbits.asked, HASH.hex())):
        bodies = [body for method, _, body in told if method == "POST"]
        assert [body.get("description_hash") for body in bodies] == [wanted, None]
        assert all(body["memo"] == "text" for body in bodies)


class Forgetful(DevWallet):
    """A wallet behind which somebody drops the hash."""

    async def create(self, *, amount_msat: int, description: str, expiry_seconds: int, description_hash: bytes | None = None) -> Any:
        del description_hash
        return await super().create(amount_msat=amount_msat, description=description, expiry_seconds=expiry_seconds)


async def test_an_invoice_without_the_hash_is_shown_to_nobody() -> None:
    """The payer's wallet would refuse it, and rightly."""
    clock = ManualClock()
    books, watched = MemoryLedger(), list[Any]()
    desk = TopUpDesk(client=await Forgetful.open(MemoryShelf(), clock), topups=books, clock=clock, watch=watched.append)
    with pytest.raises(WrongInvoice, match="description hash"):
        await desk.request_by_stranger("acme", 100 * SAT, description="text", description_hash=HASH)
    assert not watched
    assert not await books.of_account("acme", limit=9)
