"""`/healthz`: this process lives. `/readyz`: requests sent here can be served."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from api.dependencies import GatewayDep
from shared.redis import RedisRefused, RedisUnavailable

router = APIRouter(tags=["Health"])


@router.get("/healthz", operation_id="liveness")
async def liveness() -> dict[str, str]:
    """Answer without asking anything else: a supervisor restarts the process when this fails."""
    return {"status": "alive"}


@router.get("/readyz", operation_id="readiness", responses={503: {"description": "Not ready"}})
async def readiness(gateway: GatewayDep, response: Response) -> dict[str, Any]:
    """Ask Redis what is served: ready when it answers and some model has a live worker."""
    if gateway.draining:
        response.status_code = 503
        return {"status": "draining"}
    try:
        depth = await gateway.rooms.depth()
    except (RedisUnavailable, RedisRefused):
        response.status_code = 503
        return {"status": "redis is unavailable"}
    unserved = [name for name, model in depth.items() if model.workers == 0]
    if len(unserved) == len(depth):
        response.status_code = 503
        return {"status": "no worker", "unserved": unserved}
    return {"status": "ready", "unserved": unserved}
