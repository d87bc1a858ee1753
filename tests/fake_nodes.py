"""Stand-ins for LND's REST interface and for LNbits, on loopback: they answer in the shapes that the real ones were seen to use.

They prove parsing, order and what is sent; that real nodes answer so is held by tests/e2e/lightning/.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

from receiver.lightning import bolt11, secp256k1
from tests.fakes import UNIX_NANO

SECRET = 0xC0FFEE
PAYEE = secp256k1.public_key(SECRET).hex()
NEEDED = tuple(("uri", f"/lnrpc.Lightning/{call}") for call in ("AddInvoice", "LookupInvoice", "SubscribeInvoices", "GetInfo"))
NOW = UNIX_NANO // 10**9
KEY = "0123456789abcdef0123456789abcdef"
ADMIN_KEY = "fedcba9876543210fedcba9876543210"


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def field_(kind: int, data: bytes) -> bytes:
    """A field of libmacaroons' V2, and of Protocol Buffers where `kind` is the whole tag."""
    size, text = len(data), bytearray([kind])
    while True:
        text.append(size & 0x7F | (0x80 if size > 0x7F else 0))
        size >>= 7
        if not size:
            return bytes(text) + data


def bake(*permissions: tuple[str, str], caveats: Sequence[str] = (), salt: bytes = b"") -> bytes:
    """A macaroon as LND bakes it; (entity, action) each."""
    by_entity: dict[str, list[str]] = {}
    for entity, action in permissions:
        by_entity.setdefault(entity, []).append(action)
    ops = b"".join(
        field_(0x1A, field_(0x0A, entity.encode()) + b"".join(field_(0x12, action.encode()) for action in actions))
        for entity, actions in by_entity.items()
    )
    identifier = b"\x03" + field_(0x0A, hashlib.sha256(salt).digest()[:16]) + field_(0x12, b"0") + ops
    sections = b"".join(field_(2, caveat.encode()) + b"\0" for caveat in caveats)
    return b"\x02" + field_(1, b"lnd") + field_(2, identifier) + b"\0" + sections + b"\0" + field_(6, bytes(32))


def invoice_text(
    payment_hash: bytes, amount_msat: int, *, expiry_seconds: int = 600, network: str = "regtest", secret: int = SECRET
) -> str:
    return bolt11.encode(
        secret=secret,
        network=network,
        amount_msat=amount_msat,
        timestamp=NOW,
        payment_hash=payment_hash,
        description="",
        payment_secret=bytes(32),
        expiry_seconds=expiry_seconds,
        min_final_cltv_expiry=80,
        features=1 << 8 | 1 << 14,
    )


@asynccontextmanager
async def served(app: web.Application, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """The address of `app` while it is served on a free port."""
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    try:
        assert site._server is not None
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined] -- asyncio's server has sockets
        yield f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


@dataclass
class FakeLnd:
    """One LND node. `invoices` are as LND shows them, by hash; a test changes them as it likes."""

    macaroon: bytes = field(default_factory=lambda: bake(*NEEDED))
    network: str = "regtest"
    synced: bool = True
    refusal: tuple[int, Any] | None = None  # (HTTP status, body) of every answer
    on_ask: Callable[[], Awaitable[None]] | None = None  # awaited before `getinfo` answers
    elsewhere: str = ""  # where everything is redirected to
    websocket: bool = True
    deaf: bool = False  # answers no pings
    stream: list[Any] = field(default_factory=list)  # what a subscription sends at once; an Event is waited for, None ends it
    invoices: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    subscribed: list[str] = field(default_factory=list)
    live: list[asyncio.Queue[Any]] = field(default_factory=list)

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._redirected])
        app.add_routes(
            [
                web.get("/v1/state", self._state),
                web.get("/v1/getinfo", self._getinfo),
                web.get("/v1/balance/channels", self._balance),
                web.post("/v1/invoices", self._add),
                web.get("/v1/invoices/subscribe", self._subscribe),
                web.get("/v1/invoice/{hash}", self._look),
            ]
        )
        return app

    def put(
        self, number: int, *, state: str = "OPEN", amount_msat: int = 250_000, paid_msat: int = 0, settle_index: int = 0
    ) -> dict[str, Any]:
        """Invoice `number`, whose preimage is that number, as LND shows it; overwrites the one before."""
        preimage = number.to_bytes(32)
        payment_hash = hashlib.sha256(preimage).digest()
        shown = {
            "r_preimage": b64(preimage),
            "r_hash": b64(payment_hash),
            "value_msat": str(amount_msat),
            "payment_request": invoice_text(payment_hash, amount_msat),
            "state": state,
            "amt_paid_msat": str(paid_msat),
            "settle_index": str(settle_index),
            "settle_date": str(NOW + 5 if settle_index else 0),
        }
        self.invoices[payment_hash.hex()] = shown
        return shown

    async def tell(self, message: Any) -> None:
        """Send to every subscriber; None ends their streams."""
        for queue in self.live:
            queue.put_nowait(message)

    @web.middleware
    async def _redirected(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self.elsewhere:
            return web.Response(status=307, headers={"Location": self.elsewhere + request.path_qs})
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _state(self, _request: web.Request) -> web.Response:
        return await self._answer({"state": "SERVER_ACTIVE"})

    async def _balance(self, request: web.Request) -> web.Response:
        return await self._answer({"remote_balance": {"sat": "5000", "msat": "5000123"}}, request)

    async def _answer(self, body: Any, request: web.Request | None = None) -> web.Response:
        if self.refusal is not None:
            status, said = self.refusal
            return web.Response(status=status, text=said if isinstance(said, str) else json.dumps(said))
        if request is not None and request.headers.get("Grpc-Metadata-macaroon") != self.macaroon.hex():
            return web.json_response({"code": 2, "message": "verification failed: signature mismatch", "details": []}, status=500)
        return web.json_response(body)

    async def _getinfo(self, request: web.Request) -> web.Response:
        if self.on_ask is not None:
            await self.on_ask()
        chains = [{"chain": "bitcoin", "network": self.network}]
        info = {"identity_pubkey": PAYEE, "version": "0.21.2-beta commit=v0.21.2", "synced_to_chain": self.synced, "chains": chains}
        return await self._answer(info, request)

    async def _add(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.asked.append(("POST", request.path, body))
        shown = self.put(len(self.invoices) + 1, amount_msat=int(body["value_msat"]))
        return await self._answer({key: shown[key] for key in ("r_hash", "payment_request")}, request)

    async def _look(self, request: web.Request) -> web.Response:
        self.asked.append(("GET", request.path, None))
        shown = self.invoices.get(request.match_info["hash"])
        if shown is None and self.refusal is None:
            return web.json_response({"code": 5, "message": "unable to locate invoice", "details": []}, status=404)
        return await self._answer(shown, request)

    async def _subscribe(self, request: web.Request) -> web.StreamResponse:
        self.subscribed.append(request.query_string)
        queue: asyncio.Queue[Any] = asyncio.Queue()
        refused = [{"error": self.refusal[1]}] if self.refusal is not None and isinstance(self.refusal[1], dict) else []
        for message in refused or self.stream:
            queue.put_nowait(message)
        self.live.append(queue)
        if request.headers.get("Upgrade", "").lower() != "websocket":
            return await self._chunked(request, queue)
        if not self.websocket:
            return web.Response(status=400, text="this proxy knows no WebSocket")
        socket = web.WebSocketResponse(autoping=not self.deaf)
        await socket.prepare(request)
        reading = asyncio.ensure_future(_drain(socket))
        reading.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while (message := await queue.get()) is not None:
                await socket.send_str(message if isinstance(message, str) else json.dumps(message))
        finally:
            reading.cancel()
        return socket

    async def _chunked(self, request: web.Request, queue: asyncio.Queue[Any]) -> web.StreamResponse:
        response = web.StreamResponse()
        first = await queue.get()  # as LND: not even headers come before the first event
        if isinstance(first, web.Response):
            return first
        await response.prepare(request)
        message = first
        while message is not None:
            await response.write(json.dumps(message).encode() + b"\n")
            message = await queue.get()
        return response


async def _drain(socket: web.WebSocketResponse) -> None:
    while (await socket.receive()).type not in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR):
        pass


@dataclass
class FakeLnbits:
    """One LNbits wallet. `payments` are the rows as LNbits shows them, newest first."""

    network: str = "regtest"
    secret: int = SECRET
    refusal: tuple[int, Any] | None = None
    payments: list[dict[str, Any]] = field(default_factory=list)
    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    live: list[web.WebSocketResponse] = field(default_factory=list)
    keys: set[str] = field(default_factory=lambda: {KEY, ADMIN_KEY})

    def app(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.get("/api/v1/wallet", self._wallet),
                web.get("/api/v1/payments", self._list),
                web.post("/api/v1/payments", self._add),
                web.get("/api/v1/payments/{hash}", self._look),
                web.get("/api/v1/ws/{item}", self._socket),
            ]
        )
        return app

    def put(
        self, number: int, *, amount_msat: int = 250_000, status: str = "pending", preimage: str | None = "", expiry_seconds: int = 600
    ) -> dict[str, Any]:
        own = number.to_bytes(32)
        payment_hash = hashlib.sha256(own).digest()
        text = invoice_text(payment_hash, abs(amount_msat), expiry_seconds=expiry_seconds, network=self.network, secret=self.secret)
        row = {
            "payment_hash": payment_hash.hex(),
            "amount": amount_msat,
            "fee": 0,
            "bolt11": text,
            "status": status,
            "preimage": own.hex() if preimage == "" else preimage,
            "updated_at": "2026-10-01T00:00:05.123456+00:00",
        }
        self.payments.insert(0, row)
        return row

    async def push(self, text: str) -> None:
        for socket in self.live:
            await socket.send_str(text)

    def _refused(self, request: web.Request) -> web.Response | None:
        self.asked.append((request.method, request.path, None))
        if self.refusal is not None:
            status, said = self.refusal
            headers = {"Location": "/first_install"} if status == 307 else {}
            return web.Response(status=status, text=said if isinstance(said, str) else json.dumps(said), headers=headers)
        if request.headers.get("X-Api-Key") not in self.keys:
            return web.json_response({"detail": "Wallet not found."}, status=404)
        return None

    async def _wallet(self, request: web.Request) -> web.Response:
        shown = {"name": "shop", "balance": 7_000} | ({"id": "5" * 32} if request.headers.get("X-Api-Key") == ADMIN_KEY else {})
        return self._refused(request) or web.json_response(shown)

    async def _list(self, request: web.Request) -> web.Response:
        return self._refused(request) or web.json_response(self.payments[: int(request.query["limit"])])

    async def _add(self, request: web.Request) -> web.Response:
        refused = self._refused(request)
        if refused is not None:
            return refused
        body = await request.json()
        self.asked[-1] = ("POST", request.path, body)
        row = self.put(len(self.payments) + 1, amount_msat=body["amount"] * 1_000, expiry_seconds=body["expiry"])
        return web.json_response(row, status=201)

    async def _look(self, request: web.Request) -> web.Response:
        self.asked.append(("GET", request.path, None))
        row = next((row for row in self.payments if row["payment_hash"] == request.match_info["hash"]), None)
        if self.refusal is not None:
            return self._refused(request) or web.Response()
        if row is None:
            return web.json_response({"detail": "Payment does not exist."}, status=404)
        paid = row["status"] == "success"
        said = {"paid": paid, "status": row["status"], "preimage": row["preimage"] if paid else None}
        known = request.headers.get("X-Api-Key") in self.keys  # anyone may ask, and is told less
        return web.json_response(said | ({"details": row} if known else {}))

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(("WS", request.path, None))
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.live.append(socket)
        await _drain(socket)
        return socket
