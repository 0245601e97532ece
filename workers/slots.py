"""One model's slots in one worker process: when to take, how many, and what becomes of a freed slot.

Tickets wake an idle worker. A busy one, whose tickets come faster than it could use them, stays awake instead: it looks
every few milliseconds and promises so in Redis, which then pushes no tickets (as a network driver polls under load).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from shared.background import Background
from shared.jobs import TakenJob
from shared.protocol import PROMISE_MS
from shared.redis import RedisRefused, RedisUnavailable
from shared.room.leases import Leases, Taken
from workers.tuning import BUSY_JOBS, LOOK_SECONDS, MAX_TAKE, SURPLUS_SECONDS, WINDOW_SECONDS

log = logging.getLogger("aqueduct.worker.slots")


class Slots:
    """Takes jobs for free slots; `start` runs one, and `freed` is called when it has ended.

    `on_crowd` hears that somebody was left waiting behind batch work that makes room, `on_held` that the model is held.
    `held_backends` and `hold_backends` tell, and take, which backends operators hold.
    """

    def __init__(
        self,
        leases: Leases,
        model: str,
        *,
        limit: Callable[[], int],
        held_backends: Callable[[], str],
        hold_backends: Callable[[str], None],
        free_in_process: Callable[[], int],
        bulk_bytes: Callable[[], int],
        start: Callable[[TakenJob], None],
        on_crowd: Callable[[], None],
        on_held: Callable[[], None],
        background: Background,
    ) -> None:
        self._leases = leases
        self._model = model
        self._limit = limit
        self._held_backends = held_backends
        self._hold_backends = hold_backends
        self._free_in_process = free_in_process
        self._start = start
        self._on_crowd = on_crowd
        self._on_held = on_held
        self._bulk_bytes = bulk_bytes
        self._background = background
        self._loop = asyncio.get_running_loop()
        self._taker: asyncio.Task[None] | None = None
        self._taking = False
        self._again = False
        self._surplus_timer: asyncio.TimerHandle | None = None
        self._window_began_at = 0.0
        self._window_jobs = 0
        self._is_awake = False
        self._closed = False
        self.running = 0

    @property
    def limit(self) -> int:
        """How many jobs of the model may run now, over all workers."""
        return self._limit()

    @property
    def free(self) -> int:
        """How many more jobs may start now."""
        return min(self._limit() - self.running, self._free_in_process())

    def wake(self, *, surplus: bool = False) -> None:
        """Take if a slot is free; one take is under way at a time, a wake-up meanwhile makes it look again."""
        if self._closed:
            return
        if self._taking or self.free <= 0:
            self._again = True
            return
        self._taking = True
        self._taker = self._background.essential(self._take(surplus), "take")

    async def close(self, timeout_seconds: float) -> None:
        """Take nothing any more; returns once the take that is under way, if any, has started what it was given."""
        self._closed = True
        if self._surplus_timer is not None:
            self._surplus_timer.cancel()
        if self._taker is not None:
            await asyncio.wait([self._taker], timeout=timeout_seconds)

    def rescue(self) -> None:
        """Look for jobs that wait although a slot is free: a ticket was lost, or Celery's consumer is away."""
        if self.free > 0 and not self._closed and not self._is_awake and not self._taking:
            self.wake(surplus=True)

    def freed(self) -> None:
        """A job has ended: its slot takes the next one before it goes idle."""
        was_full = self.free <= 0
        self.running -= 1
        if was_full:
            self.wake()  # else a ticket has told of whatever waits, or the reply to the job's end does

    def _look(self) -> None:
        """Look while awake; the last look, which also takes the promise back, is the way to sleep."""
        self._count(0)
        if self._is_awake:
            self._loop.call_later(LOOK_SECONDS, self._look)
        self.wake()

    def _count(self, jobs: int) -> None:
        """Count what was taken, and judge at the end of each window whether this is busy."""
        now = self._loop.time()
        self._window_jobs += jobs
        if now - self._window_began_at < WINDOW_SECONDS:
            return
        # A window may be long over when work comes back after a pause: that is not busy.
        is_recent = now - self._window_began_at < 2 * WINDOW_SECONDS
        is_busy = self._window_jobs >= BUSY_JOBS and is_recent and not self._closed
        if is_busy and not self._is_awake:
            self._loop.call_later(LOOK_SECONDS, self._look)
        self._is_awake = is_busy
        self._window_began_at, self._window_jobs = now, 0

    async def _take(self, surplus: bool) -> None:
        taken = Taken((), more=False)
        wanted = min(self.free, MAX_TAKE)
        self._again = False
        try:
            taken = await self._leases.take(
                self._model,
                free=wanted,
                mine=self.running,
                surplus=surplus,
                concurrency=self._limit(),
                awake_ms=PROMISE_MS if self._is_awake else 0,
                bulk_bytes=self._bulk_bytes(),
                off=self._held_backends(),
            )
        except (RedisUnavailable, RedisRefused) as error:
            log.warning("nothing taken: %s", type(error).__name__)  # the sweep's ticket wakes us again
        finally:
            self._taking = False
        for job in taken.jobs:
            self.running += 1
            self._start(job)
        if taken.off is not None:  # nothing was taken, as this worker would have called others too
            self._hold_backends(taken.off)
            self._again = True
        self._count(len(taken.jobs))
        if taken.crowded:
            self._on_crowd()
        if taken.held:
            self._on_held()
        if self._closed:
            return
        if self._again or len(taken.jobs) == wanted > 0:
            self.wake(surplus=surplus)
        elif taken.more and self._surplus_timer is None:
            self._surplus_timer = self._loop.call_later(SURPLUS_SECONDS, self._take_surplus)

    def _take_surplus(self) -> None:
        self._surplus_timer = None
        self.wake(surplus=True)
