"""What Redis is told of jobs afterwards, many at once, in the background: what is cancelled, or may be forgotten."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from shared.redis import RedisRefused, RedisUnavailable

BATCH_JOBS = 500
RETRY_SECONDS = 0.25


class Reports:
    """Sends job ids in batches, again and again until Redis has answered, or for so long."""

    def __init__(
        self,
        send: Callable[[Sequence[str]], Awaitable[object]],
        *,
        gather_seconds: float = 0,
        give_up_seconds: float = 0,
        unless: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """Take what tells Redis; with `gather_seconds` a batch waits so long for more.

        `unless` is asked just before: while Redis was away a job may have become one not to be told of.
        """
        self._send = send
        self._gather_seconds = gather_seconds
        self._give_up_seconds = give_up_seconds
        self._unless = unless
        self._wanted: dict[str, float] = {}
        """Ids, with the time they were added."""
        self._wake = asyncio.Event()

    def add(self, job_id: str) -> None:
        """Tell Redis of this job."""
        self._wanted[job_id] = time.monotonic()
        self._wake.set()

    async def run_forever(self) -> None:
        """Send what was added."""
        while True:
            await self._wake.wait()
            if self._gather_seconds:
                await asyncio.sleep(self._gather_seconds)
            self._wake.clear()
            while self._wanted:
                for job_id in [job_id for job_id in self._wanted if self._unless(job_id)]:
                    del self._wanted[job_id]
                batch = list(self._wanted)[:BATCH_JOBS]
                try:
                    await self._send(batch)
                except (RedisUnavailable, RedisRefused):
                    limit = time.monotonic() - self._give_up_seconds
                    self._wanted = {job_id: since for job_id, since in self._wanted.items() if since > limit}
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
                for job_id in batch:
                    self._wanted.pop(job_id, None)

    async def drain(self) -> None:
        """Send what is left, once; for shutdown."""
        if self._wanted:
            await self._send(list(self._wanted))
            self._wanted.clear()
