"""From the configuration to the parts of the daemon: rules, price lists, certificates, servers.

Each function makes one part out of its own sections. Only this layer and those above it see the whole configuration.
"""

from __future__ import annotations

import json
import random
import ssl
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from receiver import tables
from receiver.access.tls import Tls, TlsFiles, UnusableCertificate
from receiver.clock import Clock
from receiver.config import Config, as_table, listeners, parse_endpoint
from receiver.core.attribution import AttributionRules
from receiver.core.calls import CountOptions
from receiver.core.outcome import Theory
from receiver.core.prices import PriceBook, PriceOptions
from receiver.core.usage import Rules
from receiver.core.window import WindowLimits
from receiver.errors import ConfigError
from receiver.metrics.collector import MetricsOptions
from receiver.otlp.decode import Decoder
from receiver.otlp.export import Export, WireObserver
from receiver.otlp.grpc_server import GrpcOptions, GrpcServer
from receiver.otlp.http_server import HttpOptions, HttpServer
from receiver.otlp.listen import CannotListen
from receiver.otlp.status import Refusals
from receiver.web.server import WebServer


def price_book(config: Config) -> PriceBook:
    """The price layers that the configuration asks for. Raises ConfigError for a list that cannot be used."""
    prices = config.prices
    litellm = _litellm_list(prices.litellm_file) if prices.litellm_file else None
    rows = as_table(prices)["override"]
    return PriceBook.build(
        tables.load_json("prices.json"),
        patch=tables.load_toml("prices-patch.toml"),
        contract=[row for row in rows if row.get("account")],  # an account's own prices go before everybody's
        overrides=[row for row in rows if not row.get("account")],
        aliases=prices.aliases,
        litellm=litellm,
        options=PriceOptions(
            accept_before=prices.accept_start_before,
            accept_after=prices.accept_start_after,
            prefer_reported=prices.prefer_reported,
            cache_write_default=prices.cache_write_default,
        ),
    )


def _litellm_list(path: str) -> dict[str, Any]:
    try:
        document = json.loads(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError([f"prices.litellm_file: {path} cannot be used: {error}"]) from error
    if not isinstance(document, dict):
        raise ConfigError([f"prices.litellm_file: {path} is no JSON object: it must be LiteLLM's model_prices_and_context_window.json"])
    return document


def theory(config: Config) -> Theory:
    """The rules that turn spans into charges."""
    return Theory(
        rules=Rules.from_tables(tables.load_toml("usage.toml"), as_table(config.usage)["scope"]),
        counting=CountOptions(lost_context=config.counting.join_lost_context, gateway=config.counting.join_gateways),
        book=price_book(config),
        attribution=AttributionRules.from_tables(tables.load_toml("attribution.toml"), config.attribution.keys),
    )


def decoder(config: Config, rules: Theory) -> Decoder:
    """A decoder that keeps of the attributes what any rule reads."""
    return Decoder(
        rules.limit_of,
        trim_of=rules.trim_of,
        max_spans=config.otlp.max_spans_per_request,
        max_attributes=config.otlp.max_attributes_per_span,
    )


def certificates(config: Config) -> Tls | None:
    """The certificates of all listeners, None for plain text. Raises ConfigError when they cannot be used."""
    tls = config.tls
    if not tls.cert_file:
        return None
    client_ca = Path(tls.client_ca_file) if tls.client_ca_file else None
    try:
        return Tls(TlsFiles(Path(tls.cert_file), Path(tls.key_file), client_ca))
    except UnusableCertificate as error:
        raise ConfigError([f"tls: {error}"]) from error


def listening_hosts(config: Config) -> list[str]:
    """Where the listeners are that are on."""
    return [parse_endpoint(each.endpoint).host for each in listeners(config).values() if each.endpoint]


def tls_context(tls: Tls | None, *, insecure: bool) -> ssl.SSLContext | None:
    """For a listener; None for one in plain text."""
    return None if tls is None or insecure else tls.ssl_context


def window_limits(config: Config) -> WindowLimits:
    """`[window]`."""
    window = config.window
    return WindowLimits(**{each.name: getattr(window, each.name) for each in fields(window)})


def metrics_options(config: Config) -> MetricsOptions:
    """`[metrics]`."""
    metrics = config.metrics
    return MetricsOptions(**{each.name: getattr(metrics, each.name) for each in fields(metrics)})


@dataclass(frozen=True, slots=True)
class Listeners:
    """What listens; a listener that is off is not in it."""

    grpc: GrpcServer | None
    http: HttpServer | None
    web: dict[str, WebServer]  #: "operator", "customer"

    @property
    def ports(self) -> dict[str, int]:
        servers: dict[str, GrpcServer | HttpServer | WebServer | None] = {"otlp.grpc": self.grpc, "otlp.http": self.http, **self.web}
        return {name: server.bound[0][1] for name, server in servers.items() if server is not None and server.bound}

    async def start(self) -> None:
        """Start all of them; when one cannot, those before it are stopped again. Raises CannotListen, which names the key."""
        begun: list[GrpcServer | HttpServer | WebServer] = []
        try:
            for name, server in (*self.web.items(), ("otlp.http", self.http), ("otlp.grpc", self.grpc)):
                if server is not None:
                    begun.append(server)
                    try:
                        await server.start()
                    except CannotListen as error:
                        raise CannotListen(f"{name}.endpoint: {error}") from error
        except BaseException:
            for server in reversed(begun):
                await server.stop(0)
            raise


def otlp_servers(
    config: Config, *, export: Export, observer: WireObserver, clock: Clock, tls: Tls | None
) -> tuple[GrpcServer | None, HttpServer | None]:
    """Both OTLP listeners; None for one that is off."""
    refusals = Refusals(random.Random())  # noqa: S311 -- jitter of retry delays, not a secret
    common: dict[str, Any] = {"export": export, "observer": observer, "refusals": refusals, "clock": clock}
    otlp, grpc_, http = config.otlp, config.otlp.grpc, config.otlp.http
    grpc_server = http_server = None
    if grpc_.endpoint:
        options = GrpcOptions(
            endpoint=parse_endpoint(grpc_.endpoint),
            server=grpc_.server,
            max_request_bytes=otlp.max_request_size,
            handshake_timeout_seconds=grpc_.handshake_timeout,
            max_concurrent_streams=grpc_.max_concurrent_streams,
            max_connection_age_seconds=grpc_.max_connection_age or None,
            discard_other_signals=otlp.discard_other_signals,
        )
        credentials = tls.grpc_credentials() if tls is not None and not grpc_.insecure else None
        grpc_server = GrpcServer(options, credentials=credentials, **common)
    if http.endpoint:
        http_options = HttpOptions(
            endpoint=parse_endpoint(http.endpoint),
            traces_path=http.traces_path,
            max_request_bytes=otlp.max_request_size,
            header_timeout_seconds=http.header_timeout,
            body_window_seconds=http.body_timeout,
            body_bytes_per_second=http.min_body_rate,
            idle_timeout_seconds=http.idle_timeout,
            max_connections=http.max_connections,
            discard_other_signals=otlp.discard_other_signals,
            grpc_port=parse_endpoint(grpc_.endpoint or "localhost:4317").port,
        )
        http_server = HttpServer(http_options, ssl_context=tls_context(tls, insecure=http.insecure), **common)
    return grpc_server, http_server
