"""Whether backends are there: found by looks, fed gently, looked for again where they were not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest

from shared.room.absences import Absences
from tests.support.asynchronous import asynchronous
from tests.support.processes import RedisServer
from tests.support.receiver import Receiver
from tests.support.rooms import Bench, open_bench
from tests.support.waiting import wait_until_async
from workers.absence.presence import Presence
from workers.health import BackendHealth

PLACES = 16


@pytest.fixture
def backend() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@asynccontextmanager
async def presence_of(redis: RedisServer, backend: Receiver) -> AsyncIterator[tuple[Presence, Bench]]:
    url = f"http://127.0.0.1:{backend.port}/v1"
    models = {"m": {"when_absent": "hold", "concurrency": PLACES, "backends": [{"url": url}]}}
    async with open_bench(redis.url, models) as bench:
        settings = bench.settings.models["m"]
        health = BackendHealth(settings.backends)
        presence = Presence("m", settings, Absences(bench.client, "m"), lambda: health, lambda: None)
        try:
            yield presence, bench
        finally:
            await presence.close()


@asynchronous
async def test_what_is_there_again_is_fed_with_one_then_twice_as_many(
    module_redis: RedisServer, backend: Receiver
) -> None:
    async with presence_of(module_redis, backend) as (presence, bench):
        assert presence.limit(PLACES) == PLACES
        presence.lost()
        assert presence.limit(PLACES) == 0
        await bench.admit()
        await wait_until_async(lambda: bench.redis("HGET", "aq2:room:m", "held"), 10, "the model to be held")
        backend.open()
        await wait_until_async(lambda: not presence.is_away, 10, "the backend to be found")
        assert presence.limit(PLACES) == 1
        rounds = []
        while not presence.is_there:
            rounds.append(presence.limit(PLACES))
            for _ in range(rounds[-1]):  # each of those that run answers
                presence.answered()
            presence.limit(PLACES)
        assert rounds == [1, 2, 4, 8]
        assert await bench.redis("HGET", "aq2:room:m", "held") is None


@asynchronous
async def test_a_backend_that_answers_looks_and_refuses_jobs_is_asked_more_and_more_seldom(
    module_redis: RedisServer, backend: Receiver
) -> None:
    async with presence_of(module_redis, backend.open()) as (presence, _):
        for tries in range(4):
            presence.lost()
            await wait_until_async(lambda: not presence.is_away, 10, f"try {tries}")
            assert presence.limit(PLACES) == 1
        looks = [one.at for one in backend.deliveries]
        assert len(looks) == 4
        assert all(later - earlier >= 0.1 for earlier, later in pairwise(looks))


@asynchronous
async def test_nobody_is_looked_for_while_nobody_waits(
    module_redis: RedisServer, backend: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.absence.presence.QUIET_SECONDS", 0.3)
    async with presence_of(module_redis, backend) as (presence, bench):
        presence.lost()
        await wait_until_async(lambda: bench.redis("HGET", "aq2:room:m", "held"), 10, "the model to be held")
        await wait_until_async(lambda: presence.is_resting, 10, "the search to end")
        backend.open()
        await bench.wait_ms(700)
        assert presence.is_away
        presence.wanted()
        await wait_until_async(lambda: not presence.is_away, 10, "the backend to be found")
