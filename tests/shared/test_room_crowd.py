"""Batch work that makes room for who has waited too long: `make_room.lua`, and what `admit` and `take` tell of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from shared import keys
from shared.jobs import TakenJob
from shared.redis import Subscriber
from shared.room.leases import How
from tests.support.asynchronous import asynchronous
from tests.support.processes import RedisServer
from tests.support.rooms import Bench, open_bench
from tests.support.waiting import wait_until_async

PATIENCE_MS = 200
"""Longer than a busy machine takes for a few calls."""
MODELS: dict[str, dict[str, Any]] = {
    "m": {"concurrency": 4, "preempt_batch_after_ms": PATIENCE_MS, "max_queue": 2000},
    "off": {"concurrency": 4},
}


async def full(bench: Bench, count: int = 4, **more: Any) -> list[TakenJob]:
    """Let batch jobs take every slot, one a millisecond; the first is the oldest."""
    running = []
    for _ in range(count):
        await bench.admit(lane="batch", must_finish=True, **more)
        running += await bench.take()
        await bench.wait_ms(2)
    return running


async def make_room(bench: Bench, concurrency: int = 4) -> float | None:
    return await bench.leases.make_room("m", PATIENCE_MS, concurrency)


async def running(bench: Bench) -> set[str]:
    return {job_id.decode() for job_id in await bench.redis("ZRANGE", keys.running("m"), 0, -1)}


@asynccontextmanager
async def hearing(bench: Bench) -> AsyncIterator[list[str]]:
    """Collect what workers hear."""
    heard: list[str] = []
    subscriber = Subscriber(bench.settings.redis, [keys.CROWD], lambda message: heard.append(message.decode()))
    await subscriber.open()
    try:
        yield heard
    finally:
        await subscriber.close()


@asynchronous
async def test_the_youngest_batch_job_makes_room_for_each_who_has_waited_long_enough(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, MODELS) as bench, hearing(bench) as heard:
        oldest, older, young, youngest = await full(bench)
        first, second = await bench.admit(), await bench.admit(lane="flex")
        assert await make_room(bench) is not None  # nobody has waited long enough
        assert len(await running(bench)) == 4
        await bench.wait_ms(PATIENCE_MS)
        later = await bench.admit()
        await make_room(bench)
        assert await running(bench) == {oldest.id, older.id}
        await make_room(bench)  # as every worker asks: the room is there already
        assert await running(bench) == {oldest.id, older.id}
        assert set(await bench.take_ids(4)) == {first, second}
        assert (await bench.record(later))["state"] == "waiting"
        told = f"b {youngest.id} {youngest.attempt.decode()} {young.id} {young.attempt.decode()}"
        await wait_until_async(lambda: told in heard)


@asynchronous
async def test_what_made_room_runs_again_first_of_its_lane_and_has_spent_no_attempt(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, MODELS) as bench:
        *others, young = await full(bench)
        waiting = await bench.admit(lane="batch", must_finish=True)
        urgent = await bench.admit()
        await bench.wait_ms(PATIENCE_MS)
        await make_room(bench)
        record = await bench.record(young.id)
        assert (record["state"], record["tries"], record["attempt"]) == ("waiting", "0", "")
        assert await bench.append(young, b"C1") == "s"  # what it still sends is nobody's
        assert await bench.release((young.id, young.attempt, How.AGAIN)) == "s"
        assert await bench.take_ids(1) == [urgent]
        await bench.end(others[0])
        (again,) = await bench.take()
        assert (again.id, again.attempt[:2]) == (young.id, b"1.")
        assert (await bench.record(waiting))["state"] == "waiting"


@asynchronous
async def test_a_batch_job_that_has_published_is_never_handed_back(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, MODELS) as bench:
        oldest, *published = await full(bench)
        for job in published:
            assert await bench.append(job, b"C1") == "o"
        await bench.admit()
        await bench.admit()
        await bench.wait_ms(PATIENCE_MS)
        assert await make_room(bench) is None  # nothing is left that could go
        assert await running(bench) == {job.id for job in published}
        assert (await bench.record(oldest.id))["state"] == "waiting"


@asynchronous
async def test_people_who_run_never_make_room(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, MODELS) as bench:
        for _ in range(4):
            await bench.admit(lane="flex")
        assert len(await bench.take(4)) == 4
        await bench.admit(lane="priority")
        await bench.wait_ms(PATIENCE_MS)
        assert await make_room(bench) is None
        assert len(await running(bench)) == 4


@asynchronous
async def test_a_slot_that_is_free_need_not_be_made(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, MODELS) as bench:
        await full(bench, 3)
        for left in (3, 2):
            await bench.admit()
            await bench.wait_ms(PATIENCE_MS)
            await make_room(bench)
            assert len(await running(bench)) == left


@asynchronous
async def test_a_job_taken_by_another_version_goes_last_and_a_cancelled_one_not_at_all(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, MODELS) as bench:
        unknown, _, cancelled, _ = await full(bench, owner="")
        await bench.redis("HDEL", keys.job(unknown.id), "taken")
        assert await bench.cancel(cancelled.id, owner="") == "r"
        for count, kept in ((2, {unknown.id, cancelled.id}), (2, {cancelled.id})):
            for _ in range(count):
                await bench.admit()
            await bench.wait_ms(PATIENCE_MS)
            await make_room(bench)
            assert await running(bench) == kept


@asynchronous
async def test_batch_work_begins_only_when_nobody_else_waits(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, MODELS) as bench:
        for model in ("m", "off"):
            for lane in ("batch", "default", "default", "default", "default"):
                await bench.admit(lane=lane, model=model)
        for model, count in (("m", 0), ("off", 1)):
            taken = await bench.take(4, model=model)
            assert [(await bench.record(job.id))["lane"] for job in taken].count("batch") == count


@asynchronous
async def test_workers_hear_of_somebody_who_waits_behind_batch_work_and_of_nobody_else(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, MODELS) as bench, hearing(bench) as heard:
        await bench.admit()  # a slot is free
        await bench.take()
        await full(bench, 3)
        await bench.admit(lane="batch")
        await bench.admit(model="off")
        await bench.admit(lane="flex")
        await wait_until_async(lambda: heard == ["w m"])


@asynchronous
async def test_a_take_that_fills_the_slots_says_who_is_left_behind_batch_work(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, MODELS) as bench:
        await full(bench, 3)
        for _ in range(2):
            await bench.admit()
        taken = await bench.leases.take("m", free=4, mine=0, surplus=True)
        assert (len(taken.jobs), taken.more, taken.crowded) == (1, False, True)
        await bench.admit(model="off", lane="batch")
        for _ in range(5):
            await bench.admit(model="off")
        taken = await bench.leases.take("off", free=5, mine=0, surplus=True)
        assert (taken.more, taken.crowded) == (False, False)
