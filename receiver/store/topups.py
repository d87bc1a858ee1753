"""Top-ups in the journal's database (see `core.invoices.TopUps`), and how far each node's stream was heard."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import apsw

from receiver.core.invoices import InvoiceState, TopUp
from receiver.core.play_money import MONEY, Played
from receiver.errors import ReceiverError
from receiver.store.reader import Reader
from receiver.store.writer import Writer

_COLUMNS: Final = (
    "payment_hash", "account", "bolt11", "amount_msat", "network", "payee", "created_unix_nano", "expires_unix_nano",
    "state", "received_msat", "settled_unix_nano", "preimage",
)  # fmt: skip
_SELECT: Final = f"SELECT {', '.join(_COLUMNS)} FROM topups"  # noqa: S608 -- names of our own
_INSERT: Final = f"INSERT INTO topups ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608 -- names of our own

_HAS_PLAYED: Final = "SELECT EXISTS (SELECT 1 FROM totals WHERE ledger_account LIKE 'lightning:%' AND ledger_account <> ?)"
_RECEIVED: Final = """
    SELECT account, networks, received_msat, (
        SELECT coalesce(sum(amount_msat), 0) FROM transfers WHERE debit_account = 'customer:' || account AND unix_nano < since_unix_nano
    ) FROM (
        SELECT account, group_concat(DISTINCT network) AS networks, sum(received_msat) AS received_msat,
            min(settled_unix_nano) AS since_unix_nano
        FROM topups WHERE state = 'settled' AND network <> ? GROUP BY account
    )
"""


class PaymentHashTaken(ReceiverError):
    """A node gave an invoice the payment hash of an earlier one, whose payer knows the preimage: whoever paid it now might pay him."""


class SqliteTopUps:
    """TopUps in a database. What has resolved is durable, whatever `store.ack` says."""

    def __init__(self, writer: Writer, reader: Reader) -> None:
        self._writer = writer
        self._reader = reader

    async def add(self, topup: TopUp) -> None:
        """Raises PaymentHashTaken, StoreFull, StoreBroken: it was not kept."""

        def work(connection: apsw.Connection) -> None:
            if find(connection, topup.payment_hash) is not None:
                raise PaymentHashTaken("the Lightning node gave an invoice whose payment hash it had given before: it is not used")
            connection.execute(_INSERT, _flat(topup))

        await self._writer.call(work)

    async def find(self, payment_hash: bytes) -> TopUp | None:
        return await self._reader.ask(lambda connection: find(connection, payment_hash))

    async def find_all(self, payment_hashes: Collection[bytes]) -> Mapping[bytes, TopUp]:
        where = "WHERE payment_hash IN (SELECT unhex(value) FROM json_each(?))"
        named = json.dumps([each.hex() for each in payment_hashes])
        found = await self._reader.ask(lambda connection: _all(connection, where, named))
        return {row.payment_hash: row for row in found}

    async def of_account(self, account: str, *, limit: int) -> Sequence[TopUp]:
        where = "WHERE account = ? ORDER BY created_unix_nano DESC, payment_hash LIMIT ?"
        return await self._reader.ask(lambda connection: _all(connection, where, account, limit))

    async def unsettled(self, *, watched_since_unix_nano: int) -> Sequence[TopUp]:
        where = "WHERE state <> 'settled' AND expires_unix_nano >= ? ORDER BY created_unix_nano, payment_hash"
        return await self._reader.ask(lambda connection: _all(connection, where, watched_since_unix_nano))

    async def counts(self) -> Mapping[InvoiceState, int]:
        def work(connection: apsw.Connection) -> Mapping[InvoiceState, int]:
            rows = connection.execute("SELECT state, count(*) FROM topups GROUP BY state")
            return {InvoiceState(state): count for state, count in rows}

        return await self._reader.ask(work)

    async def move(self, payment_hash: bytes, *, before: InvoiceState, after: InvoiceState) -> bool:
        assert InvoiceState.SETTLED not in (before, after), "the ledger alone settles"

        def work(connection: apsw.Connection) -> bool:
            connection.execute(
                "UPDATE topups SET state = ? WHERE payment_hash = ? AND state = ?", (after.value, payment_hash, before.value)
            )
            return connection.changes() == 1

        moved: bool = await self._writer.call(work)
        return moved

    async def played(self) -> Sequence[Played]:
        """What each account was credited on other networks than Bitcoin's own; reads all receipts where there is any of it."""
        return await self._reader.ask(_played)

    async def is_money_in(self) -> bool:
        """Whether anything was ever credited on Bitcoin's own network."""
        known = "SELECT 1 FROM totals WHERE ledger_account = ?"
        return await self._reader.ask(lambda connection: connection.execute(known, (f"lightning:{MONEY}",)).get is not None)

    async def cursor(self, node: str) -> str | None:
        return await self._reader.ask(lambda connection: connection.execute("SELECT cursor FROM cursors WHERE node = ?", (node,)).get)

    async def keep_cursor(self, node: str, cursor: str) -> None:
        statement = "INSERT INTO cursors VALUES (?, ?) ON CONFLICT (node) DO UPDATE SET cursor = excluded.cursor"

        def work(connection: apsw.Connection) -> None:
            connection.execute(statement, (node, cursor))

        await self._writer.call(work)


def find(connection: apsw.Connection, payment_hash: bytes) -> TopUp | None:
    """The top-up with this hash, in any transaction."""
    found = _all(connection, "WHERE payment_hash = ?", payment_hash)
    return found[0] if found else None


def settle(connection: apsw.Connection, topup: TopUp) -> None:
    """Write a settled top-up over the unsettled one, in the transaction that credits it."""
    assert topup.state is InvoiceState.SETTLED
    connection.execute(
        "UPDATE topups SET state = ?, received_msat = ?, settled_unix_nano = ?, preimage = ? WHERE payment_hash = ?",
        (topup.state.value, topup.received_msat, topup.settled_unix_nano, topup.preimage, topup.payment_hash),
    )


def _played(connection: apsw.Connection) -> Sequence[Played]:
    if not connection.execute(_HAS_PLAYED, (f"lightning:{MONEY}",)).get:
        return []
    rows: list[Any] = connection.execute(_RECEIVED, (MONEY,)).fetchall()
    return [
        Played(account, tuple(sorted(networks.split(","))), received_msat, spent_before_msat)
        for account, networks, received_msat, spent_before_msat in rows
    ]


def _all(connection: apsw.Connection, where: str, *values: Any) -> list[TopUp]:
    found = []
    for row in connection.execute(f"{_SELECT} {where}", values):
        fields = {name: value for name, value in zip(_COLUMNS, row, strict=True) if value is not None}
        found.append(TopUp(**fields | {"state": InvoiceState(fields["state"])}))
    return found


def _flat(topup: TopUp) -> tuple[Any, ...]:
    """The columns of a top-up; what only a settled one has is NULL before."""
    settled = topup.state is InvoiceState.SETTLED
    return (
        topup.payment_hash, topup.account, topup.bolt11, topup.amount_msat, topup.network, topup.payee,
        topup.created_unix_nano, topup.expires_unix_nano, topup.state.value,
        *((topup.received_msat, topup.settled_unix_nano, topup.preimage) if settled else (None, None, None)),
    )  # fmt: skip
