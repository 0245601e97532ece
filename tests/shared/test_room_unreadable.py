"""A record that cannot be read harms its own job alone, and leaves no place taken."""

from __future__ import annotations

import pytest

from shared import keys
from tests.support.asynchronous import asynchronous
from tests.support.processes import RedisServer
from tests.support.rooms import open_bench

GARBAGE = {"empty": b"", "cut": b"{", "list": b"[]", "null": b"null", "bytes": b"\xff\x00"}
CASES = {
    **{f"{field}-{name}": (field, value) for field in ("facts", "spec") for name, value in GARBAGE.items()},
    "facts-of-other-types": ("facts", b'{"model":7}'),
}


@pytest.mark.parametrize(("field", "garbage"), CASES.values(), ids=CASES)
@asynchronous
async def test_the_jobs_beside_an_unreadable_one_are_taken(room_redis: RedisServer, field: str, garbage: bytes) -> None:
    async with open_bench(room_redis.url) as bench:
        ids = [await bench.admit() for _ in range(3)]
        await bench.redis("HSET", keys.job(ids[1]), field, garbage)
        assert await bench.take_ids(3) == [ids[0], ids[2]]
        assert (await bench.sweep()).failures == ()
        (missed,) = await bench.admissions.peek([(ids[1], 0)], 1000)
        # Its caller is told: by an error event, or as the record is gone.
        assert missed.state == b"" or (missed.state == b"ended" and missed.events[0][:1] == b"E")


@asynchronous
async def test_an_unreadable_job_keeps_no_place_once_nothing_waits(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        lost = await bench.admit(body=b"x" * 1000)
        await bench.redis("HSET", keys.job(lost), "facts", b"{")
        assert await bench.take_ids() == []
        await bench.sweep()
        assert await bench.redis("HGETALL", keys.PREFIXES["tenants"] + "m") == []
        assert await bench.redis("HMGET", keys.room("m"), "bytes", "tokens") == [None, None]
        assert await bench.take_ids(1) == []
        again = await bench.admit()
        assert await bench.take_ids() == [again]
