"""What must run for ever: its end is always logged and acted upon; what ends by itself is kept and its failure told."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NoReturn

import pytest

from shared.background import Background
from tests.support.asynchronous import asynchronous
from tests.support.processes import Process


async def fail() -> NoReturn:
    raise ValueError("broken")


async def end() -> None:
    """Return at once."""


async def await_cancelled_future() -> None:
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


@pytest.mark.parametrize(
    ("loop", "said"), [(fail, "failed"), (end, "ended, though"), (await_cancelled_future, "ended by a cancellation")]
)
@asynchronous
async def test_whatever_ends_a_loop_is_logged_and_acted_upon(
    caplog: pytest.LogCaptureFixture, loop: Callable[[], Coroutine[Any, Any, None]], said: str
) -> None:
    faults: list[str] = []
    background = Background(lambda: faults.append("fault"))
    await asyncio.wait([background.forever(loop(), "the heartbeat")])
    await asyncio.sleep(0)
    assert faults == ["fault"]
    (record,) = caplog.records
    assert record.levelno == logging.CRITICAL
    assert record.getMessage().startswith(f"the heartbeat: {said}")


@asynchronous
async def test_a_loop_that_is_cancelled_on_purpose_is_no_fault(caplog: pytest.LogCaptureFixture) -> None:
    faults: list[str] = []
    background = Background(lambda: faults.append("fault"))
    loop = background.forever(asyncio.Event().wait(), "waits")
    await asyncio.sleep(0)
    await background.close()
    assert loop.cancelled()
    assert not faults and not caplog.records


@asynchronous
async def test_what_must_not_fail_may_end(caplog: pytest.LogCaptureFixture) -> None:
    faults: list[str] = []
    background = Background(lambda: faults.append("fault"))
    await background.essential(end(), "a job")
    await asyncio.sleep(0)
    assert not faults
    await asyncio.wait([background.essential(fail(), "another job")])
    await asyncio.sleep(0)
    assert faults == ["fault"]
    assert "another job: failed" in caplog.text


@asynchronous
async def test_a_step_that_fails_is_logged_and_nothing_else_happens(caplog: pytest.LogCaptureFixture) -> None:
    faults: list[str] = []
    background = Background(lambda: faults.append("fault"))
    await asyncio.wait([background.step(fail(), "a release")])
    await asyncio.sleep(0)
    assert not faults
    assert "a release: failed" in caplog.text and "ValueError: broken" in caplog.text
    assert len(background) == 0


@asynchronous
async def test_a_step_that_nobody_else_holds_is_kept_until_it_ends() -> None:
    class Marker:
        """Can be watched by a weak reference."""

    ended: list[bool] = []

    def settle(watched: weakref.ref[asyncio.Future[None]]) -> None:
        if (future := watched()) is not None:
            future.set_result(None)

    async def step(held: Marker) -> None:
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.05, settle, weakref.ref(future))
        await future  # only this task holds the future, and only the future would hold this task
        ended.append(held is not None)

    background = Background()
    background.step(step(Marker()), "a release")
    await asyncio.sleep(0)
    gc.collect()
    async with asyncio.timeout(5):
        while not ended:
            await asyncio.sleep(0.01)
            assert len(background) or ended
    assert ended == [True]


@asynchronous
async def test_closing_waits_for_what_is_cancelled_and_for_its_last_step() -> None:
    ended: list[str] = []
    background = Background()

    async def last_words() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("step")

    async def loop() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            background.step(last_words(), "last words")
            await asyncio.sleep(0)
            ended.append("loop")

    background.forever(loop(), "loop")
    await asyncio.sleep(0)
    await background.close()
    assert sorted(ended) == ["loop", "step"]
    assert len(background) == 0


def test_a_fault_ends_the_process_after_its_log_was_written(tmp_path: Path) -> None:
    program = """
import asyncio, logging, logging.handlers, sys
from shared.background import Background

never_by_itself = logging.CRITICAL + 1
logging.getLogger().addHandler(
    logging.handlers.MemoryHandler(1000, never_by_itself, logging.StreamHandler(sys.stderr))
)

async def fail():
    raise ValueError("broken")

async def main():
    Background().forever(fail(), "the heartbeat")
    await asyncio.Event().wait()

asyncio.run(main())
"""
    with Process.python("-c", program, log_file=tmp_path / "log") as process:
        assert process.wait(20) == 1
        assert "the heartbeat: failed" in process.log()
        assert "ValueError: broken" in process.log()
