"""Redis's clock is set on or back: what the scripts make of times that no longer mean what they did."""

from __future__ import annotations

import pytest

from shared import keys
from shared.errors import RateLimited
from shared.room.leases import How
from tests.support.asynchronous import asynchronous
from tests.support.clock import set_clock
from tests.support.processes import RedisServer
from tests.support.rooms import Bench, open_bench


def shift(server: RedisServer, seconds: float) -> None:
    with server.client() as client:
        set_clock(client, seconds)


@asynchronous
async def test_a_token_is_not_locked_out_by_a_clock_that_was_set_back(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        await bench.admit(requests_per_minute=2)
        await bench.admit(requests_per_minute=2)
        with pytest.raises(RateLimited):
            await bench.admit(requests_per_minute=2)
        shift(room_redis, -120)
        with pytest.raises(RateLimited) as refused:  # what was used counts as of now
            await bench.admit(requests_per_minute=2)
        assert (refused.value.retry_after or 0) <= 61
        shift(room_redis, 61)
        await bench.serve("w1")
        await bench.admit(requests_per_minute=2)


@asynchronous
async def test_a_clock_that_is_set_back_by_a_second_leaves_limits_as_they_are(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        await bench.admit(requests_per_minute=2)
        shift(room_redis, 40)
        await bench.serve("w1")
        await bench.admit(requests_per_minute=2)
        shift(room_redis, -1)
        with pytest.raises(RateLimited) as refused:
            await bench.admit(requests_per_minute=2)
        assert (refused.value.retry_after or 0) <= 23  # of the first, not of the second
        shift(room_redis, 23)
        await bench.serve("w1")
        await bench.admit(requests_per_minute=2)


@asynchronous
async def test_live_workers_are_seen_at_once_when_the_clock_was_set_back(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        await bench.admit()
        (job,) = await bench.take()
        shift(room_redis, -120)
        await bench.admit()  # there is a worker
        assert await bench.release((job.id, job.attempt, How.AWAY), worker="w1") == "n"  # and it is the only one
        await bench.serve("w2")
        assert await bench.release((job.id, job.attempt, How.AWAY), worker="w1") == "b"


async def deadlines(bench: Bench) -> list[float]:
    """Return how many seconds each waiting job has left."""
    seconds, micros = map(int, await bench.redis("TIME"))
    now = seconds * 1000 + micros / 1000
    flat = await bench.redis("ZRANGE", keys.PREFIXES["waits"] + "m", 0, -1, "WITHSCORES")
    return [(float(score) - now) / 1000 for score in flat[1::2]]


@asynchronous
async def test_a_wait_is_counted_anew_when_the_clock_was_set_back(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, {"m": {"max_wait_seconds": 8}}) as bench:
        await bench.sweep()
        await bench.admit()
        shift(room_redis, -120)
        assert min(await deadlines(bench)) > 100
        await bench.sweep()
        assert max(await deadlines(bench)) <= 8


@asynchronous
async def test_no_running_jobs_record_is_gone_when_the_clock_was_set_on_by_ten_minutes(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, {"m": {"max_wait_seconds": 8, "timeout_seconds": 8}}) as bench:
        await bench.sweep()
        await bench.admit(body=b"x" * 100_000)
        (job,) = await bench.take()
        assert await bench.append(job, b"Cx") == "o"
        shift(room_redis, 600)
        assert await bench.renew(job) == {}
        assert (await bench.sweep()).reclaimed == 0
        assert await bench.append(job, b"Cy", at=1) == "o"
        assert await bench.leases.fetch(job.id) == b"x" * 100_000


@asynchronous
async def test_a_silent_workers_job_is_reclaimed_soon_after_the_clock_was_set_back(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        await bench.sweep()
        job_id = await bench.admit()
        await bench.take()
        shift(room_redis, -120)
        await bench.sweep()
        shift(room_redis, 2.5)  # as time passes, without a renewal
        assert (await bench.sweep()).reclaimed == 0
        shift(room_redis, 2.5)
        await bench.sweep()
        shift(room_redis, 1.5)
        assert (await bench.sweep()).reclaimed == 1
        assert (await bench.record(job_id))["state"] == "waiting"


@asynchronous
async def test_a_worker_that_died_as_the_clock_was_set_back_is_no_live_one_for_long(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        await bench.sweep()
        await bench.admit()
        (job,) = await bench.take()
        await bench.serve("w2")
        shift(room_redis, -120)
        await bench.sweep()
        shift(room_redis, 7)  # as time passes; only w1 is heard
        await bench.serve("w1")
        assert await bench.release((job.id, job.attempt, How.AWAY), worker="w1") == "n"
