"""`Gathering`: how long calls wait for company."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.virtual_time import in_virtual_time
from workers.gathering import Gathering
from workers.tuning import GATHER_CROWD, GATHER_SECONDS, GATHER_URGENT


async def busy(parts: int = 50) -> Gathering:
    """Return one that has seen many calls with so many parts, a millisecond or two apart."""
    gathering = Gathering()
    for _ in range(20):
        await asyncio.sleep(0.001)
        gathering.began(parts)
    return gathering


async def paused(gathering: Gathering) -> float:
    loop = asyncio.get_running_loop()
    begin = loop.time()
    await gathering.pause()
    return loop.time() - begin


@in_virtual_time
async def test_few_parts_wait_for_nothing() -> None:
    gathering = Gathering()
    for _ in range(5):
        await asyncio.sleep(0.005)  # 200 a second
        gathering.began(1)
    pause = gathering.pause()
    with pytest.raises(StopIteration):  # it ends without a turn of the loop
        pause.send(None)


@in_virtual_time
async def test_many_parts_wait_for_more() -> None:
    assert await paused(await busy()) >= GATHER_SECONDS * 0.9


@in_virtual_time
async def test_what_is_urgent_cuts_the_pause_short() -> None:
    gathering = await busy()
    loop = asyncio.get_running_loop()
    begin = loop.time()
    task = asyncio.create_task(gathering.pause())
    await asyncio.sleep(GATHER_SECONDS * GATHER_URGENT + 0.001)
    gathering.urge()
    await task
    assert loop.time() - begin < GATHER_SECONDS


@in_virtual_time
async def test_in_a_crowd_what_is_urgent_waits_for_its_like() -> None:
    gathering = await busy(GATHER_CROWD)
    gathering.urge()
    assert await paused(gathering) >= GATHER_SECONDS * GATHER_URGENT * 0.9


@in_virtual_time
async def test_without_a_crowd_what_is_urgent_waits_for_nothing() -> None:
    gathering = await busy(GATHER_CROWD - 1)
    gathering.urge()
    assert await paused(gathering) < 0.001


@in_virtual_time
async def test_a_pause_after_silence_is_none() -> None:
    gathering = await busy()
    await asyncio.sleep(0.05)
    for _ in range(16):  # what was busy is forgotten within a few calls
        await asyncio.sleep(0.01)
        gathering.began(1)
    assert await paused(gathering) < 0.001
