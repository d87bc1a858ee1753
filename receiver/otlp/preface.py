"""Protocols that came to the wrong port: seen in the first bytes of a connection, named in the log, answered where the client can read it.

The usual mistake is an exporter for one OTLP transport pointed at the port of the other: it fails with an error that names neither.
"""

from __future__ import annotations

import logging
from typing import Final

logger = logging.getLogger(__name__)

#: Every HTTP/2 connection begins so (RFC 9113 3.4); all of it comes in the first segment.
HTTP2_PREFACE: Final = b"PRI * HTTP/2.0"
#: A TLS record of type handshake, version 3.x (RFC 8446 5.1): no HTTP method begins with byte 0x16.
TLS_HANDSHAKE: Final = b"\x16\x03"
#: So many peer addresses are remembered as told; one beyond may be told again.
MAX_PEERS: Final = 1_024


def spoken(first: bytes) -> str | None:
    """What the first bytes of a connection to an HTTP/1.1 port speak: "grpc" (HTTP/2), "tls", or None for what may be HTTP/1.1."""
    if first.startswith(HTTP2_PREFACE):
        return "grpc"
    if first.startswith(TLS_HANDSHAKE):
        return "tls"
    return None


def http1_goodbye(message: str) -> bytes:
    """An HTTP/1.1 answer to an HTTP/2 client.

    gRPC clients recognise it ("Trying to connect an http1.x server") and back off. A proper HTTP/2 GOAWAY would make them connect again
    at once and forever, since a server that sent SETTINGS counts as one that works.
    """
    body = (message + "\n").encode()
    return b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


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
