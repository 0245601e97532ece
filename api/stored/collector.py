"""Brings answers that are to be stored from Redis into the file store: any API process does it, one at a time.

An answer is taken from the sink only once it is written. So it outlives the process that took the request and the one
that writes; what is written twice is the same, and what was changed meanwhile is not written again.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

from api.stored.completions import StoredCompletions
from api.stored.making import Made, make
from shared.background import Background
from shared.errors import CapacityError
from shared.files import tenant_folder
from shared.jobs import request_id
from shared.redis import RedisRefused, RedisUnavailable
from shared.room.lease import Lease, LeaseLost
from shared.room.stored import Known, StoredJobs
from shared.store import StoreError, StoreUnavailable

log = logging.getLogger("aqueduct.api.stored")

LOOK_SECONDS: Final = 2.0
"""Between two looks at the sink, jittered; an answer that ended here is looked for at once."""
AWAY_SECONDS: Final = 5.0
"""Between two tries while the store is away or full."""
LEASE_SECONDS: Final = 5.0
"""How long a caller waits for the lease."""
PAUSE_SECONDS: Final = 0.05
"""Between two tries to get the lease."""
MOST: Final = 64
AT_ONCE: Final = 8
"""Answers that are in memory together."""
LARGE_BYTES: Final = 64 * 1024
"""Answers that are longer are read in a thread: the loop has streams to serve."""
DAY_SECONDS: Final = 86_400


@dataclass(frozen=True, slots=True)
class _Round:
    """What became of some that waited."""

    looked: int
    left: int
    problem: str
    is_away: bool


class Collector:
    """One process's part in it. Made on its loop."""

    def __init__(self, jobs: StoredJobs, completions: StoredCompletions, days: int) -> None:
        """Take how long completions are kept."""
        self._jobs = jobs
        self._completions = completions
        self._lifetime_seconds = days * DAY_SECONDS
        self._lock = asyncio.Lock()
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._wake = asyncio.Event()
        self._background = Background()
        self._problem = ""
        """What was logged of the store last."""

    def nudge(self) -> None:
        """Look soon: an answer has ended here."""
        self._wake.set()

    async def collect_forever(self) -> None:
        """Look now and then, and when nudged."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS * random.uniform(0.5, 1.5)):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self.collect()
            except (RedisUnavailable, RedisRefused):
                continue
            if self._problem:
                await asyncio.sleep(AWAY_SECONDS)

    async def catch_up(self, seconds: float) -> None:
        """Have written what has ended by now, so that its maker finds it; wait so long at most."""
        if self._problem:  # the background tries; nobody need wait for that
            return
        with suppress(RedisUnavailable, RedisRefused):
            if await self._jobs.waiting():
                # In a task: a write that its caller gave up in the middle would have no certain end.
                await asyncio.wait({self._background.step(self._catch_up(seconds), "catching up")}, timeout=seconds)

    async def _catch_up(self, seconds: float) -> None:
        until = asyncio.get_running_loop().time() + seconds
        with suppress(RedisUnavailable, RedisRefused):
            while await self._jobs.waiting() and not self._problem and asyncio.get_running_loop().time() < until:
                if not await self.collect():
                    await asyncio.sleep(PAUSE_SECONDS)

    async def collect(self) -> bool:
        """Write what has ended; False where another process does it. Raises RedisUnavailable or RedisRefused."""
        start, problem = 0, ""
        while await self._jobs.waiting() > start:
            async with self._lock:
                lease = await self._take()
                if lease is None:
                    return False
                async with self._renewed(lease):
                    try:
                        told = await self._write_some(lease, start)
                    except LeaseLost:
                        return False
            start += told.left
            problem = told.problem or problem
            if told.is_away or told.looked < MOST:
                break
            await asyncio.sleep(PAUSE_SECONDS)  # so that others get the lease, too
        await self._tell(problem)
        return True

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[Lease]:
        """Hold the lease, so that nobody else writes; raises CapacityError where it is not free in time."""
        until = asyncio.get_running_loop().time() + LEASE_SECONDS
        async with self._lock:
            while (lease := await self._take()) is None:
                if asyncio.get_running_loop().time() > until:
                    message = "Stored completions are being written by another process. Retry shortly."
                    raise CapacityError(message, code="storage_unavailable", retry_after=2)
                await asyncio.sleep(PAUSE_SECONDS)
            async with self._renewed(lease):
                yield lease

    async def _take(self) -> Lease | None:
        asked_at = asyncio.get_running_loop().time()
        return Lease(self._jobs.hold, asked_at) if await self._jobs.hold() else None

    @asynccontextmanager
    async def _renewed(self, lease: Lease) -> AsyncIterator[None]:
        renewals = self._background.step(lease.renew_forever(), "renewals of the lease on stored answers")
        try:
            yield
        finally:
            renewals.cancel()
            with suppress(RedisUnavailable, RedisRefused):
                await self._jobs.let_go()

    async def _write_some(self, lease: Lease, start: int) -> _Round:
        """Write some of what waits; what one answer meets, such as a full store, holds up no other."""
        ids = await self._jobs.ended(start, MOST)
        told = await asyncio.gather(*(self._write(job_id, lease) for job_id in ids), return_exceptions=True)
        kept, problem = [], ""
        for job_id, failure in zip(ids, told, strict=True):
            if isinstance(failure, StoreError):
                problem = str(failure)
            elif failure is not None:
                raise failure
            else:
                kept.append(job_id)
        await self._jobs.acknowledge(kept)
        is_away = any(isinstance(failure, StoreUnavailable) for failure in told)
        return _Round(len(ids), len(ids) - len(kept), problem, is_away)

    async def _tell(self, problem: str) -> None:
        if problem != self._problem:
            if problem:
                log.error("%s answers wait to be stored: %s", await self._jobs.waiting(), problem)
            else:
                log.info("answers are stored again")
        self._problem = problem

    async def _write(self, job_id: str, lease: Lease) -> None:
        async with self._turns:
            try:
                known = await self._jobs.look(job_id)
                made = await self.made(known) if known is not None else None
            except (RedisUnavailable, RedisRefused):
                raise
            except Exception as error:  # one that cannot be read must not stay in front of all others
                log.error("an answer is not stored: %s", type(error).__name__, extra={"request_id": request_id(job_id)})
                return
            if made is None:
                log.error("an answer is not stored: Redis has lost it", extra={"request_id": request_id(job_id)})
                return
            await lease.certain()
            await self._completions.keep(tenant_folder(made.tenant), made)

    async def made(self, known: Known) -> Made:
        """Return what is stored of an ended job; raises ValueError or an AqueductError for one that cannot be read."""
        if sum(map(len, known.events)) + len(known.body or b"") <= LARGE_BYTES:
            return make(known, self._lifetime_seconds)
        return await asyncio.to_thread(make, known, self._lifetime_seconds)

    async def close(self) -> None:
        """Write nothing more."""
        await self._background.close()
