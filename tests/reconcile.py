"""The reconciler: what clients sent and were told, against what the books and the metrics say. One unit of difference is a failure.

It needs nothing of the daemon's memory: it recomputes debits, charges and counters from the requests alone. A request that was answered
OK must be in the books; one that was not may be (the answer was lost) or not, but whole, with its debit, and once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

from receiver.store.ledger import contradictions, derived_totals, stored_totals
from receiver.store.records import Decoder
from receiver.store.replay import ACCEPTED
from receiver.store.verify import verify

SpanId = tuple[bytes, bytes]  #: trace id, span id


@dataclass(frozen=True)
class Request:
    """One export request: its spans, and those of them that pay, with what they cost."""

    spans: tuple[SpanId, ...]
    calls: Mapping[SpanId, int] = field(default_factory=dict)  #: pico-USD
    account: str = "default"


class Reckoning:
    """What was sent, and what was acknowledged of it."""

    def __init__(self, *, price_msat: int) -> None:
        self._price_msat = price_msat  #: a span
        self.sent: dict[int, Request] = {}
        self.acknowledged: set[int] = set()
        self.closed: set[int] = set()  #: requests that somebody was told are charged
        self.forgotten: set[int] = set()  #: requests whose rows may be gone, for their traces left the horizon

    @property
    def unacknowledged(self) -> list[int]:
        return sorted(set(self.sent) - self.acknowledged)

    def differences(self, path: Path, *, shown: Mapping[str, int] | None = None, complete: bool = False) -> list[str]:
        """Everything that does not add up.

        Args:
            path: the database.
            shown: the counters: accepted_spans, calls, cost_pusd, debited_msat.
            complete: all was acknowledged and every trace was closed, so nothing may be left out any more.

        """
        with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as connection:
            found = [f"verify: {finding.check}: {finding.what}" for finding in verify(path).findings]
            journalled = _journalled(connection)
            charged = _charged(connection)
            debited = Counter(dict(connection.execute(_DEBITED)))
            found += contradictions(connection)
            if derived_totals(connection) != stored_totals(connection):
                found.append("the kept totals are not those of the transfers")
        found += self._spans(journalled)
        found += self._debits(journalled, debited)
        found += self._charges(charged, complete=complete)
        if complete and (missing := self.unacknowledged):
            found.append(f"never acknowledged: {missing[:5]}")
        if shown is not None:
            found += self._counters(shown, journalled, charged, debited)
        return found

    def _spans(self, journalled: Counter[tuple[str, SpanId]]) -> Iterable[str]:
        for span, times in journalled.items():
            if times > 1:
                yield f"{span} is in the journal {times} times"
        sent = {(one.account, span) for one in self.sent.values() for span in one.spans}
        if foreign := set(journalled) - sent:
            yield f"in the journal, and never sent: {sorted(foreign)[:5]}"
        for number, one in self.sent.items():
            there = sum((one.account, span) in journalled for span in one.spans)
            if number in self.acknowledged and number not in self.forgotten and there != len(one.spans):
                yield f"request {number} was acknowledged, and {there} of its {len(one.spans)} spans are there"
            if there not in (0, len(one.spans)):
                yield f"request {number} is there in part: {there} of {len(one.spans)} spans"

    def _debits(self, journalled: Counter[tuple[str, SpanId]], debited: Counter[str]) -> Iterable[str]:
        due: Counter[str] = Counter()
        for account, _ in journalled:
            due[account] += self._price_msat
        gone: Counter[str] = Counter()  # debits stay when rows go
        for number in self.forgotten & self.acknowledged:
            one = self.sent[number]
            gone[one.account] += self._price_msat * sum((one.account, span) not in journalled for span in one.spans)
        for account in {*due, *debited, *gone}:
            if due[account] + gone[account] != debited[account]:
                yield f"{account}: debited {debited[account]} msat for spans worth {due[account] + gone[account]}"

    def _charges(self, charged: list[tuple[str, SpanId, int, int | None]], *, complete: bool) -> Iterable[str]:
        prices = {(one.account, span): pusd for one in self.sent.values() for span, pusd in one.calls.items()}
        times = Counter((account, span) for account, span, _, _ in charged)
        for account, span, recount, pusd in charged:
            if recount or times[account, span] > 1:
                yield f"{span} of {account} is charged {times[account, span]} times"
            if prices.get((account, span)) != pusd:
                yield f"{span} of {account} is charged {pusd}, and is worth {prices.get((account, span))} pico-USD"
        for number in self.sent if complete else self.closed:
            one = self.sent[number]
            for span in one.calls:
                if (one.account, span) not in times:
                    yield f"the call {span} of request {number} is not charged"

    @staticmethod
    def _counters(
        shown: Mapping[str, int],
        journalled: Counter[tuple[str, SpanId]],
        charged: list[tuple[str, SpanId, int, int | None]],
        debited: Counter[str],
    ) -> Iterable[str]:
        due = {
            "accepted_spans": journalled.total(),
            "calls": len(charged),
            "cost_pusd": sum(pusd or 0 for *_, pusd in charged),
            "debited_msat": debited.total(),
        }
        for name, is_ in shown.items():
            if is_ != due[name]:
                yield f"{name}: {is_} is shown, {due[name]} is in the books"


_DEBITED = "SELECT substr(debit_account, 10), sum(amount_msat) FROM transfers WHERE code = 'usage' GROUP BY debit_account"


def _journalled(connection: apsw.Connection) -> Counter[tuple[str, SpanId]]:
    decoder = Decoder()
    found: Counter[tuple[str, SpanId]] = Counter()
    for account, body in connection.execute("SELECT account, body FROM journal WHERE kind = ?", (ACCEPTED,)):
        row = decoder.row(body)
        trace_ids = row.trace_ids
        found.update((account, (trace_ids[trace], span_id)) for trace, span_id in zip(row.traces, row.span_ids, strict=True))
    return found


def _charged(connection: apsw.Connection) -> list[tuple[str, SpanId, int, int | None]]:
    rows: list[Any] = connection.execute("SELECT account, trace_id, span_id, recount, cost_pusd FROM charges").fetchall()
    return [(account, (trace_id, span_id), recount, pusd) for account, trace_id, span_id, recount, pusd in rows]
