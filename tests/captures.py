"""Real exports with the truth beside them, and the judge that holds a report against it.

`tests/data/captures/<scenario>/`: `export-NNN.pb` are request bodies as a real instrumentation's exporter sent them, in order
of arrival; `truth.json` is what the model server behind it logged. The judge demands of each scenario:

* every call whose usage stands on a span is counted once, with every number that any span shows, and nothing else is counted;
* the cost of a single call is its visible usage at the list price of its moment (genai-prices is the referee) or what the
  provider really billed;
* agent, user and session are right wherever the call's span, an ancestor or the resource tells them;
* a group of calls that is wrong carries a doubt (else it is `silent`, the worst defect).
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

CAPTURES = Path(__file__).parent / "data" / "captures"
#: Captures of stacks that the rules were not made on, added as they were met.
MORE_CAPTURES = Path(__file__).parent / "data" / "captures_more"
COUNTS = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens")
LABELS = ("agent", "user", "session")
#: Providers whose list prices two public lists agree on.
JUDGED = ("openai", "anthropic", "google")


def scenarios(folder: Path = CAPTURES) -> list[Path]:
    return sorted(path.parent for path in folder.glob("*/truth.json"))


def exports(scenario: Path) -> list[Path]:
    return sorted(scenario.glob("export-*.pb"))


@dataclass
class Visible:
    """What a reader of the spans can know of a call's usage."""

    numbers: dict[str, int]
    knows_write: bool
    knows_output: bool
    write_1h: int

    @classmethod
    def of(cls, call: dict[str, Any], *, all_shown: bool = False) -> Visible:
        usage = call["usage"]
        shown: dict[str, bool] = {} if all_shown else call.get("visible_on_spans", {})
        see_5m, see_1h = shown.get("cache_write_5m", True), shown.get("cache_write_1h", True)
        knows_write = shown.get("cache_write", see_5m and see_1h)
        read = usage["cache_read"] if shown.get("cache_read", True) else 0
        write = (usage["cache_write_5m"] if knows_write or see_5m else 0) + (usage["cache_write_1h"] if knows_write or see_1h else 0)
        if all_shown or shown.get("input_total"):
            total = usage["input_total"]
        else:
            total = read + write + (usage["input_uncached"] if shown.get("input_uncached", True) else 0)
        return cls(
            {"input_tokens": total, "cache_read_tokens": read, "cache_write_tokens": write, "output_tokens": usage["output_total"]},
            knows_write,
            shown.get("output_total", True),
            usage["cache_write_1h"] if see_5m and see_1h else 0,
        )

    def list_price_pusd(self, call: dict[str, Any]) -> int | None:
        """What this usage costs by genai-prices, in pico-USD; None where the providers' lists are not judged."""
        from genai_prices import Usage, calc_price

        if call["provider"] not in JUDGED or not (self.knows_write and self.knows_output):
            return None
        n = self.numbers
        usage = Usage(
            input_tokens=n["input_tokens"],
            output_tokens=n["output_tokens"],
            cache_read_tokens=n["cache_read_tokens"],
            cache_write_tokens=n["cache_write_tokens"],
            cache_write_1h_tokens=self.write_1h,
            cache_write_5m_tokens=n["cache_write_tokens"] - self.write_1h,
        )
        moment = dt.datetime.fromtimestamp(call["time_unix_ms"] / 1000, dt.UTC)
        try:
            price = calc_price(
                usage,
                model_ref=call["response_model"] or call["request_model"],
                provider_id=call["provider"],
                genai_request_timestamp=moment,
            ).total_price
        except LookupError:
            return None
        return int((price * Decimal(10**12)).to_integral_value())


@dataclass
class Verdict:
    calls: int = 0
    right: int = 0
    priced: int = 0
    priced_right: int = 0
    named: int = 0
    named_right: int = 0
    silent: int = 0
    findings: list[str] = field(default_factory=list)


def judge(truth: dict[str, Any], report: dict[str, Any]) -> Verdict:
    """Hold one report against one scenario's truth."""
    calls = [call for call in truth["calls"] if call["observability"] == "usage on span" and "unreachable" not in call]
    verdict = Verdict(calls=len(calls))
    forgiven = _forgiven(truth, calls)
    rows = [row for row in report["calls"] if any(row[count] for count in COUNTS)]
    for told, group in _groups(calls, rows):
        doubted = any(row["doubts"] for row in group)
        if not told:
            if group[0]["span_id"] not in forgiven:
                verdict.findings.append(f"span {group[0]['span_id']} is no call, yet it is counted: {[group[0][c] for c in COUNTS]}")
                verdict.silent += not doubted
            continue
        wrong = _wrong_counts(told, group)
        if wrong:
            verdict.findings += [f"call {'+'.join(str(call['ordinal']) for call in told)}: {what}" for what in wrong]
        else:
            verdict.right += len(told)
        if len(told) == len(group) == 1:
            wrong += _wrong_cost(told[0], group[0], verdict)
            _judge_names(told[0], group[0], verdict)
        verdict.silent += bool(wrong) and not doubted
    return verdict


def _forgiven(truth: dict[str, Any], calls: list[dict[str, Any]]) -> set[str]:
    """Spans that may be counted though no visible call stands behind them: their usage is estimated, or a sum of hidden calls."""
    visible = {call["ordinal"] for call in calls}
    spans = {
        span["span_id"]
        for call in truth["calls"]
        if call["ordinal"] not in visible and call["observability"] != "failed call, nothing billed"
        for span in [*call.get("spans", []), *call.get("spans_without_usage", [])]
    }
    hidden = any(call["billed"] and call["ordinal"] not in visible for call in truth["calls"])
    return spans | {
        span["span_id"]
        for span in truth["token_spans"]
        if hidden and not span["matches_call_ordinals"] and not visible & set(span.get("sum_of_call_ordinals", []))
    }


def _groups(calls: list[dict[str, Any]], rows: list[dict[str, Any]]) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """Calls of the truth and rows of the report that share spans, however indirectly."""
    nodes = [("call", at, {span["span_id"] for span in call["spans"]}) for at, call in enumerate(calls)]
    nodes += [("row", at, {row["span_id"], *row["merged_span_ids"]}) for at, row in enumerate(rows)]
    known = {span for kind, _, spans in nodes if kind == "call" for span in spans}
    while nodes:
        group, spans = [nodes.pop(0)], set[str]()
        spans |= group[0][2] & known
        grown = True
        while grown:
            near = [node for node in nodes if node[2] & spans]
            nodes = [node for node in nodes if not node[2] & spans]
            group += near
            grown = bool(near)
            for node in near:
                spans |= node[2] & known
        yield [calls[at] for kind, at, _ in group if kind == "call"], [rows[at] for kind, at, _ in group if kind == "row"]


def _wrong_counts(told: list[dict[str, Any]], group: list[dict[str, Any]]) -> list[str]:
    wants = [Visible.of(call) for call in told]
    wrong = []
    if len(told) != len(group):
        wrong.append(f"{len(told)} call(s) counted {len(group)} time(s)")
    for count in COUNTS:
        if (count == "cache_write_tokens" and not all(want.knows_write for want in wants)) or (
            count == "output_tokens" and not all(want.knows_output for want in wants)
        ):
            continue
        want, got = sum(want.numbers[count] for want in wants), sum(row[count] for row in group)
        if want != got:
            wrong.append(f"{count} {got} instead of {want}")
    return wrong


def _wrong_cost(call: dict[str, Any], row: dict[str, Any], verdict: Verdict) -> list[str]:
    price = Visible.of(call).list_price_pusd(call)
    if price is None:
        return []
    billed = Visible.of(call, all_shown=True).list_price_pusd(call) or price
    verdict.priced += 1
    cost = row["cost_pusd"]
    if cost is not None and min(abs(cost - price), abs(cost - billed)) <= 1:
        verdict.priced_right += 1
        return []
    finding = f"call {call['ordinal']} {call['response_model']}: cost {cost} pUSD instead of {price}"
    verdict.findings.append(finding)
    return [finding]


def _judge_names(call: dict[str, Any], row: dict[str, Any], verdict: Verdict) -> None:
    for label in LABELS:
        seen = call.get(f"{label}_visible") or {}
        if call.get(label) and seen.get("where") in ("self", "ancestor", "resource"):
            verdict.named += 1
            if row[label] == call[label]:
                verdict.named_right += 1
            else:
                verdict.findings.append(f"call {call['ordinal']}: {label} {row[label]!r} instead of {call[label]!r}")


def truth_of(scenario: Path) -> dict[str, Any]:
    truth: dict[str, Any] = json.loads((scenario / "truth.json").read_text())
    return truth


def all_bodies(folders: Iterable[Path]) -> list[bytes]:
    return [path.read_bytes() for folder in folders for path in exports(folder)]
