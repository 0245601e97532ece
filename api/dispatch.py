"""A validated request becomes a job in its model's waiting room, and a ticket on its queue."""

from __future__ import annotations

import time
from collections.abc import Coroutine
from typing import Any

from shared.catalogue import Catalogue
from shared.errors import PermissionDenied, UnknownModel
from shared.estimates import Estimates, corrected
from shared.jobs import JobSpec
from shared.kinds.kind import Kind, Request
from shared.lanes import LANES, Lane, tier_of
from shared.protocol import STORED
from shared.room.admission import Admission, Admissions, Admitted, Idempotency
from shared.token_settings import TokenSettings

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

    def __init__(self, admissions: Admissions, catalogue: Catalogue, owner: str, *, has_store: bool) -> None:
        self._admissions = admissions
        self._has_store = has_store
        self._catalogue = catalogue
        self._owner = owner
        self._estimates = Estimates()

    def model_name(self, requested: str) -> str:
        """Return the model's own name for a name or alias; raises UnknownModel."""
        name = self._catalogue.names.get(requested)
        if name is None:
            raise UnknownModel(requested)
        return name

    def holds(self, model: str) -> bool:
        """Whether requests of a model wait while no backend is there."""
        found = self._catalogue.models.get(model)
        return found is not None and found.when_absent == "hold"

    def backend(self, model: str, place: int | None) -> str | None:
        """Return the host and port of a model's backend at a place of its list; with no place, of its only one."""
        found = self._catalogue.models.get(model)
        backends = found.backends if found is not None else ()  # it may be gone meanwhile
        if place is None:
            return backends[0].address if len(backends) == 1 else None
        return backends[place].address if place < len(backends) else None

    def prepare(
        self,
        kind: Kind,
        request: Request,
        token: TokenSettings,
        *,
        job_id: str,
        read_timeout_seconds: float | None,
        idempotency: Idempotency | None = None,
        is_retry: bool = False,
    ) -> Admission:
        """Return the job for a request; raises UnknownModel, PermissionDenied, or what `kind.accept` raises."""
        name = self.model_name(request.model)
        accepted = kind.accept(request, self._catalogue.models[name])
        is_stored = accepted.store and self._has_store
        spec = JobSpec(
            kind=kind.name,
            stream=request.stream,
            tenant=token.name,
            lane=(lane := choose_lane(token, request.service_tier)),
            created=int(time.time()),
            public_model=request.model,
            client_seconds=None if request.stream or is_stored else read_timeout_seconds,
            options=accepted.options,
            tier=tier_of(lane, request.service_tier),
        )
        return Admission(
            id=job_id,
            model=name,
            token=token,
            lane=lane,
            owner=self._owner,
            body=accepted.body,
            spec=spec,
            cost=corrected(accepted.cost, self._estimates.factor((token.name, name))),
            estimate=accepted.cost,
            must_finish=is_stored,
            sink=STORED if is_stored else "",
            # What an operator has put into the lane waits in it; who asks for `flex` by name chooses a refusal instead.
            at_once=request.service_tier == "flex",
            idempotency=idempotency,
            is_retry=is_retry,
        )

    def learn(self, token: TokenSettings, model: str, estimate: float, tokens: int) -> None:
        """Take what a request has cost that was estimated so, for the next ones of its token."""
        self._estimates.learn((token.name, model), estimate, tokens)

    def admit(self, job: Admission) -> Coroutine[Any, Any, Admitted]:
        """Put the job into its waiting room. Raises a CapacityError or RateLimited."""
        return self._admissions.admit(job)
