"""Prices against an independent implementation, and sums that never lose a unit.

The referee is the `genai-prices` package, from whose data the vendored list is compiled: it computes in decimals, walks its rules
each time, and shares no code with ours.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receiver.core.calls.call import Doubt
from receiver.core.money import PUSD_PER_USD, divide_half_even, format_usd, parse_usd, split
from receiver.core.prices import Basis, PriceBook
from receiver.core.usage.reading import Klass, Reading, Tokens
from receiver.tables import load_json

genai_prices = pytest.importorskip("genai_prices")
from genai_prices.data import providers  # noqa: E402 -- after the check that it is installed

SNAPSHOT = load_json("prices.json")
BOOK = PriceBook.build(SNAPSHOT)  # without our patch: there we differ on purpose
COUNTS = st.integers(0, 400_000)


def _name_of(clause: Any) -> str | None:
    """A name that a match rule surely fits."""
    if isinstance(clause, dict):
        return next((name for part in clause.get("or", ()) if (name := _name_of(part))), None)
    return clause[1:] if clause[0] in "=^~$" else None


#: (provider, name, the referee's model): names that both sides take for the same model, without help from our normaliser.
MODELS: list[tuple[str, str]] = [
    (provider["id"], name)
    for provider in SNAPSHOT["providers"]
    for model in provider["models"]
    if (name := _name_of(model["match"])) and "input" in model["prices"][0]["rates"]
]


def test_the_snapshot_is_of_the_installed_referee() -> None:
    """Both hold the same models, or the comparison below would compare two lists."""
    assert genai_prices.__version__ == SNAPSHOT["version"]
    assert sum(len(one.models) for one in providers) == sum(len(one["models"]) for one in SNAPSHOT["providers"])
    assert len(MODELS) > 2_000


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, str, Tokens, datetime, str | None]:
    provider, name = draw(st.sampled_from(MODELS))
    uncached, read, write_5m, write_1h = (draw(COUNTS) for _ in range(4))
    with_writes = draw(st.booleans())
    if not with_writes:
        write_5m = write_1h = 0
    audio = draw(st.integers(0, uncached)) if draw(st.booleans()) else 0
    output = draw(COUNTS)
    tokens = Tokens(
        input_total=uncached + read + write_5m + write_1h, uncached=uncached, cache_read=read, cache_write_5m=write_5m,
        cache_write_1h=write_1h, output_total=output, reasoning=draw(st.integers(0, output)), audio_in=audio,
        audio_out=draw(st.integers(0, output)) if audio else 0, web_searches=draw(st.integers(0, 3)),
    )  # fmt: skip
    moment = datetime(2025, 1, 1, tzinfo=UTC) + timedelta(seconds=draw(st.integers(0, 3 * 365 * 86_400)))
    return provider, name, tokens, moment, draw(st.sampled_from([None, None, "batch", "flex", "priority"]))


CONTEXT = {None: None, "batch": {"processing": "batch"}, "flex": {"service_tier": "flex"}, "priority": {"service_tier": "priority"}}


@settings(max_examples=200, deadline=None)
@given(calls())
def test_every_list_price_is_the_referees(call: tuple[str, str, Tokens, datetime, str | None]) -> None:
    """Any model, usage, moment and tier costs what the independent implementation computes, to the pico-USD.

    Two differences are on purpose: we have no price where output tokens have no rate (there they are free), and a Bedrock id that
    does not tell its geography is a global one with a doubt (there it is a regional one).
    """
    provider, name, t, moment, tier = call
    usage = genai_prices.Usage(
        input_tokens=t.input_total, output_tokens=t.output_total, cache_read_tokens=t.cache_read,
        cache_write_tokens=t.cache_write_5m + t.cache_write_1h, cache_write_1h_tokens=t.cache_write_1h, input_audio_tokens=t.audio_in,
        cache_audio_read_tokens=0, output_audio_tokens=t.audio_out, output_reasoning_tokens=t.reasoning if not t.audio_out else 0,
        web_searches=t.web_searches,
    )  # fmt: skip
    tokens = t if not t.audio_out else t._replace(reasoning=0)
    expected = genai_prices.calc_price(usage, name, provider_id=provider, genai_request_timestamp=moment, price_context=CONTEXT[tier])
    reading = Reading(klass=Klass.MODEL_CALL, tokens=tokens, models=(name,), provider=provider, tier=tier)
    quote = BOOK.quote(reading, account="acme", start_unix_nano=int(moment.timestamp()) * 10**9, received_unix_nano=0)
    if quote.basis is Basis.UNPRICED:
        no_output_rate = bool(t.output_total) and expected.model_price.output_mtok is None
        assert no_output_rate or not (t.input_total or t.output_total or t.web_searches)
        return
    assert quote.cost_pusd is not None
    if abs(quote.cost_pusd - expected.total_price * PUSD_PER_USD) > 1:
        assert provider == "aws"
        assert quote.model != expected.model.id
        assert Doubt.MODEL_ALIAS in quote.doubts


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(MODELS), st.lists(st.tuples(COUNTS, COUNTS, COUNTS), min_size=1, max_size=8), st.integers(1, 5))
def test_the_parts_are_the_whole(model: tuple[str, str], usages: list[tuple[int, int, int]], parts: int) -> None:
    """Costs are integers: however calls are grouped and split over keys, nothing is lost and nothing appears."""
    provider, name = model
    costs = []
    for uncached, read, output in usages:
        tokens = Tokens(input_total=uncached + read, uncached=uncached, cache_read=read, output_total=output)
        reading = Reading(klass=Klass.MODEL_CALL, tokens=tokens, models=(name,), provider=provider, family="embedding")
        quote = BOOK.quote(reading, account="acme", start_unix_nano=1_795_300_000 * 10**9, received_unix_nano=0)
        assert (quote.cost_pusd is None) is (quote.basis is Basis.UNPRICED)
        assert quote.cost_pusd is None or quote.cost_pusd >= 0
        costs.append(quote.cost_pusd or 0)
    total = sum(costs)
    shares = split(total, {at: sum(costs[at::parts]) for at in range(parts)})
    assert shares == {at: sum(costs[at::parts]) for at in range(parts)}


@given(st.integers(-(10**20), 10**20), st.dictionaries(st.integers(0, 50), st.integers(0, 10**12), min_size=1, max_size=12))
def test_a_split_sums_to_the_whole_and_is_fair(total: int, weights: dict[int, int]) -> None:
    """Largest remainder: every part is within one unit of its exact share, and the parts are the total."""
    parts = split(total, weights)
    assert sum(parts.values()) == total
    assert parts.keys() == weights.keys()
    whole = sum(weights.values())
    for key, part in parts.items():
        exact = Decimal(total) * weights[key] / whole if whole else Decimal(total) / len(weights)
        assert abs(part - exact) < 1


@given(st.integers(-(10**26), 10**26))
def test_amounts_survive_their_text(pusd: int) -> None:
    """What a report shows reads back as the same amount."""
    assert parse_usd(format_usd(pusd)) == pusd


@given(st.integers(-(10**30), 10**30), st.integers(1, 10**15))
def test_half_even_is_what_decimals_do(numerator: int, denominator: int) -> None:
    """The nearest integer; of two equally near ones the even."""
    result = divide_half_even(numerator, denominator)
    rest = abs(numerator - result * denominator) * 2
    assert rest < denominator or (rest == denominator and result % 2 == 0)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300), st.one_of(st.none(), st.text(max_size=40)), st.one_of(st.none(), st.text(max_size=40)))
def test_any_name_gives_an_answer(name: str, provider: str | None, gateway: str | None) -> None:
    """Names come from clients: whatever they are, there is a price or a reason, never an error."""
    reading = Reading(
        klass=Klass.MODEL_CALL, tokens=Tokens(input_total=5, uncached=5, output_total=5), models=(name,), provider=provider, gateway=gateway
    )
    quote = BOOK.quote(reading, account="acme", start_unix_nano=0, received_unix_nano=0)
    assert (quote.cost_pusd is None) is bool(quote.unpriced_reason)
