"""Places for what is large: how many are held, in which order, and what a hog is left."""

from __future__ import annotations

import asyncio

from shared.places import Place, Places
from tests.support.asynchronous import asynchronous


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@asynchronous
async def test_so_many_are_held_and_others_wait_in_order() -> None:
    places, got = Places(2), list[str]()

    async def want(name: str) -> Place:
        place = await places.take(name)
        got.append(name)
        return place

    tasks = [asyncio.create_task(want(name)) for name in "abcd"]
    await settled()
    assert got == ["a", "b"]
    tasks[2].cancel()
    first = await tasks[0]
    first.give_back()
    first.give_back()
    await settled()
    assert (got, places.waiting) == (["a", "b", "d"], 0)


@asynchronous
async def test_whoever_holds_all_others_waits_for_the_last() -> None:
    places = Places(3)
    held = [await places.take("hog") for _ in range(2)]
    third = asyncio.create_task(places.take("hog"))
    await settled()
    assert not third.done()
    (await places.take("other")).give_back()
    await settled()
    assert not third.done()
    held[0].give_back()
    (await third).give_back()
    alone = Places(1)
    (await alone.take("hog")).give_back()


@asynchronous
async def test_a_place_given_to_who_leaves_at_that_moment_is_given_on() -> None:
    places = Places(1)
    place = await places.take("a")
    leaves, waits = asyncio.create_task(places.take("b")), asyncio.create_task(places.take("c"))
    await settled()
    place.give_back()
    leaves.cancel()
    (await waits).give_back()
    (await places.take("a")).give_back()
