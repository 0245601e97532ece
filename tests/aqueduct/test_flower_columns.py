"""A task as workers tell of it, new ones and older ones, in; the row of Flower's tasks page out."""

from __future__ import annotations

from typing import Any

import pytest
from celery.events.state import State

from aqueduct.flower_view.columns import add_columns, as_shown, duration
from shared.broker import BATCH_TASK

add_columns()


def shown(kind: str, **fields: Any) -> dict[str, Any]:
    """Return the row of a task of which one event has come."""
    state: Any = State()  # which says nothing of its fields to type checkers
    state.event(
        {
            "type": kind, "uuid": "req_1", "name": "chat.completions:m", "hostname": "m-1", "timestamp": 1.0,
            "local_received": 1.0, "clock": 1, "utcoffset": 0, "pid": 1, **fields,
        }
    )  # fmt: skip
    row: dict[str, Any] = as_shown(state.tasks["req_1"]).as_dict()
    return {name: row[name] for name in ("lane", "tenant", "group", "waited", "tokens", "outcome")}


KWARGS = "{'lane': 'flex', 'tenant': 'a', 'group': 'g'}"


@pytest.mark.parametrize(
    ("kind", "fields", "row"),
    [
        (
            "task-succeeded",
            {"kwargs": KWARGS, "waited": 1500, "tokens": [12, 3], "result": "200 3 tokens"},
            ("flex", "a", "g", "1.5 s", "12 + 3", "200"),
        ),
        ("task-started", {"kwargs": KWARGS, "waited": 0}, ("flex", "a", "g", "0 ms", None, None)),
        (
            "task-failed",
            {"kwargs": KWARGS, "waited": 65_000, "exception": "429 queue_full"},
            ("flex", "a", "g", "1 m 05 s", None, "429 queue_full"),
        ),
        (
            "task-revoked",
            {"kwargs": KWARGS, "result": "ended by an operator"},
            ("flex", "a", "g", None, None, "ended by an operator"),
        ),
        (  # of a worker of an older version
            "task-succeeded",
            {"kwargs": "{'lane': 'default', 'tenant': 'a'}", "result": "200 3 tokens"},
            ("default", "a", None, None, None, "200"),
        ),
        (
            "task-started",
            {"name": BATCH_TASK, "kwargs": "{'progress': '1 completed, 0 failed of 3'}"},
            ("batch", None, None, None, None, "1 completed, 0 failed of 3"),
        ),
        (
            "task-succeeded",
            {
                "name": BATCH_TASK, "kwargs": "{'progress': '1 completed, 0 failed of 3'}",
                "result": "completed: 3 completed, 0 failed of 3",
            },
            ("batch", None, None, None, None, "completed: 3 completed, 0 failed of 3"),
        ),
        ("task-started", {"kwargs": "{'lane': "}, (None, None, None, None, None, None)),
        ("task-started", {"kwargs": "[1]"}, (None, None, None, None, None, None)),
        ("task-started", {"kwargs": "(" * 100_000}, (None, None, None, None, None, None)),
    ],
)  # fmt: skip
def test_each_kind_of_task_has_its_row(kind: str, fields: dict[str, Any], row: tuple[Any, ...]) -> None:
    assert tuple(shown(kind, **fields).values()) == row


def test_a_time_is_short_whatever_its_length() -> None:
    assert [duration(seconds) for seconds in (0.0004, 0.999, 1, 59.94, 60, 3599, 3600, 90_061)] == [
        *("0 ms", "999 ms", "1.0 s", "59.9 s", "1 m 00 s", "59 m 59 s", "1 h 00 m", "25 h 01 m"),
    ]
