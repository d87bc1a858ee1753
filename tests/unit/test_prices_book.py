"""The price book's rules: layers, tiers and time; costs that spans state; what is unpriced and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest

from receiver.core.calls.call import Doubt, LLMCall
from receiver.core.prices import Basis, PriceBook, PriceOptions, Quote, check_overrides
from receiver.core.span import Source, Span
from receiver.core.usage.reading import Klass, Reading, Tokens
from receiver.errors import ConfigError
from receiver.tables import load_json, load_toml

DAY = 86_400 * 10**9
NOW = int(datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp()) * 10**9
SNAPSHOT, PATCH = load_json("prices.json"), load_toml("prices-patch.toml")


@pytest.fixture(scope="module")
def book() -> PriceBook:
    return PriceBook.build(SNAPSHOT, patch=PATCH)


def used(uncached: int = 1000, output: int = 500, **more: int) -> Tokens:
    cached = sum(more.get(name, 0) for name in ("cache_read", "cache_write_5m", "cache_write_1h", "cache_write_unknown"))
    return Tokens(input_total=uncached + cached, uncached=uncached, output_total=output, **more)


def reading(model: str | None = "gpt-4o", tokens: Tokens | None = None, *, provider: str | None = "openai", **more: Any) -> Reading:
    return Reading(
        klass=Klass.MODEL_CALL, tokens=used() if tokens is None else tokens, models=(model,) if model else (), provider=provider, **more
    )


def quote(book: PriceBook, what: Reading, *, account: str = "acme", start: int = NOW, received: int = 0) -> Quote:
    return book.quote(what, account=account, start_unix_nano=start, received_unix_nano=received)


# Tiers


@pytest.mark.parametrize(
    ("tier", "speed", "model", "provider", "usd", "basis"),
    [
        (None, None, "gpt-5", "openai", "0.00625", Basis.LIST),
        ("standard", None, "gpt-5", "openai", "0.00625", Basis.LIST),
        ("scale", None, "gpt-5", "openai", "0.00625", Basis.LIST),
        ("no such tier", None, "gpt-5", "openai", "0.00625", Basis.LIST),
        ("batch", None, "gpt-5", "openai", "0.003125", Basis.LIST),
        ("flex", None, "gpt-5", "openai", "0.003125", Basis.LIST),
        ("priority", None, "gpt-5", "openai", "0.0125", Basis.LIST),
        ("priority", None, "claude-opus-5", "anthropic", "0.0175", Basis.PARTIAL),  # no list has its price: the standard one is a guess
        (None, "fast", "claude-opus-5", "anthropic", "0.035", Basis.LIST),
        (None, "normal", "claude-opus-5", "anthropic", "0.0175", Basis.LIST),
        ("batch", None, "gpt-5", "azure.ai.openai", "0.003125", Basis.LIST),  # Azure's batch discount is OpenAI's
        ("priority", None, "gpt-5", "azure.ai.openai", "0.00625", Basis.PARTIAL),  # its priority price is not
    ],
)
def test_a_service_tier_has_its_own_rates(  # noqa: PLR0917 -- a row of the table
    book: PriceBook, tier: str | None, speed: str | None, model: str, provider: str, usd: str, basis: Basis
) -> None:
    """Batch, flex, priority and fast are columns of the list; an unknown tier is standard; a tier without rates says it is a guess."""
    found = quote(book, reading(model, provider=provider, tier=tier, speed=speed))
    assert (found.cost_pusd, found.basis) == (int(Decimal(usd) * 10**12), basis)


def test_a_tier_counts_from_the_day_its_rates_are_known(book: PriceBook) -> None:
    """The list knows batch rates since 2026-10-14 only; before, the standard rate is taken and marked as a guess."""
    before = quote(book, reading("gpt-5", used(10000, 1000), tier="batch"), start=int(datetime(2026, 9, 1, tzinfo=UTC).timestamp()) * 10**9)
    assert (before.cost_pusd, before.basis) == (22_500_000_000, Basis.PARTIAL)


def test_length_is_a_cliff_for_the_whole_request(book: PriceBook) -> None:
    """Above the threshold every token costs the higher rate, cached and output ones too; cached tokens count for the length."""
    below = quote(book, reading("gpt-5.4", used(72_000, 1000, cache_read=200_000)))
    above = quote(book, reading("gpt-5.4", used(72_001, 1000, cache_read=200_000)))
    assert below.cost_pusd == 72_000 * 2_500_000 + 200_000 * 250_000 + 1000 * 15_000_000
    assert above.cost_pusd == 72_001 * 5_000_000 + 200_000 * 500_000 + 1000 * 22_500_000


# Kinds of tokens


def test_cache_writes_of_unknown_life_cost_what_the_operator_chose() -> None:
    """Five minutes unless configured: the two lives differ by 60 %."""
    what = reading("claude-sonnet-4-6", used(0, 0, cache_write_unknown=1000), provider="anthropic")
    for life, rate in (("5m", 3_750_000), ("1h", 6_000_000)):
        book = PriceBook.build(SNAPSHOT, options=PriceOptions(cache_write_default=life))
        assert quote(book, what).cost_pusd == 1000 * rate


def test_a_rate_that_is_not_listed_is_a_neighbours_never_0(book: PriceBook) -> None:
    """Cached tokens of a model without a cache rate cost its input rate, and the basis says that a rate was missing."""
    found = quote(book, reading("gpt-4-turbo", used(0, 0, cache_read=1000)))
    assert (found.cost_pusd, found.basis) == (1000 * 10_000_000, Basis.PARTIAL)
    assert quote(book, reading("gpt-4-turbo", used(1000, 0))).basis is Basis.LIST


def test_audio_that_the_list_forgot_is_in_our_patch(book: PriceBook) -> None:
    """Audio of gpt-4o-audio-preview costs 40 and 80 USD per million, not its text rates."""
    found = quote(book, reading("gpt-4o-audio-preview", used(1500, 700, audio_in=1000, audio_out=600)))
    assert found.cost_pusd == 500 * 2_500_000 + 1000 * 40_000_000 + 100 * 10_000_000 + 600 * 80_000_000
    assert (found.source, found.basis) == ("patch", Basis.LIST)


def test_subsets_larger_than_their_bucket_are_not_billed_twice(book: PriceBook) -> None:
    """A span that claims more audio than input pays for its input once."""
    found = quote(book, reading("gpt-realtime", used(100, 0, audio_in=1000)))
    assert found.cost_pusd == 100 * 32_000_000


def test_searches_and_compaction_cost_extra(book: PriceBook) -> None:
    """Web searches have a fee each, and what a server-side compaction consumed is billed at the model's rates."""
    found = quote(
        book, reading("claude-sonnet-5", used(0, 0, web_searches=3, compaction_in=1000, compaction_out=100), provider="anthropic")
    )
    assert found.cost_pusd == 3 * 10**10 + 1000 * 2_000_000 + 100 * 10_000_000


def test_searches_without_a_fee_are_said(book: PriceBook) -> None:
    """A search that the list has no fee for leaves the price a partial one."""
    assert quote(book, reading("claude-3-haiku", used(web_searches=1), provider="anthropic")).basis is Basis.PARTIAL


def test_a_rate_that_is_no_whole_number_is_rounded_once_a_component() -> None:
    """1/3 pUSD a token: 1000 tokens in and 500 out are 333 + 167, not 500 rounded from a sum of fractions."""
    book = PriceBook.build(SNAPSHOT, overrides=[{"match": "third", "rates": {"input": "1/3000000", "output": "1/3000000"}}])
    assert quote(book, reading("third")).cost_pusd == 333 + 167
    assert quote(book, reading("third", used(1, 1))).cost_pusd == 0  # 0.33 each: nothing to pay, but priced
    assert quote(book, reading("third", used(1, 1))).basis is Basis.LIST


# Time


def test_a_price_is_that_of_the_calls_start() -> None:
    """Cut-overs hold from their nanosecond on; what was priced before stays."""
    book = PriceBook.build(
        SNAPSHOT,
        overrides=[
            {"match": "m", "to": date(2026, 11, 1), "rates": {"input": 1, "output": 1}},
            {"match": "m", "from": "2026-11-01", "to": "2026-11-10T12:00:00+02:00", "rates": {"input": 2, "output": 2}},
        ],
    )
    first = int(datetime(2026, 11, 1, tzinfo=UTC).timestamp()) * 10**9
    last = int(datetime(2026, 11, 10, 10, tzinfo=UTC).timestamp()) * 10**9
    costs = [quote(book, reading("m", used(1, 0)), start=start).cost_pusd for start in (first - 1, first, last - 1, last, first - 1)]
    assert costs == [1_000_000, 2_000_000, 2_000_000, None, 1_000_000]


@pytest.mark.parametrize(
    ("offset", "received", "believed"),
    [
        (-30 * DAY, NOW, True),
        (-30 * DAY - 1, NOW, False),
        (3_600 * 10**9, NOW, True),
        (3_600 * 10**9 + 1, NOW, False),
        (-10_000 * DAY, 0, True),
    ],
)
def test_an_implausible_start_is_priced_at_its_receipt(book: PriceBook, offset: int, received: int, believed: bool) -> None:
    """A clock that is wrong by months must not fetch an old price; files are believed, they have no receipt."""
    found = quote(book, reading("o3"), start=NOW + offset, received=received)
    assert found.at_receive_time is not believed
    now_costs = quote(book, reading("o3")).cost_pusd
    assert (found.cost_pusd == now_costs) or believed


def test_hours_of_the_day_do_not_bind_a_reseller(book: PriceBook) -> None:
    """Azure sells DeepSeek around the clock; the maker's off-peak hours are not its, so the price is a partial one."""
    nights = [
        quote(book, reading("deepseek-v4-pro", provider="azure.ai.inference"), start=NOW + hour * 3_600 * 10**9) for hour in range(24)
    ]
    assert len({one.cost_pusd for one in nights}) == 1
    assert nights[0].basis is Basis.PARTIAL


# Layers


def test_layers_are_asked_in_their_order() -> None:
    """Contract before override before list; each says where its price came from."""
    rows = [
        {"match": "gpt-4o*", "rates": {"input": 1, "output": 1}},
        {"match": "gpt-4o*", "account": "acme", "rates": {"input": 3, "output": 3}},
    ]
    book = PriceBook.build(SNAPSHOT, patch=PATCH, overrides=rows)
    got = {account: quote(book, reading("gpt-4o", used(1, 0)), account=account) for account in ("acme", "other")}
    assert [(one.cost_pusd, one.source) for one in got.values()] == [(3_000_000, "contract"), (1_000_000, "override")]
    listed = quote(book, reading("gpt-4.1", used(1, 0)))
    assert (listed.cost_pusd, listed.source, listed.version) == (2_000_000, "genai-prices", "0.2.3")
    assert quote(book, reading("deepseek-flash", provider="deepseek")).source == "patch"


@pytest.mark.parametrize(
    ("row", "hits"),
    [
        ({"match": "gpt-4o"}, True),  # the canonical model of the dated name
        ({"match": "gpt-4o-2024-08-06"}, True),
        ({"match": "GPT-4o-2024-*"}, True),
        ({"match": "*-08-06"}, True),
        ({"match": "gpt-4"}, False),
        ({"model": "gpt-4o-2024-08-06"}, True),
        ({"prefix": "gpt-4o-2024"}, True),
        ({"regex": "^gpt-4O"}, True),
        ({"regex": "^4o"}, False),
        ({"match": "*", "provider": "azure"}, False),
        ({"match": "*", "provider": "openai"}, True),
        ({"match": "*", "provider": ""}, True),
        ({"match": "*", "account": "acme"}, True),
        ({"match": "*", "account": "other"}, False),
        ({"match": "*", "tier": "batch"}, False),
        ({"match": "*", "tier": "standard"}, True),
        ({"match": "*", "from": datetime(2030, 1, 1, tzinfo=UTC)}, False),
        ({"match": "*", "valid_from": 0, "valid_to": None}, True),
    ],
    ids=str,
)
def test_a_row_is_for_the_calls_that_it_names(row: dict[str, Any], hits: bool) -> None:
    """Name, provider, account, tier and period all have to fit."""
    book = PriceBook.build(SNAPSHOT, overrides=[{**row, "input_mtok": 1, "output_mtok": 1}])
    found = quote(book, reading("gpt-4o-2024-08-06"))
    assert (found.cost_pusd == 1500 * 1_000_000) is hits


def test_a_multiplier_keeps_the_lists_columns() -> None:
    """10 % off is 10 % off every rate, of every length and tier; the list's history stays."""
    book = PriceBook.build(SNAPSHOT, overrides=[{"match": "gpt-5*", "multiplier": 0.9}])
    plain = PriceBook.build(SNAPSHOT)
    for what in (reading("gpt-5.4", used(272_001, cache_read=10)), reading("gpt-5", tier="batch"), reading("gpt-5.6-sol")):
        base = quote(plain, what).cost_pusd
        assert base is not None
        found = quote(book, what)
        assert (found.cost_pusd, found.source, found.basis) == (base * 9 // 10, "override", Basis.LIST)
    assert quote(book, reading("gpt-5-unheard-of-x")).cost_pusd is None  # nothing to multiply


def test_an_alias_is_as_good_as_a_name() -> None:
    """Azure deployments and inference profiles are names of the operator's own: priced as what he says, without a doubt."""
    aliases = {
        "gpt-4o-prod": "gpt-4o",
        "aws/arn:aws:bedrock:us-east-1:1:application-inference-profile/abc": "us.anthropic.claude-haiku-4-5-20251001-v1:0",
        "smart": "anthropic/claude-haiku-4-5",
        "local-llama": "groq/llama-3.3-70b-versatile",
        "qwen-at-home": "gpt-4o-mini",
    }
    book = PriceBook.build(SNAPSHOT, aliases=aliases)
    found = [
        quote(book, reading("gpt-4o-prod", provider="azure.ai.openai")),
        quote(book, reading("arn:aws:bedrock:us-east-1:1:application-inference-profile/abc", provider="aws.bedrock")),
        quote(book, reading("Smart", provider="openai")),
        quote(book, reading("local-llama", provider="ollama")),
        quote(book, reading("qwen-at-home", provider="ollama")),
    ]
    assert [one.model for one in found] == [
        "gpt-4o", "regional.anthropic.claude-haiku-4-5-20251001-v1:0", "claude-haiku-4-5", "llama-3.3-70b-versatile",
        "gpt-4o-mini",
    ]  # fmt: skip
    assert all(not one.doubts for one in found)


def test_litellms_file_is_asked_last() -> None:
    """It fills what the lists lack, with its thresholds and tiers; zeros there mean unknown, and a truncated file is refused."""
    table: dict[str, Any] = {f"filler-{at}": {"litellm_provider": "openai", "input_cost_per_token": 1e-6} for at in range(600)}
    table |= {
        "gpt-4o": {"litellm_provider": "openai", "input_cost_per_token": 1e-3, "output_cost_per_token": 1e-3},
        "together_ai/new-model": {
            "litellm_provider": "together_ai", "mode": "chat", "input_cost_per_token": 2e-6, "output_cost_per_token": 4e-6,
            "input_cost_per_token_above_128k_tokens": 3e-6, "input_cost_per_token_batches": 1e-6, "cache_read_input_token_cost": 0.0,
        },
        "openai/unknown-price": {"litellm_provider": "openai", "input_cost_per_token": 0.0, "output_cost_per_token": 0.0},
        "openai/absurd": {"litellm_provider": "openai", "input_cost_per_token": 3.0, "output_cost_per_token": 3.0},
        "openai/not-a-number": {"litellm_provider": "openai", "input_cost_per_token": "cheap", "output_cost_per_token": None},
    }  # fmt: skip
    book = PriceBook.build(SNAPSHOT, litellm=table, options=PriceOptions(litellm_version="2026-11-20"))
    assert quote(book, reading("gpt-4o")).source == "genai-prices"
    new = quote(book, reading("new-model", provider="together_ai"))
    assert (new.cost_pusd, new.source, new.version) == (1000 * 2_000_000 + 500 * 4_000_000, "litellm", "2026-11-20")
    assert quote(book, reading("together_ai/new-model", used(128_001, 0), provider=None)).cost_pusd == 128_001 * 3_000_000
    assert quote(book, reading("new-model", used(1000, 0), provider="together_ai", tier="batch")).cost_pusd == 1000 * 1_000_000
    for name in ("unknown-price", "absurd", "not-a-number"):
        assert quote(book, reading(name)).unpriced_reason == "unknown_model"
    with pytest.raises(ConfigError, match="whole file"):
        PriceBook.build(SNAPSHOT, litellm={"gpt-4o": table["gpt-4o"]})


def test_every_mistake_in_the_rows_is_told_at_once() -> None:
    """A sentence each, with the row's place; nothing is guessed."""
    good = {"match": "gpt-4o", "rates": {"input": 1, "output": 2, "cache_write": 1.25}, "from": "2026-01-01"}
    assert check_overrides([good, {"match": "x", "multiplier": "0.9"}]) == []
    bad: list[dict[str, Any]] = [
        {"rates": {"input": 1}},
        {"match": "a", "prefix": "b", "multiplier": 1},
        {"match": "a"},
        {"match": "a", "multiplier": 1, "input_mtok": 1},
        {"match": "a", "rates": {"inputs": 1}},
        {"match": "a", "rates": {"input": -1}},
        {"match": "a", "rates": {"output": 1}},
        {"match": "a", "rates": {"input": "cheap"}},
        {"match": "a", "rates": {"input": 1}, "input_mtok": 1},
        {"match": "a", "rates": 3},
        {"regex": "(", "multiplier": 1},
        {"match": "a", "multiplier": 1, "tier": "slow"},
        {"match": "a", "multiplier": 5000},
        {"match": "a", "multiplier": 1, "from": "soon"},
        {"match": "a", "multiplier": 1, "from": "2026-02-01", "to": "2026-01-01"},
        {"match": 3, "multiplier": 1},
        {"match": "a", "multiplier": 1, "colour": "red"},
        {"match": "a", "multiplier": True},
    ]
    problems = check_overrides(bad)
    for at in range(len(bad)):
        assert any(problem.startswith(f"prices.override[{at}]: ") for problem in problems), bad[at]
    with pytest.raises(ConfigError) as caught:
        PriceBook.build(SNAPSHOT, overrides=bad)
    assert caught.value.problems == problems


# Free and unpriced


def test_free_is_not_unpriced(book: PriceBook) -> None:
    """A listed rate of 0 is a price."""
    for what in (
        reading("omni-moderation-latest", family="moderation"),
        reading("meta-llama/llama-3.3-70b-instruct:free", provider="openrouter"),
    ):
        found = quote(book, what)
        assert (found.cost_pusd, found.basis, found.unpriced_reason) == (0, Basis.LIST, "")


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (reading("whisper-1"), "no_rate"),  # by the hour
        (reading("tts-1"), "no_rate"),  # by the character
        (reading("text-embedding-3-small"), "no_rate"),  # output tokens of a model that sells none, in a chat
        (reading("gpt-4o", Tokens()), "no_usage"),
        (Reading(klass=Klass.MODEL_CALL, models=("gpt-4o",), provider="openai"), "no_usage"),
    ],
)
def test_unpriced_has_a_reason(book: PriceBook, what: Reading, reason: str) -> None:
    """None is not 0: neither for rates in other units, nor for usage that nobody stated."""
    found = quote(book, what)
    assert (found.cost_pusd, found.basis, found.unpriced_reason) == (None, Basis.UNPRICED, reason)


def test_an_embeddings_output_is_not_billed(book: PriceBook) -> None:
    """Some instrumentations put the vector's size there; providers bill the input."""
    assert quote(book, reading("text-embedding-3-small", family="embedding")).cost_pusd == 1000 * 20_000


def test_answers_from_a_response_cache_cost_nothing(book: PriceBook) -> None:
    """Nothing was billed, and the basis says why it is 0."""
    found = quote(book, reading("gpt-4o", cache_hit=True, emitted_cost_pusd=5))
    assert (found.cost_pusd, found.basis, found.model) == (0, Basis.CACHED, "gpt-4o")


# Costs that spans state

OWN = 1000 * 2_500_000 + 500 * 10_000_000  # gpt-4o, nothing cached
ALL_CACHED = 1000 * 1_250_000 + 500 * 10_000_000


@pytest.mark.parametrize(
    ("emitted", "drops", "cost", "basis", "differs", "incomplete"),
    [
        (None, False, OWN, Basis.LIST, False, False),
        (OWN, False, OWN, Basis.LIST, False, False),
        (OWN * 102 // 100, False, OWN, Basis.LIST, False, False),
        (OWN * 102 // 100 + 1, False, OWN, Basis.LIST, True, False),
        (ALL_CACHED + 1, False, OWN, Basis.LIST, True, False),  # an emitter that tells cached tokens is not believed over them
        (None, True, OWN, Basis.LIST, False, True),
        (OWN, True, OWN, Basis.LIST, False, False),  # the same number: nothing was cached
        (ALL_CACHED, True, ALL_CACHED, Basis.REPORTED, False, False),
        (ALL_CACHED - 1, True, ALL_CACHED - 1, Basis.REPORTED, False, False),  # the last digit of a float
        (ALL_CACHED - 2, True, OWN, Basis.LIST, True, True),
        (ALL_CACHED + 10**8, True, ALL_CACHED + 10**8, Basis.REPORTED, False, False),
        (ALL_CACHED - 10**8, True, OWN, Basis.LIST, True, True),
        (OWN + 10**9, True, OWN, Basis.LIST, True, True),
    ],
)
def test_a_stated_cost_counts_where_cached_tokens_are_hidden(  # noqa: PLR0917 -- a row of the table
    book: PriceBook, emitted: int | None, drops: bool, cost: int, basis: Basis, differs: bool, incomplete: bool
) -> None:
    """Only from scopes that hide cached tokens, and only between all cached and none; else a difference over 2 % is a doubt."""
    found = quote(book, reading("gpt-4o", emitted_cost_pusd=emitted, emitted_cost_key="llm.cost.total", drops_cache=drops))
    assert (found.cost_pusd, found.basis, found.usage_incomplete) == (cost, basis, incomplete)
    assert (Doubt.EMITTED_COST_DIFFERS in found.doubts) is differs
    if basis is Basis.REPORTED:
        assert (found.source, found.version) == ("reported", "llm.cost.total")


def test_a_stated_cost_prices_what_no_list_can(book: PriceBook) -> None:
    """An unknown model, or a unit that is no token: the emitter's cost is better than none; the unknown name stays a doubt."""
    unknown = quote(book, reading("no-such-model", emitted_cost_pusd=7))
    assert (unknown.cost_pusd, unknown.basis, unknown.doubts) == (7, Basis.REPORTED, frozenset({Doubt.MODEL_ALIAS}))
    hours = quote(book, reading("whisper-1", emitted_cost_pusd=7))
    assert (hours.cost_pusd, hours.basis, hours.doubts) == (7, Basis.REPORTED, frozenset())
    silent = quote(book, Reading(klass=Klass.MODEL_CALL, models=("gpt-4o",), provider="openai", emitted_cost_pusd=7))
    assert (silent.cost_pusd, silent.basis) == (7, Basis.REPORTED)


def test_stated_costs_can_be_preferred() -> None:
    """With `prefer_reported` the emitter's cost counts, and a difference to the list is still said."""
    book = PriceBook.build(SNAPSHOT, options=PriceOptions(prefer_reported=True))
    found = quote(book, reading("gpt-4o", emitted_cost_pusd=5))
    assert (found.cost_pusd, found.basis, found.doubts) == (5, Basis.REPORTED, frozenset({Doubt.EMITTED_COST_DIFFERS}))
    assert quote(book, reading("gpt-4o")).basis is Basis.LIST


# Calls


@dataclass
class Ancestry:
    """As much of a tree as pricing asks for."""

    above: list[Span] = field(default_factory=list)

    def ancestors(self, _span: Span) -> list[Span]:
        return self.above


def span(what: Reading | None) -> Span:
    source = Source(resource={}, scope="test", scope_version="")
    made = Span(source, b"t" * 16, b"s" * 8, b"", "chat", 3, NOW, NOW + 1, (), 0, 0, 0, sampled=False, size=1, received_unix_nano=0)
    made.reading = what
    return made


def call(what: Reading, *, above: tuple[Reading, ...] = (), merged: tuple[Reading, ...] = ()) -> LLMCall:
    tree: Any = Ancestry([span(one) for one in above])
    return LLMCall(account="acme", span=span(what), merged=tuple(span(one) for one in merged), reading=what, tree=tree)


def test_v53_a_call_without_a_model_is_priced_as_its_nearest_ancestor(book: PriceBook) -> None:
    """Inner spans of some frameworks leave the model to the span above; an unknown model of their own is not overruled."""
    agent = Reading(klass=Klass.AGENT, models=("gpt-4o",), provider="openai")
    root = Reading(klass=Klass.AGENT, models=("gpt-4.1",), provider="openai")
    nameless = book.price(call(reading(None, provider=None), above=(Reading(klass=Klass.NONE), agent, root)))
    assert (nameless.quote.cost_pusd, nameless.quote.model, nameless.quote.doubts) == (OWN, "gpt-4o", frozenset())
    unknown = book.price(call(reading("no-such-model"), above=(agent,)))
    assert (unknown.quote.cost_pusd, unknown.quote.unpriced_reason) == (None, "unknown_model")
    assert unknown.call.doubts == {Doubt.MODEL_ALIAS}


def test_cached_tokens_on_any_span_of_the_call_overrule_the_stated_cost(book: PriceBook) -> None:
    """A scope that hides cached tokens is not believed on its cost when another span of the call tells them."""
    hiding = reading("gpt-4o", emitted_cost_pusd=ALL_CACHED, drops_cache=True)
    telling = reading("gpt-4o", used(900, 500, cache_read=100))
    assert book.price(call(hiding)).quote.basis is Basis.REPORTED
    priced = book.price(call(hiding, merged=(telling,)))
    assert (priced.quote.basis, priced.quote.usage_incomplete) == (Basis.LIST, False)
    assert priced.call.doubts == {Doubt.EMITTED_COST_DIFFERS}


# The book itself


def test_the_snapshot_says_what_it_is(book: PriceBook) -> None:
    """Every charge names the version of its price; the age of the list is a metric."""
    assert book.snapshot_version == "genai-prices 0.2.3"
    assert int(datetime(2026, 11, 1, tzinfo=UTC).timestamp()) * 10**9 < book.snapshot_unix_nano < NOW


def test_every_rate_of_the_lists_compiles(book: PriceBook) -> None:
    """Cards are compiled when first asked for; none of them may fail on that day."""
    models = [model for one in book._layers.lists for model in one.models()]
    assert len(models) > 2_300
    for model in models:
        for tier in ("", *model.tiers):
            for borrowed in (False, True):
                segments = model.timeline(tier, borrowed=borrowed)
                assert all(a.end == b.start for a, b in pairwise(segments))


def test_a_list_of_another_schema_is_refused() -> None:
    """A file of a later version is not half understood."""
    with pytest.raises(ValueError, match="schema"):
        PriceBook.build({**SNAPSHOT, "schema": "spantoll.prices/2"})


def test_a_model_is_described_for_people(book: PriceBook) -> None:
    """Rates in USD per million by tier and length, where they come from and how long they hold."""
    told = book.describe("openai/gpt-5.4", at=NOW)
    assert (told["found"], told["sure"], told["provider"], told["model"], told["source"], told["version"]) == (
        True, True, "openai", "gpt-5.4", "genai-prices", "0.2.3",
    )  # fmt: skip
    standard = [row for row in told["rates"] if row["tier"] == "standard"]
    assert [(row["above_input_tokens"], row["rates"]["input"], row["rates"]["output"]) for row in standard] == [
        (0, "2.5", "15"),
        (272000, "5", "22.5"),
    ]
    assert {row["tier"] for row in told["rates"]} >= {"standard", "batch", "flex", "priority"}
    assert standard[0]["rates"]["web_search"] == "10"
    dated = book.describe("o3", "openai", at=NOW)
    assert dated["valid_from"] == int(datetime(2025, 6, 10, tzinfo=UTC).timestamp()) * 10**9
    assert dated["valid_to"] is None
    assert book.describe("deepseek-flash", at=NOW)["by_time_of_day"] is True
    assert book.describe("whisper-1", at=NOW)["other_rates"]


def test_an_unknown_model_is_answered_with_near_names(book: PriceBook) -> None:
    """A typo should not cost an afternoon."""
    told = book.describe("gpt-4oo", "openai", at=NOW)
    assert told["found"] is False
    assert "openai/gpt-4o" in told["near"]
    assert book.describe("gpt-4oo", at=NOW)["near"][0] == "openai/gpt-4o"
    assert "anthropic/claude-sonnet-4-5" in book.describe("claude-sonet-4-5", at=NOW)["near"]
