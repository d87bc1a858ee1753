"""The closed table of what a scrape shows: name, type, labels, help, unit. README and a test hold the same table.

Names follow Prometheus: prefix, base unit last, `_total` on counters. Storage is integer throughout; `scale` says how many stored
units make one shown unit, so the only division is that of the scrape. Labels never carry ids, and only the operator adds label names.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

PREFIX: Final = "spantoll_"

_PUSD: Final = 10**12  #: pico-USD in a USD
_NANO: Final = 10**9  #: nanoseconds in a second


class Kind(Enum):
    """Prometheus types, as they stand behind `# TYPE`."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    INFO = "info"


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One metric family."""

    name: str  #: without prefix, and without the `_total` or `_info` that its type adds
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    unit: str = ""  #: OpenMetrics unit; the name ends with it
    scale: int = 1  #: stored units in one shown unit
    buckets: tuple[int, ...] = ()  #: upper bounds in stored units, of a histogram
    with_dimensions: bool = False  #: the operator's dimensions (`metrics.dimensions`) are labels, too

    @property
    def full_name(self) -> str:
        """The name as a query writes it (of a histogram: before `_bucket`, `_sum`, `_count`)."""
        return PREFIX + self.name + {Kind.COUNTER: "_total", Kind.INFO: "_info"}.get(self.kind, "")


def _usd(*bounds: str) -> tuple[int, ...]:
    """Bucket bounds in pico-USD from decimal strings, exactly."""
    return tuple(int(whole or 0) * _PUSD + int(part.ljust(12, "0")) for whole, _, part in (bound.partition(".") for bound in bounds))


def _seconds(*bounds: float) -> tuple[int, ...]:
    return tuple(round(bound * _NANO) for bound in bounds)


_CALL: Final = ("account", "agent", "model", "provider", "basis")

FAMILIES: Final = (
    # what model calls cost
    Family(
        name="cost_usd",
        kind=Kind.COUNTER,
        labels=_CALL,
        unit="usd",
        scale=_PUSD,
        with_dimensions=True,
        help="What counted model calls cost at their providers, in USD. Unpriced calls add nothing: see unpriced_calls_total.",
    ),
    Family(
        name="calls",
        kind=Kind.COUNTER,
        labels=_CALL,
        with_dimensions=True,
        help="Model calls, each counted once, however many spans tell of it.",
    ),
    Family(
        name="tokens",
        kind=Kind.COUNTER,
        labels=(*_CALL, "type"),
        with_dimensions=True,
        help="Tokens of counted calls; the types are disjoint: input_uncached, cache_read, cache_write, output (reasoning included).",
    ),
    Family(
        name="unpriced_calls",
        kind=Kind.COUNTER,
        labels=("account", "model", "reason"),
        help="Model calls without a price; reason no_usage: a model call's span that shows no usage, so that it is not in calls_total.",
    ),
    Family(
        name="unpriced_tokens",
        kind=Kind.COUNTER,
        labels=("account", "model", "reason"),
        help="Tokens of counted calls without a price.",
    ),
    Family(
        name="trace_cost_usd",
        kind=Kind.HISTOGRAM,
        labels=("account", "workflow"),
        unit="usd",
        scale=_PUSD,
        buckets=_usd(
            "0.0001", "0.0003", "0.001", "0.003", "0.01", "0.03", "0.1", "0.3", "1", "3", "10", "30", "100"
        ),  # half decades, from one small call to a long agent run
        help="Cost of a trace with priced calls, in USD, when it was closed (what late spans add is observed on its own).",
    ),
    Family(
        name="cache_savings_gross_usd",
        kind=Kind.COUNTER,
        labels=("account", "agent", "model"),
        unit="usd",
        scale=_PUSD,
        help="What cache reads cost less than the same tokens uncached, in USD; what cache writes cost more is not taken off.",
    ),
    Family(
        name="cache_write_premium_usd",
        kind=Kind.COUNTER,
        labels=("account", "agent", "model"),
        unit="usd",
        scale=_PUSD,
        help="What cache writes cost more than the same tokens uncached, in USD.",
    ),
    # how sure the numbers are
    Family(
        name="doubts",
        kind=Kind.COUNTER,
        labels=("reason",),
        help="Counted calls whose numbers may be wrong, by reason; a call can have several.",
    ),
    Family(
        name="missing_spans",
        kind=Kind.COUNTER,
        labels=("account", "reason"),
        help="Spans that show a loss: model calls without usage (failed ones: error), sampled traces, dropped attributes, a fault of ours.",
    ),
    Family(
        name="cache_mode_guess",
        kind=Kind.COUNTER,
        labels=("scope",),
        help="Calls with cached tokens where nothing tells whether the input count contains them; taken as containing them.",
    ),
    Family(
        name="usage_incomplete",
        kind=Kind.COUNTER,
        labels=("scope",),
        help="Calls whose instrumentation is known to leave out a part of the usage.",
    ),
    Family(
        name="bucket_clamped",
        kind=Kind.COUNTER,
        help="Token counts that were larger than the count they are a part of, and were cut to it.",
    ),
    Family(
        name="response_cache_hits",
        kind=Kind.COUNTER,
        labels=("scope",),
        help="Calls that were answered from the client's own response cache, so that nothing was billed.",
    ),
    Family(
        name="response_cache_hit_tokens",
        kind=Kind.COUNTER,
        labels=("scope",),
        help="Tokens that such calls show.",
    ),
    # how calls were counted once
    Family(
        name="aggregate_suppressed_tokens",
        kind=Kind.COUNTER,
        labels=("scope",),
        help="Tokens on wrapping spans that repeat what the calls below them show, and were not counted again.",
    ),
    Family(
        name="same_call_merged",
        kind=Kind.COUNTER,
        labels=("outer", "inner"),
        help="Pairs of nested spans that tell of one call, by the scopes of both.",
    ),
    Family(
        name="sibling_dedup",
        kind=Kind.COUNTER,
        labels=("rule",),
        help="Spans beside one another, or in two traces, that tell of one call, by the rule that joined them.",
    ),
    Family(name="parent_adopted", kind=Kind.COUNTER, help="Spans whose parent never came, given to the agent's span that encloses them."),
    Family(
        name="late_span",
        kind=Kind.COUNTER,
        labels=("outcome",),
        help="Spans that came after their trace was closed, by what they changed.",
    ),
    # what was received
    Family(
        name="receiver_accepted_spans", kind=Kind.COUNTER, labels=("transport",), help="Spans that were stored and acknowledged, once each."
    ),
    Family(
        name="receiver_refused_spans",
        kind=Kind.COUNTER,
        labels=("transport", "reason"),
        help="Spans of decoded requests that were refused whole; the client may still have them. Others: receiver_requests_total.",
    ),
    Family(
        name="receiver_rejected_spans",
        kind=Kind.COUNTER,
        labels=("transport", "reason"),
        help="Spans that were dropped alone and named in the answer's partial_success.",
    ),
    Family(
        name="receiver_duplicate_spans",
        kind=Kind.COUNTER,
        labels=("transport",),
        help="Spans that had been accepted before; they cost nothing.",
    ),
    Family(name="receiver_late_spans", kind=Kind.COUNTER, help="Accepted spans whose trace had been released before."),
    Family(
        name="receiver_sanitized_strings",
        kind=Kind.COUNTER,
        help="Strings that were no UTF-8 and were kept with replacement characters.",
    ),
    Family(
        name="receiver_requests",
        kind=Kind.COUNTER,
        labels=("transport", "outcome", "reason"),
        help="Export requests, by how they ended; the reason is empty where nothing was refused.",
    ),
    Family(
        name="receiver_request_bytes",
        kind=Kind.COUNTER,
        labels=("transport", "kind"),
        unit="bytes",
        help="Bytes of request bodies: kind wire as they were read off the socket, body after inflation.",
    ),
    Family(
        name="receiver_request_duration_seconds",
        kind=Kind.HISTOGRAM,
        labels=("transport",),
        unit="seconds",
        scale=_NANO,
        buckets=_seconds(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
        help="From a request's headers to its answer.",
    ),
    Family(
        name="receiver_wrong_protocol_connections",
        kind=Kind.COUNTER,
        labels=("transport", "spoken"),
        help="Connections that spoke another protocol than that of the listener, such as HTTP to the gRPC port.",
    ),
    Family(name="receiver_in_flight_bytes", kind=Kind.GAUGE, unit="bytes", help="Bytes of requests that are being received or worked on."),
    # what spans cost here, and how it is paid
    Family(
        name="credit_balance_msat",
        kind=Kind.GAUGE,
        labels=("account",),
        unit="msat",
        help="Credit of an account, in millisatoshi: what was credited minus what was debited; below 0 is debt.",
    ),
    Family(
        name="credit_debited_msat",
        kind=Kind.COUNTER,
        labels=("account",),
        unit="msat",
        help="All that an account was ever debited, in millisatoshi: for accepted spans, and by the operator.",
    ),
    Family(
        name="credit_topped_up_msat",
        kind=Kind.COUNTER,
        labels=("account",),
        unit="msat",
        help="All that an account was ever credited, in millisatoshi: settled invoices, and what the operator gave.",
    ),
    Family(
        name="credit_runway_seconds",
        kind=Kind.GAUGE,
        labels=("account",),
        unit="seconds",
        help="How long the credit lasts at the pace of the last half hour or so; +Inf while nothing is spent, 0 when nothing is left.",
    ),
    Family(
        name="credit_low_balance",
        kind=Kind.COUNTER,
        labels=("account",),
        help="Warnings that an account's credit fell below one of its marks (credit.low_balance_marks_msat), once per fall.",
    ),
    Family(
        name="webhook_tries",
        kind=Kind.COUNTER,
        labels=("outcome",),
        help="Tries to tell credit.webhook_url, by outcome: delivered, failed (tried again), given_up, dropped (too many wait).",
    ),
    Family(
        name="books_unbalanced",
        kind=Kind.GAUGE,
        help="1 when the last hourly audit found that the ledger does not add up, else 0. 1 is a fault: see GET /api/v1/audit.",
    ),
    Family(
        name="lightning_up", kind=Kind.GAUGE, help="1 while the Lightning node answers, 0 while it does not; spans are taken either way."
    ),
    Family(
        name="invoices",
        kind=Kind.GAUGE,
        labels=("state",),
        help="Top-ups by state: settled ones are credited, of the others those that are still watched.",
    ),
    # what is waiting
    Family(name="window_traces", kind=Kind.GAUGE, help="Open traces."),
    Family(name="window_bytes", kind=Kind.GAUGE, unit="bytes", help="Accounted memory of open traces and of remembered span ids."),
    Family(name="window_released", kind=Kind.COUNTER, labels=("trigger",), help="Traces that were released, by what triggered it."),
    Family(
        name="window_trace_age_seconds", kind=Kind.GAUGE, unit="seconds", help="Age of the oldest open trace, since its first span came."
    ),
    Family(
        name="window_provisional_cost_usd",
        kind=Kind.GAUGE,
        unit="usd",
        help="Upper estimate of what the calls of open traces cost, in USD; not in cost_usd_total yet.",
    ),
    Family(
        name="seen_horizon_seconds",
        kind=Kind.GAUGE,
        unit="seconds",
        help="How far back a resent span is recognised just now; one that comes later is counted again.",
    ),
    # the daemon itself
    Family(name="build", kind=Kind.INFO, labels=("version", "python"), help="The running version."),
    Family(name="price_snapshot_age_seconds", kind=Kind.GAUGE, unit="seconds", help="Age of the price list that is in use."),
    Family(name="journal_bytes", kind=Kind.GAUGE, unit="bytes", help="What the database and its log take on the disk."),
    Family(
        name="journal_unreleased_rows",
        kind=Kind.GAUGE,
        help="Rows of the journal from the first one that a trace still needs: what a start would read, at most.",
    ),
    Family(
        name="journal_commit_seconds",
        kind=Kind.HISTOGRAM,
        unit="seconds",
        scale=_NANO,
        buckets=_seconds(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
        help="How long a commit took, its sync included; all that came meanwhile shares the next one.",
    ),
    Family(
        name="loop_stall_seconds",
        kind=Kind.HISTOGRAM,
        unit="seconds",
        scale=_NANO,
        buckets=_seconds(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
        help="How late the event loop was when it was asked; work is cut so that it stays below 0.05 s.",
    ),
    Family(
        name="label_overflow",
        kind=Kind.COUNTER,
        labels=("label",),
        help="Label values that were folded into __overflow__ because their label, account or the whole had too many; no amount is lost.",
    ),
)

#: By name without prefix.
BY_NAME: Final = {family.name: family for family in FAMILIES}


def find(name: str) -> Family:
    """A family by any spelling of its name: with or without prefix and `_total`. Raises KeyError."""
    short = name.removeprefix(PREFIX)
    return BY_NAME.get(short) or BY_NAME[short.removesuffix("_total").removesuffix("_info")]
