"""What the dashboard shows: a row is a question that an operator has, a panel is one number or course that answers it.

Amounts over a stretch of time come from `increase`, which extrapolates at both ends: they are for eyes, the report has the exact sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

USD, SAT, PER_SECOND, BYTES, SECONDS, SHARE, COUNT = "currencyUSD", "suffix: sat", "cps", "bytes", "s", "percentunit", "short"

HERE: Final = 'instance=~"$instance"'  #: label matcher of every query
WHO: Final = HERE + ', account=~"$account"'  #: and of those that have accounts


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. `queries`: (PromQL, legend)."""

    title: str
    says: str  #: what it is and what to think of it, behind the panel's "i"
    unit: str
    queries: Sequence[tuple[str, str]]
    kind: str = "course"  #: "course" over time, "now" (one number), "bars" (a few numbers), "table"
    width: int = 8  #: of 24
    height: int = 8
    stacked: bool = False
    bad_from: float | None = None  #: red from here on
    bad_below: float | None = None  #: red below


def _spent(by: str) -> str:
    return f"topk(10, sum by ({by}) (rate(spantoll_cost_usd_total{{{WHO}}}[$__rate_interval])) * 3600 > 0)"


def _grown(metric: str, where: str = HERE, more: str = "") -> str:
    return f"sum(increase({metric}{{{where}{more}}}[$__range]))"


def _rate(metric: str, by: str, where: str = HERE, more: str = "") -> str:
    return f"sum by ({by}) (rate({metric}{{{where}{more}}}[$__rate_interval]))"


def _quantile(share: str, metric: str, by: str = "", where: str = HERE) -> str:
    return f"histogram_quantile({share}, sum by (le{', ' + by if by else ''}) (rate({metric}_bucket{{{where}}}[$__rate_interval])))"


def _now(title: str, says: str, unit: str, query: str, **more: Any) -> Panel:
    return Panel(title, says, unit, ((query, ""),), kind="now", width=4, height=4, **more)


ROWS: Final[Sequence[tuple[str, Sequence[Panel]]]] = (
    (
        "What was spent",
        (
            _now("Cost", "What counted model calls cost in the chosen time.", USD, _grown("spantoll_cost_usd_total", WHO)),
            _now(
                "Not counted yet",
                "The most that the open traces will come to. It is in no other number here.",
                USD,
                f"sum(spantoll_window_provisional_cost_usd{{{HERE}}})",
            ),
            _now("Model calls", "Each counted once, however many spans tell of it.", COUNT, _grown("spantoll_calls_total", WHO)),
            _now(
                "Unpriced calls",
                "Calls whose cost is not in the cost, since their model has no price. Not 0 means: give it one.",
                COUNT,
                _grown("spantoll_unpriced_calls_total", WHO) + " or vector(0)",
                bad_from=1,
            ),
            _now(
                "Read from cache",
                "Share of the input tokens that the providers read from their caches.",
                SHARE,
                _grown("spantoll_tokens_total", WHO, ', type="cache_read"')
                + " / "
                + _grown("spantoll_tokens_total", WHO, ', type!="output"'),
            ),
            _now(
                "Saved by caching",
                "What cache reads cost less than fresh input, minus what writing the caches cost more.",
                USD,
                f"{_grown('spantoll_cache_savings_gross_usd_total', WHO)}"
                f" - ({_grown('spantoll_cache_write_premium_usd_total', WHO)} or vector(0))",
            ),
            Panel("Cost an hour, by agent", "The ten that spend most.", USD, ((_spent("agent"), "{{agent}}"),), stacked=True),
            Panel("Cost an hour, by model", "The ten that cost most.", USD, ((_spent("model"), "{{model}}"),), stacked=True),
            Panel("Cost an hour, by account", "The ten that spend most.", USD, ((_spent("account"), "{{account}}"),), stacked=True),
            Panel(
                "Who spent it",
                "The 50 largest sums of the chosen time, for eyes: `spantoll report` has them all, exactly.",
                USD,
                ((f"topk(50, sum by (account, agent, model, provider) (increase(spantoll_cost_usd_total{{{WHO}}}[$__range])) > 0)", ""),),
                kind="table",
                width=12,
                height=10,
            ),
            Panel(
                "What a trace costs",
                "Half of the traces cost less than the lower line, one in twenty more than the upper one.",
                USD,
                (
                    (_quantile("0.5", "spantoll_trace_cost_usd", "workflow", WHO), "{{workflow}} median"),
                    (_quantile("0.95", "spantoll_trace_cost_usd", "workflow", WHO), "{{workflow}} 95 %"),
                ),
                width=6,
                height=10,
            ),
            Panel(
                "Tokens",
                "The kinds are disjoint: their sum is all tokens.",
                PER_SECOND,
                ((_rate("spantoll_tokens_total", "type", WHO), "{{type}}"),),
                width=6,
                height=10,
                stacked=True,
            ),
        ),
    ),
    (
        "How sure the numbers are",
        (
            Panel(
                "Unpriced calls, by model",
                "Add [[prices.override]] or [prices.aliases] for these.",
                COUNT,
                (
                    (
                        f"topk(10, sum by (model, reason) (increase(spantoll_unpriced_calls_total{{{WHO}}}[$__range])) > 0)",
                        "{{model}}: {{reason}}",
                    ),
                ),
                kind="bars",
            ),
            Panel(
                "Doubts, by reason",
                "Calls whose numbers may be wrong; a doubt changes no number.",
                COUNT,
                ((f"sum by (reason) (increase(spantoll_doubts_total{{{HERE}}}[$__range])) > 0", "{{reason}}"),),
                kind="bars",
            ),
            Panel(
                "What is missing",
                "Spans that show a loss: model calls without usage, sampled traces, dropped attributes.",
                COUNT,
                ((f"sum by (account, reason) (increase(spantoll_missing_spans_total{{{WHO}}}[$__range])) > 0", "{{account}}: {{reason}}"),),
                kind="bars",
            ),
            Panel(
                "Where a cost comes from",
                "Share of the cost by basis: a price list, your override, or what the provider reported.",
                SHARE,
                (
                    (
                        _rate("spantoll_cost_usd_total", "basis", WHO)
                        + f" / scalar(sum(rate(spantoll_cost_usd_total{{{WHO}}}[$__rate_interval])) > 0)",
                        "{{basis}}",
                    ),
                ),
                stacked=True,
            ),
            Panel(
                "Tokens not counted twice",
                "What wrapping spans repeat of the calls below them: a plain sum would have it in.",
                PER_SECOND,
                ((_rate("spantoll_aggregate_suppressed_tokens_total", "scope"), "{{scope}}"),),
            ),
            Panel(
                "Calls told more than once",
                "Spans of two instrumentations, or beside one another, that were joined into one call; and spans that came late.",
                PER_SECOND,
                (
                    (_rate("spantoll_same_call_merged_total", "outer, inner"), "{{outer}} over {{inner}}"),
                    (_rate("spantoll_sibling_dedup_total", "rule"), "{{rule}}"),
                    (_rate("spantoll_late_span_total", "outcome"), "late: {{outcome}}"),
                ),
            ),
        ),
    ),
    (
        "Credit",
        (
            _now(
                "Books",
                "0: the last audit found that every credit has its debit. 1 is a fault, see the alert BooksUnbalanced.",
                COUNT,
                f"max(spantoll_books_unbalanced{{{HERE}}})",
                bad_from=1,
            ),
            _now(
                "Lightning",
                "1 while the node answers. Spans are taken either way; without it nobody can top up.",
                COUNT,
                f"min(spantoll_lightning_up{{{HERE}}})",
                bad_below=1,
            ),
            Panel(
                "Invoices",
                "Top-ups by state; settled ones are credited.",
                COUNT,
                ((f"sum by (state) (spantoll_invoices{{{HERE}}})", "{{state}}"),),
                kind="bars",
                width=8,
                height=4,
            ),
            Panel(
                "Shortest runways",
                "How long an account's credit lasts at the pace of late; those without an end are not shown.",
                SECONDS,
                ((f"bottomk(10, min by (account) (spantoll_credit_runway_seconds{{{WHO}}} < +Inf))", "{{account}}"),),
                kind="bars",
                width=8,
                height=4,
            ),
            Panel(
                "Balance, by account",
                "Credits minus debits; below 0 is debt.",
                SAT,
                ((f"bottomk(20, sum by (account) (spantoll_credit_balance_msat{{{WHO}}}) / 1000)", "{{account}}"),),
            ),
            Panel(
                "Debited an hour",
                "What Spantoll itself costs the accounts, for accepted spans.",
                SAT,
                ((f"topk(10, {_rate('spantoll_credit_debited_msat_total', 'account', WHO)} * 3.6)", "{{account}}"),),
                stacked=True,
            ),
            Panel(
                "Topped up, all in all",
                "Settled invoices and what the operator gave.",
                SAT,
                ((f"topk(20, sum by (account) (spantoll_credit_topped_up_msat_total{{{WHO}}}) / 1000)", "{{account}}"),),
            ),
        ),
    ),
    (
        "What comes in",
        (
            Panel(
                "Spans",
                "Accepted, and what was not: duplicates cost nothing, rejected ones are lost.",
                PER_SECOND,
                (
                    (_rate("spantoll_receiver_accepted_spans_total", "transport"), "accepted, {{transport}}"),
                    (_rate("spantoll_receiver_duplicate_spans_total", "transport"), "duplicate, {{transport}}"),
                    (_rate("spantoll_receiver_rejected_spans_total", "transport, reason"), "rejected, {{reason}}"),
                    (f"sum(rate(spantoll_receiver_late_spans_total{{{HERE}}}[$__rate_interval]))", "late"),
                ),
            ),
            Panel(
                "Refusals",
                "Requests that were not taken, by reason. Some are asked to come again, some are lost: see the alerts.",
                PER_SECOND,
                ((_rate("spantoll_receiver_requests_total", "transport, reason", HERE, ', reason!=""'), "{{transport}}: {{reason}}"),),
            ),
            Panel(
                "From headers to answer",
                "An answer waits for the disk.",
                SECONDS,
                (
                    (_quantile("0.5", "spantoll_receiver_request_duration_seconds", "transport"), "{{transport}} median"),
                    (_quantile("0.99", "spantoll_receiver_request_duration_seconds", "transport"), "{{transport}} 99 %"),
                ),
            ),
            Panel(
                "Requests",
                "All of them.",
                PER_SECOND,
                ((_rate("spantoll_receiver_requests_total", "transport, outcome"), "{{transport}}: {{outcome}}"),),
            ),
            Panel(
                "Bytes",
                "On the wire, and after inflation.",
                "Bps",
                ((_rate("spantoll_receiver_request_bytes_total", "transport, kind"), "{{transport}}: {{kind}}"),),
            ),
            Panel(
                "Being worked on",
                "At otlp.max_in_flight requests are put off.",
                BYTES,
                ((f"spantoll_receiver_in_flight_bytes{{{HERE}}}", "{{instance}}"),),
            ),
        ),
    ),
    (
        "What waits",
        (
            Panel("Open traces", "Waiting to be complete.", COUNT, ((f"spantoll_window_traces{{{HERE}}}", "{{instance}}"),)),
            Panel(
                "Released, by what triggered it",
                "root is the good case; bytes, traces and trace_spans are early.",
                PER_SECOND,
                ((_rate("spantoll_window_released_total", "trigger"), "{{trigger}}"),),
                stacked=True,
            ),
            Panel(
                "Oldest open trace, and how far back resends are known",
                "The first stays below window.decision_wait (6 h).",
                SECONDS,
                (
                    (f"spantoll_window_trace_age_seconds{{{HERE}}}", "oldest, {{instance}}"),
                    (f"spantoll_seen_horizon_seconds{{{HERE}}}", "horizon, {{instance}}"),
                ),
            ),
            Panel(
                "Memory of the window, and the journal's file",
                "window.max_bytes and window.seen_max_bytes bound the first.",
                BYTES,
                (
                    (f"spantoll_window_bytes{{{HERE}}}", "window, {{instance}}"),
                    (f"spantoll_journal_bytes{{{HERE}}}", "journal, {{instance}}"),
                ),
            ),
            Panel(
                "Requests in the journal",
                "Of open traces; they are read back at a start.",
                COUNT,
                ((f"spantoll_journal_unreleased_rows{{{HERE}}}", "{{instance}}"),),
            ),
            Panel(
                "A commit",
                "Every acknowledgement waits for one.",
                SECONDS,
                (
                    (_quantile("0.5", "spantoll_journal_commit_seconds"), "median"),
                    (_quantile("0.99", "spantoll_journal_commit_seconds"), "99 %"),
                ),
            ),
        ),
    ),
    (
        "The daemon",
        (
            Panel(
                "How late the event loop is",
                "Above 50 ms something holds it, or there is too little CPU.",
                SECONDS,
                ((_quantile("0.99", "spantoll_loop_stall_seconds"), "99 %"),),
            ),
            Panel(
                "Age of the price list",
                "Above 90 days: upgrade.",
                SECONDS,
                ((f"spantoll_price_snapshot_age_seconds{{{HERE}}}", "{{instance}}"),),
                kind="bars",
            ),
            Panel(
                "Versions",
                "What runs where.",
                COUNT,
                ((f"sum by (instance, version, python) (spantoll_build_info{{{HERE}}})", "{{instance}}: {{version}}, Python {{python}}"),),
                kind="bars",
                width=4,
            ),
            Panel(
                "Folded labels",
                "Values that are summed under __overflow__; no amount is lost.",
                COUNT,
                ((f"sum by (label) (increase(spantoll_label_overflow_total{{{HERE}}}[$__range]))", "{{label}}"),),
                kind="bars",
                width=4,
            ),
        ),
    ),
)
