"""The Now page: each model's queue, slots, times and backends as they are, and over the last hour."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from api.ui.page import Page, Visit


async def _view(visit: Visit) -> Response:
    return visit.page("now.html", models=await visit.gateway.admin.models())


async def _live(visit: Visit) -> Response:
    return visit.page("_now.html", models=await visit.gateway.admin.models())


PAGE: Final = Page("now", "Now", _view, parts={"live": _live})
