"""The watcher against the dev wallet: what was paid is credited once, whatever the node, the stream or the store do meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from receiver.core.invoices import InvoiceState, NodeState
from receiver.lightning.client import Invoice
from tests.lightning_house import House, StoreBusy, quiet

SAT = 1_000


@pytest.fixture
async def house() -> AsyncIterator[House]:
    built = await House.build()
    yield built
    if built.task is not None:
        await built.kill()


async def test_a_payment_is_credited_as_soon_as_the_node_says_so(house: House) -> None:
    """The stream makes us look at once: no time passes between the payment and the credit, and who waits is told."""
    await house.start()
    row = await house.desk.request("acme", 500 * SAT)
    waiting = asyncio.create_task(house.watcher.wait_settled(row.payment_hash, seconds=60))
    await quiet()
    await house.dev.pay(row.bolt11)
    await quiet()
    await house.check(row)
    settled = await waiting
    assert settled is not None
    assert (settled.state, settled.received_msat) == (InvoiceState.SETTLED, 500 * SAT)
    assert house.books.balance("acme").posted_msat == 500 * SAT


async def test_hints_that_come_twice_or_never_change_nothing(house: House) -> None:
    """A doubled hint credits once; a lost one is found by looking, within a minute of the payment."""
    await house.start()
    house.node.doubling = 3
    first = await house.desk.request("acme", 500 * SAT)
    await house.dev.pay(first.bolt11)
    await quiet()
    await house.check(first)
    house.node.deaf = True
    second = await house.desk.request("acme", 600 * SAT)
    await house.hours.pass_(200)
    await house.dev.pay(second.bolt11)
    await house.hours.pass_(61)
    await house.check(first, second)


@pytest.mark.parametrize("settled", [0, 1, 300])
async def test_what_was_paid_while_we_were_down_is_credited_at_start(house: House, settled: int) -> None:
    """Killed, the payments go on; started again all are credited at once, the node's very first included, cursor or not."""
    rows = [await house.desk.request(f"account-{number}", 500 * SAT) for number in range(settled)]
    await house.start()
    await house.kill()
    for row in rows:
        await house.dev.pay(row.bolt11)
    await house.start()
    for _ in range(settled // 10):
        await quiet()
    await house.check(*rows)


async def test_a_payment_between_the_last_look_and_the_subscription_is_found(house: House) -> None:
    """Paid at the moment of subscribing, with its hint lost: the look that follows every subscription finds it, without waiting."""
    row = await house.desk.request("acme", 500 * SAT)
    house.node.deaf = True
    house.node.on_subscribed = lambda: house.dev.pay(row.bolt11)
    await house.start()
    await house.check(row)


async def test_a_node_that_is_down_stops_nothing_and_is_met_when_it_is_back(house: House) -> None:
    """An outage ends neither task, is retried with growing waits, and what was paid in it is credited within a minute of its end."""
    row = await house.desk.request("acme", 500 * SAT)
    house.node.down = True
    await house.start()
    assert not house.watcher.up
    await house.hours.pass_(3_000)
    assert house.task is not None
    assert not house.task.done()
    assert len(house.node.lookups) == 0
    await house.dev.pay(row.bolt11)
    house.node.down = False
    await house.hours.pass_(72)
    assert house.watcher.up
    await house.check(row)


async def test_back_off_grows_and_is_spread(house: House, caplog: pytest.LogCaptureFixture) -> None:
    """A dead node is asked at 1, 2, 4 ... 60 s, each spread by a fifth, so an hour of outage costs a hundred tries, not thousands."""
    house.node.down = True
    caplog.set_level(logging.WARNING)
    await house.start()
    await house.hours.pass_(3_600)
    tries = [record for record in caplog.records if "stream" in record.message]
    assert 55 <= len(tries) <= 90


async def test_a_stream_that_is_cut_is_opened_again_where_it_was_left(house: House) -> None:
    """After a cut the subscription resumes from the cursor of the last payment that was looked up."""
    await house.start()
    first = await house.desk.request("acme", 500 * SAT)
    await house.dev.pay(first.bolt11)
    await quiet()
    house.node.cut.set()
    await house.hours.pass_(2)
    assert house.node.cursors == [None, "1"]
    second = await house.desk.request("acme", 600 * SAT)
    await house.dev.pay(second.bolt11)
    await quiet()
    await house.check(first, second)


@pytest.mark.parametrize("fault", [None, StoreBusy("locked"), ZeroDivisionError()], ids=["", "store busy", "our fault"])
async def test_each_subscription_is_followed_by_a_look_at_everything(house: House, fault: Exception | None) -> None:
    """A payment in the gap between two streams, with its hint lost, is found seconds after the second opened, even if a read fails."""
    await house.start()
    row = await house.desk.request("acme", 500 * SAT)
    await house.hours.pass_(185)  # by now it is looked at once a minute
    house.node.deaf = True
    house.books.unreadable = [] if fault is None else [fault]
    house.node.cut.set()
    await quiet()
    await house.dev.pay(row.bolt11)
    await house.hours.pass_(3)
    await house.check(row)


async def test_a_stream_that_opens_ends_the_wait_after_failures(house: House) -> None:
    """While lookups fail they are retried ever later; a node that takes a subscription again is asked at once."""
    await house.start()
    row = await house.desk.request("acme", 500 * SAT)
    house.node.mute = house.node.deaf = True
    await house.hours.pass_(500)
    await house.dev.pay(row.bolt11)
    house.node.mute = False
    house.node.cut.set()
    await house.hours.pass_(2)
    await house.check(row)


async def test_one_sick_payment_does_not_delay_the_others(house: House) -> None:
    """A top-up whose commit always fails is retried once a minute, and others are credited the moment they are paid."""
    await house.start()
    sick = await house.desk.request("acme", 500 * SAT)
    house.books.poison.add(sick.payment_hash)
    await house.dev.pay(sick.bolt11)
    await house.hours.pass_(590)
    well = await house.desk.request("other", 500 * SAT)
    await house.dev.pay(well.bolt11)
    await house.hours.pass_(2)
    await house.check(well)
    house.books.poison.clear()
    await house.hours.pass_(62)
    await house.check(well, sick)


async def test_no_cursor_overtakes_a_hint_that_was_not_looked_at(house: House) -> None:
    """A payment that is told of while another is being credited, and then fails, is not behind the cursor that is kept."""
    await house.start()
    rows = [await house.desk.request(account, 500 * SAT) for account in ("a", "b")]
    house.books.gate = asyncio.Event()
    await house.dev.pay(rows[0].bolt11)
    await quiet()
    await house.dev.pay(rows[1].bolt11)
    house.books.poison.add(rows[1].payment_hash)
    await quiet()
    house.books.gate.set()
    await quiet()
    await house.check(rows[0])
    assert await house.books.cursor((await house.dev.node()).payee) is None


async def test_a_cursor_beyond_the_node_hides_no_payment(house: House) -> None:
    """A node that was set up anew counts from 1 again: with a cursor far ahead its stream is silent, and lookups still find all."""
    await house.books.keep_cursor((await house.dev.node()).payee, "1000")
    house.node.deaf = True
    await house.start()
    row = await house.desk.request("acme", 500 * SAT)
    await house.dev.pay(row.bolt11)
    await house.hours.pass_(61)
    await house.check(row)


async def test_no_cursor_is_kept_for_what_was_not_credited(house: House) -> None:
    """While a commit fails the cursor stays behind, and the payment is credited when the store is well again."""
    await house.start()
    row = await house.desk.request("acme", 500 * SAT)
    house.books.failing = 3
    await house.dev.pay(row.bolt11)
    await quiet()
    payee = (await house.dev.node()).payee
    assert await house.books.cursor(payee) is None
    await house.hours.pass_(600)
    await house.check(row)
    assert await house.books.cursor(payee) == "1"


async def test_a_fault_of_ours_does_not_end_the_watch(house: House, caplog: pytest.LogCaptureFixture) -> None:
    """An exception that nobody expected is logged with its trace, and the payment is credited on the next try."""
    await house.start()
    row = await house.desk.request("acme", 500 * SAT)
    house.books.broken = 1
    await house.dev.pay(row.bolt11)
    await quiet()
    assert any(record.exc_info for record in caplog.records)
    await house.hours.pass_(120)
    await house.check(row)


@pytest.mark.parametrize(
    "lie",
    [
        lambda said: replace(said, state=NodeState.SETTLED, received_msat=10**9),
        lambda said: replace(said, state=NodeState.SETTLED, received_msat=10**9, preimage=bytes(32)),
        lambda said: replace(said, state=NodeState.HELD, received_msat=10**9),
    ],
    ids=["no preimage", "a wrong preimage", "held"],
)
async def test_a_node_that_lies_credits_nothing(house: House, lie: Callable[[Invoice], Invoice], caplog: pytest.LogCaptureFixture) -> None:
    """An answer "settled" without proof, and money that is only held, credit nothing however often they come; the payment does."""
    row = await house.desk.request("acme", 500 * SAT)
    house.node.lie = lie
    await house.start()
    await house.hours.pass_(300)
    await house.check()
    house.node.lie = lambda said: said
    preimage = await house.dev.pay(row.bolt11)
    await house.hours.pass_(61)
    await house.check(row)
    assert preimage.hex() not in caplog.text


async def test_answers_that_flap_take_nothing_back(house: House) -> None:
    """A node that calls a settled invoice open, canceled or unknown later changes neither the balance nor the state."""
    await house.start()
    row = await house.desk.request("acme", 500 * SAT)
    await house.dev.pay(row.bolt11)
    await quiet()
    for state in NodeState:
        house.node.lie = lambda said, state=state: replace(said, state=state)  # type: ignore[misc] -- a default binds the loop's value
        house.watcher.hint(row.payment_hash)
        await quiet()
    await house.check(row)
    assert (await house.books.find(row.payment_hash)).state is InvoiceState.SETTLED  # type: ignore[union-attr] -- it exists


async def test_a_late_payment_is_credited_in_the_watch_window(house: House) -> None:
    """Paid just before a wallet that takes late payments gave up, and told late: expired here, credited all the same."""
    row = await house.desk.request("acme", 500 * SAT)
    house.node.lie = lambda said: replace(said, state=NodeState.OPEN)  # the node has not noticed its payment yet
    await house.dev.pay(row.bolt11)
    await house.start()
    await house.hours.pass_(3 * 86_400)
    kept = await house.books.find(row.payment_hash)
    assert kept is not None
    assert kept.state is InvoiceState.EXPIRED
    looked = len(house.node.lookups)
    house.node.lie = lambda said: replace(said, settled_unix_nano=row.expires_unix_nano + 1)
    await house.hours.pass_(3_700)
    assert len(house.node.lookups) == looked + 1  # once an hour, no more
    await house.check(row)
    assert house.credited[0].late


async def test_after_the_watch_window_only_a_hint_makes_us_look(house: House) -> None:
    """A week after its expiry an invoice is left alone, but a payment that the node tells of is still credited."""
    row = await house.desk.request("acme", 500 * SAT)
    await house.start()
    await house.hours.pass_(8 * 86_400)
    looked = len(house.node.lookups)
    await house.hours.pass_(86_400)
    assert len(house.node.lookups) == looked
    house.node.lie = lambda said: replace(
        said, state=NodeState.SETTLED, received_msat=7, preimage=house.dev._invoices[row.payment_hash].preimage
    )
    house.books.failing = 1
    house.watcher.hint(row.payment_hash)
    await house.hours.pass_(130)  # the first commit fails, and the rows are read anew before the second
    await house.check(row)
    assert house.books.balance("acme").posted_msat == 7


async def test_a_wall_clock_that_steps_moves_no_look(house: House) -> None:
    """Set back by a day and forward by an hour, lookups go on at their pace and the payment is credited."""
    await house.start()
    house.node.deaf = True
    row = await house.desk.request("acme", 500 * SAT)
    house.hours.step_seconds = -86_400
    await house.hours.pass_(120)
    house.hours.step_seconds = 1_800
    await house.dev.pay(row.bolt11)
    await house.hours.pass_(61)
    await house.check(row)


async def test_hints_of_other_applications_ask_the_node_nothing(house: House) -> None:
    """A shared node tells of payments that are not ours: they are counted, cost no lookup and leave no trace."""
    await house.start()
    for number in range(1, 4):
        made = await house.dev.create(amount_msat=number * SAT, description="somebody else's", expiry_seconds=60)
        await house.dev.pay(made.bolt11)
    await quiet()
    assert house.watcher.counts["foreign"] == 3
    assert not house.node.lookups
    await house.check()


async def test_a_flood_of_hints_is_bounded(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """More hints than are remembered are answered by looking at everything: nothing is lost, memory stays bounded."""
    monkeypatch.setattr("receiver.lightning.watcher.MAX_HINTS", 4)
    rows = [await house.desk.request(f"account-{number}", 500 * SAT) for number in range(20)]
    await house.start()
    for row in rows:
        await house.dev.pay(row.bolt11)
    for number in range(50):
        house.watcher.hint(number.to_bytes(32))
    assert len(house.watcher._hinted) <= 4
    for _ in range(10):
        await quiet()
    await house.check(*rows)


async def test_waiting_for_a_payment_ends_in_time(house: House) -> None:
    """Who waits for a payment that does not come gets the open top-up after his seconds, and leaves nothing behind."""
    await house.start()
    row = await house.desk.request("acme", 500 * SAT)
    waiting = asyncio.create_task(house.watcher.wait_settled(row.payment_hash, seconds=30))
    await house.hours.pass_(29)
    assert not waiting.done()
    await house.hours.pass_(1)
    open_row = await waiting
    assert open_row is not None
    assert open_row.state is InvoiceState.OPEN
    assert await house.watcher.wait_settled(bytes(32), seconds=30) is None
    assert not house.watcher._waiting


async def test_a_payment_that_a_restored_backup_does_not_know_is_said(house: House, caplog: pytest.LogCaptureFixture) -> None:
    """Its invoice was made after the backup: nothing is credited on its word, but nobody's money goes in silence. Others' are no matter."""
    lost = await house.dev.create(amount_msat=500 * SAT, description="Spantoll credit for acme", expiry_seconds=3_600)
    other = await house.dev.create(amount_msat=500 * SAT, description="a pizza", expiry_seconds=3_600)
    await house.start()
    house.watcher._restored = True
    for made in (lost, other):
        await house.dev.pay(made.bolt11)
    await quiet()
    assert house.watcher.counts["foreign"] == 2
    [said] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert (said.invoice_says, said.received_msat) == ("Spantoll credit for acme", 500 * SAT)
    assert said.payment_hash == lost.payment_hash.hex()
    assert house.books.balance("acme").posted_msat == 0
