"""How a verb acts: over the operator's API, whether a daemon runs or not.

While a daemon holds the data folder it is asked. While none does, the books are opened here, in a thread, behind the same API on
loopback, and closed again afterwards. So each act has one code path, one check and one error, and none works past the lock.

Commands that run at once meet like that, too: one opens the books, the others ask it, and when it ends before they are done the next
one opens them. Nothing that may have been heard is asked twice.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

import click

from receiver.access.operator_token import read_token
from receiver.access.operator_url import NoOperatorListener, read_url
from receiver.config import Config
from receiver.errors import ReceiverError
from receiver.logs import printable
from receiver.store.folder import Folder, FolderInUse

#: An act is one commit; a daemon that needs longer is in trouble, and whoever asks should hear it.
TIMEOUT_SECONDS: Final = 30.0
#: A daemon that holds the folder but has not said where it is, is just starting: it binds its listeners within a moment.
STARTING_SECONDS: Final = 5.0
_LOOK_SECONDS: Final = 0.1
#: Statements and reports are the longest answers; beyond this something else is speaking.
_LONGEST_ANSWER_BYTES: Final = 256 * 1024 * 1024


class Failed(click.ClickException):
    """What was asked was not done; the message is the server's own sentence. Exit code 1."""

    def __init__(self, message: str, *, status: int = 0, error: str = "") -> None:
        super().__init__(printable(message))
        self.status = status  #: of HTTP; 0 when there was no answer
        self.error = error  #: the stable word, "" when there was none


class OperatorApi:
    """Calls to one operator's listener. Not for several threads."""

    def __init__(self, url: str, token: str, *, tls: ssl.SSLContext | None = None, again: Callable[[], OperatorApi] | None = None) -> None:
        """`tls`: how an https listener is verified. `again`: finds who is to be asked once nobody listens here any more."""
        self.url = url
        self._token = token
        self._tls = tls
        self._again = again

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
        *,
        wait_seconds: float = 0.0,
    ) -> dict[str, Any]:
        """The answer to one request.

        Args:
            method: "GET", "POST" or "PATCH".
            path: as in the API, its values percent-encoded (`segment`).
            body: sent as JSON; None sends none.
            query: appended to the path; what is None is left out.
            wait_seconds: how long the server may take on purpose (a long poll).

        Raises:
            Failed: the server refused, with its sentence, or does not answer.

        """
        asked = {name: value for name, value in (query or {}).items() if value is not None}
        connection: http.client.HTTPConnection | None = None
        try:
            connection = self._connected(TIMEOUT_SECONDS + wait_seconds)
            headers = {"Authorization": f"Bearer {self._token}", "Accept": "application/json"}
            content = None
            if body is not None:
                content = json.dumps(body).encode()
                headers["Content-Type"] = "application/json"
            connection.request(method, f"{path}?{urlencode(asked)}" if asked else path, body=content, headers=headers)
            answer = connection.getresponse()
            return _read(answer.status, answer.read(_LONGEST_ANSWER_BYTES))
        except ssl.SSLError as error:
            raise Failed(
                f"the daemon at {self.url} cannot be spoken to over TLS ({error.reason}): is [tls] here as it is there?"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise Failed(f"the daemon at {self.url} does not answer ({str(error) or type(error).__name__}): is it running?") from error
        finally:
            if connection is not None:
                connection.close()

    def _connected(self, timeout: float) -> http.client.HTTPConnection:
        """A connection on which nothing was sent yet. Raises OSError."""
        ends = time.monotonic() + STARTING_SECONDS
        while True:
            connection = self._connection(timeout)
            try:
                connection.connect()
            except OSError as error:
                connection.close()
                if self._again is None or not isinstance(error, ConnectionRefusedError) or time.monotonic() >= ends:
                    raise
            else:
                return connection
            time.sleep(_LOOK_SECONDS)
            self._be(self._again())

    def _be(self, other: OperatorApi) -> None:
        """Ask where `other` asks."""
        self.url, self._token, self._tls, self._again = other.url, other._token, other._tls, other._again

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        at = urlsplit(self.url)
        if at.scheme == "https":
            return http.client.HTTPSConnection(at.hostname or "", at.port, timeout=timeout, context=self._tls)
        return http.client.HTTPConnection(at.hostname or "", at.port, timeout=timeout)


def segment(value: str) -> str:
    """A value as a segment of a path: `acme/team` is `acme%2Fteam`."""
    return quote(value, safe="")


@contextmanager
def operator_api(config: Config) -> Iterator[OperatorApi]:
    """The API of the daemon that holds `store.directory`, or of its books opened here. Failed when neither can be had."""
    try:
        with ExitStack() as opened:
            yield _found(config, opened)
    except ReceiverError as error:
        raise Failed(str(error)) from error


def _found(config: Config, opened: ExitStack) -> OperatorApi:
    """Who is to be asked now. `opened`: where books that are opened here are closed again."""
    directory = Path(config.store.directory)
    waited_for, ends = "", 0.0
    while True:
        pid = _holder(directory)
        if pid is None:
            try:
                return OperatorApi(*opened.enter_context(_office(config)))
            except FolderInUse as quicker:
                pid = quicker.pid
        url = read_url(directory, pid)
        if url is not None:
            return OperatorApi(url, read_token(directory), tls=_tls(config), again=lambda: _found(config, opened))
        if pid != waited_for or not ends:
            waited_for, ends = pid, time.monotonic() + STARTING_SECONDS
        elif time.monotonic() >= ends:
            raise NoOperatorListener(
                f"{directory} is in use by {f'the process {pid}' if pid else 'another process'}, which has no operator's listener: set"
                " operator.endpoint there, or stop it first"
            )
        time.sleep(_LOOK_SECONDS)


def _holder(directory: Path) -> str | None:
    """The process that holds the folder ("" while it has not said so), None when nobody does."""
    try:
        with Folder(directory):
            return None
    except FolderInUse as held:
        return held.pid


def _tls(config: Config) -> ssl.SSLContext | None:
    """Trust in the daemon's own certificate and in no other, whatever name it is for: it stands in the configuration of both."""
    if not config.tls.cert_file or config.operator.insecure:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cafile=config.tls.cert_file)
        if config.tls.client_ca_file:  # mutual TLS: shown as the client's too, for want of another
            context.load_cert_chain(config.tls.cert_file, config.tls.key_file)
    except OSError as error:
        raise Failed(f"tls: the certificate cannot be used to reach the daemon ({error})") from error
    return context


@contextmanager
def _office(config: Config) -> Iterator[tuple[str, str]]:
    """The books behind their own operator's listener, in a thread of this process: (URL, token)."""
    from receiver import app  # noqa: PLC0415 -- brings the servers in, which a running daemon makes needless

    opened = threading.Event()
    where: list[tuple[str, str]] = []
    faults: list[BaseException] = []
    loop = asyncio.new_event_loop()
    done = asyncio.Event()

    async def serve() -> None:
        async with app.office(config) as (url, token):
            where.append((url, token))
            opened.set()
            await done.wait()

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(serve())
        except BaseException as fault:  # noqa: BLE001 -- handed to the thread that waits for it
            faults.append(fault)
        finally:
            opened.set()

    thread = threading.Thread(target=run, name="office")
    house = logging.getLogger("receiver")
    level = house.level
    house.setLevel(logging.ERROR)  # what the verb did it says itself, and each refusal is in an answer
    thread.start()
    try:
        opened.wait()
        if where:
            yield where[0]
    finally:
        with suppress(RuntimeError):  # it has ended by itself
            loop.call_soon_threadsafe(done.set)
        thread.join()
        house.setLevel(level)
    if faults:
        raise faults[0]


def _read(status: int, body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
        if not isinstance(answer, dict):
            raise ValueError  # noqa: TRY004, TRY301 -- no JSON object is as foreign as no JSON
    except ValueError as error:
        raise Failed(f"the answer is none of a Spantoll daemon (HTTP {status})", status=status) from error
    if status >= 400:
        raise Failed(str(answer.get("message") or f"HTTP {status}"), status=status, error=str(answer.get("error") or ""))
    return answer
