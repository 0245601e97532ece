"""Which models have no live worker, for whoever asks whether this process is ready; Redis is asked now and then."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from shared.catalogue import Catalogue
from shared.control.models import shown_state
from shared.room.upkeep import Upkeep

FRESH_SECONDS: Final = 0.25
"""Strangers may ask as often as they like: within this time all get the same answer, from one script's run."""


@dataclass(frozen=True)
class Served:
    """What was found of all models."""

    unserved: Sequence[str]
    is_any_accepted: bool
    """Whether some model has a worker, or is one whose requests wait for one (`when_absent: hold`)."""
    held: Mapping[str, str]
    """Models that nothing is taken of, and in which state each is."""


class ServedModels:
    """Asks Redis at most once at a time, and not again for a moment."""

    def __init__(self, upkeep: Upkeep, catalogue: Catalogue) -> None:
        self._upkeep = upkeep
        self._catalogue = catalogue
        self._asking = asyncio.Lock()
        self._found: Served | None = None
        self._found_at = 0.0

    async def look(self) -> Served:
        """Return what is true now or was a moment ago; raises RedisUnavailable and RedisRefused."""
        async with self._asking:
            now = asyncio.get_running_loop().time()
            if self._found is None or now - self._found_at >= FRESH_SECONDS:
                depth = await self._upkeep.depth()
                unserved = tuple(name for name, model in depth.items() if model.workers == 0)
                held = {name: shown_state(model) for name, model in depth.items() if model.held}
                is_any_accepted = any(name not in unserved or self._waits(name) for name in depth)
                self._found, self._found_at = Served(unserved, is_any_accepted, held), now
            return self._found

    def _waits(self, name: str) -> bool:
        model = self._catalogue.models.get(name)
        return model is not None and model.when_absent == "hold"
