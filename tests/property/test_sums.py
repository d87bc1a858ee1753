"""Sums are exact whatever is summed: report, dimensions and metrics are one set of charges seen in several ways."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receiver.core.attribution import DIMENSIONS, Charge
from receiver.core.report import report
from receiver.core.usage.reading import Tokens
from receiver.metrics import OVERFLOW, Metrics
from receiver.metrics.collector import MetricsOptions
from tests.unit.charges import charge, quote

SMALL = st.integers(0, 2**40)
NAMES = st.one_of(st.none(), st.sampled_from(["a", "b", OVERFLOW, "unknown", ""]), st.text(max_size=200), st.integers(0, 400).map(str))
COSTS = st.one_of(st.none(), st.just(0), st.integers(0, 10**18))


@st.composite
def charges(draw: st.DrawFn) -> Charge:
    uncached, read, write, hour, unknown, output = (draw(SMALL) for _ in range(6))
    cost = draw(COSTS)
    fields: dict[str, Any] = {dimension: draw(NAMES) for dimension in DIMENSIONS}
    return charge(
        draw(st.integers(0, 2**32)),
        trace=draw(st.integers(1, 5)),
        account=draw(st.sampled_from(["acme", "initech", "x"])),
        priced_as=quote(cost, model=draw(NAMES), provider=draw(NAMES)),
        tokens=Tokens(
            input_total=uncached + read + write + hour + unknown,
            uncached=uncached,
            cache_read=read,
            cache_write_5m=write,
            cache_write_1h=hour,
            cache_write_unknown=unknown,
            output_total=output,
        ),
        **fields,
    )


@settings(max_examples=150, deadline=None)
@given(st.lists(charges(), max_size=40))
def test_totals_are_the_sum_of_every_dimension(made: list[Charge]) -> None:
    """Σ calls = Σ every attribution list = totals, to the last unit; shares sum to 1 where anything cost anything."""
    shown = report(made, [], traces=5, spans=len(made), duplicate_spans=0)
    totals = shown["totals"]
    assert totals["cost_pusd"] == sum(one.quote.cost_pusd or 0 for one in made)
    assert totals["calls"] == len(made) == totals["priced_calls"] + totals["unpriced_calls"]
    for rows in (shown["calls"], *shown["attributions"].values()):
        assert sum(row.get("calls", 1) for row in rows) == totals["calls"]
        assert sum(row["cost_pusd"] or 0 for row in rows) == totals["cost_pusd"]
        assert sum(row["input_tokens"] for row in rows) == totals["input_tokens"]
        assert sum(row["output_tokens"] for row in rows) == totals["output_tokens"]
    for rows in shown["attributions"].values():
        assert sum(row["unpriced_calls"] for row in rows) == totals["unpriced_calls"]
        assert len({row["key"] for row in rows}) == len(rows)
        if totals["cost_pusd"]:
            assert sum(row["share"] for row in rows) == pytest.approx(1, abs=1e-6 * len(rows))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(charges(), max_size=60),
    st.integers(1, 12),
    st.integers(1, 12),
    st.sampled_from([(), ("user",), ("user", "session", "tenant")]),
)
def test_a_label_cap_loses_nothing(made: list[Charge], per_account: int, most: int, dimensions: tuple[str, ...]) -> None:
    """However few series there may be, the metrics of each account sum to its charges, to the last unit."""
    options = MetricsOptions(dimensions=dimensions, max_series_per_account=per_account, max_series=most)
    metrics = Metrics(options, unix_nano=lambda: 1)
    for one in made:
        metrics.observe([one], now_unix_nano=1)
    few_accounts = len({one.account for one in made}) <= most
    for account in {one.account for one in made} if few_accounts else set():
        own = [one for one in made if one.account == account]
        assert metrics.exact("cost_usd", account=account) == sum(one.quote.cost_pusd or 0 for one in own)
        assert metrics.exact("calls", account=account) == len(own)
        assert metrics.exact("tokens", account=account) == sum(one.tokens.input_total + one.tokens.output_total for one in own)
        assert metrics.exact("unpriced_calls", account=account) == sum(one.quote.cost_pusd is None for one in own)
    assert metrics.exact("cost_usd") == sum(one.quote.cost_pusd or 0 for one in made)
    assert metrics.exact("calls") == len(made)
    series = {point.labels for shown in metrics.shown() if shown.family.name == "calls" for point in shown.points}
    assert len(series) <= most + 3 * 2  # beside the cap each account may have its own overflow, priced and unpriced


@settings(max_examples=60, deadline=None)
@given(st.lists(charges(), max_size=40), st.randoms(use_true_random=False))
def test_order_and_grouping_change_no_sum(made: list[Charge], order: Any) -> None:
    """Charges come in whatever groups the window releases; the sums do not depend on it."""
    together, apart = (Metrics(unix_nano=lambda: 1) for _ in range(2))
    together.observe(made, now_unix_nano=1)
    shuffled = list(made)
    order.shuffle(shuffled)
    for one in shuffled:
        apart.observe([one], now_unix_nano=1)
    for name in ("cost_usd", "calls", "tokens", "unpriced_calls", "unpriced_tokens"):
        assert together.exact(name) == apart.exact(name)
