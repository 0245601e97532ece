"""What `sweep.lua` mends: lost workers, dead owners, late jobs, lost tickets, a Redis that stood still."""

from __future__ import annotations

import asyncio

import pytest

from shared import keys
from shared.errors import RateLimited
from shared.jobs import TakenJob
from shared.room.admission import MARGIN_MS, Idempotency
from shared.room.leases import How, Why
from shared.room.upkeep import Upkeep
from tests.support.asynchronous import asynchronous
from tests.support.processes import RedisServer
from tests.support.rooms import Bench, heard_frames, open_bench
from tests.support.waiting import wait_until_async

FAST = {"lease_seconds": 0.2}


async def running_job(bench: Bench) -> TakenJob:
    await bench.admit()
    (job,) = await bench.take()
    return job


@asynchronous
async def test_a_job_is_taken_from_a_silent_worker_only_after_its_lease(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, testing=FAST) as bench:
        job = await running_job(bench)
        assert (await bench.sweep()).reclaimed == 0
        assert await bench.renew((job.id, job.attempt)) == {}

        async def reclaimed() -> bool:
            return (await bench.sweep()).reclaimed == 1

        await wait_until_async(reclaimed)
        (again,) = await bench.take()
        assert (again.id, again.tries) == (job.id, 2)
        assert await bench.append(job, b"Clate") == "s"
        assert await bench.append(again, b"Cx") == "o"


@asynchronous
async def test_a_renewed_lease_is_not_reclaimed(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        job = await running_job(bench)
        await bench.expire_lease(job.id)
        assert await bench.renew((job.id, job.attempt)) == {}
        assert (await bench.sweep()).reclaimed == 0
        assert await bench.append(job, b"Cx") == "o"


@asynchronous
async def test_a_lost_job_that_had_published_ends_in_one_error_and_is_not_run_again(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        job = await running_job(bench)
        await bench.append(job, b"S1", b"Cx")
        await bench.expire_lease(job.id)
        async with bench.listening() as heard:
            assert (await bench.sweep()).reclaimed == 1
            (frame,) = await heard_frames(heard)
            assert (frame[0], frame[1]) == (job.id, 2)
            assert b"job_lost" in (frame[2] or b"")
        assert await bench.take() == []
        assert await bench.append(job, b"Cmore", at=2) == "s"
        assert (await bench.sweep()).reclaimed == 0
        assert len(await bench.log(job.id)) == 3
        assert (await bench.upkeep.depth())["m"].running == 0


@pytest.mark.parametrize("how", ["lost", "handed back"])
def test_a_job_that_waits_again_has_its_whole_life_before_it(room_redis: RedisServer, how: str) -> None:
    life_ms = 30_000 + MARGIN_MS

    async def scenario() -> None:
        async with open_bench(room_redis.url, {"m": {"max_wait_seconds": 10, "timeout_seconds": 20}}) as bench:
            await bench.admit(idempotency=Idempotency("k", "h"), concurrent_jobs=1, body=b"x" * 70_000)
            (job,) = await bench.take()
            own = [keys.job(job.id), keys.body(job.id), keys.PREFIXES["idempotency"] + "k"]
            for key in own:
                await bench.redis("PEXPIRE", key, 1000)  # as after a run that took nearly all of it
            jobs_of_token = keys.PREFIXES["token_jobs"] + "a"
            await bench.redis("ZADD", jobs_of_token, "XX", 1, job.id)
            if how == "lost":
                await bench.expire_lease(job.id)
                await bench.sweep()
            else:
                await bench.release((job.id, job.attempt, How.AWAY))
            (again,) = await bench.take()
            assert again.body is None  # to be fetched
            assert [life_ms - 1000 < await bench.redis("PTTL", key) <= life_ms for key in own] == [True] * 3
            with pytest.raises(RateLimited):  # it still counts for its token
                await bench.admit(concurrent_jobs=1)
            await bench.append(again, b"S1", b"Cx")
            assert await bench.redis("PTTL", keys.log(job.id)) > life_ms - 1000

    asyncio.run(scenario())


@asynchronous
async def test_the_third_lost_attempt_ends_the_job(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        job_id = await bench.admit()
        for attempt in (1, 2, 3):
            (job,) = await bench.take()
            assert job.tries == attempt
            await bench.expire_lease(job_id)
            await bench.sweep()
        assert await bench.take() == []
        (event,) = await bench.log(job_id)
        assert b"Every worker that ran this request was lost" in event


@asynchronous
async def test_a_cancelled_job_of_a_lost_worker_just_ends(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        job = await running_job(bench)
        await bench.cancel(job.id)
        assert await bench.renew((job.id, job.attempt)) == {job.id: Why.CANCELLED}
        await bench.expire_lease(job.id)
        await bench.sweep()
        assert await bench.record(job.id) == {}
        assert await bench.take() == []


@asynchronous
async def test_a_worker_is_told_of_jobs_that_redis_no_longer_knows(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        job = await running_job(bench)
        await bench.redis("FLUSHALL")
        assert await bench.renew((job.id, job.attempt)) == {job.id: Why.UNKNOWN}
        assert await bench.append(job, b"Cx") == "u"


@asynchronous
async def test_after_redis_stood_still_every_lease_gets_one_more_life(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        job = await running_job(bench)
        await bench.expire_lease(job.id)
        await bench.stood_still(5)
        assert (await bench.sweep()).reclaimed == 0
        assert await bench.append(job, b"Cx") == "o"
        await bench.expire_lease(job.id)
        assert (await bench.sweep()).reclaimed == 1  # only one


@asynchronous
async def test_a_short_pause_of_the_sweep_is_no_standstill(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        job = await running_job(bench)
        await bench.expire_lease(job.id)
        await bench.stood_still(1)
        assert (await bench.sweep()).reclaimed == 1


@asynchronous
async def test_owners_and_workers_are_not_judged_when_redis_stood_still(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        job_id = await bench.admit()
        await bench.redis("DEL", keys.owner("api"), keys.workers("m"))
        await bench.stood_still(30)
        assert (await bench.sweep())[:3] == (0, 0, 0)
        await bench.beat("api")
        await bench.serve("w1")
        assert (await bench.sweep())[:3] == (0, 0, 0)
        assert await bench.take_ids() == [job_id]


@asynchronous
async def test_nobody_gives_jobs_of_a_silent_owner_up_before_it_could_speak_again(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        job = await running_job(bench)
        waiting = await bench.admit()
        await bench.redis("DEL", keys.owner("api"))
        await bench.stood_still(30)
        # A worker is back sooner than the API process and the sweep.
        assert await bench.renew((job.id, job.attempt)) == {}
        assert await bench.take_ids() == [waiting]
        await bench.sweep()
        assert (await bench.sweep()).orphaned == 0  # the next sweep is an ordinary one
        assert await bench.renew((job.id, job.attempt)) == {}


@asynchronous
async def test_one_process_sweeps_a_second(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        assert await bench.upkeep.sweep() is not None
        assert await bench.upkeep.sweep() is None


@asynchronous
async def test_after_a_replaced_redis_nothing_is_taken_for_a_lease(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, testing=FAST) as bench:
        await bench.sweep()
        waiting = await bench.admit()
        await bench.upkeep.hello()
        bench.client.run_id = "another server"
        greeted = [bench.upkeep.is_greeted]  # not, so that it is said again until it was heard
        await bench.upkeep.hello()
        assert [*greeted, bench.upkeep.is_greeted] == [False, True]
        assert await bench.take() == []
        assert await bench.redis("PTTL", keys.HOLD) <= 200

        async def taken() -> bool:
            return await bench.take_ids() == [waiting]

        await wait_until_async(taken)
        await bench.sweep()
        assert await bench.redis("EXISTS", keys.HOLD) == 0


@asynchronous
async def test_a_process_that_has_just_started_does_not_hold_redis(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        await bench.redis("DEL", keys.SWEEPER)
        await Upkeep(bench.client, bench.catalogue, "new").open()
        await bench.redis("DEL", keys.SWEEPER)
        assert await bench.redis("EXISTS", keys.HOLD) == 0


@asynchronous
async def test_late_jobs_are_told_504_by_the_sweep(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, {"m": {"concurrency": 1}}) as bench:
        job = await running_job(bench)
        late, waiting = await bench.admit(), await bench.admit()
        await bench.expire_wait(late)
        async with bench.listening() as heard:
            assert (await bench.sweep()).expired == 1
            ((job_id, number, event),) = await heard_frames(heard)
            assert (job_id, number) == (late, 0)
            assert b"queue_timeout" in (event or b"")
        assert await bench.cancel(late) == "n"
        await bench.end(job)
        assert await bench.take_ids(2) == [waiting]


@asynchronous
async def test_jobs_of_a_dead_api_process_are_cleared_unless_they_must_finish(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, {"m": {"concurrency": 3}}) as bench:
        await bench.beat("gone")
        runs, runs_on = await bench.admit(owner="gone"), await bench.admit(owner="gone", must_finish=True)
        jobs = {job.id: job for job in await bench.take(2)}
        waits, waits_on = await bench.admit(owner="gone"), await bench.admit(owner="gone", must_finish=True)
        other = await bench.admit()
        await bench.beat("gone", gone=True)
        async with bench.listening() as heard:
            assert (await bench.sweep()).orphaned == 2

            async def told() -> bool:
                return runs.encode() in heard

            await wait_until_async(told)
        assert await bench.record(waits) == {}
        held = [(job_id, job.attempt) for job_id, job in jobs.items()]
        assert await bench.renew(*held) == {runs: Why.CANCELLED}
        await bench.release((runs, jobs[runs].attempt, How.END))
        assert await bench.append(jobs[runs_on], b"Cx") == "o"
        assert sorted(await bench.take_ids(3)) == sorted([waits_on, other])
        await bench.sweep()
        assert await bench.redis("SMEMBERS", keys.OWNERS) == [b"api"]
        assert await bench.redis("EXISTS", keys.PREFIXES["owned"] + "gone") == 0


@asynchronous
async def test_a_worker_stops_what_belongs_to_a_dead_api_process(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        await bench.beat("gone")
        dropped, kept = await bench.admit(owner="gone"), await bench.admit(owner="gone", must_finish=True)
        held = [(job.id, job.attempt) for job in await bench.take(2)]
        await bench.beat("gone", gone=True)
        assert await bench.renew(*held) == {dropped: Why.CANCELLED}
        assert kept


@asynchronous
async def test_the_sweep_tops_up_lost_tickets(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, {"m": {"concurrency": 2}}, served=False) as bench:
        await bench.serve("w1", "w2", "w3")
        for _ in range(2):
            await bench.admit()
        await bench.drop_tickets()
        assert (await bench.sweep()).tickets == 1
        assert (await bench.sweep()).tickets == 1
        assert (await bench.sweep()).tickets == 0  # no more than jobs wait
        assert await bench.tickets() == 2
        await bench.take(2)
        await bench.drop_tickets()
        await bench.admit()
        assert (await bench.sweep()).tickets == 0  # no slot is free


@asynchronous
async def test_a_reclaimed_job_wakes_a_worker(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        job = await running_job(bench)
        await bench.drop_tickets()
        await bench.expire_lease(job.id)
        assert (await bench.sweep()).tickets == 1
        assert await bench.tickets() == 1


@asynchronous
async def test_waiting_jobs_of_a_model_without_workers_end_after_the_grace_in_503(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        job_id = await bench.admit()
        await bench.redis("ZADD", keys.workers("m"), 1, "w1")
        assert (await bench.sweep()).expired == 0  # a worker may just be coming back
        assert (await bench.sweep()).expired == 1
        (event,) = await bench.log(job_id)
        assert b"no_worker" in event
        await bench.serve("w1")
        await bench.admit()
        assert (await bench.sweep()).expired == 0


@asynchronous
async def test_a_lost_job_waits_at_the_head_of_its_lane(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, {"m": {"concurrency": 10}}) as bench:
        first = await running_job(bench)
        for _ in range(4):
            await bench.admit()
        await bench.expire_lease(first.id)
        await bench.sweep()
        assert (await bench.take_ids())[0] == first.id


@pytest.mark.parametrize("met_by", ["a sweep", "a worker"])
def test_a_room_no_longer_counts_a_job_whose_record_was_lost(room_redis: RedisServer, met_by: str) -> None:
    async def scenario() -> None:
        model = {"max_queue": 4, "max_queue_bytes": 1_000, "max_queue_tokens": 1_000, "concurrency": 1}
        async with open_bench(room_redis.url, {"m": model}) as bench:
            await bench.admit()
            await bench.take()
            for lane in ("default", "batch"):
                lost = await bench.admit(lane=lane)
                await bench.redis("DEL", keys.job(lost))  # as after an outage that was longer than its life
                if met_by == "a sweep":
                    await bench.redis("ZADD", keys.PREFIXES["waits"] + "m", "XX", 1, lost)
                else:
                    await bench.leases.take("m", free=1, mine=1, surplus=True, concurrency=2)
            kept = await bench.admit(tenant="b")
            await bench.sweep()
            depth = (await bench.upkeep.depth())["m"]
            assert sum(depth.waiting.values()) == 1
            tenants = await bench.redis("HGETALL", keys.PREFIXES["tenants"] + "m")
            assert tenants == [b"b", b"1"]
            size = int((await bench.record(kept))["bytes"])
            counted = await bench.redis("HMGET", keys.room("m"), "bytes", "tokens", "batch:bytes", "batch:tokens")
            assert [int(number or 0) for number in counted] == [size, 100, 0, 0]

    asyncio.run(scenario())


@pytest.mark.parametrize("between", ["its room was empty", "redis stood still"])
def test_a_model_found_without_workers_is_given_another_sweep_each_time(room_redis: RedisServer, between: str) -> None:
    async def scenario() -> None:
        async with open_bench(room_redis.url) as bench:
            first = await bench.admit()
            await bench.redis("ZADD", keys.workers("m"), 1, "w1")
            assert (await bench.sweep()).expired == 0
            if between == "its room was empty":
                await bench.cancel(first)
            else:
                await bench.stood_still(20)
            await bench.sweep()
            await bench.serve("w1")
            await bench.admit()
            await bench.redis("ZADD", keys.workers("m"), 1, "w1")  # long ago again, as after an outage
            assert (await bench.sweep()).expired == 0

    asyncio.run(scenario())
