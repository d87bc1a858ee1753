"""The operator's page: what is being spent, by whom, and whether all is well. It asks `/api/v1/overview` and the reports."""

from __future__ import annotations

from aiohttp import web

from receiver.web.pages import assets


def front() -> web.Response:
    """`/` in a browser."""
    return assets.page_response(assets.page("operator"))
