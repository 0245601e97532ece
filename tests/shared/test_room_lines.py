"""A batch's lines in Redis: admitted once, ended into the sink, without a deadline, under one feeder's lease."""

from __future__ import annotations

import json

from shared import keys
from shared.protocol import DAY_MS, KEEP_MS
from shared.room.leases import How
from shared.room.lines import LineJob, Lines, line_id, line_number
from shared.token_settings import TokenSettings
from tests.support.asynchronous import asynchronous
from tests.support.processes import RedisServer
from tests.support.rooms import HASH, Bench, a_spec, open_bench

TOKEN = TokenSettings(name="a", sha256=HASH, requests_per_minute=1, concurrent_jobs=1)
BATCH = "batch_1"


def lines_of(bench: Bench, process: str = "feeder") -> Lines:
    return Lines(bench.client, bench.bulk, bench.catalogue, process)


def a_line(number: int, body: bytes = b'{"a":1}') -> LineJob:
    spec = a_spec(stream=False, lane="batch")
    return LineJob(id=line_id(1_795_000_000_000_000, number, BATCH), body=body, spec=spec, cost=10)


async def admit(bench: Bench, *numbers: int) -> list[bool]:
    return await lines_of(bench).admit(BATCH, "m", TOKEN, [a_line(number) for number in numbers], life_seconds=100)


def test_a_lines_id_is_a_job_id_that_tells_its_line() -> None:
    ids = [line_id(1_795_000_000_000_000, number, BATCH) for number in (1, 2, 50_000)]
    assert [line_number(one) for one in ids] == [1, 2, 50_000]
    assert all(len(one) == 32 and int(one, 16) for one in ids)
    assert line_id(1_795_000_000_000_000, 1, "batch_2") != ids[0]


@asynchronous
async def test_a_line_that_is_there_is_not_admitted_again(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        assert await admit(bench, 1, 2) == [True, True], "a token's limits of requests are not a batch's"
        assert await admit(bench, 2, 3) == [False, True]
        assert len(await bench.take_ids(8)) == 3


@asynchronous
async def test_an_ended_line_stands_in_the_sink_until_it_is_acknowledged(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        lines = lines_of(bench)
        await admit(bench, 1, 2, 3)
        jobs = await bench.take(8)
        for job in reversed(jobs):
            await bench.end(job)
        results = await lines.results(BATCH, 0, 10**6)
        assert [line_number(result.job_id) for result in results] == [3, 2, 1]
        assert [result.events for result in results] == [[b"D1 1 1 1\n{}"]] * 3
        assert [line_number(result.job_id) for result in await lines.results(BATCH, 1, 10**6)] == [2, 1]
        assert len(await lines.results(BATCH, 0, 1)) == 1, "one at least, whatever it weighs"
        assert KEEP_MS < await bench.redis("PTTL", keys.job(jobs[0].id)) <= DAY_MS
        assert KEEP_MS < await bench.redis("PTTL", keys.log(jobs[0].id)) <= DAY_MS
        await lines.acknowledge(BATCH, [results[0].job_id, results[2].job_id])
        assert [line_number(result.job_id) for result in await lines.results(BATCH, 0, 10**6)] == [2]
        assert await bench.record(results[0].job_id) == {}
        assert await bench.record(results[1].job_id) != {}


@asynchronous
async def test_lines_wait_for_a_worker_without_a_deadline(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, {"m": {"max_wait_seconds": 0.05}}, served=False) as bench:
        await admit(bench, 1)
        await bench.sweep()
        await bench.wait_ms(100)
        await bench.sweep()
        await bench.sweep()
        assert await lines_of(bench).results(BATCH, 0, 10**6) == []
        await bench.serve("w1")
        assert len(await bench.take_ids()) == 1


@asynchronous
async def test_a_line_that_is_reclaimed_waits_on_and_its_last_try_is_told(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, {"m": {"max_attempts": 2}}) as bench:
        await admit(bench, 1)
        (job,) = await bench.take()
        await bench.expire_lease(job.id)
        await bench.sweep()
        assert (await bench.record(job.id))["deadline"] == "inf"
        (job,) = await bench.take()
        await bench.expire_lease(job.id)
        await bench.sweep()
        ((job_id, events),) = await lines_of(bench).results(BATCH, 0, 10**6)
        assert (job_id, json.loads(events[0][1:])["error"]["code"]) == (job.id, "job_lost")


@asynchronous
async def test_a_leaving_worker_gives_lines_back_though_no_other_lives(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        await admit(bench, 1)
        (job,) = await bench.take()
        assert await bench.release((job.id, job.attempt, How.AWAY), worker="w1") == "b"
        assert await bench.take_ids() == [job.id]


@asynchronous
async def test_cancelled_lines_leave_nothing_behind(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        lines = lines_of(bench)
        await admit(bench, 1, 2)
        (job,) = await bench.take()
        async with bench.listening() as heard:
            await lines.cancel([a_line(1).id, a_line(2).id])
            assert await bench.release((job.id, job.attempt, How.END)) == "e"
        assert heard == [job.id.encode()]
        assert await lines.states([a_line(1).id, a_line(2).id]) == {a_line(1).id: "", a_line(2).id: ""}
        assert await bench.redis("KEYS", keys.owned("")) == []
        assert await lines.results(BATCH, 0, 10**6) == []


@asynchronous
async def test_a_large_line_keeps_its_body_when_it_is_admitted_again(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        lines, large = lines_of(bench), a_line(1, b'"' + b"a" * 100_000 + b'"')
        assert await lines.admit(BATCH, "m", TOKEN, [large], life_seconds=100) == [True]
        assert await lines.admit(BATCH, "m", TOKEN, [large], life_seconds=100) == [False]
        (job,) = await bench.take()
        assert job.body is None
        assert await bench.leases.fetch(job.id) == large.body


@asynchronous
async def test_one_process_holds_a_batch(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        one, other = lines_of(bench, "one"), lines_of(bench, "other")
        assert await one.hold(BATCH)
        assert await one.hold(BATCH), "it is renewed"
        assert not await other.hold(BATCH)
        await other.let_go(BATCH)
        assert not await other.hold(BATCH), "only the holder gives it back"
        await one.let_go(BATCH)
        assert await other.hold(BATCH)
        await bench.redis("PEXPIRE", keys.feeder(BATCH), 60_000)
        assert await one.hold(BATCH), "the clock was set back: no lease is as long as that"


@asynchronous
async def test_progress_is_told_and_cleared(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        lines = lines_of(bench)
        await lines.say(BATCH, {"completed": 3})
        assert await lines.progress(BATCH) == {"completed": "3"}
        assert 0 < await bench.redis("PTTL", keys.batch(BATCH)) <= DAY_MS
        await lines.clear(BATCH)
        assert await lines.progress(BATCH) == {}
