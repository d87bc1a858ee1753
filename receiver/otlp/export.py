"""The seam between the wire and the house: what both transports ask for, and what they tell of each request.

Two transports, one export. A request is admitted on its headers alone, its bytes are held against a budget while they arrive,
and only then is it decoded and stored. Everything that differs between gRPC and HTTP stays in the two servers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

GRPC: Final = "grpc"  #: the `transport` label's two values
HTTP: Final = "http"

#: The OTLP spec bounds a response to 4 MiB and wants `error_message` cut first; the collector's clients read 64 KiB of a body.
MAX_MESSAGE_BYTES: Final = 1_024


class Encoding(Enum):
    """How the body of a request is written; the answer is written the same way (OTLP spec, OTLP/HTTP Response)."""

    PROTOBUF = "application/x-protobuf"  #: the value is the exact `Content-Type`: clients compare it with `==`
    JSON = "application/json"


class Outcome(Enum):
    """How a request ended: the `outcome` label."""

    ACCEPTED = "accepted"  #: stored whole
    PARTIAL = "partial"  #: stored, some of its spans were rejected alone
    REFUSED = "refused"  #: nothing of it was stored, and the client was told why
    #: the client left before its request had come whole; nothing was stored. Over gRPC also: a message over the limit, which gRPC's core
    #: answers by itself and tells nobody
    ABANDONED = "abandoned"
    DISCARDED = "discarded"  #: metrics or logs, accepted and dropped because the operator said so


@dataclass(frozen=True, slots=True)
class Answer:
    """A request that was stored. `rejected_spans` of it were dropped alone; an `error_message` without any is a warning."""

    rejected_spans: int = 0
    error_message: str = ""  #: English, says what to do; cut at 1 KiB

    def encode(self, encoding: Encoding) -> bytes:
        """The ExportTraceServiceResponse: on full success `partial_success` is left unset, not set to an empty message (OTLP spec)."""
        if not self.rejected_spans and not self.error_message:
            return b"" if encoding is Encoding.PROTOBUF else b"{}"
        message = cut(self.error_message)
        if encoding is Encoding.JSON:
            partial: dict[str, str] = {}
            if self.rejected_spans:
                partial["rejectedSpans"] = str(self.rejected_spans)  # 64-bit integers are decimal strings in JSON Protobuf
            if message:
                partial["errorMessage"] = message
            return json.dumps({"partialSuccess": partial}, separators=(",", ":")).encode()
        text = message.encode()
        inner = b""
        if self.rejected_spans:
            inner += b"\x08" + _varint(self.rejected_spans)  # ExportTracePartialSuccess.rejected_spans = 1 (int64)
        if text:
            inner += b"\x12" + _varint(len(text)) + text  # ExportTracePartialSuccess.error_message = 2 (string)
        return b"\x0a" + _varint(len(inner)) + inner  # ExportTraceServiceResponse.partial_success = 1


class Export(Protocol):
    """What the house does with a request. Every method may raise any ReceiverError; `status.py` says how the client hears of it."""

    def admit(self, authorization: str | None, *, transport: str) -> str:
        """The account of a request, judged on its headers alone: readiness, credential, and whether credit is left for even one span.

        Raises Unauthenticated, AccountDisabled, CreditExhausted, CreditHeld, or Overloaded ("starting", "shutdown", "ledger_unavailable").
        """

    def reserve(self, account: str, size: int) -> None:
        """Hold `size` more bytes in flight; raises Overloaded("memory")."""

    def release(self, account: str, size: int) -> None:
        """Give back bytes that `reserve` granted."""

    async def export(self, account: str, body: bytes, *, encoding: Encoding, transport: str) -> Answer:
        """Decode and store one request, already inflated. When this returns, the request and its debit are as durable as configured."""


class WireObserver(Protocol):
    """Who counts requests."""

    def request(self, *, transport: str, outcome: Outcome, reason: str, wire_bytes: int, body_bytes: int, seconds: float) -> None:
        """One request ended; called exactly once for each, refused ones too.

        `reason` is "" for accepted ones, else a stable word of `status.py`. `wire_bytes` were read off the socket as body (gRPC
        inflates below us: there it is `body_bytes`), `body_bytes` are what they came to, `seconds` passed since the headers.
        """

    def wrong_protocol(self, *, transport: str, spoken: str) -> None:
        """A connection to the listener of `transport` speaks something else: `spoken` is "grpc", "http" or "tls"."""


def cut(message: str, limit: int = MAX_MESSAGE_BYTES) -> str:
    """`message`, at most `limit` bytes of UTF-8, cut between characters."""
    encoded = message.encode("utf-8", "replace")
    if len(encoded) <= limit:
        return encoded.decode()
    return encoded[: limit - 3].decode("utf-8", "ignore") + "…"


def _varint(value: int) -> bytes:
    """A protobuf base-128 varint, `value` >= 0."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
