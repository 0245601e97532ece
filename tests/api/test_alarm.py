"""The timer that is put off all the time: it rings once, when the last moment that was set has passed."""

from __future__ import annotations

import asyncio

from api.alarm import NEVER, Alarm
from tests.support.asynchronous import asynchronous


class Bell:
    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.rung_at: list[float] = []
        self.alarm = Alarm(self.loop, lambda: self.rung_at.append(self.loop.time()))


@asynchronous
async def test_it_rings_once_when_the_moment_has_passed() -> None:
    bell = Bell()
    at = bell.loop.time() + 0.05
    bell.alarm.set(at)
    await asyncio.sleep(0.2)
    assert len(bell.rung_at) == 1
    assert bell.rung_at[0] >= at


@asynchronous
async def test_put_off_it_does_not_ring_early_and_set_sooner_not_late() -> None:
    bell = Bell()
    now = bell.loop.time()
    bell.alarm.set(now + 0.02)
    bell.alarm.set(now + 0.3)
    await asyncio.sleep(0.1)
    assert bell.rung_at == []
    bell.alarm.set(bell.loop.time() + 0.02)
    await asyncio.sleep(0.1)
    assert len(bell.rung_at) == 1
    await asyncio.sleep(0.2)
    assert len(bell.rung_at) == 1


@asynchronous
async def test_never_and_stop_are_silent_and_it_can_be_set_again() -> None:
    bell = Bell()
    bell.alarm.set(bell.loop.time() + 0.02)
    bell.alarm.set(NEVER)
    await asyncio.sleep(0.05)
    bell.alarm.set(bell.loop.time() + 0.02)
    bell.alarm.stop()
    await asyncio.sleep(0.05)
    assert bell.rung_at == []
    bell.alarm.set(bell.loop.time() + 0.02)
    await asyncio.sleep(0.1)
    assert len(bell.rung_at) == 1
