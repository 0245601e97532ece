"""What Redis holds for this process against who listens here: a job that nobody listens to twice in a row is cancelled.

Whoever stops listening cancels (`api/jobs.py`). But a Redis that has fallen back by a moment has forgotten the cancels
of that moment, and would let those jobs wait and run for nobody.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from api.relay_hub import RelayHub
from api.reports import Reports
from api.retries import LINGER_SECONDS
from shared import keys
from shared.redis import RedisClient, RedisRefused, RedisUnavailable

log = logging.getLogger("aqueduct.api.unheard")

LOOK_SECONDS: Final = LINGER_SECONDS + 5
"""Between two looks: a job that lingers for its client's retry is heard, or cancelled, by the second one."""


class Unheard:
    """The jobs of one API process that nobody listens to."""

    def __init__(self, client: RedisClient, owner: str, relays: RelayHub, cancels: Reports) -> None:
        self._client = client
        self._owned = keys.owned(owner)
        self._relays = relays
        self._cancels = cancels
        self._suspects: set[str] = set()

    async def look_forever(self) -> None:
        """Look now and then."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.look()
            except (RedisUnavailable, RedisRefused):
                continue

    async def look(self) -> None:
        """Cancel what was unheard at the last look too. Raises RedisUnavailable or RedisRefused."""
        owned = {job_id.decode() for job_id in await self._client.call("SMEMBERS", self._owned)}
        unheard = {job_id for job_id in owned if not self._relays.is_heard(job_id)}
        for job_id in unheard & self._suspects:
            log.warning("cancelled, as nobody listens", extra={"request_id": "req_" + job_id})
            self._cancels.add(job_id)
        self._suspects = unheard
