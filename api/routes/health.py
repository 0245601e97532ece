"""`/healthz`: this process lives. `/readyz`: requests sent here can be served."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from api.dependencies import GatewayDep, is_on_this_machine
from shared.redis import RedisRefused, RedisUnavailable
from shared.version import VERSION

router = APIRouter(tags=["Health"])


@router.get("/healthz", operation_id="liveness")
async def liveness() -> dict[str, str]:
    """Answer without asking anything else: a supervisor restarts the process when this fails."""
    return {"status": "alive", "version": VERSION}


@router.get("/readyz", operation_id="readiness", responses={503: {"description": "Not ready"}})
async def readiness(gateway: GatewayDep, request: Request, response: Response) -> dict[str, Any]:
    """Ask Redis what is served: ready when it answers and some model has a live worker.

    `unserved` is the number of models without one; on the machine itself, their names.
    """
    if gateway.draining:
        response.status_code = 503
        return {"status": "draining"}
    try:
        found = await gateway.served.look()
    except (RedisUnavailable, RedisRefused):
        response.status_code = 503
        return {"status": "redis is unavailable"}
    # No token is asked for here, and elsewhere names are shown only to those who may use the models.
    unserved = list(found.unserved) if is_on_this_machine(request) else len(found.unserved)
    if not found.is_any_served:
        response.status_code = 503
        return {"status": "no worker", "unserved": unserved}
    return {"status": "ready", "unserved": unserved}
