"""The books beside the journal: an old database comes along, rules hold whoever writes, and what was kept is there after a restart."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import apsw
import pytest

from receiver.core.accounts import Account, AccountKey, AccountToken
from receiver.core.credit import OnExhausted
from receiver.core.invoices import InvoiceState, Settlement, TopUp
from receiver.core.journal import Accepted, Closed, Series, StoreBroken, StoreFull
from receiver.core.ledger import Outcome, Terms, adjust
from receiver.lightning.dev import DevWallet
from receiver.store import faults, migrations
from receiver.store.books import SqliteBooks
from receiver.store.topups import PaymentHashTaken
from tests.fakes import UNIX_NANO, ManualClock
from tests.integration.store_helpers import Restored, SlowCommit, acceptance, charge_of, close, cut, lack, span, span_id

DATA = Path(__file__).parents[1] / "data" / "store"
HOUR_NANO = 3_600 * 10**9


@pytest.fixture(autouse=True)
def _disarmed():
    yield
    faults.arm("")


@asynccontextmanager
async def opened(folder: Path, **options: Any) -> AsyncIterator[SqliteBooks]:
    books = SqliteBooks(folder / "spantoll.db", clock=ManualClock(), **options)
    try:
        yield books
    finally:
        await books.stop()


def topup(number: int, *, account: str = "acme", **more: Any) -> TopUp:
    fields: dict[str, Any] = {
        "payment_hash": hashlib.sha256(preimage(number)).digest(),
        "account": account,
        "bolt11": f"lnbcrt{number}",
        "amount_msat": 1_000 * number,
        "network": "regtest",
        "payee": "02" * 33,
        "created_unix_nano": UNIX_NANO + number,
        "expires_unix_nano": UNIX_NANO + HOUR_NANO + number,
    }
    return TopUp(**(fields | more))


def preimage(number: int) -> bytes:
    return number.to_bytes(32, "big")


def settlement(row: TopUp, number: int, *, received_msat: int | None = None) -> Settlement:
    return Settlement(
        payment_hash=row.payment_hash,
        preimage=preimage(number),
        received_msat=row.amount_msat if received_msat is None else received_msat,
        settled_unix_nano=UNIX_NANO + 10**9 * number,
    )


# --- migrations ---------------------------------------------------------------------------------------------------------------


def shape(path: Path) -> dict[str, str]:
    """The schema as SQLite keeps it, without comments and blanks."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    found = {}
    for name, text in connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL"):
        found[name] = re.sub(r"\s+", " ", re.sub(r"--[^\n]*", "", text)).replace("( ", "(").replace(" )", ")").strip()
    connection.close()
    return found


def old_database(folder: Path, version: int) -> Path:
    path = folder / "spantoll.db"
    path.write_bytes(gzip.decompress((DATA / f"version-{version}.db.gz").read_bytes()))
    return path


def test_there_is_a_database_of_each_earlier_schema() -> None:
    """What a release has written, the next ones open."""
    versions = sorted(int(path.name.split("-")[1].split(".")[0]) for path in DATA.glob("version-*.db.gz"))
    assert versions == list(range(1, migrations.VERSION))


@pytest.mark.parametrize("version", range(1, migrations.VERSION))
async def test_an_old_schema_becomes_the_one_of_a_new_database(tmp_path: Path, version: int) -> None:
    """The steps and `schema.sql` are two ways to the same tables."""
    (tmp_path / "new").mkdir()
    async with opened(tmp_path / "new"):
        pass
    path = old_database(tmp_path, version)
    async with opened(tmp_path):
        pass
    assert shape(path) == shape(tmp_path / "new" / "spantoll.db")
    connection = apsw.Connection(str(path))
    assert connection.pragma("user_version") == migrations.VERSION
    steps = connection.execute("SELECT version, applied_unix_nano FROM migrations ORDER BY version").fetchall()
    assert [number for number, _ in steps] == list(range(version, migrations.VERSION + 1)), "each step is on record, from its birth on"
    connection.close()


async def test_the_rows_of_version_1_come_along_and_credit_begins(tmp_path: Path) -> None:
    """Spans, closes, charges, missing calls, cumulative values and counters are as they were; the ledger begins at 0 and works."""
    old_database(tmp_path, 1)
    async with opened(tmp_path) as books:
        restored = Restored(books.journal)
        (remembered,) = restored.remembered.values()
        assert cut(remembered.ids) == cut(remembered.charged) == [span_id(1), span_id(2)]
        assert restored.open_ids == [span_id(3), span_id(4)]
        assert [accepted.account for accepted in restored.opened] == ["acme", "default"]
        assert books.journal.series() == [Series("calls", (("account", "acme"),), (10**30, 2), 7)]
        assert books.journal.cumulative(("k",)) == (10**30,)
        (after,) = books.journal.unobserved()
        assert isinstance(after, Accepted)
        assert (after.seq, after.account) == (4, "default")
        charges = await books.journal.writer.call(lambda c: c.execute("SELECT span_id, cost_pusd FROM charges ORDER BY id").fetchall())
        assert charges == [(span_id(1), charge_of(1).quote.cost_pusd), (span_id(2), None)]
        assert await books.journal.writer.call(lambda c: c.execute("SELECT reason FROM missing").get) == lack(9).reason
        assert books.ledger.shown() == {}
        await books.journal.accept(replace(acceptance(span(5)), debit_msat=10))
        assert (await books.ledger.statement("acme", since_unix_nano=0, until_unix_nano=UNIX_NANO))[0].id == "journal:5"


async def test_money_and_keys_of_version_2_come_along_and_tokens_begin(tmp_path: Path) -> None:
    """Accounts, keys, receipts and balances are as they were; a payment can be an account from then on."""
    old_database(tmp_path, 2)
    async with opened(tmp_path) as books:
        (account,) = await books.accounts.accounts()
        assert (account.name, account.note, account.enforce, account.on_exhausted) == ("acme", "of version 2", True, OnExhausted.HOLD)
        assert [key.hint for key in await books.accounts.keys()] == ["spt_Ab3d"]
        assert books.ledger.balance("acme").posted_msat == 1_000 + 5_000 - 10
        assert (await books.ledger.audit()).balanced
        assert [row.state for row in await books.topups.of_account("acme", limit=9)] == [InvoiceState.OPEN, InvoiceState.SETTLED]
        assert await books.topups.cursor("02ab") == "7"
        assert await books.accounts.tokens(watched_since_unix_nano=0) == []
        await books.accounts.put_token(token_of(1))
        assert (await books.accounts.tokens(watched_since_unix_nano=2**62))[0].is_paid


def token_of(number: int, **more: Any) -> AccountToken:
    """The token of `topup(number)`."""
    fields: dict[str, Any] = {
        "id": bytes([number]) * 32,
        "account": f"l402:{number:016x}",
        "payment_hash": topup(number).payment_hash,
        "root_key": bytes([number + 100]) * 32,
        "created_unix_nano": UNIX_NANO + number,
    }
    return AccountToken(**(fields | more))


async def test_a_token_is_paid_exactly_when_the_ledger_was_credited(tmp_path: Path) -> None:
    """Nobody writes it down: it follows from the commit that credits. Those that can no longer be paid are not read at a start."""
    async with opened(tmp_path) as books:
        for number in (1, 2, 3):
            await books.topups.add(topup(number, account=token_of(number).account))
            await books.accounts.put_token(token_of(number))
        await books.ledger.settle(settlement(topup(1), 1))
    async with opened(tmp_path) as books:
        found = await books.accounts.tokens(watched_since_unix_nano=topup(3).expires_unix_nano)
        assert found == [
            token_of(1, is_paid=True, payable_until_unix_nano=topup(1).expires_unix_nano),
            token_of(3, payable_until_unix_nano=topup(3).expires_unix_nano),
        ]
        assert await books.accounts.token_of(topup(2).payment_hash) == token_of(2, payable_until_unix_nano=topup(2).expires_unix_nano)
        assert await books.accounts.token_of(bytes(32)) is None
        await books.accounts.put_token(token_of(1, expires_unix_nano=7))
        assert (await books.accounts.token_of(topup(1).payment_hash)).expires_unix_nano == 7  # type: ignore[union-attr]  # it is there
        await books.accounts.remove_token(token_of(1).id)
        assert await books.accounts.token_of(topup(1).payment_hash) is None


async def test_a_step_that_fails_leaves_the_old_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A migration is one transaction: the old release still starts on what is left."""
    path = old_database(tmp_path, 1)
    before = shape(path)
    broken = migrations.Migration(2, "broken", migrations.STEPS[0].script + "CREATE TABLE journal (x);")
    monkeypatch.setattr(migrations, "STEPS", (broken,))
    with pytest.raises(Exception, match=r"damaged|already exists"):
        SqliteBooks(path, clock=ManualClock())
    assert shape(path) == before
    connection = apsw.Connection(str(path))
    assert connection.pragma("user_version") == 1
    connection.close()


# --- rules --------------------------------------------------------------------------------------------------------------------

TRANSFER = "INSERT INTO transfers (id, debit_account, credit_account, amount_msat, code, cause, unix_nano) VALUES"
ACCOUNT = "INSERT INTO accounts (name, created_unix_nano, enabled, note, {column}) VALUES ('new', 1, 1, '', {value})"


@pytest.mark.parametrize(
    "statement",
    [
        f"{TRANSFER} ('adjust:1', 'adjust:', 'customer:acme', 1, 'adjust', '', 1)",  # the id is taken
        f"{TRANSFER} ('', 'adjust:', 'customer:acme', 1, 'adjust', '', 1)",
        f"{TRANSFER} ('x', 'adjust:', 'customer:acme', 0, 'adjust', '', 1)",
        f"{TRANSFER} ('x', 'adjust:', 'customer:acme', -5, 'adjust', '', 1)",
        f"{TRANSFER} ('x', 'adjust:', 'customer:acme', 2100000000000000001, 'adjust', '', 1)",
        f"{TRANSFER} ('x', 'adjust:', 'customer:acme', 1.5, 'adjust', '', 1)",
        f"{TRANSFER} ('x', 'adjust:', 'adjust:', 1, 'adjust', '', 1)",
        f"{TRANSFER} ('x', 'acme', 'adjust:', 1, 'adjust', '', 1)",
        f"{TRANSFER} ('x', 'customer:acme', 'usage:', 1, 'adjust', '', 1)",
        f"{TRANSFER} ('x', 'customer:acme', 'adjust:', 1, 'usage', '', 1)",
        f"{TRANSFER} ('x', 'adjust:', 'customer:acme', 1, 'gift', '', 1)",
        "INSERT INTO tokens VALUES (zeroblob(32), 'acme', zeroblob(32), zeroblob(32), 1, NULL)",
        "INSERT INTO tokens VALUES (zeroblob(31), 'l402:1', zeroblob(32), zeroblob(32), 1, NULL)",
        "INSERT INTO tokens VALUES (zeroblob(32), 'l402:1', zeroblob(32), zeroblob(16), 1, NULL)",
        "UPDATE transfers SET amount_msat = 1",
        "DELETE FROM transfers",
        "UPDATE totals SET debits_msat = -1",
        "UPDATE topups SET state = 'paid' WHERE state = 'open'",
        "UPDATE topups SET state = 'settled' WHERE state = 'open'",
        "UPDATE topups SET preimage = zeroblob(32) WHERE state = 'open'",
        "UPDATE topups SET received_msat = 5 WHERE state = 'open'",
        "UPDATE topups SET state = 'settled', received_msat = 5, settled_unix_nano = 1, preimage = zeroblob(31) WHERE state = 'open'",
        "UPDATE topups SET state = 'settled', received_msat = 0, settled_unix_nano = 1, preimage = zeroblob(32) WHERE state = 'open'",
        "UPDATE topups SET state = 'open', received_msat = NULL, settled_unix_nano = NULL, preimage = NULL WHERE state = 'settled'",
        "UPDATE topups SET received_msat = received_msat + 1 WHERE state = 'settled'",
        "UPDATE topups SET payment_hash = zeroblob(31) WHERE state = 'open'",
        "INSERT INTO keys VALUES (zeroblob(31), 'acme', 'spt_', 1, NULL)",
        "INSERT INTO keys VALUES (zeroblob(32), 'acme', 'spt_0123456789abcdef0123456789abcdef', 1, NULL)",
        ACCOUNT.format(column="on_exhausted", value="'beg'"),
        ACCOUNT.format(column="enforce", value="2"),
        ACCOUNT.format(column="price_per_span_msat", value="-1"),
        "UPDATE accounts SET name = ''",
        "INSERT INTO shelf VALUES ('', '')",
    ],
)
async def test_the_schema_refuses_what_cannot_be_true(tmp_path: Path, statement: str) -> None:
    """The books keep their rules whoever writes into them."""
    async with opened(tmp_path) as books:
        await books.ledger.post(adjust("acme", client_id="1", amount_msat=100, unix_nano=1), Terms())
        await books.topups.add(topup(1))
        await books.topups.add(topup(2))
        await books.ledger.settle(settlement(topup(2), 2))
        await books.accounts.put_account(Account(name="acme", created_unix_nano=1))
        with pytest.raises(apsw.ConstraintError):
            await books.journal.writer.call(lambda connection: connection.execute(statement).fetchall())
        assert (await books.ledger.audit()).balanced
        assert books.ledger.balance("acme").posted_msat == 2_100


# --- top-ups ------------------------------------------------------------------------------------------------------------------


async def test_topups_are_there_after_a_restart(tmp_path: Path) -> None:
    """Every state, with all that it says; the newest first; settled ones are looked up no more."""
    rows = [topup(number) for number in range(1, 5)] + [topup(5, account="other")]
    async with opened(tmp_path) as books:
        for row in rows:
            await books.topups.add(row)
        assert await books.topups.move(rows[1].payment_hash, before=InvoiceState.OPEN, after=InvoiceState.EXPIRED)
        assert not await books.topups.move(rows[1].payment_hash, before=InvoiceState.OPEN, after=InvoiceState.CANCELED)
        assert await books.topups.move(rows[2].payment_hash, before=InvoiceState.OPEN, after=InvoiceState.CANCELED)
        assert not await books.topups.move(bytes(32), before=InvoiceState.OPEN, after=InvoiceState.CANCELED)
        credited = await books.ledger.settle(settlement(rows[3], 4, received_msat=4_321))
        await books.topups.keep_cursor("02aa", "7")
        await books.topups.keep_cursor("02aa", "8")
    expected = [
        rows[0],
        rows[1].moved(InvoiceState.EXPIRED),
        rows[2].moved(InvoiceState.CANCELED),
        replace(rows[3], state=InvoiceState.SETTLED, received_msat=4_321, settled_unix_nano=UNIX_NANO + 4 * 10**9, preimage=preimage(4)),
    ]
    assert credited.topup == expected[3]
    async with opened(tmp_path) as books:
        assert [await books.topups.find(row.payment_hash) for row in expected] == expected
        assert await books.topups.find(bytes(32)) is None
        assert await books.topups.of_account("acme", limit=3) == expected[:0:-1]
        assert await books.topups.of_account("nobody", limit=3) == []
        assert await books.topups.unsettled(watched_since_unix_nano=0) == [*expected[:3], rows[4]]
        assert await books.topups.unsettled(watched_since_unix_nano=expected[2].expires_unix_nano) == [expected[2], rows[4]]
        assert await books.topups.counts() == {
            InvoiceState.OPEN: 2, InvoiceState.EXPIRED: 1, InvoiceState.CANCELED: 1, InvoiceState.SETTLED: 1,
        }  # fmt: skip
        assert await books.topups.cursor("02aa") == "8"
        assert await books.topups.cursor("02bb") is None


async def test_an_invoice_with_the_hash_of_another_is_not_kept(tmp_path: Path) -> None:
    """Whoever paid the first one knows its preimage; the row of the first one stays as it is."""
    async with opened(tmp_path) as books:
        await books.topups.add(topup(1))
        with pytest.raises(PaymentHashTaken):
            await books.topups.add(topup(1, account="other", amount_msat=5))
        assert await books.topups.find(topup(1).payment_hash) == topup(1)


# --- accounts, keys, the shelf ------------------------------------------------------------------------------------------------


async def test_accounts_and_keys_are_there_after_a_restart(tmp_path: Path) -> None:
    """Each field as it was, None apart from 0 and False; the last word counts; a removed key is gone."""
    plain = Account(name="a", created_unix_nano=5)
    told = Account(
        name="b/ü@x", created_unix_nano=6, enabled=False, note="late again", enforce=False, price_per_span_msat=0, credit_limit_msat=7,
        on_exhausted=OnExhausted.HOLD, max_debt_msat=8, max_in_flight=9, max_open_spans=10, max_series=11,
    )  # fmt: skip
    keys = [
        AccountKey(sha256=bytes([number]) * 32, account="a", hint=f"spt_{number}", created_unix_nano=number, expires_unix_nano=expires)
        for number, expires in ((1, None), (2, 99), (3, None))
    ]
    async with opened(tmp_path) as books:
        await books.accounts.put_account(told)
        await books.accounts.put_account(replace(plain, enforce=True, note="?"))
        await books.accounts.put_account(plain)
        for key in keys:
            await books.accounts.put_key(key)
        await books.accounts.put_key(replace(keys[0], expires_unix_nano=1_000))
        await books.accounts.remove_key(keys[2].sha256)
        await books.accounts.remove_key(bytes(32))
    async with opened(tmp_path) as books:
        assert await books.accounts.accounts() == [plain, told]
        assert await books.accounts.keys() == [replace(keys[0], expires_unix_nano=1_000), keys[1]]


async def test_the_dev_wallet_is_the_same_after_a_restart(tmp_path: Path) -> None:
    """Its key, its invoices and what was paid lie on the shelf."""
    async with opened(tmp_path) as books:
        wallet = await DevWallet.open(books.shelf, ManualClock())
        invoice = await wallet.create(amount_msat=1_000, description="credit", expiry_seconds=3_600)
        paid = await wallet.create(amount_msat=2_000, description="credit", expiry_seconds=3_600)
        await wallet.pay(paid.bolt11)
        node = await wallet.node()
    async with opened(tmp_path) as books:
        wallet = await DevWallet.open(books.shelf, ManualClock())
        assert await wallet.node() == node
        assert await wallet.lookup(invoice.payment_hash) == invoice
        assert (await wallet.lookup(paid.payment_hash)).received_msat == 2_000


# --- one writer ---------------------------------------------------------------------------------------------------------------


async def test_what_is_asked_meanwhile_is_one_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans with their debit, a settlement, an adjustment, a key and a cursor share a transaction and its sync."""
    async with opened(tmp_path) as books:
        await asyncio.wait([books.journal.writer.call(lambda _: None)])
        before = books.journal.writer.commits
        slow = SlowCommit(monkeypatch)
        row = topup(1)
        first = asyncio.ensure_future(books.topups.add(row))
        await slow.begun()
        books.ledger.reserve("acme", 10, Terms(None))
        asked = asyncio.gather(
            first,
            asyncio.ensure_future(books.journal.accept(replace(acceptance(span(1)), debit_msat=10))),
            books.ledger.settle(settlement(row, 1)),
            books.ledger.post(adjust("acme", client_id="1", amount_msat=5, unix_nano=1), Terms()),
            books.accounts.put_key(AccountKey(sha256=bytes(32), account="acme", hint="spt_", created_unix_nano=1)),
            books.topups.keep_cursor("02aa", "1"),
        )
        await asyncio.sleep(0)  # each has put its job into the queue
        slow.end()
        await asked
        books.ledger.commit("acme", 10)
        assert books.journal.writer.commits == before + 2
        assert books.ledger.balance("acme").posted_msat == 995
        assert (await books.ledger.audit()).balanced


@pytest.mark.parametrize(("action", "error"), [("enospc", StoreFull), ("eio", StoreBroken)])
async def test_a_disk_that_fails_changes_no_book(tmp_path: Path, action: str, error: type[Exception]) -> None:
    """Whoever asked hears of it, and neither the database nor a balance has moved."""
    row = topup(1)
    async with opened(tmp_path) as books:
        await books.topups.add(row)
        await books.ledger.post(adjust("acme", client_id="1", amount_msat=500, unix_nano=1), Terms())
        faults.arm(f"before_commit:{action}")
        for asked in (
            books.ledger.settle(settlement(row, 1)),
            books.ledger.post(adjust("acme", client_id="2", amount_msat=5, unix_nano=1), Terms()),
            books.ledger.post(adjust("acme", client_id="3", amount_msat=-5, unix_nano=1), Terms()),
            books.topups.add(topup(2)),
            books.topups.move(row.payment_hash, before=InvoiceState.OPEN, after=InvoiceState.EXPIRED),
            books.accounts.put_account(Account(name="acme", created_unix_nano=1)),
            books.shelf.keep("key", "secret"),
        ):
            with pytest.raises(error):
                await asked
        balance = books.ledger.balance("acme")
        assert (balance.posted_msat, balance.held_msat) == (500, 0)
        assert await books.topups.find(row.payment_hash) == row
        faults.arm("")
        if action == "enospc":
            assert (await books.ledger.settle(settlement(row, 1))).outcome is Outcome.CREATED, "there is space again"
    async with opened(tmp_path) as books:
        assert books.ledger.balance("acme").posted_msat == (1_500 if action == "enospc" else 500)
        assert (await books.ledger.audit()).balanced
        assert await books.accounts.accounts() == []
        assert await books.shelf.load() == {}


async def test_books_that_are_closed_say_so(tmp_path: Path) -> None:
    """A reader that comes late gets an answer, and not a closed connection."""
    async with opened(tmp_path) as books:
        pass
    with pytest.raises(StoreBroken, match="closed"):
        await books.topups.find(bytes(32))


async def test_a_close_debits_nothing(tmp_path: Path) -> None:
    """Charges and credit are two books."""
    heard: list[Accepted | Closed] = []
    async with opened(tmp_path) as books:
        books.journal.watch(heard.append)
        await books.journal.accept(acceptance(span(1)))
        await books.journal.close([close((1, 0, 1), charges=[charge_of(1)])])
        assert books.ledger.shown() == {}
        assert await books.ledger.statement("acme", since_unix_nano=0, until_unix_nano=UNIX_NANO) == []
    assert isinstance(heard[0], Accepted)
    assert heard[0].debit_msat == 0
