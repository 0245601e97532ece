"""Tests that are coroutines: `@asynchronous` runs one on an event loop of its own, `@on_each_loop` on either kind."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

import pytest
import uvloop

P = ParamSpec("P")

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def asynchronous(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Return the test as a plain function; its fixtures stay the same."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


def on_each_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Return the test as two plain ones, under asyncio's own loop and under uvloop, which fail in different ways."""

    @functools.wraps(test)
    def run(*args: Any, loop_kind: str, **kwargs: Any) -> None:
        with asyncio.Runner(loop_factory=LOOPS[loop_kind]) as runner:
            runner.run(test(*args, **kwargs))

    given = inspect.signature(test)
    kind = inspect.Parameter("loop_kind", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = given.replace(parameters=[*given.parameters.values(), kind])  # type: ignore[attr-defined]
    both: Callable[..., None] = pytest.mark.parametrize("loop_kind", LOOPS)(run)
    return both
