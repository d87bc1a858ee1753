"""Questions to a web listener over a real socket."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp

from receiver.web.server import WebServer


class Answer:
    """A response, read whole."""

    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def ask(
    server: WebServer, method: str, path: str, *, headers: dict[str, str] | None = None, data: bytes | None = None, host: str = "127.0.0.1"
) -> Answer:
    port = server.bound[0][1]
    at = f"[{host}]" if ":" in host else host
    skip = ["Content-Type"] if data is None or "Content-Type" not in (headers or {}) else []
    async with (
        aiohttp.ClientSession(auto_decompress=False, skip_auto_headers=skip) as session,
        session.request(method, f"http://{at}:{port}{path}", headers=headers, data=data) as response,
    ):
        return Answer(response.status, response.headers, await response.read())


async def raw(server: WebServer, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.bound[0][1])
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer
