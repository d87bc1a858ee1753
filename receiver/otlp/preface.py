"""Protocols that came to the wrong port: seen in the first bytes of a connection, named in the log, answered where the client can read it.

The usual mistake is an exporter for one OTLP transport pointed at the port of the other: it fails with an error that names neither.
"""

from __future__ import annotations

import logging
import struct
from typing import Final

logger = logging.getLogger(__name__)

#: Every HTTP/2 connection begins so (RFC 9113 3.4); all of it comes in the first segment.
HTTP2_PREFACE: Final = b"PRI * HTTP/2.0"
#: A TLS record of type handshake, version 3.x (RFC 8446 5.1): no HTTP method begins with byte 0x16.
TLS_HANDSHAKE: Final = b"\x16\x03"
#: RFC 9113 7: "the endpoint requires that HTTP/1.1 be used instead of HTTP/2".
HTTP_1_1_REQUIRED: Final = 0x0D
#: So many peer addresses are remembered as told; one beyond may be told again.
MAX_PEERS: Final = 1_024


def spoken(first: bytes) -> str | None:
    """What the first bytes of a connection to an HTTP/1.1 port speak: "grpc" (HTTP/2), "tls", or None for what may be HTTP/1.1."""
    if first.startswith(HTTP2_PREFACE):
        return "grpc"
    if first.startswith(TLS_HANDSHAKE):
        return "tls"
    return None


def http2_goodbye(message: str) -> bytes:
    """Empty SETTINGS, then GOAWAY whose debug data is `message`: gRPC clients show it in their error."""
    debug = message.encode()[:1_024]
    goaway = struct.pack(">II", 0, HTTP_1_1_REQUIRED) + debug
    return _frame(0x04, b"") + _frame(0x07, goaway)


class WrongProtocol:
    """Says it once for each peer address."""

    def __init__(self) -> None:
        self._told: dict[str, None] = {}

    def tell(self, sentence: str, peer: str) -> None:
        """Log `sentence` unless `peer` was already told of."""
        if peer in self._told:
            return
        if len(self._told) >= MAX_PEERS:
            del self._told[next(iter(self._told))]
        self._told[peer] = None
        logger.warning(sentence)


def _frame(kind: int, payload: bytes) -> bytes:
    """An HTTP/2 frame on stream 0 without flags (RFC 9113 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes((kind, 0)) + bytes(4) + payload
