"""Care of the books over HTTP, for the operator."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, Final, Protocol

from aiohttp import web

from receiver.config import kinds
from receiver.web.fields import read_fields
from receiver.web.request import Request
from receiver.web.server import Route, json_response

_BACKUP: Final = {"path": kinds.Text(may_be_empty=False), "force": kinds.Flag()}


class UpkeepOffice(Protocol):
    """What is asked of `admin.upkeep.UpkeepOffice`; its docstrings give the shapes and the errors."""

    def backup(self, path: str, *, force: bool = False) -> Awaitable[dict[str, Any]]: ...
    def progress(self) -> dict[str, Any]: ...


def routes(office: UpkeepOffice) -> Sequence[Route]:
    """What the operator can ask and do."""

    async def backup(request: Request) -> web.Response:
        given = read_fields(await request.json_object(), _BACKUP, required=("path",))
        return json_response(await office.backup(given["path"], force=bool(given.get("force"))))

    async def progress(_request: Request) -> web.Response:
        return json_response(office.progress())

    return (
        Route("POST", "/api/v1/backup", backup, "copy the books while they are in use: {path, force?}"),
        Route("GET", "/api/v1/backup", progress, "how far the backup is that is being made"),
    )
