"""An invoice as a picture that a phone's wallet reads."""

from __future__ import annotations

import asyncio
import io
from functools import lru_cache
from typing import Any, Final, Protocol

import segno
from aiohttp import web

from receiver.web.request import Request
from receiver.web.server import Route, response

#: Pictures that are kept: a page asks again when it is loaded anew, and making one takes 30 ms of a thread.
_KEPT: Final = 256
#: Modules of white around it (ISO/IEC 18004 asks for four), also on a dark page.
_QUIET: Final = 4


class TopUps(Protocol):
    """Whose invoice it is (`admin.credit.CreditOffice`). Raises NotFound."""

    async def topup(self, payment_hash: str, account: str | None = None, wait_seconds: float = 0.0) -> dict[str, Any]: ...


@lru_cache(_KEPT)
def qr_svg(bolt11: str) -> bytes:
    """The picture of an invoice, one unit a module.

    In capitals, which BOLT-11 recommends for pictures: a code of capitals and digits is a third smaller, and a URI's scheme may be either.
    The least error correction: a screen has no scratches, and larger modules are read from further away.
    """
    code = segno.make(f"LIGHTNING:{bolt11.upper()}", error="l", micro=False)
    out = io.BytesIO()
    code.save(out, kind="svg", border=_QUIET, dark="#000", light="#fff", omitsize=True, xmldecl=False, nl=False)
    return out.getvalue()


def route(office: TopUps) -> Route:
    """For the customers' listener."""

    async def picture(request: Request) -> web.Response:
        found = await office.topup(request.path_value("payment_hash"), request.account)
        return response(await asyncio.to_thread(qr_svg, found["bolt11"]), "image/svg+xml")

    return Route("GET", "/api/v1/credit/topups/{payment_hash}/qr", picture, "its invoice as a QR code, in SVG")
