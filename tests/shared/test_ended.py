"""What processes tell of requests and runs that have ended, to a real Redis: bounded, and each once."""

from __future__ import annotations

import pytest

from shared import keys
from shared.ended.outcomes import FAILED, GOOD, OF_REQUESTS, REFUSED, outcome_of
from shared.ended.reader import EndedReader
from shared.ended.teller import MAX_BYTES, NEWEST, Teller, Told
from shared.jobs import new_id
from shared.redis import RedisRefused
from tests.support.asynchronous import asynchronous
from tests.support.processes import RedisServer
from tests.support.rooms import Bench, open_bench

MOST = 250


def teller(bench: Bench, most: int = MOST) -> Teller[Told]:
    return Teller(bench.client, most, "request", lambda told: told)


def an_end(**facts: object) -> Told:
    return Told(new_id(), {"model": "m", "nothing": None, **facts})


@asynchronous
async def test_an_end_is_found_by_its_id_when_it_was_told_and_only_once(own_redis: RedisServer) -> None:
    async with open_bench(own_redis.url) as bench:
        reader, tells = EndedReader(bench.client), teller(bench)
        end = an_end(status=500, code="x")
        tells.add(FAILED, "a", end)
        assert await reader.request(end.name) is None
        await tells.flush()
        await tells.flush()
        found = await reader.request(end.name)
        assert found is not None
        assert found.facts == {"model": "m", "status": 500, "code": "x"}
        tells.add(FAILED, "a", end)  # as one whose answer was lost is told again
        await tells.flush()
        assert [past.name async for past in reader.ends(OF_REQUESTS)] == [end.name]
        for key in (keys.ended("request", FAILED), keys.ended_told("request", FAILED)):
            assert 3_500_000 < await bench.client.call("PTTL", key) <= 3_600_000


@asynchronous
async def test_only_the_newest_of_each_outcome_are_kept(own_redis: RedisServer) -> None:
    async with open_bench(own_redis.url) as bench:
        reader, tells = EndedReader(bench.client), teller(bench)
        rare = an_end()
        tells.add(REFUSED, "b", rare)
        ends = [an_end() for _ in range(NEWEST[FAILED] * 2 + 5)]
        for end in ends[: NEWEST[FAILED] + 5]:
            tells.add(FAILED, "a", end)
        await tells.flush()
        for end in ends[NEWEST[FAILED] + 5 :]:
            tells.add(FAILED, "a", end)
        await tells.flush()
        names = {past.name async for past in reader.ends((FAILED,))}
        assert len(names) == MOST
        assert names >= {end.name for end in ends[-NEWEST[FAILED] :]}
        assert await reader.request(ends[0].name) is None  # more than are told at once
        assert await reader.request(rare.name) is not None
        assert await bench.client.call("HLEN", keys.ended_told("request", FAILED)) == MOST
        await teller(bench, 10).flush()
        fewer = teller(bench, 10)
        fewer.add(FAILED, "a", an_end())
        await fewer.flush()
        assert await bench.client.call("ZCARD", keys.ended("request", FAILED)) == 10
        assert await bench.client.call("HLEN", keys.ended_told("request", FAILED)) == 10


@asynchronous
async def test_a_flood_of_one_token_keeps_no_other_from_being_told(own_redis: RedisServer) -> None:
    async with open_bench(own_redis.url) as bench:
        reader, tells = EndedReader(bench.client), teller(bench)
        quiet = an_end()
        tells.add(REFUSED, "quiet", quiet)
        for _ in range(5000):
            tells.add(REFUSED, "loud", an_end())
        await tells.flush()
        assert await reader.request(quiet.name) is not None
        assert await bench.client.call("ZCARD", keys.ended("request", REFUSED)) == NEWEST[REFUSED] + 1


@asynchronous
async def test_what_redis_did_not_take_is_told_later(own_redis: RedisServer) -> None:
    async with open_bench(own_redis.url) as bench:
        reader, tells = EndedReader(bench.client), teller(bench)
        first, second = an_end(), an_end()
        tells.add(GOOD, "a", first)
        await bench.redis("CONFIG", "SET", "maxmemory", "1")
        try:
            with pytest.raises(RedisRefused, match="OOM"):
                await tells.flush()
        finally:
            await bench.redis("CONFIG", "SET", "maxmemory", "0")
        tells.add(GOOD, "a", second)
        await tells.flush()
        assert {past.name async for past in reader.ends((GOOD,))} == {first.name, second.name}


@asynchronous
async def test_a_row_is_bounded_and_what_cannot_be_read_is_left_out(own_redis: RedisServer) -> None:
    async with open_bench(own_redis.url) as bench:
        reader, tells = EndedReader(bench.client), teller(bench)
        end = an_end(code="c" * 10_000, calls=[{"backend": "b" * 90}] * 50)
        tells.add(FAILED, "a", end)
        await tells.flush()
        found = await reader.request(end.name)
        assert found is not None
        assert found.facts == {"model": "m", "code": "c" * 128}
        assert await bench.client.call("HSTRLEN", keys.ended_told("request", FAILED), end.name) < MAX_BYTES
        for odd in (b"", b"x", b"5 [1]", b"5 {", b"\xff {}"):
            await bench.client.call("HSET", keys.ended_told("request", FAILED), end.name, odd)
            assert await reader.request(end.name) is None
            assert [past async for past in reader.ends(OF_REQUESTS)] == []


def test_kinds_of_outcome() -> None:
    told = {
        (200, None): "2",
        (200, "job_lost"): "5",
        (429, "x"): "4",
        (499, None): "4",
        (0, None): "4",
        (503, "x"): "5",
    }
    assert {end: outcome_of(*end) for end in told} == told
