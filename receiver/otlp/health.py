"""The gRPC health protocol (grpc.health.v1): what load balancers and orchestrators ask on the OTLP port itself."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as grpc_health

from receiver.otlp.signals import TRACES_SERVICE

#: "" is the server as a whole.
SERVICES = ("", TRACES_SERVICE)


class Health(grpc_health.HealthServicer):  # type: ignore[misc]  # the package publishes no types
    """NOT_SERVING until the daemon says that it is ready, and again for good once it drains."""

    def __init__(self) -> None:
        super().__init__()
        self._closing = asyncio.Event()
        self._server_status = dict.fromkeys(SERVICES, health_pb2.HealthCheckResponse.NOT_SERVING)

    async def set_serving(self, serving: bool) -> None:
        """Answer SERVING or NOT_SERVING from now on; watchers are told."""
        status = health_pb2.HealthCheckResponse
        for service in SERVICES:
            await self.set(service, status.SERVING if serving else status.NOT_SERVING)

    async def close(self) -> None:
        """Tell watchers NOT_SERVING and end their streams, which would else hold the server's stop for all of its grace."""
        await self.enter_graceful_shutdown()
        self._closing.set()

    async def Watch(self, request: Any, context: Any) -> None:  # noqa: N802 -- the name of the method in the protocol
        """Stream the status and its changes until the client leaves or the daemon drains."""
        watching = asyncio.ensure_future(super().Watch(request, context))
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait((watching, closing), return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(0)  # the watcher's last word, NOT_SERVING, is written before its stream ends
        finally:
            closing.cancel()
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        await context.abort(grpc.StatusCode.UNAVAILABLE, "the receiver is shutting down")
