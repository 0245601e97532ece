"""`GET /requests/{id}`, which is ours: where one of the caller's own requests stands."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path

from api.dependencies import GatewayDep, TokenDep
from api.schemas import ErrorResponse, RequestStatus

router = APIRouter(tags=["Requests"])

_TEXTS = {
    401: "No or bad token",
    404: "No such request of this token, or it ended more than a minute ago",
    503: "Temporarily unavailable; see Retry-After",
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": text} for status, text in _TEXTS.items()
}


@router.get("/requests/{request_id}", responses=_ERRORS, operation_id="retrieveRequest")
async def retrieve_request(
    request_id: Annotated[str, Path(max_length=200)], gateway: GatewayDep, token: TokenDep
) -> RequestStatus:
    """Return where a request stands, by its answer's `x-request-id` or `id`; until a minute after its end at most."""
    return await gateway.inquiries.find(request_id, token.name)
