"""Transfers, what becomes of them, and that the books always balance."""

from __future__ import annotations

import pytest

from receiver.core import ledger
from receiver.core.books import Balances, MemoryLedger
from receiver.core.ledger import MAX_MSAT, MAX_TRANSFER_MSAT, Code, Kind, LedgerAccount, Outcome, Terms, Totals, Transfer

DAY = ledger.NANOSECONDS_A_DAY
HASH = bytes(range(32))


def paid(account: str, amount_msat: int, name: str = "gift") -> Transfer:
    return ledger.adjust(account, client_id=name, amount_msat=amount_msat, unix_nano=1)


def spent(account: str, amount_msat: int, seq: int = 1, unix_nano: int = 2) -> Transfer:
    return ledger.usage(account, seq=seq, amount_msat=amount_msat, unix_nano=unix_nano)


async def test_ids_are_derived_from_their_cause() -> None:
    """A row, a payment and a request of the operator each have one id, whoever tells of them and however often."""
    assert spent("acme", 5, seq=42).id == "journal:42"
    assert ledger.topup("acme", payment_hash=HASH, network="regtest", amount_msat=5, unix_nano=0).id == f"ln:{HASH.hex()}"
    assert paid("acme", 5, "start:acme").id == "adjust:start:acme"


async def test_usage_of_one_commit_is_one_debit_an_account() -> None:
    """A commit of many requests moves each account's money once, under the id of its last row; what is free leaves no trace."""
    folded = ledger.fold_usage([(7, "a", 10), (8, "b", 20), (9, "a", 30), (10, "c", 0)], unix_nano=5)
    assert [(t.id, t.debit_account.name, t.amount_msat, t.cause) for t in folded] == [
        ("journal:9", "a", 40, "journal rows 7 to 9"),
        ("journal:8", "b", 20, "journal row 8"),
    ]
    assert all(t.credit_account == ledger.USAGE and t.code is Code.USAGE for t in folded)


#: what was done before, then the transfer, then what becomes of it
@pytest.mark.parametrize(
    ("before", "transfer", "terms", "outcome"),
    [
        ([], paid("a", 100), Terms(), Outcome.CREATED),
        ([paid("a", 100)], paid("a", 100), Terms(), Outcome.EXISTS),
        ([paid("a", 100)], paid("a", 99), Terms(), Outcome.EXISTS_WITH_DIFFERENT_CONTENT),
        ([paid("a", 100)], paid("b", 100), Terms(), Outcome.EXISTS_WITH_DIFFERENT_CONTENT),
        ([paid("a", 100)], paid("a", -100), Terms(), Outcome.EXISTS_WITH_DIFFERENT_CONTENT),
        ([paid("a", 100)], spent("a", 100), Terms(), Outcome.CREATED),
        ([paid("a", 100)], spent("a", 101), Terms(), Outcome.EXCEEDS_CREDITS),
        ([paid("b", 100)], spent("a", 1), Terms(), Outcome.EXCEEDS_CREDITS),
        ([paid("a", 100)], spent("a", 150), Terms(50), Outcome.CREATED),
        ([paid("a", 100)], spent("a", 151), Terms(50), Outcome.EXCEEDS_CREDITS),
        ([], spent("a", 10**15), Terms(None), Outcome.CREATED),
        ([paid("a", 100)], paid("a", -100, "back"), Terms(), Outcome.CREATED),
        ([paid("a", 100)], paid("a", -101, "back"), Terms(), Outcome.EXCEEDS_CREDITS),
        ([paid("a", 100)], spent("a", 1), Terms(enabled=False), Outcome.ACCOUNT_DISABLED),
        ([paid("a", 100)], paid("a", -1, "back"), Terms(enabled=False), Outcome.CREATED),
        ([], paid("a", 1), Terms(enabled=False), Outcome.CREATED),
        ([paid("a", MAX_TRANSFER_MSAT, str(n)) for n in range(4)], paid("a", MAX_TRANSFER_MSAT, "5"), Terms(), Outcome.OVERFLOWS),
    ],
)
async def test_what_becomes_of_a_transfer(before: list[Transfer], transfer: Transfer, terms: Terms, outcome: Outcome) -> None:
    """Each outcome by its simplest story; only CREATED moves money, and the books balance after each."""
    books = MemoryLedger(before)
    shown = books.shown()
    assert await books.post(transfer, terms) is outcome
    assert (books.shown() != shown) == (outcome is Outcome.CREATED)
    assert (await books.audit()).balanced


async def test_a_reserved_debit_cannot_fail() -> None:
    """What was granted is debited, even if the operator lowered the limit or disabled the account meanwhile."""
    books = MemoryLedger([paid("a", 100)])
    assert books.reserve("a", 100, Terms()) is Outcome.CREATED
    assert ledger.decide(books, spent("a", 100), Terms(0, enabled=False), reserved=True) is Outcome.CREATED
    assert await books.post(paid("a", -1, "back"), Terms()) is Outcome.EXCEEDS_CREDITS  # it is promised already
    books.record(spent("a", 100))
    books.commit("a", 100)
    assert books.balance("a").available_msat == 0
    assert (await books.audit()).balanced


async def test_a_hold_is_spent_until_it_is_released() -> None:
    """What is held for one request is not available to another; released it is, and the posted balance never moved."""
    books = Balances({ledger.customer("a"): Totals(0, 100), ledger.ADJUST: Totals(100, 0)})
    assert books.reserve("a", 60, Terms()) is Outcome.CREATED
    assert books.reserve("a", 60, Terms()) is Outcome.EXCEEDS_CREDITS
    assert (books.balance("a").posted_msat, books.balance("a").available_msat) == (100, 40)
    books.release("a", 60)
    assert books.balance("a") == ledger.Balance(0, 100, 0)
    with pytest.raises(AssertionError):
        books.release("a", 1)


async def test_what_costs_nothing_is_granted_in_debt_too() -> None:
    """A request whose spans are all known already is acknowledged although its account stands below its limit."""
    books = Balances({ledger.customer("a"): Totals(100, 0), ledger.USAGE: Totals(0, 100)})
    assert books.reserve("a", 0, Terms()) is Outcome.CREATED
    assert books.reserve("a", 1, Terms()) is Outcome.EXCEEDS_CREDITS


async def test_sums_that_no_database_holds_are_refused() -> None:
    """A hold that would take the debits out of 64 bits is refused instead of becoming a number that a store cannot keep."""
    books = Balances({ledger.customer("a"): Totals(MAX_MSAT - 5, MAX_MSAT)})
    assert books.reserve("a", 6, Terms(None)) is Outcome.OVERFLOWS
    assert books.reserve("a", 5, Terms(None)) is Outcome.CREATED


async def test_an_audit_finds_what_was_edited() -> None:
    """A balance that somebody changed by one unit, and one without transfers, are named; the sum is no longer 0."""
    transfers = [paid("a", 100), spent("a", 30)]
    derived = ledger.derive(transfers)
    assert ledger.audit(derived, derived).balanced
    mine = ledger.customer("a")
    found = ledger.audit(derived, derived | {mine: Totals(30, 101)})
    assert (found.sum_msat, found.differences, found.balanced) == (1, ((mine, Totals(30, 100), Totals(30, 101)),), False)
    stray = LedgerAccount(Kind.CUSTOMER, "ghost")
    assert not ledger.audit(derived, derived | {stray: Totals(5, 5)}).balanced


async def test_a_statement_folds_the_usage_of_a_day() -> None:
    """Debits of one UTC day are one line with the balance after the last; a top-up between them closes it."""
    books = MemoryLedger()
    transfers = [
        paid("a", 1_000),
        spent("a", 10, 1, 10),
        spent("a", 20, 2, 11),
        ledger.topup("a", payment_hash=HASH, network="regtest", amount_msat=500, unix_nano=12),
        spent("a", 30, 3, 13),
        spent("b", 99, 4, 14),
        spent("a", 40, 5, DAY + 1),
    ]
    for transfer in transfers:
        assert await books.post(transfer, Terms(None)) is Outcome.CREATED
    lines = await books.statement("a", since_unix_nano=2, until_unix_nano=2 * DAY)
    assert [(line.code.value, line.amount_msat, line.balance_msat, line.transfers) for line in lines] == [
        ("usage", -30, 970, 2),
        ("topup", 500, 1_470, 1),
        ("usage", -30, 1_440, 1),
        ("usage", -40, 1_400, 1),
    ]
    assert [line.id for line in lines] == ["journal:2", f"ln:{HASH.hex()}", "journal:3", "journal:5"]
    assert books.balance("a").posted_msat == 1_400
    assert await books.statement("nobody", since_unix_nano=0, until_unix_nano=DAY) == []


@pytest.mark.parametrize(
    "account", [ledger.customer("acme"), ledger.customer("a:b"), ledger.USAGE, LedgerAccount(Kind.LIGHTNING, "regtest")]
)
def test_a_store_can_spell_every_ledger_account(account: LedgerAccount) -> None:
    """What `str` writes, `parse` reads, colons in names included; a kind that nobody knows is refused."""
    assert LedgerAccount.parse(str(account)) == account
    with pytest.raises(ValueError, match="nothing"):
        LedgerAccount.parse("nothing:x")
