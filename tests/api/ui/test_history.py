"""The last hour in Redis: written by one process at a time, whole after a change of the writer, bounded."""

from __future__ import annotations

import time

from api.ui.history import Historian, Hour
from shared import keys
from shared.metrics import names
from shared.metrics.counts import Counts
from shared.metrics.history import Point
from shared.metrics.publisher import Publisher
from shared.protocol import HISTORY_POINTS
from shared.room.scripts import REMEMBER, RememberArguments, RememberRow
from shared.scripting import Scripts
from tests.support.asynchronous import asynchronous
from tests.support.processes import RedisServer
from tests.support.rooms import Bench, open_bench

OUTCOME = ("chat.completions", "default", "200", "")


def historian(bench: Bench, owner: str) -> Historian:
    return Historian(bench.client, bench.catalogue, bench.upkeep, owner)


class Counting:
    """A process that counts requests."""

    def __init__(self, bench: Bench) -> None:
        self.counts = Counts()
        self.publisher = Publisher(self.counts, bench.client, "counting")

    async def count(self, number: int) -> None:
        self.counts.add(names.REQUESTS, "m", OUTCOME, number)
        await self.publisher.flush()


@asynchronous
async def test_one_process_writes_and_what_happened_until_another_takes_over_is_not_lost(
    module_redis: RedisServer,
) -> None:
    async with open_bench(module_redis.url) as bench:
        counting = Counting(bench)
        first, second, hour = historian(bench, "first"), historian(bench, "second"), Hour(bench.client, bench.catalogue)
        await counting.count(5)
        await bench.admit()
        assert await first.write()  # nobody knows when those five were
        await counting.count(2)
        assert not await second.write()
        assert await first.write()
        await counting.count(3)
        await bench.client.call("DEL", keys.HISTORIAN)  # the first has died, and its lease ran out
        assert await second.write()
        assert not await first.write()
        late = RememberRow("m", Point(time.time(), 9, 9, 9, 9, 15).written(), b"[]")
        assert not await Scripts(bench.client).run(REMEMBER, RememberArguments("late", 40_000), [late])
        points = (await hour.read())["m"]
        assert [point.new.get("q200", 0) for point in points] == [0, 2, 3]
        assert [(point.waiting, point.running, point.slots) for point in points] == [(1, 0, 32)] * 3


@asynchronous
async def test_an_hour_is_all_that_is_kept_and_each_process_reads_a_point_once(module_redis: RedisServer) -> None:
    async with open_bench(module_redis.url) as bench:
        now = [time.time()]
        writer, hour = historian(bench, "writer"), Hour(bench.client, bench.catalogue, lambda: now[0])
        assert await writer.write()
        point = await bench.client.call("LINDEX", keys.history("m"), 0)
        assert isinstance(point, bytes)
        await bench.client.call("RPUSH", keys.history("m"), *[point] * (HISTORY_POINTS + 20))
        assert await writer.write()
        assert await bench.client.call("LLEN", keys.history("m")) == HISTORY_POINTS
        for key in (keys.history("m"), keys.history_base("m"), keys.HISTORIAN):
            ttl = await bench.client.call("PTTL", key)
            assert isinstance(ttl, int) and ttl > 0
        read = len((await hour.read())["m"])
        assert len((await hour.read())["m"]) == read  # asked again at once: nothing is read
        now[0] += 15
        await bench.wait_ms(2)  # points are told apart by their millisecond
        assert await writer.write()
        assert len((await hour.read())["m"]) == min(HISTORY_POINTS, read) + 1
        now[0] += 3600
        assert (await hour.read())["m"] == []


@asynchronous
async def test_after_a_step_back_of_the_clock_the_hour_is_read_anew(module_redis: RedisServer) -> None:
    async with open_bench(module_redis.url) as bench:
        now = [time.time() + 600]
        writer, hour = historian(bench, "writer"), Hour(bench.client, bench.catalogue, lambda: now[0])
        ahead = b'{"t":%d,"d":15,"w":7,"o":0,"r":0,"s":1}' % now[0]
        await bench.client.call("RPUSH", keys.history("m"), ahead)
        assert [point.waiting for point in (await hour.read())["m"]] == [7]
        now[0] -= 600
        assert await writer.write()
        assert 0 in [point.waiting for point in (await hour.read())["m"]]


@asynchronous
async def test_what_another_version_has_written_is_left_out(module_redis: RedisServer) -> None:
    async with open_bench(module_redis.url) as bench:
        await bench.client.call("RPUSH", keys.history("m"), b"?", b'{"t":1}')
        await bench.client.call("SET", keys.history_base("m"), b"{}")
        assert await historian(bench, "writer").write()
        assert len((await Hour(bench.client, bench.catalogue).read())["m"]) == 1
