"""The end of a worker process's work: what runs gets its grace, then the rest is handed over or told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from contextlib import suppress

from shared.errors import JobLost
from shared.redis import RedisRefused, RedisUnavailable
from shared.room.leases import How, Leases, Why
from workers.held import HeldJob

log = logging.getLogger("aqueduct.worker")

LAST_WORDS_SECONDS = 1.5
"""After the grace, for Redis to store the errors of what was cut off."""


class Drain:
    """Ends the jobs of one worker process."""

    def __init__(self, leases: Leases, held: Callable[[], Collection[HeldJob]], is_empty: asyncio.Event) -> None:
        """Take the jobs that are held, and what is set while there are none."""
        self._leases = leases
        self._held = held
        self._is_empty = is_empty

    async def run(self, grace_seconds: float) -> None:
        """Let jobs end within the grace, then hand over what nobody has seen anything of, and cut the rest off.

        A hand-over costs its caller all that the run has done, so it comes last; and it is none where no other worker
        can take the job.
        """
        await self._wait(grace_seconds)
        left = [held for held in self._held() if held.is_under_way]
        await asyncio.gather(*(self._hand_over(held) for held in left if not held.output.has_published))
        for held in left:
            if held.is_under_way:
                if held.output.end is None:
                    held.fail(JobLost("The worker was shut down before the answer was complete. Retry."))
                held.stop(Why.CUT_OFF)
        await self._wait(LAST_WORDS_SECONDS)

    async def _hand_over(self, held: HeldJob) -> None:
        job = held.job
        try:
            async with asyncio.timeout(LAST_WORDS_SECONDS):
                letters = await self._leases.release(job.model, [(job.id, job.attempt, How.AWAY, b"", b"")])
        except (RedisUnavailable, RedisRefused, TimeoutError):
            return
        if letters == b"b":
            held.stop(Why.HANDED_OVER)
        elif letters == b"e":
            held.stop(Why.CANCELLED)

    async def _wait(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._is_empty.wait()
