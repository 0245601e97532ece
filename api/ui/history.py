"""The last hour of each model: one API process at a time writes it, and each reads it for its pages."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import orjson

from shared import keys
from shared.capacity import STATE, Found, places_of, read_state
from shared.catalogue import Catalogue
from shared.metrics.history import POINTS, Point, Summary, calls_of, news, read_point, summary
from shared.metrics.publisher import read_counts
from shared.redis import RedisClient, RedisRefused, RedisUnavailable
from shared.room.scripts import REMEMBER, RememberArguments, RememberRow
from shared.room.upkeep import Depth, Upkeep
from shared.scripting import Scripts

log = logging.getLogger("aqueduct.ui.history")

LEASE_STEPS: Final = 2.7
"""Another process takes over when so many points are missing: 40 s."""
MOST_STEPS: Final = 8
"""What was counted in a longer gap is told nowhere: nobody knows when in it."""
MODELS_AT_ONCE: Final = 20
"""Of so many the points go into Redis together, so that no call holds it, or the loop, up."""


class _Base(NamedTuple):
    at: float
    counted: Summary


class Historian:
    """Writes the points, in the process that holds the lease."""

    def __init__(self, client: RedisClient, catalogue: Catalogue, upkeep: Upkeep, owner: str) -> None:
        self._client = client
        self._scripts = Scripts(client)
        self._catalogue = catalogue
        self._upkeep = upkeep
        self._owner = owner
        self._step = catalogue.settings.testing.history_seconds
        self._before: dict[str, _Base] | None = None
        """What was counted up to the last point; None while another process writes."""

    async def write_forever(self) -> None:
        """Add a point to each model every fifteen seconds, until cancelled."""
        while True:
            await asyncio.sleep(self._step - time.time() % self._step)  # at the same moments, whoever writes
            try:
                await self.write()
            except (RedisUnavailable, RedisRefused) as error:
                log.debug("no point written: %s", type(error).__name__)
            except Exception:  # a chart is nothing to end the process for
                log.exception("no point written")

    async def write(self) -> bool:
        """Add a point to each model, unless another process does; raises RedisUnavailable or RedisRefused."""
        holder = await self._client.call("GET", keys.HISTORIAN)
        if holder is not None and holder != self._owner.encode():
            self._before = None
            return False
        known, self._before = self._before, None  # after a failure Redis knows better
        depths = await self._upkeep.depth()
        slots = await read_slots(self._client, self._catalogue)
        before = known if known is not None else await self._kept(list(depths))
        names, now = list(depths), dict[str, _Base]()
        for first in range(0, len(names), MODELS_AT_ONCE):
            rows = []
            for name in names[first : first + MODELS_AT_ONCE]:
                counted = (await read_counts(self._client, [name])).get(name, {})
                now[name] = _Base(time.time(), summary(counted) | calls_of(counted))
                point = self._point(depths[name], slots[name], now[name], before.get(name))
                rows.append(RememberRow(name, point.written(), orjson.dumps([*now[name]])))
            asked = RememberArguments(self._owner, round(self._step * LEASE_STEPS * 1000))
            if not await self._scripts.run(REMEMBER, asked, rows):
                return False
        self._before = now
        return True

    def _point(self, depth: Depth, slots: int, now: _Base, before: _Base | None) -> Point:
        seconds, new = self._step, Summary()
        if before is not None and 0 < now.at - before.at < MOST_STEPS * self._step:
            seconds, new = now.at - before.at, news(now.counted, before.counted)
        return Point(now.at, sum(depth.waiting.values()), depth.oldest_ms, depth.running, slots, seconds, new)

    async def _kept(self, names: list[str]) -> dict[str, _Base]:
        """Return what the process before this one had counted up to, of each model that it knew."""
        replies = await self._client.call("MGET", *map(keys.history_base, names))
        found = {}
        for name, reply in zip(names, replies, strict=True):
            with contextlib.suppress(ValueError, TypeError, AttributeError):  # another version's
                at, counted = orjson.loads(reply or b"")
                found[name] = _Base(float(at), {str(key): int(number) for key, number in counted.items()})
        return found


class Hour:
    """The points of all models, as this process has read them: each is read once, however many look."""

    def __init__(self, client: RedisClient, catalogue: Catalogue, clock: Callable[[], float] = time.time) -> None:
        self._client = client
        self._catalogue = catalogue
        self._clock = clock
        self.step = catalogue.settings.testing.history_seconds
        """Seconds between two points."""
        self._points: dict[str, list[Point]] = {}
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()

    async def read(self) -> Mapping[str, list[Point]]:
        """Return each model's points of the last hour, the oldest first; raises RedisUnavailable or RedisRefused."""
        async with self._reading:
            now = self._clock()
            if not 0 <= now - self._read_at < self.step / 4:
                names = list(self._catalogue.settings.models)
                self._points = {name: self._known(name, now) for name in names}
                for first in range(0, len(names), MODELS_AT_ONCE):
                    await self._read_some(names[first : first + MODELS_AT_ONCE], now)
                self._read_at = now
            return self._points

    def _known(self, name: str, now: float) -> list[Point]:
        points = self._points.get(name, [])
        return points if points and points[-1].at <= now + self.step else []  # the clock was set back: read them anew

    async def _read_some(self, names: list[str], now: float) -> None:
        since = {name: self._points[name][-1].at if self._points[name] else 0.0 for name in names}
        behind = {name: min(POINTS, int(max(0.0, now - at) / self.step) + 2) for name, at in since.items()}
        calls = (self._client.call("LRANGE", keys.history(name), -behind[name], -1) for name in names)
        for name, reply in zip(names, await asyncio.gather(*calls), strict=True):
            fresh = [point for point in map(read_point, reply) if point is not None and point.at > since[name]]
            hour = now - POINTS * self.step
            self._points[name] = [point for point in [*self._points[name], *fresh] if point.at > hour]
            await asyncio.sleep(0)  # an hour takes a millisecond to read, and streams share this loop


async def read_found(client: RedisClient, catalogue: Catalogue) -> dict[str, dict[str, Found]]:
    """Return what was found of the backends of each model of `concurrency: auto`."""
    measured = [name for name, model in catalogue.settings.models.items() if model.is_auto]
    states = await asyncio.gather(*(client.call("HGET", keys.capacity(name), STATE) for name in measured))
    return {name: read_state(state or b"") for name, state in zip(measured, states, strict=True)}


async def read_slots(client: RedisClient, catalogue: Catalogue) -> dict[str, int]:
    """Return how many jobs of each model may run at once."""
    found = await read_found(client, catalogue)
    return {
        name: places_of(model, found[name]) if name in found else model.places
        for name, model in catalogue.settings.models.items()
    }
