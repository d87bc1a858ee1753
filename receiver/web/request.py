"""A request as handlers see it: what stands in its path and query, who it is, and a small JSON body when that is asked for.

A body is read only when a handler wants it, after the guard, up to a size and within a time, so that nobody can make the daemon
hold bytes by sending them slowly.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Mapping
from typing import Any, Final, TypeVar
from urllib.parse import parse_qs, unquote

from aiohttp import web
from aiohttp.web import RequestPayloadError

from receiver.otlp.http_connection import BodyBroken, Connection
from receiver.web.guard import Refused

#: The largest body of any route is a few fields; an invoice of 1 KB is the longest of them.
MAX_BODY_BYTES: Final = 64 * 1024
#: A body of that size arrives in one round trip; a link that needs longer than this is not used for administration.
BODY_TIMEOUT_SECONDS: Final = 10.0
#: Fields of a query; the route with the most has six.
MAX_QUERY_FIELDS: Final = 16


T = TypeVar("T")


class Request:
    """One request that the guard let in."""

    __slots__ = ("_http", "_query", "_values", "account")

    def __init__(self, http: web.BaseRequest, *, values: Mapping[str, str] | None = None, account: str = "") -> None:
        self._http = http
        self._values = values or {}
        self._query: dict[str, list[str]] | None = None
        #: on the customers' listener the account of the key ("default" while no keys exist); on the operator's who holds the key or
        #: "operator" for the token, "" where none was asked for
        self.account = account

    @property
    def method(self) -> str:
        return self._http.method

    @property
    def path(self) -> str:
        """As it was sent, without the query."""
        return self._http.raw_path.partition("?")[0]

    @property
    def address(self) -> str:
        """Where the connection comes from: a client's address, or that of the proxy before us."""
        return self._http.remote or ""

    def header(self, name: str, default: str = "") -> str:
        """The first header of that name."""
        return self._http.headers.get(name, default)

    def path_value(self, name: str) -> str:
        """What stands in the path where the route has `{name}`, percent-decoded, never empty."""
        return self._values[name]

    def query(self, name: str, default: str | None = None) -> str | None:
        """The last value of `name` in the query, `default` where it is not there. "" when it is there without a value.

        Raises:
            Refused: 400 bad_query; the query is no text, or has more fields than any route knows.
        """
        if self._query is None:
            try:
                text = self._http.raw_path.partition("?")[2]
                self._query = parse_qs(text, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS, errors="strict")
            except ValueError as error:  # UnicodeDecodeError is one
                raise Refused(400, "bad_query", f"the query must be UTF-8 with at most {MAX_QUERY_FIELDS} fields") from error
        values = self._query.get(name)
        return default if values is None else values[-1]

    async def while_there(self, work: Awaitable[T]) -> T:
        """What `work` returns; it is cancelled when the client leaves, for whom it waits. Not for what must be done once begun."""
        connection = self._http.protocol
        assert isinstance(connection, Connection)
        return await connection.while_there(work)

    async def json_object(self, limit: int = MAX_BODY_BYTES) -> dict[str, Any]:
        """The body, which must be one JSON object; an absent body is an empty one.

        Raises:
            Refused: 400 bad_json (no JSON, no object, text that is no Unicode), 408 timed_out, 413 too_large, 415 unsupported_type.
        """
        if self.header("Content-Encoding", "identity").strip().lower() != "identity":
            raise Refused(415, "unsupported_type", "send the body without Content-Encoding")
        return _object(await self._body(limit))

    async def _body(self, limit: int) -> bytes:
        http, content = self._http, self._http.content
        too_large = Refused(413, "too_large", f"the body may have {limit:,} bytes")
        if (http.content_length or 0) > limit:
            raise too_large
        if self.header("Expect").lower() == "100-continue" and not content.is_eof():
            await http.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            http.writer.output_size = 0  # an interim answer is none yet; aiohttp's own handler of `Expect` does the same
        connection = http.protocol
        assert isinstance(connection, Connection)
        body = bytearray()
        connection.expect_body(content)
        try:
            async with asyncio.timeout(BODY_TIMEOUT_SECONDS):
                while chunk := await content.readany():
                    body += chunk
                    if len(body) > limit:
                        raise too_large
        except (BodyBroken, RequestPayloadError) as error:
            raise Refused(400, "malformed", "the chunks of the body are no valid HTTP/1.1 (RFC 9112 7.1)") from error
        except TimeoutError as error:
            raise Refused(408, "timed_out", f"the body was not complete within {BODY_TIMEOUT_SECONDS:g} s") from error
        finally:
            connection.expect_body(None)
        return bytes(body)


def match(template: str, path: str) -> Mapping[str, str] | None:
    """The values of `{name}` segments where `path` (percent-encoded) fits `template`, None where it does not.

    A value may hold an encoded slash (`acme%2Fteam`). A segment that is empty or no UTF-8 fits nothing.
    """
    wanted, found = template.split("/"), path.split("/")
    if len(wanted) != len(found):
        return None
    values: dict[str, str] = {}
    for want, have in zip(wanted, found, strict=True):
        if not want.startswith("{"):
            if want != have:
                return None
            continue
        try:
            value = unquote(have, errors="strict")
        except UnicodeDecodeError:
            return None
        if not value:
            return None
        values[want[1:-1]] = value
    return values


def _object(body: bytes) -> dict[str, Any]:
    if not body:
        return {}
    try:
        value = json.loads(body.decode(), parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair is no text, and nobody could store it
    except (ValueError, RecursionError) as error:
        raise Refused(400, "bad_json", "the body is no JSON (RFC 8259) in UTF-8") from error
    if not isinstance(value, dict):
        raise Refused(400, "bad_json", "the body must be one JSON object")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
