"""Wait for a condition instead of sleeping: `wait_until(condition, timeout_seconds, what)`."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")

_POLL_SECONDS = 0.02


def wait_until(
    condition: Callable[[], T],
    timeout_seconds: float = 10,
    what: str = "the condition",
    *,
    poll_seconds: float = _POLL_SECONDS,
) -> T:
    """Call `condition` until its answer is truthy and return that answer.

    Raises:
        AssertionError: it was not within the time; the message shows the last answer.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        seen = condition()
        if seen:
            return seen
        if time.monotonic() >= deadline:
            raise AssertionError(_message(what, timeout_seconds, seen))
        time.sleep(poll_seconds)


@overload
async def wait_until_async(
    condition: Callable[[], Awaitable[T]], timeout_seconds: float = 10, what: str = ..., *, poll_seconds: float = ...
) -> T: ...
@overload
async def wait_until_async(
    condition: Callable[[], T], timeout_seconds: float = 10, what: str = ..., *, poll_seconds: float = ...
) -> T: ...
async def wait_until_async(
    condition: Callable[[], Any],
    timeout_seconds: float = 10,
    what: str = "the condition",
    *,
    poll_seconds: float = _POLL_SECONDS,
) -> Any:
    """As `wait_until`, without holding up the event loop; the condition may be one to await."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        answer = condition()
        seen = await answer if inspect.isawaitable(answer) else answer
        if seen:
            return seen
        if time.monotonic() >= deadline:
            raise AssertionError(_message(what, timeout_seconds, seen))
        await asyncio.sleep(poll_seconds)


def _message(what: str, timeout_seconds: float, seen: object) -> str:
    return f"waited {timeout_seconds:g} s for {what}; last seen: {seen!r:.2000}"
