"""The pages as they are served: whole, of our own alone, with a strict policy, and honest in words. What they do stands in e2e."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from importlib import resources
from pathlib import Path

import pytest

from receiver.access.keys import Keys
from receiver.config import Customer, Operator, OperatorKey
from receiver.web.customer import customer_server
from receiver.web.operator import operator_server
from receiver.web.pages.customer import Welcome
from receiver.web.pages.qr import qr_svg
from receiver.web.server import WebServer
from tests.integration.test_operator_web import Daemon
from tests.integration.web_helpers import ask

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "Accept-Encoding": "identity"}
STATIC = {
    each.name: each.read_text("utf-8") for each in resources.files("receiver.web.pages").joinpath("static").iterdir() if each.is_file()
}
PAGES = ("welcome.html", "topup.html", "operator.html")
WELCOME = Welcome(
    price_per_span_msat=10,
    enforce=True,
    topups=(100, 1_000_000),
    http=("http", 4318, "/v1/traces"),
    grpc=("https", 4317),
)


@pytest.fixture
async def customer() -> AsyncIterator[WebServer]:
    server = customer_server(Customer(endpoint="localhost:0"), Keys(), welcome=lambda: WELCOME)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def operator() -> AsyncIterator[WebServer]:
    """Behind a key, which pages themselves never need."""
    server = operator_server(Operator(endpoint="localhost:0", keys=(OperatorKey(name="me", sha256="0" * 64),)), Daemon())
    await server.start()
    yield server
    await server.stop()


async def welcomed(welcome: Welcome, host: str = "localhost:8101") -> str:
    server = customer_server(Customer(endpoint="localhost:0"), Keys(), welcome=lambda: welcome)
    await server.start()
    try:
        return (await ask(server, "GET", "/", headers={**BROWSER, "Host": host})).body.decode()
    finally:
        await server.stop()


async def test_browsers_get_a_page_and_others_the_list(customer: WebServer, operator: WebServer) -> None:
    """By Accept: curl and scripts see what they saw before."""
    for server in (customer, operator):
        for accept, kind in (
            (BROWSER["Accept"], "text/html"),
            ("TEXT/HTML", "text/html"),
            ("*/*", "text/plain"),
            ("text/html;q=0, text/plain", "text/plain"),
            ("text/html;q=0.000", "text/plain"),
            ("application/json", "text/plain"),
            ("", "text/plain"),
        ):
            answer = await ask(server, "GET", "/", headers={"Accept": accept})
            assert (answer.status, answer.headers["Content-Type"]) == (200, f"{kind}; charset=utf-8"), accept
            assert answer.headers["Vary"] == "Accept"
            assert answer.headers["Cache-Control"] == "no-store"


async def test_the_policy_of_pages_lets_in_only_our_own_files(customer: WebServer, operator: WebServer) -> None:
    """No inline script or style, no other origin, no frame, no form that is sent, no text that becomes markup."""
    for server, path in ((customer, "/"), (customer, "/topup"), (operator, "/")):
        policy = (await ask(server, "GET", path, headers=BROWSER)).headers["Content-Security-Policy"]
        directives = dict(part.strip().partition(" ")[::2] for part in policy.split(";"))
        assert directives["default-src"] == "'none'"
        assert directives["script-src"] == directives["style-src"] == directives["connect-src"] == "'self'"
        assert directives["form-action"] == directives["frame-ancestors"] == directives["base-uri"] == "'none'"
        assert directives["require-trusted-types-for"] == "'script'"
        assert "unsafe" not in policy
        assert "http" not in policy


@pytest.mark.parametrize("name", sorted(STATIC))
def test_nothing_inside_a_file_breaks_that_policy(name: str) -> None:
    """And nothing is fetched from elsewhere: the only URLs are names of XML and words in sentences."""
    text = STATIC[name]
    for url in re.findall(r"https?://[^\s\"'<)]+", text):
        assert url == "http://www.w3.org/2000/svg", url
    assert "@import" not in text
    assert not re.search(r"url\(", text)
    if name.endswith(".html"):
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:|<iframe|<object|<base", text)
        assert re.findall(r"<script[^>]*>(.*?)</script>", text, re.DOTALL) == [""]
        assert 'lang="en"' in text
        assert "<noscript>" in text or name == "welcome.html", "that one works without scripts"
    if name.endswith(".js"):
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|localStorage|document\.cookie", text
        )


async def test_every_file_that_a_page_names_is_served_for_ever(customer: WebServer, operator: WebServer) -> None:
    """Under a name with a hash of what is in it; modules name one another the same way; asked again it is 304."""
    seen: dict[str, bytes] = {}
    for server, path in ((customer, "/"), (customer, "/topup"), (operator, "/")):
        page = (await ask(server, "GET", path, headers=BROWSER)).body.decode()
        todo = set(re.findall(r"[\"'](/assets/[^\"']+)[\"']", page))
        assert len(todo) == 3
        while todo:
            name = todo.pop()
            answer = await ask(server, "GET", name, headers={"Accept-Encoding": "identity"})
            assert answer.status == 200, name
            assert re.fullmatch(r"/assets/[a-z-]+\.[0-9a-f]{16}\.(js|css|svg)", name)
            assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            again = await ask(server, "GET", name, headers={"If-None-Match": answer.headers["ETag"]})
            assert (again.status, again.body) == (304, b"")
            seen[name] = answer.body
            todo |= {f"/assets/{each}" for each in re.findall(r'from "\./([^"]+)"', answer.body.decode())} - seen.keys()
    stems = {name.split("/")[2].split(".")[0] for name in seen}
    assert stems == {name.split(".")[0] for name in STATIC if not name.endswith(".html")}, "and no file is there that nobody uses"
    assert (await ask(customer, "GET", "/assets/style.css")).status == 404
    assert (await ask(customer, "GET", "/assets/..%2Fassets.py")).status == 404


async def test_the_front_page_says_what_a_span_costs() -> None:
    """In the account's money, for one and for many, and what happens without credit."""
    text = await welcomed(WELCOME)
    assert "A span costs <strong>10 msat</strong>, which is 0.01 sat." in text
    assert "<dt>10,000 spans</dt><dd>100 sat</dd>" in text
    assert "without credit, spans are not taken any more" in text
    assert '<a class="button" href="/topup">' in text
    assert "No key is needed." in text
    metered = await welcomed(Welcome(price_per_span_msat=1_500, enforce=False))
    assert "1,500 msat" in metered
    assert "nobody is refused" in metered
    assert 'href="/topup"' not in metered
    assert "Spans are free here." in await welcomed(Welcome(price_per_span_msat=0))
    assert "Ask the operator what a span costs." in await welcomed(Welcome())


async def test_the_front_page_says_where_to_send_spans() -> None:
    """At the name that it was called by, with the ports and schemes that are on, and with a key where one is needed."""
    text = await welcomed(WELCOME, host="127.0.0.1:8101")
    assert "export OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://127.0.0.1:4318/v1/traces\n" in text
    assert "export OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=https://127.0.0.1:4317\n" in text
    assert "YOUR_KEY" not in text
    keyed = await welcomed(Welcome(key_required=True, http=("http", 1, "/a&b")), host="[::1]:8101")
    assert "http://[::1]:1/a&amp;b" in keyed
    assert "Authorization=Bearer%20YOUR_KEY" in keyed
    assert "switched off" in await welcomed(Welcome())


async def test_amounts_that_are_not_allowed_are_not_offered() -> None:
    """The buttons lie within the bounds of a top-up; without top-ups the page says so."""
    for bounds, offered in (((100, 1_000_000), ["1000", "5000", "20000", "100000"]), ((2_000, 6_000), ["5000"]), ((7, 9), ["7"])):
        server = customer_server(Customer(endpoint="localhost:0"), Keys(), welcome=lambda bounds=bounds: Welcome(topups=bounds))
        await server.start()
        text = (await ask(server, "GET", "/topup", headers=BROWSER)).body.decode()
        await server.stop()
        assert re.findall(r'data-amount="(\d+)"', text) == offered
        assert f'min="{bounds[0]}" max="{bounds[1]}"' in text
        assert 'data-off=""' in text
    server = customer_server(Customer(endpoint="localhost:0"), Keys())
    await server.start()
    assert 'data-off="yes"' in (await ask(server, "GET", "/topup", headers=BROWSER)).body.decode()
    await server.stop()


def test_an_invoice_is_drawn_in_capitals_and_with_its_margin() -> None:
    """Dark on white whatever the page looks like; four modules of white around it."""
    picture = qr_svg("lnbcrt10u1" + "q" * 250).decode()
    assert picture.startswith("<svg")
    assert 'fill="#fff"' in picture
    size = int(re.search(r'viewBox="0 0 (\d+) \1"', picture)[1])  # type: ignore[index]  # it is there
    assert (size - 8 - 17) % 4 == 0
    assert size - 8 <= 53, "a code of capitals; with small letters it would have 61 modules"
    assert qr_svg("lnbcrt10u1" + "q" * 250) is qr_svg("lnbcrt10u1" + "q" * 250), "made once"


def test_the_files_are_part_of_the_package() -> None:
    """They lie below `receiver`, of which a wheel takes everything."""
    folder = Path(str(resources.files("receiver.web.pages"))) / "static"
    assert {path.name for path in folder.iterdir()} == STATIC.keys()
    assert set(PAGES) <= STATIC.keys()
