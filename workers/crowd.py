"""Batch work that makes room for people: a model where somebody waits in, batch jobs stopped that Redis has taken back.

Only of models with `preempt_batch_after_ms`; without one there is neither connection nor timer. Who must go is decided
in `make_room.lua`, over all workers; every one that runs jobs of the model asks once somebody could have waited so
long, and the first to ask settles it. Should a word be lost, the next renewal of the leases is one too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from shared import keys
from shared.background import Background
from shared.redis import RedisRefused, RedisUnavailable, Subscriber
from shared.room.leases import Leases
from shared.settings import Settings

log = logging.getLogger("aqueduct.worker.crowd")


class Crowd:
    """One worker process's part in it."""

    def __init__(
        self,
        leases: Leases,
        settings: Settings,
        models: Sequence[str],
        *,
        capacity: Mapping[str, Callable[[], int]],
        runs: Callable[[str], bool],
        stop: Callable[[str, bytes], None],
        background: Background,
    ) -> None:
        """Take how many jobs of a model may run, whether any runs here, and what stops one attempt of a job."""
        patience = {name: settings.models[name].preempt_batch_after_ms for name in models}
        self._patience_ms = {name: ms for name, ms in patience.items() if ms}
        self._leases = leases
        self._capacity = capacity
        self._runs = runs
        self._stop = stop
        self._background = background
        self._loop = asyncio.get_running_loop()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        """When each model is looked at; none where nobody waits."""
        self._closed = False
        self._subscriber: Subscriber | None = None
        if self._patience_ms:
            self._subscriber = Subscriber(settings.redis, [keys.CROWD], self._on_message, name="crowd")

    async def open(self) -> None:
        """Listen, if there is anything to listen for. Raises RedisUnavailable after 10 s."""
        if self._subscriber is not None:
            await self._subscriber.open()

    def waits(self, model: str) -> None:
        """Take note that somebody may wait behind batch work."""
        patience_ms = self._patience_ms.get(model)
        if patience_ms is not None:
            self._look_in(model, patience_ms / 1000)

    def _on_message(self, message: bytes) -> None:
        word, *told = message.decode().split(" ")
        if word == "w" and self._runs(told[0]):
            self.waits(told[0])
        elif word == "b":
            for job_id, attempt in zip(told[::2], told[1::2], strict=True):
                self._stop(job_id, attempt.encode())

    def _look_in(self, model: str, seconds: float) -> None:
        if model not in self._timers and not self._closed:
            self._timers[model] = self._loop.call_later(seconds, self._look, model)

    def _look(self, model: str) -> None:
        del self._timers[model]
        self._background.step(self._make_room(model), "room for people")

    async def _make_room(self, model: str) -> None:
        try:
            again = await self._leases.make_room(model, self._patience_ms[model], self._capacity[model]())
        except (RedisUnavailable, RedisRefused) as error:
            log.warning("no room made: %s", type(error).__name__)
            return
        if again is not None:
            self._look_in(model, again)

    async def close(self) -> None:
        """Stop listening and looking."""
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        if self._subscriber is not None:
            await self._subscriber.close()
