"""`/batches`: OpenAI's calls, and two of ours, `results` and `retry`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from api.batches.desk import BatchDesk, Shown
from api.batches.schemas import Batch, BatchList, CreateBatchRequest, read_create
from api.dependencies import GatewayDep, TokenDep
from api.record import context_of
from api.retries import MAX_KEY_LENGTH
from api.schemas import ErrorResponse
from api.small_bodies import read_small_body
from shared.batches.record import public
from shared.errors import Draining, InvalidRequest
from shared.kinds.common.body import parse_body

router = APIRouter(tags=["Batch"])

_TEXTS = {
    400: "Bad request: the message names the parameter",
    401: "No or bad token",
    404: "No such batch or file of this token, or batches are not set up",
    409: "Not in this state of the batch",
    413: "The body is too large",
    415: "The body is not JSON",
    422: "The Idempotency-Key stands for another request",
    429: "As many open batches as the token may have",
    503: "Temporarily unavailable; see Retry-After",
    507: "The store is full",
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": text} for status, text in _TEXTS.items()
}
_JSON_LINES: dict[int | str, dict[str, Any]] = {
    200: {"description": "OpenAI's output lines, in the order of their ends", "content": {"application/jsonl": {}}}
}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/CreateBatchRequest"}}},
    }
}


async def _desk(gateway: GatewayDep, token: TokenDep) -> BatchDesk:
    return gateway.batches()


DeskDep = Annotated[BatchDesk, Depends(_desk)]
BatchId = Annotated[str, Path(max_length=200)]


def _public(shown: Shown) -> dict[str, Any]:
    live = shown.progress.counts if shown.progress is not None else None
    return public(shown.record, live=live, cancel_since=shown.cancel_since)


def _told(response: Response, shown: Shown) -> dict[str, Any]:
    """Return the batch, and say in a header when its last line should end, as far as that can be known."""
    if shown.progress is not None and shown.progress.finish_at is not None:
        response.headers["x-aqueduct-estimated-finish"] = str(shown.progress.finish_at)
    return _public(shown)


def _key(request: Request) -> bytes | None:
    value = request.headers.get("idempotency-key")
    if value is None:
        return None
    if not 0 < len(value) <= MAX_KEY_LENGTH or not value.isascii():
        message = f"Send an Idempotency-Key of 1 to {MAX_KEY_LENGTH} ASCII characters."
        raise InvalidRequest(message, code="invalid_value")
    return value.encode()


@router.post("/batches", response_model=Batch, responses=_ERRORS, operation_id="createBatch", openapi_extra=_BODY)
async def create_batch(request: Request, gateway: GatewayDep, token: TokenDep, desk: DeskDep) -> dict[str, Any]:
    """Make a batch of an uploaded file; it is validated and run beside."""
    if gateway.draining:
        raise Draining(retry_after=1)
    raw = await read_small_body(request)
    wanted: CreateBatchRequest = read_create(parse_body(raw))
    return _public(await desk.create(token, wanted, _key(request), raw, context_of(request.scope)))


@router.get("/batches", responses=_ERRORS, operation_id="listBatches")
async def list_batches(
    token: TokenDep,
    desk: DeskDep,
    after: Annotated[str | None, Query(max_length=200, description="The last id of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> BatchList:
    """List the token's batches, the newest first."""
    page = await desk.page(token, after, limit)
    data = [Batch.model_validate(_public(shown)) for shown in page.batches]
    ends = (data[0].id, data[-1].id) if data else (None, None)
    return BatchList(object="list", data=data, first_id=ends[0], last_id=ends[1], has_more=page.has_more)


@router.get("/batches/{batch_id}", response_model=Batch, responses=_ERRORS, operation_id="retrieveBatch")
async def retrieve_batch(batch_id: BatchId, token: TokenDep, desk: DeskDep, response: Response) -> dict[str, Any]:
    """Return a batch with its counts of this moment."""
    return _told(response, await desk.show(token, batch_id))


@router.post("/batches/{batch_id}/cancel", response_model=Batch, responses=_ERRORS, operation_id="cancelBatch")
async def cancel_batch(batch_id: BatchId, token: TokenDep, desk: DeskDep) -> dict[str, Any]:
    """Cancel a batch; what has ended by then is kept."""
    return _public(await desk.cancel(token, batch_id))


@router.post("/batches/{batch_id}/retry", response_model=Batch, responses=_ERRORS, operation_id="retryBatch")
async def retry_batch(
    batch_id: BatchId, request: Request, gateway: GatewayDep, token: TokenDep, desk: DeskDep
) -> dict[str, Any]:
    """Make a new batch of the failed, expired and cancelled lines of one that has ended."""
    if gateway.draining:
        raise Draining(retry_after=1)
    return _public(await desk.retry(token, batch_id, context_of(request.scope)))


@router.get(
    "/batches/{batch_id}/results",
    response_class=StreamingResponse,
    responses={**_ERRORS, **_JSON_LINES},
    operation_id="listBatchResults",
)
async def batch_results(
    batch_id: BatchId,
    token: TokenDep,
    desk: DeskDep,
    after: Annotated[int, Query(ge=0, le=10**9, description="How many results to leave out.")] = 0,
) -> StreamingResponse:
    """Return the results that are there, as JSON lines, while the batch runs too.

    The header `x-aqueduct-batch-status` tells whether more may come.
    """
    record, parts = await desk.results(token, batch_id, after)
    headers = {"x-aqueduct-batch-status": record.status.value}
    return StreamingResponse(parts, media_type="application/jsonl", headers=headers)
