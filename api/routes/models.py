"""`GET /models` and `GET /models/{id}`: the models this token may use."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter

from api.dependencies import GatewayDep, TokenDep
from api.schemas import ErrorResponse, Model, ModelList
from shared.errors import UnknownModel

router = APIRouter(tags=["Models"])

_STARTED = int(time.time())
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": text}
    for status, text in ((401, "No or bad token"), (503, "Temporarily unavailable"))
}


def _model(name: str) -> Model:
    return Model(id=name, object="model", created=_STARTED, owned_by="aqueduct")


@router.get("/models", responses=_ERRORS, operation_id="listModels")
async def list_models(gateway: GatewayDep, token: TokenDep) -> ModelList:
    """List the models this token may use, aliases included."""
    names = gateway.catalogue.names
    return ModelList(
        object="list", data=[_model(name) for name, own in names.items() if gateway.tokens.allows(token, own)]
    )


@router.get("/models/{model:path}", responses={**_ERRORS, 404: {"model": ErrorResponse}}, operation_id="retrieveModel")
async def retrieve_model(model: str, gateway: GatewayDep, token: TokenDep) -> Model:
    """Return one model; ids may hold slashes."""
    own = gateway.catalogue.names.get(model)
    if own is None or not gateway.tokens.allows(token, own):
        raise UnknownModel(model)
    return _model(model)
