"""Models that are away or asleep: what holds them, who calls which hook, how long jobs wait."""

from __future__ import annotations

import asyncio
from typing import Any

from shared import keys
from shared.events import FAILED
from shared.room.absences import FOUND, Absences
from shared.room.leases import How
from tests.support.asynchronous import asynchronous
from tests.support.processes import RedisServer
from tests.support.rooms import open_bench

HELD: dict[str, dict[str, Any]] = {"m": {"when_absent": "hold", "concurrency": 2, "max_wait_seconds": 30}}
COOLDOWN = 60.0


@asynchronous
async def test_one_of_all_who_find_no_backend_calls_the_hook_once_a_cool_down(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, HELD) as bench:
        one = Absences(bench.client, "m")
        said = await asyncio.gather(*(one.away(has_met=True, cooldown_seconds=COOLDOWN) for _ in range(10)))
        assert said.count(0) == 1
        assert all(0 < ms <= COOLDOWN * 1000 for ms in said if ms)
        await one.back(is_there=True)
        assert await one.away(has_met=False, cooldown_seconds=COOLDOWN) == FOUND
        assert await one.away(has_met=True, cooldown_seconds=COOLDOWN) > 0  # so soon not even for a new absence


@asynchronous
async def test_nothing_is_taken_until_a_backend_is_there(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, HELD) as bench:
        one = Absences(bench.client, "m")
        await one.away(has_met=True, cooldown_seconds=0)
        job_id = await bench.admit()
        taken = await bench.leases.take("m", free=1, mine=0, surplus=True)
        assert (taken.jobs, taken.held) == ([], True)
        await bench.redis("DEL", keys.queue("m"))
        await one.back(is_there=True)
        assert await bench.redis("LLEN", keys.queue("m")) == 1  # which wakes a worker
        assert await bench.take_ids() == [job_id]


@asynchronous
async def test_a_held_job_is_first_again_has_lost_no_try_and_waits_no_longer(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, HELD) as bench:
        first, second = await bench.admit(), await bench.admit()
        deadline = await bench.redis("HGET", keys.job(first), "deadline")
        (job,) = await bench.take()
        await bench.wait_ms(5)
        assert await bench.release((job.id, job.attempt, How.HOLD)) == "b"
        assert await bench.redis("HMGET", keys.job(first), "tries", "deadline", "state") == [b"0", deadline, b"waiting"]
        assert [job.id for job in await bench.take(2)] == [first, second]


@asynchronous
async def test_what_has_published_is_not_held(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, HELD) as bench:
        job_id = await bench.admit()
        (job,) = await bench.take()
        await bench.append(job, b"Cword")
        assert await bench.release((job.id, job.attempt, How.HOLD)) == "f"
        (last,) = await bench.redis("LRANGE", keys.log(job_id), -1, -1)
        assert last[0] == FAILED


@asynchronous
async def test_a_model_sleeps_once_and_only_when_nobody_uses_it(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, HELD) as bench:
        one = Absences(bench.client, "m")

        async def doze(idle: float = 0.05) -> int:
            return await one.doze(idle_seconds=idle, cooldown_seconds=COOLDOWN, longest_seconds=5)

        await one.away(has_met=True, cooldown_seconds=COOLDOWN)  # it was woken not long ago
        await one.back(is_there=True)
        await bench.admit()
        assert await doze() == 50  # one waits
        (job,) = await bench.take()
        await bench.wait_ms(60)
        assert await doze() == 50  # it runs
        await bench.end(job)
        assert 0 < await doze(30) <= 30_000
        await bench.wait_ms(60)
        assert sorted([await doze(), await doze()]) == [0, 50]
        assert await bench.take() == []
        # Nobody wakes it before the sleep hook has ended; then it is woken, whenever it was woken last.
        assert 0 < await one.away(has_met=False, cooldown_seconds=COOLDOWN) <= 1000
        await one.back(is_there=False)
        assert await one.away(has_met=False, cooldown_seconds=COOLDOWN) == 0


@asynchronous
async def test_without_a_worker_such_a_model_accepts_and_its_jobs_wait(room_redis: RedisServer) -> None:
    models = {**HELD, "n": {"concurrency": 2}}
    async with open_bench(room_redis.url, models, testing={"worker_grace_seconds": 0.01}) as bench:
        await bench.redis("DEL", keys.workers("m"))
        await bench.wait_ms(20)
        job_id = await bench.admit()
        for _ in range(3):
            await bench.sweep()
        assert await bench.redis("HGET", keys.job(job_id), "state") == b"waiting"


@asynchronous
async def test_a_clock_that_is_set_back_keeps_no_model_asleep_or_awake(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, HELD) as bench:
        one = Absences(bench.client, "m")
        assert await one.doze(idle_seconds=0.001, cooldown_seconds=60, longest_seconds=5) == 0
        dozing, slept = (keys.PREFIXES[name] + "m" for name in ("dozing", "slept"))
        for key in (dozing, slept):
            await bench.redis("PEXPIRE", key, 3_600_000)
        assert 0 < await one.away(has_met=True, cooldown_seconds=COOLDOWN) <= 5000
        assert await bench.redis("PTTL", dozing) <= 5000  # whoever called the sleep hook may be dead
        await one.back(is_there=True)
        assert 0 < await one.doze(idle_seconds=0.001, cooldown_seconds=60, longest_seconds=5) <= 60_000
        assert await bench.redis("PTTL", slept) <= 60_000
