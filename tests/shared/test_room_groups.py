"""Fair sharing between groups, and inside of them between their tenants (`lib/lanes.lua`)."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from shared import keys
from shared.errors import QueueFull
from shared.jobs import TakenJob
from shared.lanes import Lane
from shared.room.leases import How
from shared.token_settings import GroupSettings
from shared.usage.counters import Key, counters
from tests.support.asynchronous import asynchronous
from tests.support.processes import RedisServer
from tests.support.rooms import Bench, open_bench

WIDE: dict[str, dict[str, Any]] = {"m": {"concurrency": 10_000, "max_queue": 10_000, "batch_reserve": 0}}
BIG = GroupSettings(name="big", weight=3)
SMALL = GroupSettings(name="small", weight=1)


def group_of(job: TakenJob) -> str:
    return job.spec.group or job.spec.tenant


async def fill(bench: Bench, count: int, **more: Any) -> list[str]:
    return list(await asyncio.gather(*(bench.admit(**more) for _ in range(count))))


@pytest.mark.parametrize("lane", ["priority", "default", "flex", "batch"])
def test_a_groups_share_does_not_grow_with_its_tokens(room_redis: RedisServer, lane: Lane) -> None:
    async def scenario() -> None:
        async with open_bench(room_redis.url, WIDE) as bench:
            for number in range(20):  # these come first, and each of them alone at its time
                await fill(bench, 10, tenant=f"s{number}", group=SMALL, lane=lane)
            await fill(bench, 200, tenant="b", group=BIG, lane=lane)
            jobs = [job for _ in range(25) for job in await bench.take(4)]
            assert Counter(map(group_of, jobs)) == {"big": 75, "small": 25}
            of_small = Counter(job.spec.tenant for job in jobs if group_of(job) == "small")
            assert len(of_small) == 20
            assert max(of_small.values()) == 2

    asyncio.run(scenario())


@asynchronous
async def test_inside_a_group_tenants_share_by_weight_and_cost(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, WIDE) as bench:
        await fill(bench, 60, tenant="alone")
        for tenant, weight, cost in (("a", 1, 100), ("b", 3, 100), ("c", 1, 50)):
            await fill(bench, 60, tenant=tenant, weight=weight, cost=cost, group=SMALL)
        jobs = [job for _ in range(30) for job in await bench.take(3)]
        used = Counter(dict.fromkeys(("a", "b", "c", "alone"), 0.0))
        for job in jobs:
            used[job.spec.tenant] += 50 if job.spec.tenant == "c" else 100
        of_group = used["a"] + used["b"] + used["c"]
        assert abs(of_group - used["alone"]) <= 100
        assert [round(5 * used[tenant] / of_group) for tenant in ("a", "b", "c")] == [1, 3, 1]


async def _closed(bench: Bench, rounds: int, spent: Counter[str], used: dict[str, float]) -> None:
    """Let 8 slots run for so many ends; each job that ends is followed by another of its tenant."""
    groups = {"big": BIG, "small": SMALL}
    running = await bench.take(8)
    for _ in range(rounds):
        job = running.pop(0)
        spent[group_of(job)] += round(used[group_of(job)])
        await bench.end(job, used[group_of(job)])
        await bench.admit(tenant=job.spec.tenant, group=groups[job.spec.group], cost=300.0, must_finish=True)
        running += await bench.take(1)
    for job in running:
        await bench.end(job, used[group_of(job)])
        await bench.admit(tenant=job.spec.tenant, group=groups[job.spec.group], cost=300.0, must_finish=True)


@pytest.mark.parametrize("used", [(300, 300), (30, 30), (30, 300)], ids=str)
def test_what_is_really_used_is_shared_by_weight(room_redis: RedisServer, used: tuple[float, float]) -> None:
    async def scenario() -> None:
        async with open_bench(room_redis.url, {"m": {"concurrency": 8, "max_queue": 1000}}) as bench:
            for number in range(20):
                await fill(bench, 2, tenant=f"s{number}", group=SMALL, cost=300.0, must_finish=True)
            await fill(bench, 40, tenant="b", group=BIG, cost=300.0, must_finish=True)
            spent, real = Counter[str](), dict(zip(("big", "small"), used, strict=True))
            await _closed(bench, 150, spent, real)  # what runs is charged by its estimate: that makes the beginning
            spent.clear()
            await _closed(bench, 400, spent, real)
            assert 2.8 <= spent["big"] / spent["small"] <= 3.2, spent

    asyncio.run(scenario())


@asynchronous
async def test_borrowed_slots_are_back_as_soon_as_jobs_end(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, {"m": {"concurrency": 8, "max_queue": 1000}}) as bench:
        for number in range(20):
            await fill(bench, 5, tenant=f"s{number}", group=SMALL)
        running = await bench.take(8)
        assert Counter(map(group_of, running)) == {"small": 8}  # nobody else: all of it is lent
        for _ in range(16):  # for some time
            await bench.end(running.pop(0))
            running += await bench.take(1)
        await fill(bench, 100, tenant="b", group=BIG)
        for _ in range(8):  # one service time: whoever runs now has ended
            await bench.end(running.pop(0))
            running += await bench.take(1)
        assert Counter(map(group_of, running)) == {"big": 6, "small": 2}


@asynchronous
async def test_a_group_that_was_idle_saves_up_nothing(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, WIDE) as bench:
        await fill(bench, 100, tenant="alone")
        await fill(bench, 1, tenant="a", group=SMALL)
        assert len(await bench.take(60)) == 60
        await fill(bench, 40, tenant="a", group=SMALL)
        assert Counter(map(group_of, await bench.take(20))) == {"alone": 10, "small": 10}


@asynchronous
async def test_a_late_tenant_of_a_group_is_next_of_it(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, WIDE) as bench:
        await fill(bench, 200, tenant="a", group=SMALL)
        await fill(bench, 200, tenant="alone")
        await bench.take(20)
        late = await bench.admit(tenant="b", group=SMALL)
        assert late in await bench.take_ids(3)
        again = await bench.admit(tenant="b", group=SMALL)  # the first of it is still charged to it alone
        assert again in await bench.take_ids(5)


@asynchronous
async def test_positions_are_the_order_in_which_jobs_are_taken(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, WIDE) as bench:
        for number in range(4):
            await fill(bench, 3, tenant=f"s{number}", group=SMALL)
        await fill(bench, 12, tenant="b", group=BIG)
        await fill(bench, 12, tenant="alone", weight=2)
        await bench.take(3)
        waiting = [one.decode() for one in await bench.redis("ZRANGE", keys.lane("default", "m"), 0, -1)]
        assert len(waiting) == 33
        _, places = await bench.admissions.stand("m", [(job_id, "default") for job_id in waiting])
        order = await bench.take_ids(40)
        assert sorted(order) == sorted(waiting)
        off = [abs(order.index(job_id) - place) for job_id, place in zip(waiting, places, strict=True)]
        assert max(off) <= 2  # turns that fall together may be told either way
        assert sum(off) <= len(off) // 2


@asynchronous
async def test_who_leaves_leaves_its_group_in_order(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, WIDE) as bench:
        ids = [await bench.admit(tenant=tenant, group=SMALL) for tenant in ("a", "b", "a", "b", "c")]
        await fill(bench, 5, tenant="alone")
        assert await bench.cancel(ids[0], ids[3]) == "ww"
        assert await bench.redis("ZCARD", keys.lane("default", "m")) == 8
        order = await bench.take_ids(8)
        assert [one for one in order if one in ids] == [ids[1], ids[4], ids[2]]
        assert [order.index(one) // 2 for one in (ids[1], ids[4], ids[2])] == [0, 1, 2]
        of_lanes = [
            name
            for prefix in ("lane", "tags", "members", "member_tags")
            for name in await bench.redis("KEYS", keys.PREFIXES[prefix] + "*")
        ]
        assert of_lanes == []
        await bench.sweep()
        assert not await bench.redis("EXISTS", "aq2:groups:m")
        assert not await bench.redis("HEXISTS", keys.room("m"), "grouped")


@asynchronous
async def test_what_comes_back_is_first_again_and_charged_once(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, WIDE) as bench:
        await fill(bench, 12, tenant="alone")
        await fill(bench, 4, tenant="a", group=SMALL)
        await fill(bench, 4, tenant="b", group=SMALL)
        taken = await bench.take(4)
        back = next(job for job in taken if job.spec.group)
        await bench.serve("w2")
        assert await bench.release((back.id, back.attempt, How.AWAY)) == "b"
        assert (await bench.take_ids(1)) == [back.id]
        assert Counter(map(group_of, await bench.take(8))) == {"alone": 4, "small": 4}


@asynchronous
async def test_a_group_whose_head_is_lost_goes_on_after_the_next_sweep(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, WIDE) as bench:
        ids = [await bench.admit(tenant=tenant, group=SMALL) for tenant in ("a", "a", "b")]
        await fill(bench, 10, tenant="alone")
        await bench.redis("DEL", keys.job(ids[0]))
        assert ids[0] not in await bench.take_ids(3)
        await bench.serve("w1")
        await bench.sweep()
        order = await bench.take_ids(4)
        assert {ids[1], ids[2]} <= set(order)


@asynchronous
async def test_a_worker_that_knows_of_no_groups_does_no_lasting_harm(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, WIDE) as bench:
        ids = [await bench.admit(tenant="a", group=SMALL) for _ in range(6)]
        await fill(bench, 12, tenant="alone")
        lane = keys.lane("default", "m")
        await bench.redis("ZREM", lane, ids[0])  # as such a worker takes the head
        await bench.redis("ZREM", keys.PREFIXES["waits"] + "m", ids[0])
        await bench.redis("HSET", keys.job(ids[0]), "state", "running", "attempt", "1.x", "tries", 1)
        await bench.serve("w1")
        await bench.sweep()
        order = await bench.take_ids(10)
        assert [one for one in order if one in ids] == ids[1:6]


@asynchronous
async def test_a_group_fills_no_more_of_a_room_than_one_tenant_may(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, {"m": {"concurrency": 1, "max_queue": 10}}) as bench:
        (running,) = [await bench.admit(tenant="x")]
        assert await bench.take_ids() == [running]
        for tenant in ("a", "b", "c", "a", "b"):
            await bench.admit(tenant=tenant, group=SMALL)
        with pytest.raises(QueueFull, match="This token's group `small` fills its share"):
            await bench.admit(tenant="d", group=SMALL)
        await bench.admit(tenant="d")


@asynchronous
async def test_facts_of_a_job_name_its_group_only_where_there_is_one(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, WIDE) as bench:
        grouped, plain = await bench.admit(group=BIG), await bench.admit()
        record = await bench.record(grouped)
        assert (record["group"], float(record["group_weight"])) == ("big", 3)
        assert not {"group", "group_weight"} & set(await bench.record(plain))
        assert {job.id: job.spec.group for job in await bench.take(2)} == {grouped: "big", plain: ""}


@asynchronous
async def test_slot_seconds_are_counted_for_the_group_that_held_the_slots(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, {"m": {"concurrency": 6, "max_queue": 1000}}) as bench:
        for number in range(6):
            await fill(bench, 4, tenant=f"s{number}", group=SMALL)
        await fill(bench, 24, tenant="b", group=BIG)
        await fill(bench, 24, tenant="alone")
        await bench.serve("w2")
        least, most = Counter[str](), Counter[str]()
        for number in range(6):
            before, jobs, begun = await _now_ms(bench), await bench.take(6), await _now_ms(bench)
            await bench.wait_ms(200)
            ends = await _now_ms(bench)
            if number == 3:  # one goes back, one's client leaves: both held their slots all the same
                assert await bench.release((jobs[0].id, jobs[0].attempt, How.AWAY)) == "b"
                assert await bench.cancel(jobs[1].id) == "r"
                assert await bench.release((jobs[1].id, jobs[1].attempt, How.END)) == "e"
            for job in jobs[2:] if number == 3 else jobs:
                await bench.end(job)
            ended = await _now_ms(bench)
            for group in map(group_of, jobs):
                least[group] += round(ends - begun) - 1
                most[group] += round(ended - before) + 1
        counted = await _slot_ms(bench)
        assert counted.keys() == most.keys() == {"big", "small", "alone"}
        for group, slot_ms in counted.items():
            assert 0.99 * least[group] <= slot_ms <= 1.01 * most[group], (counted, least, most)


async def _slot_ms(bench: Bench) -> Counter[str]:
    """Return what is counted of each group, or of a token that is in none."""
    counted = Counter[str]()
    for name in await bench.redis("KEYS", keys.PREFIXES["usage"] + "*"):
        flat = await bench.redis("HGETALL", name)
        for field, packed in zip(flat[::2], flat[1::2], strict=True):
            key = Key.of(field.decode())
            assert key is not None
            numbers = await bench.redis("EVAL", "return {cmsgpack.unpack(ARGV[1])}", 0, packed)
            counted[key.group or key.token] += counters(numbers).slot_ms
    return counted


async def _now_ms(bench: Bench) -> float:
    seconds, micros = await bench.redis("TIME")
    return int(seconds) * 1000 + int(micros) / 1000


def test_a_token_called_by_a_dash_keeps_its_name_in_usage() -> None:
    key = Key.of("- - demo default chat.completions")
    assert key == Key("-", "", "demo", "default", "chat.completions")
    assert Key.of(key.field) == key
    assert Key.of("- - - - -") == Key("", "", "", "", "")
