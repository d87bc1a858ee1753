"""Every key that Spantoll knows, with its default, its limits and the sentence that explains it.

With `listening.py` and `credit.py` it is the only such list: `config.toml`, `check-config --defaults` and the README's table are held
equal to it by tests.

Durations are seconds (float) and sizes are bytes (int) once read; both are strings in TOML.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from receiver.config import kinds
from receiver.config.credit import L402, Credit, Lightning, Privacy
from receiver.config.fields import REQUIRED, choice, count, duration, file, flag, key, rows, section, size
from receiver.config.listening import Access, Customer, Operator, Otlp, Tls
from receiver.core.attribution import DIMENSIONS
from receiver.core.prices.cards import REQUEST_RATES, TOKEN_RATES

#: Dimensions that the metrics always carry as labels, so that nobody has to ask for them.
ALWAYS_LABELS: Final = ("agent", "model", "provider")


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """`[store]`."""

    directory: str = key(
        "./spantoll-data",
        kinds.Text(allowed="a folder's path", may_be_empty=False),
        "Folder that belongs to one running daemon; made when it is missing.",
    )
    ack: str = choice(
        "durable",
        ("durable", "memory"),
        '"durable": an export is answered once it is on the disk. "memory": at once, and a crash loses the last of it.',
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """`[window]`."""

    decision_wait_after_root_received: float = duration(
        "6s",
        "After its root span came, a trace is closed once it was quiet for this long; other processes' exporters wait 5s before they send.",
        least="0s",
        most="1d",
    )
    remote_root_wait: float = duration(
        "30s",
        "A span whose parent is in another process counts as the root once that parent has not come in this long.",
        least="0s",
        most="1d",
    )
    lone_call_wait: float = duration(
        "10s",
        "A trace that is one lone model call waits this long, for the same call may be told in another trace too.",
        least="0s",
        most="1d",
    )
    idle_wait: float = duration("10m", "A trace without a root is closed once it was quiet for this long.", least="0s", most="7d")
    decision_wait: float = duration("6h", "Any trace is closed this long after its first span.", least="0s", most="30d")
    max_bytes: int = size(
        "256MiB", "Memory of open traces; above it the oldest are closed early. None is ever dropped.", least="1MiB", most="1024GiB"
    )
    max_traces: int = count(200_000, "Open traces; above it the oldest are closed early.", least=1, most=100_000_000)
    max_trace_spans: int = count(
        10_000, "Spans of one trace; a trace that reaches it is closed early, and its later spans open it again.", least=2, most=10_000_000
    )
    seen_horizon: float = duration(
        "1h",
        "How long the span ids of a closed trace are remembered: within it a resend costs nothing, after it the same span counts again.",
        least="1s",
        most="30d",
    )
    seen_max_bytes: int = size(
        "256MiB",
        "Memory of those span ids (8 bytes each, and 420 a trace); above it the horizon shrinks, which a metric shows.",
        least="1MiB",
        most="1024GiB",
    )


_BOUND: Final = r"\s*(?:>=|<=|==|>|<)\s*v?\d{1,9}(?:\.\d{1,9})*\s*"


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageScope:
    """`[[usage.scope]]`."""

    scope: str = key(REQUIRED, kinds.Pattern(), "Regular expression that the instrumentation scope's name begins with.")
    version: str = key(
        "",
        kinds.Text(pattern=rf"{_BOUND}(?:,{_BOUND})*", allowed='a range such as "<1.34" or ">=2.0,<3", or "" for all'),
        'Versions of the scope, "" for all; a scope without a version is in no range.',
    )
    provider: tuple[str, ...] = key((), kinds.Names(), "Only calls to these providers, [] for all.")
    attribute: str = key(
        "",
        kinds.Text(pattern=r"[^=]+=.*", allowed='"key=value", or "" for all'),
        'Only spans that carry this attribute with this value, "" for all.',
    )
    mode: str = key(
        "",
        kinds.Choice("", "IN", "EX"),
        'Whether its input count holds the cached tokens: "IN" it does, "EX" it does not, "" as the evidence says.',
    )
    drops_cache: bool = flag(
        False, "true: it leaves cached tokens out altogether, so a cost that it states is nearer to the truth than its counts."
    )
    cumulative: bool | tuple[str, ...] = key(
        False,
        kinds.FlagOrNames(("L", "A", "T", "N")),
        "true: the counts on its agents and chains go on growing over the life of an object, so a call is the difference to the one before."
        " A list names the kinds of span: L model call, A agent, T tool, N any other.",
    )
    tier: str = key(
        "",
        kinds.Choice("", "standard", "flex", "priority", "batch", "scale"),
        'The service tier that its calls are billed at, where no span says so (batch jobs), "" as the spans say.',
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """`[usage]`."""

    scopes: tuple[UsageScope, ...] = rows(
        UsageScope,
        "How an instrumentation that the built-in table lacks writes its counts. The first row that fits wins, before the built-in ones.",
        name="scope",
        example='scope = "acme\\\\.tracing"\nversion = "<2.0"\nprovider = ["anthropic"]\nmode = "EX"',
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceOverride:
    """`[[prices.override]]`."""

    match: str = key(
        REQUIRED, kinds.Text(allowed="a model's name", may_be_empty=False), 'The model as spans name it; "*" stands for any text.'
    )
    provider: str = key("", kinds.Text(), 'Only calls of this provider, "" for all.')
    account: str = key("", kinds.Text(), 'Only calls of this account (its contract), "" for all.')
    valid_from: int | None = key(None, kinds.Moment(), "From this moment on, by the call's start; absent: since ever.", name="from")
    valid_to: int | None = key(None, kinds.Moment(), "Until just before this moment; absent: for good.", name="to")
    tier: str = choice("", ("", "standard", "flex", "priority", "batch", "fast"), 'Only calls of this service tier, "" for all.')
    rates: dict[str, Decimal] = key(
        {},
        kinds.Table(kinds.Money(), keys=(*TOKEN_RATES, *REQUEST_RATES), allowed="a table of rates to USD"),
        "USD per million tokens of each kind; `web_search` and `request` per thousand.",
    )
    multiplier: Decimal | None = key(
        None, kinds.Money(), "In place of rates: this many times what the price lists say, such as 0.85 for a discount."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """`[prices]`."""

    litellm_file: str = file("LiteLLM's model_prices_and_context_window.json, asked last, for models that the built-in list lacks.")
    prefer_reported: bool = flag(False, "true: take a cost that the emitter put on the span before any price list.")
    accept_start_before: float = duration(
        "30d",
        "A call is priced at its own start, unless that lies further back than this when it is received: then at the moment of receipt.",
        least="0s",
        most="3650d",
    )
    accept_start_after: float = duration(
        "1h", "The same for a start that lies in the future: clocks that are wrong by more are not believed.", least="0s", most="365d"
    )
    cache_write_default: str = choice(
        "5m", ("5m", "1h"), "How long a cache write is taken to live where spans do not say: the two have different prices."
    )
    aliases: dict[str, str] = key(
        {},
        kinds.Table(kinds.Text(allowed="a model's name", may_be_empty=False), allowed="a table of names to model names"),
        "Names of your own for a model (Azure deployments, gateway routes): the left one in spans is priced as the right one.",
        example='my-deployment = "gpt-4o"',
    )
    overrides: tuple[PriceOverride, ...] = rows(
        PriceOverride,
        "Prices that go before every list: a contract, a model of your own. A rate that an entry leaves out is never 0.",
        name="override",
        example='match = "acme-large*"\naccount = "acme"\nfrom = 2026-11-01\nto = 2027-01-01\n'
        "rates = {input = 2.5, output = 10, cache_read = 0.25, cache_write_5m = 3.125, cache_write_1h = 5}",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """`[attribution]`."""

    keys: dict[str, tuple[str, ...]] = key(
        {},
        kinds.Table(
            kinds.Names(allowed="a list of attribute keys"),
            keys=[name for name in DIMENSIONS if name not in ("model", "provider")],
            allowed="a table of dimensions to lists of attribute keys",
        ),
        "Attribute keys of your own, per dimension, looked at before the built-in ones.",
        example='tenant = ["app.tenant", "customer"]',
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Counting:
    """`[counting]`."""

    join_lost_context: bool = flag(
        True, "Count a call once that two instrumentations tell in two traces, because the inner one lost its context."
    )
    join_gateways: bool = flag(True, "Count a call once that both a client and its LLM gateway tell, in two processes.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """`[metrics]`."""

    dimensions: tuple[str, ...] = key(
        (),
        kinds.Names([name for name in DIMENSIONS if name not in ALWAYS_LABELS]),
        "Dimensions that become labels of the cost, call and token counters, beside account, agent, model and provider."
        " Each multiplies the series.",
    )
    max_series_per_account: int = count(
        2_000,
        "Label combinations of one account; further ones are summed under `__overflow__`, so no money is lost.",
        least=10,
        most=10_000_000,
    )
    max_series: int = count(20_000, "The same over all accounts.", least=10, most=10_000_000)
    zero_first: float = duration(
        "0s",
        "Show a new series at 0 for this long first, for Prometheus servers that do not ingest created timestamps; 0s: off.",
        least="0s",
        most="1h",
    )
    created_in_text: bool = flag(
        False, "true: also write `_created` series into the plain text format, where scrapers take them for series of their own."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """`[log]`."""

    level: str = choice("info", ("debug", "info", "warning", "error"), "The least serious lines that are written, to standard error.")
    format: str = choice("auto", ("auto", "text", "json"), '"auto": text on a terminal, one JSON object a line elsewhere.')


@dataclass(frozen=True, slots=True, kw_only=True)
class Shutdown:
    """`[shutdown]`."""

    release: bool = flag(False, "true: close every open trace on the way out, however incomplete. Dimensions may be lost, counts are not.")
    drain_timeout: float = duration(
        "10s", "How long requests in flight may take to finish once the daemon was told to stop.", least="0s", most="10m"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole configuration. Only the composition root sees it; every part is handed its own section."""

    otlp: Otlp = section(Otlp, "What is received, and its limits. What goes over a limit is refused or dropped alone, counted, and said.")
    operator: Operator = section(Operator, "The operator's own listener.")
    customer: Customer = section(Customer, "The customers' listener.")
    tls: Tls = section(Tls, "Encryption of all listeners. Off loopback it is needed, unless a listener says `insecure = true`.")
    access: Access = section(Access, "Who may send, and for which account.")
    store: Store = section(Store, "Where the books live.")
    credit: Credit = section(Credit, "What Spantoll costs, and what happens to an account without credit.")
    lightning: Lightning = section(Lightning, "How credit is paid.")
    l402: L402 = section(L402, "Accounts without an operator: a payment is one.")
    window: Window = section(
        Window, "How long a trace is waited for before its calls are counted. Shorter waits lose names of agents and users, not costs."
    )
    usage: Usage = section(Usage, "How spans tell of tokens.")
    prices: Prices = section(Prices, "What a token costs.")
    attribution: Attribution = section(Attribution, "Who spent it.")
    counting: Counting = section(Counting, "Rules of counting once that look beyond one trace.")
    metrics: Metrics = section(Metrics, "What a scrape shows.")
    privacy: Privacy = section(Privacy, "What is kept of whom, and how long.")
    log: Log = section(Log, "What the daemon says.")
    shutdown: Shutdown = section(Shutdown, "How it ends.")
