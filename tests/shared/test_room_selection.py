"""Which job a free slot takes: lanes by weight, tenants fairly, never more than may run (`take.lua`)."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from shared import keys
from shared.jobs import new_id
from tests.support.asynchronous import asynchronous
from tests.support.processes import RedisServer
from tests.support.rooms import Bench, open_bench

LANES = ("priority", "default", "flex", "batch")
WIDE: dict[str, dict[str, Any]] = {"m": {"concurrency": 10_000, "max_queue": 10_000}}


async def fill(bench: Bench, count: int, **more: Any) -> list[str]:
    return list(await asyncio.gather(*(bench.admit(**more) for _ in range(count))))


async def lanes_taken(bench: Bench, count: int) -> list[str]:
    return [(await bench.record(job_id))["lane"] for job_id in await bench.take_ids(count)]


@asynchronous
async def test_full_lanes_share_by_weight_and_none_starves(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, WIDE) as bench:
        for lane in LANES:
            await fill(bench, 60, lane=lane)
        taken = await lanes_taken(bench, 54)
        assert Counter(taken) == {"priority": 32, "default": 16, "flex": 4, "batch": 2}
        assert set(taken[:27]) == set(LANES)  # in every round, not at the end of many


@asynchronous
async def test_lane_weights_come_from_the_settings(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, WIDE, lanes={"priority": 1, "default": 3, "flex": 1, "batch": 1}) as bench:
        for lane in LANES:
            await fill(bench, 20, lane=lane)
        assert Counter(await lanes_taken(bench, 12)) == {"priority": 2, "default": 6, "flex": 2, "batch": 2}


@asynchronous
async def test_a_lane_that_was_empty_saves_up_no_turns(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, WIDE) as bench:
        await fill(bench, 120, lane="default")
        await bench.take(80)
        await fill(bench, 40, lane="flex")
        assert Counter(await lanes_taken(bench, 20))["flex"] in (4, 5)  # 2 of 10, not all for the turns it missed


@asynchronous
async def test_batch_work_that_had_to_leave_the_reserve_free_saves_up_no_turns(room_redis: RedisServer) -> None:
    models = {"m": {"concurrency": 40, "max_queue": 1000, "batch_reserve": 20}}
    async with open_bench(room_redis.url, models) as bench:
        await fill(bench, 300, lane="default")
        await fill(bench, 40, lane="batch")
        jobs = await bench.take(40)
        for _ in range(5):  # with the slots full, batch work is not let in
            for job in jobs[20:]:
                await bench.end(job)
            jobs[20:] = await bench.take(20)
        for job in jobs:
            await bench.end(job)
        assert Counter(await lanes_taken(bench, 18))["batch"] in (2, 3)


@asynchronous
async def test_the_next_job_of_a_light_tenant_is_second_behind_a_thousand_of_another(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, {"m": {"max_queue": 4000, "concurrency": 100}}) as bench:
        await fill(bench, 1000, tenant="a")
        (first,) = await bench.take()
        light = await bench.admit(tenant="b")
        order = await bench.take_ids(2)
        assert light in order
        await bench.end(first)


@asynchronous
async def test_tenants_in_one_lane_share_by_weight(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, WIDE) as bench:
        for _ in range(60):
            await bench.admit(tenant="light", weight=1)
            await bench.admit(tenant="heavy", weight=3)
        taken = Counter([job.spec.tenant for job in await bench.take(40)])
        assert 29 <= taken["heavy"] <= 31


@asynchronous
async def test_tenants_share_by_cost_not_by_number_of_jobs(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, WIDE) as bench:
        for _ in range(60):
            await bench.admit(tenant="long", cost=400)
            await bench.admit(tenant="short", cost=100)
        taken = Counter([job.spec.tenant for job in await bench.take(50)])
        assert 39 <= taken["short"] <= 41


@asynchronous
async def test_real_usage_replaces_the_estimate(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, WIDE) as bench:
        for _ in range(30):
            await bench.admit(tenant="a", cost=100)
        jobs = await bench.take(10)
        before = float(await bench.redis("HGET", keys.PREFIXES["tags"] + "default:m", "a"))
        await bench.end(jobs[0], used=10)
        await bench.end(jobs[1], used=300)
        after = float(await bench.redis("HGET", keys.PREFIXES["tags"] + "default:m", "a"))
        assert after - before == (10 - 100) + (300 - 100)


@pytest.mark.parametrize("lane", ["default", "batch"])
def test_tokens_that_were_truly_used_are_shared_by_weight_in_every_lane(room_redis: RedisServer, lane: str) -> None:
    used = {"a": 30.0, "b": 300.0}
    weights = {"a": 1.0, "b": 3.0}

    async def scenario() -> None:
        models = {"m": {"concurrency": 4, "batch_reserve": 0, "max_queue": 1000}}
        async with open_bench(room_redis.url, models) as bench:
            spent = Counter[str]()

            async def wait(tenant: str) -> None:  # the estimate is ten times what the one uses
                await bench.admit(lane=lane, tenant=tenant, weight=weights[tenant], cost=300.0, must_finish=True)

            for tenant in ("a", "b"):
                for _ in range(12):
                    await wait(tenant)
            for _ in range(600):
                for job in await bench.take(4):
                    tenant = job.spec.tenant
                    spent[tenant] += round(used[tenant])
                    await bench.end(job, used[tenant])
                    await wait(tenant)
            assert 0.9 * 3 <= spent["b"] / spent["a"] <= 1.1 * 3, spent

    asyncio.run(scenario())


@pytest.mark.parametrize("together", [1, 4], ids=["one by one", "some at once"])
@pytest.mark.parametrize("real", [(125, 125), (10, 10), (10, 125), (400, 125)], ids=str)
def test_estimates_that_are_far_off_let_nobody_starve(
    room_redis: RedisServer, real: tuple[int, int], together: int
) -> None:
    asyncio.run(_share_while_both_wait(room_redis, dict(zip(("one", "two"), real, strict=True)), together))


async def _share_while_both_wait(room_redis: RedisServer, real: dict[str, int], together: int) -> None:
    """Tenants of weights 1 and 2 have 20 jobs waiting all the time, estimated at 125 tokens: tokens go 1 to 2."""
    weights, served = {"one": 1, "two": 2}, Counter[str]()
    async with open_bench(room_redis.url, {"m": {"concurrency": 8, "max_queue": 1000}}) as bench:
        for tenant, weight in weights.items():
            await fill(bench, 20, tenant=tenant, weight=weight, cost=125)
        for turn in range(1000 // together):
            await bench.beat()
            await bench.serve("w1")
            ended = await bench.take(together)
            for job in ended:
                await bench.end(job, used=real[job.spec.tenant])
            for job in ended:
                tenant = job.spec.tenant
                served[tenant] += real[tenant] if turn * together > 500 else 0  # by then they were let in so
                await bench.admit(tenant=tenant, weight=weights[tenant], cost=125)
    assert served["two"] / served["one"] == pytest.approx(2, rel=0.15), served


@asynchronous
async def test_cancel_and_expiry_give_the_estimate_back(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, WIDE) as bench:
        await bench.admit(tenant="b", cost=1)
        kept = await bench.admit(tenant="a", cost=10)
        dropped, expired = [await bench.admit(tenant="a", cost=1000) for _ in range(2)]
        await bench.cancel(dropped)
        await bench.expire_wait(expired)
        await bench.sweep()
        assert float(await bench.redis("HGET", keys.PREFIXES["tags"] + "default:m", "a")) == 10
        for _ in range(20):
            await bench.admit(tenant="b", cost=1)
        later = await bench.admit(tenant="a", cost=10)
        order = await bench.take_ids(23)
        assert kept in order[:3]
        assert order.index(later) in range(9, 15)  # not behind what never ran


@asynchronous
async def test_an_empty_lane_begins_anew_for_everybody(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, WIDE) as bench:
        await fill(bench, 50, tenant="a", cost=1000)
        await bench.take(50)
        await bench.admit(tenant="b", cost=10)
        await bench.admit(tenant="b", cost=10)
        first_of_a = await bench.admit(tenant="a", cost=10)
        assert first_of_a in await bench.take_ids(2)


@asynchronous
async def test_equal_tags_are_served_in_order_of_arrival(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, WIDE) as bench:
        ids = [new_id() for _ in range(8)]
        for number, job_id in reversed(list(enumerate(ids))):
            await bench.admit(job_id, tenant=f"t{number}")
        assert await bench.take_ids(8) == sorted(ids)  # of one microsecond may be two
        assert [job_id[:14] for job_id in ids] == sorted(job_id[:14] for job_id in ids)


@asynchronous
async def test_jobs_of_a_tenant_go_in_order_of_arrival_whatever_it_is_owed(room_redis: RedisServer) -> None:
    """Lines of two batches come one after another, but have ids of the times at which their batches were made."""
    async with open_bench(room_redis.url, WIDE) as bench:
        came = sorted((new_id() for _ in range(8)), reverse=True)
        waiting = [await bench.admit(cost=1000) for _ in range(10)]
        for job in await bench.take(8):
            await bench.end(job, used=10)
        for job_id in came:
            await bench.admit(job_id, cost=10)
        assert await bench.take_ids(10) == waiting[8:] + came


@asynchronous
async def test_many_takers_never_exceed_the_concurrency(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, {"m": {"concurrency": 7}}) as bench:
        await fill(bench, 30)
        taken = [job for jobs in await asyncio.gather(*(bench.take(3) for _ in range(10))) for job in jobs]
        assert len(taken) == 7
        assert len({job.id for job in taken}) == 7
        await bench.end(taken[0])
        assert len(await bench.take(3)) == 1
        assert (await bench.upkeep.depth())["m"].running == 7


@asynchronous
async def test_batch_work_leaves_its_reserve_free(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, {"m": {"concurrency": 4, "batch_reserve": 1}}) as bench:
        await fill(bench, 6, lane="batch")
        assert len(await bench.take(4)) == 3
        urgent = await bench.admit()
        assert await bench.take_ids(4) == [urgent]


@pytest.mark.parametrize(
    ("given", "capacity", "wanted"),
    [
        ({"concurrency": 5}, None, 4),
        ({"concurrency": 4}, None, 4),
        ({"concurrency": 32, "backends": [{"url": "http://127.0.0.1:1/v1", "concurrency": 2}]}, 2, 2),
        ({"concurrency": 8, "batch_reserve": 0}, None, 8),
        ({"concurrency": 8, "batch_reserve": 7}, 4, 1),
    ],
    ids=["by default one", "not of few", "not where the backends take few", "none if so said", "never the last one"],
)
def test_how_many_slots_batch_work_may_have(
    room_redis: RedisServer, given: dict[str, Any], capacity: int | None, wanted: int
) -> None:
    async def scenario() -> None:
        async with open_bench(room_redis.url, {"m": given}) as bench:
            await fill(bench, 12, lane="batch")
            taken = await bench.leases.take("m", free=12, mine=0, surplus=True, concurrency=capacity)
            assert len(taken.jobs) == wanted

    asyncio.run(scenario())


@asynchronous
async def test_a_worker_takes_its_fair_part_first_and_the_surplus_later(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, {"m": {"concurrency": 8}}, served=False) as bench:
        await bench.serve("w1", "w2", "w3")
        await fill(bench, 20)
        taken = await bench.leases.take("m", free=8, mine=0, surplus=False)
        assert (len(taken.jobs), taken.more) == (3, True)  # ceil(8 / 3)
        taken = await bench.leases.take("m", free=8, mine=2, surplus=False)
        assert (len(taken.jobs), taken.more) == (1, True)
        taken = await bench.leases.take("m", free=8, mine=3, surplus=True)
        assert (len(taken.jobs), taken.more) == (4, False)


@asynchronous
async def test_jobs_past_their_last_moment_are_told_so_and_never_taken(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        late, next_one = await bench.admit(), await bench.admit()
        await bench.expire_wait(late)
        assert await bench.take_ids(2) == [next_one]
        (event,) = await bench.log(late)
        assert event.startswith(b"E")
        assert b"queue_timeout" in event
        assert b"504" in event


@asynchronous
async def test_jobs_of_a_dead_api_process_are_not_taken_unless_they_must_finish(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        await bench.beat("gone")
        orphan = await bench.admit(owner="gone")
        kept = await bench.admit(owner="gone", must_finish=True)
        await bench.beat("gone", gone=True)
        assert await bench.take_ids(2) == [kept]
        assert await bench.record(orphan) == {}


@asynchronous
async def test_a_body_too_large_to_travel_inside_the_script_arrives_whole(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        inline, large = b"i" * 65_536, b"l" * 65_537
        for body in (inline, large):
            await bench.admit(body=body)
        small, apart = await bench.take(2)
        assert (small.body, apart.body) == (inline, None)
        assert await bench.leases.fetch(apart.id) == large


@asynchronous
async def test_a_lane_that_a_lost_record_leaves_empty_begins_anew(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        lost = await bench.admit()
        await bench.redis("DEL", keys.job(lost))
        assert await bench.take() == []
        assert await bench.redis("EXISTS", keys.PREFIXES["tags"] + "default:m") == 0


@pytest.mark.parametrize("why", ["too late", "nobody listens"])
def test_what_a_worker_meets_and_drops_gives_its_estimate_back(room_redis: RedisServer, why: str) -> None:
    async def scenario() -> None:
        async with open_bench(room_redis.url) as bench:
            dropped = await bench.admit(owner="api" if why == "too late" else "gone")
            if why == "too late":
                await bench.redis("HSET", keys.job(dropped), "deadline", 1)
            await bench.admit(tenant="b")
            await bench.admit(tenant="b")
            assert len(await bench.take_ids(1)) == 1
            tags = await bench.redis("HMGET", keys.PREFIXES["tags"] + "default:m", "a", "b")
            assert [float(tag) for tag in tags] == [0, 200]

    asyncio.run(scenario())
