"""Accounts that are bought, on a real daemon: the challenge, the payment, spans over both transports, restarts, revocation, limits."""

from __future__ import annotations

import asyncio
import importlib
import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import grpc
import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from receiver.access import macaroon as macaroons
from receiver.admin.strangers import Strangers, network_of
from receiver.core.journal import StoreFull
from receiver.daemon import Daemon
from receiver.errors import TooManyRequests
from receiver.lightning.dev import DevWallet
from tests.fakes import ManualClock
from tests.integration.credit_house import until
from tests.integration.test_daemon_credit import TOKEN, ask, house, serving, spans
from tests.integration.wire_helpers import EXPORT, http_call
from tests.require import need

ON = ("l402.enabled=true", "credit.price_per_span_msat=10")
SAT = 1_000
TOPUPS = "/api/v1/credit/topups"
#: As aperture's client does it (l402/client_interceptor.go), which reads the first header line alone.
APERTURE = re.compile(r'(LSAT|L402) macaroon="(.*?)", invoice="(.*?)"')


async def customer(
    port: int, method: str, path: str, body: Any = None, *, credential: str | None = None, headers: dict[str, str] | None = None
) -> tuple[int, Any, list[str]]:
    """Status, JSON, and the lines of WWW-Authenticate."""
    sent = {**({"Authorization": credential} if credential else {}), **(headers or {})}
    async with (
        aiohttp.ClientSession(headers=sent) as session,
        session.request(method, f"http://127.0.0.1:{port}{path}", json=body, skip_auto_headers=[] if body else ["Content-Type"]) as answer,
    ):
        return answer.status, await answer.json(), answer.headers.getall("WWW-Authenticate", [])


async def buy(ports: dict[str, int], sat: int = 100) -> tuple[dict[str, Any], str, str]:
    """As a client of aperture's would: (the body, the token, the invoice), the two out of the header."""
    status, body, lines = await customer(ports["customer"], "POST", TOPUPS, {"amount_sat": sat})
    assert status == 402, body
    match = APERTURE.search(lines[0])
    assert match is not None
    assert match[2] == body["token"]
    assert match[3] == body["topup"]["bolt11"]
    return body, match[2], match[3]


async def pay(ports: dict[str, int], invoice: str, **more: Any) -> str:
    """The preimage, from the payer's side."""
    status, paid = await ask(ports["operator"], "POST", "/api/v1/dev/pay", {"invoice": invoice, **more})
    assert status == 200, paid
    return str(paid["preimage"])


async def bought(ports: dict[str, int], sat: int = 100) -> tuple[str, str]:
    """(account, credential) of one that is paid."""
    body, token, invoice = await buy(ports, sat)
    return body["account"], f"L402 {token}:{await pay(ports, invoice)}"


async def by_http(ports: dict[str, int], body: bytes, credential: str | None) -> int:
    return (await http_call(ports["otlp.http"], body, headers={"Authorization": credential} if credential else {})).code


async def by_grpc(ports: dict[str, int], body: bytes, credential: str) -> grpc.StatusCode:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{ports['otlp.grpc']}") as channel:
        try:
            await channel.unary_unary(EXPORT)(body, metadata=(("authorization", credential),), timeout=10)
        except grpc.aio.AioRpcError as error:
            return error.code()
    return grpc.StatusCode.OK


async def until_taken(ports: dict[str, int], credential: str) -> None:
    """Send as an exporter does, again and again while it is asked to; a hang is a failure."""
    async with asyncio.timeout(30):
        while (code := await by_http(ports, spans(1, 1), credential)) == 503:
            pass
    assert code == 200


def offices(daemon: Daemon) -> Any:
    return daemon.offices


async def test_a_payment_is_an_account(tmp_path: Path) -> None:
    """402, pay, send over both transports until the credit is used up, look, top up again with the same token, and go on."""
    async with serving(tmp_path, *ON) as (daemon, ports):
        assert await by_http(ports, spans(1, 1), None) == 401, "from now on everyone says who pays"
        body, token, invoice = await buy(ports)
        assert body["error"] == "payment_required"
        assert body["topup"]["amount_msat"] == 100 * SAT
        credential = f"L402 {token}:{await pay(ports, invoice)}"
        account = body["account"]
        assert account == f"l402:{body['topup']['payment_hash'][:16]}"
        assert offices(daemon).ledger.balance(account).posted_msat == 100 * SAT, "credited before anyone used it"

        assert await by_http(ports, spans(1, 5_000), credential) == 200
        assert await by_grpc(ports, spans(5_001, 5_000), credential.replace("L402", "LSAT")) is grpc.StatusCode.OK
        assert await by_http(ports, spans(10_001, 1), credential) == 402
        assert await by_grpc(ports, spans(10_001, 1), credential) is grpc.StatusCode.FAILED_PRECONDITION

        status, shown, _ = await customer(ports["customer"], "GET", "/api/v1/credit", credential=credential)
        assert (status, shown["account"], shown["posted_msat"], shown["enforce"]) == (200, account, 0, True)
        status, again, _ = await customer(ports["customer"], "POST", TOPUPS, {"amount_sat": 200}, credential=credential)
        assert (status, again["account"], again["amount_msat"]) == (200, account, 200 * SAT)
        await pay(ports, again["bolt11"])
        assert await by_http(ports, spans(10_001, 1), credential) == 200
        status, statement, _ = await customer(ports["customer"], "GET", "/api/v1/credit/statement", credential=credential)
        assert [line["amount_msat"] for line in statement["lines"] if line["code"] == "topup"] == [100 * SAT, 200 * SAT]
        assert (await ask(ports["operator"], "GET", "/api/v1/audit"))[1]["balanced"]


async def test_a_real_exporter_needs_only_the_header(tmp_path: Path) -> None:
    """OpenTelemetry's own exporters for both protocols, with the header as their environment variable holds it."""
    async with serving(tmp_path, *ON) as (daemon, ports):
        account, credential = await bought(ports)
        written = f"authorization={quote(credential, safe='')}"

        def export(exporter: Any) -> None:
            provider = TracerProvider()
            provider.add_span_processor(SimpleSpanProcessor(exporter))
            provider.get_tracer("t").start_span("s").end()
            provider.shutdown()

        grpc_exporter = GrpcExporter(
            endpoint=f"http://127.0.0.1:{ports['otlp.grpc']}", insecure=True, headers=(("authorization", credential),)
        )
        await asyncio.to_thread(export, grpc_exporter)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OTEL_EXPORTER_OTLP_TRACES_HEADERS", written)
            http_exporter = HttpExporter(endpoint=f"http://127.0.0.1:{ports['otlp.http']}/v1/traces")
        await asyncio.to_thread(export, http_exporter)
        assert offices(daemon).ledger.balance(account).debits_msat == 20
        assert daemon.metrics.exact("receiver_accepted_spans") == 2


async def test_a_client_of_another_make_buys_by_itself(tmp_path: Path) -> None:
    """l402-requests, which knows nothing of us but the protocol: it meets the 402, pays, comes again with the token, and keeps it."""
    need(find_spec("l402_requests"), "l402-requests, an independent client of L402, is not installed")
    client, wallets = importlib.import_module("l402_requests.client"), importlib.import_module("l402_requests.wallets")
    async with serving(tmp_path, *ON) as (daemon, ports):

        class Wallet(wallets.WalletBase):  # type: ignore[misc, name-defined]  # of a package without types
            async def pay_invoice(self, invoice: str) -> str:
                return await pay(ports, invoice)

        url = f"http://127.0.0.1:{ports['customer']}"
        async with client.AsyncL402Client(wallet=Wallet()) as buyer:
            answer = await buyer.post(url + TOPUPS, json={"amount_sat": 150})
            assert answer.status_code == 200, answer.text
            account = answer.json()["account"]
            shown = await buyer.get(url + "/api/v1/credit", headers={"Authorization": answer.request.headers["Authorization"]})
            assert (shown.json()["account"], shown.json()["posted_msat"]) == (account, 150 * SAT)
        assert await by_http(ports, spans(1, 1), answer.request.headers["Authorization"]) == 200
        assert offices(daemon).ledger.balance(account).debits_msat == 10


async def test_what_was_not_paid_opens_nothing(tmp_path: Path) -> None:
    """A preimage that leaked out of the wallet proves nothing; exporters keep their spans until the money is there."""
    async with serving(tmp_path, *ON) as (daemon, ports):
        body, token, invoice = await buy(ports)
        wallet: DevWallet = offices(daemon).desk._client
        leaked = wallet._invoices[bytes.fromhex(body["topup"]["payment_hash"])].preimage.hex()
        credential = f"L402 {token}:{leaked}"
        assert await by_http(ports, spans(1, 1), credential) == 503
        assert await by_grpc(ports, spans(1, 1), credential) is grpc.StatusCode.UNAVAILABLE
        status, answer, lines = await customer(ports["customer"], "GET", "/api/v1/credit", credential=credential)
        assert (status, answer["error"], lines) == (402, "payment_pending", [])
        status, answer, lines = await customer(ports["customer"], "POST", TOPUPS, {"amount_sat": 100}, credential=credential)
        assert (status, answer["error"], lines) == (402, "payment_pending", [])
        assert (await ask(ports["operator"], "GET", f"/api/v1/accounts/{body['account']}"))[0] == 404, "there is no such account yet"
        wrong = f"L402 {token}:{'00' * 32}"
        assert await by_http(ports, spans(1, 1), wrong) == 401
        assert await by_grpc(ports, spans(1, 1), wrong) is grpc.StatusCode.UNAUTHENTICATED
        assert daemon.metrics.exact("receiver_accepted_spans") == 0
        await pay(ports, invoice)
        assert await by_http(ports, spans(1, 1), credential) == 200


async def test_a_token_looks_when_its_payment_was_not_heard(tmp_path: Path) -> None:
    """Who shows the preimage has reason to say that it was paid: the node is asked at once, not at the next round."""
    async with serving(tmp_path, *ON) as (daemon, ports):
        _, token, invoice = await buy(ports)
        wallet: DevWallet = offices(daemon).desk._client
        wallet._subscribers.clear()  # its stream is dead, and nobody has noticed
        preimage = (await wallet.pay(invoice)).hex()
        credential = f"L402 {token}:{preimage}"
        await until_taken(ports, credential)


@pytest.mark.parametrize("failing", ["", "the account's row"])
async def test_a_token_outlives_the_process(tmp_path: Path, failing: str) -> None:
    """The next one knows it, paid or not, also where the last one ended between the credit and the account's row."""
    async with serving(tmp_path, *ON) as (daemon, ports):
        if failing:

            async def full(_account: Any) -> None:
                raise StoreFull

            offices(daemon).books.accounts.put_account = full
        account, credential = await bought(ports)
        later, later_token, later_invoice = await buy(ports)
        assert await by_http(ports, spans(1, 1), credential) == 200
    async with serving(tmp_path, "l402.enabled=false") as (daemon, ports):
        assert await by_http(ports, spans(2, 1), credential) == 200, "that none are sold any more takes nothing from those that were"
        assert offices(daemon).ledger.balance(account).posted_msat == 100 * SAT - 20
        shown = (await ask(ports["operator"], "GET", f"/api/v1/accounts/{account}"))[1]
        assert shown["own"] == ["enforce", "credit_limit_msat", "max_debt_msat"]
        assert shown["created"] is not None
        preimage = await pay(ports, later_invoice)
        assert await by_http(ports, spans(3, 1), f"L402 {later_token}:{preimage}") == 200
        assert offices(daemon).ledger.balance(later["account"]).posted_msat == 100 * SAT - 10
        status, answer, lines = await customer(ports["customer"], "POST", TOPUPS, {"amount_sat": 100})
        assert (status, answer.get("account"), lines) == (200, "default", []), "as without L402"
    async with house(tmp_path) as daemon:
        stored = {each.name: each for each in await offices(daemon).books.accounts.accounts()}
        assert {account, later["account"]} <= set(stored)


async def test_paid_so_late_that_it_was_forgotten(tmp_path: Path) -> None:
    """A hosted wallet may take a payment a week after the expiry: the token is found in the store, and its buyer has what he paid for."""
    clock = ManualClock()
    async with serving(tmp_path, *ON, clock=clock) as (daemon, ports):
        body, token, invoice = await buy(ports)
        wallet: DevWallet = offices(daemon).desk._client
        payment_hash = bytes.fromhex(body["topup"]["payment_hash"])
        offices(daemon).register.tokens.forget_unpaid(before_unix_nano=2**62)
        assert len(offices(daemon).register.tokens) == 0
        await wallet.pay(invoice)
        offices(daemon).desk.look(payment_hash)

        async def known() -> bool:
            return bool(offices(daemon).register.tokens.of_account(body["account"]))

        await until(known)
        credential = f"L402 {token}:{wallet._invoices[payment_hash].preimage.hex()}"
        assert await by_http(ports, spans(1, 1), credential) == 200


async def test_the_operator_can_end_it(tmp_path: Path) -> None:
    """Disabled as any account, at once on both transports, enabled again; a rotation ends the token and gives a key in its place."""
    async with serving(tmp_path, *ON) as (daemon, ports):
        account, credential = await bought(ports)
        other, other_credential = await bought(ports)
        at = f"/api/v1/accounts/{quote(account, safe='')}"
        assert (await ask(ports["operator"], "POST", f"{at}/disable"))[0] == 200
        assert await by_http(ports, spans(1, 1), credential) == 403
        assert await by_grpc(ports, spans(1, 1), credential) is grpc.StatusCode.PERMISSION_DENIED
        assert (await customer(ports["customer"], "GET", "/api/v1/credit", credential=credential))[0] == 403
        assert (await ask(ports["operator"], "POST", f"{at}/enable"))[0] == 200
        assert await by_http(ports, spans(1, 1), credential) == 200
        status, rotated = await ask(ports["operator"], "POST", f"{at}/rotate-key", {"grace_seconds": 600})
        assert (status, rotated["replaced_keys"]) == (200, 1)
        assert [key["source"] for key in rotated["keys"]] == ["account", "token"]
        assert await by_http(ports, spans(2, 1), credential) == 200, "for the grace"
        status, rotated = await ask(ports["operator"], "POST", f"{at}/rotate-key", {})
        assert await by_http(ports, spans(3, 1), credential) == 401
        assert await by_http(ports, spans(3, 1), f"Bearer {rotated['key']}") == 200
        assert await by_http(ports, spans(1, 1), other_credential) == 200, "another's goes on"
        status, answer = await ask(ports["operator"], "POST", "/api/v1/accounts", {"account": "l402:0123456789abcdef"})
        assert (status, answer["error"]) == (400, "invalid_value")
    async with serving(tmp_path, *ON) as (daemon, ports):
        assert await by_http(ports, spans(4, 1), credential) == 401
        assert await by_http(ports, spans(4, 1), other_credential) == 200
        assert offices(daemon).ledger.balance(other).debits_msat == 20


async def test_a_narrowed_token_does_what_it_was_left(tmp_path: Path) -> None:
    """What an exporter is given can only send; a caveat that was tampered with opens nothing."""
    async with serving(tmp_path, *ON) as (_, ports):
        _, credential = await bought(ports)
        token, _, preimage = credential.removeprefix("L402 ").partition(":")
        whole = macaroons.decode(token)
        narrow = macaroons.restrict(whole, b"spantoll_capabilities=send")
        for each, codes in (
            (narrow, (200, 403, 403)),
            (macaroons.restrict(whole, b"spantoll_valid_until=1"), (401, 401, 401)),
            (macaroons.restrict(whole, b"somebody_else=1"), (401, 401, 401)),
            (whole, (200, 200, 200)),
        ):
            held = f"L402 {each.encode()}:{preimage}"
            sent = await by_http(ports, spans(1, 1), held)
            read, _, _ = await customer(ports["customer"], "GET", "/api/v1/credit", credential=held)
            asked, _, _ = await customer(ports["customer"], "POST", TOPUPS, {"amount_sat": 100}, credential=held)
            assert (sent, read, asked) == codes
        tampered = macaroons.Macaroon(location="spantoll", identifier=narrow.identifier, caveats=(), signature=narrow.signature)
        assert await by_http(ports, spans(1, 1), f"L402 {tampered.encode()}:{preimage}") == 401


async def test_strangers_are_given_nothing(tmp_path: Path) -> None:
    """No start balance, no credit limit, no debt: what is granted to those whom the operator knows would be taken by the dozen."""
    settings = ("credit.start_balance_msat=1000000", "credit.credit_limit_msat=500000", "credit.on_exhausted=accept")
    async with serving(tmp_path, *ON, *settings, "credit.max_debt_msat=700000") as (daemon, ports):
        account, credential = await bought(ports)
        assert offices(daemon).ledger.balance(account).posted_msat == 100 * SAT
        assert await by_http(ports, spans(1, 10_000), credential) == 200
        assert await by_http(ports, spans(10_001, 1), credential) == 402
    async with serving(tmp_path, *ON, *settings, "credit.max_debt_msat=700000") as (daemon, ports):
        assert offices(daemon).ledger.balance(account).posted_msat == 0
        assert await by_http(ports, spans(10_001, 1), credential) == 402


async def test_strangers_cannot_ask_for_invoices_without_end(tmp_path: Path) -> None:
    """Each address has its share, and all together a number; whoever pays makes room; others with a key are not held back."""
    clock = ManualClock()
    async with serving(tmp_path, *ON, "lightning.public_per_hour=4", "lightning.public_max_unpaid=2", clock=clock) as (_, ports):
        _, credential = await bought(ports)
        await buy(ports)
        await buy(ports)
        status, answer, lines = await customer(ports["customer"], "POST", TOPUPS, {"amount_sat": 100})
        assert (status, answer["error"], lines) == (429, "too_many_requests", [])
        status, mine, _ = await customer(ports["customer"], "POST", TOPUPS, {"amount_sat": 100}, credential=credential)
        assert status == 200
        await pay(ports, mine["bolt11"])
        clock.advance(3_601)  # the invoices have expired, and the bucket is full again
        for _ in range(2):
            await buy(ports)
    async with serving(tmp_path, *ON, "lightning.public_max_unpaid=2", clock=clock) as (_, ports):
        status, _, _ = await customer(ports["customer"], "POST", TOPUPS, {"amount_sat": 100})
        assert status == 429, "what waits is known after a restart"


@pytest.mark.parametrize(
    ("body", "status"), [({"amount_sat": 1}, 422), ({"amount_sat": 10**9}, 422), ({"amount_sat": -1}, 400), ({}, 400), ({"amount": 5}, 400)]
)
async def test_wrong_amounts_are_refused_without_a_challenge(tmp_path: Path, body: Any, status: int) -> None:
    """A stranger reads the same sentences as a customer, and nothing is made."""
    async with serving(tmp_path, *ON) as (daemon, ports):
        found, _, lines = await customer(ports["customer"], "POST", TOPUPS, body or {"x": 1})
        assert (found, lines) == (status, [])
        assert len(offices(daemon).register.tokens) == 0


async def test_a_wrong_credential_is_not_offered_an_account(tmp_path: Path) -> None:
    """Who sends one meant to be somebody: 401, never a new invoice."""
    async with serving(tmp_path, *ON) as (_, ports):
        for credential in ("Bearer wrong", "L402 wrong:00", "Basic eDp5", "L402"):
            status, _, lines = await customer(ports["customer"], "POST", TOPUPS, {"amount_sat": 100}, credential=credential)
            assert (status, lines) == (401, ["Bearer"])


async def test_twenty_buy_at_once(tmp_path: Path) -> None:
    """Each has its own account with what it paid, and the books balance."""
    async with serving(tmp_path, *ON, "lightning.public_per_hour=0") as (daemon, ports):
        found = await asyncio.gather(*(bought(ports, 100 + at) for at in range(20)))
        assert len({account for account, _ in found}) == 20
        for at, (account, credential) in enumerate(found):
            assert offices(daemon).ledger.balance(account).posted_msat == (100 + at) * SAT
            assert await by_http(ports, spans(1, 1), credential) == 200
        assert (await ask(ports["operator"], "GET", "/api/v1/audit"))[1]["balanced"]


async def test_no_secret_is_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither token nor preimage nor root key, whatever is done with them."""
    caplog.set_level("DEBUG")
    async with serving(tmp_path, *ON) as (daemon, ports):
        account, credential = await bought(ports)
        token, _, preimage = credential.removeprefix("L402 ").partition(":")
        await by_http(ports, spans(1, 1), credential)
        await by_http(ports, spans(1, 1), f"L402 {token}:{'00' * 32}")
        (known,) = offices(daemon).register.tokens.of_account(account)
    said = caplog.text + json.dumps([str(vars(record)) for record in caplog.records])
    for secret in (token, preimage, known.root_key.hex(), repr(known.root_key), TOKEN):
        assert secret not in said


def test_an_address_stands_for_its_network() -> None:
    """Of IPv6 the 64 bits that a provider gives one customer; a mapped IPv4 is the IPv4."""
    assert network_of("192.0.2.7") == network_of("::ffff:192.0.2.7") == "192.0.2.7"
    assert network_of("2001:db8:0:1::1") == network_of("2001:db8:0:1:ffff::2") != network_of("2001:db8:0:2::1")
    assert network_of("fe80::1%eth0") == network_of("fe80::2")
    assert network_of("") == ""


def test_a_bucket_refills_and_one_address_does_not_drain_anothers() -> None:
    """Three at once, then one each twenty minutes; what failed at the node gives its place back, not its turn."""
    clock = ManualClock()
    strangers = Strangers(max_unpaid=100, per_hour=3, clock=clock)

    def asks(address: str) -> bool:
        try:
            with strangers.asking(address):
                return True
        except TooManyRequests as refused:
            return not 0 < refused.retry_after_seconds <= 1_200

    assert [asks("192.0.2.1") for _ in range(4)] == [True, True, True, False]
    assert asks("192.0.2.2")
    clock.advance(1_199)
    assert not asks("192.0.2.1")
    clock.advance(1)
    assert [asks("192.0.2.1"), asks("192.0.2.1")] == [True, False]
    clock.advance(86_400)
    assert [asks("192.0.2.1") for _ in range(4)] == [True, True, True, False]
    with pytest.raises(ZeroDivisionError), strangers.asking("192.0.2.3"):
        raise ZeroDivisionError
    assert strangers._asking == 0
