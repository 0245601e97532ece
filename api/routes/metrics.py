"""`/metrics`: the whole of all processes, for Prometheus. Open on the machine itself, elsewhere to some tokens."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from api.dependencies import GatewayDep, Looker
from shared.errors import UnknownUrl

router = APIRouter(tags=["Health"])


@router.get("/metrics", operation_id="metrics", dependencies=[Looker], response_class=Response)
async def metrics(gateway: GatewayDep, request: Request) -> Response:
    """Tell what all processes have counted, and what waits and runs now, in Prometheus's text format.

    On the gateway's own machine no token is asked for; elsewhere one with the role `viewer` or `operator`.
    """
    if gateway.metrics is None:
        raise UnknownUrl("Metrics are turned off here: the operator may set `metrics: on`.")
    body, content_type = await gateway.metrics.scrape(request.headers.get("accept", ""))
    return Response(body, headers={"content-type": content_type, "cache-control": "no-store"})
