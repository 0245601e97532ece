"""Batch work that makes room for people: a model where somebody waits in, batch jobs stopped that Redis has taken back.

Only of models with `preempt_batch_after_ms`; without one there is neither connection nor timer. Who must go is decided
in `make_room.lua`, over all workers; every one that runs jobs of the model asks once somebody could have waited so
long, and the first to ask settles it. Should a word be lost, the next renewal of the leases is one too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from shared import keys
from shared.background import Background
from shared.catalogue import Catalogue
from shared.redis import RedisClient, RedisRefused, RedisUnavailable, Subscriber
from shared.room.leases import Leases
from workers.slots import Slots

log = logging.getLogger("aqueduct.worker.crowd")


class Crowd:
    """One worker process's part in it."""

    def __init__(
        self,
        leases: Leases,
        catalogue: Catalogue,
        *,
        slots: Callable[[str], Slots | None],
        stop: Callable[[str, bytes], None],
        background: Background,
    ) -> None:
        """Take what finds the slots of a model that is served here, and what stops one attempt of a job."""
        self._leases = leases
        self._catalogue = catalogue
        self._slots = slots
        self._stop = stop
        self._background = background
        self._loop = asyncio.get_running_loop()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        """When each model is looked at; none where nobody waits."""
        self._subscriber: Subscriber | None = None
        self._closed = False
        catalogue.follow(self._changed)

    def _changed(self) -> None:
        """Listen, if there is something to listen for by now, as soon as Redis is there."""
        if (subscriber := self._wanted()) is not None:
            subscriber.start()

    async def open(self) -> None:
        """Listen, if there is anything to listen for. Raises RedisUnavailable after 10 s."""
        if (subscriber := self._wanted()) is not None:
            await subscriber.open()

    def _wanted(self) -> Subscriber | None:
        """Return what is to listen from now on, if nothing does and anything has to."""
        is_wanted = any(model.preempt_batch_after_ms for model in self._catalogue.models.values())
        if not is_wanted or self._subscriber is not None or self._closed:
            return None
        self._subscriber = Subscriber(self._catalogue.settings.redis, [keys.CROWD], self._on_message, name="crowd")
        return self._subscriber

    def follow(self, client: RedisClient) -> None:
        """Listen to the server that another connection has found."""
        if self._subscriber is not None:
            self._subscriber.follow(client)

    def waits(self, model: str) -> None:
        """Take note that somebody may wait behind batch work."""
        patience_ms = self._patience_ms(model)
        if patience_ms:
            self._look_in(model, patience_ms / 1000)

    def _patience_ms(self, model: str) -> int:
        found = self._catalogue.models.get(model)
        return (found.preempt_batch_after_ms or 0) if found is not None else 0

    def _on_message(self, message: bytes) -> None:
        word, *told = message.decode().split(" ")
        if word == "w":
            slots = self._slots(told[0])
            if slots is not None and slots.running > 0:
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
        slots, patience_ms = self._slots(model), self._patience_ms(model)
        if slots is None or not patience_ms:  # no more
            return
        try:
            again = await self._leases.make_room(model, patience_ms, slots.limit)
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
