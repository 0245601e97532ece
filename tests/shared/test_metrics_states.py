"""What processes say of the present, and what is looked up at a scrape: told to and read from a real Redis."""

from __future__ import annotations

import struct
from collections import Counter

from shared import keys
from shared.metrics import names
from shared.metrics.budgets import BudgetLook, state_of
from shared.metrics.counts import Counts
from shared.metrics.gauges import Whole, gauges
from shared.metrics.names import Metric
from shared.metrics.publisher import Publisher, read_memory
from shared.metrics.states import State, merged, packed
from shared.room.scripts import LimitRow
from shared.token_settings import GroupSettings
from tests.support.asynchronous import asynchronous
from tests.support.processes import RedisServer
from tests.support.rooms import Bench, open_bench

BACKEND = ("m", "10.0.0.1:9000")


def teller(bench: Bench, process: str, *states: State) -> Publisher:
    """Return what tells of a process in which this stands."""
    counts = Counts()
    counts.before_telling.append(lambda: states)
    return Publisher(counts, bench.client, process)


async def whole(bench: Bench) -> dict[Metric, dict[tuple[str, ...], float]]:
    """Return what live processes say, together."""
    return merged((await bench.upkeep.observe())[0])


@asynchronous
async def test_the_whole_is_made_of_what_live_processes_say(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        publishers = [
            teller(bench, "one", State(names.BACKEND_UP, BACKEND, 1), State(names.BACKEND_RUNNING, BACKEND, 3)),
            teller(bench, "two", State(names.BACKEND_UP, BACKEND, 0), State(names.BACKEND_RUNNING, BACKEND, 4)),
            teller(bench, "three", State(names.BATCH_WINDOW, ("m",), 60), State(names.BATCH_IDLE, ("m",), 7)),
            teller(bench, "four", State(names.BATCH_WINDOW, ("m",), 50), State(names.BATCH_IDLE, ("m",), 5)),
        ]
        for publisher in publishers:
            await publisher.flush()
            await publisher.flush()
        assert await whole(bench) == {
            names.BACKEND_UP: {BACKEND: 0.5},
            names.BACKEND_RUNNING: {BACKEND: 7},
            names.BATCH_WINDOW: {("m",): 50},
            names.BATCH_IDLE: {("m",): 7},
        }
        for publisher in publishers[1:]:
            await publisher.end()
        assert await whole(bench) == {names.BACKEND_UP: {BACKEND: 1}, names.BACKEND_RUNNING: {BACKEND: 3}}


@asynchronous
async def test_who_says_nothing_more_is_left_out_after_some_seconds(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        await teller(bench, "killed", State(names.BACKEND_RUNNING, BACKEND, 3)).flush()
        for key in (keys.PREFIXES["states"] + "killed", keys.TELLERS):
            assert 0 < await bench.redis("PTTL", key) <= 10_000
        await bench.redis("DEL", keys.PREFIXES["states"] + "killed")  # its time is over
        assert await whole(bench) == {}
        await bench.redis("ZADD", keys.TELLERS, 1, "long ago")
        await teller(bench, "lives", State(names.BACKEND_RUNNING, BACKEND, 1)).flush()
        assert await bench.redis("ZSCORE", keys.TELLERS, "long ago") is None
        assert await whole(bench) == {names.BACKEND_RUNNING: {BACKEND: 1}}


@asynchronous
async def test_an_emptied_redis_hears_of_the_present_at_the_next_telling(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        publisher = teller(bench, "one", State(names.BACKEND_RUNNING, BACKEND, 2))
        await publisher.flush()
        await bench.redis("FLUSHALL")
        assert await whole(bench) == {}
        await publisher.flush()
        assert await whole(bench) == {names.BACKEND_RUNNING: {BACKEND: 2}}


@asynchronous
async def test_a_process_in_which_nothing_stands_writes_nothing_of_it(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        counts = Counts()
        counts.add(names.RECLAIMS)
        publisher = Publisher(counts, bench.client, "api")
        await publisher.flush()
        await publisher.end()
        assert await bench.redis("EXISTS", keys.TELLERS, keys.PREFIXES["states"] + "api") == 0


def test_what_another_version_says_is_left_out() -> None:
    good = packed([State(names.BACKEND_RUNNING, BACKEND, 1)])
    others = (b'[["of_tomorrow",["m"],1],["backend_running",["m"],5],["backend_running",["m","b"],"x"]]', b"no JSON")
    assert merged([*others, good]) == {names.BACKEND_RUNNING: {BACKEND: 1}}


@asynchronous
async def test_fairness_tells_how_far_those_that_wait_are_apart(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, {"m": {"concurrency": 100, "batch_reserve": 0}}) as bench:

        async def deviation() -> dict[str, int]:
            found = (await bench.upkeep.observe())[1]["m"].deviation
            return {str(lane): number for lane, number in found.items() if number}

        for _ in range(4):
            await bench.admit(tenant="a", cost=100.0)
        assert await deviation() == {}  # nobody else waits
        await bench.admit(tenant="b", cost=100.0)
        assert await deviation() == {}  # both are to have their first
        await bench.take(1)
        assert await deviation() == {"default": 100}  # one has had it
        await bench.take(1)
        assert await deviation() == {}
        await bench.take(3)
        for tenant in ("c", "c", "d", "d"):  # a batch's lines, which count against no room
            await bench.admit(tenant=tenant, cost=60.0, lane="batch", must_finish=True)
        await bench.take(1)
        assert await deviation() == {"batch": 60}


@asynchronous
async def test_fairness_takes_a_group_as_one(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, {"m": {"concurrency": 100}}) as bench:
        group = GroupSettings(name="g", weight=2)
        for tenant in ("a", "b", "c"):
            await bench.admit(tenant=tenant, cost=100.0, group=group)
            await bench.admit(tenant="alone", cost=100.0)
        await bench.take(2)
        deviation = (await bench.upkeep.observe())[1]["m"].deviation["default"]
        assert deviation == 50  # the group, of twice the weight, stands 50 on, the other 100


def test_budgets_stand_at_ok_near_or_spent() -> None:
    assert [state_of(used, 100) for used in (0, 79, 80, 99, 100, 150)] == ["ok", "ok", *["near"] * 2, *["spent"] * 2]


@asynchronous
async def test_budgets_are_counted_without_names(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        seconds = int((await bench.redis("TIME"))[0])
        for subject, used in (("alice", 80), ("bob", 100), ("group:team", 10)):
            await bench.redis("SET", keys.PREFIXES["spent"] + subject, struct.pack(">3d", seconds // 86_400, used, 0))
        none = (0, 0, 0, 0)
        rows = [LimitRow(name, *none, 100, 0, 0, 0) for name in ("alice", "bob", "new", "group:team")]
        look, asked = BudgetLook(bench.client), list[int]()

        def limits() -> list[LimitRow]:
            asked.append(1)
            by_minute = LimitRow("fast", 60, 0, 0, 0, 0, 0, 0, 0)
            return [*rows, LimitRow("group:team", *none, 100, 0, 0, 0), by_minute]  # the team by each of its tokens

        found = await look.look(limits)
        assert await look.look(limits) == found
        assert len(asked) == 1  # scrapes that follow soon ask nobody, however many tokens there are
        assert found == Counter(
            {
                ("token", "day", "ok"): 1, ("token", "day", "near"): 1, ("token", "day", "spent"): 1,
                ("group", "day", "ok"): 1, ("group", "day", "near"): 0, ("group", "day", "spent"): 0,
            }
        )  # fmt: skip


@asynchronous
async def test_memory_is_what_redis_says(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        await bench.redis("CONFIG", "SET", "maxmemory", "123456789")
        try:
            found = await read_memory(bench.client)
        finally:
            await bench.redis("CONFIG", "SET", "maxmemory", "0")
        assert found is not None
        assert found[0] > 100_000
        assert found[1] == 123456789


@asynchronous
async def test_slots_of_backends_are_those_of_the_file_or_as_found(room_redis: RedisServer) -> None:
    urls = [f"http://10.0.0.{number}:80/v1" for number in (1, 2)]
    backends = [{"url": urls[0], "concurrency": 3}, {"url": urls[1], "concurrency": {"min": 2, "max": 9}}]
    models = {
        "m": {"concurrency": 20, "backends": backends},
        "night": {"concurrency": 5, "batch_hours": "00:00-12:00 UTC"},
    }
    async with open_bench(room_redis.url, models) as bench:
        depths = await bench.upkeep.depth()
        states, observed = await bench.upkeep.observe()
        for hour, is_on in ((3, 1.0), (15, 0.0)):
            told = Whole(
                "1", is_up=True, depths=depths, states=states, observed=observed,
                models=bench.settings.models, now=hour * 3600.0,
            )  # fmt: skip
            found = {metric: {labels: float(value) for labels, value in rows} for metric, rows in gauges(told)}
            assert found[names.BACKEND_SLOTS]["m", "10.0.0.1:80"] == 3
            assert found[names.BACKEND_SLOTS]["m", "10.0.0.2:80"] == 2
            assert found[names.BACKEND_SLOTS]["night", "127.0.0.1:1"] == 5
            assert found[names.BACKEND_HELD]["m", "10.0.0.1:80"] == 0
            assert found[names.BATCH_LANE_OPEN] == {("night",): is_on}
