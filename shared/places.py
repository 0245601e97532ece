"""Places for what is too large to be held many times at once: in order of asking, and the last one is never a hog's."""

from __future__ import annotations

import asyncio
from collections import Counter, deque


class Places:
    """So many places. Whoever holds all others waits for the last one, as long as there is more than one."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: Counter[str] = Counter()
        self._waiting: deque[tuple[asyncio.Future[None], str]] = deque()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    async def take(self, owner: str) -> Place:
        """Wait for a place and return it. Who is cancelled has none."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, owner))
        self._grant()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._waiting.remove((turn, owner))
            else:
                self.give_back(owner)
            raise
        return Place(self, owner)

    def give_back(self, owner: str) -> None:
        """End a place's use: `Place.give_back` calls it once."""
        self._held[owner] -= 1
        if not self._held[owner]:
            del self._held[owner]
        self._grant()

    def _grant(self) -> None:
        mine = max(1, self._most - 1)
        for one in tuple(self._waiting):
            turn, owner = one
            if self._held.total() >= self._most:
                return
            if self._held[owner] < mine and not turn.done():
                self._held[owner] += 1
                self._waiting.remove(one)
                turn.set_result(None)


class Place:
    """A place that is held."""

    __slots__ = ("_owner", "_places")

    def __init__(self, places: Places, owner: str) -> None:
        self._places: Places | None = places
        self._owner = owner

    def give_back(self) -> None:
        """Give it back; safe to call twice."""
        places, self._places = self._places, None
        if places is not None:
            places.give_back(self._owner)
