"""What a scrape shows: our integers under the names of the table, in whatever format is asked for."""

from __future__ import annotations

import asyncio
import re
from enum import Enum

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from receiver.core.calls.call import Missing
from receiver.core.span import Source, Span
from receiver.metrics import FAMILIES, Kind, Metrics
from receiver.metrics.collector import MetricsOptions
from receiver.metrics.exposition import SLICE
from receiver.metrics.families import PREFIX, find
from tests.unit.charges import charge, quote

OPENMETRICS = "application/openmetrics-text;version=1.0.0"
SECOND = 1_000_000_000


class Clock:
    """A wall clock that stands until it is moved."""

    def __init__(self) -> None:
        self.unix_nano = 1_790_000_000 * SECOND

    def __call__(self) -> int:
        return self.unix_nano


def metrics(clock: Clock | None = None, **options: object) -> Metrics:
    return Metrics(MetricsOptions(**options), unix_nano=clock or Clock())  # type: ignore[arg-type]  # options of the test's own


def scrape(made: Metrics, accept: str = "") -> str:
    return asyncio.run(made.exposition(accept))[1].decode()


def everything() -> Metrics:
    """A scrape with something in every family."""
    made = metrics()
    made.observe(
        [
            charge(1, agent="a", doubts=("clamped",), priced_as=quote(7, cache_savings_pusd=5, cache_premium_pusd=3)),
            charge(2, cost_pusd=None),
        ],
        now_unix_nano=1,
    )
    scope = ("some.scope",)
    made.counted(
        {
            ("cache_mode_guess_total", scope): 1,
            ("aggregate_suppressed_tokens_total", scope): 2,
            ("same_call_merged_total", ("outer", "inner")): 1,
            ("sibling_dedup_total", ("response_id",)): 1,
            ("parent_adopted_total", ()): 1,
            ("late_span_total", ("counted",)): 1,
            ("usage_incomplete_total", scope): 1,
            ("bucket_clamped_total", ()): 1,
            ("response_cache_hits_total", scope): 1,
            ("response_cache_hit_tokens_total", scope): 9,
        }
    )
    made.missing([lacking()])
    made.released("root", 2)
    made.accepted("grpc", 8)
    made.refused("grpc", "memory", 8)
    made.rejected("http", "trace_id", 1)
    made.duplicate("http", 1)
    made.late(1)
    made.sanitized(1)
    made.request(transport="grpc", outcome=Ended.ACCEPTED, reason="", wire_bytes=10, body_bytes=30, seconds=0.002)
    made.wrong_protocol(transport="grpc", spoken="http")
    made.loop_stall(0.02)
    for family in FAMILIES:
        some: tuple[str, ...] = ("acme",) * len(family.labels)
        if family.kind is Kind.GAUGE:
            made.gauge(family.name, lambda some=some: {some: 5} if some else 5)  # type: ignore[misc]  # a default of a lambda has no type
    for name in ("credit_debited_msat", "credit_topped_up_msat"):
        made.total(name, lambda: {("acme",): (7, SECOND)})
    made.low_balance("acme")
    made.webhook("failed")
    made.commit(0.004)
    made._overflowed("agent")
    return made


class Ended(Enum):
    ACCEPTED = "accepted"


def lacking(reason: str = "no_usage") -> Missing:
    source = Source(resource={}, scope="some.scope", scope_version="1")
    span = Span(source, b"\x01" * 16, b"\x02" * 8, b"", "chat", 3, 5, 6, (), 0, 0, 0, False, 10, 0)
    return Missing(account="acme", span=span, model="gpt-4o", reason=reason)


def test_names_follow_the_rules() -> None:
    """Prometheus naming: snake case, unit last, `_total` on counters only; help is a sentence; no label is an id."""
    names = [family.name for family in FAMILIES]
    assert len(set(names)) == len(names)
    for family in FAMILIES:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", family.name), family
        assert not family.name.endswith(("_total", "_info", "_count", "_sum", "_bucket", "_created")), family
        assert family.help.endswith("."), family
        assert not family.unit or family.name.endswith(family.unit), family
        assert not {"trace_id", "span_id", "user", "session"} & set(family.labels), family
        assert (family.kind is Kind.HISTOGRAM) == bool(family.buckets), family
        assert list(family.buckets) == sorted(set(family.buckets)), family


def test_every_family_can_be_fed() -> None:
    """A family that nothing feeds would be a promise in the README that no scrape keeps."""
    shown = {one.family.name: list(one.points) for one in everything().shown()}
    assert {name for name, points in shown.items() if not points} == set()
    assert set(shown) == {family.name for family in FAMILIES}


@pytest.mark.parametrize("accept", ["", "text/plain;version=0.0.4", "*/*"])
def test_the_plain_format(accept: str) -> None:
    """What curl and old scrapers get: every family once, no `_created` series, no exemplars."""
    made = everything()
    content_type, body = asyncio.run(made.exposition(accept))
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    text = body.decode()
    assert "_created" not in text
    assert "{trace_id" not in text
    assert {family.name for family in parse_text(text)} == {
        PREFIX + family.name + ("_info" if family.kind is Kind.INFO else "") for family in FAMILIES
    }
    assert text.count("# TYPE ") == len(FAMILIES)


def test_the_openmetrics_format() -> None:
    """What Prometheus asks for: created timestamps, and the trace as an exemplar on costs and their buckets."""
    text = scrape(everything(), OPENMETRICS)
    assert text.endswith("# EOF\n")
    families = {family.name: family for family in parse_openmetrics(text)}
    assert set(families) == {PREFIX + family.name for family in FAMILIES}
    cost = families["spantoll_cost_usd"]
    assert [sample.exemplar.labels for sample in cost.samples if sample.exemplar] == [{"trace_id": "0" * 31 + "1"}]
    assert any(sample.name == "spantoll_cost_usd_created" for sample in cost.samples)
    buckets = families["spantoll_trace_cost_usd"].samples
    assert [sample.labels["le"] for sample in buckets if sample.exemplar] == ["0.0001"]


def test_created_timestamps_can_be_had_in_the_plain_format() -> None:
    """`metrics.created_in_text`: gauges of their own, described once."""
    made = metrics(created_in_text=True)
    made.observe([charge(1), charge(2, agent="b")], now_unix_nano=3 * SECOND)
    text = scrape(made)
    families = {family.name: family for family in parse_text(text)}
    assert {sample.value for sample in families["spantoll_cost_usd_created"].samples} == {3.0}
    assert text.count("# TYPE spantoll_cost_usd_created gauge") == 1


def test_a_charge_on_the_scrape() -> None:
    """Cost, calls and disjoint tokens of a call stand under the same labels; the model is the one that was priced."""
    made = metrics()
    made.observe([charge(1, agent="a"), charge(2, agent="a", trace=2)], now_unix_nano=1)
    labels = {"account": "acme", "agent": "a", "model": "gpt-4o", "provider": "openai", "basis": "token_usage"}
    assert made.exact("cost_usd_total", **labels) == 2_000
    assert made.value("spantoll_cost_usd_total", **labels) == 2e-9
    assert made.value("calls_total", **labels) == 2
    by_type = {kind: made.value("tokens_total", **labels, type=kind) for kind in ("input_uncached", "cache_read", "cache_write", "output")}
    assert by_type == {"input_uncached": 120, "cache_read": 60, "cache_write": 20, "output": 18}
    assert made.value("trace_cost_usd", account="acme", workflow="unknown") == 2


def test_a_traces_cost_is_the_sum_of_its_calls() -> None:
    """The histogram tells of traces, not of calls."""
    made = metrics()
    made.observe([charge(1, cost_pusd=60_000_000), charge(2, cost_pusd=60_000_000, workflow="w")], now_unix_nano=1)
    (point,) = [point for one in made.shown() if one.family.name == "trace_cost_usd" for point in one.points]
    assert (point.labels, point.buckets[:2], point.total) == (("acme", "w"), (0, 1), 120_000_000)


def test_an_unpriced_call_is_no_cost_of_zero() -> None:
    """It is counted as a call with tokens, and by reason; there is no cost series that says 0 for it."""
    made = metrics()
    made.observe([charge(1, cost_pusd=None, provider=None, model=None)], now_unix_nano=1)
    assert "cost_usd_total{" not in scrape(made)
    assert made.value("calls_total", basis="unpriced", model="unknown", provider="unknown", agent="unknown") == 1
    assert made.value("unpriced_calls_total", reason="unknown_model") == 1
    assert made.value("unpriced_tokens_total", reason="unknown_model") == 109
    assert made.value("trace_cost_usd") == 0


def test_a_model_call_without_usage_is_an_unpriced_call() -> None:
    """It cannot be counted, but it was made: never $0 in silence."""
    made = metrics()
    made.missing([lacking(), lacking("sampled")])
    assert made.value("unpriced_calls_total", model="gpt-4o", reason="no_usage") == 1
    assert made.value("missing_spans_total", account="acme", reason="sampled") == 1


def test_dimensions_become_labels_on_request() -> None:
    """User and session are off by default; the operator may add any dimension of a charge."""
    made = metrics(dimensions=("user", "feature"))
    made.observe([charge(1, user="u-1", feature="search")], now_unix_nano=1)
    assert made.exact("cost_usd", user="u-1", feature="search") == 1_000
    assert made.value("tokens", user="u-1", type="output") == 9
    one = metrics(dimensions=["tenant"])
    one.observe([charge(1, tenant="t")], now_unix_nano=1)
    assert one.exact("cost_usd", tenant="t") == 1_000
    assert 'user="' not in scrape(metrics())


def test_hostile_values_stay_values() -> None:
    """A label's value can neither end its quotes nor begin a line."""
    made = metrics()
    evil = 'x"} 1\nspantoll_cost_usd_total{account="other"} 9\\'
    made.observe([charge(1, agent=evil)], now_unix_nano=1)
    for accept, parse in (("", parse_text), (OPENMETRICS, parse_openmetrics)):
        families = {family.name: family for family in parse(scrape(made, accept))}
        (sample,) = [sample for sample in families["spantoll_cost_usd"].samples if sample.name.endswith("_total")]
        assert sample.labels["agent"] == evil.replace("\n", " ")


def test_a_new_series_can_be_shown_at_zero_first() -> None:
    """rate() loses the first value of a series where created timestamps are not ingested; so show 0 for one scrape, then the value."""
    clock = Clock()
    made = metrics(clock, zero_first=30.0)
    made.observe([charge(1)], now_unix_nano=clock())
    made.accepted("grpc", 8)
    made.request(transport="grpc", outcome=Ended.ACCEPTED, reason="", wire_bytes=1, body_bytes=1, seconds=1)
    assert 'spantoll_receiver_accepted_spans_total{transport="grpc"} 0.0' in scrape(made)
    assert re.search(r"^spantoll_cost_usd_total\{.*\} 0\.0$", scrape(made), re.MULTILINE)
    assert re.search(r"^spantoll_receiver_request_duration_seconds_count\{.*\} 0\.0$", scrape(made), re.MULTILINE)
    assert made.exact("cost_usd") == 1_000
    clock.unix_nano += 31 * SECOND
    made.accepted("grpc", 1)
    assert 'spantoll_receiver_accepted_spans_total{transport="grpc"} 9.0' in scrape(made)
    assert re.search(r"^spantoll_cost_usd_total\{.*\} 1e-09$", scrape(made), re.MULTILINE)


def test_a_scrape_is_written_in_slices() -> None:
    """The event loop runs between slices, each family is still described once, and nothing is told twice or left out."""
    made = metrics(max_series_per_account=10_000)
    count = 2 * SLICE + 3
    made.observe([charge(number, agent=f"a{number}") for number in range(count)], now_unix_nano=1)

    async def scraped() -> tuple[str, int]:
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        beside = asyncio.create_task(others())
        text = (await made.exposition(OPENMETRICS))[1].decode()
        beside.cancel()
        return text, turns

    text, turns = asyncio.run(scraped())
    assert turns > len(FAMILIES)
    assert text.count("# TYPE spantoll_cost_usd counter") == 1
    assert len(re.findall(r"^spantoll_cost_usd_total\{", text, re.MULTILINE)) == count
    assert len(set(re.findall(r'^spantoll_calls_total\{.*agent="(a\d+)"', text, re.MULTILINE))) == count
    assert list(parse_openmetrics(text))


def test_a_scrape_shows_one_moment() -> None:
    """What is added while a scrape is written is in the next one, in all families alike."""
    made = metrics()
    made.observe([charge(1)], now_unix_nano=1)
    shown = made.shown()
    made.observe([charge(2)], now_unix_nano=2)
    calls = {one.family.name: list(one.points) for one in shown}
    assert calls["calls"][0].value == 1
    assert sum(point.value for point in calls["tokens"]) == 109


def test_gauges_are_asked_at_the_scrape() -> None:
    """A gauge that nobody feeds is not shown: a 0 would be a claim."""
    made = metrics()
    assert "spantoll_window_traces" not in scrape(made)
    made.gauge("window_traces", lambda: 3)
    assert "spantoll_window_traces 3.0" in scrape(made)
    assert made.value("window_traces") == 3


def test_a_total_that_is_kept_elsewhere_is_a_counter() -> None:
    """Shown as it is asked for, with the moment at which it began; not shown while nobody keeps it."""
    made = metrics(zero_first=10.0)
    assert "spantoll_credit_debited_msat" not in scrape(made)
    began = {"old": 1 * SECOND, "young": made._unix_nano() - SECOND}
    made.total("credit_debited_msat", lambda: {(name,): (70, born) for name, born in began.items()})
    shown = scrape(made, accept="application/openmetrics-text;version=1.0.0")
    assert 'spantoll_credit_debited_msat_total{account="old"} 70.0' in shown
    assert 'spantoll_credit_debited_msat_created{account="old"} 1.0' in shown
    assert 'spantoll_credit_debited_msat_total{account="young"} 0.0' in shown, "as any other young series"
    assert made.exact("credit_debited_msat", account="young") == 70
    with pytest.raises(AssertionError):
        made.total("credit_balance_msat", dict)


def test_low_balance_warnings_are_counted_by_account() -> None:
    """One a warning."""
    made = metrics()
    for account in ("a", "b", "a"):
        made.low_balance(account)
    assert made.exact("credit_low_balance") == 3
    assert made.exact("credit_low_balance", account="a") == 2


def test_a_name_outside_the_table_is_a_bug() -> None:
    """The table is closed: a counter that it does not hold would be lost in silence."""
    made = metrics()
    with pytest.raises(KeyError):
        made.counted({("invented_total", ()): 1})
    with pytest.raises(KeyError):
        find("invented")
    with pytest.raises(AssertionError):
        made.gauge("calls", lambda: 1)
