"""Large bodies over narrow lines: they arrive whole, small commands hardly notice, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from shared.redis import Bulk, RedisClient, RedisRefused, RedisUnavailable
from shared.redis.bulk import PART_BYTES
from tests.support.asynchronous import asynchronous, on_each_loop
from tests.support.processes import RedisServer
from tests.support.relay import Relay
from tests.support.waiting import wait_until_async

MEGABYTE = 1_000_000
LIFE_MS = 60_000


@pytest.fixture
def relay(own_redis: RedisServer) -> Iterator[Relay]:
    with Relay(own_redis.port) as relay:
        yield relay


@asynccontextmanager
async def bulk_over(url: str) -> AsyncIterator[Bulk]:
    bulk = Bulk(url)
    try:
        yield bulk
    finally:
        await bulk.close()


@asynccontextmanager
async def client_over(url: str) -> AsyncIterator[RedisClient]:
    client = RedisClient(url)
    await client.open()
    try:
        yield client
    finally:
        await client.close()


async def ask_until(client: RedisClient, done: asyncio.Event) -> float:
    """Ask something small all the time; return the longest wait. Raises what a caller would see."""
    longest = 0.0
    while not done.is_set():
        began = time.monotonic()
        await client.call("PING")
        longest = max(longest, time.monotonic() - began)
        await asyncio.sleep(0.02)
    return longest


@on_each_loop
@pytest.mark.parametrize("size", [1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES, 5_000_001])
async def test_a_body_comes_back_as_it_was(own_redis: RedisServer, size: int) -> None:
    body = os.urandom(size)
    async with bulk_over(own_redis.url) as bulk:
        await bulk.store("body", os.urandom(2 * PART_BYTES), LIFE_MS)  # an earlier try
        await bulk.store("body", body, LIFE_MS)
        assert await bulk.fetch("body") == body
    with own_redis.client() as client:
        assert 0 < client.pttl("body") <= LIFE_MS


@asynchronous
async def test_what_is_not_there_is_nothing(own_redis: RedisServer) -> None:
    async with bulk_over(own_redis.url) as bulk:
        assert await bulk.fetch("never-stored") is None


@asynchronous
async def test_a_body_that_goes_away_in_the_middle_is_nothing(own_redis: RedisServer, relay: Relay) -> None:
    async with bulk_over(relay.through(own_redis.url)) as bulk:
        await bulk.store("body", b"x" * 4 * PART_BYTES, LIFE_MS)
        relay.bytes_per_second = 2 * PART_BYTES
        carried = relay.carried_bytes
        fetching = asyncio.create_task(bulk.fetch("body"))
        await wait_until_async(lambda: relay.carried_bytes > carried + PART_BYTES // 2, 5, "the first part to move")
        with own_redis.client() as client:
            client.delete("body")
        relay.bytes_per_second = None
        assert await fetching is None


@asynchronous
async def test_no_connection_is_made_before_it_is_needed(relay: Relay, own_redis: RedisServer) -> None:
    async with bulk_over(relay.through(own_redis.url)) as bulk:
        await asyncio.sleep(0)
        assert relay.accepted == 0
        await asyncio.gather(*(bulk.fetch("nothing") for _ in range(10)))
        assert relay.accepted == 1


@pytest.mark.parametrize(("megabytes_per_second", "megabytes"), [(30, 15), (5, 4)])
@asynchronous
async def test_six_large_bodies_over_a_narrow_line_hold_up_nothing_small(
    own_redis: RedisServer, relay: Relay, megabytes_per_second: int, megabytes: int
) -> None:
    bodies = {f"body:{number}": os.urandom(MEGABYTE) * megabytes for number in range(6)}
    url = relay.through(own_redis.url)
    relay.bytes_per_second = megabytes_per_second * MEGABYTE
    async with client_over(url) as client, bulk_over(url) as bulk:
        done = asyncio.Event()
        asking = asyncio.create_task(ask_until(client, done))
        await asyncio.gather(*(bulk.store(key, body, LIFE_MS * 10) for key, body in bodies.items()))
        fetched = await asyncio.gather(*(bulk.fetch(key) for key in bodies))
        done.set()
        longest = await asking
    assert fetched == list(bodies.values())
    assert longest < 1.0  # the limit of a small command is 1.7 s


@asynchronous
async def test_bodies_that_share_the_line_have_time_for_each_other(own_redis: RedisServer, relay: Relay) -> None:
    """By its own size each has 5.7 s; together they need seven."""
    relay.bytes_per_second = 2.3 * MEGABYTE
    async with bulk_over(relay.through(own_redis.url)) as bulk:
        await asyncio.gather(*(bulk.store(f"body:{n}", b"x" * 4 * MEGABYTE, LIFE_MS) for n in range(4)))


@asynchronous
async def test_more_bodies_than_the_line_carries_at_once_wait_for_their_turn(
    own_redis: RedisServer, relay: Relay
) -> None:
    relay.bytes_per_second = 8 * MEGABYTE
    async with bulk_over(relay.through(own_redis.url)) as bulk:
        carried = relay.carried_bytes
        async with asyncio.TaskGroup() as group:
            for number in range(12):
                group.create_task(bulk.store(f"body:{number}", b"x" * 4 * PART_BYTES, LIFE_MS))
            await wait_until_async(lambda: relay.carried_bytes > carried + 10 * PART_BYTES, 10, "parts to arrive")
            with own_redis.client() as admin:
                assert admin.dbsize() <= 7  # two or three have ended, four are on their way


@asynchronous
async def test_a_line_that_is_too_slow_fails_in_time(own_redis: RedisServer, relay: Relay) -> None:
    async with bulk_over(relay.through(own_redis.url)) as bulk:
        await bulk.store("body", b"x" * 2 * MEGABYTE, LIFE_MS)
        relay.bytes_per_second = 0.3 * MEGABYTE
        began = time.monotonic()
        with pytest.raises(RedisUnavailable):
            await bulk.store("body", b"x" * 2 * MEGABYTE, LIFE_MS)
        assert time.monotonic() - began < 6  # 1.7 s, two more for its size, and the part that was on its way


@asynchronous
async def test_a_body_that_is_there_counts_however_late_it_came(own_redis: RedisServer, relay: Relay) -> None:
    """One part has 2.2 s by its size, and needs three."""
    async with bulk_over(relay.through(own_redis.url)) as bulk:
        await bulk.store("first", b"x", LIFE_MS)
        relay.bytes_per_second = PART_BYTES / 3
        await bulk.store("body", b"x" * PART_BYTES, LIFE_MS)
        relay.bytes_per_second = None
        assert await bulk.fetch("body") == b"x" * PART_BYTES


@asynchronous
async def test_a_line_that_stands_still_fails_in_time_and_is_replaced(own_redis: RedisServer, relay: Relay) -> None:
    async with bulk_over(relay.through(own_redis.url)) as bulk:
        await bulk.store("body", b"x", LIFE_MS)
        relay.stall()
        began = time.monotonic()
        with pytest.raises(RedisUnavailable):
            await bulk.store("body", b"x" * 40 * MEGABYTE, LIFE_MS)
        assert time.monotonic() - began < 7
        relay.resume()
        await wait_until_async(lambda: _stores(bulk), 10, "a body to be stored again")


async def _stores(bulk: Bulk) -> bool:
    try:
        await bulk.store("body", b"x" * MEGABYTE, LIFE_MS)
    except RedisUnavailable:
        return False
    return True


@asynchronous
async def test_a_redis_that_is_away_is_told_in_time(own_redis: RedisServer) -> None:
    own_redis.kill()
    async with bulk_over(own_redis.url) as bulk:
        began = time.monotonic()
        told = await asyncio.gather(
            *(bulk.store(f"body:{n}", b"x" * MEGABYTE, LIFE_MS) for n in range(10)), return_exceptions=True
        )
        assert all(isinstance(one, RedisUnavailable) for one in told)
        assert time.monotonic() - began < 3
        await asyncio.to_thread(own_redis.restart)
        await wait_until_async(lambda: _stores(bulk), 10, "a body to be stored")


@asynchronous
async def test_a_full_redis_refuses_and_the_next_body_is_taken(own_redis: RedisServer) -> None:
    async with bulk_over(own_redis.url) as bulk:
        with own_redis.client() as admin:
            admin.config_set("maxmemory", 1)
            with pytest.raises(RedisRefused) as told:
                await bulk.store("body", b"x" * MEGABYTE, LIFE_MS)
            assert told.value.kind == "OOM"
            admin.config_set("maxmemory", 0)
        await bulk.store("body", b"x" * MEGABYTE, LIFE_MS)


@asynchronous
async def test_a_caller_who_leaves_frees_the_line(own_redis: RedisServer, relay: Relay) -> None:
    async with bulk_over(relay.through(own_redis.url)) as bulk:
        await bulk.fetch("nothing")
        relay.bytes_per_second = 4 * MEGABYTE
        leaving = [asyncio.create_task(bulk.store(f"body:{n}", b"x" * 30 * MEGABYTE, LIFE_MS)) for n in range(3)]
        carried = relay.carried_bytes
        await wait_until_async(lambda: relay.carried_bytes > carried + PART_BYTES, 5, "the first body to be under way")
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        began = time.monotonic()
        await bulk.store("body", b"x" * MEGABYTE, LIFE_MS)
        assert time.monotonic() - began < 3  # ninety megabytes would have taken over 20 s
