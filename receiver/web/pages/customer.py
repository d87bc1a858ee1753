"""The customers' pages: what this is and what a span costs (`/`), and the one to pay on (`/topup`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Final

from aiohttp import web

from receiver.core.credit import format_sat
from receiver.core.invoices import MSAT_PER_SAT
from receiver.web.pages import assets
from receiver.web.request import Request
from receiver.web.server import Route

#: What prices are told for beside one span: a small agent's day, and a busy service's.
_EXAMPLES: Final = (10_000, 1_000_000)
#: Amounts to choose from with one press, in satoshi; those that are allowed.
_QUICK_SAT: Final = (1_000, 5_000, 20_000, 100_000, 500_000)
_MOST_QUICK: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """What a stranger may know of this daemon. None: not known, or not there."""

    price_per_span_msat: int | None = None  #: of an account that has no terms of its own
    enforce: bool = False
    key_required: bool = False
    topups: tuple[int, int] | None = None  #: the least and the most of a top-up, in satoshi; None: there are none
    http: tuple[str, int, str] | None = None  #: OTLP/HTTP: scheme, port, path
    grpc: tuple[str, int] | None = None  #: OTLP/gRPC: scheme, port


def front(welcome: Welcome, request: Request) -> web.Response:
    """`/` in a browser."""
    return assets.page_response(
        _filled(
            assets.page("welcome"),
            price=_price(welcome),
            examples=_examples(welcome),
            terms=_terms(welcome),
            exporters=_exporters(welcome, _host_of(request.header("Host"))),
            key="Every request needs the key of an account; ask the operator for yours." if welcome.key_required else "No key is needed.",
            topup='<a class="button" href="/topup">Top up</a>' if welcome.topups else "",
        )
    )


def routes(welcome: Callable[[], Welcome]) -> list[Route]:
    """What only browsers ask for."""

    async def topup(_request: Request) -> web.Response:
        least, most = welcome().topups or (0, 0)
        quick = [amount for amount in _QUICK_SAT if least <= amount <= most][:_MOST_QUICK]
        if not quick:
            quick = [least]
        chosen = quick[min(1, len(quick) - 1)]
        buttons = "".join(f'<button type="button" class="quick" data-amount="{amount}">{amount:,}</button>' for amount in quick)
        return assets.page_response(
            _filled(assets.page("topup"), least=str(least), most=str(most), amount=str(chosen), quick=buttons, off="" if most else "yes")
        )

    return [Route("GET", "/topup", topup, "the page to top up on", is_open=True), assets.route()]


def _price(welcome: Welcome) -> str:
    msat = welcome.price_per_span_msat
    if msat is None:
        return "Ask the operator what a span costs."
    if msat == 0:
        return "Spans are free here."
    return f"A span costs <strong>{msat:,} msat</strong>, which is {escape(format_sat(msat))} sat."


def _examples(welcome: Welcome) -> str:
    msat = welcome.price_per_span_msat
    if not msat:
        return ""
    rows = "".join(f"<div><dt>{spans:,} spans</dt><dd>{escape(format_sat(spans * msat))} sat</dd></div>" for spans in _EXAMPLES)
    return f'<dl class="facts">{rows}</dl>'


def _terms(welcome: Welcome) -> str:
    if not welcome.price_per_span_msat:
        return ""
    paid = "It is taken from credit that is paid in advance over Lightning" if welcome.topups else "It is taken from credit"
    if welcome.enforce:
        return f"{paid}; without credit, spans are not taken any more. What was sent twice or was refused costs nothing."
    return f"{paid}; for now it is only metered, and nobody is refused. What was sent twice or was refused costs nothing."


def _exporters(welcome: Welcome, host: str) -> str:
    """The environment of an OpenTelemetry SDK, for each protocol that is on."""
    ways: list[tuple[str, str, str]] = []
    if welcome.http is not None:
        scheme, port, path = welcome.http
        ways.append(("OTLP/HTTP", "http/protobuf", f"{scheme}://{host}:{port}{path}"))
    if welcome.grpc is not None:
        scheme, port = welcome.grpc
        ways.append(("OTLP/gRPC", "grpc", f"{scheme}://{host}:{port}"))
    if not ways:
        return "<p>The receiver is switched off on this daemon.</p>"
    key = '\nexport OTEL_EXPORTER_OTLP_TRACES_HEADERS="Authorization=Bearer%20YOUR_KEY"' if welcome.key_required else ""
    return "".join(
        f'<figure class="code"><figcaption>{name}<button type="button" class="quiet" data-copy hidden>Copy</button></figcaption>'
        f"<pre><code>export OTEL_EXPORTER_OTLP_TRACES_ENDPOINT={escape(url)}\n"
        f"export OTEL_EXPORTER_OTLP_TRACES_PROTOCOL={protocol}{escape(key)}</code></pre></figure>"
        for name, protocol, url in ways
    )


def _host_of(stated: str) -> str:
    """The name that this daemon was called by, without its port; the guard has judged it."""
    host = stated.strip().lower()
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


def _filled(text: str, **values: str) -> str:
    """`{{name}}` replaced. Values are HTML."""
    for name, value in values.items():
        text = text.replace("{{" + name + "}}", value)
    assert "{{" not in text
    return text


assert MSAT_PER_SAT == 1_000, "the page says so"
