"""Where waiting jobs stand, what is known of one, and what of an ended one stays (`stand.lua`, `look.lua`)."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from shared import keys
from shared.jobs import TakenJob
from shared.protocol import RUNNING_FEW, RUNNING_LOOKED
from tests.support.asynchronous import asynchronous
from tests.support.processes import RedisServer
from tests.support.rooms import Bench, open_bench

LANES = ("priority", "default", "flex", "batch")
FULL: dict[str, dict[str, Any]] = {"m": {"concurrency": 1, "max_queue": 20_000}}
WIDE: dict[str, dict[str, Any]] = {"m": {"concurrency": 2000, "max_queue": 20_000}}


async def commands_inside(bench: Bench) -> int:
    lines = (await bench.redis("INFO", "commandstats")).decode().splitlines()
    calls = {line.split(":")[0]: int(line.split("calls=")[1].split(",")[0]) for line in lines if "calls=" in line}
    return sum(count for name, count in calls.items() if name not in ("cmdstat_evalsha", "cmdstat_info"))


@asynchronous
@pytest.mark.parametrize("seed", range(6))
async def test_every_place_is_that_in_which_jobs_are_taken(room_redis: RedisServer, seed: int) -> None:
    draw = random.Random(seed)
    # Powers of two, whose parts add up without rounding: turns at the same pass are then told apart as they are taken.
    weights = {lane: 2 ** draw.randint(0, 5) for lane in LANES} if seed % 2 else {}
    async with open_bench(room_redis.url, WIDE, lanes=weights, tenant_share=1) as bench:
        lanes: dict[str, str] = {}
        for number in range(120):
            if number < 80 and draw.random() < 0.2:  # what was taken before has moved the lanes' turns on
                await bench.take(draw.randint(1, 5))
            lane, tenant = draw.choice(LANES), draw.choice("abc")
            job_id = await bench.admit(lane=lane, tenant=tenant, weight=draw.choice((1, 2)), cost=draw.choice((1, 50)))
            lanes[job_id] = lane
        _, places = await bench.admissions.stand("m", lanes.items())
        told = {job_id: before for job_id, before in zip(lanes, places, strict=True) if before >= 0}
        order = await bench.take_ids(64) + await bench.take_ids(64)
        assert len(order) > 30
        assert told == {job_id: number for number, job_id in enumerate(order)}


@asynchronous
async def test_only_who_must_wait_is_told_its_place_at_admission(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, FULL) as bench:
        assert (await bench.admitted())[1].before is None
        await bench.take()
        assert [(await bench.admitted(lane="default"))[1].before for _ in range(3)] == [0, 1, 2]
        assert (await bench.admitted(lane="priority"))[1].before == 0
        assert (await bench.admitted(tenant="b"))[1].before in (1, 2)  # its first goes before the others' second


@asynchronous
async def test_who_must_wait_is_told_how_fast_the_line_moves_where_few_run(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, {"m": {"concurrency": RUNNING_FEW + 1, "max_queue": 100}}) as bench:
        jobs: list[TakenJob] = []
        for running in range(RUNNING_FEW + 1):
            assert (await bench.admitted())[1].line is None
            jobs += await bench.take()
            assert len(jobs) == running + 1
        assert (await bench.admitted())[1].line is None  # too many to look at
    async with open_bench(room_redis.url, FULL) as bench:
        job_id = await bench.admit()
        await bench.take()
        await bench.redis("HINCRBY", keys.job(job_id), "taken", -700)
        line = (await bench.admitted())[1].line
        assert line is not None
        assert (line.held_ms, line.places, len(line.ages_ms)) == (0, 1, 1)
        assert 700 <= line.ages_ms[0] < 1700


@asynchronous
async def test_batch_work_that_the_reserve_shuts_out_is_before_nobody(room_redis: RedisServer) -> None:
    models = {"m": {"concurrency": 2, "max_queue": 100, "batch_reserve": 1}}
    async with open_bench(room_redis.url, models) as bench:
        await bench.admit(lane="batch")
        await bench.take()
        for _ in range(3):
            await bench.admit(lane="batch")
        await bench.admit(lane="default")
        assert len(await bench.take()) == 1
        assert (await bench.admitted(lane="flex"))[1].before == 0


@asynchronous
async def test_the_line_tells_how_long_jobs_hold_their_slots(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, {"m": {"concurrency": 2}}) as bench:
        for _ in range(4):
            await bench.admit()
        assert (await bench.admissions.stand("m", []))[0].held_ms == 0
        first, second = await bench.take(2)
        await bench.redis("HINCRBY", keys.job(first.id), "taken", -3000)
        await bench.end(first)
        line, _ = await bench.admissions.stand("m", [])
        assert 3000 <= line.held_ms < 4000
        assert (line.places, len(line.ages_ms)) == (1, 1)
        await bench.redis("HINCRBY", keys.job(second.id), "taken", -1000)
        await bench.end(second)
        # The mean of both, in which the later one counts for a little more.
        assert 1900 <= (await bench.admissions.stand("m", []))[0].held_ms < 2900


@asynchronous
async def test_who_does_not_wait_has_no_place(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, FULL) as bench:
        running, waiting = await bench.admit(), await bench.admit()
        await bench.take()
        asked = [(running, "default"), (waiting, "default"), ("0" * 32, "default"), (waiting, "flex")]
        assert list((await bench.admissions.stand("m", asked))[1]) == [-1, 0, -1, 0]  # found in the lane it is in now
        assert list((await bench.admissions.stand("gone", asked))[1]) == [-1] * 4


@asynchronous
async def test_a_place_costs_as_much_however_many_wait_and_run(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, WIDE) as bench:
        await bench.admissions.stand("m", [])  # Redis knows the script from now on
        costs: list[tuple[int, int]] = []
        for more in (100, 9_900):
            for _ in range(more // 100):
                await bench.beat()
                await asyncio.gather(*(bench.admit(tenant=f"t{number % 5}") for number in range(100)))
            ids = [bytes(one).decode() for one in await bench.redis("ZRANGE", keys.lane("default", "m"), 0, -1)]
            before = await commands_inside(bench)
            _, (place,) = await bench.admissions.stand("m", [(ids[-1], "default")])
            costs.append((await commands_inside(bench) - before, place))
        assert [rank for _, rank in costs] == [99, 9_999]
        assert costs[0][0] == costs[1][0] <= 12
        taken = 0
        while taken < 1000:
            taken += len(await bench.take(64))
        before = await commands_inside(bench)
        line, _ = await bench.admissions.stand("m", [(ids[-1], "default")])
        assert (line.places, len(line.ages_ms)) == (taken, RUNNING_LOOKED)
        assert await commands_inside(bench) - before <= 12 + RUNNING_LOOKED


@asynchronous
async def test_a_look_tells_each_state_with_its_times(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        job_id = await bench.admit(tenant="a", lane="flex")
        assert await bench.admissions.look("0" * 32) is None
        waiting = await bench.admissions.look(job_id)
        assert waiting is not None
        assert (waiting.tenant, waiting.model, waiting.lane, waiting.state) == ("a", "m", "flex", "waiting")
        assert waiting.admitted > 0
        assert (waiting.tries, waiting.taken, waiting.begun, waiting.ended) == (0, 0, 0, 0)
        await bench.wait_ms(5)
        (job,) = await bench.take()
        await bench.wait_ms(5)
        await bench.append(job, b"S5", b"Cdata: x\n\n")
        await bench.wait_ms(5)
        assert await bench.append(job, b"D1 1 1 1\n", at=2, end=5) == "o"
        ended = await bench.admissions.look(job_id)
        assert ended is not None
        assert (ended.state, ended.tries) == ("ended", 1)
        assert ended.admitted < ended.taken < ended.begun < ended.ended <= ended.now


@asynchronous
async def test_a_job_that_waits_again_is_not_taken(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        job_id = await bench.admit()
        await bench.take()
        await bench.expire_lease(job_id)
        await bench.sweep()
        look = await bench.admissions.look(job_id)
        assert look is not None
        assert (look.state, look.tries, look.taken) == ("waiting", 1, 0)


@asynchronous
async def test_of_what_was_handed_on_the_first_records_stay_without_their_words(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        ids = [await bench.admit() for _ in range(3)]
        for job in await bench.take(3):
            await bench.end(job)
        assert await bench.admissions.forget(ids, keep=2) == 3
        assert [await bench.redis("EXISTS", keys.job(job_id)) for job_id in ids] == [1, 1, 0]
        assert await bench.redis("EXISTS", *(keys.log(job_id) for job_id in ids)) == 0
        assert 0 < await bench.redis("PTTL", keys.job(ids[0])) <= 60_000
