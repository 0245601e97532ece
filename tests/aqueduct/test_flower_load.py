"""Flower's state under many events: what a search finds, and that each event is taken, in order."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from flower import events

from aqueduct.flower_view.load import _on_event, lighten
from tests.support.waiting import wait_until_async

lighten()


def an_event(number: int, kind: str = "task-succeeded", **fields: Any) -> dict[str, Any]:
    """Return what a worker tells."""
    return {
        "type": kind, "uuid": f"req_{number}", "name": "chat.completions:m", "hostname": "m-1", "utcoffset": 0,
        "pid": 1, "timestamp": 1.0 + number, "local_received": 1.0, "clock": number + 1,
        "kwargs": "{'tenant': 'alice'}", **fields,
    }  # fmt: skip


@pytest.fixture
def state() -> Any:
    made: Any = events.EventsState(max_tasks_in_memory=3)
    made.metrics = SimpleNamespace(observe_task=lambda *_: None)  # those of Prometheus can be made once a process
    return made


def found(events_state: Any, query: str = "", **more: Any) -> list[str]:
    """Return the ids of the tasks that a search finds, the newest first."""
    ids: list[str] = events_state.search_engine.search(events_state.tasks, query, **more).task_ids
    return ids


def test_a_search_finds_tasks_by_their_newest_state(state: Any) -> None:
    state.event(an_event(1, "task-started"))
    assert found(state, state="STARTED") == ["req_1"]
    state.event(an_event(1, result="200 7 tokens"))
    state.event(an_event(2, kwargs="{'tenant': 'bob'}"))
    assert found(state, state="STARTED") == []
    assert found(state, "kwargs:tenant=alice") == ["req_1"]
    assert found(state, "result:tokens") == ["req_1"]
    assert found(state, "tenant") == ["req_2", "req_1"]


def test_a_task_that_had_to_go_is_not_found(state: Any) -> None:
    state.event(an_event(1))
    assert found(state) == ["req_1"]
    for number in range(2, 6):
        state.event(an_event(number))
    assert found(state) == ["req_5", "req_4", "req_3"]


def test_events_are_taken_one_by_one_in_order_and_one_that_fails_holds_up_none() -> None:
    taken = list[int]()

    def take(event: dict[str, Any]) -> None:
        taken.append(event["number"])
        if event["number"] % 100 == 0:
            raise ValueError("not understood")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)
        woken = list[int]()

        def add_callback(callback: Any) -> None:
            woken.append(1)
            loop.call_soon_threadsafe(callback)

        flower = SimpleNamespace(io_loop=SimpleNamespace(add_callback=add_callback), state=SimpleNamespace(event=take))

        def send() -> None:
            for number in range(5000):
                _on_event(flower, {"number": number})

        sender = threading.Thread(target=send)
        sender.start()
        await asyncio.to_thread(sender.join)
        await wait_until_async(lambda: len(taken) == 5000, 20, "all events to be taken")
        assert len(woken) < 5000

    asyncio.run(asyncio.wait_for(main(), 30))
    assert taken == list(range(5000))
