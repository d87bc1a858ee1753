"""Accounts, their keys and tokens in the journal's database (see `core.accounts.AccountBook`): one column a field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, fields
from enum import Enum
from typing import Any, Final

import apsw

from receiver.core.accounts import Account, AccountKey, AccountToken
from receiver.core.credit import OnExhausted
from receiver.store.reader import Reader
from receiver.store.writer import Writer

_ACCOUNT: Final = tuple(field.name for field in fields(Account))
_KEY: Final = tuple(field.name for field in fields(AccountKey))
#: What `topups` says is not said twice.
_DERIVED: Final = ("is_paid", "payable_until_unix_nano")
_TOKEN: Final = tuple(field.name for field in fields(AccountToken) if field.name not in _DERIVED)


def _upsert(table: str, key: str, columns: Sequence[str]) -> str:
    """Every name is one of our own."""
    news = ", ".join(f"{name} = excluded.{name}" for name in columns if name != key)
    values = ", ".join("?" * len(columns))
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({values}) ON CONFLICT ({key}) DO UPDATE SET {news}"  # noqa: S608 -- see above


_PUT_ACCOUNT: Final = _upsert("accounts", "name", _ACCOUNT)
_PUT_KEY: Final = _upsert("keys", "sha256", _KEY)
_PUT_TOKEN: Final = _upsert("tokens", "id", _TOKEN)
_TOKENS: Final = (
    f"SELECT {', '.join(f'tokens.{name}' for name in _TOKEN)}, topups.state = 'settled', topups.expires_unix_nano"  # noqa: S608 -- names of our own
    " FROM tokens JOIN topups USING (payment_hash)"
)


class SqliteAccountBook:
    """AccountBook in a database. What has resolved is durable, whatever `store.ack` says."""

    def __init__(self, writer: Writer, reader: Reader) -> None:
        self._writer = writer
        self._reader = reader

    async def accounts(self) -> Sequence[Account]:
        return await self._reader.ask(_accounts)

    async def keys(self) -> Sequence[AccountKey]:
        return await self._reader.ask(_keys)

    async def put_account(self, account: Account) -> None:
        await self._write(_PUT_ACCOUNT, tuple(map(_plain, astuple(account))))

    async def put_key(self, key: AccountKey) -> None:
        await self._write(_PUT_KEY, astuple(key))

    async def remove_key(self, sha256: bytes) -> None:
        await self._write("DELETE FROM keys WHERE sha256 = ?", (sha256,))

    async def tokens(self, *, watched_since_unix_nano: int) -> Sequence[AccountToken]:
        where = "WHERE topups.state = 'settled' OR topups.expires_unix_nano >= ? ORDER BY tokens.created_unix_nano, tokens.id"
        return await self._reader.ask(lambda connection: _tokens(connection, where, watched_since_unix_nano))

    async def token_of(self, payment_hash: bytes) -> AccountToken | None:
        found = await self._reader.ask(lambda connection: _tokens(connection, "WHERE tokens.payment_hash = ?", payment_hash))
        return found[0] if found else None

    async def put_token(self, token: AccountToken) -> None:
        await self._write(_PUT_TOKEN, tuple(getattr(token, name) for name in _TOKEN))

    async def remove_token(self, token_id: bytes) -> None:
        await self._write("DELETE FROM tokens WHERE id = ?", (token_id,))

    async def _write(self, statement: str, values: tuple[Any, ...]) -> None:
        def work(connection: apsw.Connection) -> None:
            connection.execute(statement, values)

        await self._writer.call(work)


def _accounts(connection: apsw.Connection) -> list[Account]:
    found = []
    for values in connection.execute(f"SELECT {', '.join(_ACCOUNT)} FROM accounts ORDER BY name"):  # noqa: S608 -- names of our own
        row = dict(zip(_ACCOUNT, values, strict=True))
        row["enabled"] = bool(row["enabled"])
        row["enforce"] = None if row["enforce"] is None else bool(row["enforce"])
        row["on_exhausted"] = None if row["on_exhausted"] is None else OnExhausted(row["on_exhausted"])
        found.append(Account(**row))
    return found


def _keys(connection: apsw.Connection) -> list[AccountKey]:
    rows = connection.execute(f"SELECT {', '.join(_KEY)} FROM keys ORDER BY account, created_unix_nano, sha256")  # noqa: S608 -- names of our own
    return [AccountKey(**dict(zip(_KEY, values, strict=True))) for values in rows]


def _tokens(connection: apsw.Connection, where: str, *values: Any) -> list[AccountToken]:
    names = (*_TOKEN, *_DERIVED)
    found = []
    for row in connection.execute(f"{_TOKENS} {where}", values):
        token = dict(zip(names, row, strict=True))
        found.append(AccountToken(**token | {"is_paid": bool(token["is_paid"])}))
    return found


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value
