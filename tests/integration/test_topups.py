"""Top-ups end to end over a real database and the dev wallet: asked for, paid, credited once, whatever happens in between.

Each of these has cost somebody money elsewhere; the thread is named where there is one.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from receiver.config import Lightning
from receiver.core.invoices import NodeState, Settlement
from receiver.core.ledger import Outcome
from receiver.errors import ConfigError, Conflict
from receiver.lightning import bolt11
from receiver.lightning.client import Invoice, NodeUnavailable, WrongInvoice
from receiver.lightning.topups import TopUpRefused
from tests.integration.credit_house import SAT, CreditHouse
from tests.lightning_house import StoreBusy, quiet


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[CreditHouse]:
    built = await CreditHouse(tmp_path).open()
    yield built
    await built.die()


async def test_a_payment_becomes_credit_and_a_receipt(house: CreditHouse) -> None:
    """Asked for, paid, credited; the statement holds the proof, and before the payment nobody could see it."""
    asked = await house.ask(500)
    assert (asked["state"], asked["amount_msat"], asked["amount_sat"], asked["preimage"], asked["settled"]) == (
        "open", 500 * SAT, "500", None, None
    )  # fmt: skip
    assert asked["uri"] == f"lightning:{asked['bolt11']}"
    assert asked["play_money"]
    assert asked["expires_in_seconds"] == 3_600
    said = bolt11.decode(asked["bolt11"])
    assert (said.amount_msat, said.payment_hash.hex(), said.payee) == (500 * SAT, asked["payment_hash"], asked["payee"])
    await house.pay(asked)
    await house.check(500 * SAT)
    paid = await house.office.topup(asked["payment_hash"], "acme")
    assert hashlib.sha256(bytes.fromhex(paid["preimage"])).hexdigest() == asked["payment_hash"]
    assert (paid["state"], paid["received_msat"], paid["late"]) == ("settled", 500 * SAT, False)
    [line] = (await house.office.statement("acme", 0, 2**63 - 1))["lines"]
    assert (line["code"], line["balance_msat"], line["id"]) == ("topup", 500 * SAT, f"ln:{asked['payment_hash']}")
    assert line["receipt"] == paid
    assert house.office.invoices() == {"open": 0, "settled": 1, "canceled": 0, "expired": 0}


async def test_one_open_invoice_is_used_until_near_its_expiry(house: CreditHouse) -> None:
    """A hundred requests at once, and later ones, show one invoice; with a quarter of its life left a new one is made."""
    asked = await asyncio.gather(*(house.ask() for _ in range(100)))
    assert {each["payment_hash"] for each in asked} == {asked[0]["payment_hash"]}
    await house.pass_(2_699)
    assert (await house.ask())["payment_hash"] == asked[0]["payment_hash"]
    await house.pass_(2)
    renewed = await house.ask()
    assert renewed["payment_hash"] != asked[0]["payment_hash"]
    listed = await house.office.list_topups("acme")
    assert [each["payment_hash"] for each in listed["topups"]] == [renewed["payment_hash"], asked[0]["payment_hash"]]
    await house.pay(asked[0])  # somebody still had the first one on his phone
    await house.pay(renewed)
    await house.check(1_000 * SAT)


async def test_an_invoice_that_is_paid_is_not_shown_again(house: CreditHouse) -> None:
    """The same amount asked for after the payment is a new invoice: nobody is sent to pay what is paid."""
    first = await house.ask()
    await house.pay(first)
    assert (await house.ask())["payment_hash"] != first["payment_hash"]


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"payment_hash": bytes(32)}, "payment hash"),
        ({"bolt11": "lnbcrt1nonsense"}, "no invoice"),
    ],
)
async def test_a_wrong_invoice_leaves_no_row(house: CreditHouse, wrong: dict[str, Any], what: str) -> None:
    """What the wallet returned is not what it was asked for: refused, nothing kept, and the next request is served."""
    inner = house.node.create

    async def lying(**asked: Any) -> Invoice:
        return replace(await inner(**asked), **wrong)

    house.node.create = lying  # type: ignore[method-assign] -- the lie under test
    with pytest.raises(WrongInvoice, match=what):
        await house.ask()
    assert not (await house.office.list_topups("acme"))["topups"]
    house.node.create = inner  # type: ignore[method-assign] -- and the truth again
    await house.pay(await house.ask())
    await house.check(500 * SAT)


@pytest.mark.parametrize("more_msat", [1, 499 * SAT, 50 * 500 * SAT])
async def test_what_was_received_is_credited(house: CreditHouse, more_msat: int) -> None:
    """A payer may send more, and LND sets no upper bound: the account gets what came, not what was asked for."""
    asked = await house.ask()
    await house.pay(asked, msat=500 * SAT + more_msat)
    await house.check(500 * SAT + more_msat)
    paid = await house.office.topup(asked["payment_hash"])
    assert (paid["amount_msat"], paid["received_msat"]) == (500 * SAT, 500 * SAT + more_msat)


async def test_too_little_is_refused_and_what_came_all_the_same_is_credited(tmp_path: Path) -> None:
    """The wallet takes no less than it asked for (BOLT 4); a node that says that less came is believed, for that is what it has."""
    house = await CreditHouse(tmp_path, direct=True).open()
    try:
        asked = await house.ask()
        with pytest.raises(Conflict, match="too little"):
            await house.office.dev_pay(asked["bolt11"], 500 * SAT - 1)
        await house.check(0)
    finally:
        await house.die()
    house.direct = False
    await house.open()
    try:
        house.node.lie = lambda said: replace(said, received_msat=min(said.received_msat, 499_999))
        await house.pay(asked)
        await house.check(499_999)
    finally:
        await house.die()


async def test_a_preimage_alone_is_no_payment(house: CreditHouse) -> None:
    """LND shows the preimage of unpaid invoices: it credits nothing (aperture's default would take it) and is passed on to nobody."""
    asked = await house.ask()
    [kept] = house.dev._invoices.values()
    for state in (NodeState.OPEN, NodeState.HELD, NodeState.CANCELED):
        house.node.lie = lambda said, state=state: replace(said, state=state, preimage=kept.preimage, received_msat=500 * SAT)  # type: ignore[misc] -- a default binds the loop's value
        await house.pass_(61)
        assert kept.preimage.hex() not in str(await house.office.topup(asked["payment_hash"]))
    await house.check(0)
    house.node.lie = lambda said: said
    await house.pay(asked)  # canceled by its node, and paid all the same
    await house.check(500 * SAT)


async def test_a_second_payment_of_one_invoice_changes_nothing(house: CreditHouse) -> None:
    """An invoice paid within a custodial wallet can be paid again from outside (lnbits #590): one credit, and a contradiction is told."""
    asked = await house.ask()
    await house.pay(asked)
    first = await house.dev.lookup(bytes.fromhex(asked["payment_hash"]))
    second = Settlement(payment_hash=first.payment_hash, preimage=first.preimage, received_msat=1_000 * SAT, settled_unix_nano=2)
    assert (await house.books.ledger.settle(second)).outcome is Outcome.EXISTS_WITH_DIFFERENT_CONTENT
    await house.check(500 * SAT)
    await house.again()
    await house.check(500 * SAT)


async def test_a_settlement_without_an_amount_is_asked_again(house: CreditHouse) -> None:
    """Paid, but not how much: never dropped, credited once the node says it (btcpayserver PR 7405)."""
    asked = await house.ask()
    house.node.lie = lambda said: replace(said, received_msat=0)
    await house.pay(asked)
    await house.pass_(300)
    await house.check(0)
    house.node.lie = lambda said: said
    await house.pass_(61)
    await house.check(500 * SAT)


@pytest.mark.parametrize("preimage", [b"", bytes(32)], ids=["null", "zeros"])
async def test_a_settlement_without_proof_is_asked_again(house: CreditHouse, preimage: bytes) -> None:
    """A preimage that is missing or all zeros proves nothing (lnbits #3070, #3078); the true one does, a minute later."""
    asked = await house.ask()
    house.node.lie = lambda said: replace(said, preimage=preimage) if said.preimage else said
    await house.pay(asked)
    await house.check(0)
    house.node.lie = lambda said: said
    await house.pass_(61)
    await house.check(500 * SAT)


async def test_the_same_payment_told_ever_so_often_is_one_credit(house: CreditHouse) -> None:
    """Doubled hints, looks and restarts credit once (lnbits #4147: told twice; aperture e015dd0: topped up twice)."""
    house.node.doubling = 3
    asked = await house.ask()
    await house.pay(asked)
    for _ in range(3):
        house.office._watcher.hint(bytes.fromhex(asked["payment_hash"]))  # type: ignore[union-attr] -- there is one
        await house.rest()
        await house.again()
    await house.check(500 * SAT)


async def test_late_payments_are_credited_in_the_watch_window(house: CreditHouse) -> None:
    """A wallet that takes late payments is looked at for a week after the expiry (btcpayserver #1002, #5500, #7545 stopped at it)."""
    asked = await house.ask()
    house.node.lie = lambda said: replace(said, state=NodeState.OPEN)  # the node has not noticed its payment yet
    await house.pay(asked)
    await house.pass_(6 * 86_400, step=1_800)
    assert await house.state(asked) == "expired"
    assert house.office.invoices()["expired"] == 1
    expires_unix_nano = house.hours.unix_nano() - 86_400 * 10**9
    house.node.lie = lambda said: replace(said, settled_unix_nano=expires_unix_nano)
    await house.pass_(3_700)
    await house.check(500 * SAT)
    assert (await house.office.topup(asked["payment_hash"]))["late"]


async def test_a_payment_while_we_were_down_is_credited_at_the_start(house: CreditHouse) -> None:
    """Nobody listened when it was paid, the node's stream is silent about it: the first look finds it (getAlby/hub #1188)."""
    asked = await house.ask()
    await house.die()
    await house.open(run=False)
    await house.dev.pay(asked["bolt11"])  # the node goes on without us
    await house.die()
    await house.open(run=False)
    house.node.deaf = True
    house.task = asyncio.create_task(house.office.run())
    await house.rest()
    await house.check(500 * SAT)


async def test_a_crash_between_the_invoice_and_its_row_loses_nothing(house: CreditHouse) -> None:
    """The wallet made an invoice and the row could not be kept: nobody was shown it, asking again makes another, and only that counts."""
    house.topups.refusing = 1
    with pytest.raises(StoreBusy):
        await house.ask()
    [orphan] = house.dev._invoices.values()
    await house.again()
    assert not (await house.office.list_topups("acme"))["topups"]
    asked = await house.ask()
    assert asked["payment_hash"] != orphan.payment_hash.hex()
    await house.pay(asked)
    await house.dev.pay(orphan.bolt11)  # only who broke into the wallet could know it
    await house.rest()
    await house.check(500 * SAT)


async def test_a_crash_between_the_commit_and_what_follows_credits_once(house: CreditHouse) -> None:
    """The credit is committed and the process dies before anyone is told: after the restart it is there, once, and seen by who waits."""
    house.ledger.dies = True
    asked = await house.ask()
    await house.pay(asked)
    assert house.office.invoices()["settled"] == 0  # nobody was told
    await house.again()
    await house.check(500 * SAT)
    assert (await house.office.topup(asked["payment_hash"], wait_seconds=60))["state"] == "settled"


async def test_a_cursor_is_not_kept_for_what_is_not_credited(house: CreditHouse) -> None:
    """Two payments, the first one's commit is lost with the process: the stream goes on before both (stacker.news PR 726)."""
    first, second = await house.ask(500), await house.ask(600)
    house.ledger.dies = True
    await house.dev.pay(first["bolt11"])
    await house.dev.pay(second["bolt11"])
    await house.rest()
    assert await house.books.topups.cursor(first["payee"]) is None
    await house.again()
    await house.check(1_100 * SAT)
    await house.rest()
    assert house.node.cursors == [None]


async def test_the_wallet_outlives_the_daemon(house: CreditHouse) -> None:
    """Its key and its invoices are in the data folder: after a restart an open invoice is shown again, can be paid, and is credited."""
    asked = await house.ask()
    for _ in range(2):
        await house.again()
        assert (await house.ask())["bolt11"] == asked["bolt11"]
    assert house.office.invoices()["open"] == 1
    await house.pay(asked)
    await house.check(500 * SAT)


async def test_another_wallet_does_not_answer_for_the_first(house: CreditHouse) -> None:
    """A new key on the old books: the open invoice is not shown again, and "unknown" does not make it unpaid or credited."""
    asked = await house.ask()
    await house.books.shelf.keep("key", f"{7:064x}")
    await house.again()
    renewed = await house.ask()
    assert renewed["payee"] != asked["payee"]
    assert renewed["payment_hash"] != asked["payment_hash"]
    house.node.lie = lambda said: replace(said, state=NodeState.UNKNOWN, preimage=b"", received_msat=0)
    await house.pass_(600)
    assert await house.state(asked) == "open"
    await house.check(0)


async def test_an_outage_of_the_wallet_is_said_and_survived(house: CreditHouse) -> None:
    """While it is down a top-up fails as unavailable, the balance is shown all the same, and what was paid is credited after it."""
    asked = await house.ask()
    house.node.down = True
    with pytest.raises(NodeUnavailable):
        await house.ask(600)
    await house.pass_(200)
    assert house.office.up is False
    assert house.office.balance("acme")["lightning"]["up"] is False
    await house.pay(asked)
    house.node.down = False
    await house.pass_(122)
    assert house.office.up
    await house.check(500 * SAT)


async def test_unpaid_invoices_of_an_account_are_limited(tmp_path: Path) -> None:
    """One account cannot fill the wallet; another is not touched by it, and an expired invoice makes room."""
    house = await CreditHouse(tmp_path, lightning=Lightning(max_unpaid=2)).open()
    try:
        await house.ask(101)
        await house.ask(102)
        with pytest.raises(TopUpRefused) as refused:
            await house.ask(103)
        assert refused.value.reason == "too_many"
        await house.ask(103, account="default")
        await house.pass_(3_661)
        assert house.office.invoices()["expired"] == 3
        await house.ask(103)
        await house.check(0)
    finally:
        await house.die()


async def test_the_operator_sets_the_bounds_of_a_top_up(tmp_path: Path) -> None:
    """Amounts and expiry are those of `[lightning]`, and a fraction of a satoshi is none."""
    house = await CreditHouse(tmp_path, lightning=Lightning(topup_min_sat=10, topup_max_sat=20, invoice_expiry=120.0)).open()
    try:
        assert (await house.ask(20))["expires_in_seconds"] == 120
        for msat in (9 * SAT, 21 * SAT, 10 * SAT + 1):
            with pytest.raises(TopUpRefused, match="10 to 20 whole satoshis"):
                await house.office.top_up("acme", msat)
    finally:
        await house.die()


async def test_without_a_wallet_there_are_no_top_ups_and_all_else(tmp_path: Path) -> None:
    """`backend = "off"`: the refusal says so, earlier receipts are still shown, and the watch ends at once."""
    house = await CreditHouse(tmp_path).open()
    asked = await house.ask()
    await house.pay(asked)
    await house.die()
    house.lightning = Lightning(backend="off")
    await house.open()
    try:
        with pytest.raises(TopUpRefused, match='"off"'):
            await house.ask()
        with pytest.raises(TopUpRefused, match="dev wallet"):
            await house.office.dev_pay(asked["bolt11"])
        assert (await house.office.topup(asked["payment_hash"], wait_seconds=60))["state"] == "settled"
        assert house.office.balance("acme")["lightning"] == {"backend": "off", "up": None, "play_money": False}
        assert house.task is not None
        await house.task
    finally:
        await house.die()


async def test_play_money_is_not_served_to_other_machines(house: CreditHouse, caplog: pytest.LogCaptureFixture) -> None:
    """Off loopback the dev wallet is refused before anything listens; allowed, the log says loudly what it is."""

    async def opened(lightning: Lightning) -> None:
        await type(house.office).open(
            ledger=house.books.ledger,
            topups=house.books.topups,
            shelf=house.books.shelf,
            credit=house.credit,
            register=house.register,
            lightning=lightning,
            topup_url=str,
            clock=house.hours,
            rng=house.office._watcher._rng,  # type: ignore[union-attr] -- there is one
            hosts=["localhost", "0.0.0.0"],  # noqa: S104 -- the case under test
        )

    with pytest.raises(ConfigError, match="allow_off_loopback"):
        await opened(Lightning())
    await opened(Lightning(backend="off"))
    assert "play money" not in caplog.text
    allowed = replace(Lightning(), dev=replace(Lightning().dev, allow_off_loopback=True))
    with caplog.at_level(logging.WARNING):
        await opened(allowed)
    assert "play money" in caplog.text


async def test_no_preimage_is_ever_logged(house: CreditHouse, caplog: pytest.LogCaptureFixture) -> None:
    """Before the payment it would let others take it, and after it it is the payer's proof: no log line holds one."""
    caplog.set_level(logging.DEBUG)
    asked = await house.ask()
    [kept] = house.dev._invoices.values()
    house.node.lie = lambda said: replace(said, preimage=bytes(32)) if said.preimage else said
    await house.pay(asked)
    await house.pass_(61)
    house.node.lie = lambda said: said
    await house.pass_(61)
    await house.check(500 * SAT)
    text = caplog.text + "".join(str(vars(record)) for record in caplog.records)
    assert "not credited" in text
    assert kept.preimage.hex() not in text
    assert str(kept.preimage) not in text
    await quiet()
