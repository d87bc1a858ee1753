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
VERSION: Final = 3


class ForeignDatabase(ReceiverError):
    """The file is a database, but none that this release can work with."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One step: `script` makes `version` out of the one before."""

    version: int
    name: str
    script: str


#: Version 2: credit, top-ups, accounts and their keys. `schema.sql` gives the reasons.
_CREDIT: Final = """
CREATE TABLE transfers (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE CHECK (id <> ''),
    debit_account TEXT NOT NULL CHECK (instr(debit_account, ':') > 1),
    credit_account TEXT NOT NULL CHECK (instr(credit_account, ':') > 1),
    amount_msat INTEGER NOT NULL CHECK (amount_msat BETWEEN 1 AND 2100000000000000000),
    code TEXT NOT NULL CHECK (code IN ('usage', 'topup', 'adjust')),
    cause TEXT NOT NULL,
    unix_nano INTEGER NOT NULL,
    CHECK (debit_account <> credit_account),
    CHECK ((code = 'usage') = (credit_account = 'usage:'))
) STRICT;
CREATE TRIGGER transfers_stay BEFORE DELETE ON transfers BEGIN SELECT RAISE(ABORT, 'a transfer is for good'); END;
CREATE TRIGGER transfers_do_not_change BEFORE UPDATE ON transfers BEGIN SELECT RAISE(ABORT, 'a transfer is for good'); END;
CREATE INDEX transfers_by_debit ON transfers (debit_account, unix_nano, amount_msat);
CREATE INDEX transfers_by_credit ON transfers (credit_account, unix_nano, amount_msat) WHERE code <> 'usage';
CREATE TABLE totals (
    ledger_account TEXT PRIMARY KEY,
    debits_msat INTEGER NOT NULL CHECK (debits_msat >= 0),
    credits_msat INTEGER NOT NULL CHECK (credits_msat >= 0)
) STRICT, WITHOUT ROWID;
CREATE TABLE topups (
    payment_hash BLOB PRIMARY KEY CHECK (length(payment_hash) = 32),
    account TEXT NOT NULL CHECK (account <> ''),
    bolt11 TEXT NOT NULL CHECK (bolt11 <> ''),
    amount_msat INTEGER NOT NULL CHECK (amount_msat > 0),
    network TEXT NOT NULL CHECK (network <> ''),
    payee TEXT NOT NULL CHECK (payee <> ''),
    created_unix_nano INTEGER NOT NULL,
    expires_unix_nano INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('open', 'settled', 'canceled', 'expired')),
    received_msat INTEGER CHECK (received_msat > 0),
    settled_unix_nano INTEGER,
    preimage BLOB CHECK (length(preimage) = 32),
    CHECK ((state = 'settled') = (received_msat IS NOT NULL)),
    CHECK ((state = 'settled') = (settled_unix_nano IS NOT NULL)),
    CHECK ((state = 'settled') = (preimage IS NOT NULL))
) STRICT;
CREATE TRIGGER settled_stays BEFORE UPDATE ON topups WHEN OLD.state = 'settled' BEGIN SELECT RAISE(ABORT, 'settled is final'); END;
CREATE INDEX topups_of_account ON topups (account, created_unix_nano);
CREATE INDEX topups_unsettled ON topups (expires_unix_nano) WHERE state <> 'settled';
CREATE TABLE cursors (
    node TEXT PRIMARY KEY CHECK (node <> ''),
    cursor TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE shelf (
    name TEXT PRIMARY KEY CHECK (name <> ''),
    text TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE accounts (
    name TEXT PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 128),
    created_unix_nano INTEGER NOT NULL,
    enabled INTEGER NOT NULL CHECK (enabled IN (0, 1)),
    note TEXT NOT NULL,
    enforce INTEGER CHECK (enforce IN (0, 1)),
    price_per_span_msat INTEGER CHECK (price_per_span_msat >= 0),
    credit_limit_msat INTEGER CHECK (credit_limit_msat >= 0),
    on_exhausted TEXT CHECK (on_exhausted IN ('drop', 'hold', 'accept')),
    max_debt_msat INTEGER CHECK (max_debt_msat >= 0),
    max_in_flight INTEGER CHECK (max_in_flight >= 0),
    max_open_spans INTEGER CHECK (max_open_spans >= 0),
    max_series INTEGER CHECK (max_series >= 0)
) STRICT, WITHOUT ROWID;
CREATE TABLE keys (
    sha256 BLOB PRIMARY KEY CHECK (length(sha256) = 32),
    account TEXT NOT NULL CHECK (account <> ''),
    hint TEXT NOT NULL CHECK (length(hint) <= 16),
    created_unix_nano INTEGER NOT NULL,
    expires_unix_nano INTEGER
) STRICT, WITHOUT ROWID;
"""

#: Version 2 as well: reports by a call's moment, daily sums in place of old charges, who was forgotten.
_PRIVACY: Final = """
DROP INDEX charges_by_start;
CREATE INDEX charges_by_moment ON charges (iif(at_receive_time, closed_unix_nano, start_unix_nano));
CREATE TABLE daily (
    id INTEGER PRIMARY KEY,
    day INTEGER NOT NULL CHECK (day >= 0),
    account TEXT NOT NULL CHECK (account <> ''),
    model TEXT, provider TEXT, agent TEXT, workflow TEXT, task TEXT, feature TEXT, route TEXT,
    tenant TEXT, prompt_version TEXT, tool TEXT,
    unpriced_reason TEXT,
    doubts TEXT NOT NULL,
    calls INTEGER NOT NULL CHECK (calls > 0),
    cost_usd INTEGER NOT NULL CHECK (cost_usd >= 0),
    cost_rest_pusd INTEGER NOT NULL CHECK (cost_rest_pusd BETWEEN 0 AND 999999999999),
    savings_usd INTEGER NOT NULL,
    savings_rest_pusd INTEGER NOT NULL CHECK (savings_rest_pusd BETWEEN 0 AND 999999999999),
    premium_usd INTEGER NOT NULL,
    premium_rest_pusd INTEGER NOT NULL CHECK (premium_rest_pusd BETWEEN 0 AND 999999999999),
    uncached INTEGER NOT NULL, cache_read INTEGER NOT NULL,
    cache_write_5m INTEGER NOT NULL, cache_write_1h INTEGER NOT NULL, cache_write_unknown INTEGER NOT NULL,
    output_total INTEGER NOT NULL, reasoning INTEGER NOT NULL,
    CHECK (unpriced_reason IS NULL OR (cost_usd = 0 AND cost_rest_pusd = 0))
) STRICT;
CREATE UNIQUE INDEX daily_by_key ON daily (
    day, account, ifnull(model, x''), ifnull(provider, x''), ifnull(agent, x''), ifnull(workflow, x''), ifnull(task, x''),
    ifnull(feature, x''), ifnull(route, x''), ifnull(tenant, x''), ifnull(prompt_version, x''), ifnull(tool, x''),
    ifnull(unpriced_reason, x''), doubts
);
CREATE TABLE daily_missing (
    day INTEGER NOT NULL CHECK (day >= 0),
    account TEXT NOT NULL CHECK (account <> ''),
    reason TEXT NOT NULL CHECK (reason <> ''),
    spans INTEGER NOT NULL CHECK (spans > 0),
    PRIMARY KEY (day, account, reason)
) STRICT, WITHOUT ROWID;
CREATE TABLE forgotten (
    account TEXT NOT NULL,
    user TEXT NOT NULL CHECK (user LIKE 'hash:%'),
    before_unix_nano INTEGER NOT NULL,
    PRIMARY KEY (account, user)
) STRICT, WITHOUT ROWID;
"""

#: Version 3: payments that are accounts.
_TOKENS: Final = """
CREATE TABLE tokens (
    id BLOB PRIMARY KEY CHECK (length(id) = 32),
    account TEXT NOT NULL CHECK (account LIKE 'l402:%'),
    payment_hash BLOB NOT NULL UNIQUE CHECK (length(payment_hash) = 32),
    root_key BLOB NOT NULL CHECK (length(root_key) = 32),
    created_unix_nano INTEGER NOT NULL,
    expires_unix_nano INTEGER
) STRICT, WITHOUT ROWID;
"""

#: Version 3 as well: usage of days that are over is folded; what the counters of a restored copy leave out.
_FOLDED: Final = """
ALTER TABLE transfers ADD COLUMN folded INTEGER NOT NULL DEFAULT 1 CHECK (folded > 0);
DROP TRIGGER transfers_stay;
DROP TRIGGER transfers_do_not_change;
CREATE TRIGGER transfers_stay BEFORE DELETE ON transfers WHEN NOT coalesce(
    OLD.code = 'usage' AND OLD.unix_nano < (SELECT value FROM marks WHERE name = 'folding'), 0
) BEGIN SELECT RAISE(ABORT, 'a transfer is for good'); END;
CREATE TRIGGER transfers_do_not_change BEFORE UPDATE ON transfers WHEN NOT coalesce(
    OLD.code = 'usage' AND OLD.unix_nano < (SELECT value FROM marks WHERE name = 'folding')
    AND NEW.number = OLD.number AND NEW.id = OLD.id AND NEW.debit_account = OLD.debit_account AND NEW.credit_account = OLD.credit_account
    AND NEW.code = OLD.code AND NEW.unix_nano = OLD.unix_nano AND NEW.amount_msat > OLD.amount_msat AND NEW.folded > OLD.folded, 0
) BEGIN SELECT RAISE(ABORT, 'a transfer is for good'); END;
CREATE TABLE epoch_totals (
    ledger_account TEXT PRIMARY KEY,
    debits_msat INTEGER NOT NULL CHECK (debits_msat >= 0),
    credits_msat INTEGER NOT NULL CHECK (credits_msat >= 0)
) STRICT, WITHOUT ROWID;
"""

#: Steps after version 1, in order.
STEPS: tuple[Migration, ...] = (Migration(2, "credit", _CREDIT + _PRIVACY), Migration(3, "tokens and folds", _TOKENS + _FOLDED))


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
