"""41 golden prices, computed by hand from the providers' price pages and agreed on by two public price lists, and their history.

Where the two lists differ no case stands here. Every case is exact to the pico-USD.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from receiver.core.prices import Basis, PriceBook
from receiver.core.usage.reading import Klass, Reading, Tokens
from receiver.tables import load_json, load_toml

FRIDAY_NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Golden:
    """A call as spans tell it, and what it costs in USD. `i` is all input, cached included."""

    id: str
    provider: str
    model: str
    usd: str
    i: int = 0
    o: int = 0
    cr: int = 0
    w5: int = 0
    w1: int = 0
    wu: int = 0
    reasoning: int = 0
    audio_in: int = 0
    audio_out: int = 0
    searches: int = 0
    tier: str | None = None
    at: datetime = FRIDAY_NOON
    family: str = "gen"

    def reading(self) -> Reading:
        cached = self.cr + self.w5 + self.w1 + self.wu
        tokens = Tokens(
            input_total=self.i, uncached=self.i - cached, cache_read=self.cr, cache_write_5m=self.w5, cache_write_1h=self.w1,
            cache_write_unknown=self.wu, output_total=self.o, reasoning=self.reasoning, audio_in=self.audio_in,
            audio_out=self.audio_out, web_searches=self.searches,
        )  # fmt: skip
        return Reading(
            klass=Klass.MODEL_CALL, family=self.family, tokens=tokens, models=(self.model,), provider=self.provider, tier=self.tier
        )


def at(*when: int) -> datetime:
    return datetime(*when, tzinfo=UTC)  # type: ignore[arg-type, misc]  # year, month, day and so on


CASES = [
    Golden("g01", "openai", "gpt-4o", "0.0075", i=1000, o=500),
    Golden("g02", "openai", "gpt-4o", "0.02", i=10000, cr=8000, o=500),
    Golden("g03", "openai", "gpt-5", "0.0315", i=1200, o=3000, reasoning=2560),
    Golden("g04", "openai", "gpt-5-mini", "0.0007284", i=5000, cr=4096, o=200),
    Golden("g05", "openai", "gpt-5", "0.01125", i=10000, o=1000, tier="batch"),
    Golden("g06", "openai", "gpt-5", "0.009", i=10000, cr=4000, o=1000, tier="flex"),
    Golden("g07", "openai", "gpt-5", "0.036", i=10000, cr=4000, o=1000, tier="priority"),
    Golden("g08", "openai", "gpt-5.4", "0.695", i=272000, o=1000),
    Golden("g09", "openai", "gpt-5.4", "1.382505", i=272001, o=1000),
    Golden("g10", "openai", "gpt-5.6-sol", "0.0096", i=2600, cr=2000, wu=400, o=300),
    Golden("g11", "openai", "gpt-5.6-sol", "0.0135", i=2600, cr=2000, wu=400, o=300, at=at(2026, 8, 20, 23, 59, 59)),
    Golden("g12", "openai", "o3", "0.05", i=1000, o=1000, at=at(2025, 6, 9, 23, 59, 59)),
    Golden("g13", "openai", "o3", "0.01", i=1000, o=1000, at=at(2025, 6, 10)),
    Golden("g14", "openai", "text-embedding-3-small", "0.00016382", i=8191, family="embedding"),
    Golden("g16", "openai", "gpt-realtime", "0.074", i=1500, audio_in=1000, o=700, audio_out=600),
    Golden("g17", "anthropic", "claude-sonnet-4-5-20250929", "0.0105", i=1000, o=500),
    Golden("g18", "anthropic", "claude-sonnet-4-6", "0.048", i=27000, cr=20000, w5=4000, w1=2000, o=800),
    Golden("g19", "anthropic", "claude-opus-5", "0.0825", i=100500, cr=100000, o=1200),
    Golden("g20", "anthropic", "claude-haiku-4-5", "0.0065", i=3000, o=700),
    Golden("g21", "anthropic", "claude-sonnet-5", "0.038", i=4000, o=1000, searches=2),
    Golden("g22", "anthropic", "claude-sonnet-5-5", "0.0188", i=50000, cr=48000, o=1000),
    Golden("g23", "anthropic", "claude-haiku-5-5", "0.0105", i=100000, o=1000),
    Golden("g24", "anthropic", "claude-haiku-5-5", "0.0525005", i=100001, o=1000),
    Golden("g25", "anthropic", "claude-opus-4-8", "0.05", i=10000, o=2000, tier="batch"),
    Golden("g26", "aws.bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0", "0.004672305", i=13244, cr=13216, w5=25, o=12),
    Golden("g27", "aws.bedrock", "global.anthropic.claude-sonnet-4-5-20250929-v1:0", "0.0105", i=1000, o=500),
    Golden("g28", "aws.bedrock", "us.amazon.nova-pro-v1:0", "0.0076", i=10000, cr=6000, o=1000),
    Golden("g29", "gcp.vertex_ai", "claude-sonnet-4-5@20250929", "0.0105", i=1000, o=500),
    Golden("g30", "gcp.gemini", "gemini-2.5-pro", "0.27", i=200000, o=2000),
    Golden("g31", "gcp.gemini", "gemini-2.5-pro", "0.3050025", i=200001, cr=100000, o=2000),
    Golden("g32", "gcp.gemini", "gemini-2.5-flash", "0.00455", i=4000, audio_in=3000, o=500),
    Golden("g33", "gcp.gemini", "gemini-3.7-flash", "0.01125", i=10000, o=1000),
    Golden("g35", "gcp.gemini", "gemini-2.5-flash", "0.00033", i=100, o=120, reasoning=100),
    Golden("g36", "deepseek", "deepseek-v4-flash", "0.000924", i=10000, cr=8000, o=1000),
    Golden("g37", "deepseek", "deepseek-v4-flash", "0.001848", i=10000, cr=8000, o=1000, at=at(2026, 11, 20, 2)),
    Golden("g38", "x_ai", "grok-4.6", "0.405998", i=199999, o=1000),
    Golden("g39", "x_ai", "grok-4.6", "0.812", i=200000, o=1000),
    Golden("g41", "azure.ai.openai", "gpt-4.1", "0.0205", i=10000, cr=5000, o=1000),
    Golden("g42", "voyageai", "voyage-3", "0.006", i=100000, family="embedding"),
    Golden("g43", "cohere", "command-r-plus-08-2024", "0.0125", i=1000, o=1000),
    Golden("g44", "openai", "ft:gpt-4o-mini-2024-07-18:acme::x", "0.0042", i=10000, o=1000),
    Golden("g46", "openai", "gpt-6-luna", "0.0044", i=100000, cr=90000, o=5000),
    Golden("g47", "openai", "gpt-5.6-luna", "0.00248", i=10000, cr=4000, o=1000),
    Golden("g47b", "openai", "gpt-5.6-luna", "0.0124", i=10000, cr=4000, o=1000, at=at(2026, 7, 29)),
    # DeepSeek's peak hours hold on Beijing's weekdays only, and only since each rule was announced.
    Golden("deepseek-saturday", "deepseek", "deepseek-v4-flash", "0.000924", i=10000, cr=8000, o=1000, at=at(2026, 11, 21, 2)),
    Golden("deepseek-sunday", "deepseek", "deepseek-flash", "0.000924", i=10000, cr=8000, o=1000, at=at(2026, 11, 22, 9, 59)),
    Golden("deepseek-monday", "deepseek", "deepseek-flash", "0.001848", i=10000, cr=8000, o=1000, at=at(2026, 11, 23, 9, 59)),
    Golden("deepseek-monday-10", "deepseek", "deepseek-flash", "0.000924", i=10000, cr=8000, o=1000, at=at(2026, 11, 23, 10)),
    Golden("deepseek-before-peaks", "deepseek", "deepseek-v4-pro", "0.00522", i=10000, o=1000, at=at(2026, 8, 14, 2)),
    Golden("deepseek-first-peaks", "deepseek", "deepseek-v4-flash", "0.00572", i=10000, o=1000, at=at(2026, 8, 22, 2)),
    Golden("deepseek-first-weekend", "deepseek", "deepseek-v4-flash", "0.00286", i=10000, o=1000, at=at(2026, 8, 23, 2)),
]


@pytest.fixture(scope="module")
def book() -> PriceBook:
    return PriceBook.build(load_json("prices.json"), patch=load_toml("prices-patch.toml"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_golden_price_is_exact(book: PriceBook, case: Golden) -> None:
    """A known call at a known moment costs what its provider's page says, to the pico-USD."""
    quote = book.quote(case.reading(), account="acme", start_unix_nano=int(case.at.timestamp()) * 10**9, received_unix_nano=0)
    assert quote.cost_pusd == int(Decimal(case.usd) * 10**12)
    assert quote.basis in (Basis.LIST, Basis.PARTIAL)
    assert not quote.doubts


def test_there_are_41_golden_cases_and_their_history() -> None:
    """No case was lost on the way."""
    ids = {case.id for case in CASES}
    assert len(ids) == len(CASES)
    assert {"g11", "g12", "g47b"} < ids
    assert len([one for one in ids if one.startswith("g") and one[1:].isdigit()]) == 43  # g11 and g12 are history, the rest are 41


def test_cache_savings_and_premium_of_a_known_call(book: PriceBook) -> None:
    """g18 saves 0.054 USD by reading 20,000 cached tokens and pays 0.009 USD more for writing 6,000."""
    g18 = next(case for case in CASES if case.id == "g18")
    quote = book.quote(g18.reading(), account="acme", start_unix_nano=int(g18.at.timestamp()) * 10**9, received_unix_nano=0)
    assert (quote.cache_savings_pusd, quote.cache_premium_pusd) == (54 * 10**9, 9 * 10**9)
