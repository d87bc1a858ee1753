"""A reverse proxy before a real node, in plain text on loopback, that lets a test act between a request and its answer.

It knows no WebSocket, as some proxies do, so the chunked stream is used through it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

from tests.fake_nodes import served

#: (method, path) of a request, and its answer's body; called before the request goes on, and before the answer does.
Hook = Callable[[str, str, bytes], None]

_PASSED = ("Grpc-Metadata-macaroon", "X-Api-Key", "Content-Type")


@dataclass
class Proxy:
    """Where it is, and what is done in passing."""

    url: str = ""
    before: Hook = lambda _method, _path, _body: None
    after: Hook = lambda _method, _path, _body: None
    seen: list[tuple[str, str]] = field(default_factory=list)


@contextmanager
def proxied(url: str) -> Iterator[Proxy]:
    """A proxy before `url`, whatever its certificate."""
    proxy, ready, stops = Proxy(), threading.Event(), list[Callable[[], object]]()

    async def serve() -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        stops.append(lambda: loop.call_soon_threadsafe(stop.set))
        async with aiohttp.ClientSession() as session:

            async def pass_on(request: web.Request) -> web.StreamResponse:
                if request.headers.get("Upgrade"):
                    return web.Response(status=400, text="no WebSocket here")
                proxy.seen.append((request.method, request.path))
                await asyncio.to_thread(proxy.before, request.method, request.path, b"")
                headers = {name: request.headers[name] for name in _PASSED if name in request.headers}
                body = await request.read()
                async with session.request(request.method, url + request.path_qs, headers=headers, data=body or None, ssl=False) as answer:
                    response = web.StreamResponse(status=answer.status)
                    if request.path.endswith("/subscribe"):
                        await response.prepare(request)
                        async for line in answer.content:
                            await response.write(line)
                        return response
                    said = await answer.read()
                await asyncio.to_thread(proxy.after, request.method, request.path, said)
                return web.Response(status=answer.status, body=said)

            app = web.Application()
            app.router.add_route("*", "/{path:.*}", pass_on)
            async with served(app) as own:
                proxy.url = own
                ready.set()
                await stop.wait()

    def run() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(serve())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert ready.wait(10)
        yield proxy
    finally:
        stops[0]()
        thread.join(20)
