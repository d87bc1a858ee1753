"""From the names that spans state to the names that price lists use.

One model has a dozen names: gateways put a provider before it (`openai/gpt-4o`, `bedrock/us-east-1/anthropic.claude-v2`), clouds
wrap it (`publishers/anthropic/models/claude-sonnet-4-5@20250929`, an inference-profile ARN), frameworks add what they asked for
(`claude-opus-5[1m]`, `gpt-4o:responses`). `spellings` takes such a name apart into the names to look up, best first, each with
the provider that the name itself tells and whether it is *sure*: a sure spelling means the same model at the same price, an
unsure one is a good guess (a dated release that the list lacks), and the price that comes by it carries a doubt.

What a price depends on is never thrown away: a Bedrock region prefix, `:free`, `:batch`, `ft:` stay in the name.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

#: Longer names are no model names; they are not looked up and not remembered.
MAX_NAME: Final = 256

# Ids of the price list for every spelling of a provider. The left side is lower case with "-" and " " as "_".
_SAME: Final = {
    "openai": "openai openai.chat openai.responses openai_responses openai_chat text_completion_openai custom_openai chatgpt",
    "anthropic": "anthropic anthropic.messages anthropic.chat anthropic_text claude",
    "google": (
        "google gemini gcp.gemini gcp.gen_ai gcp.vertex_ai gcp.vertex google_genai google.generative_ai google_generativeai "
        "google_generative_ai google_gla google_vertex google_vertexai google.vertex google_ai googleai google_anthropic_vertex vertex "
        "vertexai vertex_ai vertex_ai_beta vertex_ai_anthropic"
    ),
    "azure": (
        "azure az.ai.openai az.ai.inference azure.ai.openai azure.ai.inference azure_openai azureopenai azure_ai azure_text azure_foundry "
        "azure_ai_foundry az.ai.foundry microsoft.foundry"
    ),
    "aws": "aws aws.bedrock bedrock bedrock_converse aws_bedrock amazon_bedrock amazon bedrock_mantle",
    "x-ai": "xai x_ai x.ai grok",
    "mistral": "mistral mistralai mistral_ai codestral text_completion_codestral",
    "deepseek": "deepseek",
    "cohere": "cohere cohere_chat",
    "groq": "groq",
    "perplexity": "perplexity perplexityai pplx",
    "moonshotai": "moonshot moonshotai moonshot_ai",
    "zai": "zai z.ai z_ai",
    "zhipuai": "zhipuai zhipu bigmodel",
    "minimax": "minimax",
    "together": "together together_ai togetherai",
    "fireworks": "fireworks fireworks_ai fireworksai",
    "openrouter": "openrouter",
    "voyageai": "voyage voyageai voyage_ai",
    "github-copilot": "github_copilot copilot",
    "cerebras": "cerebras",
    "databricks": "databricks",
    "cloudflare": "cloudflare cloudflare_workers_ai workers_ai",
    "meta": "meta_llama_api meta",
    "novita": "novita novita_ai",
    "ovhcloud": "ovhcloud ovh",
}
_PROVIDER_IDS: Final = {spelling: provider for provider, spellings in _SAME.items() for spelling in spellings.split()}

#: Names of OpenTelemetry's registry (gen_ai.provider.name) for ids of the price list that differ from them.
_REGISTRY: Final = {
    "google": "gcp.gemini",
    "azure": "azure.ai.openai",
    "aws": "aws.bedrock",
    "mistral": "mistral_ai",
    "x-ai": "x_ai",
    "moonshotai": "moonshot_ai",
    "together": "together_ai",
    "fireworks": "fireworks_ai",
}

#: Who runs one of these pays for a machine, not for tokens: no list price is theirs, whatever the model is called.
SELF_HOSTED: Final = frozenset(
    {
        "ollama", "ollama_chat", "vllm", "hosted_vllm", "sglang", "llamacpp", "llama_cpp", "llama.cpp", "llamafile", "lm_studio",
        "lmstudio", "tgi", "triton", "xinference", "localai", "mlx", "transformers", "gpustack", "local", "self_hosted", "aws.sagemaker",
        "sagemaker", "sagemaker_chat",
    }
)  # fmt: skip

#: Providers that a span names because their SDK made the request; with another base URL the model may be anybody's.
SDK_DEFAULTS: Final = frozenset({"openai", "anthropic"})

#: Who makes models and sells them itself, in the order in which a model without a provider is looked up.
MAKERS: Final = (
    "openai", "anthropic", "google", "x-ai", "deepseek", "mistral", "cohere", "perplexity", "moonshotai", "minimax", "voyageai",
    "zhipuai", "zai", "meta",
    "cursor", "elevenlabs", "typesafe",
)  # fmt: skip

#: Makers whose weights others serve too, at prices of their own: their list price is a guess where no provider is stated.
OPEN_WEIGHTS: Final = frozenset({"deepseek", "mistral", "moonshotai", "minimax", "zhipuai", "zai", "meta"})

_BEDROCK_VENDORS: Final = (
    "anthropic", "amazon", "meta", "mistral", "cohere", "ai21", "deepseek", "openai", "qwen", "stability", "writer", "twelvelabs",
    "google", "nvidia",
    "moonshotai", "moonshot", "minimax", "zai", "luma",
)  # fmt: skip
_BEDROCK_FAMILIES: Final = {  # how the models of a vendor begin
    "claude": "anthropic", "nova": "amazon", "titan": "amazon", "llama": "meta", "mistral": "mistral", "mixtral": "mistral",
    "ministral": "mistral",
    "magistral": "mistral", "pixtral": "mistral", "devstral": "mistral", "voxtral": "mistral", "command": "cohere", "embed-": "cohere",
    "jamba": "ai21", "deepseek": "deepseek", "gpt-": "openai", "qwen": "qwen", "palmyra": "writer", "nemotron": "nvidia", "gemma": "google",
    "kimi": "moonshotai", "glm": "zai",
}  # fmt: skip
_BEDROCK_ID: Final = re.compile(rf"(?:(global|us-gov|apac|[a-z]{{2}})\.)?((?:{'|'.join(_BEDROCK_VENDORS)})\.[a-z0-9].*)")
_ARN: Final = re.compile(r"arn:aws[a-z-]*:bedrock:([^:]*):[^:]*:(inference-profile|foundation-model)/(.+)")
_AWS_REGION: Final = re.compile(r"[a-z]{2}(?:-gov|-iso[a-z]?)?-[a-z]+-\d")
_VERTEX_CLAUDE: Final = re.compile(r"claude[a-z0-9.-]*@")

_MODIFIER: Final = re.compile(  # what a name says beside the model, without any bearing on the price
    r"(?:\[1m\]|:(?:completions?|responses?|chat|messages|embeddings?|beta|nitro|floor|online|exacto|thinking|latest))$"
)
_COMPACT_DATE: Final = re.compile(r"([-@])(20\d\d)(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?=$|[-:@])")
_DASHED_DATE: Final = re.compile(r"-(20\d\d)-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])(?=$|[-:@])")
_RELEASE: Final = re.compile(
    r"(?:[-@](?:20\d{6}|20\d\d-\d\d-\d\d|latest|default|\d{4}|\d{2}-\d{4}|preview(?:-\d\d-\d\d(?:-?\d{2,4})?)?"
    r"|exp(?:-\d\d-?\d\d)?)|-v\d+:\d+|-v\d+)$"
)
_MAX_UNWRAPPED: Final = 6  # gateways behind gateways; a name of slashes alone must not cost more


class Spelling(NamedTuple):
    """One name to look up."""

    name: str
    provider: str | None  #: id in the price list that the name itself tells
    sure: bool
    region: str = ""  #: the AWS region that was stated together with a Bedrock id


def provider_id(stated: str | None) -> str | None:
    """The price list's id for a provider's name; None when it is not among the known spellings."""
    if not stated:
        return None
    return _PROVIDER_IDS.get(_key(stated))


def is_self_hosted(stated: str | None) -> bool:
    """Whether the provider is a server that the caller runs."""
    return stated is not None and _key(stated) in SELF_HOSTED


def registry_name(provider: str) -> str:
    """The provider's name on labels and reports, from an id of the price list."""
    return _REGISTRY.get(provider, provider)


def _key(stated: str) -> str:
    return stated.strip().lower().replace("-", "_").replace(" ", "_")


def spellings(stated: str) -> list[Spelling]:
    """The names under which a stated name may stand in a price list, best first; sure ones before unsure ones."""
    name = stated.strip().lower()
    if not name or len(name) > MAX_NAME:
        return []
    sure: dict[str, Spelling] = {}
    unsure: dict[str, Spelling] = {}
    # Modifiers and dates stand at the end: only the innermost name, and what a gateway lists with one prefix, is worth trying.
    inner = _unwrap(name, sure, unsure)[-2:]
    plains: list[Spelling] = []
    for one in reversed(inner):
        plain = one
        while (cut := _MODIFIER.sub("", plain.name)) != plain.name and cut:
            plain = one._replace(name=cut)
            _add(plain, sure, unsure)
        plains.append(plain)
        for other in (_COMPACT_DATE.sub(_dashed, plain.name), _DASHED_DATE.sub(r"-\1\2\3", plain.name)):
            _add(one._replace(name=other), sure, unsure)
    for one in plains:
        cut = one.name
        while (shorter := _RELEASE.sub("", cut)) != cut and shorter:
            cut = shorter
            _add(one._replace(name=cut, sure=False), sure, unsure)
    return [*sure.values(), *unsure.values()]


def _add(one: Spelling, sure: dict[str, Spelling], unsure: dict[str, Spelling]) -> None:
    if one.name not in sure:
        (sure if one.sure else unsure).setdefault(one.name, one)


def _dashed(date: re.Match[str]) -> str:
    return f"-{date[2]}-{date[3]}-{date[4]}"


def _unwrap(name: str, sure: dict[str, Spelling], unsure: dict[str, Spelling]) -> list[Spelling]:
    """Take off, one by one, what stands before the model; each step is a spelling."""
    steps: list[Spelling] = []
    provider: str | None = None
    certain, region = True, ""
    for _ in range(_MAX_UNWRAPPED):
        steps.append(Spelling(name, provider or _told_by(name), certain, region))
        _add(steps[-1], sure, unsure)
        if arn := _ARN.fullmatch(name):
            provider, name, region = "aws", arn[3], arn[1]
            continue
        if name.startswith("arn:"):
            break  # an application inference profile or the like names no model: it needs an alias
        head, slash, rest = name.partition("/")
        if slash and rest:
            if head in ("projects", "publishers"):
                provider, name = "google", name.rpartition("/models/")[2]
                if "/" in name:
                    break
            elif head == "models":
                name = rest
            elif head == "accounts" or head.startswith("@"):
                break  # Fireworks and Cloudflare list their models under the whole path
            elif (named := provider_id(head)) is not None or is_self_hosted(head):
                provider, name = named if named is not None else head, rest
            elif provider == "aws" and (head in ("converse", "invoke", "converse_like") or _AWS_REGION.fullmatch(head)):
                name, region = rest, head if _AWS_REGION.fullmatch(head) else region
            elif provider == "azure" and head in ("global", "global-standard"):
                name = rest
            else:
                name, certain = rest, False  # somebody's own prefix, or an organisation of a model hub
            continue
        head, colon, rest = name.partition(":")
        if colon and rest and (named := provider_id(head)) is not None:
            provider, name = named, rest
            continue
        break
    return steps


def _told_by(name: str) -> str | None:
    """The provider that the form of a name gives away."""
    if _BEDROCK_ID.fullmatch(name):
        return "aws"
    if _VERTEX_CLAUDE.match(name) or name.startswith("publishers/"):
        return "google"
    if name.startswith("accounts/fireworks/"):
        return "fireworks"
    if name.startswith("@cf/"):
        return "cloudflare"
    return None


class BedrockNames(NamedTuple):
    """A Bedrock id, taken apart by what its price depends on."""

    regional: tuple[str, ...]  #: names of the price for calls that stay in a region or geography
    anywhere: tuple[str, ...]  #: names of the price for calls that AWS may route anywhere; () when the name says it stays
    geography: str  #: "us", "eu", "us-gov" ...; "" when nothing tells it, "global"


def bedrock_names(spelling: Spelling) -> BedrockNames:
    """The list's names of a Bedrock model.

    An id with a geography (`us.`) is a regional one, `global.` a global one; AWS lists regional calls 10 % higher for newer
    models. A bare id comes from libraries that cut the prefix off, unless a region stood beside it: it could be either.
    """
    name = spelling.name
    beside = "us-gov" if spelling.region.startswith("us-gov") else spelling.region[:2]
    match = _BEDROCK_ID.fullmatch(name)
    if match is None:  # some libraries cut the vendor off, too
        bare = next((f"{vendor}.{name}" for family, vendor in _BEDROCK_FAMILIES.items() if name.startswith(family)), None)
        if bare is None:
            return BedrockNames((name,), (), beside)
        return BedrockNames((name, bare), () if beside else (f"global.{bare}",), beside)
    prefix, rest = match[1], match[2]
    if prefix == "global":
        return BedrockNames((f"us.{rest}", rest), (name,), prefix)
    if prefix is not None:
        return BedrockNames((name, f"us.{rest}", rest), (), prefix)
    return BedrockNames((name, f"us.{name}"), () if beside else (f"global.{name}",), beside)
