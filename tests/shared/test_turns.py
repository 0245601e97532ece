"""`Turns`: so many at once, so many bytes of them, in order; and nobody waits for what does not come."""

from __future__ import annotations

import asyncio

import pytest

from shared.redis import RedisUnavailable
from shared.redis.turns import Turns
from tests.support.asynchronous import asynchronous


async def settled() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


@asynchronous
async def test_so_many_have_turns_at_once_in_order_of_asking() -> None:
    turns, had = Turns(2, 100), list[int]()

    async def take(number: int) -> None:
        await turns.take(10)
        had.append(number)

    tasks = [asyncio.create_task(take(number)) for number in range(5)]
    await settled()
    assert had == [0, 1]
    turns.give_back(10)
    await settled()
    assert had == [0, 1, 2]
    turns.give_back(10)
    turns.give_back(10)
    await settled()
    assert had == [0, 1, 2, 3, 4]
    await asyncio.gather(*tasks)


@asynchronous
async def test_a_light_one_does_not_pass_a_heavy_one_that_waits() -> None:
    turns = Turns(10, 100)
    await turns.take(60)
    heavy = asyncio.create_task(turns.take(500))
    light = asyncio.create_task(turns.take(1))
    await settled()
    assert not heavy.done() and not light.done()
    turns.give_back(60)
    await settled()
    assert heavy.done() and not light.done()  # alone
    turns.give_back(500)
    await light


@asynchronous
async def test_all_who_wait_are_sent_away_and_later_ones_are_served() -> None:
    turns = Turns(1, 100)
    await turns.take(1)
    waiting = [asyncio.create_task(turns.take(1)) for _ in range(3)]
    await settled()
    waiting[1].cancel()
    turns.refuse(lambda: RedisUnavailable("away"))
    told = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(one) for one in told] == [RedisUnavailable, asyncio.CancelledError, RedisUnavailable]
    assert told[0] is not told[2]  # each its own: a raised one carries where it was raised
    turns.give_back(1)
    await turns.take(1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await turns.take(1)
    turns.give_back(1)
    await turns.take(1)  # who timed out has none
