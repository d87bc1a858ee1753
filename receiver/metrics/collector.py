"""What has happened, as integers: added to in the hot path (a dict and an add), turned into families when a scrape comes.

Money is pico-USD, time nanoseconds; nothing is rounded before it is shown. `prometheus_client` only renders: a labelled child of
its own costs 1.2 us an increment and holds floats.
"""

from __future__ import annotations

import platform
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from operator import attrgetter
from typing import Any, Final

from receiver import __version__
from receiver.core.attribution import Charge
from receiver.core.calls.call import Missing
from receiver.core.journal import Accepted, Closed, Lack
from receiver.core.journal import Series as Frozen
from receiver.metrics.counter import Counter
from receiver.metrics.exposition import Mark, Point, Shown, exposition
from receiver.metrics.families import BY_NAME, FAMILIES, Family, Kind, find
from receiver.metrics.labels import Labels, Raw, Row, Series, Values

#: Values of a label that spans fill but no account limits (instrumentation scopes): a house has tens.
MAX_SCOPES: Final = 500
#: Histograms show 16 samples a series, so they get an eighth of the series.
HISTOGRAM_SHARE: Final = 8

_NANO: Final = 10**9

#: Counters that are a fold over the journal's rows, so that they survive the process. What else is counted has no row.
DURABLE_COUNTERS: Final = tuple(
    family.name
    for family in FAMILIES
    if family.kind is Kind.COUNTER
    and "account" not in family.labels
    and (not family.name.startswith("receiver_") or family.name == "receiver_accepted_spans")
    and family.name != "label_overflow"
)

#: What requests came to has no row, so a crash leaves no exact count of it. It goes on after an orderly stop, whose snapshot has it;
#: after any other end it begins anew at 0 with a new created timestamp, which is what a scraper must be told: a counter that goes on
#: from an older value would fall, and be added up once more.
ORDERLY_COUNTERS: Final = tuple(
    family.name
    for family in FAMILIES
    if family.kind is Kind.COUNTER and family.name.startswith("receiver_") and family.name not in DURABLE_COUNTERS
)
ORDERLY_HISTOGRAM: Final = "receiver_request_duration_seconds"

_BASIS: Final = BY_NAME["calls"].labels.index("basis")

# Columns of a row of calls
_COST, _CALLS, _UNCACHED, _READ, _WRITE, _OUTPUT = range(6)
_TOKEN_TYPES: Final = ((_UNCACHED, "input_uncached"), (_READ, "cache_read"), (_WRITE, "cache_write"), (_OUTPUT, "output"))
# Columns of a row of unpriced calls, and of one of caching
_UNPRICED_CALLS, _UNPRICED_TOKENS = range(2)
_SAVINGS, _PREMIUM = range(2)

Number = int | float
GaugeValue = Number | Mapping[tuple[str, ...], Number]
#: By label values: (value in stored units, when it began in Unix nanoseconds).
Totals = Mapping[tuple[str, ...], tuple[int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsOptions:
    """What an operator can choose (section `metrics` of the configuration)."""

    dimensions: Sequence[str] = ()  #: dimensions of a Charge that become labels beside those of the table
    max_series_per_account: int = 2_000  #: of each table of series; what goes over is folded into `__overflow__`
    max_series: int = 20_000  #: the same over all accounts
    #: Seconds for which a new series is shown at 0 before its value. `rate()` works on differences, so the first value of a series is
    #: lost to it where its created timestamp is not ingested (prometheus/prometheus#3886).
    zero_first: float = 0.0
    created_in_text: bool = False  #: created timestamps in the plain text format, too, where they are gauges of their own


class Metrics:
    """All counters of the daemon. Methods named after what happened; all of them are cheap and none may fail."""

    def __init__(
        self,
        options: MetricsOptions | None = None,
        *,
        unix_nano: Callable[[], int],
        max_series_of: Callable[[str], int | None] = lambda _: None,
    ) -> None:
        """Start at nothing.

        `unix_nano` is the wall clock, for created timestamps, exemplars and `zero_first`; `max_series_of` the limit of an account that
        has one of its own in place of `max_series_per_account`.
        """
        options = options or MetricsOptions()
        self._unix_nano = unix_nano
        self._as_of_unix_nano = 0  #: of the row that is being folded
        self._zero_first_nano = round(options.zero_first * _NANO)
        self._created_in_text = options.created_in_text
        self._dimensions = dimensions = tuple(options.dimensions)
        self._more: Callable[[Charge], Any] | None = attrgetter(*dimensions) if dimensions else None
        self._counters = {
            family.name: Counter(family, unix_nano=self._now, caps=self._caps(family))
            for family in FAMILIES
            if family.kind is Kind.COUNTER and "account" not in family.labels
        }
        self._gauges: dict[str, Callable[[], GaugeValue]] = {}
        self._totals: dict[str, Callable[[], Totals]] = {}
        self._max_series_of = max_series_of
        max_series_per_account, max_series = options.max_series_per_account, options.max_series
        self._calls = self._series((*BY_NAME["calls"].labels, *self._dimensions), 6, max_series_per_account, max_series)
        self._unpriced = self._series(BY_NAME["unpriced_calls"].labels, 2, max_series_per_account, max_series)
        self._caching = self._series(BY_NAME["cache_savings_gross_usd"].labels, 2, max_series_per_account, max_series)
        self._missing = self._series(BY_NAME["missing_spans"].labels, 1, max_series_per_account, max_series)
        self._low_balance = self._series(BY_NAME["credit_low_balance"].labels, 1, max_series_per_account, max_series)
        self._histograms: dict[str, Series] = {}
        for family in FAMILIES:
            if family.kind is Kind.HISTOGRAM:
                # a row: one integer a bucket, one above all bounds, the sum
                self._histograms[family.name] = self._series(
                    family.labels, len(family.buckets) + 2, max_series_per_account, max_series, share=HISTOGRAM_SHARE
                )
        self._cost_marks: dict[int, tuple[bytes, int, int]] = {}  #: id of a row -> (trace id, pico-USD, unix nano); rows live for ever
        self._bucket_marks: dict[tuple[int, int], tuple[bytes, int, int]] = {}  #: (id of a row, bucket) -> the same
        self._trace_costs = self._histograms["trace_cost_usd"]

    # what the closing line tells

    def observe(self, charges: Sequence[Charge], *, now_unix_nano: int) -> None:
        """Count what was closed. Charges of one trace should come together: their sum is the trace's cost."""
        rows, more, marks = self._calls.rows, self._more, self._cost_marks
        traces: dict[tuple[str, bytes], tuple[int, str | None]] = {}
        doubts: dict[str, int] = {}
        for charge in charges:
            basis, cost, _, _, model, provider, _, savings, premium, _, _, _ = charge.quote
            account = charge.account
            raw: Raw = (account, charge.agent, model or charge.model, provider or charge.provider, basis._value_)
            if more is not None:
                extra = more(charge)
                raw += extra if len(self._dimensions) > 1 else (extra,)
            row = rows.get(raw)
            if row is None:
                row = self._calls.row(raw, now_unix_nano=now_unix_nano)
            tokens = charge.tokens
            row[_CALLS] += 1
            row[_UNCACHED] += tokens.uncached
            row[_OUTPUT] += tokens.output_total
            if tokens.input_total != tokens.uncached:
                row[_READ] += tokens.cache_read
                row[_WRITE] += tokens.cache_write
            if cost is None:
                self._add_unpriced(charge, now_unix_nano)
            else:
                row[_COST] += cost
                trace_id = charge.trace_id
                marks[id(row)] = (trace_id, cost, now_unix_nano)
                key = (account, trace_id)
                before = traces.get(key)
                traces[key] = (cost, charge.workflow) if before is None else (before[0] + cost, before[1] or charge.workflow)
                if savings or premium:
                    self._add_caching(charge, now_unix_nano)
            for reason in charge.doubts:
                doubts[reason] = doubts.get(reason, 0) + 1
        for (account, trace_id), (cost, workflow) in traces.items():
            row = self._trace_costs.rows.get((account, workflow))
            if row is None:
                row = self._trace_costs.row((account, workflow), now_unix_nano=now_unix_nano)
            bucket = self._add_to(BY_NAME["trace_cost_usd"], row, cost)
            self._bucket_marks[id(row), bucket] = (trace_id, cost, now_unix_nano)
        for reason, calls in doubts.items():
            self._counters["doubts"].add((reason,), calls)

    def counted(self, counters: Mapping[tuple[str, tuple[str, ...]], int]) -> None:
        """Add the counters of `calls.count`: (name with `_total`, label values) -> increment."""
        for (name, labels), amount in counters.items():
            self._counters[name.removesuffix("_total")].add(labels, amount)

    def missing(self, missing: Iterable[Missing | Lack]) -> None:
        """Count spans that show a loss; a model call without usage is an unpriced call, too."""
        now = self._now()
        for lack in missing:
            self._row(self._missing, (lack.account, lack.reason), now)[0] += 1
            if lack.reason == "no_usage":
                self._row(self._unpriced, (lack.account, lack.model, lack.reason), now)[_UNPRICED_CALLS] += 1

    def released(self, trigger: str, traces: int) -> None:
        """Traces left the window."""
        self._counters["window_released"].add((trigger,), traces)

    # what the journal tells

    def fold(self, entry: Accepted | Closed) -> None:
        """A row of the journal that holds for good (`Journal.watch`): in order, once each, so that the counters survive a crash exactly."""
        self._as_of_unix_nano = entry.unix_nano
        if isinstance(entry, Accepted):
            self.accepted(entry.transport, entry.spans)
        else:
            self.observe(entry.charges, now_unix_nano=self._now())
            self.counted(entry.counters)
            if entry.missing:
                self.missing(entry.missing)
        self._as_of_unix_nano = 0

    def series(self, *, orderly: bool = False) -> list[Frozen]:
        """All that `fold` has added up, for a snapshot; `orderly`: what has no rows, too, for nothing more will be counted."""
        found = [
            Frozen(name, table.named(labels), tuple(row[:-1]), row[-1])
            for name, table in self._durable_tables(orderly=orderly).items()
            for labels, row in table.series.items()
        ]
        for name in (*DURABLE_COUNTERS, *(ORDERLY_COUNTERS if orderly else ())):
            counter = self._counters[name]
            found += [
                Frozen(name, tuple(zip(counter.family.labels, labels, strict=True)), (value,), counter.born[labels])
                for labels, value in counter.values.items()
            ]
        return found

    def restore(self, series: Iterable[Frozen]) -> None:
        """Go on from a snapshot. Before anything is folded."""
        tables = self._durable_tables(orderly=True)
        for one in series:
            if one.family in tables:
                tables[one.family].restore(dict(one.labels), one.numbers, one.created_unix_nano)
            elif one.family in DURABLE_COUNTERS or one.family in ORDERLY_COUNTERS:
                self._counters[one.family].restore(dict(one.labels), one.numbers[0], one.created_unix_nano)

    def _now(self) -> int:
        """When a series that is new now was born: with its row, so that it has the same birthday when it is added up again."""
        return self._as_of_unix_nano or self._unix_nano()

    def _durable_tables(self, *, orderly: bool) -> dict[str, Series]:
        tables = {
            "calls": self._calls,
            "unpriced_calls": self._unpriced,
            "cache_savings_gross_usd": self._caching,
            "missing_spans": self._missing,
            "trace_cost_usd": self._trace_costs,
        }
        if orderly:
            tables[ORDERLY_HISTOGRAM] = self._histograms[ORDERLY_HISTOGRAM]
        return tables

    # what the intake line tells

    def accepted(self, transport: str, spans: int) -> None:
        """Spans were stored and acknowledged."""
        self._counters["receiver_accepted_spans"].add((transport,), spans)

    def refused(self, transport: str, reason: str, spans: int) -> None:
        """A decoded request was refused whole."""
        self._counters["receiver_refused_spans"].add((transport, reason), spans)

    def rejected(self, transport: str, reason: str, spans: int) -> None:
        """Spans were dropped alone, and the client was told."""
        self._counters["receiver_rejected_spans"].add((transport, reason), spans)

    def duplicate(self, transport: str, spans: int) -> None:
        """Spans had been accepted before."""
        self._counters["receiver_duplicate_spans"].add((transport,), spans)

    def late(self, spans: int) -> None:
        """Accepted spans belong to a trace that was released before."""
        self._counters["receiver_late_spans"].add((), spans)

    def low_balance(self, account: str) -> None:
        """An account was warned that its credit is low."""
        self._row(self._low_balance, (account,), self._unix_nano())[0] += 1

    def webhook(self, outcome: str) -> None:
        """A try to tell the operator's webhook ended."""
        self._counters["webhook_tries"].add((outcome,), 1)

    def sanitized(self, strings: int) -> None:
        """Strings were no UTF-8."""
        self._counters["receiver_sanitized_strings"].add((), strings)

    def request(self, *, transport: str, outcome: Enum, reason: str, wire_bytes: int, body_bytes: int, seconds: float) -> None:
        """One export request ended (`otlp.export.WireObserver`)."""
        self._counters["receiver_requests"].add((transport, outcome.value, reason), 1)
        size = self._counters["receiver_request_bytes"]
        size.add((transport, "wire"), wire_bytes)
        size.add((transport, "body"), body_bytes)
        self._observe_seconds("receiver_request_duration_seconds", (transport,), seconds)

    def wrong_protocol(self, *, transport: str, spoken: str) -> None:
        """A connection spoke something else than its listener."""
        self._counters["receiver_wrong_protocol_connections"].add((transport, spoken), 1)

    # what the daemon tells

    def loop_stall(self, seconds: float) -> None:
        """The event loop came this much later than it was asked to."""
        self._observe_seconds("loop_stall_seconds", (), seconds)

    def commit(self, seconds: float) -> None:
        """The journal has committed, and it took so long."""
        self._observe_seconds("journal_commit_seconds", (), seconds)

    def gauge(self, name: str, function: Callable[[], GaugeValue]) -> None:
        """Ask `function` at each scrape for a gauge's value, in the unit that its name says (with labels: values by label values)."""
        family = find(name)
        assert family.kind is Kind.GAUGE, name
        self._gauges[family.name] = function

    def total(self, name: str, function: Callable[[], Totals]) -> None:
        """Ask `function` at each scrape for a counter that is kept elsewhere, such as in the ledger, and so survives by itself."""
        family = find(name)
        assert family.kind is Kind.COUNTER, name
        self._totals[family.name] = function

    def forget(self, dimension: str, values: Mapping[str, str], *, account: str | None = None) -> int:
        """Show other values in place of these ones of a dimension, sums unchanged; returns in how many series."""
        return self._calls.rename(dimension, values, account=account) if dimension in self._dimensions else 0

    # what others read

    async def exposition(self, accept: str) -> tuple[str, bytes]:
        """(Content-Type, body) of a scrape; OpenMetrics with exemplars and created timestamps where it is asked for."""
        return await exposition(self.shown(), accept, created_in_text=self._created_in_text)

    def shown(self) -> list[Shown]:
        """A copy of everything that has a value, family by family, in the order of the table."""
        born_until = self._unix_nano() - self._zero_first_nano
        return [shown for family in FAMILIES if (shown := self._shown(family, born_until)) is not None]

    def sums(self) -> tuple[int, int]:
        """Counted calls, and what they cost in pico-USD: all series together, quickly."""
        rows = self._calls.series.values()
        return sum([row[_CALLS] for row in rows]), sum([row[_COST] for row in rows])

    def unpriced(self) -> list[tuple[Labels, int, int]]:
        """(account, model, reason), calls and tokens without a price: of each series."""
        return [(labels, row[_UNPRICED_CALLS], row[_UNPRICED_TOKENS]) for labels, row in self._unpriced.series.items()]

    def value(self, name: str, **labels: str) -> Number:
        """The sum of a family's series that have these labels, as it is shown but for `zero_first`; of a histogram its count."""
        family = find(name)
        exact = self.exact(name, **labels)
        return exact if family.scale == 1 or family.kind is Kind.HISTOGRAM else exact / family.scale

    def exact(self, name: str, **labels: str) -> Number:
        """The same in stored units (pico-USD, nanoseconds): integers, but for gauges."""
        family = find(name)
        shown = self._shown(family, born_until=1 << 63, scaled=False)
        if shown is None:
            return 0
        wanted = [(shown.labels.index(label), value) for label, value in labels.items()]
        points = [point for point in shown.points if all(point.labels[at] == value for at, value in wanted)]
        return sum(sum(point.buckets) if family.kind is Kind.HISTOGRAM else point.value for point in points)

    # the inside

    def _series(self, labels: tuple[str, ...], width: int, most_per_account: int, most: int, *, share: int = 1) -> Series:
        """`share`: the part of all limits that it gets, as its divisor."""
        max_series_of = self._max_series_of

        def own_limit(account: str) -> int | None:
            own = max_series_of(account)
            return None if own is None else max(1, own // share)

        return Series(
            labels,
            width=width,
            fixed=frozenset({"basis", "reason", "transport"}),
            most_per_account=max(1, most_per_account // share),
            most=max(1, most // share),
            overflowed=self._overflowed,
            own_limit=own_limit,
        )

    def _caps(self, family: Family) -> Sequence[Values]:
        """Scopes are named by clients; all other labels of families without an account are ours."""
        if not {"scope", "outer", "inner"} & set(family.labels):
            return ()
        return tuple(Values(label, most=MAX_SCOPES, overflowed=self._overflowed) for label in family.labels)

    def _overflowed(self, label: str) -> None:
        self._counters["label_overflow"].add((label,), 1)

    def _row(self, series: Series, raw: Raw, now_unix_nano: int) -> Row:
        row = series.rows.get(raw)
        return series.row(raw, now_unix_nano=now_unix_nano) if row is None else row

    def _add_unpriced(self, charge: Charge, now_unix_nano: int) -> None:
        quote, tokens = charge.quote, charge.tokens
        row = self._row(self._unpriced, (charge.account, quote.model or charge.model, quote.unpriced_reason), now_unix_nano)
        row[_UNPRICED_CALLS] += 1
        row[_UNPRICED_TOKENS] += tokens.input_total + tokens.output_total

    def _add_caching(self, charge: Charge, now_unix_nano: int) -> None:
        quote = charge.quote
        row = self._row(self._caching, (charge.account, charge.agent, quote.model or charge.model), now_unix_nano)
        row[_SAVINGS] += max(0, quote.cache_savings_pusd)  # a counter never falls: a read that costs more than input saves nothing
        row[_PREMIUM] += max(0, quote.cache_premium_pusd)

    def _observe_seconds(self, name: str, labels: tuple[str, ...], seconds: float) -> None:
        row = self._row(self._histograms[name], labels or ("",), self._unix_nano())
        self._add_to(BY_NAME[name], row, max(0, round(seconds * _NANO)))

    def _add_to(self, family: Family, row: Row, amount: int) -> int:
        """Add to a histogram's row; returns the bucket."""
        bucket = bisect_left(family.buckets, amount)
        row[bucket] += 1
        row[-2] += amount
        return bucket

    def _shown(self, family: Family, born_until: int, *, scaled: bool = True) -> Shown | None:
        """A family with a copy of its numbers; None for one that nobody feeds. Series younger than `born_until` show 0."""
        labels = family.labels
        scale = family.scale if scaled else 1
        name = family.name
        points: Iterable[Point]
        if family.kind is Kind.INFO:
            points = [Point((__version__, platform.python_version()), 1)]
        elif family.kind is Kind.GAUGE:
            function = self._gauges.get(name)
            if function is None:
                return None
            value = function()
            values = value if isinstance(value, Mapping) else {(): value}
            points = [Point(key, number) for key, number in values.items()]
        elif family.kind is Kind.HISTOGRAM:
            points = self._histogram_points(family, _copy(self._histograms[name]), born_until)
        elif name in self._counters:
            points = self._counters[name].points(born_until)
        elif name in self._totals:
            points = [Point(key, value if born <= born_until else 0, born) for key, (value, born) in self._totals[name]().items()]
        elif name == "tokens":
            labels = (*labels, *self._dimensions)
            points = _token_points(_copy(self._calls), born_until)
        elif family.with_dimensions:
            labels = (*labels, *self._dimensions)
            column = _CALLS if name == "calls" else _COST
            points = self._points(_copy(self._calls), column, scale, born_until, with_unpriced=name == "calls")
        else:
            found = {
                "unpriced_calls": (self._unpriced, _UNPRICED_CALLS),
                "unpriced_tokens": (self._unpriced, _UNPRICED_TOKENS),
                "cache_savings_gross_usd": (self._caching, _SAVINGS),
                "cache_write_premium_usd": (self._caching, _PREMIUM),
                "missing_spans": (self._missing, 0),
                "credit_low_balance": (self._low_balance, 0),
            }.get(name)
            if found is None:  # a total that is kept elsewhere
                return None
            series, column = found
            points = self._points(_copy(series), column, scale, born_until)
        return Shown(family, labels, points)

    def _points(
        self, rows: Sequence[tuple[Labels, Row, int]], column: int, scale: int, born_until: int, *, with_unpriced: bool = True
    ) -> Iterator[Point]:
        for key, row, identity in rows:
            if not with_unpriced and key[_BASIS] == "unpriced":
                continue  # what has no price is no cost of 0
            old = row[-1] <= born_until
            amount = row[column] if old else 0
            mark = _mark(self._cost_marks.get(identity)) if old else None  # only rows of calls have any
            yield Point(key, amount if scale == 1 else amount / scale, row[-1], mark)

    def _histogram_points(self, family: Family, rows: Sequence[tuple[Labels, Row, int]], born_until: int) -> Iterator[Point]:
        places = range(len(family.buckets) + 1)
        for key, row, identity in rows:
            old = row[-1] <= born_until
            yield Point(
                key if family.labels else (),
                created_unix_nano=row[-1],
                buckets=tuple(row[:-2]) if old else (0,) * len(places),
                marks=tuple(_mark(self._bucket_marks.get((identity, place))) if old else None for place in places),
                total=row[-2] if old else 0,
            )


def _copy(series: Series) -> list[tuple[Labels, Row, int]]:
    """(labels, a copy of the row, the row's id): what a scrape shows is of one moment, though it is written in slices."""
    return [(key, row.copy(), id(row)) for key, row in series.series.items()]


def _token_points(rows: Sequence[tuple[Labels, Row, int]], born_until: int) -> Iterator[Point]:
    base = len(BY_NAME["calls"].labels)
    for key, row, _ in rows:
        for column, token_type in _TOKEN_TYPES:
            yield Point((*key[:base], token_type, *key[base:]), row[column] if row[-1] <= born_until else 0, row[-1])


def _mark(kept: tuple[bytes, int, int] | None) -> Mark | None:
    return None if kept is None else Mark(kept[0].hex(), kept[1], kept[2])
