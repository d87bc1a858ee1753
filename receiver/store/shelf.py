"""Short texts by name in the journal's database: where the dev wallet keeps its key and its invoices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import apsw

from receiver.store.reader import Reader
from receiver.store.writer import Writer


class SqliteShelf:
    """A shelf in a database. What has resolved is durable, whatever `store.ack` says."""

    def __init__(self, writer: Writer, reader: Reader) -> None:
        self._writer = writer
        self._reader = reader

    async def load(self) -> Mapping[str, str]:
        """Everything that was kept."""
        return await self._reader.ask(_load)

    async def keep(self, name: str, text: str) -> None:
        """Keep `text`, in place of an earlier one of this name; resolves when it is durable."""

        def work(connection: apsw.Connection) -> None:
            connection.execute("INSERT INTO shelf VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET text = excluded.text", (name, text))

        await self._writer.call(work)


def _load(connection: apsw.Connection) -> dict[str, str]:
    rows: list[Any] = connection.execute("SELECT name, text FROM shelf").fetchall()
    return dict(rows)
