"""One model's slots in one worker process: when to take, how many, and what becomes of a freed slot."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable

from shared.jobs import TakenJob
from shared.redis import RedisRefused, RedisUnavailable
from shared.room import Rooms

log = logging.getLogger("aqueduct.worker.slots")

SURPLUS_SECONDS = 0.02
"""Head start for the model's other workers before one takes more than its fair part."""
MAX_TAKE = 64
"""Jobs in one call: bodies travel inside, and the script blocks Redis for everybody."""


class Slots:
    """Takes jobs for free slots; `start` runs one and calls `freed` when it has ended."""

    def __init__(
        self,
        rooms: Rooms,
        model: str,
        *,
        limit: Callable[[], int],
        free_in_process: Callable[[], int],
        start: Callable[[TakenJob], None],
    ) -> None:
        self._rooms = rooms
        self._model = model
        self._limit = limit
        self._free_in_process = free_in_process
        self._start = start
        self._taking = False
        self._again = False
        self._taker: asyncio.Future[None] | None = None
        self._surplus_timer: asyncio.TimerHandle | None = None
        self.running = 0
        self.closed = False
        """Draining: nothing is taken any more."""

    @property
    def free(self) -> int:
        return min(self._limit() - self.running, self._free_in_process())

    def wake(self, *, surplus: bool = False) -> None:
        """Take if a slot is free; one take is under way at a time, a wake-up meanwhile makes it look again."""
        if self.closed:
            return
        if self._taking or self.free <= 0:
            self._again = True
            return
        self._taking = True
        self._taker = asyncio.ensure_future(self._take(surplus))

    def freed(self) -> None:
        """A job has ended: its slot takes the next one before it goes idle."""
        self.running -= 1
        self.wake(surplus=False)

    async def _take(self, surplus: bool) -> None:
        more = False
        jobs: list[TakenJob] = []
        wanted = min(self.free, MAX_TAKE)
        self._again = False
        try:
            jobs, more = await self._rooms.take(
                self._model,
                os.urandom(6).hex(),
                free=wanted,
                mine=self.running,
                surplus=surplus,
                concurrency=self._limit(),
            )
        except (RedisUnavailable, RedisRefused) as error:
            log.warning("nothing taken: %s", type(error).__name__)  # the sweep's ticket wakes us again
        finally:
            self._taking = False
        for job in jobs:
            self.running += 1
            self._start(job)
        if self.closed:
            return
        if self._again or len(jobs) == wanted > 0:
            self.wake(surplus=surplus)
        elif more and self._surplus_timer is None:
            self._surplus_timer = asyncio.get_running_loop().call_later(SURPLUS_SECONDS, self._take_surplus)

    def _take_surplus(self) -> None:
        self._surplus_timer = None
        self.wake(surplus=True)
