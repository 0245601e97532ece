"""Sizes in, turns out, in order of asking: so many at once, and so many bytes of them together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class Turns:
    """A semaphore that weighs. What is heavier than all that is allowed has its turn alone."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._taken = 0
        self._taken_bytes = 0
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()

    async def take(self, size: int) -> None:
        """Wait for a turn, which must be given back. Who is cancelled has none; raises what `refuse` is given."""
        if not self._waiting and self._has_room(size):
            self._taken += 1
            self._taken_bytes += size
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, size))
        self._grant()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._grant()  # it may have been the one that was too heavy for now
            elif turn.exception() is None:
                self.give_back(size)
            raise

    def give_back(self, size: int) -> None:
        """End a turn."""
        self._taken -= 1
        self._taken_bytes -= size
        self._grant()

    def refuse(self, why: Callable[[], Exception]) -> None:
        """Send all away who wait, each with an exception of its own."""
        waiting, self._waiting = self._waiting, deque()
        for turn, _ in waiting:
            if not turn.done():
                turn.set_exception(why())

    def _has_room(self, size: int) -> bool:
        return not self._taken or (self._taken < self._most and self._taken_bytes + size <= self._most_bytes)

    def _grant(self) -> None:
        while self._waiting:
            turn, size = self._waiting[0]
            if not turn.done():
                if not self._has_room(size):
                    return
                self._taken += 1
                self._taken_bytes += size
                turn.set_result(None)
            self._waiting.popleft()
