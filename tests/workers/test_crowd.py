"""Room for people, switched on by a reload at a moment when Redis is away."""

from __future__ import annotations

import asyncio

from shared import keys
from shared.background import Background
from tests.support.asynchronous import asynchronous
from tests.support.processes import RedisServer
from tests.support.rooms import open_bench, settings_of
from tests.support.waiting import wait_until_async
from workers.crowd import Crowd

LONGER_THAN_AN_OPEN_WAITS = 10.5


@asynchronous
async def test_a_reload_while_redis_is_away_has_it_listened_for_once_it_is_back(own_redis: RedisServer) -> None:
    async with open_bench(own_redis.url, {"m": {}}) as bench:
        stopped: list[tuple[str, bytes]] = []
        background = Background()
        crowd = Crowd(
            bench.leases,
            bench.catalogue,
            slots=lambda _: None,
            stop=lambda job_id, attempt: stopped.append((job_id, attempt)),
            background=background,
        )
        await crowd.open()
        own_redis.kill()
        bench.catalogue.exchange(settings_of({"m": {"preempt_batch_after_ms": 1000}}, own_redis.url), "new")
        await asyncio.sleep(LONGER_THAN_AN_OPEN_WAITS)
        own_redis.restart()

        async def is_heard() -> bool:
            with own_redis.client() as client:
                client.publish(keys.CROWD, "b job 1.attempt")
            return bool(stopped)

        await wait_until_async(is_heard, 10, "the word to be heard")
        assert stopped[0] == ("job", b"1.attempt")
        await crowd.close()
        await background.close()
