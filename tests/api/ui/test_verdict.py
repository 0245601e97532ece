"""What a model's figures come to in a sentence."""

from __future__ import annotations

from typing import Any

import pytest

from api.ui.verdict import verdict
from shared.metrics.history import Calls, Span
from shared.room.upkeep import Depth
from shared.settings import ModelSettings

QUIET: dict[str, int] = {}


def told(new: dict[str, int] | None = None, calls: dict[str, Calls] | None = None, **more: Any) -> tuple[str, str, str]:
    settings = {name: more.pop(name) for name in list(more) if name in ModelSettings.model_fields}
    waiting = {"priority": 0, "default": 0, "flex": 0, "batch": 0, **more.pop("waiting", {})}
    none = {"running": 0, "workers": 1, "oldest_ms": 0, "oldest_request_ms": 0, "ends": 0}
    depth = Depth(**{"waiting": waiting, **none, **more})
    model = ModelSettings.model_validate({"backends": [{"url": "http://127.0.0.1:1/v1"}], **settings})
    return verdict(model, depth, 4, Span(300, new or {}), calls)


@pytest.mark.parametrize(
    ("given", "kind", "word", "part"),
    [
        ({}, "", "idle", "nothing waits"),
        ({"running": 2}, "good", "well", "2 of 4 slots"),
        ({"state": "paused", "running": 1, "waiting": {"flex": 3}}, "warn", "paused", "1 request still runs, 3 wait"),
        ({"state": "draining", "running": 2}, "warn", "draining", "2 requests still run"),
        ({"state": "draining"}, "warn", "drained", "Nothing runs"),
        ({"state": "retired"}, "warn", "retired", "refused"),
        ({"workers": 0}, "bad", "no worker", "503"),
        ({"workers": 0, "when_absent": "hold", "waiting": {"default": 1}}, "warn", "no worker", "1 wait until"),
        ({"workers": 0, "when_absent": "hold"}, "", "asleep", "waits until one does"),
        ({"held": "starting"}, "", "asleep", "wakes it"),
        ({"held": "starting", "waiting": {"default": 1}}, "warn", "starting", "1 wait until"),
        ({"held": "backend"}, "warn", "backends held", "Operators hold all"),
        ({"held": "new-word"}, "warn", "held", "new-word"),
        (
            {"running": 4, "ends": 30, "oldest_ms": 9000, "waiting": {"default": 5}},
            "good", "busy",
            "All 4 slots are busy. 5 requests wait, the oldest for 9.0 s. At 30 ends a minute the last of them begins "
            "in about 10 s.",
        ),
        (
            {"running": 4, "oldest_ms": 31_000, "oldest_request_ms": 31_000, "waiting": {"default": 1}},
            "warn", "busy", "1 request waits",
        ),
        ({"running": 4, "oldest_ms": 9e6, "waiting": {"batch": 9}}, "good", "busy", "9 requests wait"),
        (  # a line of a batch that is old is no reason to worry about who has only just come
            {"running": 4, "oldest_ms": 9e6, "oldest_request_ms": 900, "waiting": {"batch": 9, "default": 1}},
            "good", "busy", "10 requests wait",
        ),
        ({"waiting": {"batch": 2}}, "good", "waiting", "though slots are free: batch work is outside its hours"),
        ({"waiting": {"default": 2}, "new": {"htenant": 3}}, "good", "waiting", "may have no more running"),
        ({"new": {"q200": 97, "q503 no_worker": 3}}, "", "idle", ""),
        ({"new": {"q200": 19, "q500": 1}}, "", "idle", ""),
        (
            {"new": {"q200": 10, "q429 rate_limit_exceeded": 50, "q503 no_worker": 4, "q504 queue_timeout": 9}},
            "bad", "failing", "13 of 73 requests failed in the last minutes, most with 504 queue_timeout",
        ),
        (
            {"calls": {"a:1": Calls(10, 0, {}, 1, 1), "b:2": Calls(10, 5, {}, 1, 1)}},
            "warn", "backend fails", "b:2 failed 5 of 10 calls",
        ),
    ],
)  # fmt: skip
def test_the_worst_is_told(given: dict[str, Any], kind: str, word: str, part: str) -> None:
    found = told(**given)
    assert found[:2] == (kind, word)
    assert part in found[2]
