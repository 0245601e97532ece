"""A job's events reach the log once and in order, whatever Redis does meanwhile (`workers/outbox.py`)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from shared.background import Background
from shared.jobs import End, TakenJob
from tests.support.asynchronous import asynchronous
from tests.support.processes import RedisServer
from tests.support.rooms import Bench, open_bench
from tests.support.waiting import wait_until_async
from workers.outbox import MAX_CHUNKS_BYTES, MAX_UNACKNOWLEDGED_BYTES, JobOutput, Outbox
from workers.tuning import MAX_CALL_JOBS


@asynccontextmanager
async def open_output(
    server: RedisServer, jobs: int = 1
) -> AsyncIterator[tuple[Bench, list[TakenJob], list[JobOutput]]]:
    async with open_bench(server.url, {"m": {"concurrency": 1000, "max_queue": 1000}}) as bench:
        for _ in range(jobs):
            await bench.admit()
        taken = list[TakenJob]()
        while len(taken) < jobs:
            taken += await bench.take(jobs - len(taken))
        outbox = Outbox(bench.leases, Background())
        outputs = [outbox.open(job, lambda why: None) for job in taken]
        yield bench, taken, outputs
        await wait_until_async(lambda: not outbox.is_busy)


def chunk(number: int, size: int = 8) -> bytes:
    return b"C" + str(number).zfill(size).encode()


async def stored(bench: Bench, job: TakenJob, count: int) -> list[bytes]:
    async def complete() -> bool:
        return bool(await bench.redis("LLEN", f"aq2:log:{job.id}") >= count)

    await wait_until_async(complete, 10)
    return await bench.log(job.id)


async def end_over_lost_connections(
    server: RedisServer, bench: Bench, output: JobOutput, put: Callable[[int], None]
) -> None:
    """Put 300 times while connections are cut, end the job, and wait until the test can look at the log."""
    for number in range(300):
        put(number)
        if number % 60 == 30:
            await asyncio.to_thread(server.drop_connections)
        await asyncio.sleep(0.001)
    assert await asyncio.wait_for(output.finish(b"D1 1 1 1\n", end=End(status=200, cost=1)), 10)

    async def back() -> bool:
        return bench.client.connected.is_set()

    await wait_until_async(back, 5)


@asynchronous
async def test_events_of_many_jobs_are_stored_in_order(module_redis: RedisServer) -> None:
    async with open_output(module_redis, jobs=5) as (bench, jobs, outputs):
        for number in range(200):
            for output in outputs:
                output.put(chunk(number))
            if number % 7 == 0:
                await asyncio.sleep(0)
        ends = [output.finish(b"D1 1 1 1\n", end=End(status=200, cost=1)) for output in outputs]
        assert await asyncio.gather(*ends) == [True] * 5
        for job in jobs:
            assert await bench.log(job.id) == [*map(chunk, range(200)), b"D1 1 1 1\n"]
            assert (await bench.record(job.id))["state"] == "ended"


@asynchronous
async def test_what_somebody_waits_for_goes_before_the_chunks_of_a_crowd(module_redis: RedisServer) -> None:
    async with open_output(module_redis, jobs=MAX_CALL_JOBS + 12) as (_, _, outputs):
        outbox, others = outputs[0].outbox, outputs
        for output in others[2:]:
            output.put(chunk(0))
        await wait_until_async(lambda: not outbox.is_busy)
        for output in others[2:]:
            output.put_chunks(b"data: 1\n\n")
        others[0].put(chunk(0))  # its first words
        others[5].finish(b"D1 1 1 1\n", end=End(status=200, cost=1))
        call = [part.output for part in outbox._parts()]
        assert call[:2] == [others[0], others[5]]
        assert len(call) == MAX_CALL_JOBS


@asynchronous
async def test_a_crowd_whose_calls_are_under_way_together_is_stored_in_order(module_redis: RedisServer) -> None:
    async with open_output(module_redis, jobs=2 * MAX_CALL_JOBS + 50) as (bench, jobs, outputs):
        for number in range(20):
            for place, output in enumerate(outputs):
                output.put(chunk(number))
                if place % 97 == number:
                    await asyncio.sleep(0)
        ends = [output.finish(b"D1 1 1 1\n", end=End(status=200, cost=1)) for output in outputs]
        assert all(await asyncio.wait_for(asyncio.gather(*ends), 30))
        for job in jobs:
            assert await bench.log(job.id) == [*map(chunk, range(20)), b"D1 1 1 1\n"]


@asynchronous
async def test_a_crowd_whose_connections_are_cut_is_stored_once_and_in_order(own_redis: RedisServer) -> None:
    async with open_output(own_redis, jobs=2 * MAX_CALL_JOBS + 50) as (bench, jobs, outputs):
        for number in range(12):
            for output in outputs:
                output.put(chunk(number))
            if number % 4 == 2:
                await asyncio.to_thread(own_redis.drop_connections)
            await asyncio.sleep(0.005)
        ends = [output.finish(b"D1 1 1 1\n", end=End(status=200, cost=1)) for output in outputs]
        assert all(await asyncio.wait_for(asyncio.gather(*ends), 30))
        await asyncio.wait_for(bench.client.connected.wait(), 5)
        for job in jobs:
            assert await bench.log(job.id) == [*map(chunk, range(12)), b"D1 1 1 1\n"]


@asynchronous
async def test_events_whose_reply_was_lost_are_sent_again_and_stored_once(own_redis: RedisServer) -> None:
    async with open_output(own_redis) as (bench, (job,), (output,)):
        await end_over_lost_connections(own_redis, bench, output, lambda number: output.put(chunk(number)))
        assert await bench.log(job.id) == [*map(chunk, range(300)), b"D1 1 1 1\n"]


@asynchronous
async def test_replies_that_come_too_late_store_nothing_twice(own_redis: RedisServer) -> None:
    async with open_output(own_redis) as (bench, (job,), (output,)):
        output.put(chunk(0))
        await stored(bench, job, 1)
        own_redis.freeze()
        try:
            output.put(chunk(1), chunk(2))
            await asyncio.sleep(2.2)  # past the time limit of the call: it is sent a second time
            output.put(chunk(3))
        finally:
            own_redis.thaw()
        assert await asyncio.wait_for(output.finish(b"D1 1 1 1\n", end=End(status=200, cost=1)), 10)
        assert await bench.log(job.id) == [*map(chunk, range(4)), b"D1 1 1 1\n"]


@asynchronous
async def test_a_job_stops_reading_while_too_much_is_not_acknowledged(own_redis: RedisServer) -> None:
    async with open_output(own_redis) as (bench, (job,), (output,)):
        own_redis.freeze()
        try:
            output.put(b"C" + b"x" * MAX_UNACKNOWLEDGED_BYTES)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(output.drained(), 0.3)
        finally:
            own_redis.thaw()
        await asyncio.wait_for(output.drained(), 10)
        assert len(await bench.log(job.id)) == 1


@asynchronous
async def test_small_output_never_waits(module_redis: RedisServer) -> None:
    async with open_output(module_redis) as (_, _, (output,)):
        output.put(chunk(1))
        await asyncio.wait_for(output.drained(), 0.1)


@asynchronous
async def test_a_refused_job_is_told_why_and_others_go_on(module_redis: RedisServer) -> None:
    async with open_bench(module_redis.url) as bench:
        for _ in range(4):
            await bench.admit()
        jobs = await bench.take(4)
        outbox = Outbox(bench.leases, Background())
        told: dict[str, str] = {}
        outputs = [outbox.open(job, lambda why, job=job: told.__setitem__(job.id, why)) for job in jobs]  # type: ignore[misc]
        cancelled, stale, unknown, healthy = jobs
        await bench.cancel(cancelled.id)
        await bench.redis("HSET", f"aq2:job:{stale.id}", "attempt", "2.other")
        await bench.redis("DEL", f"aq2:job:{unknown.id}")
        ends = [output.finish(chunk(0), b"D1 1 1 1\n", end=End(status=200, cost=1)) for output in outputs]
        assert await asyncio.gather(*ends) == [False, False, False, True]
        assert told == {cancelled.id: "cancelled", stale.id: "stale", unknown.id: "unknown"}
        outputs[0].put(chunk(9))  # a backend that still talks changes nothing
        await wait_until_async(lambda: not outbox.is_busy)
        assert await bench.log(healthy.id) == [chunk(0), b"D1 1 1 1\n"]


@asynchronous
async def test_events_that_redis_lost_end_the_job_as_a_gap(module_redis: RedisServer) -> None:
    async with open_bench(module_redis.url) as bench:
        await bench.admit()
        (job,) = await bench.take()
        outbox = Outbox(bench.leases, Background())
        told: list[str] = []
        output = outbox.open(job, told.append)
        output.put(chunk(0), chunk(1))
        await stored(bench, job, 2)
        await bench.redis("RPOP", f"aq2:log:{job.id}")  # as a rollback to an older append-only file
        assert await output.finish(chunk(2), end=End(status=200, cost=1)) is False
        assert told == ["gap"]


@asynchronous
async def test_a_job_ends_when_redis_is_full(module_redis: RedisServer) -> None:
    async with open_output(module_redis, jobs=2) as (bench, jobs, (talking, ending)):
        await bench.redis("CONFIG", "SET", "maxmemory", "1mb")
        try:
            talking.put(chunk(0))
            assert await asyncio.wait_for(ending.finish(b"D1 1 1 1\n", end=End(status=200, cost=1)), 10)
        finally:
            await bench.redis("CONFIG", "SET", "maxmemory", "0")
        assert await stored(bench, jobs[0], 1) == [chunk(0)]


@asynchronous
async def test_chunks_that_leave_together_are_one_event(module_redis: RedisServer) -> None:
    async with open_output(module_redis) as (bench, (job,), (output,)):
        output.put(b"S0")
        output.put_chunks(b"data: 1\n\n")
        output.put_chunks(b"data: 2\n\n")
        await stored(bench, job, 2)
        output.put_chunks(b"data: 3\n\n")
        assert await output.finish(b"D1 1 1 1\n", end=End(status=200, cost=1))
        assert await bench.log(job.id) == [b"S0", b"Cdata: 1\n\ndata: 2\n\n", b"Cdata: 3\n\n", b"D1 1 1 1\n"]


@asynchronous
async def test_chunks_gathered_for_long_become_events_that_still_travel_live(own_redis: RedisServer) -> None:
    async with open_output(own_redis) as (bench, (job,), (output,)):
        own_redis.freeze()
        for _ in range(100):
            output.put_chunks(b"x" * 3000)
        own_redis.thaw()
        assert await output.finish(b"D1 1 1 1\n", end=End(status=200, cost=1))
        chunks = (await bench.log(job.id))[:-1]
        assert b"".join(event[1:] for event in chunks) == b"x" * 300_000
        assert max(map(len, chunks)) <= MAX_CHUNKS_BYTES + 3000 + 1


@asynchronous
async def test_what_was_sent_once_never_grows_when_it_is_sent_again(own_redis: RedisServer) -> None:
    async with open_output(own_redis) as (bench, (job,), (output,)):
        await end_over_lost_connections(own_redis, bench, output, lambda number: output.put_chunks(b"%d " % number))
        chunks = (await bench.log(job.id))[:-1]
        assert b"".join(event[1:] for event in chunks) == b"".join(b"%d " % number for number in range(300))
