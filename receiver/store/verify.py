"""Whether the books are whole and add up: everything that can be worked out twice is, and what differs is a finding.

It reads and changes nothing, needs no daemon, and does no harm to one that runs: each check sees one moment of the whole database.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import apsw

from receiver.core.ledger import audit
from receiver.core.money import PUSD_PER_USD
from receiver.errors import ReceiverError
from receiver.store import closes, ledger
from receiver.store.database import connect
from receiver.store.fold import FOLDING
from receiver.store.migrations import APPLICATION_ID, VERSION
from receiver.store.records import Decoder, Malformed
from receiver.store.replay import ACCEPTED
from receiver.store.restored import EPOCH

#: Findings of one check that are told; more of the same say no more.
MAX_FINDINGS: Final = 20
#: Rows that are read in one go.
SLICE_ROWS: Final = 1_024
#: Steps of SQLite's machine between two looks at the progress of one long statement: some ten milliseconds.
STATEMENT_STEPS: Final = 1_000_000

#: Told (check, what is done, of how much; 0 when nobody knows).
Progress = Callable[[str, int, int], None]


class NoBooks(ReceiverError):
    """There is nothing to verify, or nothing that this release knows."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong."""

    check: str
    what: str


@dataclass(frozen=True, slots=True)
class Verified:
    """What a verification came to."""

    findings: tuple[Finding, ...]
    counted: dict[str, int]  #: what was looked at: "journal rows", "charges", "transfers", ...


def verify(path: Path, *, progress: Progress = lambda _check, _done, _total: None) -> Verified:
    """Check a database, a backup or the one of a running daemon. It blocks, some seconds a GB.

    Raises:
        NoBooks: there is no database, or none of this release's schema.

    """
    if not path.is_file():
        raise NoBooks(f"there is no database at {path}: name one, or the folder that a daemon keeps it in")
    try:
        with closing(connect(path, reader=True)) as connection:
            _check_schema(connection, path)
            return _verified(connection, progress)
    except apsw.NotADBError as error:
        raise NoBooks(f"{path} is no SQLite database") from error
    except apsw.CantOpenError as error:
        raise NoBooks(f"{path} cannot be opened ({error}): may this user read it, and write to its folder?") from error


def _check_schema(connection: apsw.Connection, path: Path) -> None:
    try:
        found, application = connection.pragma("user_version"), connection.pragma("application_id")
    except apsw.CorruptError:
        return  # the check of the pages says what
    if application != APPLICATION_ID:
        raise NoBooks(f"{path} is a database of another program")
    if found != VERSION:
        how = "start this release on it once, which brings it up to date" if found < VERSION else "verify it with the release that wrote it"
        raise NoBooks(f"{path} has schema {found}, and this release knows {VERSION}: {how}")


def _verified(connection: apsw.Connection, progress: Progress) -> Verified:
    findings: list[Finding] = []
    counted: dict[str, int] = {}
    for name, check in CHECKS:
        progress(name, 0, 0)

        def tick(done: int, total: int = 0, name: str = name) -> None:
            progress(name, done, total)

        try:
            with connection:  # one moment
                found = [*islice(check(connection, counted, tick), MAX_FINDINGS + 1)]
        except (apsw.Error, Malformed) as error:
            found = [f"could not be read to the end ({error})"]
        if len(found) > MAX_FINDINGS:
            found[MAX_FINDINGS:] = ["… and more"]
        findings += [Finding(name, what) for what in found]
        if name == "pages" and found:
            break  # what stands in damaged pages says nothing
    return Verified(tuple(findings), counted)


# --- the checks: what each yields is wrong ----------------------------------------------------------------------------------

Tick = Callable[..., None]
Check = Callable[[apsw.Connection, dict[str, int], Tick], Iterator[str]]


def _pages(connection: apsw.Connection, counted: dict[str, int], tick: Tick) -> Iterator[str]:
    """SQLite's own check: every page, every index against its table, every CHECK and UNIQUE."""
    counted["pages"] = connection.pragma("page_count")
    steps = 0

    def look() -> bool:
        nonlocal steps
        steps += 1
        tick(steps)
        return False

    connection.set_progress_handler(look, STATEMENT_STEPS)
    try:
        for (found,) in connection.execute(f"PRAGMA integrity_check({MAX_FINDINGS + 1})"):
            if found != "ok":
                yield str(found)
        for table, row, parent, _ in connection.execute("PRAGMA foreign_key_check"):
            yield f"row {row} of {table} names one of {parent} that is not there"
    finally:
        connection.set_progress_handler(None)


def _journal(connection: apsw.Connection, counted: dict[str, int], tick: Tick) -> Iterator[str]:
    """Every row has the bytes that were written, and can be read."""
    total: int = connection.execute("SELECT count(*) FROM journal").get
    counted["journal rows"] = total
    counted["journalled spans"] = 0
    decoder = Decoder()
    done = last = 0
    while True:
        rows: list[Any] = connection.execute(
            "SELECT seq, kind, received_unix_nano, account, crc, body FROM journal WHERE seq > ? ORDER BY seq LIMIT ?", (last, SLICE_ROWS)
        ).fetchall()
        if not rows:
            break
        for seq, kind, received_unix_nano, account, crc, body in rows:
            last = seq
            if zlib.crc32(body) != crc:
                yield f"the checksum of row {seq} is wrong"
                continue
            try:
                if kind == ACCEPTED:
                    counted["journalled spans"] += len(decoder.row(body).spans(received_unix_nano=received_unix_nano))
                else:
                    closes.read(body, account=account)
            except (Malformed, IndexError, ValueError, StopIteration, RuntimeError) as error:
                yield f"row {seq} is none ({error})"
        done += len(rows)
        tick(done, total)
    highest = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'journal'").get or 0
    for name, seq in connection.execute("SELECT name, value FROM marks WHERE name IN ('snapshot_seq', ?) AND value > ?", (EPOCH, highest)):
        yield f"the mark {name} is {seq}, behind the last row that ever was ({highest})"
    for (seq,) in connection.execute("SELECT close_seq FROM charges WHERE close_seq > ? LIMIT 1", (highest,)):
        yield f"a charge is of row {seq}, behind the last row that ever was ({highest})"


def _charges(connection: apsw.Connection, counted: dict[str, int], tick: Tick) -> Iterator[str]:
    """The parts of each add up to its whole, and what has no price has no cost."""
    total: int = connection.execute("SELECT count(*) FROM charges").get
    counted["charges"] = total
    counted["daily sums"] = connection.execute("SELECT count(*) FROM daily").get
    tick(0, total)
    for row, parts, whole in connection.execute(
        "SELECT id, uncached + cache_read + cache_write_5m + cache_write_1h + cache_write_unknown AS parts, input_total FROM charges"
        " WHERE parts <> input_total"
    ):
        yield f"the input of charge {row} is {whole} tokens, its parts are {parts}"
    for row, reasoning, output in connection.execute(
        "SELECT id, reasoning, output_total FROM charges WHERE reasoning > output_total OR min(uncached, output_total, reasoning) < 0"
    ):
        yield f"the output of charge {row} is {output} tokens, {reasoning} of them reasoning"
    for row, basis, cost in connection.execute(
        "SELECT id, basis, cost_pusd FROM charges"
        " WHERE (cost_pusd IS NULL) <> (basis = 'unpriced') OR (unpriced_reason <> '' AND cost_pusd > 0)"
    ):
        yield f"the cost of charge {row} is {cost} pico-USD, its basis {basis}"
    for account, trace, span in connection.execute(
        "SELECT account, hex(trace_id), hex(span_id) FROM charges GROUP BY account, trace_id, span_id HAVING max(recount) + 1 < count(*)"
    ):
        yield f"the call of span {span.lower()} in trace {trace.lower()} of account {account!r} is charged twice as the same one"
    tick(total, total)


def _counters(connection: apsw.Connection, counted: dict[str, int], tick: Tick) -> Iterator[str]:
    """What the metrics' snapshot shows is what was charged."""
    counted["series"] = connection.execute("SELECT count(*) FROM series").get
    snapshot, epoch = (connection.execute("SELECT value FROM marks WHERE name = ?", (name,)).get or 0 for name in ("snapshot_seq", EPOCH))
    shown = [0] * len(_COUNTED)
    for number, (numbers,) in enumerate(connection.execute("SELECT numbers FROM series WHERE family = 'calls'"), 1):
        shown = [one + other for one, other in zip(shown, json.loads(numbers), strict=True)]
        tick(number)
    single = _summed(connection, epoch, snapshot)
    daily = connection.execute(_DAILY).get
    for name, is_, alone, rolled in zip(_COUNTED, shown, single, _joined(daily), strict=True):
        # what was rolled up no longer says whether it was before the epoch
        least, most = (alone, alone + rolled) if epoch else (alone + rolled,) * 2
        if not least <= is_ <= most:
            yield f"{name} of all series together: {is_}, of all charges: {most}"


def _ledger(connection: apsw.Connection, counted: dict[str, int], tick: Tick) -> Iterator[str]:
    """All balances sum to 0, and each is what its transfers say."""
    counted["transfers"] = connection.execute("SELECT count(*) FROM transfers").get
    tick(0, counted["transfers"])
    derived = ledger.derived_totals(connection)
    found = audit(derived, ledger.stored_totals(connection))
    if found.sum_msat:
        yield f"all balances together are {found.sum_msat} msat, not 0"
    for account, is_, shown in found.differences:
        yield (
            f"{account}: debits {shown.debits_msat} and credits {shown.credits_msat} msat,"
            f" by its transfers {is_.debits_msat} and {is_.credits_msat}"
        )
    highest = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'journal'").get or 0
    for (name,) in connection.execute(
        "SELECT id FROM transfers WHERE code = 'usage' AND CAST(substr(id, 9) AS INTEGER) > ? LIMIT ?", (highest, MAX_FINDINGS + 1)
    ):
        yield f"the transfer {name} is for a row that never was (the last one is {highest})"
    if connection.execute("SELECT 1 FROM marks WHERE name = ?", (FOLDING,)).get is not None:
        yield "transfers are open for a change, which no commit leaves behind: somebody else has written to this database"
    tick(counted["transfers"], counted["transfers"])


def _topups(connection: apsw.Connection, counted: dict[str, int], tick: Tick) -> Iterator[str]:
    """Every settled invoice is credited once, with a proof that fits."""
    counted["top-ups"] = connection.execute("SELECT count(*) FROM topups").get
    tick(0, counted["top-ups"])
    for done, (payment_hash, preimage) in enumerate(
        connection.execute("SELECT payment_hash, preimage FROM topups WHERE preimage IS NOT NULL"), 1
    ):
        if hashlib.sha256(preimage).digest() != payment_hash:
            yield f"the preimage of top-up {payment_hash.hex()} does not hash to it"
        tick(done, counted["top-ups"])
    yield from ledger.contradictions(connection)


#: In this order: what a later one reads, an earlier one has found whole.
CHECKS: Final[tuple[tuple[str, Check], ...]] = (
    ("pages", _pages),
    ("journal", _journal),
    ("charges", _charges),
    ("counters", _counters),
    ("ledger", _ledger),
    ("top-ups", _topups),
)

#: The columns of the metrics' series of calls, and what they are among charges and among daily sums.
_COUNTED: Final = ("cost (pico-USD)", "calls", "uncached input tokens", "cache read tokens", "cache write tokens", "output tokens")
_TOKEN_SUMS: Final = (
    "sum(uncached)",
    "sum(cache_read)",
    "sum(cache_write_5m + cache_write_1h + cache_write_unknown)",
    "sum(output_total)",
)
# pico-USD in two parts: their sum may outgrow 63 bits, which is an error in SQLite
_SINGLE: Final = (
    f"SELECT sum(cost_pusd / {PUSD_PER_USD}), sum(cost_pusd % {PUSD_PER_USD}), count(*), {', '.join(_TOKEN_SUMS)}"  # noqa: S608 -- names of our own
    " FROM charges WHERE close_seq > ? AND close_seq <= ?"
)
_DAILY: Final = f"SELECT sum(cost_usd), sum(cost_rest_pusd), sum(calls), {', '.join(_TOKEN_SUMS)} FROM daily"  # noqa: S608 -- names of our own


def _summed(connection: apsw.Connection, after: int, until: int) -> list[int]:
    return _joined(connection.execute(_SINGLE, (after, until)).get)


def _joined(row: Any) -> list[int]:
    usd, rest, *others = [number or 0 for number in row]
    return [usd * PUSD_PER_USD + rest, *others]
