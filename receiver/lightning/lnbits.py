"""LNbits: a wallet on somebody's server, reached with its invoice/read key, in front of whatever node stands behind it.

Source: LNbits' API as its own `/docs` describes it, and what LNbits 1.6.2 was seen to do, which the tests hold.

Its WebSocket can be written by anyone who knows the key it is named after, and a lookup can be asked by anyone: a message is a hint
to look, and an answer counts only with the `details` that it gives to the wallet itself. It has no cursor, so what is missed is
found by looking. It says nowhere which node signs its invoices: that is read from one of them.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from receiver.core.invoices import MSAT_PER_SAT, SECOND_NANO, NodeState
from receiver.lightning import bolt11
from receiver.lightning.client import Hint, Invoice, Node, NodeRefused, NodeUnavailable
from receiver.lightning.credential import Credential, CredentialRefused
from receiver.lightning.rest import Answer, Json, NoWebSocket, Rest

VERSION: Final = "LNbits"  # it tells its version to administrators only
#: Longest memo that it takes, in characters.
MOST_MEMO: Final = 640
#: How many of the wallet's newest payments are searched for an invoice of its own.
_SEARCHED: Final = 20
#: An invoice that is made only to read from it which node signs, when the wallet has none yet; nobody is shown it.
_PROBE_SAT: Final = 1
_PROBE_SECONDS: Final = 60
#: What a wallet's key looks like; whatever else stands in its file goes into no header and no address.
_KEY: Final = re.compile(r"[0-9A-Za-z_-]{16,128}")
_HASH: Final = re.compile(r"[0-9a-fA-F]{64}")
_SHOWN: Final = 300


@dataclass(frozen=True, slots=True)
class Signer:
    """Who signs the wallet's invoices."""

    payee: str
    network: str


class LnbitsClient:
    """A `LightningClient` for one LNbits wallet. One event loop owns it."""

    name = "lnbits"

    def __init__(self, rest: Rest, credential: Credential, *, network: str) -> None:
        """`network`: the one that the invoices must be of."""
        self.rest = rest
        self.credential = credential
        self._network = network
        self._checked = ""  # the key that is known to be one that only receives
        self._signer: Signer | None = None

    async def node(self) -> Node:
        await self.wallet()
        if self._signer is None:
            self._signer = await self._find_signer() or await self._probe_signer()
        if self._signer.network != self._network:
            found, self._signer = self._signer.network, None
            raise NodeRefused(f"the invoices of this LNbits wallet are for {found}, and lightning.network is {self._network}")
        return Node(payee=self._signer.payee, network=self._signer.network, version=VERSION)

    async def create(self, *, amount_msat: int, description: str, expiry_seconds: int, description_hash: bytes | None = None) -> Invoice:
        if amount_msat % MSAT_PER_SAT:
            raise NodeRefused("LNbits makes invoices over whole satoshis only, and would drop the rest silently")
        body = {
            "out": False,
            "unit": "sat",
            "amount": amount_msat // MSAT_PER_SAT,
            "memo": description[:MOST_MEMO],
            "expiry": expiry_seconds,
        }
        if description_hash is not None:
            body["description_hash"] = description_hash.hex()
        answer = await self._call("POST", "/api/v1/payments", body=body)
        made = _payment(answer)
        text = str(made.get("bolt11") or made.get("payment_request"))
        # A server that was moved to another node says so only here; its next invoice is then expected to be of that node.
        self._signer = _signer(text) or self._signer
        return Invoice(payment_hash=_hash(made.get("payment_hash")), bolt11=text, state=NodeState.OPEN)

    async def lookup(self, payment_hash: bytes) -> Invoice:
        answer = await self._ask("GET", f"/api/v1/payments/{payment_hash.hex()}")
        if answer.status == 404:
            return Invoice(payment_hash=payment_hash, bolt11="", state=NodeState.UNKNOWN)
        said = _payment(_checked(answer))
        if not isinstance(said.get("details"), dict):
            raise CredentialRefused(f"LNbits does not know the key in {self.credential.origin} any more: it was replaced")
        details = _payment(said["details"])
        if _hash(details.get("payment_hash")) != payment_hash:
            raise NodeRefused("LNbits answered a lookup with another payment")
        paid = said.get("paid") is True
        failed = said.get("status") == "failed" or details.get("status") == "failed"
        return Invoice(
            payment_hash=payment_hash,
            bolt11=str(details.get("bolt11") or ""),
            state=NodeState.SETTLED if paid else NodeState.CANCELED if failed else NodeState.OPEN,
            received_msat=_received_msat(details) if paid else 0,
            settled_unix_nano=_unix_nano(details.get("updated_at")) if paid else 0,
            preimage=_preimage(said.get("preimage") or details.get("preimage")) if paid else b"",
        )

    @asynccontextmanager
    async def subscribe(self, cursor: str | None) -> AsyncIterator[AsyncIterator[Hint]]:  # noqa: ARG002 -- it has no cursor
        key = await self.key()
        try:
            async with self.rest.messages(f"/api/v1/ws/{key}", {}) as messages:
                yield _hints(messages)
        except NoWebSocket as refusal:
            raise NodeUnavailable(f"no WebSocket to the LNbits server (HTTP {refusal}); payments are found by looking") from None

    async def close(self) -> None:
        await self.rest.close()

    async def wallet(self) -> Json:
        """What the wallet says of itself: its name and balance.

        Raises:
            CredentialRefused: the key is the admin key, or none.
            NodeUnavailable: no answer.
        """
        key = self._read()
        wallet = _payment(await self._call("GET", "/api/v1/wallet", key=key))
        if "id" in wallet:  # told to the admin key alone
            raise CredentialRefused(
                f"the key in {self.credential.origin} is the wallet's admin key, so it is not used: whoever breaks in here could"
                " empty the wallet. Take the invoice/read key, which stands beside it in the wallet's API information"
            )
        if key != self._checked:
            self._checked, self._signer = key, None
        return wallet

    async def key(self) -> str:
        """The key, once it is known that it cannot pay."""
        key = self._read()
        if key != self._checked:
            await self.wallet()
        return key

    async def _find_signer(self) -> Signer | None:
        """From the newest invoice of the wallet, if it has one."""
        path = f"/api/v1/payments?limit={_SEARCHED}&sortby=time&direction=desc"
        answer = await self._call("GET", path)
        payments = answer if isinstance(answer, list) else []
        own = [each for each in payments if isinstance(each, dict) and isinstance(each.get("amount"), int) and each["amount"] > 0]
        signers = [signer for each in own if (signer := _signer(str(each.get("bolt11"))))]
        return signers[0] if signers else None

    async def _probe_signer(self) -> Signer:
        await self.create(amount_msat=_PROBE_SAT * MSAT_PER_SAT, description="Which node is it?", expiry_seconds=_PROBE_SECONDS)
        if self._signer is None:
            raise NodeRefused("the LNbits wallet makes no invoices that can be read")
        return self._signer

    async def _call(self, method: str, path: str, *, body: Json | None = None, key: str = "") -> Any:
        return _checked(await self._ask(method, path, body=body, key=key))

    async def _ask(self, method: str, path: str, *, body: Json | None = None, key: str = "") -> Answer:
        return await self.rest.ask(method, path, {"X-Api-Key": key or await self.key()}, body=body)

    def _read(self) -> str:
        secret = self.credential.read()
        key = secret.decode("ascii", "replace")
        if _KEY.fullmatch(key) is None:
            raise CredentialRefused(f"{self.credential.origin} holds no key of an LNbits wallet")
        return key


async def _hints(messages: AsyncGenerator[Json, None]) -> AsyncIterator[Hint]:
    async for message in messages:
        payment = message.get("payment")
        told = payment.get("payment_hash") if isinstance(payment, dict) else None
        if isinstance(told, str) and _HASH.fullmatch(told):
            yield Hint(bytes.fromhex(told))


def _checked(answer: Answer) -> Any:
    """The body of an answer that is one; raises what any other means."""
    if answer.status in (200, 201) and answer.body is not None:
        return answer.body
    detail = answer.body.get("detail") if isinstance(answer.body, dict) else None
    said = f"{str(detail)[:_SHOWN]} (HTTP {answer.status})" if detail else f"HTTP {answer.status}"
    if answer.status in (401, 403, 404):
        raise CredentialRefused(f"LNbits does not take the key: {said}")
    if answer.status >= 500 or answer.passing or answer.body is None:
        # 520 is how it says that the node behind it failed.
        raise NodeUnavailable(f"LNbits, or the node behind it, cannot answer just now: {said}")
    raise NodeRefused(f"LNbits refuses: {said}")


def _payment(answer: Any) -> Json:
    if not isinstance(answer, dict):
        raise NodeRefused("LNbits gave an answer that is not of the form that it documents")
    return answer


def _hash(text: Any) -> bytes:
    if not isinstance(text, str) or _HASH.fullmatch(text) is None:
        raise NodeRefused("LNbits gave an answer without a payment hash")
    return bytes.fromhex(text)


def _received_msat(details: Json) -> int:
    """What the wallet was credited; 0 for the other side of a payment that it made to itself. Never reckoned from a fee."""
    amount = details.get("amount")
    return amount if isinstance(amount, int) and not isinstance(amount, bool) and amount > 0 else 0


def _preimage(text: Any) -> bytes:
    """None or zeros where the node behind it told none."""
    if not isinstance(text, str) or _HASH.fullmatch(text) is None or not text.strip("0"):
        return b""
    return bytes.fromhex(text)


def _signer(text: str) -> Signer | None:
    try:
        said = bolt11.decode(text)
    except bolt11.MalformedInvoice:
        return None
    return Signer(said.payee, said.network)


def _unix_nano(text: Any) -> int:
    """An ISO 8601 time with its offset; 0 where it is none."""
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return 0
    return int(moment.timestamp()) * SECOND_NANO if moment.tzinfo else 0
