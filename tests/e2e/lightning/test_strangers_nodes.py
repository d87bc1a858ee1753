"""Accounts that are bought and Lightning Addresses, on a real LND node and a real LNbits server: who pays, is; and his wallet agrees."""

from __future__ import annotations

import hashlib
import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from receiver.lightning import bolt11
from tests.e2e.daemon import PATIENCE_SECONDS, Daemon, daemon, eventually
from tests.e2e.lightning.nodes import call, lnd_settings, tool
from tests.exports import export, model_call

pytestmark = pytest.mark.e2e

SAT = 1_000
ON = ("l402.enabled=true", "lightning.address=true")
#: As aperture's client reads the first challenge (l402/client_interceptor.go).
APERTURE = re.compile(r'(LSAT|L402) macaroon="(.*?)", invoice="(.*?)"')


@pytest.fixture(scope="module")
def lnbits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with tool("lnbits").LnbitsServer(tmp_path_factory.mktemp("lnbits")) as running:
        yield running


@pytest.fixture(params=["lnd", "lnbits"])
def wallet(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[tuple[str, ...], Callable[[str], str]]:
    """(settings of the receiver, `pay(invoice)`, which returns the preimage as the payer's node tells it)."""
    if request.param == "lnd":
        net = request.getfixturevalue("networks")("bolt")
        return lnd_settings(net.receiver), lambda invoice: str(net.pay(invoice).preimage)
    server = request.getfixturevalue("lnbits")
    file = tmp_path / "key"
    file.write_text(server.wallets["receiver"]["inkey"])
    settings = ("lightning.backend=lnbits", f"lightning.lnbits.url={server.url}", f"lightning.lnbits.key_file={file}")

    def pay(invoice: str) -> str:
        server.pay(invoice)
        key = {"X-Api-Key": server.wallets["payer"]["adminkey"]}
        found = server.call("GET", f"/api/v1/payments/{bolt11.decode(invoice).payment_hash.hex()}", None, key)
        return str(found["preimage"])

    return settings, pay


def asked(running: Daemon, path: str, body: Any = None, credential: str = "") -> tuple[int, Any, list[str]]:
    """Of the customers' listener: status, JSON, challenges."""
    headers = {"Content-Type": "application/json"} if body is not None else {}
    if credential:
        headers["Authorization"] = credential
    request = urllib.request.Request(
        f"http://127.0.0.1:{running.ports['customer']}{path}", None if body is None else json.dumps(body).encode(), headers
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:  # noqa: S310 -- loopback
            return answer.status, json.loads(answer.read()), []
    except urllib.error.HTTPError as refusal:
        return refusal.code, json.loads(refusal.read()), refusal.headers.get_all("WWW-Authenticate") or []


def up(running: Daemon) -> None:
    eventually(lambda: running.metric("spantoll_lightning_up") == 1, what="the node")


def test_who_pays_is_the_account(wallet: Any, tmp_path: Path) -> None:
    """Bought, used, killed, used, topped up; an exporter that comes before the settlement was seen is asked to come again."""
    settings, pay = wallet
    with daemon(tmp_path, *settings, *ON) as running:
        up(running)
        status, sold, challenges = asked(running, "/api/v1/credit/topups", {"amount_sat": 500})
        assert status == 402
        match = APERTURE.search(challenges[0])
        assert match is not None
        assert match[3] == sold["topup"]["bolt11"]
        credential = f"L402 {match[2]}:{pay(match[3])}"
        span = export(model_call(1, 1))

        def taken(running: Daemon) -> bool:
            code = running.post(span, "application/x-protobuf", {"Authorization": credential})[0]
            assert code in (200, 503)
            return code == 200

        eventually(lambda: taken(running), what="the account")
        account = sold["account"]
        running.process.kill()
        running.process.wait(PATIENCE_SECONDS)
    with daemon(tmp_path, *settings, *ON) as running:
        up(running)
        assert taken(running)
        status, made, _ = asked(running, "/api/v1/credit/topups", {"amount_sat": 700}, credential)
        assert (status, made["account"]) == (200, account)
        pay(made["bolt11"])
        eventually(
            lambda: asked(running, "/api/v1/credit", credential=credential)[1]["posted_msat"] == 1_200 * SAT - 10, what="the second top-up"
        )
        assert call(running, "GET", "/api/v1/audit")["balanced"]
        call(running, "POST", f"/api/v1/accounts/{quote(account, safe='')}/disable")
        assert running.post(span, "application/x-protobuf", {"Authorization": credential})[0] == 403


def test_an_address_is_paid_to(wallet: Any, tmp_path: Path) -> None:
    """The invoice of a real node holds the hash of what the payer was told; paid, it is credited, and the payer sees that."""
    settings, pay = wallet
    with daemon(tmp_path, *settings, *ON) as running:
        up(running)
        call(running, "POST", "/api/v1/accounts", {"account": "acme"})
        _, said, _ = asked(running, "/.well-known/lnurlp/acme")
        callback = urlsplit(said["callback"]).path
        status, found, _ = asked(running, f"{callback}?amount={300 * SAT}")
        assert status == 200, found
        invoice = bolt11.decode(found["pr"])
        assert invoice.description_hash == hashlib.sha256(said["metadata"].encode()).digest()
        assert invoice.amount_msat == 300 * SAT
        preimage = pay(found["pr"])
        verify = urlsplit(found["verify"]).path
        told = eventually(lambda: (told := asked(running, verify)[1])["settled"] and told, what="the settlement")
        assert told["preimage"] == preimage
        assert call(running, "GET", "/api/v1/accounts/acme/credit")["posted_msat"] == 300 * SAT
