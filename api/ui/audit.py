"""The Audit page: what operators did."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from api.ui.page import Page, Visit

ROWS: Final = 100


async def _view(visit: Visit) -> Response:
    given = visit.query.get("start", "")
    start = min(int(given), 100_000) if given.isdecimal() and len(given) < 7 else 0
    listing = await visit.gateway.admin.audit(start, ROWS)
    return visit.page("audit.html", entries=listing.data, start=start, rows=ROWS, has_more=listing.has_more)


PAGE: Final = Page("audit", "Audit", _view)
