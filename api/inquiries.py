"""What a caller asks of one of its requests: an id as answers bear it in, where the request stands out."""

from __future__ import annotations

import re
from typing import Final, Literal, cast

from api.schemas import RequestStatus, Timeline
from api.standing import Standing
from shared.errors import NotFound
from shared.jobs import request_id
from shared.redis import RedisRefused, RedisUnavailable
from shared.room.admission import Admissions, Look, broker_error

_ID: Final = re.compile(r"(?:[a-z]{2,12}[-_])?([0-9a-f]{32})")
"""As `x-request-id` has it, or as an answer's `id`, whatever its kind puts in front."""


class Inquiries:
    """Answers what callers ask of their requests."""

    def __init__(self, admissions: Admissions, standing: Standing) -> None:
        self._admissions = admissions
        self._standing = standing

    async def find(self, given_id: str, tenant: str) -> RequestStatus:
        """Return where a tenant's request stands. Raises NotFound, for another's too, or BrokerUnavailable."""
        found = _ID.fullmatch(given_id)
        try:
            look = await self._admissions.look(found[1]) if found else None
            if found is None or look is None or look.tenant != tenant:
                raise NotFound(
                    "No such request of this token. Use the `x-request-id` or `id` of its answer, at the latest a "
                    "minute after its end.",
                    param="request_id",
                )
            place = None
            if look.state == "waiting":
                place = await self._standing.place_of(look.model, look.lane, tenant, found[1])
        except (RedisUnavailable, RedisRefused) as error:
            raise broker_error(error) from error
        return _status(found[1], look, place)


def _status(job_id: str, look: Look, place: tuple[int, int | None, str] | None) -> RequestStatus:
    return RequestStatus(
        id=request_id(job_id),
        object="request",
        model=look.model,
        state=cast(Literal["waiting", "running", "ended"], look.state),
        lane=look.lane,
        position=place[0] if place else None,
        estimated_wait_ms=place[1] if place else None,
        held=place[2] if place else None,
        attempts=look.tries,
        timeline=Timeline(
            accepted=look.admitted / 1000,
            taken=look.taken / 1000 or None,
            first_token=look.begun / 1000 or None,
            ended=look.ended / 1000 or None,
        ),
    )
