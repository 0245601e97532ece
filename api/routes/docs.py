"""`/docs`: every endpoint on one page that is complete without the internet, and the icon that browsers ask for."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from starlette.responses import HTMLResponse, RedirectResponse

from api.reference import page
from api.routes.index import PAGE_HEADERS

router = APIRouter()


@router.get("/docs", include_in_schema=False)
def docs(request: Request) -> Response:
    """Show the description; no token is asked for, and no model named. In a thread: the first time takes long."""
    base_url = str(request.base_url).rstrip("/")
    return HTMLResponse(page(request.app.openapi(), base_url), headers=PAGE_HEADERS)


@router.get("/redoc", include_in_schema=False)
async def redoc() -> Response:
    """Lead those who know the framework's other page to ours."""
    return RedirectResponse("/docs")


@router.get("/favicon.ico", include_in_schema=False)
async def icon() -> Response:
    """Say that there is none: browsers ask for one with every page, and a 404 would stand in every log."""
    return Response(status_code=204, headers={"cache-control": "max-age=86400"})
