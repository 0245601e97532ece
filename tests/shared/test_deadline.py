"""The lazily re-armed timer: it expires once, in time, and putting it off costs no timer."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from contextlib import closing
from typing import Any

from shared.deadline import Deadline
from tests.support.asynchronous import asynchronous, on_each_loop

TICK = 0.002
"""The loops' clocks count in milliseconds, and are rounded."""


class Expiry:
    """Remembers that it was called; can be waited for."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._called = asyncio.Event()

    def __call__(self) -> None:
        self.times.append(asyncio.get_running_loop().time())
        self._called.set()

    async def wait(self, seconds: float = 5) -> None:
        async with asyncio.timeout(seconds):
            await self._called.wait()
        self._called.clear()


async def let_pass(seconds: float) -> None:
    """Let the loop's own clock pass this moment, timers due before it included."""
    passed = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, passed.set)
    await passed.wait()


@on_each_loop
async def test_it_expires_once_and_not_before_its_time() -> None:
    expiry = Expiry()
    deadline = Deadline(expiry)
    began = asyncio.get_running_loop().time()
    deadline.extend(0.1)
    await expiry.wait()
    assert expiry.times[0] - began >= 0.1 - TICK
    assert deadline.expired
    await let_pass(0.15)
    assert len(expiry.times) == 1


@on_each_loop
async def test_signs_of_life_put_it_off() -> None:
    expiry = Expiry()
    deadline = Deadline(expiry)
    loop = asyncio.get_running_loop()
    last = 0.0
    for _ in range(10):
        last = loop.time()
        deadline.extend(0.25)
        await let_pass(0.05)
    assert not expiry.times
    await expiry.wait()
    assert expiry.times[0] - last >= 0.25 - TICK


@on_each_loop
async def test_a_shorter_time_counts_at_once() -> None:
    expiry = Expiry()
    deadline = Deadline(expiry)
    deadline.extend(60)
    deadline.extend(0.05)
    await expiry.wait()
    assert deadline.expired


@on_each_loop
async def test_a_pause_lasts_until_the_next_sign_of_life() -> None:
    expiry = Expiry()
    deadline = Deadline(expiry)
    deadline.extend(0.05)
    deadline.pause()
    await let_pass(0.15)
    assert not deadline.expired
    deadline.extend(0.05)
    await expiry.wait()
    assert len(expiry.times) == 1


@on_each_loop
async def test_it_can_be_used_again_after_it_expired() -> None:
    expiry = Expiry()
    deadline = Deadline(expiry)
    for _ in range(3):
        deadline.extend(0.02)
        await expiry.wait()
    assert len(expiry.times) == 3


@on_each_loop
async def test_once_stopped_it_never_expires_and_holds_nothing() -> None:
    expiry = Expiry()
    deadline = Deadline(expiry)
    watched = weakref.ref(expiry)
    deadline.extend(0.05)
    deadline.stop()
    deadline.extend(0.05)
    await let_pass(0.15)
    assert not deadline.expired
    del expiry
    gc.collect()
    assert watched() is None


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts the timers that are set."""

    timers = 0

    def call_at(self, when: float, call: Callable[..., object], *args: Any, **more: Any) -> asyncio.TimerHandle:  # type: ignore[override]
        self.timers += 1
        return super().call_at(when, call, *args, **more)


def test_putting_it_off_sets_no_timer() -> None:
    async def extend_often(loop: CountingLoop) -> int:
        deadline = Deadline(Expiry())
        before = loop.timers
        for _ in range(10_000):
            deadline.extend(60)
            deadline.pause()
            deadline.extend(60)
        deadline.stop()
        return loop.timers - before

    with closing(CountingLoop()) as loop:
        assert loop.run_until_complete(extend_often(loop)) == 1


@asynchronous
async def test_no_time_at_all_expires_without_a_call_from_within() -> None:
    expiry = Expiry()
    deadline = Deadline(expiry)
    deadline.extend(-1)
    assert not expiry.times  # the callback never runs inside `extend`
    await expiry.wait()
