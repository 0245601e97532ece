"""`/` and `/v1`: what this is and where to go on, as a page for browsers and as JSON for everybody else."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request, Response
from starlette.responses import HTMLResponse, JSONResponse

from api.dependencies import GatewayDep

router = APIRouter()

_INDEX: Final = {
    "name": "Aqueduct",
    "description": "An OpenAI-compatible gateway with a queue per model.",
    "base_url": "/v1",
    "authentication": "Send your token with each request: `Authorization: Bearer TOKEN`.",
    "models": "/v1/models",
    "docs": "/docs",
    "openapi": "/openapi.json",
}
_PAGE: Final = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Aqueduct</title>
<link rel="icon" href="data:,">
<style>body { font: 1rem/1.5 system-ui, sans-serif; max-width: 40rem; margin: 4rem auto; padding: 0 1rem }</style>
<h1>Aqueduct</h1>
<p>An OpenAI-compatible gateway with a queue per model. It is running.</p>
<p>Set your client's base URL to this address followed by <code>/v1</code>, and its API key to your token.
Without a client, send the token with each request: <code>Authorization: Bearer TOKEN</code>.</p>
<ul>
<li><a href="/docs">/docs</a>: every endpoint, and <a href="/openapi.json">/openapi.json</a> for tools</li>
<li><code>/v1/models</code>: the models that your token may use</li>
<li><a href="/readyz">/readyz</a>: whether requests are served now</li>
{ui}</ul>
</html>
"""
_UI: Final = '<li><a href="/ui">/ui</a>: the status page, for whoever is on duty</li>\n'
PAGE_HEADERS: Final = {
    # The page asks nobody for anything.
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'",
    "vary": "accept",
}


@router.get("/", include_in_schema=False)
@router.get("/v1", include_in_schema=False)
async def index(request: Request, gateway: GatewayDep) -> Response:
    """Lead on; no token is asked for, and no model named."""
    if "text/html" in request.headers.get("accept", ""):
        return HTMLResponse(_PAGE.replace("{ui}", _UI if gateway.settings.ui else ""), headers=PAGE_HEADERS)
    return JSONResponse(_INDEX, headers={"vary": "accept"})
