"""`GET /organization/usage/completions`, as OpenAI has it: what was used, by bucket of time."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from api.dependencies import GatewayDep, TokenDep
from api.schemas import ErrorResponse
from api.usage import read_asked, usage_page
from shared.usage.ledger import Ledger

router = APIRouter(tags=["Usage"])

_TEXTS = {
    400: "Bad request: the message names the parameter",
    401: "No or bad token",
    503: "Temporarily unavailable; see Retry-After",
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": text} for status, text in _TEXTS.items()
}
_KINDS = ("chat.completions", "completions")


@router.get("/organization/usage/completions", responses=_ERRORS, operation_id="usageCompletions")
async def usage_completions(request: Request, gateway: GatewayDep, token: TokenDep) -> dict[str, Any]:
    """Return what was used: everybody's for a token with the role viewer or operator, else the token's own."""
    asked = read_asked(request.query_params.multi_items())
    return await usage_page(Ledger(gateway.client, gateway.store), asked, token, _KINDS)
