"""`/chat/completions` beside the POST that makes them: those that were stored."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, NotRequired

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import TypeAdapter
from typing_extensions import TypedDict

from api.batches.schemas import Metadata
from api.components import reference
from api.dependencies import GatewayDep, TokenDep
from api.schemas import ErrorResponse
from api.small_bodies import read_small_body
from api.stored.desk import StoredDesk
from shared.errors import InvalidRequest, NotFound
from shared.kinds.common.answers import dumps
from shared.kinds.common.body import parse_body
from shared.kinds.common.refusals import check

router = APIRouter(tags=["Chat"])

MAX_LIMIT: Final = 100
_TEXTS: Final = {
    400: "Bad request: the message names the parameter",
    401: "No or bad token",
    404: "No such stored completion of this token, or no store is set up",
    409: "The completion is still being made",
    413: "The body is too large",
    415: "The body is not JSON",
    503: "Temporarily unavailable; see Retry-After",
}
_ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": ErrorResponse, "description": text} for status, text in _TEXTS.items()
}
_COMPLETION: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "The completion", "content": {"application/json": {"schema": reference("ChatCompletion")}}},
    **_ERRORS,
}
_LIST: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "A page of them",
        "content": {"application/json": {"schema": {
            "type": "object", "required": ["object", "data", "first_id", "last_id", "has_more"],
            "properties": {
                "object": {"const": "list"}, "data": {"type": "array", "items": {"type": "object"}},
                "first_id": {"type": ["string", "null"]}, "last_id": {"type": ["string", "null"]},
                "has_more": {"type": "boolean"},
            },
        }}},
    },
    **_ERRORS,
}  # fmt: skip
_FILTER: Final = re.compile(r"metadata\[(.*)\]", re.DOTALL)
_UPDATE_BODY: Final = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["metadata"],
                    "properties": {
                        "metadata": {"type": ["object", "null"], "additionalProperties": {"type": "string"}},
                    },
                }
            }
        },
    }
}


class _Update(TypedDict):
    metadata: NotRequired[Metadata | None]


_UPDATE: TypeAdapter[_Update] = TypeAdapter(_Update)


async def _desk(gateway: GatewayDep, token: TokenDep) -> StoredDesk:
    return gateway.stored()


DeskDep = Annotated[StoredDesk, Depends(_desk)]
CompletionId = Annotated[str, Path(max_length=200)]
After = Annotated[str | None, Query(max_length=200, description="The last id of the page before.")]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT)]
Order = Literal["asc", "desc"]


def _shown(value: dict[str, Any]) -> Response:
    """Return what a worker let through as it was: nested too deeply for the framework, and large, too."""
    return Response(dumps(value), media_type="application/json")


def _listed(data: list[dict[str, Any]], *, has_more: bool) -> Response:
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return _shown({"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": has_more})


@router.get("/chat/completions", responses=_LIST, operation_id="listChatCompletions")
async def list_completions(
    request: Request,
    token: TokenDep,
    desk: DeskDep,
    model: Annotated[str | None, Query(max_length=512)] = None,
    after: After = None,
    limit: Limit = 20,
    order: Order = "asc",
) -> Response:
    """List the token's stored completions; `metadata[key]=value` filters, too."""
    metadata = {
        found[1]: value for name, value in request.query_params.multi_items() if (found := _FILTER.fullmatch(name))
    }
    page = await desk.page(
        token, after=after, limit=limit, newest_first=order == "desc", model=model, metadata=metadata
    )
    return _listed([record.public() for record in page.records], has_more=page.has_more)


@router.get("/chat/completions/{completion_id}", responses=_COMPLETION, operation_id="getChatCompletion")
async def retrieve_completion(completion_id: CompletionId, token: TokenDep, desk: DeskDep) -> Response:
    """Return a stored completion; the error of one that has failed before anything was sent."""
    return _shown((await desk.get(token, completion_id)).public())


@router.post(
    "/chat/completions/{completion_id}", responses=_COMPLETION, operation_id="updateChatCompletion",
    openapi_extra=_UPDATE_BODY,
)  # fmt: skip
async def update_completion(completion_id: CompletionId, request: Request, token: TokenDep, desk: DeskDep) -> Response:
    """Change a stored completion's metadata; nothing else can change."""
    body = parse_body(await read_small_body(request))
    unknown = sorted(body.keys() - {"metadata"})
    if unknown:
        name = unknown[0][:64]
        raise InvalidRequest(
            f"Unknown parameter: '{name}'. Only 'metadata' can change.", param=name, code="unknown_parameter"
        )
    if "metadata" not in body:
        message = "Missing required parameter: 'metadata'."
        raise InvalidRequest(message, param="metadata", code="missing_required_parameter")
    check(_UPDATE, body, ())
    return _shown((await desk.change(token, completion_id, body["metadata"] or {})).public())


@router.delete("/chat/completions/{completion_id}", responses=_ERRORS, operation_id="deleteChatCompletion")
async def delete_completion(completion_id: CompletionId, token: TokenDep, desk: DeskDep) -> dict[str, Any]:
    """Delete a stored completion; one that is still being made is cancelled."""
    await desk.delete(token, completion_id)
    return {"id": completion_id, "object": "chat.completion.deleted", "deleted": True}


@router.get("/chat/completions/{completion_id}/messages", responses=_LIST, operation_id="getChatCompletionMessages")
async def list_messages(
    completion_id: CompletionId,
    token: TokenDep,
    desk: DeskDep,
    after: After = None,
    limit: Limit = 20,
    order: Order = "asc",
) -> Response:
    """List the messages that a stored completion was made of."""
    messages = await desk.messages(token, completion_id)
    if order == "desc":
        messages.reverse()
    if after is not None:
        ids = [message["id"] for message in messages]
        if after not in ids:
            message = f"No message '{after[:64]}' to list from. Send the last id of a page."
            raise NotFound(message, param="after")
        messages = messages[ids.index(after) + 1 :]
    return _listed(messages[:limit], has_more=len(messages) > limit)
