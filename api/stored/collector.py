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
from typing import Final

from api.stored.completions import StoredCompletions
from api.stored.making import Made, make
from shared.background import Background
from shared.errors import CapacityError
from shared.files import tenant_folder
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
MOST: Final = 64
LARGE_BYTES: Final = 64 * 1024
"""Answers that are longer are read in a thread: the loop has streams to serve."""
DAY_SECONDS: Final = 86_400


class Collector:
    """One process's part in it. Made on its loop."""

    def __init__(self, jobs: StoredJobs, completions: StoredCompletions, days: int) -> None:
        """Take how long completions are kept."""
        self._jobs = jobs
        self._completions = completions
        self._lifetime_seconds = days * DAY_SECONDS
        self._lock = asyncio.Lock()
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
        """Have written what has ended by now, so that its maker finds it, for so long at most."""
        if self._problem:  # the background tries; nobody need wait for that
            return
        with suppress(RedisUnavailable, RedisRefused, TimeoutError):
            async with asyncio.timeout(seconds):
                while await self._jobs.waiting() and not self._problem:
                    if not await self.collect():
                        await asyncio.sleep(0.05)

    async def collect(self) -> bool:
        """Write what has ended; False where another process does it. Raises RedisUnavailable or RedisRefused."""
        if not await self._jobs.waiting():
            return True
        async with self._lock:
            lease = await self._take()
            if lease is None:
                return False
            async with self._renewed(lease):
                with suppress(LeaseLost):
                    await self._write_all(lease)
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
                await asyncio.sleep(0.05)
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

    async def _write_all(self, lease: Lease) -> None:
        """Write all that waits; what one answer meets, such as a full store, holds up no other."""
        start, problem = 0, ""
        while True:
            ids, found = await self._jobs.ended(start, MOST)
            if not ids:
                break
            told = await asyncio.gather(*(self._write(known, lease) for known in found), return_exceptions=True)
            kept = set(ids)
            for known, failure in zip(found, told, strict=True):
                if isinstance(failure, StoreError):
                    problem = str(failure)
                    kept.discard(known.id)
                elif isinstance(failure, BaseException):
                    raise failure
            await self._jobs.acknowledge([job_id for job_id in ids if job_id in kept])
            start += len(ids) - len(kept)
            if any(isinstance(failure, StoreUnavailable) for failure in told):
                break
        await self._tell(problem)

    async def _tell(self, problem: str) -> None:
        if problem != self._problem:
            if problem:
                log.error("%s answers wait to be stored: %s", await self._jobs.waiting(), problem)
            else:
                log.info("answers are stored again")
        self._problem = problem

    async def _write(self, known: Known, lease: Lease) -> None:
        try:
            made = await self.made(known)
        except Exception as error:
            log.error("an answer is not stored: %s", type(error).__name__, extra={"request_id": f"req_{known.id}"})
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
