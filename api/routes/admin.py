"""`/admin/v1`: a viewer's token may read, an operator's may act. What is done stands in the audit log."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Path, Query

from api.admin.desk import MOST_JOBS, actor, fields_of
from api.admin.schemas import (
    AdminModel,
    BatchListQuery,
    CancelJobsRequest,
    DebugRequest,
    Demand,
    HeldAnswer,
    HoldRequest,
    JobListQuery,
    JobPage,
    Listing,
    ModelListing,
    MoveJobRequest,
    MoveJobsRequest,
    Outcomes,
)
from api.dependencies import GatewayDep, OperatorDep, ViewerDep
from api.schemas import ErrorResponse
from shared.control.tokens import as_json
from shared.protocol import AUDIT_ENTRIES
from shared.token_settings import TokenSettings

_TEXTS = {
    400: "Bad request: the message names the field",
    401: "No or bad token",
    403: "The token's role is not enough",
    404: "There is no such thing; the message names what there is",
    503: "Temporarily unavailable; see Retry-After",
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": text} for status, text in _TEXTS.items()
}
router = APIRouter(prefix="/admin/v1", tags=["Admin"], responses=_ERRORS)

_TOKEN_FIELDS: Final = tuple(name for name in TokenSettings.model_fields if name != "sha256")
_EXAMPLE: Final = {"name": "team-a", "models": ["*"], "role": "user", "requests_per_minute": 600}
JobId = Annotated[str, Path(max_length=200)]
Limit = Annotated[int, Query(ge=1, le=MOST_JOBS)]


@router.get("/models", operation_id="adminListModels")
async def list_models(gateway: GatewayDep, _: ViewerDep) -> ModelListing:
    """Return every model: state, depth, slots, backends, and why it is held if it is."""
    return ModelListing(data=await gateway.admin.models())


@router.post("/models/{model:path}/{action}", operation_id="adminSetModel")
async def set_model(
    model: str, action: str, gateway: GatewayDep, token: OperatorDep, body: HoldRequest | None = None
) -> HeldAnswer:
    """Pause, resume, drain or retire a model, or with `backend` one of its backends."""
    return await gateway.admin.set_model(model, action, body.backend if body else None, actor(token))


@router.get("/models/{model:path}", operation_id="adminGetModel")
async def get_model(model: str, gateway: GatewayDep, _: ViewerDep) -> AdminModel:
    """Return one model, by its name or an alias."""
    return await gateway.admin.model(model)


@router.get("/demand", operation_id="adminDemand")
async def demand(gateway: GatewayDep, _: ViewerDep, model: Annotated[str, Query(max_length=256)]) -> Demand:
    """Return how many jobs there are for a model's workers, for an autoscaler of them."""
    return await gateway.admin.demand(model)


@router.get("/backends", operation_id="adminListBackends")
async def list_backends(gateway: GatewayDep, _: ViewerDep) -> Listing:
    """Return the backends of every model."""
    models = await gateway.admin.models()
    rows = [{"object": "backend", "model": one.id, **it.model_dump()} for one in models for it in one.backends]
    return Listing(data=rows)


@router.get("/jobs", operation_id="adminListJobs")
async def list_jobs(gateway: GatewayDep, _: ViewerDep, wanted: Annotated[JobListQuery, Query()]) -> JobPage:
    """Return what runs, and what waits, whose longest wait ends first; or what ended lately. Never a prompt."""
    return await gateway.admin.jobs(wanted)


@router.post("/jobs/cancel", operation_id="adminCancelJobs")
async def cancel_jobs(body: CancelJobsRequest, gateway: GatewayDep, token: OperatorDep) -> Outcomes:
    """End all jobs that match; their callers are told 410 `cancelled_by_operator`."""
    return await gateway.admin.act_on_jobs(body, None, actor(token), everything=body.all, dry_run=body.dry_run)


@router.post("/jobs/move", operation_id="adminMoveJobs")
async def move_jobs(body: MoveJobsRequest, gateway: GatewayDep, token: OperatorDep) -> Outcomes:
    """Have all waiting jobs that match wait in another lane."""
    return await gateway.admin.act_on_jobs(body, body.to, actor(token), everything=body.all, dry_run=body.dry_run)


@router.get("/jobs/{job_id}", operation_id="adminGetJob")
async def get_job(job_id: JobId, gateway: GatewayDep, _: ViewerDep) -> dict[str, Any]:
    """Return one job: its times, why it waits, its runs with their calls of backends, and how it ended.

    By the id of its request or of its answer, for up to an hour after its end.
    """
    return (await gateway.admin.story(job_id)).as_json()


@router.post("/jobs/{job_id}/cancel", operation_id="adminCancelJob")
async def cancel_job(job_id: JobId, gateway: GatewayDep, token: OperatorDep) -> dict[str, Any]:
    """End a job."""
    return await gateway.admin.act_on_job(job_id, None, actor(token))


@router.post("/jobs/{job_id}/move", operation_id="adminMoveJob")
async def move_job(job_id: JobId, body: MoveJobRequest, gateway: GatewayDep, token: OperatorDep) -> dict[str, Any]:
    """Have a waiting job wait in another lane."""
    return await gateway.admin.act_on_job(job_id, body.to, actor(token))


@router.get("/tokens", operation_id="adminListTokens")
async def list_tokens(gateway: GatewayDep, _: ViewerDep) -> Listing:
    """Return every token with its limits, those of the file too; no secret is kept anywhere."""
    return Listing(data=list(await gateway.admin.tokens(lambda desk: desk.list())))


@router.post("/tokens", operation_id="adminCreateToken")
async def create_token(
    body: Annotated[dict[str, Any], Body(examples=[_EXAMPLE])], gateway: GatewayDep, operator: OperatorDep
) -> dict[str, Any]:
    """Make a token from the settings of `tokens[]`; `token` is shown only now."""
    fields = fields_of(body, _TOKEN_FIELDS)
    secret, record = await gateway.admin.tokens(lambda desk: desk.create(fields, actor(operator)))
    return {"object": "token", "token": secret, **as_json(record, {})}


@router.post("/tokens/{name}", operation_id="adminSetToken")
async def set_token(
    name: str, body: Annotated[dict[str, Any], Body()], gateway: GatewayDep, operator: OperatorDep
) -> dict[str, Any]:
    """Change what a token may do; what is not named stays, null takes a limit away."""
    fields = fields_of(body, [field for field in _TOKEN_FIELDS if field != "name"])
    record = await gateway.admin.tokens(lambda desk: desk.change(name, fields, actor(operator)))
    return {"object": "token", **as_json(record, {})}


@router.delete("/tokens/{name}", operation_id="adminRevokeToken")
async def revoke_token(name: str, gateway: GatewayDep, operator: OperatorDep) -> dict[str, Any]:
    """Withdraw a token; every process refuses it within 5 s."""
    await gateway.admin.tokens(lambda desk: desk.revoke(name, actor(operator)))
    return {"object": "token.deleted", "name": name, "deleted": True}


@router.get("/debug", operation_id="adminListDebug")
async def list_debug(gateway: GatewayDep, _: ViewerDep) -> Listing:
    """Return the tokens whose prompts and answers are logged, and until when."""
    return Listing(data=[one.as_json() for one in await gateway.admin.tokens(lambda desk: desk.debugged())])


@router.post("/tokens/{name}/debug", operation_id="adminDebugToken")
async def debug_token(
    name: str, gateway: GatewayDep, operator: OperatorDep, body: DebugRequest | None = None
) -> dict[str, Any]:
    """Have a token's prompts and answers logged for a while; it ends by itself. In the audit log."""
    wanted = body or DebugRequest()
    made = await gateway.admin.tokens(lambda desk: desk.debug(name, wanted.seconds, wanted.max_bytes, actor(operator)))
    return made.as_json() if made is not None else {}


@router.delete("/tokens/{name}/debug", operation_id="adminEndDebugToken")
async def end_debug_token(name: str, gateway: GatewayDep, operator: OperatorDep) -> dict[str, Any]:
    """Have a token's prompts and answers logged no more; every process stops within 5 s."""
    await gateway.admin.tokens(lambda desk: desk.debug(name, 0, 0, actor(operator)))
    return {"object": "token.debug.ended", "token": name, "ended": True}


@router.get("/groups", operation_id="adminListGroups")
async def list_groups(gateway: GatewayDep, _: ViewerDep) -> Listing:
    """Return every group, those of the file too, with its tokens' names."""
    return Listing(data=list(await gateway.admin.tokens(lambda desk: desk.groups_told())))


@router.get("/batches", operation_id="adminListBatches")
async def list_batches(gateway: GatewayDep, _: ViewerDep, wanted: Annotated[BatchListQuery, Query()]) -> Listing:
    """Return the batches of all tokens: those that have not ended, the oldest first; or others, the newest first."""
    found, has_more = await gateway.batches_of_all().page(wanted.state, wanted.token, wanted.after, wanted.limit)
    return Listing(data=[{"object": "batch", **one.as_json()} for one in found], has_more=has_more)


@router.get("/batches/{batch_id}", operation_id="adminGetBatch")
async def get_batch(batch_id: JobId, gateway: GatewayDep, _: ViewerDep) -> dict[str, Any]:
    """Return one batch: how far it is, when it should be finished, how many lines failed and why."""
    return (await gateway.batches_of_all().show(batch_id)).as_json()


@router.post("/batches/{batch_id}/cancel", operation_id="adminCancelBatch")
async def cancel_batch(batch_id: JobId, gateway: GatewayDep, token: OperatorDep) -> dict[str, Any]:
    """Cancel a batch; what has ended by then is kept. One that is cancelled already is told so."""
    return (await gateway.batches_of_all().cancel(batch_id, actor(token))).as_json()


@router.post("/batches/{batch_id}/retry", operation_id="adminRetryBatch")
async def retry_batch(batch_id: JobId, gateway: GatewayDep, token: OperatorDep) -> dict[str, Any]:
    """Run the lines again that did not succeed, as a new batch of its token; asked again, it is the same new batch."""
    return (await gateway.batches_of_all().retry(batch_id, actor(token))).as_json()


@router.get("/audit", operation_id="adminAudit")
async def audit(
    gateway: GatewayDep, _: ViewerDep, limit: Limit = 100, start: Annotated[int, Query(ge=0, le=AUDIT_ENTRIES)] = 0
) -> Listing:
    """Return what operators did, the newest first."""
    return await gateway.admin.audit(start, limit)


@router.post("/reload", operation_id="adminReload")
async def reload(gateway: GatewayDep, token: OperatorDep) -> dict[str, Any]:
    """Have every process read its configuration again; each says what has changed, or why it refuses."""
    return await gateway.admin.reload(actor(token))
