"""An operator's changes to requests through the whole gateway: each backend its own, by lane and by token."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import MakeSystem
from tests.support.chat import CHAT, chat_body
from tests.support.system import DemoBackend

OBJECTIVE = "x-llm-d-inference-objective"
TWO: dict[str, Any] = {
    "parameters": {"removed": ["user"]},
    "backends": [
        {"model": "demo?status=503&fail_times=9", "parameters": {"forced": {"top_k": 1}}},
        {
            "model": "demo?tokens=4",
            "parameters": {"defaults": {"top_k": 2}, "forced": {"seed": 7}},
            "by_lane": {"batch": {"parameters": {"priority": 10}, "headers": {OBJECTIVE: "sheddable"}}},
            "forward": {"token_name": "x-tenant"},
            "weight": 0,
        },
    ],
}


@pytest.mark.parametrize("stream", [False, True])
def test_each_backend_that_is_tried_gets_its_own_changes(
    make_system: MakeSystem, demo_backend: DemoBackend, stream: bool
) -> None:
    system = make_system(models={"two": TWO}, tokens={"night": {"lane": "batch"}})
    demo_backend.clear()
    prompts = ("night", "test")
    for name in prompts:
        with system.client(system.tokens[name]) as client:
            body = {**chat_body("two", name, stream=stream), "user": "u", "seed": 1, "top_p": 0.5}
            assert client.post(CHAT, json=body).status_code == 200
    for name in prompts:
        *failed, answered = demo_backend.seen(name)
        assert failed
        assert all(one["body"]["top_k"] == 1 and one["body"]["seed"] == 1 for one in failed)
        assert "x-tenant" not in failed[0]["headers"]
        told = {key: answered["body"].get(key) for key in ("top_k", "seed", "top_p", "user", "priority")}
        wanted = {"top_k": 2, "seed": 7, "top_p": 0.5, "user": None, "priority": 10 if name == "night" else None}
        assert told == wanted
        assert answered["headers"]["x-tenant"] == name
        assert answered["headers"].get(OBJECTIVE) == ("sheddable" if name == "night" else None)
        assert system.tokens[name] not in str(answered)
