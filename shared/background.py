"""Coroutines in, supervised tasks out: nothing that a process needs for ever ends unseen, no step fails in silence.

`forever` is for what the process cannot do without: whatever ends it is logged, and a policy follows, which is to end
the process so that a supervisor starts a fresh one. `step` is for what ends by itself: kept until then, and logged if
it fails.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, TypeVar

log = logging.getLogger("aqueduct.background")

T = TypeVar("T")
Policy = Callable[[], object]
"""What follows the end of something that was to run for ever; it was logged before."""


def exit_process() -> NoReturn:
    """End the process at once, its log written out first: neither `finally` nor `atexit` could be trusted any more."""
    logging.shutdown()
    os._exit(1)


class Background:
    """The tasks of one part of a process, held by a strong reference: the loop itself holds only weak ones."""

    def __init__(self, on_fault: Policy = exit_process) -> None:
        self._on_fault = on_fault
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def forever(self, coroutine: Coroutine[Any, Any, object], name: str) -> asyncio.Task[Any]:
        """Run what ends only when it is cancelled; an error, a return, or a stray cancellation in it is a fault."""
        return self._start(coroutine, name, self._forever_ended)

    def essential(self, coroutine: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Run what ends by itself but must never fail, such as a job: an error in it is a fault."""
        return self._start(coroutine, name, self._essential_ended)

    def step(self, coroutine: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Run what ends by itself and may fail: that is logged, and the process goes on."""
        return self._start(coroutine, name, self._step_ended)

    async def close(self) -> None:
        """Cancel all that still runs (the caller's own task apart), and wait until it has ended."""
        while tasks := self._tasks - {asyncio.current_task()}:  # what is cancelled may start a last step
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._tasks.difference_update(tasks)

    def _start(
        self, coroutine: Coroutine[Any, Any, T], name: str, ended: Callable[[asyncio.Task[Any]], None]
    ) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(ended)
        return task

    def _forever_ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelling():  # on purpose: how it ends is no matter
            self._tell(task)
        elif task.cancelled():  # a cancelled future that it awaited has ended it
            self._fault(task, "ended by a cancellation that was not meant for it")
        elif task.exception() is not None:
            self._fault(task, "failed")
        else:
            self._fault(task, "ended, though it was to run for ever")

    def _essential_ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelling():
            self._tell(task)
        elif not task.cancelled() and task.exception() is not None:
            self._fault(task, "failed")

    def _step_ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        self._tell(task)

    def _tell(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s: failed", task.get_name(), exc_info=error)

    def _fault(self, task: asyncio.Task[Any], what: str) -> None:
        error = None if task.cancelled() else task.exception()
        log.critical("%s: %s; the process cannot go on without it", task.get_name(), what, exc_info=error)
        self._on_fault()
