"""`Turns`: so many at once, so many bytes of them, in order; and nobody waits for what does not come."""

from __future__ import annotations

import asyncio

import pytest

from shared.redis import RedisUnavailable
from shared.redis.turns import Turns
from tests.support.asynchronous import asynchronous


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@asynchronous
async def test_turns_are_given_in_order_and_within_the_bounds() -> None:
    turns = Turns(3, 100)
    taken: list[str] = []

    async def take(name: str, size: int) -> None:
        await turns.take(size)
        taken.append(name)

    async with asyncio.TaskGroup() as group:
        for name, size in (("a", 60), ("b", 50), ("c", 10), ("giant", 500), ("d", 1), ("e", 1), ("f", 1)):
            group.create_task(take(name, size))
        await settle()
        assert taken == ["a"]  # c would fit, but b was first
        turns.give_back(60)
        await settle()
        assert taken == ["a", "b", "c"]
        turns.give_back(50)
        await settle()
        assert taken == ["a", "b", "c"]  # what is too large for all of it waits until it is alone
        turns.give_back(10)
        await settle()
        assert taken == ["a", "b", "c", "giant"]
        turns.give_back(500)
        await settle()
        assert taken == ["a", "b", "c", "giant", "d", "e", "f"]


@asynchronous
async def test_who_leaves_while_waiting_blocks_nobody() -> None:
    turns = Turns(4, 100)
    await turns.take(60)
    heavy = asyncio.create_task(turns.take(100))
    light = asyncio.create_task(turns.take(10))
    await settle()
    assert not light.done()
    heavy.cancel()
    await settle()
    assert light.done()


@asynchronous
async def test_a_turn_given_to_who_has_just_left_is_not_lost() -> None:
    turns = Turns(1, 100)
    await turns.take(1)
    leaving = asyncio.create_task(turns.take(1))
    await settle()
    turns.give_back(1)  # it is granted to the one who leaves before it can see that
    leaving.cancel()
    await settle()
    async with asyncio.timeout(1):
        await turns.take(1)


@asynchronous
async def test_all_who_wait_are_sent_away_and_later_ones_are_served() -> None:
    turns = Turns(1, 100)
    await turns.take(1)
    waiting = [asyncio.create_task(turns.take(1)) for _ in range(4)]
    await settle()
    waiting[1].cancel()
    turns.refuse(lambda: RedisUnavailable("away"))
    waiting[2].cancel()  # refused, and has not seen it yet: it never had a turn to give back
    told = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(one) for one in told] == [
        RedisUnavailable,
        asyncio.CancelledError,
        asyncio.CancelledError,
        RedisUnavailable,
    ]
    assert told[0] is not told[3]  # each its own: a raised one carries where it was raised
    for _ in range(2):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await turns.take(1)  # the one turn is still taken
    turns.give_back(1)
    await turns.take(1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await turns.take(1)
    turns.give_back(1)
    await turns.take(1)  # who timed out has none
