"""From an empty file, or one of an older release, to the schema of this one. Never back: a newer schema refuses to start.

`schema.sql` is what a new database is made of. A change adds a step here that turns the schema before it into that of `schema.sql`; a test
holds the two ways equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

import apsw

from receiver.errors import ReceiverError

APPLICATION_ID: Final = 0x53504E54  #: "SPNT": what `file` and a careful reader see in the header of the database
VERSION: Final = 1


class ForeignDatabase(ReceiverError):
    """The file is a database, but none that this release can work with."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One step: `script` makes `version` out of the one before."""

    version: int
    name: str
    script: str


#: Steps after version 1, in order.
STEPS: tuple[Migration, ...] = ()


def schema() -> str:
    """The script that makes a new database."""
    return (resources.files("receiver.store") / "schema.sql").read_text(encoding="utf-8")


def migrate(connection: apsw.Connection, path: Path, *, unix_nano: int) -> None:
    """Bring the schema to VERSION, in one transaction. Raises ForeignDatabase."""
    found = connection.pragma("user_version")
    if found == VERSION and connection.pragma("application_id") == APPLICATION_ID:
        return
    if found > VERSION:
        raise ForeignDatabase(
            f"{path} was written by a newer release (schema {found}, this one knows {VERSION}): start that release, or restore a backup"
            " that was made before the upgrade"
        )
    is_new = found == 0
    if is_new and connection.execute("SELECT count(*) FROM sqlite_schema").get:
        raise ForeignDatabase(f"{path} is a database of another program: name another folder with store.directory")
    steps = [Migration(VERSION, "schema", schema())] if is_new else [step for step in STEPS if step.version > found]
    connection.execute("BEGIN IMMEDIATE")
    try:
        for step in steps:
            connection.execute(step.script)
            connection.execute("INSERT INTO migrations VALUES (?, ?, ?)", (step.version, step.name, unix_nano))
        connection.pragma("application_id", APPLICATION_ID)
        connection.pragma("user_version", VERSION)
        connection.execute("COMMIT")
    except BaseException:
        if not connection.get_autocommit():
            connection.execute("ROLLBACK")
        raise
