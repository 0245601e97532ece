"""Requests in, so many a loop turn out: in a burst the answers of others go on, and Redis has work, from the start.

A turn of the loop handles all that has become ready. A thousand requests at once would be one of 0.2 s, in which no
chunk of an open stream is passed on, and before whose end the workers hear of none of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

MOST_A_TURN: Final = 16
"""About 3 ms. `burst_beside`."""


class Entrance:
    """Made on the loop; `enter` before the work on a request begins."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._entered = 0
        """In this turn."""
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._turns = False
        """Whether the next turn is waited for."""

    async def enter(self) -> None:
        """Wait for a turn in which not too many have entered."""
        if self._entered < MOST_A_TURN and not self._waiting:
            self._entered += 1
            self._await_turn()
            return
        entered: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(entered)
        await entered

    def _await_turn(self) -> None:
        if not self._turns:
            self._turns = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._turns = False
        self._entered = 0
        while self._waiting and self._entered < MOST_A_TURN:
            entered = self._waiting.popleft()
            if not entered.done():  # one that was cancelled needs no place
                entered.set_result(None)
                self._entered += 1
        if self._entered:
            self._await_turn()
