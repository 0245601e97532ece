"""A reader whose Redis has forgotten a moment gets one run's words and one error, or another run whole; and soon."""

from __future__ import annotations

import asyncio

import pytest

from shared import events, keys
from shared.errors import from_wire
from shared.jobs import TakenJob
from shared.room.leases import How
from tests.api.test_relay import END, Reader, chunk, open_reader
from tests.support.asynchronous import asynchronous
from tests.support.processes import RedisServer
from tests.support.rooms import WIRE
from tests.support.waiting import wait_until_async

LIVE_OR_NOT = pytest.mark.parametrize("drop_live_events", [False, True], ids=["live", "log-alone"])


async def run_again(reader: Reader) -> TakenJob:
    """Let Redis have forgotten all that was said, so that the job is taken once more."""
    bench = reader.bench
    await bench.redis("DEL", keys.log(reader.job.id))
    await bench.expire_lease(reader.job.id)
    await bench.sweep()
    (again,) = await bench.take()
    assert again.id == reader.job.id
    return again


async def read(reader: Reader, count: int) -> None:
    found: list[bytes] = []
    async with asyncio.timeout(10):
        while len(found) < count:
            found += await reader.relay.next(5)
    assert found == reader.written


def assert_one_error(told: list[bytes]) -> None:
    (last,) = told
    assert last[0] == events.FAILED
    assert from_wire(last[1:]).code == "job_lost"


@LIVE_OR_NOT
def test_words_of_another_run_never_follow_what_was_handed_on(
    module_redis: RedisServer, drop_live_events: bool
) -> None:
    async def scenario() -> None:
        async with open_reader(module_redis, drop_live_events=drop_live_events) as reader:
            await reader.write(chunk(0), chunk(1))
            await read(reader, 2)
            again = await run_again(reader)
            # As many words as there were, and more: none of them is what the reader waits for.
            await reader.bench.append(again, chunk(10), chunk(11), chunk(12))
            assert_one_error(await reader.read_all())
            assert reader.relay.may_run  # so that leaving cancels it

    asyncio.run(scenario())


@LIVE_OR_NOT
def test_an_end_that_redis_put_behind_the_reader_is_told(module_redis: RedisServer, drop_live_events: bool) -> None:
    """The worker that finds its last words missing ends the job: its error stands where words had been."""

    async def scenario() -> None:
        async with open_reader(module_redis, drop_live_events=drop_live_events) as reader:
            for number in range(5):
                await reader.write(chunk(number))
            await read(reader, 5)
            job = reader.job
            await reader.bench.redis("LTRIM", keys.log(job.id), 0, 1)
            assert await reader.bench.append(job, chunk(5), at=5) == "g"
            assert await reader.bench.release((job.id, job.attempt, How.FAIL)) == "f"
            told = await reader.read_all()
            assert_one_error(told)
            if not drop_live_events:
                assert told == [b"E" + WIRE]  # at once, and in the worker's own words

    asyncio.run(scenario())


@asynchronous
async def test_a_reader_is_told_though_nobody_runs_its_job_again(module_redis: RedisServer) -> None:
    async with open_reader(module_redis) as reader:
        await reader.write(chunk(0))
        await read(reader, 1)
        await reader.bench.redis("DEL", keys.log(reader.job.id))
        await reader.bench.expire_lease(reader.job.id)
        await reader.bench.sweep()
        assert (await reader.bench.record(reader.job.id))["state"] == "waiting"
        assert_one_error(await reader.read_all())


@asynchronous
async def test_a_reader_that_was_given_nothing_gets_the_other_run_whole(module_redis: RedisServer) -> None:
    async with open_reader(module_redis) as reader:
        await reader.write(chunk(0), chunk(1))  # they lie ready, and nobody has read them
        again = await run_again(reader)
        assert await reader.bench.append(again, chunk(10), chunk(11), END, end=1.0) == "o"
        await wait_until_async(lambda: reader.relay.next_number == 3)
        assert await reader.read_all() == [chunk(10), chunk(11), END]
