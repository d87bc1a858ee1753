"""The sections that say who listens where, and who may come in: `[otlp]`, `[operator]`, `[customer]`, `[tls]`, `[access]`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from receiver.config import kinds
from receiver.config.fields import REQUIRED, choice, count, duration, file, flag, key, listen, rows, section, size

SHA256: Final = kinds.Text(
    pattern="[0-9a-f]{64}", allowed='64 lower-case hexadecimal digits (printf %s "$KEY" | sha256sum)', may_be_empty=False
)
NAME: Final = kinds.Text(
    pattern=r"[A-Za-z0-9][A-Za-z0-9._:@/-]{0,127}", allowed="1 to 128 letters, digits or . _ : @ / -", may_be_empty=False
)
HOSTS: Final = kinds.Names(pattern=r"[A-Za-z0-9.:_-]+", allowed="a list of host names without scheme and port")

_INSECURE = "true: speak plain text here although [tls] is set, or although others than this machine reach it. Keys then travel readably."
_HOSTS = (
    "Names (without port) under which this listener may be addressed, beside loopback names and addresses. A request with another Host"
    " is refused, so that no web page can reach it through a name of its own (DNS rebinding)."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OtlpGrpc:
    """`[otlp.grpc]`."""

    endpoint: str = listen("localhost:4317", 'Where OTLP/gRPC listens: "host:port", "" for off. localhost is 127.0.0.1 and ::1.')
    insecure: bool = flag(False, _INSECURE)
    server: str = choice(
        "aio",
        ("aio", "native"),
        '"aio" is grpcio\'s own server; "native" is the faster one of the extra `spantoll[fast]`, younger, so it is chosen explicitly.',
    )
    max_concurrent_streams: int = count(
        100, "Requests that one connection may have open at once; an exporter uses a handful.", least=1, most=100_000
    )
    handshake_timeout: float = duration(
        "5s", "A connection that has not finished its TLS and HTTP/2 handshake by then is closed.", least="100ms", most="5m"
    )
    max_connection_age: float = duration(
        "0s",
        "Connections are asked to reconnect after this long, so that a load balancer can spread them anew; 0s: never.",
        least="0s",
        most="30d",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class OtlpHttp:
    """`[otlp.http]`."""

    endpoint: str = listen("localhost:4318", 'Where OTLP/HTTP listens: "host:port", "" for off. localhost is 127.0.0.1 and ::1.')
    insecure: bool = flag(False, _INSECURE)
    traces_path: str = key(
        "/v1/traces",
        kinds.Text(pattern=r"/[A-Za-z0-9._~/-]*", allowed='a path that begins with "/"', may_be_empty=False),
        "Path that takes POSTed exports, protobuf and JSON by Content-Type.",
    )
    header_timeout: float = duration(
        "10s", "A request whose headers are not complete by then is dropped with its connection.", least="100ms", most="10m"
    )
    body_timeout: float = duration(
        "10s", "The stretch of time over which a body has to arrive at least at `min_body_rate`.", least="100ms", most="10m"
    )
    min_body_rate: int = size(
        "1KiB", "Bytes a second, averaged over `body_timeout`, below which a body is given up as stalled.", least="0B", most="1GiB"
    )
    idle_timeout: float = duration("60s", "A kept-alive connection without a request is closed after this long.", least="1s", most="1d")
    max_connections: int = count(
        1024, "Connections at once; further ones are closed as they come, which the log says.", least=1, most=1_000_000
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Otlp:
    """`[otlp]`."""

    max_request_size: int = size(
        "64MiB",
        "Largest request, on the wire and again after inflation (the OTLP specification's own recommendation);"
        " a larger one is refused with 413 or RESOURCE_EXHAUSTED.",
        least="1KiB",
        most="2GiB",
    )
    max_spans_per_request: int = count(
        20_000, "Spans in one request, counted before any is decoded; an SDK sends 512, a collector 8,192.", least=1, most=10_000_000
    )
    max_attributes_per_span: int = count(
        1_024,
        "Attributes of one span that are kept, of those that are wanted at all; further ones count as dropped. SDKs stop at 128.",
        least=16,
        most=1_000_000,
    )
    max_in_flight: int = size(
        "256MiB",
        "Bytes of all requests being worked on at once; beyond it a request is refused as retryable before its body is read.",
        least="1KiB",
        most="1024GiB",
    )
    discard_other_signals: bool = flag(
        False, "true: take metrics and logs exports and throw them away, so that an SDK that sends all three signals is content."
    )
    grpc: OtlpGrpc = section(OtlpGrpc, "OTLP over gRPC.")
    http: OtlpHttp = section(OtlpHttp, "OTLP over HTTP.")


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorKey:
    """`[[operator.key]]`."""

    name: str = key(REQUIRED, NAME, "Who holds the key.")
    sha256: str = key(REQUIRED, SHA256, "SHA-256 of the key, in hexadecimal.", secret=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """`[operator]`."""

    endpoint: str = listen(
        "localhost:8102", 'Where /metrics, health and the admin API listen: "host:port", "" for off. It shows everyone\'s cost.'
    )
    insecure: bool = flag(False, _INSECURE)
    allowed_hosts: tuple[str, ...] = key((), HOSTS, _HOSTS)
    keys: tuple[OperatorKey, ...] = rows(
        OperatorKey,
        "Keys that open the operator's listener (`Authorization: Bearer KEY`); none: open to who can reach it,"
        " which must then be this machine only. /-/healthy and /-/ready never ask for one.",
        name="key",
        example='name = "prometheus"\nsha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"',
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Customer:
    """`[customer]`."""

    endpoint: str = listen("localhost:8101", 'Where an account looks after itself: "host:port", "" for off.')
    insecure: bool = flag(False, _INSECURE)
    allowed_hosts: tuple[str, ...] = key((), HOSTS, _HOSTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """`[tls]`."""

    cert_file: str = file(
        "Certificate chain in PEM. Once it is set every listener speaks TLS, except where `insecure = true`. Read again when it changes."
    )
    key_file: str = file("The certificate's private key in PEM, without a password.")
    client_ca_file: str = file("Authorities in PEM: a client must then show a certificate that one of them signed (mutual TLS).")


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessKey:
    """`[[access.key]]`."""

    account: str = key(REQUIRED, NAME, "The account that pays for what comes with this key.")
    sha256: str = key(REQUIRED, SHA256, "SHA-256 of the key, in hexadecimal; the key itself stands nowhere.", secret=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """`[access]`."""

    required: bool = flag(False, "true: every request needs a key, also while there is none yet; `spantoll account add` makes them.")
    keys: tuple[AccessKey, ...] = rows(
        AccessKey,
        "Keys that exporters send as `Authorization: Bearer KEY`; an account may have several."
        " With none, everything belongs to the account `default`.",
        name="key",
        example='account = "acme"\nsha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"',
    )
