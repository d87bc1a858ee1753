"""The durable ledger: a debit exists exactly when its spans do, a payment is credited once, and no audit finds a difference."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import apsw
import pytest

from receiver.core import ledger
from receiver.core.credit import Answer, Credit, CreditPolicy
from receiver.core.invoices import InvoiceState, Verdict
from receiver.core.journal import StoreBroken, StoreFull
from receiver.core.ledger import USAGE, Outcome, Terms, Totals, Transfer, adjust, customer
from receiver.store import faults
from receiver.store.books import SqliteBooks
from receiver.store.ledger import contradictions, write
from tests.fakes import UNIX_NANO
from tests.integration.store_helpers import Restored, SlowCommit, acceptance, span
from tests.integration.test_store_books import opened, preimage, settlement, topup

PRICE_MSAT = 10
DAY_NANO = ledger.NANOSECONDS_A_DAY
FOREVER = 2**62


@pytest.fixture(autouse=True)
def _disarmed():
    yield
    faults.arm("")


async def pay(books: SqliteBooks, account: str, *numbers: int, price_msat: int = PRICE_MSAT) -> int:
    """One request of these spans, as intake stores it; the number of its row."""
    price = price_msat * len(numbers)
    assert books.ledger.reserve(account, price, Terms(None)) is Outcome.CREATED
    try:
        seq = await books.journal.accept(replace(acceptance(*map(span, numbers), account=account), debit_msat=price))
    except BaseException:
        books.ledger.release(account, price)
        raise
    books.ledger.commit(account, price)
    return seq


async def give(books: SqliteBooks, account: str, amount_msat: int, client_id: str = "gift") -> Outcome:
    return await books.ledger.post(adjust(account, client_id=client_id, amount_msat=amount_msat, unix_nano=UNIX_NANO), Terms(0))


async def transfers(books: SqliteBooks) -> list[tuple[str, str, int]]:
    query = "SELECT id, debit_account, amount_msat FROM transfers ORDER BY number"
    found: list[tuple[str, str, int]] = await books.journal.writer.call(lambda connection: connection.execute(query).fetchall())
    return found


# --- usage --------------------------------------------------------------------------------------------------------------------


async def test_the_debits_of_a_commit_are_one_transfer_an_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many requests share the commit; each names the last row of its account, and what is free leaves none."""
    slow = SlowCommit(monkeypatch)
    async with opened(tmp_path) as books:
        first = asyncio.ensure_future(pay(books, "a", 1))
        await slow.begun()
        rest = [pay(books, "a", 2, 3), pay(books, "b", 4), pay(books, "a", 5), pay(books, "c", 7, price_msat=0), pay(books, "b", 6)]
        asked = asyncio.gather(first, *rest)
        await asyncio.sleep(0)  # each has put its row into the queue
        slow.end()
        assert await asked == [1, 2, 3, 4, 5, 6]
        assert await transfers(books) == [
            ("journal:1", "customer:a", 10), ("journal:4", "customer:a", 30), ("journal:6", "customer:b", 20),
        ]  # fmt: skip
        (line, folded) = await books.ledger.statement("a", since_unix_nano=0, until_unix_nano=FOREVER), books.ledger.balance("a")
        assert [(one.amount_msat, one.transfers, one.id) for one in line] == [(-40, 2, "journal:4")]
        assert (folded.debits_msat, folded.held_msat) == (40, 0)
        assert books.ledger.totals(USAGE) == Totals(0, 60)
    async with opened(tmp_path) as books:
        assert books.ledger.shown() == {customer("a"): Totals(40, 0), customer("b"): Totals(20, 0), USAGE: Totals(0, 60)}
        assert (await books.ledger.audit()).balanced


async def test_spans_that_are_not_stored_cost_nothing(tmp_path: Path) -> None:
    """A full disk takes neither; the price that was held is free again, and the same request goes in later."""
    async with opened(tmp_path) as books:
        faults.arm("before_commit:enospc@1")
        with pytest.raises(StoreFull):
            await pay(books, "a", 1)
        assert books.ledger.balance("a") == (0, 0, 0)
        assert await pay(books, "a", 1) > 0
        assert await transfers(books) == [("journal:2", "customer:a", 10)]
        assert (await books.ledger.audit()).balanced


async def test_a_debit_that_is_in_the_books_already_stops_the_daemon(tmp_path: Path) -> None:
    """Numbers of rows are given once, so this is not the database that we wrote: to go on would lose debits without a word."""
    broken: list[StoreBroken] = []
    async with opened(tmp_path, broke=broken.append) as books:
        row = ledger.usage("a", seq=1, amount_msat=10, unix_nano=1)
        values = (row.id, str(row.debit_account), str(row.credit_account), 10, "usage", "?", 1)
        insert = (
            "INSERT INTO transfers (id, debit_account, credit_account, amount_msat, code, cause, unix_nano) VALUES (?, ?, ?, ?, ?, ?, ?)"
        )
        await books.journal.writer.call(lambda connection: connection.execute(insert, values).fetchall())
        with pytest.raises(StoreBroken, match="journal:1: exists"):
            await pay(books, "a", 1)
        await asyncio.sleep(0)
    assert len(broken) == 1
    connection = apsw.Connection(str(tmp_path / "spantoll.db"))
    assert connection.execute("SELECT count(*) FROM journal").get == 0
    connection.close()


async def test_requests_that_arrive_together_at_the_last_credit(tmp_path: Path) -> None:
    """64 of 30 spans each, and credit for 1,000 spans: what was accepted is what was paid, and the balance never falls below 0."""
    policy = CreditPolicy(price_per_span_msat=PRICE_MSAT, enforce=True, partial=True)
    async with opened(tmp_path) as books:
        credit = Credit(books.ledger, lambda _: policy)
        await give(books, "a", 1_000 * PRICE_MSAT)

        async def request(number: int) -> int:
            await asyncio.sleep(0)
            grant = credit.reserve("a", 30)
            if grant.answer is Answer.EXHAUSTED:
                return 0
            spans = [span(100 * number + each, trace=number) for each in range(grant.spans)]
            await books.journal.accept(replace(acceptance(*spans, account="a"), debit_msat=grant.amount_msat))
            credit.commit(grant, now=0.0)
            assert books.ledger.balance("a").available_msat >= 0
            return grant.spans

        accepted = await asyncio.gather(*(request(number) for number in range(1, 65)))
        assert sum(accepted) == 1_000
        assert Counter(accepted) == {30: 33, 10: 1, 0: 30}
        assert books.ledger.balance("a").posted_msat == 0
    async with opened(tmp_path) as books:
        assert books.ledger.balance("a").posted_msat == 0
        assert len(Restored(books.journal).open_ids) == 1_000


# --- ack = "memory" -----------------------------------------------------------------------------------------------------------


async def test_in_memory_mode_a_row_that_is_lost_gives_its_debit_back(tmp_path: Path) -> None:
    """It was answered and its price committed; nobody pays for what is not there."""
    bad = span(1)
    bad.attributes = (("set", {1, 2}),)  # type: ignore[assignment] -- what no decoder makes
    async with opened(tmp_path, durable=False) as books:
        books.ledger.reserve("a", 10, Terms(None))
        lost = books.journal.accept(replace(acceptance(bad, account="a"), debit_msat=10))
        assert lost.done()
        books.ledger.commit("a", 10)
        assert books.ledger.balance("a").posted_msat == -10, "ahead of the disk by some milliseconds"
        await pay(books, "a", 2, 3)
        assert (await books.ledger.audit()).balanced
        assert books.ledger.balance("a").posted_msat == -20
    async with opened(tmp_path) as books:
        assert books.ledger.balance("a").posted_msat == -20


async def test_in_memory_mode_a_crash_loses_the_row_and_its_debit_together(tmp_path: Path) -> None:
    """The disk as it is while the commit is under way has neither; as it is behind it, both."""
    async with opened(tmp_path, durable=False) as books:
        await pay(books, "a", 1)
        await books.journal.writer.call(lambda _: None)
        faults.arm("before_commit:delay@1")
        await pay(books, "a", 2, 3)
        assert books.ledger.balance("a").posted_msat == -30
        crashed = copied(tmp_path, tmp_path / "crashed")
    for folder, ids in ((crashed, 1), (tmp_path, 3)):
        async with opened(folder) as books:
            assert len(Restored(books.journal).open_ids) == ids
            assert books.ledger.balance("a").posted_msat == -PRICE_MSAT * ids
            assert (await books.ledger.audit()).balanced


def copied(folder: Path, to: Path) -> Path:
    """The files as a crash leaves them now."""
    to.mkdir()
    for path in folder.glob("spantoll.db*"):
        if not path.name.endswith("-shm"):  # shared memory goes with the process
            shutil.copyfile(path, to / path.name)
    return to


# --- settlements --------------------------------------------------------------------------------------------------------------


async def test_a_payment_is_credited_once(tmp_path: Path) -> None:
    """Told at once, again, and after a restart; what was received counts."""
    row = topup(1)
    paid = settlement(row, 1, received_msat=1_234)
    async with opened(tmp_path) as books:
        await books.topups.add(row)
        told = await asyncio.gather(*(books.ledger.settle(paid) for _ in range(5)))
        assert [one.outcome for one in told] == [Outcome.CREATED, *[Outcome.EXISTS] * 4]
        assert books.ledger.balance("acme").posted_msat == 1_234
    async with opened(tmp_path) as books:
        assert (await books.ledger.settle(paid)).outcome is Outcome.EXISTS
        different = await books.ledger.settle(replace(paid, received_msat=9_999))
        assert different.outcome is Outcome.EXISTS_WITH_DIFFERENT_CONTENT
        found = await books.topups.find(row.payment_hash)
        assert found is not None
        assert (found.state, found.received_msat) == (InvoiceState.SETTLED, 1_234)
        assert books.ledger.balance("acme").posted_msat == 1_234
        assert (await books.ledger.audit()).balanced


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({"payment_hash": bytes(32)}, Verdict.FOREIGN),
        ({"preimage": b""}, Verdict.PREIMAGE_MISSING),
        ({"preimage": preimage(2)}, Verdict.PREIMAGE_WRONG),
        ({"received_msat": 0}, Verdict.AMOUNT_MISSING),
    ],
)
async def test_what_is_not_proven_credits_nothing(tmp_path: Path, change: dict[str, object], verdict: Verdict) -> None:
    """The row stays open and the books stand still."""
    async with opened(tmp_path) as books:
        await books.topups.add(topup(1))
        said = await books.ledger.settle(replace(settlement(topup(1), 1), **change))  # type: ignore[arg-type] -- by name
        assert (said.verdict, said.outcome) == (verdict, None)
        assert books.ledger.shown() == {}
        assert await books.topups.find(topup(1).payment_hash) == topup(1)


async def test_a_credit_whose_row_was_left_open_settles_the_row(tmp_path: Path) -> None:
    """Such books are none of ours, but a restored backup of one table must not leave a paid invoice open for ever."""
    row, paid = topup(1), settlement(topup(1), 1)
    async with opened(tmp_path) as books:
        await books.topups.add(row)
        transfer = ledger.topup("acme", payment_hash=row.payment_hash, network="regtest", amount_msat=1_000, unix_nano=1)
        assert await books.ledger.post(transfer, Terms()) is Outcome.CREATED
        assert len(await books.journal.writer.call(lambda c: list(contradictions(c)))) == 1
        assert (await books.ledger.settle(paid)).outcome is Outcome.EXISTS
        found = await books.topups.find(row.payment_hash)
        assert found is not None
        assert (found.state, found.preimage) == (InvoiceState.SETTLED, preimage(1))
        assert books.ledger.balance("acme").posted_msat == 1_000
        assert await books.journal.writer.call(lambda c: list(contradictions(c))) == []


async def test_a_receipt_without_its_credit_is_found(tmp_path: Path) -> None:
    """Whoever verifies the books hears of it, with the account and the amount."""
    async with opened(tmp_path) as books:
        await books.topups.add(topup(1))
        settle = "UPDATE topups SET state = 'settled', received_msat = 5, settled_unix_nano = 1, preimage = zeroblob(32)"
        await books.journal.writer.call(lambda connection: connection.execute(settle).fetchall())
        (said,) = await books.journal.writer.call(lambda c: list(contradictions(c)))
        assert topup(1).payment_hash.hex() in said
        assert "'acme' is settled, but its 5 msat are not credited" in said


async def test_who_asked_for_a_settlement_may_go_away(tmp_path: Path) -> None:
    """The credit stands, and the balance knows it."""
    async with opened(tmp_path) as books:
        await books.topups.add(topup(1))
        task = asyncio.ensure_future(books.ledger.settle(settlement(topup(1), 1)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await books.ledger.audit()).balanced
        assert books.ledger.balance("acme").posted_msat == 1_000


# --- adjustments --------------------------------------------------------------------------------------------------------------


async def test_what_the_operator_takes_is_held_until_it_is_taken(tmp_path: Path) -> None:
    """No request spends it meanwhile, and the operator takes nothing that a request has been promised."""
    async with opened(tmp_path) as books:
        await give(books, "a", 100)
        taking = asyncio.ensure_future(give(books, "a", -60, "take"))
        await asyncio.sleep(0)
        assert books.ledger.balance("a").available_msat == 40
        assert books.ledger.reserve("a", 50, Terms(0)) is Outcome.EXCEEDS_CREDITS
        assert books.ledger.reserve("a", 30, Terms(0)) is Outcome.CREATED
        assert await taking is Outcome.CREATED
        assert await give(books, "a", -11, "more") is Outcome.EXCEEDS_CREDITS
        assert books.ledger.balance("a") == (60, 100, 30)
        books.ledger.release("a", 30)
        assert await give(books, "a", -60, "take") is Outcome.EXISTS, "told again, though the account has no 60 any more"
        assert await give(books, "a", 60, "take") is Outcome.EXISTS_WITH_DIFFERENT_CONTENT
        assert await give(books, "b", -1, "debt") is Outcome.EXCEEDS_CREDITS
        disabled = adjust("a", client_id="late", amount_msat=-40, unix_nano=1)
        assert await books.ledger.post(disabled, Terms(0, enabled=False)) is Outcome.CREATED, "the operator may, the account may not"
        assert books.ledger.balance("a") == (100, 100, 0)
        assert (await books.ledger.audit()).balanced


async def test_who_asked_for_an_adjustment_may_go_away(tmp_path: Path) -> None:
    """What was held for it is debited, and held no more."""
    async with opened(tmp_path) as books:
        await give(books, "a", 100)
        task = asyncio.ensure_future(give(books, "a", -60, "take"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert (await books.ledger.audit()).balanced
        assert books.ledger.balance("a") == (60, 100, 0)


# --- statements and audits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
async def test_a_statement_is_what_the_pure_one_says(tmp_path: Path, seed: int) -> None:
    """Usage folded by day between other transfers, opening balances, any stretch of time, transfers of one moment."""
    rng = random.Random(seed)
    made: list[Transfer] = []
    async with opened(tmp_path) as books:
        for number in range(1, 120):
            account, amount_msat, at = rng.choice("ab"), rng.randint(1, 50), UNIX_NANO + number // 2 * (DAY_NANO // 7)
            kind = rng.random()
            if kind < 0.7:
                made.append(ledger.usage(account, seq=number, amount_msat=amount_msat, unix_nano=at))
            elif kind < 0.85:
                made.append(adjust(account, client_id=str(number), amount_msat=rng.choice((1, -1)) * amount_msat, unix_nano=at))
            else:
                row = topup(number, account=account)
                made.append(ledger.topup(account, payment_hash=row.payment_hash, network="regtest", amount_msat=7, unix_nano=at))
        await books.journal.writer.call(lambda connection: write(connection, made))
        for _ in range(30):
            moments = [rng.choice(made).unix_nano, rng.choice(made).unix_nano, UNIX_NANO - DAY_NANO, UNIX_NANO + 10 * DAY_NANO]
            since, until = sorted(rng.sample(moments, 2))  # a transfer of the moment `since` is in it, one of `until` is not
            account = rng.choice("abc")
            mine = [one for one in made if customer(account) in (one.debit_account, one.credit_account)]
            within = [one for one in mine if since <= one.unix_nano < until]
            before = ledger.derive([one for one in mine if one.unix_nano < since]).get(customer(account), Totals()).net_msat
            said = await books.ledger.statement(account, since_unix_nano=since, until_unix_nano=until)
            assert said == ledger.statement(account, within, opening_msat=before)


async def test_audits_under_load_find_nothing(tmp_path: Path) -> None:
    """A balance that is on its way is no difference: requests, payments and corrections go on while the books are checked."""
    async with opened(tmp_path) as books:
        done = asyncio.Event()
        audits = 0

        async def check() -> None:
            nonlocal audits
            while not done.is_set():
                found = await books.ledger.audit()
                assert found.balanced, found
                audits += 1

        async def client(first: int) -> None:
            for number in range(first, first + 60):
                account = "abc"[number % 3]
                await pay(books, account, number)
                if number % 5 == 0:
                    await books.topups.add(topup(number, account=account))
                    await books.ledger.settle(settlement(topup(number, account=account), number))
                    await give(books, account, -7, str(number))

        checking = asyncio.ensure_future(check())
        await asyncio.gather(*(client(1_000 * each) for each in range(1, 9)))
        done.set()
        await checking
        assert audits > 3
        assert sum(books.ledger.balance(account).debits_msat for account in "abc") == 8 * 60 * PRICE_MSAT + 8 * 12 * 7


async def test_what_is_on_its_way_is_no_difference(tmp_path: Path) -> None:
    """A debit that the disk has and the balance only holds; and in memory mode one that the balance has and the disk not yet."""
    async with opened(tmp_path) as books:
        books.ledger.reserve("a", 10, Terms(None))
        await books.journal.accept(replace(acceptance(span(1), account="a"), debit_msat=10))
        assert (await books.ledger.audit()).balanced, "the disk has it, and intake is about to hear"
        books.ledger.commit("a", 10)
        assert (await books.ledger.audit()).balanced
    async with opened(tmp_path, durable=False) as books:
        Restored(books.journal)
        faults.arm("before_commit:delay@1")
        await pay(books, "a", 2)
        assert (await books.ledger.audit()).balanced
        assert books.ledger.balance("a").posted_msat == -20


async def test_an_audit_finds_every_kind_of_difference(tmp_path: Path) -> None:
    """A stored total that was edited, a transfer that has no total, a balance in memory that went astray."""
    async with opened(tmp_path) as books:
        await give(books, "a", 100)
        await pay(books, "a", 1)
        assert (await books.ledger.audit()).balanced
        books.ledger.posted(adjust("a", client_id="x", amount_msat=5, unix_nano=1))
        found = await books.ledger.audit()
        assert not found.balanced
        assert (customer("a"), Totals(10, 100), Totals(10, 105)) in found.differences
        books.ledger.posted(adjust("a", client_id="y", amount_msat=-5, unix_nano=1))  # now both sides are too large
        assert {account.kind for account, _, _ in (await books.ledger.audit()).differences} == {ledger.Kind.CUSTOMER, ledger.Kind.ADJUST}
        edit = "UPDATE totals SET credits_msat = credits_msat + 3 WHERE ledger_account = 'customer:a'"
        await books.journal.writer.call(lambda connection: connection.execute(edit).fetchall())
        found = await books.ledger.audit()
        assert found.sum_msat == 3
        assert (customer("a"), Totals(10, 100), Totals(10, 103)) in found.differences
        insert = (
            "INSERT INTO transfers (id, debit_account, credit_account, amount_msat, code, cause, unix_nano)"
            " VALUES ('adjust:z', 'adjust:', 'customer:b', 9, 'adjust', '', 1)"
        )
        await books.journal.writer.call(lambda connection: connection.execute(insert).fetchall())
        assert (customer("b"), Totals(0, 9), Totals()) in (await books.ledger.audit()).differences
