"""What a worker process says of a model whose backends are away, or that nobody uses: held, woken, put to sleep."""

from __future__ import annotations

from typing import Final

from shared import keys
from shared.broker import ticket
from shared.redis import RedisClient
from shared.room.scripts import AWAY, BACK, DOZE, AwayArguments, BackArguments, DozeArguments
from shared.scripting import Scripts, flag

FOUND: Final = -1
"""What `away` returns where nothing holds the model any more."""


class Absences:
    """One model's. Every method raises RedisUnavailable or RedisRefused."""

    def __init__(self, client: RedisClient, model: str) -> None:
        self._scripts = Scripts(client)
        self._model = model

    async def away(self, *, has_met: bool, cooldown_seconds: float) -> int:
        """Return the ms after which to call the wake hook, 0 for now; `FOUND` where others have found a backend.

        With `has_met` the model is held from here on: nothing of it is taken. No cool-down: there is no hook.
        """
        asked = AwayArguments(self._model, round(cooldown_seconds * 1000), flag(has_met))
        return await self._scripts.run(AWAY, asked)

    async def back(self, *, is_there: bool) -> None:
        """Say that a backend is there, or only that the sleep hook has ended."""
        asked = BackArguments(self._model, flag(is_there), keys.queue(self._model), ticket(self._model))
        await self._scripts.run(BACK, asked)

    async def doze(self, *, idle_seconds: float, cooldown_seconds: float, longest_seconds: float) -> int:
        """Return the ms after which to look again; 0: the model is held, and the caller calls the sleep hook now."""
        asked = DozeArguments(
            self._model, round(idle_seconds * 1000), round(cooldown_seconds * 1000), round(longest_seconds * 1000)
        )
        return await self._scripts.run(DOZE, asked)
