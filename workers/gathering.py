"""How long what is ready waits for more: nothing while few jobs speak, a few milliseconds once many do. No I/O.

Each call costs the worker, Redis and the API a step of their own, whatever it carries. So the more parts of jobs a
second there are, the longer the next call waits for company; what somebody waits for, a job's first words and its end,
waits for a part of that only, and only in a crowd.
"""

from __future__ import annotations

import asyncio

from workers.tuning import GATHER_CROWD, GATHER_FROM, GATHER_FULL, GATHER_SECONDS, GATHER_URGENT

_MEMORY_SECONDS = 0.02
"""What the rate is an average of: what was busy is forgotten within a few such times."""


class Gathering:
    """The pause between two calls: `pause` after each, `urge` when something urgent becomes ready."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._called_at = self._loop.time()
        self._rate = 0.0
        """Parts a second."""
        self._urges = 0
        """Since the last call began."""
        self._crowd = False
        """The last call carried many parts."""
        self._sleeper: asyncio.Future[None] | None = None

    def urge(self) -> None:
        """Let what is ready leave soon."""
        self._urges += 1
        self._wake()

    def fill(self) -> None:
        """Let what is ready leave at once: a call carries no more."""
        self._wake()

    def _wake(self) -> None:
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    def began(self, parts: int) -> None:
        """Take note of a call with so many parts."""
        now = self._loop.time()
        elapsed = max(now - self._called_at, 1e-4)
        self._called_at = now
        self._crowd, self._urges = parts >= GATHER_CROWD, 0
        self._rate += (parts / elapsed - self._rate) * elapsed / (elapsed + _MEMORY_SECONDS)

    async def pause(self) -> None:
        """Wait until the next call may be made."""
        seconds = GATHER_SECONDS * min(1.0, (self._rate - GATHER_FROM) / (GATHER_FULL - GATHER_FROM))
        if seconds <= 0:
            return
        if self._crowd:
            await asyncio.sleep(seconds * GATHER_URGENT)
            seconds -= seconds * GATHER_URGENT
        if self._urges:
            return
        self._sleeper = self._loop.create_future()
        timer = self._loop.call_later(seconds, self._wake)
        try:
            await self._sleeper
        finally:
            timer.cancel()
