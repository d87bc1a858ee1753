"""The JSON report: a contract of names and meanings, and sums that are equal to the last unit."""

from __future__ import annotations

import json
from decimal import Decimal

from receiver.core.attribution import DIMENSIONS
from receiver.core.calls.call import Doubt, Missing
from receiver.core.report import DOUBT_SENTENCES, report
from receiver.core.span import Source, Span
from tests.unit.charges import charge

CALL_KEYS = {
    "trace_id", "span_id", "start_unix_nano", "scope", "provider", "model", "operation", "input_tokens", "uncached_input_tokens",
    "cache_read_tokens", "cache_write_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens", "output_tokens", "reasoning_tokens",
    "cost_pusd", "cost_usd", "cost_basis", "price_source", "price_version", "cache_mode", "cache_evidence", "outcome", "doubts", "agent",
    "workflow", "task", "feature", "route", "user", "session", "tenant", "prompt_version", "merged_span_ids",
}  # fmt: skip
TOTAL_KEYS = {
    "traces", "spans", "duplicate_spans", "calls", "priced_calls", "unpriced_calls", "input_tokens", "cache_read_tokens",
    "cache_write_tokens", "output_tokens", "reasoning_tokens", "cost_pusd", "cost_usd", "doubts",
}  # fmt: skip
ROW_KEYS = {"key", "calls", "unpriced_calls", "cost_pusd", "cost_usd", "share", "input_tokens", "output_tokens"}


def lacking(reason: str = "no_usage") -> Missing:
    source = Source(resource={}, scope="some.scope", scope_version="1")
    span = Span(source, b"\x01" * 16, b"\x02" * 8, b"", "chat", 3, 5, 6, (), 0, 0, 0, False, 10, 0)
    return Missing(account="acme", span=span, model="gpt-4o", reason=reason)


def test_the_contract() -> None:
    """Scripts read these names; they stay."""
    made = report([charge(agent="a", merged_span_ids=(b"\x05" * 8,))], [lacking()], traces=3, spans=9, duplicate_spans=2, notes=["first"])
    assert made["schema"] == "spantoll.report/1"
    assert set(made) == {"schema", "totals", "calls", "attributions", "missing", "notes"}
    assert set(made["totals"]) == TOTAL_KEYS
    assert set(made["calls"][0]) >= CALL_KEYS
    assert set(made["attributions"]) == set(DIMENSIONS)
    assert set(made["attributions"]["agent"][0]) == ROW_KEYS
    assert made["missing"] == [
        {"trace_id": "01" * 16, "span_id": "02" * 8, "scope": "some.scope", "model": "gpt-4o", "reason": "no_usage"},
    ]
    assert made["calls"][0]["merged_span_ids"] == ["05" * 8]
    assert made["notes"][0] == "first"
    json.dumps(made, allow_nan=False)


def test_money_is_exact() -> None:
    """cost_usd is the integer of cost_pusd as a decimal string, to the last unit; nothing passes through a float."""
    made = report([charge(cost_pusd=2**60 + 1)], [], traces=1, spans=1, duplicate_spans=0)
    for shown in (made["totals"], made["calls"][0], made["attributions"]["agent"][0]):
        assert shown["cost_pusd"] == 2**60 + 1
        assert Decimal(shown["cost_usd"]) * 10**12 == 2**60 + 1


def test_an_unpriced_call_is_never_zero_dollars() -> None:
    """What has no price is null, is counted beside the priced ones, and adds nothing to a sum."""
    made = report([charge(1, agent="a"), charge(2, cost_pusd=None, agent="b")], [], traces=1, spans=2, duplicate_spans=0)
    priced, unpriced = made["calls"]
    assert (priced["cost_pusd"], priced["cost_usd"], priced["unpriced_reason"]) == (1_000, "0.000000001", None)
    assert (unpriced["cost_pusd"], unpriced["cost_usd"], unpriced["cost_basis"]) == (None, None, "unpriced")
    assert unpriced["unpriced_reason"] == "unknown_model"
    assert (made["totals"]["priced_calls"], made["totals"]["unpriced_calls"], made["totals"]["cost_pusd"]) == (1, 1, 1_000)
    rows = {row["key"]: row for row in made["attributions"]["agent"]}
    assert (rows["b"]["unpriced_calls"], rows["b"]["cost_pusd"], rows["b"]["cost_usd"]) == (1, 0, None)


def test_nothing_priced_is_no_total_in_dollars() -> None:
    """A report of unpriced calls alone must not read as free of charge; one of no calls did cost nothing."""
    assert report([charge(cost_pusd=None)], [], traces=1, spans=1, duplicate_spans=0)["totals"]["cost_usd"] is None
    assert report([], [], traces=0, spans=0, duplicate_spans=0)["totals"]["cost_usd"] == "0"


def test_rows_stand_by_cost_then_key() -> None:
    """The dearest first; equal ones by name, the unknown one last, so that equal input gives equal output."""
    charges = [
        charge(1, cost_pusd=5, agent="b"),
        charge(2, cost_pusd=5, agent="a"),
        charge(3, cost_pusd=5, agent=None),
        charge(4, cost_pusd=9, agent="z"),
    ]
    made = report(charges, [], traces=1, spans=4, duplicate_spans=0)
    assert [row["key"] for row in made["attributions"]["agent"]] == ["z", "a", "b", None]
    assert made["attributions"]["agent"][0]["share"] == 0.375
    assert made == report(charges[::-1], [], traces=1, spans=4, duplicate_spans=0)


def test_calls_stand_by_start() -> None:
    """Whoever reads the calls reads what happened, in order."""
    made = report([charge(3), charge(1), charge(2)], [], traces=1, spans=3, duplicate_spans=0)
    assert [call["start_unix_nano"] for call in made["calls"]] == [1, 2, 3]


def test_every_doubt_is_explained() -> None:
    """A reason without a sentence helps nobody."""
    assert set(DOUBT_SENTENCES) == {doubt.value for doubt in Doubt}
    made = report([charge(1, doubts=("clamped", "sampled")), charge(2, doubts=("clamped",))], [], traces=1, spans=2, duplicate_spans=0)
    assert made["totals"]["doubts"] == {"clamped": 2, "sampled": 1}
    assert [note for note in made["notes"] if note.startswith("clamped (2 call(s)): ")]
    assert len(made["notes"]) == 2


def test_a_loss_is_said() -> None:
    """Spans that show no usage, sampled traces and dropped attributes are notes, too: the sum is not the whole."""
    made = report([], [lacking(), lacking(), lacking("sampled"), lacking("dropped_attributes")], traces=1, spans=4, duplicate_spans=0)
    assert len(made["missing"]) == 4
    assert [note[:2] for note in made["notes"]] == ["1 ", "2 ", "1 "]
