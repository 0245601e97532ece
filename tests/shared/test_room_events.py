"""Appending events: attempts, numbers, frames, ends (`shared/scripts/append.lua`, `release.lua`)."""

from __future__ import annotations

import re

from shared import keys
from shared.events import frames
from shared.redis import Argument
from shared.room.leases import How, Why
from tests.support.asynchronous import asynchronous
from tests.support.processes import RedisServer
from tests.support.rooms import heard_frames, open_bench
from tests.support.waiting import wait_until_async


@asynchronous
async def test_a_write_of_another_attempt_with_the_same_counter_is_refused(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        await bench.admit()
        (job,) = await bench.take()
        assert re.fullmatch(rb"1\.[0-9a-f]{12}", job.attempt)
        assert await bench.append(job, b"Cx", attempt=b"1.other") == "s"
        assert await bench.append(job, b"Cx", attempt=job.attempt[:-1]) == "s"
        assert await bench.log(job.id) == []
        assert await bench.append(job, b"Cx") == "o"


@asynchronous
async def test_a_stale_attempt_cannot_end_or_release_a_job(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        await bench.admit()
        (job,) = await bench.take()
        assert await bench.append(job, b"Ex", attempt=b"1.other", end=1) == "s"
        assert await bench.release((job.id, b"1.other", How.END), (job.id, b"1.other", How.AWAY)) == "ss"
        assert (await bench.record(job.id))["state"] == "running"
        assert await bench.renew((job.id, b"1.other")) == {job.id: Why.STALE}


@asynchronous
async def test_event_numbers_are_places_in_the_log(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        await bench.admit()
        (job,) = await bench.take()
        assert await bench.append(job, b"S1", b"Ca") == "o"
        assert await bench.append(job, b"S1", b"Ca") == "o"  # an exact repeat
        assert await bench.append(job, b"Ca", b"Cb", at=1) == "o"  # an overlap adds what is new
        assert await bench.append(job, b"Cd", at=4) == "g"  # number 3 is missing
        assert await bench.append(job, b"Cc", at=3) == "o"
        assert await bench.log(job.id) == [b"S1", b"Ca", b"Cb", b"Cc"]


@asynchronous
async def test_only_accepted_events_are_published_grouped_by_owner(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        await bench.beat("other")
        for owner in ("api", "api", "other", "api"):
            await bench.admit(owner=owner)
        first, second, foreign, gone = await bench.take(4)
        assert await bench.cancel(gone.id) == "r"
        parts: list[list[Argument]] = [
            [first.id, first.attempt, 0, "", 2, b"S1", b"Ca"],
            [second.id, b"1.stale", 0, "", 1, b"Cno"],
            [second.id, second.attempt, 1, "", 1, b"Cgap"],
            [foreign.id, foreign.attempt, 0, "", 1, b"Cf"],
            [gone.id, gone.attempt, 0, "", 1, b"Cno"],
            ["f" * 32, b"1.x", 0, "", 1, b"Cno"],
            [second.id, second.attempt, 0, "", 1, b"Cb"],
        ]
        async with bench.listening() as mine, bench.listening("other") as theirs:
            verdicts = await bench.leases.append([x for part in parts for x in part])
            assert verdicts == b"osgocuo"
            assert await heard_frames(mine, 3) == [(first.id, 0, b"S1"), (first.id, 1, b"Ca"), (second.id, 0, b"Cb")]
            assert await heard_frames(theirs) == [(foreign.id, 0, b"Cf")]
            assert (len(mine), len(theirs)) == (1, 1)
            # A repeat that stores nothing says nothing.
            await bench.leases.append(parts[0])
            await bench.append(first, b"Cc", at=2)
            assert (await heard_frames(mine, 4))[3:] == [(first.id, 2, b"Cc")]


@asynchronous
async def test_events_over_64_kilobytes_travel_in_the_log_alone(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        await bench.admit()
        (job,) = await bench.take()
        large, largest_inline = b"C" + b"x" * 65536, b"C" + b"y" * 65535
        async with bench.listening() as heard:
            assert await bench.append(job, largest_inline, large) == "o"
            assert await heard_frames(heard, 2) == [(job.id, 0, largest_inline), (job.id, 1, None)]
        (missed,) = await bench.admissions.peek([(job.id, 1)], 1 << 20)
        assert missed == (b"running", job.attempt[-12:], 2, [large])


@asynchronous
async def test_the_last_event_settles_the_job(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        await bench.admit(concurrent_jobs=5, body=b"x" * 70_000)
        (job,) = await bench.take()
        held = [keys.body(job.id), keys.running("m"), keys.PREFIXES["owned"] + "api", keys.PREFIXES["token_jobs"] + "a"]
        assert await bench.redis("EXISTS", *held) == 4
        await bench.end(job)
        assert await bench.redis("EXISTS", *held) == 0
        assert (await bench.record(job.id))["state"] == "ended"
        for key in (keys.log(job.id), keys.job(job.id)):
            assert 50_000 < await bench.redis("PTTL", key) <= 60_000
        assert await bench.append(job, b"D1 1 1 1\n{}", end=100) == "o"  # the repeat of an end whose reply was lost
        assert await bench.append(job, b"Cmore", at=1) == "s"
        assert len(await bench.log(job.id)) == 1


@asynchronous
async def test_a_released_job_leaves_nothing_or_waits_again_where_it_stood(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        first, second, third = [await bench.admit() for _ in range(3)]
        one, two = await bench.take(2)
        await bench.drop_tickets()
        assert await bench.release((one.id, one.attempt, How.AWAY), (two.id, two.attempt, How.END)) == "be"
        assert await bench.tickets() == 1
        assert await bench.record(second) == {}
        again = await bench.take(5)
        assert [job.id for job in again] == [first, third]
        assert again[0].tries == 1  # a hand-back is not counted


@asynchronous
async def test_a_job_that_has_published_cannot_be_handed_back(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        await bench.admit()
        (job,) = await bench.take()
        await bench.append(job, b"Cx")
        assert await bench.release((job.id, job.attempt, How.AWAY)) == "p"
        assert await bench.take() == []


@asynchronous
async def test_a_job_handed_back_to_a_lane_that_began_anew_is_not_put_behind_everybody(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        for _ in range(20):
            await bench.admit(cost=1_000)
        *_, last = await bench.take(20)  # its tag is 19,000, and the empty lane resets its clock
        for _ in range(3):
            await bench.admit(tenant="b", cost=1_000)
        await bench.release((last.id, last.attempt, How.AWAY))
        assert last.id in await bench.take_ids(2)


@asynchronous
async def test_peek_gives_what_was_missed_within_its_budget(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        for _ in range(3):
            await bench.admit()
        jobs = await bench.take(2)
        waits = (set(await bench.redis("ZRANGE", keys.PREFIXES["waits"] + "m", 0, -1))).pop().decode()
        for job in jobs:
            await bench.append(job, *(b"C" + b"x" * 999 for _ in range(40)))
        wanted = [("f" * 32, 0), (waits, 0), (jobs[0].id, 38), (jobs[1].id, 0), (jobs[0].id, 0)]
        answers = await bench.admissions.peek(wanted, 10_000)
        assert [(answer.state, len(answer.events)) for answer in answers] == [
            (b"", 0), (b"waiting", 0), (b"running", 2), (b"running", 16),
        ]  # fmt: skip


@asynchronous
async def test_cancel_reaches_waiting_running_and_ended_jobs(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        running, ended, waiting = [await bench.admit() for _ in range(3)]
        jobs = await bench.take(2)
        await bench.end(jobs[1])
        async with bench.listening() as heard:
            assert await bench.cancel(waiting, running, ended, "f" * 32) == "wrnn"

            async def told() -> bool:
                return running.encode() in heard

            await wait_until_async(told)
        assert await bench.record(waiting) == {}
        assert await bench.take() == []
        assert await bench.append(jobs[0], b"Cx") == "c"
        assert await bench.release((running, jobs[0].attempt, How.AWAY)) == "e"
        assert await bench.record(running) == {}


def test_frames_carry_the_bytes_that_the_script_packs() -> None:
    packed = (
        b"a" * 32
        + b"n" * 12
        + b"\x00\x00\x01\x02"
        + b"\x00\x00\x00\x03"
        + b"Cab"
        + b"b" * 32
        + b"-" * 12
        + b"\0\0\0\0\xff\xff\xff\xff"
    )
    assert list(frames(packed)) == [
        (b"a" * 32, b"n" * 12, 258, b"Cab"),
        (b"b" * 32, b"-" * 12, 0, None),
    ]
