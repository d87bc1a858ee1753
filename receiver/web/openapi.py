"""`openapi.json`, written by hand: what both listeners serve, for programs and for people who write them.

Tests hold it equal to the tables of routes, and real answers to its schemas.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

from aiohttp import web

from receiver import __version__
from receiver.web.server import Request, Route, response


def document() -> dict[str, Any]:
    """The description, of this version."""
    found: dict[str, Any] = json.loads(resources.files("receiver.web").joinpath("openapi.json").read_bytes())
    found["info"]["version"] = __version__
    return found


@cache
def _body() -> bytes:
    return json.dumps(document(), ensure_ascii=False).encode()


async def _openapi(_request: Request) -> web.Response:
    return response(_body(), "application/json")


def route(*, is_open: bool) -> Route:
    """`is_open`: asks for no key."""
    return Route("GET", "/api/v1/openapi.json", _openapi, "this API, described for programs", is_open=is_open)
