"""HTTP to a node, for both adapters: one pinned certificate, one credential, a deadline for each call, and two kinds of failure.

Rule 1: the credential is sent only over a connection whose certificate was checked, and follows no redirect.
Rule 2: no error from here holds what was sent or what was answered but for the node's own message: requests carry the credential,
        answers about unpaid invoices carry preimages.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp

from receiver.lightning.client import NodeRefused, NodeUnavailable

Json = dict[str, Any]

#: The same answer from another connection would come no sooner: a node on the other side of the world answers within 2 s.
ASK_SECONDS: Final = 15.0
#: Larger than any invoice with all its parts (LND lists each HTLC).
MOST_BYTES: Final = 4 << 20
#: A silent WebSocket is asked whether it lives after this; half of it later it counts as dead.
HEARTBEAT_SECONDS: Final = 30.0
#: A peer that does not answer our good-bye is left.
_CLOSE_SECONDS: Final = 1.0
#: Connections at once to one node; the watcher looks up 8 at a time.
_CONNECTIONS: Final = 16
#: What a proxy says while the node behind it is not there, and any server that has too much to do.
_PASSING_STATUS: Final = frozenset({408, 425, 429, 502, 503, 504})


class Redirected(NodeRefused):
    """The address is not that of the node's interface."""


class NoWebSocket(Exception):
    """The server, or a proxy before it, answered the handshake with HTTP."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    body: Any  #: parsed JSON; None when it was none

    @property
    def passing(self) -> bool:
        """Whether the status itself says that waiting helps."""
        return self.status in _PASSING_STATUS


class Rest:
    """A server's interface. One event loop owns it."""

    def __init__(self, url: str, *, cert_file: str = "") -> None:
        """`cert_file`: PEM; the server must show exactly this certificate. Without it the system's authorities vouch for it."""
        self.url = url.rstrip("/")
        self._cert_file = Path(cert_file) if cert_file else None
        self._session: aiohttp.ClientSession | None = None

    async def ask(
        self, method: str, path: str, headers: dict[str, str], *, body: Json | None = None, seconds: float = ASK_SECONDS
    ) -> Answer:
        """One call.

        Raises:
            NodeUnavailable: no whole answer came within `seconds`.
            NodeRefused: the server is not the one that is expected.
        """
        timeout = aiohttp.ClientTimeout(total=seconds)
        async with (
            self._translated(seconds),
            self._open().request(
                method, self.url + path, json=body, headers=headers, timeout=timeout, ssl=self._pin(), allow_redirects=False
            ) as response,
        ):
            self._check_redirect(response.status)
            text = await response.content.read(MOST_BYTES + 1)
            while len(text) <= MOST_BYTES and (more := await response.content.read(MOST_BYTES + 1)):
                text += more
            return Answer(response.status, _parsed(text))

    @asynccontextmanager
    async def lines(self, path: str, headers: dict[str, str], *, seconds: float) -> AsyncIterator[AsyncGenerator[Json, None]]:
        """The JSON objects, one a line, of an answer that goes on for at most `seconds`; one with "error" where it is none.

        Entering sends the request and does not wait: such a server may send nothing, not even that it heard, until there is
        something to tell.
        """
        until = asyncio.get_running_loop().time() + seconds
        asking = asyncio.ensure_future(self._asked(path, headers))
        stream = self._read(asking, until)
        try:
            yield stream
        finally:
            await stream.aclose()
            asking.cancel()
            for response in await asyncio.gather(asking, return_exceptions=True):
                if isinstance(response, aiohttp.ClientResponse):
                    response.close()

    async def _asked(self, path: str, headers: dict[str, str]) -> aiohttp.ClientResponse:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=ASK_SECONDS)
        return await self._open().get(
            self.url + path, headers=headers, timeout=timeout, ssl=self._pin(), allow_redirects=False, read_bufsize=MOST_BYTES
        )

    async def _read(self, asking: asyncio.Future[aiohttp.ClientResponse], until: float) -> AsyncGenerator[Json, None]:
        while True:
            async with self._translated(ASK_SECONDS):
                try:
                    async with asyncio.timeout_at(until):
                        response = await asking
                        self._check_redirect(response.status)
                        line = await response.content.readline()
                except aiohttp.ServerTimeoutError:
                    raise
                except TimeoutError:
                    return  # its time was over
            if not line and response.status == 200:
                return
            if response.status != 200:
                said = _message(line)
                error = said.get("error")
                yield {"error": (error if isinstance(error, dict) else said) | {"status": response.status}}
                return
            yield _message(line)

    @asynccontextmanager
    async def messages(self, path: str, headers: dict[str, str]) -> AsyncIterator[AsyncGenerator[Json, None]]:
        """The JSON objects that come over a WebSocket, until it closes.

        Raises:
            NoWebSocket: the handshake failed, but the server is there.
            NodeUnavailable, NodeRefused: as `ask`.
        """
        limits = aiohttp.ClientWSTimeout(ws_receive=None, ws_close=_CLOSE_SECONDS)
        async with self._translated(ASK_SECONDS):
            try:
                async with asyncio.timeout(ASK_SECONDS):
                    socket = await self._open().ws_connect(
                        self.url + path,
                        headers=headers,
                        timeout=limits,
                        heartbeat=HEARTBEAT_SECONDS,
                        ssl=self._pin(),
                        max_msg_size=MOST_BYTES,
                    )
            except aiohttp.WSServerHandshakeError as refusal:
                if refusal.status in _PASSING_STATUS:
                    raise NodeUnavailable(f"the Lightning node's server answered HTTP {refusal.status}") from None
                raise NoWebSocket(str(refusal.status)) from None
        stream = self._heard(socket)
        try:
            yield stream
        finally:
            await stream.aclose()
            await socket.close()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _heard(self, socket: aiohttp.ClientWebSocketResponse[bool]) -> AsyncGenerator[Json, None]:
        while True:
            message = await socket.receive()
            match message.type:
                case aiohttp.WSMsgType.TEXT | aiohttp.WSMsgType.BINARY:
                    yield _message(message.data)
                case aiohttp.WSMsgType.ERROR:
                    raise NodeUnavailable("the Lightning node's stream broke off")
                case _:
                    return

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            following = aiohttp.TraceConfig()
            following.on_request_redirect.append(self._stay)  # a WebSocket's handshake cannot be told otherwise
            connector, jar = aiohttp.TCPConnector(limit=_CONNECTIONS), aiohttp.DummyCookieJar()
            self._session = aiohttp.ClientSession(connector=connector, cookie_jar=jar, trace_configs=[following])
        return self._session

    def _pin(self) -> aiohttp.Fingerprint | bool:
        """What the server's certificate is checked against. Read each time: nodes renew theirs, and the file with it."""
        if self._cert_file is None:
            return True
        try:
            der = ssl.PEM_cert_to_DER_cert(_first_certificate(self._cert_file.read_text("ascii")))
        except (OSError, ValueError) as error:
            problem = getattr(error, "strerror", None) or "it holds no certificate"
            raise NodeRefused(f"the certificate of the Lightning node, {self._cert_file}, cannot be used: {problem}") from None
        return aiohttp.Fingerprint(hashlib.sha256(der).digest())

    async def _stay(self, _session: object, _context: object, redirect: aiohttp.TraceRequestRedirectParams) -> None:
        self._check_redirect(redirect.response.status)

    def _check_redirect(self, status: int) -> None:
        if 300 <= status < 400:
            raise Redirected(f"{self.url} sends elsewhere (HTTP {status}): give the address of the node's own interface")

    @asynccontextmanager
    async def _translated(self, seconds: float) -> AsyncIterator[None]:
        """The exceptions of aiohttp hold the request with its headers; none leaves this module, not even as a cause."""
        try:
            yield
        except aiohttp.ServerFingerprintMismatch:
            raise NodeRefused(
                f"{self.url} shows another certificate than the one in {self._cert_file}: copy the node's tls.cert anew, if it was renewed"
            ) from None
        except aiohttp.ClientConnectorCertificateError:
            raise NodeRefused(
                f"no authority of this machine vouches for the certificate of {self.url}: name the node's own with cert_file"
            ) from None
        except aiohttp.InvalidURL:
            raise NodeRefused(f"{self.url} is no address") from None
        except aiohttp.WSServerHandshakeError:
            raise
        except TimeoutError:
            raise NodeUnavailable(f"the Lightning node at {self.url} gave no answer within {seconds:g} s") from None
        except aiohttp.ClientConnectorError as error:
            problem = error.strerror or type(error.os_error).__name__
            raise NodeUnavailable(f"the Lightning node at {self.url} cannot be reached: {problem}") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise NodeUnavailable(f"the connection to the Lightning node at {self.url} broke off ({type(error).__name__})") from None


def _first_certificate(pem: str) -> str:
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    at = pem.index(begin)
    return pem[at : pem.index(end, at)] + end


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text) if len(text) <= MOST_BYTES else None
    except (ValueError, RecursionError):
        return None


def _message(text: str | bytes) -> Json:
    """One message of a stream; an empty one where it is no JSON object, which says nothing to anyone."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}
