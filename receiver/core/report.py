"""The exact answer, as one JSON object ("spantoll.report/1"): every call, and who spent it, dimension by dimension.

The calls, each list of attributions and the totals are the same set seen three ways: their counts, tokens and costs are equal to
the last unit. `cost_pusd` is the integer that adds up; `cost_usd` the same amount for people, exact as well, and null where
nothing of a row could be priced, for what has no price did not cost $0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any, Final

from receiver.core.attribution import DIMENSIONS, Charge
from receiver.core.calls.call import Doubt, Missing
from receiver.core.money import format_usd

SCHEMA: Final = "spantoll.report/1"

#: Decimals of a share: a millionth of the whole is finer than anybody acts on, and the shares still sum to 1 within n x 5e-7.
SHARE_DECIMALS: Final = 6

#: What each doubt means, for people. A doubt never changes a number.
DOUBT_SENTENCES: Final[dict[str, str]] = {
    Doubt.CACHE_MODE_GUESS.value: (
        "nothing tells whether the input count contains the cached tokens, or the provider caches by default and no cached count is shown; "
        "it was read as containing them"
    ),
    Doubt.SUSPECTED_DOUBLE.value: (
        "another counted call shows the same numbers at the same time from another instrumentation; it may be the same call"
    ),
    Doubt.EMITTED_COST_DIFFERS.value: "the cost that the instrumentation put on the span differs from this one by more than 2 %",
    Doubt.WRAPPER_DIFFERS.value: "the sum on a wrapping span differs from what the calls below it show; spans may be lost, or told twice",
    Doubt.UNKNOWN_EMITTER.value: "the instrumentation stands in no table, so its numbers were read by the convention alone",
    Doubt.MODEL_ALIAS.value: "no name of the model is in the price list, or the price was found by a fall-back name",
    Doubt.OUTER_WITHOUT_INNER.value: "a wrapping span was counted as one call, for the model calls below it show no usage",
    Doubt.SAMPLED.value: "the trace was sampled before it came, so other traces were never sent",
    Doubt.DROPPED_ATTRIBUTES.value: "the sender dropped attributes of the span, counts may be among them",
    Doubt.CLAMPED.value: "a part was larger than its whole (more cached tokens than input), and was cut to it",
}

_REASONS: Final[dict[str, str]] = {
    "no_usage": "{n} span(s) of model calls show no usage: what they cost is not in this report",
    "sampled": "{n} span(s) belong to sampled traces: other traces were never sent, so the true cost is higher",
    "dropped_attributes": "{n} span(s) came with dropped attributes, counts may be among them",
    "error": "{n} span(s) of failed model calls show no usage: most providers bill nothing for them",
    "fault": "{n} span(s) of model calls could not be counted because of a fault in Spantoll, which the log describes: please report it",
}


def report(
    charges: Sequence[Charge],
    missing: Sequence[Missing],
    *,
    traces: int,
    spans: int,
    duplicate_spans: int,
    notes: Iterable[str] = (),
) -> dict[str, Any]:
    """The report of these charges.

    Args:
        charges: each counted call once.
        missing: spans that show a loss.
        traces: how many traces there were, also those without calls.
        spans: how many spans, without duplicates.
        duplicate_spans: spans that came again.
        notes: sentences to put before those on doubts and missing spans.

    """
    ordered = sorted(charges, key=attrgetter("start_unix_nano", "span_id", "trace_id"))
    totals = _Sum()
    doubts: Counter[str] = Counter()
    for charge in ordered:
        totals.add(charge)
        doubts.update(charge.doubts)
    return {
        "schema": SCHEMA,
        "totals": {
            "traces": traces,
            "spans": spans,
            "duplicate_spans": duplicate_spans,
            "calls": totals.calls,
            "priced_calls": totals.calls - totals.unpriced_calls,
            "unpriced_calls": totals.unpriced_calls,
            "input_tokens": totals.input_tokens,
            "cache_read_tokens": totals.cache_read_tokens,
            "cache_write_tokens": totals.cache_write_tokens,
            "output_tokens": totals.output_tokens,
            "reasoning_tokens": totals.reasoning_tokens,
            "cost_pusd": totals.cost_pusd,
            "cost_usd": totals.cost_usd,
            "doubts": dict(sorted(doubts.items())),
        },
        "calls": [_call(charge) for charge in ordered],
        "attributions": {dimension: _attribution(ordered, dimension, totals) for dimension in DIMENSIONS},
        "missing": [
            {
                "trace_id": lack.span.trace_id.hex(),
                "span_id": lack.span.span_id.hex(),
                "scope": lack.span.source.scope,
                "model": lack.model,
                "reason": lack.reason,
            }
            for lack in sorted(missing, key=lambda lack: (lack.span.start_unix_nano, lack.span.span_id, lack.reason))
        ],
        "notes": [*notes, *_notes(doubts, missing)],
    }


class _Sum:
    """What some calls come to."""

    __slots__ = (
        "cache_read_tokens",
        "cache_write_tokens",
        "calls",
        "cost_pusd",
        "input_tokens",
        "output_tokens",
        "reasoning_tokens",
        "unpriced_calls",
    )

    def __init__(self) -> None:
        self.calls = self.unpriced_calls = self.cost_pusd = 0
        self.input_tokens = self.cache_read_tokens = self.cache_write_tokens = self.output_tokens = self.reasoning_tokens = 0

    def add(self, charge: Charge) -> None:
        tokens, cost_pusd = charge.tokens, charge.quote.cost_pusd
        self.calls += 1
        if cost_pusd is None:
            self.unpriced_calls += 1
        else:
            self.cost_pusd += cost_pusd
        self.input_tokens += tokens.input_total
        self.cache_read_tokens += tokens.cache_read
        self.cache_write_tokens += tokens.cache_write
        self.output_tokens += tokens.output_total
        self.reasoning_tokens += tokens.reasoning

    @property
    def cost_usd(self) -> str | None:
        """For people; None where no call had a price."""
        return None if self.calls and self.unpriced_calls == self.calls else format_usd(self.cost_pusd)


def _call(charge: Charge) -> dict[str, Any]:
    tokens, quote = charge.tokens, charge.quote
    return {
        "trace_id": charge.trace_id.hex(),
        "span_id": charge.span_id.hex(),
        "start_unix_nano": charge.start_unix_nano,
        "account": charge.account,
        "service": charge.service,
        "scope": charge.scope,
        "scope_version": charge.scope_version,
        "provider": charge.provider,
        "model": charge.model,
        "operation": charge.operation,
        "input_tokens": tokens.input_total,
        "uncached_input_tokens": tokens.uncached,
        "cache_read_tokens": tokens.cache_read,
        "cache_write_tokens": tokens.cache_write,
        "cache_write_5m_tokens": tokens.cache_write_5m,
        "cache_write_1h_tokens": tokens.cache_write_1h,
        "output_tokens": tokens.output_total,
        "reasoning_tokens": tokens.reasoning,
        "cost_pusd": quote.cost_pusd,
        "cost_usd": None if quote.cost_pusd is None else format_usd(quote.cost_pusd),
        "cost_basis": quote.basis.value,
        "price_source": quote.source,
        "price_version": quote.version,
        "priced_model": quote.model,
        "priced_provider": quote.provider,
        "unpriced_reason": quote.unpriced_reason or None,
        "cache_mode": charge.cache_mode,
        "cache_evidence": charge.cache_evidence,
        "outcome": charge.outcome,
        "doubts": list(charge.doubts),
        "agent": charge.agent,
        "workflow": charge.workflow,
        "task": charge.task,
        "feature": charge.feature,
        "route": charge.route,
        "user": charge.user,
        "session": charge.session,
        "tenant": charge.tenant,
        "prompt_version": charge.prompt_version,
        "tool": charge.tool,
        "merged_span_ids": [span_id.hex() for span_id in charge.merged_span_ids],
    }


def _attribution(charges: Sequence[Charge], dimension: str, totals: _Sum) -> list[dict[str, Any]]:
    key_of = attrgetter(dimension)
    sums: dict[str | None, _Sum] = {}
    for charge in charges:
        sums.setdefault(key_of(charge), _Sum()).add(charge)
    return [
        {
            "key": key,
            "calls": found.calls,
            "unpriced_calls": found.unpriced_calls,
            "cost_pusd": found.cost_pusd,
            "cost_usd": found.cost_usd,
            "share": round(found.cost_pusd / totals.cost_pusd, SHARE_DECIMALS) if totals.cost_pusd else 0.0,
            "input_tokens": found.input_tokens,
            "output_tokens": found.output_tokens,
        }
        for key, found in sorted(sums.items(), key=lambda item: (-item[1].cost_pusd, item[0] is None, item[0] or ""))
    ]


def _notes(doubts: Counter[str], missing: Sequence[Missing]) -> list[str]:
    reasons = Counter(lack.reason for lack in missing)
    return [
        *(_REASONS.get(reason, "{n} span(s) show a loss: " + reason).format(n=count) for reason, count in sorted(reasons.items())),
        *(f"{reason} ({count} call(s)): {DOUBT_SENTENCES.get(reason, 'no sentence')}" for reason, count in sorted(doubts.items())),
    ]
