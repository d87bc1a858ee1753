"""Contradictions: values that are right each for itself and wrong together. Checked once, here, so that no later code looks again."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from urllib.parse import urlsplit

from receiver.config.endpoint import Endpoint, is_loopback, parse_endpoint
from receiver.config.fields import as_table
from receiver.config.listening import Customer, Operator, OtlpGrpc, OtlpHttp
from receiver.config.sections import Config
from receiver.config.units import format_duration, format_size
from receiver.core.prices.overrides import check_overrides


def contradictions(config: Config) -> list[str]:
    """A sentence for each; none when the configuration can be run."""
    checks = (_listeners, _tls, _native, _otlp, _credit, _node, _window, _metrics, _rows)
    return [problem for check in checks for problem in check(config)]


def listeners(config: Config) -> dict[str, OtlpGrpc | OtlpHttp | Operator | Customer]:
    """The sections that listen, by path, also those that are off."""
    return {"otlp.grpc": config.otlp.grpc, "otlp.http": config.otlp.http, "operator": config.operator, "customer": config.customer}


def _listeners(config: Config) -> Iterator[str]:
    if not config.otlp.grpc.endpoint and not config.otlp.http.endpoint:
        yield "otlp.grpc.endpoint, otlp.http.endpoint: both are off, so nothing could be received; leave one on"
    open_: list[tuple[str, Endpoint]] = []
    for name, listener in listeners(config).items():
        if not listener.endpoint:
            continue
        endpoint = parse_endpoint(listener.endpoint)
        for other, taken in open_:
            if endpoint.meets(taken):
                yield f"{name}.endpoint: {listener.endpoint} is taken by {other}.endpoint; give each listener a port of its own"
        open_.append((name, endpoint))
        if not endpoint.is_loopback:
            yield from _off_loopback(config, name, listener, endpoint)


def _off_loopback(config: Config, name: str, listener: OtlpGrpc | OtlpHttp | Operator | Customer, endpoint: Endpoint) -> Iterator[str]:
    """Whoever reaches it could send at another's cost or read everyone's, so: TLS (or an explicit `insecure`), and keys."""
    if not config.tls.cert_file and not listener.insecure:
        yield (
            f"{name}.endpoint: {listener.endpoint} is reached from other machines in plain text;"
            f" set tls.cert_file and tls.key_file, or say {name}.insecure = true where the network is trusted"
        )
    if not isinstance(listener, Operator) and not (config.access.keys or config.access.required or config.l402.enabled):
        could = "see and use the account default" if isinstance(listener, Customer) else "send"
        yield (
            f"{name}.endpoint: {listener.endpoint} is reached from other machines, and anyone there could {could}; set access.required ="
            " true and make keys with `spantoll account add`, or add an [[access.key]]"
        )
    if isinstance(listener, Operator) and not listener.keys and not (config.tls.client_ca_file and not listener.insecure):
        yield (
            f"{name}.endpoint: {listener.endpoint} is reached from other machines, and shows everyone's cost;"
            " add an [[operator.key]], or ask for client certificates with tls.client_ca_file"
        )
    if isinstance(listener, (Operator, Customer)) and endpoint.is_wildcard and not listener.allowed_hosts:
        yield f"{name}.allowed_hosts: is empty while {listener.endpoint} is reached from other machines; list the names that they use"


def _tls(config: Config) -> Iterator[str]:
    tls = config.tls
    if tls.cert_file and not tls.key_file:
        yield "tls.key_file: is missing beside tls.cert_file; a certificate needs its private key"
    if tls.key_file and not tls.cert_file:
        yield "tls.cert_file: is missing beside tls.key_file; a private key needs its certificate"
    if tls.client_ca_file and not tls.cert_file:
        yield "tls.client_ca_file: client certificates are asked for in TLS only; set tls.cert_file and tls.key_file too"


def _native(config: Config) -> Iterator[str]:
    """What the native gRPC server cannot do.

    It reads and inflates a message before anyone can judge it, so one small request can take all memory: fine among the programs of
    one machine, not beyond.
    """
    grpc = config.otlp.grpc
    if grpc.server != "native" or not grpc.endpoint:
        return
    if importlib.util.find_spec("pygrpc_native") is None:
        yield 'otlp.grpc.server: "native" needs the package pygrpc-native; pip install "spantoll[fast]", or set it to "aio"'
    if config.tls.cert_file and not grpc.insecure:
        yield 'otlp.grpc.server: "native" speaks no TLS; set it to "aio", or otlp.grpc.insecure = true where a proxy ends TLS before it'
    if not parse_endpoint(grpc.endpoint).is_loopback:
        yield (
            f'otlp.grpc.server: "native" cannot limit what a compressed message inflates to, and {grpc.endpoint} is reached from other'
            ' machines; set it to "aio"'
        )


def _otlp(config: Config) -> Iterator[str]:
    otlp = config.otlp
    if otlp.max_in_flight < otlp.max_request_size:
        yield (
            f"otlp.max_in_flight: {format_size(otlp.max_in_flight)} is less than one request may have"
            f" (otlp.max_request_size, {format_size(otlp.max_request_size)}), so such a request could never be taken"
        )


def _credit(config: Config) -> Iterator[str]:
    credit, lightning = config.credit, config.lightning
    if credit.on_exhausted == "accept" and not credit.max_debt_msat:
        yield ('credit.max_debt_msat: is 0 although credit.on_exhausted is "accept", so no debt is accepted; set a bound, or choose "drop"')
    if credit.max_debt_msat and credit.on_exhausted != "accept":
        yield f'credit.max_debt_msat: has no effect while credit.on_exhausted is "{credit.on_exhausted}"; set that to "accept"'
    if lightning.topup_min_sat > lightning.topup_max_sat:
        yield f"lightning.topup_min_sat: {lightning.topup_min_sat:,} is more than lightning.topup_max_sat ({lightning.topup_max_sat:,})"
    for name, on in (("l402.enabled", config.l402.enabled), ("lightning.address", lightning.address)):
        if on and not config.customer.endpoint:
            yield f"{name}: has no effect while customer.endpoint is off, where it would be asked for"
        if on and lightning.backend == "off":
            yield f'{name}: has no effect while lightning.backend is "off", since there are no invoices'
    if bool(credit.webhook_url) != bool(credit.webhook_secret_file):
        missing, there = ("secret_file", "url") if credit.webhook_url else ("url", "secret_file")
        yield f"credit.webhook_{missing}: is missing beside credit.webhook_{there}; set both, or neither"
    if credit.webhook_url.startswith("http:") and not is_loopback(urlsplit(credit.webhook_url).hostname or ""):
        yield f"credit.webhook_url: {credit.webhook_url} would carry names and balances over the network in plain text; make it https"


def _node(config: Config) -> Iterator[str]:
    """A real node has an address and one credential, and the credential travels where nobody reads it."""
    lnd, lnbits = config.lightning.lnd, config.lightning.lnbits
    if config.lightning.backend == "lnd":
        yield from _reached("lnd", lnd.url, lnd.cert_file, "macaroon", (lnd.macaroon_file, lnd.macaroon_env))
    if config.lightning.backend == "lnbits":
        yield from _reached("lnbits", lnbits.url, lnbits.cert_file, "key", (lnbits.key_file, lnbits.key_env))


def _reached(backend: str, url: str, cert_file: str, secret: str, kept: tuple[str, str]) -> Iterator[str]:
    at, chosen = f"lightning.{backend}", f'while lightning.backend is "{backend}"'
    if all(kept) or not any(kept):
        found = "both are set" if all(kept) else "neither is set"
        yield f"{at}.{secret}_file, {at}.{secret}_env: {found} {chosen}; set one of them"
    if not url:
        yield f"{at}.url: is missing {chosen}; say where the node is"
    elif url.startswith("http:"):
        if cert_file:
            yield f"{at}.cert_file: has no effect, since {url} is plain text; make it https"
        if not is_loopback(urlsplit(url).hostname or ""):
            yield f"{at}.url: {url} would carry the {secret} over the network in plain text; make it https"


def _window(config: Config) -> Iterator[str]:
    window = config.window
    for name in ("decision_wait_after_root_received", "remote_root_wait", "lone_call_wait", "idle_wait"):
        wait: float = getattr(window, name)
        if wait > window.decision_wait:
            yield (
                f"window.{name}: {format_duration(wait)} is longer than window.decision_wait ({format_duration(window.decision_wait)}),"
                " which closes every trace before"
            )


def _metrics(config: Config) -> Iterator[str]:
    metrics = config.metrics
    if metrics.max_series_per_account > metrics.max_series:
        yield (
            f"metrics.max_series_per_account: {metrics.max_series_per_account:,} is more than metrics.max_series ({metrics.max_series:,})"
            " allows for all accounts together"
        )


def _rows(config: Config) -> Iterator[str]:
    seen: dict[str, str] = {}
    for at, key in enumerate(config.access.keys):
        other = seen.setdefault(key.sha256, key.account)
        if other != key.account:
            yield f"access.key[{at}].sha256: the key of account {key.account!r} is also that of {other!r}; give each a key of its own"
    yield from check_overrides([as_table(override) for override in config.prices.overrides])
