"""`spantoll verify`: whole books have no finding, and each thing that can be wrong is found, by its own check."""

from __future__ import annotations

import json
from pathlib import Path

import apsw
import pytest
from click.testing import CliRunner

from receiver.cli import main
from receiver.store.migrations import VERSION
from receiver.store.retention import roll_up
from receiver.store.verify import CHECKS, MAX_FINDINGS, NoBooks, verify
from tests.integration.books import accept, charge, filled, opened, top_up

DATABASE = "spantoll.db"


async def test_whole_books_have_no_finding_while_they_are_written(tmp_path: Path) -> None:
    """Before, during and after a life; everything was looked at, and nothing was changed."""
    await filled(tmp_path)
    told: list[str] = []
    verified = verify(tmp_path / DATABASE, progress=lambda check, _done, _total: told.append(check))
    assert verified.findings == ()
    assert verified.counted == verified.counted | {
        "journal rows": 21, "journalled spans": 24, "charges": 9, "transfers": 14, "top-ups": 1
    }  # fmt: skip
    assert list(dict.fromkeys(told)) == [name for name, _ in CHECKS]
    async with opened(tmp_path) as (books, metrics):
        await accept(books, trace=50)
        assert verify(tmp_path / DATABASE).findings == ()
        await charge(books, trace=50)
        await top_up(books, 2)
        await books.journal.snapshot(metrics.series())
        assert verify(tmp_path / DATABASE).findings == ()
    assert verify(tmp_path / DATABASE).findings == ()


async def test_charges_that_were_rolled_up_still_add_up(tmp_path: Path) -> None:
    """The counters are those of single charges and daily sums together."""
    await filled(tmp_path)
    async with opened(tmp_path) as (books, metrics):
        await books.journal.snapshot(metrics.series())
        moved = await books.journal.writer.call(lambda connection: roll_up(connection, before_unix_nano=86_400 * 10**9 * 30_000))
        assert moved == 9
    verified = verify(tmp_path / DATABASE)
    assert verified.findings == ()
    assert verified.counted["charges"] == 0


#: What somebody did to the database, and which check says so.
DAMAGE = [
    ("UPDATE journal SET body = zeroblob(length(body)) WHERE seq = 3", "journal", "checksum of row 3"),
    ("UPDATE journal SET body = x'ff', crc = 4278190080 WHERE seq = 1", "journal", "row 1 is none"),
    ("UPDATE marks SET value = 1000 WHERE name = 'snapshot_seq'", "journal", "behind the last row"),
    ("UPDATE charges SET close_seq = 1000 WHERE id = 1", "journal", "behind the last row"),
    ("UPDATE charges SET uncached = uncached + 1 WHERE id = 1", "charges", "its parts are 101"),
    ("UPDATE charges SET reasoning = 99 WHERE id = 1", "charges", "99 of them reasoning"),
    ("UPDATE charges SET cost_pusd = 0 WHERE basis = 'unpriced'", "charges", "its basis unpriced"),
    ("UPDATE charges SET cost_pusd = cost_pusd + 1 WHERE id = 1", "counters", "cost (pico-USD) of all series together"),
    ("DELETE FROM charges WHERE id = 2", "counters", "calls of all series together: 5, of all charges: 4"),
    ("UPDATE series SET numbers = '[0,0,0,0,0,0]' WHERE family = 'calls'", "counters", "output tokens"),
    ("UPDATE totals SET credits_msat = credits_msat + 1 WHERE ledger_account = 'customer:acme'", "ledger", "customer:acme: debits"),
    ("UPDATE totals SET credits_msat = credits_msat + 1 WHERE ledger_account = 'customer:acme'", "ledger", "are 1 msat, not 0"),
    ("DELETE FROM totals WHERE ledger_account = 'usage:'", "ledger", "usage:"),
    ("DROP TRIGGER transfers_stay; DELETE FROM transfers WHERE code = 'topup'", "top-ups", "is settled, but its"),
    ("DROP TRIGGER transfers_do_not_change; UPDATE transfers SET id = 'journal:999' WHERE number = 3", "ledger", "row that never was"),
    ("DROP TRIGGER settled_stays; UPDATE topups SET preimage = zeroblob(32)", "top-ups", "does not hash to it"),
    ("DELETE FROM topups", "top-ups", "no top-up is settled for it"),
]  # fmt: skip


@pytest.mark.parametrize(("statement", "check", "says"), DAMAGE, ids=[f"{check}-{at}" for at, (_, check, _) in enumerate(DAMAGE)])
async def test_each_thing_that_can_be_wrong_is_found(tmp_path: Path, statement: str, check: str, says: str) -> None:
    """By a check that names it; where SQLite holds the rule itself, the check of the pages says so too."""
    await filled(tmp_path)
    connection = apsw.Connection(str(tmp_path / DATABASE))
    connection.pragma("ignore_check_constraints", True)
    connection.execute(statement)
    connection.close()
    found = [finding for finding in _findings(tmp_path / DATABASE) if finding.check == check]
    assert any(says in finding.what for finding in found), found


def _findings(path: Path):
    """All checks, also those behind the check of the pages."""
    from receiver.store import verify as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHECKS", tuple(pair for pair in CHECKS if pair[0] != "pages"))
        return verify(path).findings


async def test_damaged_pages_end_it_there(tmp_path: Path) -> None:
    """What stands in them says nothing more."""
    await filled(tmp_path, traces=60)
    path = tmp_path / DATABASE
    connection = apsw.Connection(str(path))
    root = connection.execute("SELECT max(rootpage) FROM sqlite_schema WHERE tbl_name = 'charges' AND type = 'index'").get
    connection.close()
    data = bytearray(path.read_bytes())
    data[4096 * (root - 1) + 100 : 4096 * root] = bytes(4096 - 100)
    path.write_bytes(data)
    verified = verify(path)
    assert {finding.check for finding in verified.findings} == {"pages"}
    assert len(verified.findings) <= MAX_FINDINGS + 1


async def test_what_is_no_database_of_ours_is_said(tmp_path: Path) -> None:
    """No finding, but a sentence that says what it is."""
    with pytest.raises(NoBooks, match="there is no database"):
        verify(tmp_path / DATABASE)
    (tmp_path / "text").write_text("no database" * 1_000)
    with pytest.raises(NoBooks, match="no SQLite database"):
        verify(tmp_path / "text")
    other = apsw.Connection(str(tmp_path / "other.db"))
    other.execute("CREATE TABLE t (x)")
    other.close()
    with pytest.raises(NoBooks, match="another program"):
        verify(tmp_path / "other.db")
    await filled(tmp_path)
    connection = apsw.Connection(str(tmp_path / DATABASE))
    connection.pragma("user_version", VERSION + 1)
    connection.close()
    with pytest.raises(NoBooks, match=f"schema {VERSION + 1}"):
        verify(tmp_path / DATABASE)


async def test_the_verb_shows_it_and_ends_with_1(tmp_path: Path) -> None:
    """A table for eyes and JSON for programs; a folder or a file; 0 for whole books."""
    await filled(tmp_path)
    whole = CliRunner().invoke(main, ["verify", str(tmp_path), "--format", "table"])
    assert whole.exit_code == 0, whole.output
    assert "counters  whole" in whole.output
    assert "9 charges" in whole.output
    assert CliRunner().invoke(main, ["verify", "--set", f"store.directory={tmp_path}"]).exit_code == 0
    connection = apsw.Connection(str(tmp_path / DATABASE))
    connection.execute("UPDATE charges SET cost_pusd = cost_pusd + 1 WHERE id = 1")
    connection.close()
    wrong = CliRunner().invoke(main, ["verify", str(tmp_path / DATABASE), "--format", "json"])
    assert wrong.exit_code == 1
    answer = json.loads(wrong.output)
    assert answer["whole"] is False
    assert [finding["check"] for finding in answer["findings"]] == ["counters"]
    table = CliRunner().invoke(main, ["verify", str(tmp_path), "--format", "table"])
    assert "counters  wrong" in table.output
    nothing = CliRunner().invoke(main, ["verify", str(tmp_path / "none")])
    assert nothing.exit_code == 1
    assert "there is no database" in nothing.output
