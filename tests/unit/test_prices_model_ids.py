"""Names: what spans write leads to the model that was billed, and says when that is a guess."""

from __future__ import annotations

import pytest

from receiver.core.calls.call import Doubt
from receiver.core.prices import PriceBook, Quote
from receiver.core.prices.model_ids import MAX_NAME, provider_id, registry_name, spellings
from receiver.core.usage.reading import Klass, Reading, Tokens
from receiver.tables import load_json, load_toml

NOVEMBER = 1_795_300_000 * 10**9  # 2026-11-22
MILLION = 1_000_000
ALIAS = frozenset({Doubt.MODEL_ALIAS})


@pytest.fixture(scope="module")
def book() -> PriceBook:
    return PriceBook.build(load_json("prices.json"), patch=load_toml("prices-patch.toml"))


def quote(book: PriceBook, *models: str, provider: str | None = None, gateway: str | None = None, requested: str | None = None) -> Quote:
    tokens = Tokens(input_total=1000, uncached=1000, output_total=500)
    reading = Reading(klass=Klass.MODEL_CALL, tokens=tokens, models=models, model_requested=requested, provider=provider, gateway=gateway)
    return book.quote(reading, account="acme", start_unix_nano=NOVEMBER, received_unix_nano=0)


SURE = [  # provider as normalised, name as spans write it, USD of 1000 input and 500 output tokens in pico-USD, canonical model
    ("openai", "gpt-4o", 7_500_000_000, "gpt-4o"),
    ("openai", "GPT-4o", 7_500_000_000, "gpt-4o"),
    (None, "gpt-4o-2024-08-06", 7_500_000_000, "gpt-4o"),
    (None, "openai/gpt-4o", 7_500_000_000, "gpt-4o"),
    (None, "openai:gpt-4o", 7_500_000_000, "gpt-4o"),
    ("openai", "gpt-4o:responses", 7_500_000_000, "gpt-4o"),
    ("openai", "gpt-4o:completions", 7_500_000_000, "gpt-4o"),
    ("azure.ai.openai", "azure/gpt-4o", 7_500_000_000, "gpt-4o"),
    ("azure.ai.inference", "gpt-4o", 7_500_000_000, "gpt-4o"),
    ("azure.ai.openai", "gpt-35-turbo", 1_250_000_000, "gpt-3.5-turbo"),
    ("openai", "gpt-5.2-20251211", 8_750_000_000, "gpt-5.2"),
    ("openai", "ft:gpt-4.1-2025-04-14:acme::abc", 9_000_000_000, "ft:gpt-4.1"),
    ("openai", "text-embedding-3-small", None, "text-embedding-3-small"),  # output tokens of an embedding have no price
    ("gcp.gemini", "models/gemini-2.5-pro", 6_250_000_000, "gemini-2.5-pro"),
    ("gcp.gemini", "publishers/google/models/gemini-2.5-pro", 6_250_000_000, "gemini-2.5-pro"),
    (
        "gcp.vertex_ai",
        "projects/p/locations/us-east5/publishers/anthropic/models/claude-sonnet-4-5@20250929",
        10_500_000_000,
        "claude-sonnet-4-5",
    ),
    (None, "google-gla:gemini-2.5-pro", 6_250_000_000, "gemini-2.5-pro"),
    ("gcp.vertex_ai", "vertex_ai/claude-sonnet-4-5@20250929", 10_500_000_000, "claude-sonnet-4-5"),
    (None, "claude-sonnet-4-5@20250929", 10_500_000_000, "claude-sonnet-4-5"),
    ("anthropic", "claude-opus-5[1m]", 17_500_000_000, "claude-opus-5"),
    ("anthropic", "anthropic/claude-sonnet-4-5", 10_500_000_000, "claude-sonnet-4-5"),
    ("anthropic", "claude-sonnet-4.5", 10_500_000_000, "claude-sonnet-4-5"),
    ("openrouter", "anthropic/claude-sonnet-4.5:beta", 10_500_000_000, "anthropic/claude-sonnet-4.5"),
    (None, "openrouter/anthropic/claude-sonnet-4.5", 10_500_000_000, "anthropic/claude-sonnet-4.5"),
    ("groq", "openai/gpt-oss-120b", 450_000_000, "openai/gpt-oss-120b"),
    ("aws.bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0", 11_550_000_000, "regional.anthropic.claude-sonnet-4-5-20250929-v1:0"),
    (None, "eu.anthropic.claude-sonnet-4-5-20250929-v1:0", 11_550_000_000, "regional.anthropic.claude-sonnet-4-5-20250929-v1:0"),
    (None, "jp.anthropic.claude-sonnet-4-5-20250929-v1:0", 11_550_000_000, "regional.anthropic.claude-sonnet-4-5-20250929-v1:0"),
    ("aws.bedrock", "global.anthropic.claude-sonnet-4-5-20250929-v1:0", 10_500_000_000, "global.anthropic.claude-sonnet-4-5-20250929-v1:0"),
    (
        "aws.bedrock",
        "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-sonnet-4-5-20250929-v1:0",
        11_550_000_000,
        "regional.anthropic.claude-sonnet-4-5-20250929-v1:0",
    ),
    (
        "aws.bedrock",
        "arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude-sonnet-4-5-20250929-v1:0",
        11_550_000_000,
        "regional.anthropic.claude-sonnet-4-5-20250929-v1:0",
    ),
    (
        "openai",  # the OpenAI SDK in front of a gateway: the name tells the cloud
        "bedrock/us-east-1/anthropic.claude-sonnet-4-5-20250929-v1:0",
        11_550_000_000,
        "regional.anthropic.claude-sonnet-4-5-20250929-v1:0",
    ),
    ("aws.bedrock", "anthropic.claude-3-haiku-20240307-v1:0", 875_000_000, "regional.anthropic.claude-3-haiku-20240307-v1:0"),
    ("aws.bedrock", "nova-pro-v1:0", 2_400_000_000, "amazon.nova-pro-v1:0"),
]


@pytest.mark.parametrize(("provider", "name", "cost", "canonical"), SURE, ids=lambda value: str(value)[:60])
def test_a_name_leads_to_its_model_without_a_doubt(
    book: PriceBook, provider: str | None, name: str, cost: int | None, canonical: str
) -> None:
    """Prefixes, wrappers, dates and modifiers that mean the same model at the same price come off silently."""
    found = quote(book, name, provider=provider)
    assert (found.cost_pusd, found.model, found.doubts) == (cost, canonical, frozenset())


UNSURE = [
    ("aws.bedrock", "anthropic.claude-sonnet-4-5-20250929-v1:0", 10_500_000_000),  # its geography was cut off: regional is 10 % dearer
    ("aws.bedrock", "claude-sonnet-4-5-20250929", 10_500_000_000),
    ("aws.bedrock", "us-gov.anthropic.claude-sonnet-4-5-20250929-v1:0", 11_550_000_000),  # GovCloud is in no list
    ("aws.bedrock", "eu.amazon.nova-pro-v1:0", 2_400_000_000),  # the list knows one geography only
    ("azure.ai.openai", "azure/eu/gpt-4o", 7_500_000_000),  # data zones are dearer
    ("openai", "gpt-4o-2031-01-01", 7_500_000_000),  # a release that the list does not know
    ("openai", "acme-gateway/gpt-4o", 7_500_000_000),
    ("openai", "claude-sonnet-4-5", 10_500_000_000),  # the OpenAI SDK in front of somebody else
    (None, "deepseek-v4-pro", 1_650_000_000),  # open weights: others serve them at other prices
    ("acme-proxy", "gpt-4o", 7_500_000_000),
]


@pytest.mark.parametrize(("provider", "name", "cost"), UNSURE, ids=lambda value: str(value)[:60])
def test_a_guess_is_priced_and_says_so(book: PriceBook, provider: str | None, name: str, cost: int) -> None:
    """Where a price came by a fall-back name the call carries the doubt `model_alias`."""
    found = quote(book, name, provider=provider)
    assert (found.cost_pusd, found.doubts) == (cost, ALIAS)


@pytest.mark.parametrize(
    ("provider", "name"),
    [
        ("openai", "no-such-model"),
        ("azure.ai.openai", "gpt-4o-prod"),
        ("aws.bedrock", "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/a1b2c3"),
        ("ollama", "llama3.3:70b"),
        ("ollama", "mistral-small-latest"),  # a list has this name, but not for the caller's own machine
        ("openai", "ollama/mistral-small-latest"),
        ("ibm.watsonx.ai", "mistral-large-latest"),  # nor for who serves open weights and is in no list
        ("groq", "gpt-4o"),  # a reseller's price is not its maker's
        (None, "gpt-oss-120b-from-somewhere"),
        (None, "x" * (MAX_NAME + 1)),
        (None, "/"),
        (None, "openai/"),
    ],
)
def test_an_unknown_model_is_unpriced_never_free(book: PriceBook, provider: str | None, name: str) -> None:
    """No price is None with a reason and a doubt, not 0."""
    found = quote(book, name, provider=provider)
    assert (found.cost_pusd, found.basis.value, found.unpriced_reason, found.model) == (None, "unpriced", "unknown_model", None)
    assert found.doubts == ALIAS
    assert found.source == found.version == ""


def test_no_model_at_all_is_a_reason_of_its_own(book: PriceBook) -> None:
    """A call that names no model is unpriced for another reason than an unknown one."""
    found = quote(book, provider="openai")
    assert (found.cost_pusd, found.unpriced_reason, found.doubts) == (None, "no_model", frozenset())


def test_names_are_tried_in_order_and_a_later_one_is_a_doubt(book: PriceBook) -> None:
    """The response's name counts; when it is an alias that no list has, the requested model prices the call, with a doubt."""
    assert quote(book, "gpt-4o-2024-08-06", "gpt-4.1", provider="openai").doubts == frozenset()
    assert quote(book, "gpt-4o-2024-08-06", "gpt-4.1", provider="openai").model == "gpt-4o"
    found = quote(book, "smart", provider="openai", requested="gpt-4o")
    assert (found.model, found.doubts) == ("gpt-4o", ALIAS)


def test_a_gateway_with_a_price_list_of_its_own_comes_first(book: PriceBook) -> None:
    """OpenRouter bills its own prices for everybody's models; LiteLLM bills nothing itself."""
    through = quote(book, "anthropic/claude-sonnet-4.5", provider="anthropic", gateway="openrouter")
    assert (through.model, through.provider) == ("anthropic/claude-sonnet-4.5", "openrouter")
    through = quote(book, "anthropic/claude-sonnet-4.5", provider="anthropic", gateway="litellm")
    assert (through.model, through.provider, through.doubts) == ("claude-sonnet-4-5", "anthropic", frozenset())


def test_the_provider_label_is_who_bills(book: PriceBook) -> None:
    """As stated where the stated one sells it, by its registered name where it had to be found out."""
    assert quote(book, "gemini-2.5-pro", provider="gcp.vertex_ai").provider == "gcp.vertex_ai"
    assert quote(book, "gemini-2.5-pro").provider == "gcp.gemini"
    assert quote(book, "claude-sonnet-4-5", provider="openai").provider == "anthropic"
    assert quote(book, "no-such-model", provider="openai").provider == "openai"


@pytest.mark.parametrize(
    ("stated", "listed"),
    [
        ("az.ai.openai", "azure"), ("az.ai.inference", "azure"), ("azure.ai.inference", "azure"), ("Azure OpenAI", "azure"),
        ("gcp.gen_ai", "google"), ("gcp.vertex_ai", "google"), ("google-vertex", "google"), ("x_ai", "x-ai"), ("xAI", "x-ai"),
        ("AWS Bedrock", "aws"), ("bedrock_converse", "aws"), ("amazon-bedrock", "aws"), ("mistralai", "mistral"),
        ("fireworks_ai", "fireworks"), ("moonshot_ai", "moonshotai"), ("", None), (None, None), ("deepinfra", None),
    ],
)  # fmt: skip
def test_a_provider_has_many_spellings(stated: str | None, listed: str | None) -> None:
    """Semantic conventions, frameworks and gateways each spell a provider their own way; Azure is never taken for OpenAI."""
    assert provider_id(stated) == listed


def test_registered_names_lead_back_to_the_list() -> None:
    """A provider label can be looked up again: `spantoll price` takes what a metric shows."""
    for one in load_json("prices.json")["providers"]:
        assert provider_id(registry_name(one["id"])) in (one["id"], None)


def test_spellings_are_few_whatever_the_name() -> None:
    """A hostile name costs no more than an honest one."""
    for name in (
        "/" * 200,
        "a/" * 120,
        ":" * 200,
        "openai/" * 30,
        "-20250101" * 20,
        "[1m]" * 50,
        "arn:aws:bedrock:::inference-profile/" * 6,
    ):
        assert len(spellings(name)) < 80


def test_junk_names_are_forgotten() -> None:
    """What is remembered of names is bounded, misses included."""
    book = PriceBook.build(load_json("prices.json"))
    book._remembered._half = 50
    for at in range(500):
        quote(book, f"junk-{at}", provider="azure.ai.openai")
    assert len(book._remembered) <= 100
    assert quote(book, "gpt-4o", provider="azure.ai.openai").cost_pusd == 7_500_000_000
