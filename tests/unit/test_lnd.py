"""The LND adapter against a stand-in that answers as LND 0.21.2 was seen to: what it sends, believes, hides and refuses."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from receiver.core.invoices import NodeState
from receiver.lightning import lnd, rest
from receiver.lightning.client import Hint, NodeRefused, NodeUnavailable
from receiver.lightning.credential import Credential, CredentialRefused
from receiver.lightning.lnd import LndClient, failure
from receiver.lightning.rest import Answer, Rest
from tests.fake_nodes import NEEDED, NOW, PAYEE, FakeLnd, b64, bake, served


@asynccontextmanager
async def met(fake: FakeLnd, tmp_path: Path, *, network: str = "regtest", **options: Any) -> AsyncIterator[LndClient]:
    """A client of `fake`."""
    file = tmp_path / "spantoll.macaroon"
    file.write_bytes(fake.macaroon)
    async with served(fake.app()) as url:
        client = LndClient(Rest(url), Credential(file=str(file)), network=network, **options)
        try:
            yield client
        finally:
            await client.close()


async def heard(hints: AsyncIterator[Hint], count: int) -> list[Hint]:
    return [await asyncio.wait_for(anext(hints), 30) for _ in range(count)]


# Invoices


async def test_an_invoice_is_asked_for_exactly(tmp_path: Path) -> None:
    """Amount and expiry as strings (LND's int64), the memo cut at a whole character within LND's limit, hints of channels as set."""
    fake = FakeLnd()
    async with met(fake, tmp_path, route_hints=True) as client:
        made = await client.create(amount_msat=12_345_678_000, description="é" * 600, expiry_seconds=3_600)
    ((_, _, body),) = fake.asked
    assert body == {"value_msat": "12345678000", "memo": "é" * 512, "expiry": "3600", "private": True}
    assert made.payment_hash.hex() in fake.invoices
    assert (made.bolt11[:6], made.state, made.preimage) == ("lnbcrt", NodeState.OPEN, b"")


async def test_what_a_lookup_tells(tmp_path: Path) -> None:
    """Each state; the amount that came, not the one that was asked; and of an unpaid invoice neither preimage nor amount."""
    fake = FakeLnd()
    states = {"OPEN": NodeState.OPEN, "ACCEPTED": NodeState.HELD, "SETTLED": NodeState.SETTLED, "CANCELED": NodeState.CANCELED}
    async with met(fake, tmp_path) as client:
        for number, (word, state) in enumerate(states.items(), 1):
            shown = fake.put(number, state=word, amount_msat=250_000, paid_msat=750_001, settle_index=number if word == "SETTLED" else 0)
            said = await client.lookup(bytes.fromhex(list(fake.invoices)[-1]))
            assert (said.state, said.bolt11) == (state, shown["payment_request"])
            if state is NodeState.SETTLED:
                assert (said.received_msat, said.settled_unix_nano) == (750_001, (NOW + 5) * 10**9)
                assert said.preimage == number.to_bytes(32)
                assert repr(said.preimage) not in repr(said)
            else:
                assert (said.received_msat, said.settled_unix_nano, said.preimage) == (0, 0, b"")
        unknown = await client.lookup(bytes(32))
    assert (unknown.state, unknown.bolt11) == (NodeState.UNKNOWN, "")


async def test_an_answer_about_another_invoice_is_not_taken(tmp_path: Path) -> None:
    """A lookup that returns another hash, or no hash, or a state that nobody knows, is no answer."""
    fake = FakeLnd()
    shown = fake.put(1, state="SETTLED", paid_msat=1, settle_index=1)
    async with met(fake, tmp_path) as client:
        fake.invoices[bytes(32).hex()] = shown
        with pytest.raises(NodeRefused, match="another invoice"):
            await client.lookup(bytes(32))
        for broken in ({**shown, "r_hash": "AAAA"}, {**shown, "r_hash": b64(bytes(32)), "state": "NEW"}, {"r_hash": b64(bytes(32))}):
            fake.invoices[bytes(32).hex()] = broken
            with pytest.raises(NodeRefused, match="form that LND documents"):
                await client.lookup(bytes(32))


# Errors

MACAROON, STARTING, ELSE = CredentialRefused, NodeUnavailable, NodeRefused


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (500, {"code": 2, "message": "expected 1 macaroon, got 0"}, MACAROON),
        (500, {"code": 2, "message": "cannot get macaroon: root key with id 0 doesn't exist"}, MACAROON),
        (500, {"code": 2, "message": "verification failed: signature mismatch after caveat verification"}, MACAROON),
        (500, {"code": 2, "message": "permission denied"}, MACAROON),
        (500, {"code": 2, "message": "waiting to start, RPC services not available"}, STARTING),
        (500, {"code": 2, "message": "wallet locked, unlock it to enable full RPC access"}, STARTING),
        (500, {"code": 2, "message": "the RPC server is in the process of starting up, but not yet ready to accept calls"}, STARTING),
        (503, {"code": 14, "message": "connection error"}, STARTING),
        (499, {"code": 1, "message": "context canceled"}, STARTING),
        (504, "gateway time-out", STARTING),
        (502, "<html>bad gateway</html>", STARTING),
        (200, "not json", STARTING),
        (429, "slow down", STARTING),
        (500, {"code": 2, "message": "invoice with payment hash already exists"}, ELSE),
        (500, {"code": 2, "message": "memo too large: 1,030 bytes (maxsize=1024)"}, ELSE),
        (400, {"code": 3, "message": "unknown field"}, ELSE),
        (501, {"code": 12, "message": "Method Not Allowed"}, ELSE),
        (404, {"code": 5, "message": "Not Found"}, ELSE),
        (404, "nothing here", ELSE),
        (400, "Client sent an HTTP request to an HTTPS server.", ELSE),
        (401, "who are you", ELSE),
    ],
)
async def test_each_error_by_whether_waiting_helps(status: int, body: Any, kind: type[Exception], tmp_path: Path) -> None:
    """LND says HTTP 500 and code 2 of a wrong macaroon and of a start alike; the words decide, in every call and in the stream."""
    fake = FakeLnd()
    async with met(fake, tmp_path) as client:
        fake.refusal = (status, body)
        for call in (client.node(), client.lookup(bytes(32)), client.create(amount_msat=1_000, description="", expiry_seconds=60)):
            with pytest.raises((NodeUnavailable, NodeRefused)) as caught:
                await call
            assert type(caught.value) is kind
        if isinstance(body, dict):
            for message in ({"error": body}, body):
                fake.stream = [message]
                with pytest.raises((NodeUnavailable, NodeRefused)) as caught:
                    await client.subscribe(None).__aenter__()
                assert type(caught.value) is kind
    assert fake.macaroon.hex() not in str(caught.value)


def test_only_the_lookup_takes_not_found_for_unknown() -> None:
    """An unknown path ("Not Found") must never look like an unknown hash ("unable to locate invoice")."""
    path = failure(Answer(404, {"code": 5, "message": "Not Found"}))
    payment_hash = failure(Answer(404, {"code": 5, "message": "unable to locate invoice"}))
    assert type(path) is NodeRefused
    assert type(payment_hash) is lnd._NoSuchInvoice


async def test_a_node_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    """A refused connection and a node that never answers raise in their time, and name the address, not the macaroon."""
    fake = FakeLnd()
    async with met(fake, tmp_path) as client:
        pass
    for call in (client.node(), client.lookup(bytes(32)), client.subscribe(None).__aenter__()):
        with pytest.raises(NodeUnavailable, match=r"http://127.0.0.1:\d+ cannot be reached"):
            await call
    await client.close()


# Who it is


async def test_who_the_node_is(tmp_path: Path) -> None:
    """Key, version and network as invoices name it; whether it follows the chain."""
    for named, network in (("mainnet", "bitcoin"), ("testnet4", "testnet"), ("regtest", "regtest")):
        fake = FakeLnd(network=named, synced=False)
        async with met(fake, tmp_path, network=network) as client:
            node = await client.node()
            assert (node.payee, node.network, node.version, node.ready) == (PAYEE, network, "LND 0.21.2-beta", False)


async def test_a_node_on_another_network_is_refused(tmp_path: Path) -> None:
    """Play money is never taken for money because an address was mistaken."""
    async with met(FakeLnd(network="testnet"), tmp_path, network="bitcoin") as client:
        with pytest.raises(NodeRefused, match=r"on testnet, and lightning\.network is bitcoin"):
            await client.node()


async def test_a_health_check_that_hangs_does_not_hide_who_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its chain backend gone `getinfo` hangs while lookups go on: the node is known still, and is not ready."""
    monkeypatch.setattr(lnd, "NODE_SECONDS", 0.05)
    fake, hang = FakeLnd(), asyncio.Event()
    shown = fake.put(1, state="SETTLED", paid_msat=9, settle_index=1)
    async with met(fake, tmp_path) as client:
        fake.on_ask = hang.wait
        with pytest.raises(NodeUnavailable, match="no answer within"):
            await client.node()
        fake.on_ask = None
        assert (await client.node()).ready
        fake.on_ask = hang.wait
        again = await client.node()
        assert (again.payee, again.ready) == (PAYEE, False)
        assert (await client.lookup(bytes.fromhex(next(iter(fake.invoices))))).received_msat == int(shown["amt_paid_msat"])
        hang.set()


# The stream


def settled(fake: FakeLnd, number: int, index: int) -> dict[str, Any]:
    return {"result": fake.put(number, state="SETTLED", paid_msat=250_000, settle_index=index)}


async def test_settlements_are_heard_and_creations_are_not(tmp_path: Path) -> None:
    """OPEN events come for every invoice that is made, and make nobody look; without a replay each settlement moves the cursor."""
    fake = FakeLnd()
    opened, paid = {"result": fake.put(1)}, settled(fake, 2, 5)
    fake.stream = [opened, paid, settled(fake, 3, 6), paid]
    async with met(fake, tmp_path) as client, client.subscribe(None) as hints:
        got = await heard(hints, 3)
    names = list(fake.invoices)
    assert fake.subscribed == ["settle_index=0"]
    assert [hint.payment_hash.hex() for hint in got] == [names[1], names[2], names[1]]
    assert [hint.cursor for hint in got] == [f"5:{names[1]}", f"6:{names[2]}", f"6:{names[2]}"]


async def test_no_cursor_before_the_replay_is_over(tmp_path: Path) -> None:
    """An SQL store replays by creation (8, 22, 9 ...): a cursor in its midst would lose what comes after; the first OPEN ends it."""
    fake = FakeLnd()
    settled(fake, 1, 7)
    cursor = f"7:{next(iter(fake.invoices))}"
    indices = [8, 22, 9, 27, 21, 10]
    fake.stream = [settled(fake, number, index) for number, index in enumerate(indices, 2)]
    fake.stream += [{"result": fake.put(20)}, settled(fake, 21, 28), fake.stream[3]]
    async with met(fake, tmp_path) as client, client.subscribe(cursor) as hints:
        got = await heard(hints, 8)
    assert fake.subscribed == ["settle_index=7"]
    assert [hint.cursor for hint in got[:6]] == [None] * 6
    last = got[6].payment_hash.hex()
    assert [hint.cursor for hint in got[6:]] == [f"28:{last}", f"28:{last}"]  # a doubled older one does not move it back


@pytest.mark.parametrize("case", ["unknown", "another index", "unpaid", "garbage", "index alone"])
async def test_a_cursor_does_not_outlive_its_node(case: str, tmp_path: Path) -> None:
    """Above the node's newest index LND is silent for new settlements too: a cursor counts only with its payment at its index."""
    fake = FakeLnd()
    settled(fake, 1, 900)
    (name,) = fake.invoices
    cursor = {"unknown": f"900:{bytes(32).hex()}", "another index": f"1000:{name}", "garbage": "nine:x", "index alone": "900"}.get(case)
    if case == "unpaid":
        cursor = f"900:{name}"
        fake.put(1, state="OPEN")
    fake.stream = [{"result": {}}]  # so that nobody waits for the first message
    async with met(fake, tmp_path) as client, client.subscribe(cursor):
        assert fake.subscribed == ["settle_index=0"]


async def test_a_stream_that_ends_says_so(tmp_path: Path) -> None:
    """SIGTERM sends a last error, which is an outage; kill -9 just ends it; neither is a hint."""
    fake = FakeLnd()
    async with met(fake, tmp_path) as client:
        async with client.subscribe(None) as hints:
            await fake.tell({"error": {"code": 1, "message": "context canceled", "details": []}})
            with pytest.raises(NodeUnavailable, match="context canceled"):
                await anext(hints)
        async with client.subscribe(None) as hints:
            await fake.tell(None)
            assert await anext(hints, None) is None
        fake.stream = [None]
        with pytest.raises(NodeUnavailable, match="ended its stream at once"):
            await client.subscribe(None).__aenter__()


async def test_messages_that_are_none_are_skipped(tmp_path: Path) -> None:
    """What is no JSON object says nothing; an invoice without its fields ends the stream, since nobody knows what it told."""
    fake = FakeLnd()
    fake.stream = ["not json", "[]", '"x"', {"result": {}}, settled(fake, 1, 1), {"result": {"state": "SETTLED"}}]
    async with met(fake, tmp_path) as client, client.subscribe(None) as hints:
        (hint,) = await heard(hints, 1)
        assert hint.payment_hash.hex() in fake.invoices
        with pytest.raises(NodeRefused, match="form that LND documents"):
            await anext(hints)


async def test_a_peer_that_answers_no_pings_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A half-open connection ends within the heartbeat; a connection that is alive and silent does not."""
    monkeypatch.setattr(rest, "HEARTBEAT_SECONDS", 0.2)
    monkeypatch.setattr(lnd, "SETTLE_SECONDS", 0.05)
    fake = FakeLnd()
    async with met(fake, tmp_path) as client:
        async with client.subscribe(None) as hints:
            following = asyncio.ensure_future(anext(hints))
            for _ in range(5):  # several heartbeats
                await asyncio.wait({following}, timeout=0.2)
            assert not following.done()
            await fake.tell(settled(fake, 1, 1))
            assert (await asyncio.wait_for(following, 30)).cursor is not None
        fake.deaf = True
        async with client.subscribe(None) as hints:
            with pytest.raises(NodeUnavailable, match="broke off"):
                await asyncio.wait_for(anext(hints), 30)


async def test_without_a_websocket_the_chunked_stream_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a proxy that knows no WebSocket: entering does not wait for the first event, and the stream is renewed in its time."""
    monkeypatch.setattr(lnd, "SETTLE_SECONDS", 0.05)
    monkeypatch.setattr(lnd, "CHUNKED_SECONDS", 0.5)
    fake = FakeLnd(websocket=False)
    async with met(fake, tmp_path) as client:
        async with client.subscribe(None) as hints:  # nothing has come, not even headers
            await fake.tell(settled(fake, 1, 1))
            await fake.tell(settled(fake, 2, 2))
            assert [hint.cursor is not None for hint in await heard(hints, 2)] == [True, True]
            assert await asyncio.wait_for(anext(hints, None), 30) is None  # its time is over
        assert fake.subscribed == ["settle_index=0"] * 2  # the handshake, and the chunked one


async def test_an_error_on_the_chunked_stream_is_told(tmp_path: Path) -> None:
    """A refusal arrives as the answer's body, with its status, and is judged by the same table."""
    from aiohttp import web

    fake = FakeLnd(websocket=False)
    fake.stream = [web.json_response({"error": {"code": 2, "message": "permission denied", "details": []}}, status=500)]
    async with met(fake, tmp_path) as client:
        with pytest.raises(NodeRefused):
            await client.subscribe(None).__aenter__()


async def test_an_early_settlement_is_not_lost(tmp_path: Path) -> None:
    """The message that was awaited to see whether the stream is refused is the first hint."""
    fake = FakeLnd()
    fake.stream = [settled(fake, 1, 1)]
    async with met(fake, tmp_path) as client, client.subscribe(None) as hints:
        (hint,) = await heard(hints, 1)
    assert hint.payment_hash.hex() in fake.invoices


# The credential


async def test_a_macaroon_that_can_pay_is_never_sent(tmp_path: Path) -> None:
    """Judged before the first request, named with what it could do, and answered with the command that bakes the right one."""
    fake = FakeLnd(macaroon=bake(*NEEDED, ("offchain", "write"), ("macaroon", "generate")))
    async with met(fake, tmp_path) as client:
        calls = (client.node(), client.lookup(bytes(32)), client.create(amount_msat=1, description="", expiry_seconds=1))
        for call in (*calls, client.subscribe(None).__aenter__()):
            with pytest.raises(CredentialRefused, match=r"macaroon:generate, offchain:write.*lncli bakemacaroon") as caught:
                await call
            assert fake.macaroon.hex() not in str(caught.value)
    assert not fake.asked
    assert not fake.subscribed


async def test_a_macaroon_that_is_replaced_is_read_anew(tmp_path: Path) -> None:
    """After a new one was baked into the same file it is used, and who the node is is asked again."""
    fake = FakeLnd()
    async with met(fake, tmp_path) as client:
        assert (await client.node()).ready
        fake.macaroon = bake(*NEEDED, salt=b"2")
        with pytest.raises(CredentialRefused, match="signature mismatch"):
            await client.node()
        (tmp_path / "new").write_bytes(fake.macaroon)
        (tmp_path / "new").rename(tmp_path / "spantoll.macaroon")
        assert (await client.node()).payee == PAYEE


async def test_the_credential_is_in_no_log_and_no_repr(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Through good calls, refusals, broken streams and tracebacks, at the lowest level of logging."""
    caplog.set_level(logging.DEBUG)
    fake = FakeLnd()
    async with met(fake, tmp_path) as client:
        await client.node()
        for refusal in ((500, {"code": 2, "message": "permission denied"}), (307, ""), (502, "")):
            fake.refusal = refusal
            for call in (client.node(), client.lookup(bytes(32)), client.subscribe("x").__aenter__()):
                try:
                    await call
                except (NodeRefused, NodeUnavailable):
                    logging.getLogger("test").exception("refused")
            fake.websocket = False
        told = caplog.text + repr(client.opened()) + repr(client.credential) + repr(vars(client))
    assert "refused" in told
    assert fake.macaroon.hex() not in told
    assert repr(fake.macaroon)[2:-1] not in told


# TLS


def certificate(folder: Path, name: str) -> tuple[Path, ssl.SSLContext]:
    """A self-signed certificate as LND makes one, for no name that the tests use, and a server's context with it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    file, key_file = folder / f"{name}.cert", folder / f"{name}.key"
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    encoding = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    key_file.write_bytes(key.private_bytes(*encoding))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, key_file)
    return file, context


async def test_the_pinned_certificate_is_the_only_one(tmp_path: Path) -> None:
    """The node's own certificate is taken whatever names it holds; any other, or one that only an authority knows, gets no request."""
    fake = FakeLnd(stream=[{"result": {}}])
    macaroon = tmp_path / "m"
    macaroon.write_bytes(fake.macaroon)
    right, context = certificate(tmp_path, "node")
    wrong, _ = certificate(tmp_path, "other")
    async with served(fake.app(), context) as url:
        client = LndClient(Rest(url, cert_file=str(right)), Credential(file=str(macaroon)), network="regtest")
        assert (await client.node()).payee == PAYEE
        async with client.subscribe(None):
            assert len(fake.subscribed) == 1
        await client.close()
        for file, words in ((str(wrong), "another certificate"), ("", "no authority"), (str(macaroon), "holds no certificate")):
            client = LndClient(Rest(url, cert_file=file), Credential(file=str(macaroon)), network="regtest")
            for call in (client.lookup(bytes(32)), client.subscribe(None).__aenter__()):
                with pytest.raises(NodeRefused, match=words):
                    await call
            await client.close()
    assert len(fake.subscribed) == 1
    assert not fake.asked


async def test_a_redirect_is_not_followed(tmp_path: Path) -> None:
    """The macaroon goes to the address that the operator named, and nowhere else, in no call, handshake or stream."""
    fake, other = FakeLnd(), FakeLnd()
    async with served(other.app()) as elsewhere, met(fake, tmp_path) as client:
        fake.elsewhere = elsewhere
        calls = [client.node(), client.lookup(bytes(32)), client.create(amount_msat=1_000, description="", expiry_seconds=60)]
        for call in (*calls, client.subscribe(None).__aenter__()):
            with pytest.raises(NodeRefused, match="sends elsewhere"):
                await call
        async with client.rest.lines("/v1/invoices/subscribe", client.opened().headers, seconds=10) as lines:
            with pytest.raises(NodeRefused, match="sends elsewhere"):
                await anext(lines)
    assert not other.asked
    assert not other.subscribed
