"""One model in a worker process: its settings, connections to its backends and slots; changed and closed as one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from shared.background import Background
from shared.redis import RedisRefused, RedisUnavailable
from shared.room.absences import Absences
from shared.settings import ModelSettings, WorkerSettings
from workers.absence.presence import Presence
from workers.backends import Backends
from workers.slots import Slots


class ServedModel:
    """Made on the event loop; `close` it."""

    __slots__ = ("_absences", "_background", "_name", "_worker", "backends", "presence", "settings", "slots")

    def __init__(
        self,
        name: str,
        settings: ModelSettings,
        worker: WorkerSettings,
        make_slots: Callable[[ServedModel], Slots],
        absences: Absences,
        background: Background,
    ) -> None:
        """Take what makes the model's slots of this; they ask it how many jobs may run at once at any moment."""
        self._absences = absences
        self._background = background
        self._name = name
        self._worker = worker
        self.settings = settings
        self.backends = Backends(name, settings, worker)
        self.presence: Presence | None = None
        """Where `when_absent` is `hold`."""
        self.slots = make_slots(self)
        self._attend()

    def limit(self) -> int:
        """Return how many jobs of the model may run now, over all workers."""
        places = self.backends.health.capacity(self.settings.most)
        return places if self.presence is None else self.presence.limit(places)

    def _attend(self) -> None:
        """Hold the model's jobs while no backend is there, or do so no more, as its settings say."""
        if self.settings.when_absent == "hold":
            if self.presence is None:
                self.presence = Presence(
                    self._name,
                    self.settings,
                    self._absences,
                    health=lambda: self.backends.health,
                    free=lambda: self.slots.wake(surplus=True),
                )
            else:
                self.presence.change(self.settings)
        elif self.presence is not None:
            old, self.presence = self.presence, None
            self._background.step(old.forgo(), f"end of holding {self._name}")

    def wake(self) -> None:
        """Take jobs: a ticket came."""
        if self.presence is not None and self.presence.is_away:
            self.presence.wanted()
        else:
            self.slots.wake()

    def rescue(self) -> None:
        """Look for jobs that wait."""
        if self.presence is not None and self.presence.is_away:
            self.presence.wanted()
        else:
            self.slots.rescue()

    def held(self) -> None:
        """Take note that nothing is taken, as the model is being started."""
        if self.presence is not None:
            self.presence.told()
        else:  # it was held by other settings
            self._background.step(self._let_go(), f"end of holding {self._name}")

    async def _let_go(self) -> None:
        with suppress(RedisUnavailable, RedisRefused):
            await self._absences.back(is_there=True)

    def held_backends(self) -> str:
        """Return the backends that are known to be held by operators, as Redis has them."""
        return self.backends.health.off

    def hold_backends(self, off: str) -> None:
        """Take note that these are."""
        self.backends.health.hold(off)

    def change(self, settings: ModelSettings) -> None:
        """Serve by these settings from the next job on; what runs ends as it began."""
        if settings == self.settings:
            return
        if settings.backends != self.settings.backends:
            old, self.backends = self.backends, Backends(self._name, settings, self._worker)
            old.retire()
        self.settings = settings
        self._attend()
        self.slots.wake()

    async def close(self) -> None:
        """Close every connection."""
        if self.presence is not None:
            await self.presence.close()
        self.backends.close()
