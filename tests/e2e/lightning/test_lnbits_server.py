"""Top-ups on a real LNbits server, on its own wallet and on an LND node: what anyone may write to it credits nothing, payments do, once."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from receiver.lightning import bolt11
from receiver.lightning.credential import Credential
from receiver.lightning.lnbits import LnbitsClient
from receiver.lightning.rest import Rest
from tests.e2e.daemon import PATIENCE_SECONDS, Daemon, daemon, eventually
from tests.e2e.lightning.nodes import GONE, Truth, check, credited, credited_msat, hold, lives, shown, tool, top_up
from tests.e2e.lightning.proxy import proxied
from tests.exports import export, model_call

pytestmark = pytest.mark.e2e

SAT = 1_000


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """LNbits on its FakeWallet: its interface and its wallets are real, its money moves in one database."""
    with tool("lnbits").LnbitsServer(tmp_path_factory.mktemp("lnbits")) as running:
        yield running


def settings(server: Any, folder: Path, *, network: str = "bitcoin", key: str = "inkey", url: str = "") -> tuple[str, ...]:
    """`[lightning]` for the receiver's wallet. FakeWallet signs for mainnet."""
    file = folder / key
    file.write_text(server.wallets["receiver"][key])
    return (
        "lightning.backend=lnbits",
        f"lightning.network={network}",
        f"lightning.lnbits.url={url or server.url}",
        f"lightning.lnbits.key_file={file}",
        "lightning.max_unpaid=99",
    )


def up(running: Daemon) -> None:
    eventually(lambda: running.metric("spantoll_lightning_up") == 1, what="LNbits")


def forge(server: Any, item: str, text: str, times: int = 1) -> None:
    """What anyone who can reach LNbits may do: send a message to who listens on `item`.

    From other addresses of the loopback network than the daemon's, since LNbits answers 200 requests a minute of one address.
    """
    place = urllib.parse.urlsplit(server.url)
    for number in range(times):
        source = (f"127.0.0.{2 + number % 200}", 0)
        link = http.client.HTTPConnection(str(place.hostname), place.port, timeout=PATIENCE_SECONDS, source_address=source)
        with contextlib.closing(link):
            link.request("GET", f"/api/v1/ws/{item}/{urllib.parse.quote(text, safe='')}")
            answer = link.getresponse()
            assert answer.status == 200, answer.read()


def test_a_top_up_is_paid_and_credited_once(server: Any, tmp_path: Path) -> None:
    """From the request to the receipt, and after a restart: one credit, the amount that the wallet got, the key in no log."""
    chosen = settings(server, tmp_path)
    with daemon(tmp_path, *chosen) as running:
        up(running)
        made = top_up(running, 500)
        assert (made["network"], made["preimage"]) == ("bitcoin", None)
        began = time.monotonic()
        server.pay(made["bolt11"])
        paid = time.monotonic()
        receipt = credited(running, made["payment_hash"])
        print(f"payment {paid - began:.2f} s, credit {time.monotonic() - paid:.2f} s after it")
        assert receipt["received_msat"] == 500 * SAT
        hold(running, {made["payment_hash"]: 500 * SAT})
        assert running.stop() == 0
    with daemon(tmp_path, *chosen) as running:
        up(running)
        hold(running, {made["payment_hash"]: 500 * SAT})
        assert server.wallets["receiver"]["inkey"] not in json.dumps(running.lines)


def test_forged_messages_and_replayed_hints_change_nothing(server: Any, tmp_path: Path) -> None:
    """Anyone may tell our socket that an invoice was paid: it is looked up and stays open. 100 hints of a paid one are one credit."""
    inkey = server.wallets["receiver"]["inkey"]
    with daemon(tmp_path, *settings(server, tmp_path)) as running:
        up(running)
        open_, paid = top_up(running, 700), top_up(running, 800)
        success = {"payment_hash": open_["payment_hash"], "amount": 700 * SAT, "status": "success", "pending": False}
        for text in (
            json.dumps({"wallet_balance": 10**6, "payment": success}),
            json.dumps({"payment": {**success, "payment_hash": "00" * 32}}),
            '{"pending": false, "status": "success"}',
            "[]",
            "not json",
        ):
            for item in (inkey, open_["payment_hash"]):
                forge(server, item, text)
        hint = json.dumps({"payment": {"payment_hash": paid["payment_hash"]}})
        forge(server, inkey, hint, times=20)
        assert shown(running, open_["payment_hash"])["state"] == "open"
        assert credited_msat(running) == 0
        server.pay(paid["bolt11"])
        forge(server, inkey, hint, times=100)
        credited(running, paid["payment_hash"])
        forge(server, inkey, hint, times=100)
        hold(running, {paid["payment_hash"]: 800 * SAT})
        assert shown(running, open_["payment_hash"])["state"] == "open"
        assert running.stop() == 0


def test_what_is_paid_while_the_daemon_is_down(server: Any, tmp_path: Path) -> None:
    """LNbits has no cursor and tells nobody again: what was paid meanwhile is found by looking, once."""
    chosen = settings(server, tmp_path)
    paid: dict[str, int] = {}
    with lives(tmp_path, *chosen) as running:
        made = [top_up(running, 900 + number) for number in range(5)]
        running.process.kill()
        running.process.wait(PATIENCE_SECONDS)
    for each in made[:4]:
        server.pay(each["bolt11"])
        paid[each["payment_hash"]] = each["amount_msat"]
    for _ in range(2):
        with daemon(tmp_path, *chosen) as running:
            eventually(lambda: credited_msat(running) == sum(paid.values()), what="four credits")
            hold(running, paid)
            assert shown(running, made[4]["payment_hash"])["state"] == "open"
            assert running.stop() == 0


@pytest.mark.parametrize("step", ["before create", "after create", "after settle"])
def test_the_daemon_is_killed_between_the_server_and_itself(step: str, server: Any, tmp_path: Path) -> None:
    """At the request for an invoice, at its answer, at the answer that it was paid; without a WebSocket, as behind some proxies."""
    with proxied(server.url) as proxy:
        chosen = settings(server, tmp_path, url=proxy.url)
        payment_hash = ""
        with lives(tmp_path, *chosen) as running:
            top_up(running, 400)  # so that the wallet has an invoice, and its node is known
            if step == "after settle":
                made = top_up(running, 500)
                payment_hash = made["payment_hash"]
                told = b'"paid":true'
                proxy.after = lambda _method, path, body: running.process.kill() if payment_hash in path and told in body else None
                server.pay(made["bolt11"])
            else:
                hook = lambda method, _path, _body: running.process.kill() if method == "POST" else None  # noqa: E731 -- two names for it
                proxy.before, proxy.after = (hook, proxy.after) if step == "before create" else (proxy.before, hook)
                with pytest.raises(GONE):
                    top_up(running, 500)
            running.process.wait(PATIENCE_SECONDS)
        proxy.before = proxy.after = lambda _method, _path, _body: None
        with daemon(tmp_path, *chosen) as running:
            if not payment_hash:
                made = top_up(running, 500)
                payment_hash = made["payment_hash"]
                server.pay(made["bolt11"])
            credited(running, payment_hash)
            hold(running, {payment_hash: 500 * SAT})


def test_twenty_in_parallel(server: Any, tmp_path: Path) -> None:
    """Twenty top-ups whose payments overlap are twenty credits."""
    with daemon(tmp_path, *settings(server, tmp_path)) as running:
        made = [top_up(running, 1_000 + number) for number in range(20)]
        threads = [threading.Thread(target=server.pay, args=(each["bolt11"],)) for each in made]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_SECONDS)
        eventually(lambda: credited_msat(running) == sum(each["amount_msat"] for each in made), what="twenty credits")
        hold(running, {each["payment_hash"]: each["amount_msat"] for each in made})


def test_a_server_that_hangs_keeps_nobody_from_sending_spans(server: Any, tmp_path: Path) -> None:
    """Frozen, LNbits answers nothing: spans are taken, the metric says it, and what is paid afterwards is credited."""
    with daemon(tmp_path, *settings(server, tmp_path)) as running:
        up(running)
        made = top_up(running, 500)
        server._process.send(19)
        try:
            eventually(lambda: running.metric("spantoll_lightning_up") == 0, what="the outage in the metric")
            assert running.post(export(model_call(1, 1)), "application/x-protobuf")[0] == 200
        finally:
            server._process.send(18)
        server.pay(made["bolt11"])
        credited(running, made["payment_hash"])
        hold(running, {made["payment_hash"]: 500 * SAT})


def test_the_admin_key_is_refused(server: Any, tmp_path: Path) -> None:
    """LNbits tells it apart, so it is not used: the check says it, the daemon serves spans without it, and nothing shows it."""
    key = server.wallets["receiver"]["adminkey"]
    chosen = settings(server, tmp_path, key="adminkey")
    result = check(*chosen)
    assert result.returncode == 1
    assert "admin key" in result.stdout
    with daemon(tmp_path, *chosen) as running:
        eventually(lambda: any("admin key" in str(line.get("error", "")) for line in running.lines), what="the word in the log")
        with pytest.raises(GONE):
            top_up(running, 500)
        assert running.post(export(model_call(1, 1)), "application/x-protobuf")[0] == 200
        assert running.metric("spantoll_lightning_up") == 0
        assert key not in json.dumps(running.lines) + result.stdout + result.stderr
    good = check(*settings(server, tmp_path))
    assert good.returncode == 0, good.stdout


async def test_a_description_hash_is_in_the_invoice(server: Any, tmp_path: Path) -> None:
    """LNURL-pay needs it, in place of the description."""
    (tmp_path / "key").write_text(server.wallets["receiver"]["inkey"])
    client = LnbitsClient(Rest(server.url), Credential(file=str(tmp_path / "key")), network="bitcoin")
    wanted = hashlib.sha256(b"metadata").digest()
    try:
        made = await client.create(amount_msat=500 * SAT, description="ours", expiry_seconds=600, description_hash=wanted)
        assert bolt11.decode(made.bolt11).description_hash == wanted
    finally:
        await client.close()


def test_on_a_real_node(net: Any, tmp_path: Path) -> None:
    """LNbits before LND, paid over a channel by another node: told, credited as the node says, and again after a kill."""
    truth = Truth.of(net.receiver)
    with tool("lnbits").LnbitsServer(tmp_path / "server", net.describe()["receiver"]) as server:
        chosen = settings(server, tmp_path, network="regtest")
        with lives(tmp_path, *chosen) as running:
            up(running)
            live, later = top_up(running, 500), top_up(running, 600)
            assert live["payee"] == net.receiver.pubkey
            began = time.monotonic()
            net.pay(live["bolt11"])
            paid = time.monotonic()
            credited(running, live["payment_hash"])
            print(f"payment {paid - began:.2f} s, credit {time.monotonic() - paid:.2f} s after it")
            running.process.kill()
            running.process.wait(PATIENCE_SECONDS)
        net.pay(later["bolt11"])
        with daemon(tmp_path, *chosen) as running:
            credited(running, later["payment_hash"])
            assert truth.holds(running) == {live["payment_hash"]: 500 * SAT, later["payment_hash"]: 600 * SAT}
    assert "regtest" in sys.modules
