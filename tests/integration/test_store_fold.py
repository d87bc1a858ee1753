"""Old usage is folded to the lines of the statement, by nobody else and in no other way than a transfer that grows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import apsw
import pytest

from receiver.core.ledger import NANOSECONDS_A_DAY, Terms, adjust
from receiver.store import fold as fold_module
from receiver.store.books import SqliteBooks
from receiver.store.fold import UsageFold
from receiver.store.verify import verify
from tests.fakes import UNIX_NANO
from tests.integration.store_helpers import acceptance, span
from tests.integration.test_retention import DAY_SECONDS, house

TODAY = UNIX_NANO // NANOSECONDS_A_DAY * NANOSECONDS_A_DAY


async def use(books: SqliteBooks, account: str, number: int, days: float, amount_msat: int = 10) -> None:
    """Spans of so many days ago, in a commit of their own."""
    taken = replace(acceptance(span(number, trace=number), account=account), debit_msat=amount_msat)
    await books.journal.accept(replace(taken, received_unix_nano=round(TODAY - days * NANOSECONDS_A_DAY) + number))
    books.ledger.reserve(account, amount_msat, Terms(None))
    books.ledger.commit(account, amount_msat)


async def folded(books: SqliteBooks) -> list[tuple[str, int, int]]:
    """Usage as it is kept: (id, msat, how many it was)."""
    query = "SELECT id, amount_msat, folded FROM transfers WHERE code = 'usage' ORDER BY number"
    found: list[tuple[str, int, int]] = await books.journal.writer.call(lambda connection: connection.execute(query).fetchall())
    return found


async def test_the_office_folds_days_that_are_over(tmp_path: Path) -> None:
    """What is older than a day beyond its day; a correction between stays between; the newest are single; asked again nothing moves."""
    async with house(tmp_path) as made:
        books = made.books
        for number, days in enumerate((5.0, 5.0, 4.0, 4.0, 0.5, 0.5), 1):
            await use(books, "acme", number, days)
            await use(books, "other", 100 + number, days, 7)
        between = adjust("acme", client_id="1", amount_msat=5, unix_nano=TODAY - 4 * NANOSECONDS_A_DAY + 4)
        await books.ledger.post(between, Terms(None))
        await use(books, "acme", 9, 4.0)
        before = [await books.ledger.statement(name, since_unix_nano=0, until_unix_nano=2**62) for name in ("acme", "other")]
        await made.office.tidy()
        kept = await folded(books)
        assert [row[1:] for row in kept] == [(20, 2), (14, 2), (20, 2), (14, 2), (10, 1), (7, 1), (10, 1), (7, 1), (10, 1)]
        assert [await books.ledger.statement(name, since_unix_nano=0, until_unix_nano=2**62) for name in ("acme", "other")] == before
        await made.office.tidy()
        assert await folded(books) == kept
        made.clock.advance(3 * DAY_SECONDS)
        await made.office.tidy()
        assert len(await folded(books)) == 7, "another day is over"
        assert (await books.ledger.audit()).balanced
    assert verify(tmp_path / "spantoll.db").findings == ()


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM transfers WHERE code = 'usage' AND unix_nano >= {until}",
        "DELETE FROM transfers WHERE code = 'adjust'",
        "UPDATE transfers SET amount_msat = amount_msat - 1, folded = folded + 1 WHERE code = 'usage'",
        "UPDATE transfers SET amount_msat = amount_msat + 1 WHERE code = 'usage'",
        "UPDATE transfers SET amount_msat = amount_msat + 1, folded = folded + 1 WHERE code = 'adjust'",
        "UPDATE transfers SET id = 'x', amount_msat = amount_msat + 1, folded = folded + 1 WHERE code = 'usage'",
        "UPDATE transfers SET unix_nano = 1, amount_msat = amount_msat + 1, folded = folded + 1 WHERE code = 'usage'",
        "UPDATE transfers SET debit_account = 'customer:x', amount_msat = amount_msat + 1, folded = folded + 1 WHERE code = 'usage'",
    ],
)
async def test_even_while_it_folds_a_transfer_can_do_nothing_but_grow(tmp_path: Path, statement: str) -> None:
    """The triggers hold within a slice too, and all of them outside of one."""
    async with house(tmp_path) as made:
        await use(made.books, "acme", 1, 3)
        await use(made.books, "acme", 2, 0)
        await made.books.ledger.post(adjust("acme", client_id="1", amount_msat=5, unix_nano=TODAY - 3 * NANOSECONDS_A_DAY), Terms(None))
        for mark in ("INSERT INTO marks VALUES ('folding', {until});", ""):

            def work(connection: apsw.Connection, mark: str = mark) -> None:
                connection.execute((mark + statement).format(until=TODAY))

            with pytest.raises(apsw.ConstraintError, match="a transfer is for good"):
                await made.books.journal.writer.call(work)


async def test_a_slice_that_would_change_a_sum_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of ours costs nobody a millisatoshi: the transfers are what they were, and open to nobody."""
    async with house(tmp_path) as made:
        for number in range(1, 4):
            await use(made.books, "acme", number, 3)
        before = await folded(made.books)
        fold_usage = UsageFold(made.books.journal.writer)
        with monkeypatch.context() as patched:
            patched.setattr(fold_module, "_GROW", fold_module._GROW.replace("amount_msat = ?", "amount_msat = ? + 1"))
            with pytest.raises(AssertionError, match="would not be what they were"):
                await fold_usage(before_unix_nano=TODAY)
        assert await folded(made.books) == before
        assert await fold_usage(before_unix_nano=TODAY) > 0
        assert [row[1:] for row in await folded(made.books)] == [(30, 3)]
    assert verify(tmp_path / "spantoll.db").findings == ()


async def test_a_mark_that_was_left_is_found(tmp_path: Path) -> None:
    """No commit of ours leaves the transfers open."""
    async with house(tmp_path) as made:
        await use(made.books, "acme", 1, 3)
    connection = apsw.Connection(str(tmp_path / "spantoll.db"))
    connection.execute("INSERT INTO marks VALUES ('folding', 1)")
    connection.close()
    (found,) = verify(tmp_path / "spantoll.db").findings
    assert "open for a change" in found.what


async def test_a_folded_debit_is_never_made_again(tmp_path: Path) -> None:
    """After a restart the next row has a number that no debit ever had, also where neither the rows nor their debits are left."""
    async with house(tmp_path) as made:
        for number in range(1, 4):
            await use(made.books, "acme", number, 3)
        await made.office.tidy()
        await made.books.journal.writer.call(lambda connection: connection.execute("DELETE FROM journal"))
    async with house(tmp_path) as made:
        await use(made.books, "acme", 4, 0)
        assert await folded(made.books) == [("journal:3", 30, 3), ("journal:4", 10, 1)]
        assert made.books.ledger.balance("acme").posted_msat == -40
