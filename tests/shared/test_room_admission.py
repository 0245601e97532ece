"""Who gets into a waiting room: depth, shares, rates, live workers, time (`admit.lua`)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shared import keys
from shared.errors import BrokerUnavailable, NoWorker, QueueFull, RateLimited, ResourceUnavailable
from shared.jobs import new_id
from shared.protocol import STORED
from shared.room.admission import Idempotency
from shared.room.leases import How
from shared.room.limits import duration
from tests.support.asynchronous import asynchronous
from tests.support.clock import set_clock
from tests.support.processes import RedisServer
from tests.support.rooms import Bench, a_spec, open_bench

SPEC_BYTES = len(a_spec().to_json())
"""What a job brings beside its body."""


def small(**model: Any) -> dict[str, dict[str, Any]]:
    return {"m": {"concurrency": 2, **model}}


async def assert_refused(bench: Bench, error: type[Exception], match: str | None, **more: Any) -> None:
    before = await bench.redis("DBSIZE")
    with pytest.raises(error, match=match):
        await bench.admit(**more)
    assert await bench.redis("DBSIZE") == before


@asynchronous
async def test_the_answer_counts_the_jobs_ahead(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        assert [(await bench.admitted())[1].ahead for _ in range(3)] == [0, 1, 2]
        await bench.take(2)
        assert (await bench.admitted())[1].ahead == 1


@asynchronous
async def test_the_room_holds_max_queue_jobs_beside_those_that_free_slots_take(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, small(max_queue=3), tenant_share=1) as bench:
        for _ in range(5):
            await bench.admit()
        await assert_refused(bench, QueueFull, "queue of model `m` is full")
        jobs = await bench.take(2)
        await assert_refused(bench, QueueFull, "full")
        await bench.end(jobs[0])
        await bench.admit()
        await assert_refused(bench, QueueFull, "full")


@asynchronous
async def test_a_room_without_queue_still_uses_its_slots(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, small(max_queue=0)) as bench:
        for _ in range(2):
            await bench.admit()
        await bench.take(2)
        await assert_refused(bench, QueueFull, "full")


@asynchronous
async def test_a_full_room_says_when_to_come_back_from_how_fast_it_drains(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, small(max_queue=8), tenant_share=1) as bench:
        for _ in range(2):
            await bench.admit()
        jobs = await bench.take(2)
        await bench.redis("HSET", keys.room("m"), "every_ms", 4000)
        for _ in range(8):
            await bench.admit()
        with pytest.raises(QueueFull) as refused:
            await bench.admit()
        assert refused.value.retry_after == 8  # a quarter of 8 jobs, one each 4 s
        await bench.redis("HSET", keys.room("m"), "every_ms", 900_000)
        with pytest.raises(QueueFull) as refused:
            await bench.admit()
        assert refused.value.retry_after == 60
        assert jobs


@asynchronous
async def test_waiting_tokens_and_bytes_are_bounded(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, small(max_queue_tokens=500), tenant_share=1) as bench:
        await bench.admit(cost=10_000)
        await bench.admit(cost=10_000)  # free slots take these at once
        await bench.take(2)
        await bench.admit(cost=400)
        await assert_refused(bench, QueueFull, "full", cost=101)
        await bench.admit(cost=100)
    async with open_bench(room_redis.url, small(max_queue_bytes=1000 + 2 * SPEC_BYTES), tenant_share=1) as bench:
        for _ in range(2):
            await bench.admit(body=b"x" * 5000)
        await bench.take(2)
        await bench.admit(body=b"x" * 900)
        await assert_refused(bench, QueueFull, "full", body=b"x" * 101)
        waiting = await bench.admit(body=b"x" * 100)
        await bench.cancel(waiting)
        await bench.admit(body=b"x" * 100)


@asynchronous
async def test_one_tenant_fills_at_most_half_of_a_room(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, small(max_queue=10)) as bench:
        for _ in range(2):
            await bench.admit(tenant="first")
        await bench.take(2)
        greedy = [await bench.admit(tenant="a") for _ in range(5)]
        await assert_refused(bench, QueueFull, "fills its share", tenant="a")
        for _ in range(5):
            await bench.admit(tenant="b")
        await assert_refused(bench, QueueFull, "is full", tenant="c")
        await bench.cancel(greedy[0])
        await bench.admit(tenant="a")


@asynchronous
async def test_the_batch_lane_and_the_others_have_a_room_each(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, small(max_queue=2), tenant_share=1) as bench:
        running = [await bench.admit(tenant="c") for _ in range(2)]
        assert sorted(await bench.take_ids(2)) == sorted(running)
        batch = [await bench.admit(lane="batch") for _ in range(2)]
        await assert_refused(bench, QueueFull, "full", lane="batch")
        for lane in ("default", "flex"):
            await bench.admit(lane=lane)
        await assert_refused(bench, QueueFull, "full", lane="priority")
        await bench.cancel(batch[0])
        await bench.admit(lane="batch")
        await assert_refused(bench, QueueFull, "full", lane="batch")


@asynchronous
async def test_what_must_not_wait_takes_a_free_slot_or_is_refused_and_leaves_nothing(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, small()) as bench:
        at_once: dict[str, Any] = {"lane": "flex", "at_once": True, "requests_per_minute": 60}
        await bench.admit(**at_once)
        await bench.admit()
        await assert_refused(
            bench, ResourceUnavailable, "No slot of model `m` is free", **at_once
        )  # both are spoken for
        jobs = await bench.take(2)
        await assert_refused(bench, ResourceUnavailable, "Retry after 1 s", **at_once)
        await assert_refused(bench, ResourceUnavailable, None, **at_once, body=b"x" * 70_000)
        await bench.admit(lane="flex")  # what its token has put there waits
        await bench.end(jobs[0])
        await assert_refused(bench, ResourceUnavailable, None, **at_once)
        await bench.take(1)
        await bench.end(jobs[1])
        admitted = (await bench.admitted(**at_once))[1]
        assert admitted.requests is not None
        assert admitted.requests.remaining == 58, "a refusal was counted"


@asynchronous
async def test_slots_kept_from_batch_work_are_not_free_for_it(room_redis: RedisServer) -> None:
    models = {"m": {"concurrency": 4, "batch_reserve": 3, "max_queue": 1}}
    async with open_bench(room_redis.url, models, tenant_share=1) as bench:
        batch = [await bench.admit(lane="batch") for _ in range(2)]  # one for its slot, one that waits
        await assert_refused(bench, QueueFull, "full", lane="batch")
        assert await bench.take_ids(4) == batch[:1]
        await assert_refused(bench, QueueFull, "full", lane="batch")
        await bench.admit()


@asynchronous
async def test_what_is_to_be_stored_counts_in_its_room_as_any(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, small(max_queue=2, concurrency=1), tenant_share=1) as bench:
        jobs = [await bench.admit(lane="batch", must_finish=True, sink=STORED) for _ in range(3)]
        await assert_refused(bench, QueueFull, "full", lane="batch", must_finish=True, sink=STORED)
        assert await bench.take_ids(1) == jobs[:1]
        await bench.cancel(*jobs)  # their clients leave
        assert await bench.redis("HGET", keys.room("m"), "batch:must_finish") is None
        await assert_refused(bench, QueueFull, "full", lane="batch", must_finish=True, sink=STORED)


@asynchronous
async def test_counters_never_fall_below_nothing(room_redis: RedisServer) -> None:
    limits = {"max_queue": 4, "max_queue_tokens": 500, "max_queue_bytes": 1000}
    async with open_bench(room_redis.url, small(**limits)) as bench:
        request = await bench.admit(lane="batch", cost=100)
        line = await bench.admit(lane="batch", cost=100, must_finish=True, owner="")
        await bench.redis("DEL", keys.room("m"))  # as if they had come before there were counters
        await bench.cancel(request)
        await bench.cancel(line, owner="")
        counters = await bench.redis("HMGET", keys.room("m"), "batch:tokens", "batch:bytes", "batch:must_finish")
        assert counters == [b"0", b"0", b"0"]


@asynchronous
async def test_tokens_bytes_and_shares_are_bounded_in_each_room_apart(room_redis: RedisServer) -> None:
    limits = {"max_queue": 4, "max_queue_tokens": 500, "max_queue_bytes": 1000 + 2 * SPEC_BYTES}
    async with open_bench(room_redis.url, small(**limits)) as bench:
        for _ in range(2):
            await bench.admit()
        await bench.take(2)
        for lane in ("batch", "default"):
            await bench.admit(lane=lane, cost=200, body=b"x" * 300)
            await assert_refused(bench, QueueFull, "full", lane=lane, cost=301)
            await assert_refused(bench, QueueFull, "full", lane=lane, body=b"x" * 701)
            await bench.admit(lane=lane, cost=200, body=b"x" * 300)
            await assert_refused(bench, QueueFull, "fills its share", lane=lane)
            await bench.admit(lane=lane, tenant="b")


@asynchronous
async def test_batch_work_that_must_finish_is_always_let_in_and_takes_no_place(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, small(max_queue=1, max_queue_tokens=500)) as bench:
        for _ in range(2):
            await bench.admit(tenant="c")
        await bench.take(2)
        unbounded = [await bench.admit(lane="batch", must_finish=True, cost=400) for _ in range(5)]
        await bench.admit(lane="batch")
        await assert_refused(bench, QueueFull, "full", lane="batch")
        await bench.admit()
        await assert_refused(bench, QueueFull, "full", must_finish=True)  # in other lanes it is as any work
        await bench.cancel(*unbounded)
        await assert_refused(bench, QueueFull, "full", lane="batch")


@asynchronous
async def test_requests_per_minute_are_refused_past_the_limit_with_the_time_to_wait(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        told = [(await bench.admitted(requests_per_minute=3))[1].requests for _ in range(3)]
        assert [(rate.limit, rate.remaining) for rate in told if rate] == [(3, 2), (3, 1), (3, 0)]
        assert all(60_000 < rate.reset_ms <= 61_000 for rate in told if rate)
        with pytest.raises(RateLimited, match="3 requests per minute") as refused:
            await bench.admit(requests_per_minute=3)
        assert 59 < (refused.value.retry_after or 0) <= 61
        headers = refused.value.response_headers()
        assert headers["x-ratelimit-limit-requests"] == "3"
        assert headers["x-ratelimit-remaining-requests"] == "0"
        await bench.admit(tenant="b", requests_per_minute=3)  # another token has its own clock


@asynchronous
async def test_the_rate_refills_with_time(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        for _ in range(3):
            await bench.admit(requests_per_minute=3)
        with room_redis.client() as client:
            set_clock(client, 30)
            await bench.serve("w1")
            with pytest.raises(RateLimited):
                await bench.admit(requests_per_minute=3, body=b"1")
            set_clock(client, 31)
        await bench.serve("w1")
        for _ in range(2):
            await bench.admit(requests_per_minute=3)
        with pytest.raises(RateLimited):  # the third place is promised
            await bench.admit(requests_per_minute=3)
        await bench.admit(requests_per_minute=3, body=b"1")


@asynchronous
async def test_a_refused_request_costs_no_rate(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, small(max_queue=0), served=False) as bench:
        for _ in range(5):
            await assert_refused(bench, NoWorker, "No worker", requests_per_minute=1)
        await bench.serve("w1")
        await bench.admit(requests_per_minute=1)


@asynchronous
async def test_a_token_may_have_so_many_jobs_at_once_waiting_and_running(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        for _ in range(3):
            await bench.admit(concurrent_jobs=3)
        running = await bench.take(2)
        await assert_refused(bench, RateLimited, "3 requests in progress", concurrent_jobs=3)
        await bench.end(running[0])
        await bench.admit(concurrent_jobs=3)
        await assert_refused(bench, RateLimited, "in progress", concurrent_jobs=3)


@asynchronous
async def test_a_model_without_a_live_worker_takes_nothing_in(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, served=False) as bench:
        await assert_refused(bench, NoWorker, "No worker serves model `m`")
        await bench.serve("w1")
        await bench.admit()
        await bench.leases.leave(["m"])
        await bench.admit()  # it may be started again at once
        await bench.redis("HSET", keys.room("m"), "left_at", 1)
        await assert_refused(bench, NoWorker, "No worker")
        await bench.redis("ZADD", keys.workers("m"), 1, "w1")  # heard of long ago
        await assert_refused(bench, NoWorker, "No worker")


@asynchronous
async def test_an_admission_that_comes_too_late_is_refused_by_the_script(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        await assert_refused(bench, BrokerUnavailable, None, late_ms=-50)
        await bench.admit(late_ms=500)


@asynchronous
async def test_the_same_id_is_admitted_once(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        job_id = await bench.admit(new_id())
        await assert_refused(bench, BrokerUnavailable, None, job_id=job_id)
        assert await bench.take_ids(2) == [job_id]


@asynchronous
async def test_the_end_of_a_cancelled_job_leaves_its_key_to_who_took_it_over(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        key = Idempotency("k", "h")
        cancelled = await bench.admit(idempotency=key)
        (job,) = await bench.take()
        assert await bench.cancel(cancelled) == "r"
        second = await bench.admit(idempotency=key)
        assert await bench.release((cancelled, job.attempt, How.END)) == "e"
        assert (await bench.admitted(idempotency=key))[1].job_id == second


@asynchronous
async def test_admissions_at_once_never_exceed_the_room(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, small(max_queue=10), tenant_share=1) as bench:
        told = await asyncio.gather(*(bench.admit() for _ in range(40)), return_exceptions=True)
        assert sum(isinstance(x, str) for x in told) == 12


@asynchronous
async def test_tickets_are_pushed_only_up_to_the_live_workers(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, served=False) as bench:
        await bench.serve("w1", "w2")
        for expected in (1, 2, 2, 2):
            await bench.admit()
            assert await bench.tickets() == expected


@asynchronous
async def test_no_ticket_is_pushed_when_no_slot_is_free(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, small()) as bench:
        for _ in range(2):
            await bench.admit()
        await bench.take(2)
        await bench.drop_tickets()
        await bench.admit()
        assert await bench.tickets() == 0


def test_durations_are_written_as_clients_read_them() -> None:
    assert [duration(ms) for ms in (12, 1000, 1500, 59_999, 60_000, 366_000)] == [
        "12ms", "1s", "1.5s", "59.999s", "1m0s", "6m6s",
    ]  # fmt: skip
