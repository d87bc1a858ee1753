"""Who may come in at all. A listener on loopback is not private: every web page in the operator's browser can reach it.

A page of another origin can send a request to 127.0.0.1, through a name of its own that it points there (DNS rebinding) or as a
plain form. So each request must be addressed to a name of ours (`Host`), must not come from a foreign page (`Origin`,
`Sec-Fetch-Site`), and what changes something must not be of the kinds that a page can send without asking (`text/plain` and the
form types). No CORS header is ever sent, no cookie is read, and GET changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol
from urllib.parse import urlsplit

from multidict import CIMultiDictProxy

from receiver.config import ip_address, is_loopback, parse_endpoint

READS: Final = frozenset({"GET", "HEAD"})

#: On every answer: no sniffing, no framing, no script, no copy in a cache, no reading by other origins.
SECURITY_HEADERS: Final[Mapping[str, str]] = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Server": "spantoll",  # in place of the names and versions of what it is made of
}

#: On pages for people, in place of what is above: scripts, styles and pictures of our own alone, none of them inside the page, and no
#: text ever becomes markup (Trusted Types). `blob:` is the QR code, which is fetched with the key.
PAGE_HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; base-uri 'none';"
        " form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Refused(Exception):
    """A request that is answered with an error: its status, a stable word, and a sentence that says what to do."""

    def __init__(self, status: int, error: str, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.error = error
        self.message = message
        self.headers = dict(headers or {})


class Incoming(Protocol):
    """What the guard looks at: headers alone, so that a refused body is never read."""

    @property
    def method(self) -> str: ...

    @property
    def headers(self) -> CIMultiDictProxy[str]: ...


class Credentials(Protocol):
    """Who may come in."""

    def account(self, authorization: str | None, *, changes: bool) -> str:
        """Who an `Authorization` header names, "" for anyone. Raises Unauthenticated, AccountDisabled.

        `changes`: whether the request is one that changes something, which may ask for more than a look.
        """


class Guard:
    """The checks of one listener."""

    def __init__(self, *, endpoint: str, allowed_hosts: tuple[str, ...] = (), credentials: Credentials) -> None:
        listening = parse_endpoint(endpoint)
        self._hosts = frozenset(name.lower().removesuffix(".") for name in (*allowed_hosts, listening.host))
        self._any_address = not listening.is_loopback
        self._credentials = credentials

    def check(self, request: Incoming, *, is_open: bool, changes: bool, to_strangers: bool = False) -> str:
        """Let the request in, or raise Refused; returns who it is. An `is_open` route asks for no key but all the rest.

        A route that is open `to_strangers` lets in who shows no credential at all, as "".
        """
        is_open = is_open or (to_strangers and "Authorization" not in request.headers)
        self._check_host(request)
        self._check_origin(request)
        if len(request.headers.getall("Authorization", [])) > 1:
            raise Refused(400, "two_credentials", "the request has several Authorization headers: send one")
        account = "" if is_open else self._check_key(request, changes=changes)
        if request.method not in READS:
            self._check_body(request)
        return account

    def _check_host(self, request: Incoming) -> None:
        stated = request.headers.getall("Host", [])
        name = _name_of(stated[0]) if len(stated) == 1 else ""
        # A page cannot own an address, only a name; so off loopback any address that led here is fine.
        if name in self._hosts or is_loopback(name) or (self._any_address and ip_address(name) is not None):
            return
        raise Refused(
            421, "unknown_host", "this listener is not known under the name in the request's Host header: add the name to `allowed_hosts`"
        )

    def _check_origin(self, request: Incoming) -> None:
        origins = request.headers.getall("Origin", [])
        foreign = any(_authority_of(origin) != request.headers.get("Host", "").lower() for origin in origins)
        crossing = request.method not in READS and request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin")
        if foreign or crossing:
            raise Refused(403, "foreign_origin", "the request comes from a web page of another origin, which may not use this listener")

    def _check_key(self, request: Incoming, *, changes: bool) -> str:
        """Raises what the credentials raise."""
        return self._credentials.account(request.headers.get("Authorization"), changes=changes)

    def _check_body(self, request: Incoming) -> None:
        headers = request.headers
        stated = headers.get("Content-Type", "").partition(";")[0].strip().lower()
        has_body = headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in headers
        if stated != "application/json" and (stated or has_body):
            raise Refused(415, "unsupported_type", "send application/json, or no body and no Content-Type")


def _authority_of(origin: str) -> str:
    """What stands for the host in an origin; "" where it is none ("null", or what no URL can be)."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _name_of(host: str) -> str:
    """The name in `name:port`, without brackets and the root's dot; "" where brackets are not closed."""
    host = host.strip().lower()
    if host.startswith("["):
        address, bracket, _ = host[1:].partition("]")
        return address if bracket else ""
    return host.partition(":")[0].removesuffix(".")
