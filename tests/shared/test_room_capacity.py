"""What is found for a model of `concurrency: auto` holds in every script, over a real Redis."""

from __future__ import annotations

from typing import Any

from shared import keys
from shared.room.scripts import CAPACITY, CapacityArguments
from shared.scripting import Scripts
from tests.support.asynchronous import asynchronous
from tests.support.processes import RedisServer
from tests.support.rooms import Bench, open_bench

AUTO: dict[str, Any] = {"m": {"concurrency": {"min": 1, "max": 64}, "batch_reserve": 2}}


async def say(bench: Bench, worker: str, report: bytes = b"", state: bytes = b"", places: int = 0) -> list[Any]:
    arguments = CapacityArguments("m", worker, 4000, report, state, places)
    return await Scripts(bench.client).run(CAPACITY, arguments)


async def admit_many(bench: Bench, count: int, **more: Any) -> None:
    for _ in range(count):
        await bench.admit(**more)


@asynchronous
async def test_no_more_run_than_was_found_and_none_loses_by_a_smaller_number(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, AUTO) as bench:
        await admit_many(bench, 12)
        assert len(await bench.take_ids(64)) == 1, "nothing was found yet"
        await say(bench, "w1")
        await say(bench, "w1", state=b"{}", places=7)
        assert len(await bench.take_ids(64)) == 6
        await say(bench, "w1", state=b"{}", places=3)
        assert await bench.take_ids(64) == [], "more run than may now"
        await say(bench, "w1", state=b"{}", places=1000)
        assert len(await bench.take_ids(64)) == 5, "all there are; a worker's own bound holds too"


@asynchronous
async def test_a_workers_own_bound_holds_below_what_was_found(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, AUTO) as bench:
        await say(bench, "w1")
        await say(bench, "w1", state=b"{}", places=50)
        await admit_many(bench, 6)
        taken = await bench.leases.take("m", free=64, mine=0, surplus=True, concurrency=4)
        assert len(taken.jobs) == 4


@asynchronous
async def test_of_few_places_batch_work_may_have_all(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, AUTO) as bench:
        await say(bench, "w1")
        await admit_many(bench, 40, lane="batch")
        for places, batch in ((4, 4), (9, 8), (20, 18)):
            await say(bench, "w1", state=b"{}", places=places)
            await bench.take(64)
            assert len(await bench.redis("SMEMBERS", keys.PREFIXES["batch_running"] + "m")) == batch


@asynchronous
async def test_one_worker_decides_until_it_is_silent(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, AUTO) as bench:
        assert await say(bench, "w1", b"one") == [1, b"", b"one"]
        assert await say(bench, "w2", b"two", b"its own", 9) == [0, b""], "who does not decide says nothing of it"
        assert await say(bench, "w1", b"", b"found", 5) == [1, b"found", b"two"]
        assert await say(bench, "w2", b"three") == [0, b"found"]
        await bench.redis("HSET", keys.PREFIXES["capacity"] + "m", "until", 1)
        assert await say(bench, "w2", b"", b"stale", 9) == [1, b"found", b"three"], "nothing that was measured is lost"
        assert await say(bench, "w1", b"", b"old", 1) == [0, b"found"]
        assert await bench.redis("HGET", keys.PREFIXES["capacity"] + "m", "places") == b"5"


@asynchronous
async def test_a_clock_that_is_set_back_leaves_no_decider_for_ever(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, AUTO) as bench:
        await say(bench, "w1")
        await bench.redis("HSET", keys.PREFIXES["capacity"] + "m", "until", 10**14)
        assert (await say(bench, "w2"))[0] == 1
