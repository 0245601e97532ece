"""One model in a worker process: its settings, connections to its backends and slots; changed and closed as one."""

from __future__ import annotations

from collections.abc import Callable

from shared.settings import ModelSettings, WorkerSettings
from workers.backends import Backends
from workers.slots import Slots


class ServedModel:
    """Made on the event loop; `close` it."""

    __slots__ = ("_name", "_worker", "backends", "settings", "slots")

    def __init__(
        self,
        name: str,
        settings: ModelSettings,
        worker: WorkerSettings,
        make_slots: Callable[[Callable[[], int]], Slots],
    ) -> None:
        """Take what makes the model's slots, given how many jobs may run at once at any moment."""
        self._name = name
        self._worker = worker
        self.settings = settings
        self.backends = Backends(name, settings, worker)
        self.slots = make_slots(self._limit)

    def _limit(self) -> int:
        return self.backends.health.capacity(self.settings.concurrency)

    def change(self, settings: ModelSettings) -> None:
        """Serve by these settings from the next job on; what runs ends as it began."""
        if settings == self.settings:
            return
        if settings.backends != self.settings.backends:
            old, self.backends = self.backends, Backends(self._name, settings, self._worker)
            old.retire()
        self.settings = settings
        self.slots.wake()

    def close(self) -> None:
        """Close every connection."""
        self.backends.close()
