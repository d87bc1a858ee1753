"""Top-ups on real LND nodes: whatever is killed, frozen, late or doubled, the credits are the settled amounts."""

from __future__ import annotations

import asyncio
import concurrent.futures
import hashlib
import json
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from receiver.clock import SystemClock
from receiver.core.invoices import InvoiceState, NodeState
from receiver.lightning import bolt11
from receiver.lightning.credential import Credential
from receiver.lightning.lnd import LndClient
from receiver.lightning.macaroon import BAKE
from receiver.lightning.rest import Rest
from receiver.lightning.topups import TopUpDesk, TopUpLimits
from receiver.lightning.watcher import Watcher
from receiver.store.books import SqliteBooks
from tests.e2e.daemon import PATIENCE_SECONDS, Daemon, daemon, eventually
from tests.e2e.lightning.nodes import (
    GONE,
    Truth,
    call,
    check,
    credited,
    credited_msat,
    lives,
    lnd_settings,
    shown,
    top_up,
)
from tests.e2e.lightning.proxy import proxied
from tests.exports import export, model_call

pytestmark = pytest.mark.e2e

SAT = 1_000


def stored(running: Daemon, number: int) -> bool:
    """Whether a span is taken: the promise that no node may break."""
    return running.post(export(model_call(number, 1)), "application/x-protobuf")[0] == 200


def gone(running: Daemon) -> None:
    """The daemon was killed: wait for its end."""
    running.process.wait(PATIENCE_SECONDS)


@pytest.mark.parametrize("net", ["bolt", "sqlite"], indirect=True)
def test_a_top_up_is_paid_and_credited_once(net: Any, tmp_path: Path) -> None:
    """From the request to the receipt, over both of LND's stores; a restart and two looks later it is still one credit."""
    truth = Truth.of(net.receiver)
    with daemon(tmp_path, *lnd_settings(net.receiver)) as running:
        eventually(lambda: running.metric("spantoll_lightning_up") == 1, what="the node")
        made = top_up(running, 500)
        assert (made["network"], made["payee"], made["preimage"]) == ("regtest", net.receiver.pubkey, None)
        assert top_up(running, 500)["payment_hash"] == made["payment_hash"], "asked twice is one invoice"
        began = time.monotonic()
        payment = net.pay(made["bolt11"])
        receipt = credited(running, made["payment_hash"])
        print(f"payment and credit: {time.monotonic() - began:.2f} s, of it the payment {payment.seconds:.2f} s")
        assert (receipt["preimage"], receipt["received_msat"], receipt["late"]) == (payment.preimage, 500 * SAT, False)
        truth.holds(running)
        assert running.stop() == 0
    with daemon(tmp_path, *lnd_settings(net.receiver)) as running:
        eventually(lambda: running.metric("spantoll_lightning_up") == 1, what="the node")
        assert truth.holds(running) == {made["payment_hash"]: 500 * SAT}
        assert payment.preimage not in json.dumps(running.lines)


def test_the_nodes_first_invoice_is_credited(new_net: Any, tmp_path: Path) -> None:
    """Its settlement has index 1, which LND can never replay: paid while nobody listened, it is found by a look."""
    assert not new_net.receiver.call("GET", "/v1/invoices").get("invoices")
    truth = Truth.of(new_net.receiver)
    with lives(tmp_path, *lnd_settings(new_net.receiver)) as running:
        made = top_up(running, 500)
        running.process.kill()
        gone(running)
    new_net.pay(made["bolt11"])
    with daemon(tmp_path, *lnd_settings(new_net.receiver)) as running:
        credited(running, made["payment_hash"])
        assert truth.holds(running) == {made["payment_hash"]: 500 * SAT}


def test_more_than_was_asked_is_credited_and_less_is_not_taken(net: Any, tmp_path: Path) -> None:
    """LND sets no upper bound: what came is credited. Too little is refused by the node, and the invoice can still be paid."""
    truth = Truth.of(net.receiver)
    payment_error: type[Exception] = sys.modules["regtest"].PaymentError
    with daemon(tmp_path, *lnd_settings(net.receiver)) as running:
        more, exact = top_up(running, 500), top_up(running, 600)
        net.pay(more["bolt11"], 3 * 500 * SAT + 7)
        assert credited(running, more["payment_hash"])["received_msat"] == 3 * 500 * SAT + 7
        with pytest.raises(payment_error):
            net.pay(exact["bolt11"], 599 * SAT)
        assert shown(running, exact["payment_hash"])["state"] == "open"
        net.pay(exact["bolt11"])
        credited(running, exact["payment_hash"])
        assert sorted(truth.holds(running).values()) == [600 * SAT, 3 * 500 * SAT + 7]


def test_twenty_at_once(net: Any, tmp_path: Path) -> None:
    """Twenty invoices asked for together and paid together are twenty credits."""
    truth = Truth.of(net.receiver)
    with daemon(tmp_path, *lnd_settings(net.receiver)) as running, concurrent.futures.ThreadPoolExecutor(20) as pool:
        made = list(pool.map(lambda number: top_up(running, 500 + number), range(20)))
        assert len({each["payment_hash"] for each in made}) == 20
        began = time.monotonic()
        list(pool.map(lambda each: net.pay(each["bolt11"]), made))
        eventually(lambda: credited_msat(running) == sum(range(500, 520)) * SAT, what="twenty credits")
        print(f"20 payments and credits: {time.monotonic() - began:.2f} s")
        assert len(truth.holds(running)) == 20


@pytest.mark.parametrize("net", ["bolt", "sqlite"], indirect=True)
def test_what_is_settled_while_the_daemon_is_down(net: Any, tmp_path: Path) -> None:
    """Killed and started again with payments between its lives, in another order than the invoices': each is credited, once."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    truth = Truth.of(net.receiver)
    open_: list[dict[str, Any]] = []
    for life in range(3):
        with lives(tmp_path, *lnd_settings(net.receiver)) as running:
            open_ += [top_up(running, 1_000 * (life + 1) + number) for number in range(8)]
            rng.shuffle(open_)
            for each in open_[:2]:  # heard live: the cursor moves
                net.pay(each["bolt11"])
                credited(running, each["payment_hash"])
            running.process.kill()
            gone(running)
        for each in open_[2:7]:  # heard by nobody
            net.pay(each["bolt11"])
        open_ = open_[7:]
    for _ in range(2):
        with daemon(tmp_path, *lnd_settings(net.receiver)) as running:
            assert len(truth.holds(running)) == 21
            assert running.stop() == 0


@pytest.mark.parametrize("step", ["before create", "after create", "after settle"])
def test_the_daemon_is_killed_between_the_node_and_itself(step: str, net: Any, tmp_path: Path) -> None:
    """At the request for an invoice, at its answer, at the answer that it was paid: nothing is credited twice, nothing is lost.

    An invoice whose answer never came was shown to nobody; the next request makes another.
    """
    truth = Truth.of(net.receiver)
    with proxied(net.receiver.rest_url) as proxy:
        settings = lnd_settings(net.receiver, url=proxy.url)
        payment_hash = ""
        with lives(tmp_path, *settings) as running:
            if step == "after settle":
                made = top_up(running, 500)
                payment_hash = made["payment_hash"]
                proxy.after = lambda _method, path, body: running.process.kill() if payment_hash in path and b'"SETTLED"' in body else None
                net.pay(made["bolt11"])
            else:
                hook = lambda method, path, _body: running.process.kill() if (method, path) == ("POST", "/v1/invoices") else None  # noqa: E731 -- two names for it
                proxy.before, proxy.after = (hook, proxy.after) if step == "before create" else (proxy.before, hook)
                with pytest.raises(GONE):
                    top_up(running, 500)
            gone(running)
        proxy.before = proxy.after = lambda _method, _path, _body: None
        with daemon(tmp_path, *settings) as running:
            if not payment_hash:
                made = top_up(running, 500)
                payment_hash = made["payment_hash"]
                net.pay(made["bolt11"])
            credited(running, payment_hash)
            assert truth.holds(running) == {payment_hash: 500 * SAT}


@pytest.mark.parametrize("point", ["before_write", "before_commit", "after_commit", "before_reply"])
def test_the_daemon_is_killed_at_every_transaction(point: str, net: Any, tmp_path: Path) -> None:
    """In the midst of keeping the invoice, of the credit, after it and before the cursor: life after life on the same books."""
    truth = Truth.of(net.receiver)
    killed, open_ = 0, list[dict[str, Any]]()
    for number in range(1, 9):
        try:
            with lives(tmp_path, *lnd_settings(net.receiver), fault=f"{point}:kill@{number}") as running:
                try:
                    open_.append(top_up(running, 500 + number))
                    for each in open_:  # also those of earlier lives, whose answer came although they died
                        net.pay(each["bolt11"])
                    open_.clear()
                    top_up(running, 700 + number)
                    running.process.wait(5)  # for the cursor, and for what else comes
                    killed += 1
                except GONE:
                    gone(running)
                    killed += 1
                except subprocess.TimeoutExpired:
                    pass  # so many transactions were not to be had
        except AssertionError:  # it did not live to say that it is ready
            killed += 1
    assert killed >= 3, "the points are there to be met"
    with daemon(tmp_path, *lnd_settings(net.receiver)) as running:
        for each in open_:
            net.pay(each["bolt11"])
        settled = truth.holds(running)
        print(f"{point}: killed in {killed} of 8 lives, {len(settled)} payments")
        assert settled


def test_the_node_is_killed_between_a_payment_and_our_read(new_net: Any, tmp_path: Path) -> None:
    """`kill -9` of LND at any moment after a payment set out, five times: spans are taken meanwhile, and the credits are right after."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    truth = Truth.of(new_net.receiver)
    regtest_error: type[Exception] = sys.modules["regtest"].RegtestError
    with daemon(tmp_path, *lnd_settings(new_net.receiver)) as running:
        for number in range(5):
            made = top_up(running, 500 + number)
            paying = threading.Thread(target=lambda bolt11=made["bolt11"]: _tries(lambda: new_net.pay(bolt11), regtest_error))
            paying.start()
            threading.Event().wait(rng.uniform(0.0, 0.2))
            new_net.kill("receiver")
            assert stored(running, number + 1)
            new_net.start("receiver")
            paying.join(2 * PATIENCE_SECONDS)
            if shown(running, made["payment_hash"])["state"] != "settled":  # the payer gave up, or the way of the credit is not over
                _tries(lambda bolt11=made["bolt11"]: new_net.pay(bolt11), regtest_error)  # type: ignore[misc] -- a default binds the loop's value
            credited(running, made["payment_hash"])
        assert len(truth.holds(running)) == 5
        assert running.process.poll() is None


def _tries(pay: Any, refused: type[Exception]) -> None:
    try:
        pay()
    except refused as error:
        print(f"  the payer says: {error}")


def test_a_node_that_hangs_keeps_nobody_from_sending_spans(new_net: Any, tmp_path: Path) -> None:
    """Frozen, LND answers nothing: spans are taken and the metric says it; frozen, its chain backend lets it be looked up still."""
    truth = Truth.of(new_net.receiver)
    with daemon(tmp_path, *lnd_settings(new_net.receiver)) as running:
        made, other = top_up(running, 500), top_up(running, 600)
        new_net.kill("receiver", 19)
        assert stored(running, 1)
        eventually(lambda: running.metric("spantoll_lightning_up") == 0, what="the outage in the metric")
        assert stored(running, 2)
        new_net.kill("receiver", 18)
        new_net.pay(made["bolt11"])
        credited(running, made["payment_hash"])
        new_net.kill("btcd", 19)
        assert stored(running, 3)
        assert shown(running, other["payment_hash"])["state"] == "open"
        began = time.monotonic()
        result = check(*lnd_settings(new_net.receiver))
        print(f"check with a frozen chain backend: {time.monotonic() - began:.1f} s\n{result.stdout}")
        assert result.returncode == 1
        assert "no answer within" in result.stdout
        new_net.kill("btcd", 18)
        assert truth.holds(running) == {made["payment_hash"]: 500 * SAT}


def test_the_command_that_is_shown_bakes_the_right_macaroon(net: Any, tmp_path: Path) -> None:
    """`lncli`, with the line of `lightning check`: what it bakes serves a top-up; what could pay ends the start, unshown."""
    import regtest  # type: ignore[import-not-found] -- found by SPANTOLL_LIGHTNING_TOOLS

    node = net.receiver
    command, *words = BAKE.split()
    assert command == "lncli"
    where = ("--network=regtest", f"--lnddir={node.folder}", f"--rpcserver=127.0.0.1:{node.grpc_port}")
    subprocess.run([str(regtest.binaries() / "lncli"), *where, *words], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    good = [
        setting if "macaroon_file" not in setting else f"lightning.lnd.macaroon_file={tmp_path / 'spantoll.macaroon'}"
        for setting in lnd_settings(node)
    ]
    result = check(*good)
    assert result.returncode == 0, result.stdout
    assert "note" not in result.stdout
    with daemon(tmp_path, *good) as running:
        made = top_up(running, 500)
        net.pay(made["bolt11"])
        credited(running, made["payment_hash"])
    for name, words_ in (("admin", "offchain:write"), ("invoice", "GetInfo")):
        bad = [*good, f"lightning.lnd.macaroon_file={getattr(node, f'{name}_macaroon')}"]
        options = [word for setting in bad for word in ("--set", setting)]
        ended = subprocess.run(
            [sys.executable, "-m", "receiver", "serve", *options, "--set", f"store.directory={tmp_path / name}"],
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        assert ended.returncode == 2, ended.stderr
        assert words_ in ended.stderr
        assert getattr(node, f"{name}_macaroon").read_bytes().hex() not in ended.stdout + ended.stderr


def test_the_calls_that_are_made(net: Any, tmp_path: Path) -> None:
    """Through a proxy, so over the chunked stream as well: invoices, lookups, the stream, who it is; and nothing else."""
    truth = Truth.of(net.receiver)
    with proxied(net.receiver.rest_url) as proxy, daemon(tmp_path, *lnd_settings(net.receiver, url=proxy.url)) as running:
        made = top_up(running, 500)
        net.pay(made["bolt11"])
        credited(running, made["payment_hash"])
        truth.holds(running)
        call(running, "GET", "/api/v1/audit")
    kinds = {(method, path.rpartition("/")[0] + "/HASH" if "/v1/invoice/" in path else path) for method, path in proxy.seen}
    assert kinds == {("GET", "/v1/getinfo"), ("POST", "/v1/invoices"), ("GET", "/v1/invoices/subscribe"), ("GET", "/v1/invoice/HASH")}


async def test_an_invoice_that_expired_is_paid_too_late(net: Any, tmp_path: Path) -> None:
    """The payer refuses, and forced the node does: nothing is received, nothing credited, and the row says that its time is over."""
    node = net.receiver
    rest = Rest(node.rest_url, cert_file=str(node.tls_cert))
    client = LndClient(rest, Credential(file=str(node.receive_macaroon)), network="regtest")
    books = SqliteBooks(tmp_path / "books.sqlite", clock=SystemClock())
    try:
        watcher = Watcher(client=client, topups=books.topups, ledger=books.ledger, clock=SystemClock(), rng=random.Random(1))
        limits = TopUpLimits(expiry_seconds=2)
        desk = TopUpDesk(client=client, topups=books.topups, clock=SystemClock(), watch=watcher.watch, limits=limits)
        row = await desk.request("acme", 500 * SAT)
        watching = asyncio.create_task(watcher.run())
        path = f"/v1/invoice/{row.payment_hash.hex()}"
        await asyncio.to_thread(eventually, lambda: node.call("GET", path)["state"] == "CANCELED", what="the node's own clock")
        assert (await client.lookup(row.payment_hash)).state is NodeState.CANCELED
        for amount in (None, 500 * SAT):  # as a wallet, and by force
            with pytest.raises(sys.modules["regtest"].PaymentError):
                await asyncio.to_thread(net.pay, row.bolt11, amount)
        watcher.hint(row.payment_hash)
        found = await watcher.wait_settled(row.payment_hash, seconds=3)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        assert found is not None
        assert (found.state, found.received_msat) == (InvoiceState.EXPIRED, 0)
        assert (books.ledger.balance("acme").posted_msat, (await books.ledger.audit()).balanced) == (0, True)
    finally:
        await books.stop()
        await client.close()


async def test_a_cursor_of_another_node_does_not_silence_the_stream(net: Any) -> None:
    """LND, asked for what follows an index that it has not reached, tells nothing new at all; our cursor is then not used."""
    node = net.receiver
    rest = Rest(node.rest_url, cert_file=str(node.tls_cert))
    client = LndClient(rest, Credential(file=str(node.receive_macaroon)), network="regtest")
    headers = client.opened().headers
    try:
        made = await client.create(amount_msat=500 * SAT, description="", expiry_seconds=600)
        async with (
            rest.messages("/v1/invoices/subscribe?settle_index=1000000", headers) as raw,
            client.subscribe(f"1000000:{bytes(32).hex()}") as hints,
        ):
            await asyncio.to_thread(net.pay, made.bolt11)
            hint = await asyncio.wait_for(anext(hints), PATIENCE_SECONDS)
            assert hint.payment_hash == made.payment_hash
            silent = asyncio.ensure_future(anext(raw))
            await asyncio.wait({silent}, timeout=1)
            assert not silent.done(), "LND has changed: a cursor that is too high is harmless now"
            silent.cancel()
            await asyncio.gather(silent, return_exceptions=True)
        async with client.subscribe(hint.cursor):
            pass
        assert hint.cursor is not None
        assert await client._resumable(hint.cursor) == int(hint.cursor.partition(":")[0]), "its own cursor is used"
    finally:
        await client.close()


async def test_a_description_hash_is_in_the_invoice(net: Any) -> None:
    """LNURL-pay needs it, in place of the description; the node keeps the memo for itself."""
    node, wanted = net.receiver, hashlib.sha256(b"metadata").digest()
    rest = Rest(node.rest_url, cert_file=str(node.tls_cert))
    client = LndClient(rest, Credential(file=str(node.receive_macaroon)), network="regtest")
    try:
        made = await client.create(amount_msat=500 * SAT, description="ours", expiry_seconds=600, description_hash=wanted)
        said = bolt11.decode(made.bolt11)
        assert (said.description_hash, said.description) == (wanted, None)
        await asyncio.to_thread(net.pay, made.bolt11)
        assert (await client.lookup(made.payment_hash)).state is NodeState.SETTLED
    finally:
        await client.close()
