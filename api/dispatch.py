"""A validated request becomes a job in its model's waiting room, and a ticket on its queue; cancels take it back."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass

from shared.errors import PermissionDenied, UnknownModel
from shared.jobs import JobSpec
from shared.kinds.kind import Kind, Request
from shared.redis import RedisRefused, RedisUnavailable
from shared.room import Admission, Admitted, Idempotency, Rooms
from shared.settings import LANES, Lane, Settings, TokenSettings

log = logging.getLogger("aqueduct.api.dispatch")

ADMIT_SECONDS = 1.6
"""An admission that Redis runs later than this is refused by the script itself: the caller was told 503."""

MAX_COST = 1e12
"""Estimated tokens of one job at most, far above any real one: the scripts count in 64-bit integers."""

_TIER_LANES: dict[str, Lane] = {"priority": "priority", "fast": "priority", "flex": "flex"}


def choose_lane(token: TokenSettings, service_tier: str | None) -> Lane:
    """Return the token's lane, or the one `service_tier` asks for; raises PermissionDenied when that is above it."""
    wanted = _TIER_LANES.get(service_tier or "", token.lane)
    if LANES.index(wanted) < LANES.index(token.lane):
        raise PermissionDenied(
            f"This token may not use service_tier '{service_tier}'. Leave it out, or ask the operator for its lane.",
            param="service_tier",
        )
    return wanted


class Dispatcher:
    """Makes jobs of requests and hands them to the waiting rooms."""

    def __init__(self, rooms: Rooms, settings: Settings, owner: str) -> None:
        self._rooms = rooms
        self._settings = settings
        self._owner = owner
        self._names = settings.public_names()

    def model_name(self, requested: str) -> str:
        """Return the model's own name for a name or alias; raises UnknownModel."""
        name = self._names.get(requested)
        if name is None:
            raise UnknownModel(requested)
        return name

    def prepare(
        self,
        kind: Kind,
        request: Request,
        token: TokenSettings,
        *,
        job_id: str,
        read_timeout_seconds: float | None,
        idempotency: Idempotency | None = None,
    ) -> Admission:
        """Return the job for a request; raises UnknownModel, PermissionDenied, or what `kind.accept` raises."""
        name = self.model_name(request.model)
        accepted = kind.accept(request, self._settings.models[name])
        spec = JobSpec(
            kind=kind.name,
            stream=request.stream,
            tenant=token.name,
            lane=(lane := choose_lane(token, request.service_tier)),
            created=int(time.time()),
            public_model=request.model,
            client_seconds=None if request.stream else read_timeout_seconds,
            options=accepted.options,
        )
        return Admission(
            id=job_id,
            model=name,
            token=token,
            lane=lane,
            owner=self._owner,
            body=accepted.body,
            spec=spec,
            cost=min(MAX_COST, max(1.0, accepted.cost)),
            idempotency=idempotency,
        )

    async def admit(self, job: Admission) -> Admitted:
        """Put the job into its waiting room. Raises QueueFull, RateLimited, NoWorker or BrokerUnavailable."""
        return await self._rooms.admit(job, not_after_ms=self._rooms.redis_now_ms() + ADMIT_SECONDS * 1000)


@dataclass(slots=True)
class _Wanted:
    since: float


class Canceller:
    """Cancels jobs in the background, in batches, again and again until Redis has answered."""

    GIVE_UP_SECONDS = 900.0
    """Longer than any admission can linger; the owner's heartbeat ends what is left."""

    def __init__(self, rooms: Rooms, owner: str) -> None:
        self._rooms = rooms
        self._owner = owner
        self._wanted: dict[str, _Wanted] = {}
        self._wake = asyncio.Event()

    def cancel(self, job_id: str) -> None:
        """See to it that the job neither waits nor runs any more."""
        self._wanted[job_id] = _Wanted(time.monotonic())
        self._wake.set()

    async def run_forever(self) -> None:
        """Send what `cancel` was asked for."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._wanted:
                batch = list(self._wanted)[:500]
                try:
                    await self._rooms.cancel(self._owner, batch)
                except (RedisUnavailable, RedisRefused):
                    limit = time.monotonic() - self.GIVE_UP_SECONDS
                    self._wanted = {k: v for k, v in self._wanted.items() if v.since > limit}
                    await asyncio.sleep(0.25)
                    continue
                for job_id in batch:
                    self._wanted.pop(job_id, None)

    async def drain(self) -> None:
        """Send what is left, once; for shutdown."""
        if self._wanted:
            await self._rooms.cancel(self._owner, list(self._wanted))
            self._wanted.clear()
