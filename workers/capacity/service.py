"""Finds `concurrency: auto` in a worker process: measures out, limits in, once a second for each such model.

All processes report to Redis; one of them decides, and the next one does when it is gone. With no such model there is
nothing of this but a look at the settings when they change.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Final, cast

import orjson

from shared.background import Background
from shared.capacity import Found, backend_key, places_of, read_state, write_state
from shared.catalogue import Catalogue
from shared.redis import RedisClient, RedisRefused, RedisUnavailable
from shared.room.scripts import CAPACITY, CapacityArguments
from shared.scripting import Scripts
from workers.capacity.decider import Decider
from workers.served import ServedModel

log = logging.getLogger("aqueduct.worker.capacity")

PERIOD_SECONDS: Final = 1.0
LEASE_MS: Final = 4_000


class Capacity:
    """All models of one worker process. Made and used on its event loop."""

    def __init__(
        self, client: RedisClient, catalogue: Catalogue, worker: str, served: Mapping[str, ServedModel]
    ) -> None:
        self._scripts = Scripts(client)
        self._catalogue = catalogue
        self._worker = worker
        self._served = served
        self._background = Background()
        self._deciders: dict[str, Decider] = {}
        """Of the models for which this process decides."""
        self._known: dict[str, dict[str, Found]] = {}
        self._loop: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin, if there is anything to find; and look again at each reload."""
        self._catalogue.follow(self._look)
        self._look()

    async def close(self) -> None:
        """Decide no more; another process takes over within the lease."""
        for decider in self._deciders.values():
            decider.close()
        await self._background.close()

    def _look(self) -> None:
        if self._loop is None and any(served.settings.is_auto for served in self._served.values()):
            self._loop = self._background.forever(self._find_forever(), "capacity")
        for name, found in self._known.items():  # new connections begin with what is known
            if name in self._served:
                self._apply(self._served[name], found)

    async def _find_forever(self) -> None:
        while True:
            for name, served in list(self._served.items()):
                if served.settings.is_auto:
                    await self._find(name, served)
            await asyncio.sleep(PERIOD_SECONDS)

    async def _find(self, name: str, served: ServedModel) -> None:
        try:
            await self._step(name, served)
        except (RedisUnavailable, RedisRefused) as error:
            log.debug("capacity of %s not told: %s", name, type(error).__name__)  # others tell of Redis; limits stay
        except Exception:
            log.exception("the capacity of a model was not looked after", extra={"model": name})
            self._drop(name)

    async def _step(self, name: str, served: ServedModel) -> None:
        decides, text, *reports = await self._say(name, self._report(served))
        known = self._known[name] = read_state(cast(bytes, text))
        if not decides:
            self._drop(name)
            self._apply(served, known)
            return
        decider = self._deciders.get(name)
        if decider is None:
            decider = self._deciders[name] = Decider(name, known)
        changed = decider.decide(served.settings, reports)
        self._known[name] = decider.found
        self._apply(served, decider.found)
        if changed or not known:
            places = places_of(served.settings, decider.found)
            await self._say(name, b"", write_state(decider.found), places)

    def _drop(self, name: str) -> None:
        decider = self._deciders.pop(name, None)
        if decider is not None:
            decider.close()

    def _report(self, served: ServedModel) -> bytes:
        """Return what was measured here since the last time."""
        rows = {
            backend_key(served.settings.backends[place]): meter.take().row()
            for place, meter in served.backends.meters.items()
        }
        return orjson.dumps([self._worker, rows])

    def _say(self, model: str, report: bytes, state: bytes = b"", places: int = 0) -> asyncio.Future[list[object]]:
        arguments = CapacityArguments(model, self._worker, LEASE_MS, report, state, places)
        return asyncio.ensure_future(self._scripts.run(CAPACITY, arguments))

    def _apply(self, served: ServedModel, found: Mapping[str, Found]) -> None:
        """Run by these limits from now on."""
        settings, is_more = served.settings, False
        for place, meter in served.backends.meters.items():
            one, auto = found.get(backend_key(settings.backends[place])), settings.autos[place]
            if one is None or auto is None:
                continue
            limit = auto.within(one.limit)
            before = served.backends.health.limit(place)
            if limit != before:
                served.backends.health.allow(place, limit)
                meter.changed()
                is_more = is_more or before is None or limit > before
        if is_more:
            served.slots.wake()
