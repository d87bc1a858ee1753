"""The files of the pages, each under a name that holds a hash of what is in it, so that a browser may keep it for ever.

A file refers to another as `./name` (modules) or `/assets/name` (pages); both are put in place here, once, at the first request.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

from aiohttp import web

from receiver.errors import NotFound
from receiver.web.guard import PAGE_HEADERS
from receiver.web.server import Request, Route, response

_TYPES: Final[Mapping[str, str]] = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
#: How a file names another one, in quotes: from a module beside it, or from a page.
_REFERENCE: Final = re.compile(r"""(?<=["'])(\./|/assets/)([a-z-]+)\.(css|js|svg)(?=["'])""")
#: 64 bits: nobody chooses what is hashed here.
_HASH_CHARACTERS: Final = 16
#: The name holds the hash, so what is under it never changes.
_FOR_EVER: Final = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class Asset:
    """One file as it is served."""

    content_type: str
    body: bytes
    etag: str


def page(name: str) -> str:
    """A page of `static/`, with the served names of the files that it refers to. What it holds in `{{}}` is the caller's to fill."""
    return _referring(_read(f"{name}.html"))


def page_response(text: str) -> web.Response:
    """A page with the policy of pages. `/` is a page for browsers and plain text for others."""
    return response(text.encode(), "text/html; charset=utf-8", headers={**PAGE_HEADERS, "Vary": "Accept"})


def wants_page(request: Request) -> bool:
    """Whether a browser asks: it says so, and curl and scripts do not."""
    for part in request.header("Accept").lower().split(","):
        media_type, *parameters = (each.strip() for each in part.split(";"))
        if media_type == "text/html":
            return not any(re.fullmatch(r"q=0(\.0*)?", each) for each in parameters)
    return False


def route() -> Route:
    """Files for everybody: there is nothing of anybody in them."""

    async def asset(request: Request) -> web.Response:
        found = _served().get(request.path_value("asset"))
        if found is None:
            raise NotFound("there is no such file of a page: it may be an older version's, so load the page again")
        headers = {"Cache-Control": _FOR_EVER, "ETag": found.etag}
        if found.etag in request.header("If-None-Match"):
            return response(b"", found.content_type, status=304, headers=headers)
        return response(found.body, found.content_type, headers=headers)

    return Route("GET", "/assets/{asset}", asset, "the files of the page, under names that never change", is_open=True)


@cache
def _served() -> Mapping[str, Asset]:
    """Every file, by the name that it is served under."""
    names = [each.name for each in resources.files(__package__).joinpath("static").iterdir()]
    return dict(_hashed(name) for name in names if name.rpartition(".")[2] in _TYPES)


@cache
def _hashed(name: str) -> tuple[str, Asset]:
    """A file by its plain name. What it refers to is part of what is hashed, so a change reaches every file above it."""
    stem, _, kind = name.rpartition(".")
    body = _referring(_read(name)).encode()
    digest = hashlib.sha256(body).hexdigest()[:_HASH_CHARACTERS]
    return f"{stem}.{digest}.{kind}", Asset(_TYPES[kind], body, f'W/"{digest}"')  # weak: it may be compressed or not


def _referring(text: str) -> str:
    return _REFERENCE.sub(lambda found: found[1] + _hashed(f"{found[2]}.{found[3]}")[0], text)


def _read(name: str) -> str:
    return resources.files(__package__).joinpath("static", name).read_text("utf-8")
