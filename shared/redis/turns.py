"""Sizes in, turns out, in order of asking: so many at once, and so many bytes of them together."""

from __future__ import annotations

import asyncio
from collections import deque


class Turns:
    """A semaphore that weighs. What is heavier than all that is allowed has its turn alone."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._taken = 0
        self._taken_bytes = 0
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()

    async def take(self, size: int) -> None:
        """Wait for a turn, which must be given back. Who is cancelled has none."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, size))
        self._grant()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._grant()  # it may have been the one that was too heavy for now
            else:
                self.give_back(size)
            raise

    def give_back(self, size: int) -> None:
        """End a turn."""
        self._taken -= 1
        self._taken_bytes -= size
        self._grant()

    def _grant(self) -> None:
        while self._waiting:
            turn, size = self._waiting[0]
            if not turn.done():
                if self._taken and (self._taken >= self._most or self._taken_bytes + size > self._most_bytes):
                    return
                self._taken += 1
                self._taken_bytes += size
                turn.set_result(None)
            self._waiting.popleft()
