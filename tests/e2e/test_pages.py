"""Both pages in a real browser against a real daemon: opened, used with keyboard and pointer, paid on, and looked at.

Needs Debian's Chromium, and playwright, axe-playwright-python, zxing-cpp and pillow from PyPI. With SPANTOLL_SHOTS=FOLDER the screenshots
are kept there for people to look at.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import shutil
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.e2e.daemon import PATIENCE_SECONDS, Daemon, daemon, eventually
from tests.exports import agent, export, model_call
from tests.require import need

pytestmark = pytest.mark.e2e

PROTOBUF = "application/x-protobuf"
SIZES = {"desk": (1280, 900, 1), "phone": (390, 844, 3)}
PACKAGES = {"playwright": "playwright", "axe_playwright_python": "axe-playwright-python", "zxingcpp": "zxing-cpp", "PIL": "pillow"}
ENFORCED = ("credit.enforce=true", "credit.start_balance_msat=600000")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    for module, package in PACKAGES.items():
        need(importlib.util.find_spec(module), f"{package} is not installed (from PyPI)")
    chromium = shutil.which("chromium")
    need(chromium, "chromium is not installed (Debian package chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Root has no sandbox, and containers have a small /dev/shm.
        flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        found = playwright.chromium.launch(executable_path=chromium, args=flags)
        yield found
        found.close()


@contextmanager
def page(browser: Any, size: str = "desk", scheme: str = "light", **more: Any) -> Iterator[Any]:
    """A page that may talk to its own origin alone, and must be silent on the console; its horizontal room is held too."""
    width, height, scale = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, device_scale_factor=scale, has_touch=size == "phone", **more
    )
    context.set_default_timeout(PATIENCE_SECONDS * 1000)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    found = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    found.on("console", lambda message: said.append(f"{message.type}: {message.text}") if message.type in ("error", "warning") else None)
    found.on("pageerror", lambda error: said.append(str(error)))
    found.on("request", lambda request: asked.append(request.url))
    try:
        yield found
        origin = urlsplit(found.url).netloc
        assert {urlsplit(url).netloc for url in asked if not url.startswith("blob:")} == {origin}, "nothing is fetched from elsewhere"
        # What the network says of an answer that the page expects (401, 422) is no fault of the page.
        assert not [each for each in said if "Failed to load resource" not in each]
        assert context.cookies() == []
    finally:
        context.close()


def look(found: Any, name: str) -> None:
    """It fits, axe finds nothing serious, and a picture of it is kept where someone wants one."""
    from axe_playwright_python.sync_playwright import Axe

    assert found.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} is wider than the screen"
    violations = Axe().run(found).response["violations"]
    serious = [each for each in violations if each["impact"] in ("serious", "critical")]
    told = [(each["id"], [node["target"] for node in each["nodes"]]) for each in serious]
    assert not told, f"{name}: {told}"
    if folder := os.environ.get("SPANTOLL_SHOTS"):
        found.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def decoded(found: Any) -> str:
    """What a phone's camera reads from the code on the screen."""
    import zxingcpp
    from PIL import Image

    [code] = zxingcpp.read_barcodes(Image.open(io.BytesIO(found.locator("#qr").screenshot())))
    text: str = code.text
    return text


def ask(one: Daemon, path: str, body: Any = None) -> Any:
    """As the operator."""
    headers = {"Authorization": f"Bearer {one.token}", "Content-Type": "application/json"}
    request = urllib.request.Request(  # noqa: S310 -- loopback
        one.operator + path, data=None if body is None else json.dumps(body).encode(), headers=headers
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:  # noqa: S310 -- loopback
        return json.loads(answer.read())


def customers(one: Daemon) -> str:
    return f"http://127.0.0.1:{one.ports['customer']}"


def send(one: Daemon, trace: int, calls: int, *, key: str = "", **more: Any) -> None:
    """One agent and its model calls, now."""
    now = time.time_ns()
    spans = [agent(trace, 1, f"agent-{trace % 250}", start=now)]
    spans += [model_call(trace, 2 + number, parent=1, start=now, **more) for number in range(calls)]
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    assert one.post(export(*spans), PROTOBUF, headers)[0] == 200


@pytest.mark.parametrize(("size", "scheme"), [("desk", "light"), ("desk", "dark"), ("phone", "light"), ("phone", "dark")])
def test_a_top_up_is_seen_without_a_reload(browser: Any, tmp_path: Path, size: str, scheme: str) -> None:
    """From the front page to the receipt: the code reads as the invoice, and payment, balance, proof and list come by themselves."""
    with daemon(tmp_path, *ENFORCED) as one, page(browser, size, scheme) as seen:
        seen.goto(customers(one) + "/")
        look(seen, f"front-{size}-{scheme}")
        seen.get_by_role("link", name="Top up").click()
        seen.get_by_text("60,000 spans").wait_for()
        look(seen, f"topup-{size}-{scheme}")
        seen.evaluate("window.loadedOnce = true")
        seen.get_by_role("button", name="1,000", exact=True).click()
        assert seen.locator("#sat").input_value() == "1000"
        assert seen.get_by_text("Pays 100,000 spans.").is_visible()
        seen.get_by_role("button", name="Get an invoice").click()
        seen.locator("#qr[src^=blob]").wait_for()
        bolt11 = seen.locator("#bolt").text_content()
        eventually(lambda: seen.locator("#qr").evaluate("image => image.complete && image.naturalWidth > 0"), what="the code is drawn")
        assert decoded(seen) == f"LIGHTNING:{bolt11.upper()}"
        assert seen.get_by_role("link", name="Open in wallet").get_attribute("href") == f"lightning:{bolt11}"
        seen.get_by_role("button", name="Copy invoice").click()
        assert seen.evaluate("navigator.clipboard.readText()") == bolt11
        look(seen, f"invoice-{size}-{scheme}")

        paid = ask(one, "/api/v1/dev/pay", {"invoice": bolt11})["topup"]
        seen.get_by_role("heading", name="1,000 sat received").wait_for()
        eventually(lambda: seen.locator("#balance").text_content() == "1,600", what="the balance has risen")
        receipt = seen.locator("#receipt")
        receipt.get_by_text("as your browser has just computed").wait_for()
        assert receipt.get_by_text(paid["preimage"]).is_visible()
        assert hashlib.sha256(bytes.fromhex(paid["preimage"])).hexdigest() == paid["payment_hash"]
        assert seen.locator("#past > li").count() == 1
        assert seen.locator("#past .pill").text_content() == "Paid"
        look(seen, f"receipt-{size}-{scheme}")
        with seen.expect_download() as saved:
            seen.get_by_role("button", name="Save the receipt").click()
        assert json.loads(Path(saved.value.path()).read_text())["preimage"] == paid["preimage"]

        send(one, 1, 9)
        eventually(lambda: seen.locator("#balance").text_content() == "1,599.9", what="the balance has fallen by ten spans")
        assert seen.evaluate("window.loadedOnce") is True


def test_the_page_is_used_by_keyboard_alone(browser: Any, tmp_path: Path) -> None:
    """Amount, invoice, another amount: each step is reached by Tab, taken by Enter, and the focus goes where the eye goes."""
    with daemon(tmp_path, *ENFORCED) as one, page(browser) as seen:
        seen.goto(customers(one) + "/topup")
        seen.get_by_text("60,000 spans").wait_for()

        def focused() -> str:
            name: str = seen.evaluate("document.activeElement.id || document.activeElement.className || document.activeElement.tagName")
            return name

        visited = []
        for _ in range(12):
            seen.keyboard.press("Tab")
            visited.append(focused())
            if visited[-1] == "create":
                break
        assert visited == ["skip", "mark", "sat", "quick", "quick", "quick", "quick", "create"]
        outline = seen.evaluate("getComputedStyle(document.activeElement).outlineWidth")
        assert outline == "2px", "what has the focus shows it"
        seen.keyboard.press("Enter")
        seen.locator("#qr[src^=blob]").wait_for()
        assert focused() == "pay-title"
        for expected in ("open", "copy", "SUMMARY", "back"):
            seen.keyboard.press("Tab")
            assert focused() == expected
        seen.keyboard.press("Enter")
        assert focused() == "sat"
        seen.keyboard.press("Control+A")
        seen.keyboard.type("99")
        seen.keyboard.press("Enter")
        assert seen.get_by_role("alert").text_content() == "Choose a whole number of 100 to 1,000,000 sat."
        assert seen.locator("#sat").get_attribute("aria-invalid") == "true"
        assert focused() == "sat"


def test_an_invoice_survives_a_reload_and_ends_by_itself(browser: Any, tmp_path: Path) -> None:
    """A phone loads the page anew when its owner comes back from the wallet; an invoice whose time is over offers a new one."""
    with daemon(tmp_path, *ENFORCED) as one, page(browser, "phone") as seen:
        seen.goto(customers(one) + "/topup")
        seen.get_by_role("button", name="Get an invoice").click()
        seen.locator("#qr[src^=blob]").wait_for()
        bolt11 = seen.locator("#bolt").text_content()
        seen.reload()
        seen.locator("#qr[src^=blob]").wait_for()
        assert seen.locator("#bolt").text_content() == bolt11
        seen.get_by_role("button", name="Another amount").click()
        seen.locator("#past").get_by_role("button", name="Show the invoice").click()
        assert seen.locator("#bolt").text_content() == bolt11
        seen.clock.install()
        seen.reload()
        seen.locator("#qr[src^=blob]").wait_for()
        seen.clock.fast_forward("01:00:01")
        seen.get_by_role("button", name="Get a new invoice").wait_for()
        assert seen.get_by_text("This invoice has expired.").is_visible()
        assert not seen.locator("#qr").is_visible()
        look(seen, "expired-phone-light")


def test_the_key_is_asked_for_and_goes_out_in_a_header_alone(browser: Any, tmp_path: Path) -> None:
    """In no URL and no cookie, in this tab's storage only, and forgotten on demand; a wrong one is told."""
    with daemon(tmp_path, *ENFORCED) as one:
        key = ask(one, "/api/v1/accounts", {"account": "acme/team"})["key"]
        urls: list[str] = []
        with page(browser) as seen:
            seen.on("request", lambda request: urls.append(request.url))
            seen.goto(customers(one) + "/topup")
            seen.get_by_role("heading", name="Your key").wait_for()
            assert seen.locator("#key").get_attribute("type") == "password"
            assert not seen.locator("#page").is_visible()
            look(seen, "key-desk-light")
            seen.locator("#key").fill("spt_wrong")
            seen.keyboard.press("Enter")
            seen.get_by_text("This key is not known here").wait_for()
            seen.locator("#key").fill(key)
            seen.get_by_role("button", name="Open").click()
            seen.get_by_text("Account acme/team").wait_for()
            seen.get_by_role("button", name="Get an invoice").click()
            seen.locator("#qr[src^=blob]").wait_for()
            seen.reload()
            seen.get_by_text("Account acme/team").wait_for()
            assert not seen.evaluate("Object.keys(localStorage).length")
            assert key not in seen.content()
            seen.get_by_role("button", name="Forget the key").click()
            seen.get_by_role("heading", name="Your key").wait_for()
            assert key not in json.dumps(seen.evaluate("({...sessionStorage})"))
        assert not [url for url in urls if key in url]
        assert len(urls) > 10


def test_without_scripts_the_pages_say_what_to_do(browser: Any, tmp_path: Path) -> None:
    """The front page is whole; the other two name what does the same."""
    with daemon(tmp_path) as one, page(browser, java_script_enabled=False) as seen:
        seen.goto(customers(one) + "/")
        assert seen.get_by_text("A span costs 10 msat").is_visible()
        assert seen.get_by_text(f"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://127.0.0.1:{one.ports['otlp.http']}/v1/traces").is_visible()
        seen.goto(customers(one) + "/topup")
        told = seen.locator("noscript").inner_text()  # by its place: Playwright looks for no text in there
        assert "This page needs JavaScript" in told
        assert "/api/v1/credit/topups" in told
        assert seen.locator("noscript .card").bounding_box()["height"] > 100, "and it is seen"
    with daemon(tmp_path) as one, page(browser, java_script_enabled=False) as seen:
        seen.goto(one.operator + "/")
        assert "This page needs JavaScript" in seen.locator("noscript").inner_text()
        assert seen.locator("noscript a[href='/metrics']").is_visible()


@pytest.mark.parametrize(("size", "scheme"), [("desk", "light"), ("desk", "dark"), ("phone", "light"), ("phone", "dark")])
def test_the_operator_sees_cost_change_without_a_reload(browser: Any, tmp_path: Path, size: str, scheme: str) -> None:
    """Provisional while traces are open, then counted, by agent, model and hour; what lacks is said; each number leads somewhere."""
    with daemon(tmp_path, *ENFORCED, quick=False) as one, page(browser, size, scheme) as seen:
        seen.goto(one.operator + "/")
        seen.get_by_text("Taking spans").wait_for()
        assert seen.get_by_text("No trace is open.").is_visible()
        seen.evaluate("window.loadedOnce = true")
        send(one, 1, 3)
        send(one, 2, 1, model="no-such-model")
        eventually(lambda: seen.locator("#open").text_content() == "≈ $0.0225", what="the open traces' provisional cost")
        assert seen.locator("#traces > tr").count() == 2
        one.release()
        eventually(lambda: seen.locator("#cost").text_content() == "$0.0225", what="the counted cost")
        eventually(lambda: seen.locator("#breakdowns .bars li").count() == 5, what="two agents, two models, nobody's tenant")
        assert seen.locator("[aria-labelledby=by-model].card .bars li").first.text_content() == "gpt-4o$0.0225"
        assert seen.get_by_text("No call names a tenant.").is_visible()
        assert seen.locator("#models > tr").count() == 1
        assert seen.get_by_text("the model is not in the price lists").is_visible()
        chart = seen.get_by_role("slider", name="Cost over time")
        chart.focus()
        seen.keyboard.press("End")
        assert "$0.0225, 4 calls, 1 without a price" in chart.get_attribute("aria-valuetext")
        assert "$0.0225" in seen.locator("#readout").text_content()
        assert seen.evaluate("window.loadedOnce") is True
        links = {link.get_attribute("href").partition("#")[0] for link in seen.locator("main a, footer a").all()}
        assert {"/metrics", "/-/window", "/api/v1/audit", "/api/v1/sources", "/api/v1/accounts/default/credit"} <= links
        for link in links:
            assert one.get(link)
        look(seen, f"operator-{size}-{scheme}")


@pytest.mark.parametrize("size", ["desk", "phone"])
def test_the_operators_page_is_readable_at_a_thousand_series(browser: Any, tmp_path: Path, size: str) -> None:
    """The dearest ten and the sum of the others; all of them on demand, with a field to find one; never a page of a thousand rows."""
    with daemon(tmp_path, *ENFORCED, "credit.start_balance_msat=1000000000") as one, page(browser, size) as seen:
        now = time.time_ns()
        spans = []
        for number in range(1, 1_201):
            tenant = {"tenant.id": f"tenant-{number:04}", "gen_ai.usage.input_tokens": 1_000 + number}
            spans += [agent(number, 1, f"agent-{number % 240:03}", start=now), model_call(number, 2, parent=1, start=now, **tenant)]
        assert one.post(export(*spans), PROTOBUF)[0] == 200
        one.release()
        for number in range(40):
            ask(one, "/api/v1/accounts", {"account": f"team-{number}"})
        seen.goto(one.operator + "/")
        tenants = seen.locator("[aria-labelledby=by-tenant].card")
        tenants.get_by_text("1,190 others").wait_for()
        assert seen.locator(".bars li").count() <= 30
        assert seen.locator("tbody tr").count() < 120
        # Numbers on a page whose lists are long: the page itself stays a few screens of a desk.
        if size == "desk":
            assert seen.evaluate("document.documentElement.scrollHeight") < 4_000
        look(seen, f"many-{size}-light")
        tenants.get_by_role("button", name="Show all").click()
        eventually(lambda: tenants.locator("li").count() == 1_000, what="all that are shown")
        tenants.get_by_role("searchbox").fill("tenant-1117")
        assert tenants.locator("li").count() == 1
        assert tenants.locator("li .name").text_content() == "tenant-1117"
        assert seen.locator("#accounts tr").count() == 25
        assert seen.get_by_role("link", name="25 of 41").is_visible()
        look(seen, f"many-open-{size}-light")


def test_the_operators_page_asks_for_a_key_where_the_listener_does(browser: Any, tmp_path: Path) -> None:
    """And shows behind a number what a bare link would not be let in to see."""
    key = "spo_" + "k" * 43
    digest = hashlib.sha256(key.encode()).hexdigest()
    with daemon(tmp_path, f'operator.key=[{{name="me", sha256="{digest}"}}]') as one, page(browser) as seen:
        seen.goto(one.operator + "/")
        seen.get_by_role("heading", name="Operator's key").wait_for()
        look(seen, "operator-key-desk-light")
        seen.locator("#key").fill(key)
        seen.keyboard.press("Enter")
        seen.get_by_text("Taking spans").wait_for()
        seen.locator("#cost a").click()
        viewer = seen.get_by_role("dialog")
        viewer.get_by_text('"schema": "spantoll.costs/1"').wait_for()
        look(seen, "viewer-desk-light")
        seen.keyboard.press("Escape")
        assert not viewer.is_visible()
        assert key not in seen.url


def test_a_daemon_that_is_gone_is_said_and_its_return_is_seen(browser: Any, tmp_path: Path) -> None:
    """What was shown stays, with a word that it is old; nobody has to load anything anew."""
    with daemon(tmp_path, *ENFORCED) as one, page(browser) as seen:
        seen.goto(one.operator + "/")
        seen.get_by_text("Taking spans").wait_for()
        ports = {f"{name}.endpoint=127.0.0.1:{port}" for name, port in one.ports.items()}
        assert one.stop() == 0
        seen.get_by_role("alert").get_by_text("cannot be reached").wait_for()
        assert seen.locator("#accounts tr").count() == 1
        look(seen, "gone-desk-light")
        with daemon(tmp_path, *ENFORCED, *ports):
            seen.get_by_text("Taking spans").wait_for()
            eventually(lambda: not seen.locator("#trouble").is_visible(), what="the alarm is over")
