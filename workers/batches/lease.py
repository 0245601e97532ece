"""The lease of one batch: renewed in the background; whether it is certain is asked before each write of the store."""

from __future__ import annotations

import asyncio
from typing import Final

from shared.redis import RedisRefused, RedisUnavailable
from shared.room.lines import LEASE_MS, Lines

RENEW_SECONDS: Final = 3.0
MARGIN_SECONDS: Final = 3.0
"""A write of the store takes time too: it is not begun in the last moments of a lease."""


class LeaseLost(Exception):
    """Another process carries the batch."""


class BatchLease:
    """Held by one feeder. Made on its loop, once `hold` was answered with yes."""

    def __init__(self, lines: Lines, batch_id: str, asked_at: float) -> None:
        """Take when the lease was asked for, by the loop's clock."""
        self._lines = lines
        self._batch_id = batch_id
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
            held = await self._lines.hold(self._batch_id)
        except (RedisUnavailable, RedisRefused):
            return
        if held:
            self._certain_until = self._until(asked_at)
        else:
            self._lost = True

    async def certain(self) -> None:
        """Return once the batch is ours beyond doubt, which takes Redis to answer; raises LeaseLost if it is not."""
        while self._loop.time() >= self._certain_until and not self._lost:
            await self._renew()
            if self._loop.time() >= self._certain_until:
                await asyncio.sleep(0.2)
        if self._lost:
            raise LeaseLost(self._batch_id)
