"""LND over its REST interface: invoices made and looked up, and its stream of settlements over a WebSocket.

Source: LND's API reference (lightning.engineering/api-docs/api/lnd), and what LND 0.21.2 was seen to do, which the tests hold.

The stream
    `settle_index=N` replays what was settled after N, then goes on live; 0 replays nothing, so that the node's first settlement
    cannot be replayed at all. With an N above the node's newest the stream stays silent *for new settlements too*. With an SQL store
    the replay is in the order of creation. Hence: a cursor names its payment beside its index, and counts only if the node still
    has that payment at that index; and no cursor is given out until the replay is over, which the first OPEN event tells (a created
    invoice is told of live only).
The answers
    Whatever has no gRPC code is HTTP 500 with code 2: a refused macaroon and a node that is starting alike. Only the words tell.
    An unpaid invoice shows its preimage, which stays in here; a held one shows an amount, which is no money yet.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final

from receiver.core.invoices import SECOND_NANO, NodeState
from receiver.lightning.client import Hint, Invoice, Node, NodeRefused, NodeUnavailable
from receiver.lightning.credential import Credential, CredentialRefused
from receiver.lightning.macaroon import BAKE, NoMacaroon, Rights, rights
from receiver.lightning.rest import Answer, Json, NoWebSocket, Rest

log = logging.getLogger(__name__)

#: `getinfo` hangs while the node's chain backend is gone, and answers at once else.
NODE_SECONDS: Final = 5.0
#: A stream that is refused says so in its first message; by then it either has, or is heard.
SETTLE_SECONDS: Final = 0.5
#: A chunked answer has no pings: nobody can tell a quiet one from a dead one, so it is asked for anew after this.
CHUNKED_SECONDS: Final = 300.0
#: Longest memo that LND takes, in bytes.
MOST_MEMO_BYTES: Final = 1_024

_STATES: Final = {
    "OPEN": NodeState.OPEN,
    "ACCEPTED": NodeState.HELD,
    "SETTLED": NodeState.SETTLED,
    "CANCELED": NodeState.CANCELED,
}
#: As `getinfo` calls them, and as invoices do.
_NETWORKS: Final = {"mainnet": "bitcoin", "testnet": "testnet", "testnet4": "testnet", "signet": "signet", "regtest": "regtest"}
#: gRPC codes of answers that waiting can mend: canceled (the node stops), deadline, exhausted, aborted, unavailable.
_PASSING_CODES: Final = frozenset({1, 4, 8, 10, 14})
_NOT_FOUND: Final = 5
#: A node that starts or stops, in its own words, all with code 2.
_NOT_READY: Final = re.compile(
    r"waiting to start|wallet (?:is )?locked|wallet not (?:created|found)|starting up|still starting|shutting down", re.IGNORECASE
)
#: A macaroon that it does not take.
_MACAROON: Final = re.compile(r"macaroon|permission denied|verification failed|caveat|encoding/hex|unmarshal", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Opened:
    """A credential that may be sent."""

    secret: bytes = field(repr=False)
    rights: Rights

    @property
    def headers(self) -> dict[str, str]:
        return {"Grpc-Metadata-macaroon": self.secret.hex()}


class LndClient:
    """A `LightningClient` for one LND node. One event loop owns it."""

    name = "lnd"

    def __init__(self, rest: Rest, credential: Credential, *, network: str, route_hints: bool = False) -> None:
        """`network`: the one that the node must be on. `route_hints`: invoices name the node's private channels."""
        self.rest = rest
        self.credential = credential
        self._network = network
        self._route_hints = route_hints
        self._opened: Opened | None = None
        self._known: Node | None = None  # who it was when it last said so; as long as its macaroon is taken it is the same node

    def opened(self) -> Opened:
        """The macaroon, once it is known that it can receive and not pay.

        Raises:
            CredentialRefused: it is none, can pay, or lacks a right.
        """
        secret = _binary(self.credential.read())
        if self._opened is None or self._opened.secret != secret:
            self._opened = self._known = None
            self._opened = Opened(secret, self._checked(secret))
        return self._opened

    async def node(self) -> Node:
        answer: Json = {}
        try:
            answer = await self._call("GET", "/v1/getinfo", seconds=NODE_SECONDS)
        except NodeUnavailable:
            if self._known is None:
                raise
            # Its chain backend may be gone while invoices are answered as ever: who it is does not change by that.
            return replace(self._known, ready=False)
        with _shape():
            said = str(answer["chains"][0]["network"])
            self._known = Node(
                payee=str(answer["identity_pubkey"]).lower(),
                network=_NETWORKS.get(said, said),
                version=f"LND {str(answer['version']).split(' ', maxsplit=1)[0]}",
                ready=answer.get("synced_to_chain") is True,
            )
        if self._known.network != self._network:
            found, self._known = self._known.network, None
            raise NodeRefused(f"the LND node is on {found}, and lightning.network is {self._network}: nothing of it is credited")
        return self._known

    async def create(self, *, amount_msat: int, description: str, expiry_seconds: int, description_hash: bytes | None = None) -> Invoice:
        assert amount_msat > 0 < expiry_seconds  # LND would take 0 for "any amount" and for "a day"
        memo = description.encode()[:MOST_MEMO_BYTES].decode(errors="ignore")
        body = {"value_msat": str(amount_msat), "memo": memo, "expiry": str(expiry_seconds), "private": self._route_hints}
        if description_hash is not None:  # goes into the invoice instead of the memo, which stays with the node
            body["description_hash"] = base64.b64encode(description_hash).decode()
        answer = await self._call("POST", "/v1/invoices", body=body)
        with _shape():
            return Invoice(payment_hash=_bytes(answer["r_hash"]), bolt11=str(answer["payment_request"]), state=NodeState.OPEN)

    async def lookup(self, payment_hash: bytes) -> Invoice:
        answer = await self._find(payment_hash)
        if answer is None:
            return Invoice(payment_hash=payment_hash, bolt11="", state=NodeState.UNKNOWN)
        with _shape():
            state = _STATES[answer["state"]]
            paid = state is NodeState.SETTLED
            return Invoice(
                payment_hash=payment_hash,
                bolt11=str(answer["payment_request"]),
                state=state,
                received_msat=int(answer["amt_paid_msat"]) if paid else 0,
                settled_unix_nano=int(answer["settle_date"]) * SECOND_NANO if paid else 0,
                preimage=_bytes(answer["r_preimage"]) if paid else b"",
            )

    @asynccontextmanager
    async def subscribe(self, cursor: str | None) -> AsyncIterator[AsyncIterator[Hint]]:
        since = await self._resumable(cursor)
        path = f"/v1/invoices/subscribe?settle_index={since}"
        headers = self.opened().headers
        try:
            async with self._heard(self.rest.messages(path, headers), since) as hints:
                yield hints
                return
        except NoWebSocket as refusal:
            log.info("no WebSocket to the Lightning node (HTTP %s), perhaps for a proxy's sake: its chunked stream is used", refusal)
        async with self._heard(self.rest.lines(path, headers, seconds=CHUNKED_SECONDS), since) as hints:
            yield hints

    async def close(self) -> None:
        await self.rest.close()

    async def state(self) -> str:
        """How far the node's start has come: SERVER_ACTIVE at its end. Asks without a credential."""
        answer = await self.rest.ask("GET", "/v1/state", {}, seconds=NODE_SECONDS)
        if answer.status != 200:
            raise failure(answer)
        with _shape():
            return str(answer.body["state"])

    async def receivable_msat(self) -> int:
        """What others hold in the channels with this node: more cannot be paid to it. Needs the right to call ChannelBalance."""
        answer = await self._call("GET", "/v1/balance/channels", seconds=NODE_SECONDS)
        with _shape():
            return int(answer["remote_balance"]["msat"])

    # The stream

    @asynccontextmanager
    async def _heard(
        self, opening: AbstractAsyncContextManager[AsyncGenerator[Json, None]], since: int
    ) -> AsyncIterator[AsyncIterator[Hint]]:
        """The hints of a stream that has had the time to be refused."""
        async with opening as messages:
            first = asyncio.ensure_future(anext(messages, None))
            try:
                await asyncio.wait({first}, timeout=SETTLE_SECONDS)
                if first.done():
                    _raise_if_refused(first.result())
                yield _hints(first, messages, Progress(since))
            finally:
                first.cancel()
                with suppress(asyncio.CancelledError, NodeUnavailable, NodeRefused):
                    await first

    async def _resumable(self, cursor: str | None) -> int:
        """The index to subscribe from: the cursor's, if the node has its payment there, else 0."""
        if cursor is None:
            return 0
        try:
            index, payment_hash = int(cursor.partition(":")[0]), bytes.fromhex(cursor.partition(":")[2])
        except ValueError:
            return 0
        answer = await self._find(payment_hash) if len(payment_hash) == 32 else None
        with _shape():
            if answer is not None and answer["state"] == "SETTLED" and int(answer["settle_index"]) == index:
                return index
        log.warning("the Lightning node does not know its own cursor any more, as one that was set up anew: it is not used")
        return 0

    # The calls

    async def _find(self, payment_hash: bytes) -> Json | None:
        """What the node says of an invoice, None for one that it does not know."""
        assert len(payment_hash) == 32
        try:
            answer = await self._call("GET", f"/v1/invoice/{payment_hash.hex()}")
        except _NoSuchInvoice:
            return None
        with _shape():
            if _bytes(answer["r_hash"]) != payment_hash:
                raise NodeRefused("the LND node answered a lookup with another invoice")
        return answer

    async def _call(self, method: str, path: str, *, body: Json | None = None, seconds: float | None = None) -> Json:
        headers = self.opened().headers
        limits = {} if seconds is None else {"seconds": seconds}
        answer = await self.rest.ask(method, path, headers, body=body, **limits)
        if answer.status == 200 and isinstance(answer.body, dict):
            return answer.body
        raise failure(answer)

    def _checked(self, secret: bytes) -> Rights:
        origin = self.credential.origin
        try:
            found = rights(secret)
        except NoMacaroon as error:
            raise CredentialRefused(f"{origin} holds no macaroon of LND ({error})", BAKE) from None
        if found.beyond_receiving:
            beyond = ", ".join(found.beyond_receiving)
            raise CredentialRefused(
                f"the macaroon in {origin} can do more than receive ({beyond}), so it is not used: whoever breaks in here could empty"
                " the node",
                BAKE,
            )
        if found.missing:
            raise CredentialRefused(f"the macaroon in {origin} may not call {', '.join(found.missing)}", BAKE)
        return found


class Progress:
    """How far a stream was heard, and when that may be said (see above). Pure."""

    def __init__(self, since: int) -> None:
        self._newest = (since, "")
        self._live = since == 0  # nothing is replayed then

    def created(self) -> None:
        """An invoice was created: told of live only, so all that was to be replayed has come."""
        self._live = True

    def settled(self, index: int, payment_hash: bytes) -> str | None:
        """The cursor that stands after this settlement, None while others may be missing before it."""
        self._newest = max(self._newest, (index, payment_hash.hex()))
        return ":".join(map(str, self._newest)) if self._live and self._newest[1] else None


async def _hints(first: asyncio.Future[Json | None], messages: AsyncGenerator[Json, None], progress: Progress) -> AsyncIterator[Hint]:
    message = await first
    while message is not None:
        _raise_if_refused(message)
        invoice = message.get("result", {})
        with _shape():
            if invoice.get("state") == "OPEN":
                progress.created()
            elif invoice.get("state") == "SETTLED":
                payment_hash = _bytes(invoice["r_hash"])
                yield Hint(payment_hash, progress.settled(int(invoice["settle_index"]), payment_hash))
        message = await anext(messages, None)


def failure(answer: Answer) -> NodeUnavailable | NodeRefused:
    """What an answer other than 200 means: whether waiting can mend it."""
    body: Any = answer.body if isinstance(answer.body, dict) else {}
    body = body["error"] if isinstance(body.get("error"), dict) else body
    code, message = body.get("code"), str(body.get("message") or "")[:300]
    said = f"{message} (HTTP {answer.status}, code {code})" if message else f"HTTP {answer.status}"
    if not isinstance(code, int):
        if answer.status in (401, 403):
            return NodeRefused(f"whatever stands before the LND node refuses: {said}")
        if 400 <= answer.status < 500 and not answer.passing:
            return NodeRefused(f"there is no LND REST interface at this address: {said}")
        return NodeUnavailable(f"the LND node gave an answer that is not its own: {said}")
    if _NOT_READY.search(message) or answer.passing or code in _PASSING_CODES:
        return NodeUnavailable(f"the LND node is not ready: {said}")
    if code == _NOT_FOUND and message != "Not Found":  # "Not Found" is an unknown path
        return _NoSuchInvoice(f"the LND node does not know it: {said}")
    if _MACAROON.search(message):
        return CredentialRefused(f"the LND node does not take the macaroon: {said}", BAKE)
    return NodeRefused(f"the LND node refuses: {said}")


class _NoSuchInvoice(NodeRefused):
    """The node has no invoice of this hash."""


def _raise_if_refused(message: Json | None) -> None:
    if message is None:
        raise NodeUnavailable("the LND node ended its stream at once")
    error = message.get("error", message if "code" in message and "result" not in message else None)
    if error is not None:
        status = error.get("status", 500) if isinstance(error, dict) else 500
        raise failure(Answer(status, {"error": error}))


class _shape:  # noqa: N801 -- reads as the `with` that it is
    """An answer that lacks what it must have is not LND's."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, (KeyError, IndexError, ValueError, TypeError, AttributeError)):
            raise NodeRefused("the LND node gave an answer that is not of the form that LND documents") from None


def _bytes(text: str) -> bytes:
    """A hash or preimage; LND writes bytes as base64 in JSON."""
    try:
        found = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError from None
    if len(found) != 32:
        raise ValueError
    return found


def _binary(secret: bytes) -> bytes:
    """A macaroon as it is in LND's own files, also where hexadecimal was kept."""
    try:
        return bytes.fromhex(secret.decode("ascii"))
    except ValueError:
        return secret
