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
    """Ask Redis what is served: ready when it answers and some model has a live worker, or may wait for one.

    `unserved` is the number of models without one, `held` of those of which nothing is started, as operators want it;
    on the machine itself, their names. A held model is ready: it accepts requests.
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
    is_here = is_on_this_machine(request)
    unserved = list(found.unserved) if is_here else len(found.unserved)
    held = {"held": dict(found.held) if is_here else len(found.held)} if found.held else {}
    if not found.is_any_accepted:
        response.status_code = 503
        return {"status": "no worker", "unserved": unserved, **held}
    return {"status": "ready", "unserved": unserved, **held}
