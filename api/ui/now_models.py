"""The figures of each model for the Now page: how it stands, what happened lately, and the hour as a small chart."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from api.ui.charts import Chart, binned, mean_running, model_charts, most_waiting, sparks
from api.ui.history import Hour, read_found
from api.ui.verdict import Verdict, verdict
from shared import keys
from shared.backend_keys import key_of
from shared.capacity import Found, backend_key, places_of
from shared.catalogue import Catalogue
from shared.control.models import where
from shared.metrics.history import Calls, Point, Span, span
from shared.redis import RedisClient
from shared.room.upkeep import Depth, Upkeep
from shared.settings import ModelSettings

LATELY_SECONDS: Final = 300
SPARK_BINS: Final = 60
FRESH_SECONDS: Final = 1.0
MODELS_AT_ONCE: Final = 10

Sparks = tuple[str, str]
"""A small chart: what waited as an area, what ran as a line."""


@dataclass(frozen=True)
class ModelNow:
    """One model as the page shows it."""

    name: str
    settings: ModelSettings
    depth: Depth
    slots: int
    lately: Span
    """The last five minutes."""
    verdict: Verdict
    sparks: Sparks

    @property
    def waiting(self) -> int:
        """How many wait, in all lanes."""
        return sum(self.depth.waiting.values())


class BackendNow(NamedTuple):
    """One backend of a model."""

    place: int
    host: str
    is_held: bool
    calls: Calls
    concurrency: int | None
    """None: no bound of its own."""
    auto: str
    """Of a number that finds itself: its range, and why it changed last. Empty: it was given."""


class Snapshot(NamedTuple):
    """What was read of all models at a moment."""

    at: float
    depths: Mapping[str, Depth]
    found: Mapping[str, Mapping[str, Found]]
    points: Mapping[str, list[Point]]


class Viewing:
    """What one process reads for its pages, shared by all who look."""

    def __init__(self, client: RedisClient, catalogue: Catalogue, upkeep: Upkeep) -> None:
        self._client = client
        self._catalogue = catalogue
        self._upkeep = upkeep
        self._hour = Hour(client, catalogue)
        self._last: Snapshot | None = None
        self._of_points: dict[str, tuple[tuple[float, float], Span, Sparks]] = {}
        self._charts: dict[str, tuple[tuple[float, float], Span, list[Chart]]] = {}
        self._reading = asyncio.Lock()

    async def snapshot(self, *, fresh: bool = False) -> Snapshot:
        """Return what is known now, or a second ago; raises RedisUnavailable or RedisRefused."""
        async with self._reading:
            now = time.time()
            if not fresh and self._last is not None and 0 <= now - self._last.at < FRESH_SECONDS:
                return self._last
            depths, found, points = await asyncio.gather(
                self._upkeep.depth(), read_found(self._client, self._catalogue), self._hour.read()
            )
            self._last = Snapshot(now, depths, found, points)
            return self._last

    def model(self, name: str, seen: Snapshot) -> ModelNow:
        """Return one model."""
        settings, depth = self._catalogue.settings.models[name], seen.depths[name]
        slots = places_of(settings, dict(seen.found[name])) if name in seen.found else settings.places
        lately, drawn = self._of_hour(name, seen)
        calls = {where(one): lately.calls(one.address) for one in settings.backends}
        return ModelNow(name, settings, depth, slots, lately, verdict(settings, depth, slots, lately, calls), drawn)

    async def models(self, seen: Snapshot) -> list[ModelNow]:
        """Return all that the settings still know."""
        found = []
        for name in seen.depths:
            if name in self._catalogue.settings.models:
                found.append(self.model(name, seen))
                if not len(found) % MODELS_AT_ONCE:
                    await asyncio.sleep(0)  # streams share this loop
        return found

    def hour(self, name: str, seen: Snapshot) -> tuple[Span, list[Chart]]:
        """Return all that happened to a model in the last hour, and its charts; made once a point."""
        points, key = self._points(name, seen)
        kept = self._charts.get(name)
        if kept is None or kept[0] != key:
            kept = self._charts[name] = (key, span(points), model_charts(points, seen.at))
        return kept[1], kept[2]

    @staticmethod
    def _points(name: str, seen: Snapshot) -> tuple[list[Point], tuple[float, float]]:
        """Return a model's points, and what tells whether something that was made of them is still so."""
        points = seen.points.get(name, [])
        return points, (points[-1].at if points else 0.0, seen.at // 60)

    def _of_hour(self, name: str, seen: Snapshot) -> tuple[Span, Sparks]:
        """Return what changes with each point only: the last minutes, and the small chart."""
        points, key = self._points(name, seen)
        kept = self._of_points.get(name)
        if kept is None or kept[0] != key:
            lately = span(point for point in points if point.at > seen.at - LATELY_SECONDS)
            waited, ran = (binned(points, seen.at, value, SPARK_BINS) for value in (most_waiting, mean_running))
            kept = self._of_points[name] = (key, lately, sparks(waited, ran))
        return kept[1], kept[2]


def backends_now(model: ModelNow, found: Mapping[str, Found]) -> list[BackendNow]:
    """Return a model's backends."""
    rows = []
    for place, (backend, auto) in enumerate(zip(model.settings.backends, model.settings.autos, strict=True)):
        one = found.get(backend_key(backend))
        given = backend.concurrency if isinstance(backend.concurrency, int) else None
        number, told = given, ""
        if auto is not None:
            number = auto.within(one.limit) if one is not None else auto.first
            told = f"found between {auto.least} and {auto.most}"
            if one is not None and one.reason:
                told += f"; last {one.before or '?'} → {number}: {one.reason}"
        is_held = key_of(backend) in model.depth.backends_off
        calls = model.lately.calls(backend.address)
        rows.append(BackendNow(place, where(backend), is_held, calls, number, told))
    return rows


async def who_waits(client: RedisClient, model: str) -> list[tuple[str, str, int]]:
    """Return who has most waiting: kind (token or group), name, number. Raises RedisUnavailable or RedisRefused."""
    reply: Any = await client.call("HGETALL", keys.PREFIXES["tenants"] + model)
    pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    found: Counter[str] = Counter()
    for field, number in pairs:
        found[field.decode().partition(":")[2] or field.decode()] += int(number)
    return [
        ("group" if name.startswith("/") else "token", name.removeprefix("/"), number)
        for name, number in found.most_common(20)
    ]
