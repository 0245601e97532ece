"""The Use page."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from api.ui.page import Page, Visit


async def _view(visit: Visit) -> Response:
    return visit.page("use.html")


PAGE: Final = Page("use", "Use", _view)
