"""Flower beside a busy gateway: what it does for each event, it does for many at once, or not before somebody looks.

As it comes, Flower wakes its loop for each event and puts each task into the index of its search again with every event
of it: more than half of what a task costs it. On a small machine that time is the gateway's.
"""

from __future__ import annotations

from collections import deque
from typing import Any


def lighten() -> None:
    """Have Flower take events by the batch, and index tasks when somebody searches."""
    from flower import events  # noqa: PLC0415 - keeps `--help` fast

    events.TaskSearchEngine = _engine(events.TaskSearchEngine)
    events.Events.on_event = _on_event


def _on_event(flower: Any, event: dict[str, Any]) -> None:
    """Take an event on the thread that receives; the loop is woken for the first of those that wait."""
    waiting: deque[dict[str, Any]] = flower.__dict__.setdefault("waiting", deque())

    def hand_over() -> None:
        try:
            while waiting:
                flower.state.event(waiting.popleft())
        finally:
            if waiting:  # one could not be understood, which the loop logs
                flower.io_loop.add_callback(hand_over)

    waiting.append(event)
    if len(waiting) == 1:  # else the loop is at them, or will be: it does not leave while any are there
        flower.io_loop.add_callback(hand_over)


def _engine(base: Any) -> Any:
    class Engine(base):  # type: ignore[misc]
        """Indexes tasks when they are searched: of thousands that come and go meanwhile, none."""

        def __init__(self) -> None:
            super().__init__()
            self._waiting: dict[str, Any] = {}

        def rebuild(self, tasks: Any) -> None:
            self._waiting.clear()
            super().rebuild(tasks)

        def upsert(self, task: Any) -> None:
            self._waiting[task.uuid] = task

        def remove(self, task_id: str) -> None:
            self._waiting.pop(task_id, None)
            super().remove(task_id)

        def search(self, *given: Any, **more: Any) -> Any:
            waiting, self._waiting = self._waiting, {}
            for task in waiting.values():
                super().upsert(task)
            return super().search(*given, **more)

    return Engine
