"""Charges as rows of their table, there and back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

import apsw

from receiver.core.attribution import Charge
from receiver.core.calls.call import Doubt
from receiver.core.prices.priced import Basis, Quote
from receiver.core.usage.reading import Tokens
from receiver.store.insert import Insert

_I63: Final = (1 << 63) - 1
_SPAN_ID_BYTES: Final = 8

_QUOTE_COLUMNS: Final = (
    "basis", "cost_pusd", "price_source", "price_version", "priced_model", "priced_provider", "unpriced_reason",
    "cache_savings_pusd", "cache_premium_pusd", "at_receive_time", "price_doubts", "usage_incomplete",
)  # fmt: skip
_DIMENSION_COLUMNS: Final = Charge._fields[Charge._fields.index("model") :]
_BEFORE_TOKENS: Final = (
    "account", "trace_id", "span_id", "merged_span_ids", "start_unix_nano", "scope", "scope_version", "service", "operation",
)  # fmt: skip
_AFTER_QUOTE: Final = ("cache_mode", "cache_evidence", "outcome", "doubts")
#: In the order of the fields of a Charge, the nested ones in their place.
COLUMNS: Final = (*_BEFORE_TOKENS, *Tokens._fields, *_QUOTE_COLUMNS, *_AFTER_QUOTE, *_DIMENSION_COLUMNS)

#: Charges as `flat` makes them. One that is there already changes nothing: see `write_recounts`.
INSERT: Final = Insert(
    f"charges (close_seq, closed_unix_nano, recount, {', '.join(COLUMNS)})",
    columns=3 + len(COLUMNS),
    behind=" ON CONFLICT (account, trace_id, span_id, recount) DO NOTHING",
)
_RECOUNT: Final = "SELECT max(recount) + 1 FROM charges WHERE account = ? AND trace_id = ? AND span_id = ?"


def flat(charge: Charge, *, seq: int, unix_nano: int, recount: int = 0) -> tuple[Any, ...]:
    """The columns of a charge. SQLite's integers have 63 bits, a client's moments 64."""
    (
        account, trace_id, span_id, merged, start, scope, scope_version, service, operation, tokens, quote,
        cache_mode, cache_evidence, outcome, doubts, *dimensions,
    ) = charge  # fmt: skip
    basis, cost, source, version, model, provider, reason, savings, premium, at_receive_time, price_doubts, incomplete = quote
    return (
        seq, unix_nano, recount,
        account, trace_id, span_id, b"".join(merged) if merged else b"", min(start, _I63),
        scope, scope_version, service, operation,
        *tokens,
        basis._value_, cost, source, version, model, provider, reason, savings, premium, at_receive_time,
        " ".join(sorted(price_doubts)) if price_doubts else "", incomplete,
        cache_mode, cache_evidence, outcome, " ".join(doubts) if doubts else "",
        *dimensions,
    )  # fmt: skip


def write_recounts(connection: apsw.Connection, charges: Sequence[Charge], *, seq: int, unix_nano: int) -> int:
    """Of the charges of close `seq`, write those again that `INSERT` has left out; returns how many.

    They had been charged before: their spans were sent again after the horizon. Nothing else remembers them, so they count again,
    here as in the metrics, and are marked.
    """
    recounted = 0
    for charge in charges:
        key = (charge.account, charge.trace_id, charge.span_id)
        mine = connection.execute(
            "SELECT count(*) FROM charges WHERE account = ? AND trace_id = ? AND span_id = ? AND close_seq = ?", (*key, seq)
        ).get
        if not mine:
            recount = connection.execute(_RECOUNT, key).get
            INSERT.run(connection, flat(charge, seq=seq, unix_nano=unix_nano, recount=recount))
            recounted += 1
    return recounted


def of_closes(connection: apsw.Connection, *, after_seq: int) -> Iterator[tuple[int, Charge]]:
    """(close row, charge) of all closes after a row, in order."""
    first = connection.execute("SELECT id FROM charges WHERE close_seq <= ? ORDER BY id DESC LIMIT 1", (after_seq,)).get or 0
    rows = connection.execute(
        f"SELECT close_seq, {', '.join(COLUMNS)} FROM charges WHERE id > ? AND close_seq > ? ORDER BY id",  # noqa: S608 -- names of our own
        (first, after_seq),
    )
    for seq, *values in rows:
        yield seq, _charge(values)


def cumulative(connection: apsw.Connection, key: tuple[str, ...]) -> tuple[int, ...] | None:
    """Last value of a cumulative source."""
    found = connection.execute("SELECT numbers FROM cumulative WHERE key = ?", (json.dumps(key),)).get
    return None if found is None else tuple(json.loads(found))


def _charge(values: Sequence[Any]) -> Charge:
    """`flat` undone, but for the first three."""
    row = dict(zip(COLUMNS, values, strict=True))
    merged = row.pop("merged_span_ids")
    tokens = Tokens(**{name: row.pop(name) for name in Tokens._fields})
    quote = {name: row.pop(column) for name, column in zip(Quote._fields, _QUOTE_COLUMNS, strict=True)}
    quote["basis"] = Basis(quote["basis"])
    quote["doubts"] = frozenset(map(Doubt, quote["doubts"].split()))
    quote["at_receive_time"], quote["usage_incomplete"] = bool(quote["at_receive_time"]), bool(quote["usage_incomplete"])
    return Charge(
        merged_span_ids=tuple(merged[at : at + _SPAN_ID_BYTES] for at in range(0, len(merged), _SPAN_ID_BYTES)),
        tokens=tokens,
        quote=Quote(**quote),
        doubts=tuple(row.pop("doubts").split()),
        **row,
    )
