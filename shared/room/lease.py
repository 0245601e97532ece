"""A lease in Redis on what one process alone may write in the file store.

It is renewed in the background; whether it is certain is asked before each write of the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from shared.redis import RedisRefused, RedisUnavailable

LEASE_MS: Final = 15_000
"""Another process may take over so long after a holder has died."""
RENEW_SECONDS: Final = 3.0
MARGIN_SECONDS: Final = 3.0
"""A write of the store takes time too: it is not begun in the last moments of a lease."""


class LeaseLost(Exception):
    """Another process has it now."""


class Lease:
    """Held by one task. Made on its loop, once `hold` was answered with yes."""

    def __init__(self, hold: Callable[[], Awaitable[bool]], asked_at: float) -> None:
        """Take what asks for it, and when it was asked for, by the loop's clock."""
        self._hold = hold
        self._loop = asyncio.get_running_loop()
        self._certain_until = self._until(asked_at)
        self._lost = False

    @staticmethod
    def _until(asked_at: float) -> float:
        return asked_at + LEASE_MS / 1000 - MARGIN_SECONDS

    async def renew_forever(self) -> None:
        """Renew until it is lost."""
        while not self._lost:
            await asyncio.sleep(RENEW_SECONDS)
            await self._renew()

    async def _renew(self) -> None:
        asked_at = self._loop.time()
        try:
            held = await self._hold()
        except (RedisUnavailable, RedisRefused):
            return
        if held:
            self._certain_until = self._until(asked_at)
        else:
            self._lost = True

    async def certain(self) -> None:
        """Return once it is ours beyond doubt, which takes Redis to answer; raises LeaseLost if it is not."""
        while self._loop.time() >= self._certain_until and not self._lost:
            await self._renew()
            if self._loop.time() >= self._certain_until:
                await asyncio.sleep(0.2)
        if self._lost:
            raise LeaseLost
