"""The whole path in real processes: the smallest proof that client, API, Redis, worker and backend fit together."""

from __future__ import annotations

from tests.conftest import MakeSystem
from tests.support.models import model
from tests.support.system import System

MESSAGES = [{"role": "user", "content": "Hello"}]


def test_answer_travels_from_the_backend_to_the_client(system: System) -> None:
    with system.client() as client:
        answer = client.post("/v1/chat/completions", json={"model": "echo", "messages": MESSAGES})
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"].startswith("Hello ")


def test_stream_travels_from_the_backend_to_the_client(system: System) -> None:
    with system.client() as client:
        answer = client.post("/v1/chat/completions", json={"model": "short", "stream": True, "messages": MESSAGES})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.endswith("data: [DONE]\n\n")


def test_system_of_a_tests_own_has_its_models_tokens_and_workers(make_system: MakeSystem) -> None:
    system = make_system(
        models={"first": model(), "second": model("tokens=1")},
        tokens={"narrow": {"models": ["second"]}},
        workers=[["first"], ["second"]],
    )
    assert len(system.workers) == 2
    with system.client(system.tokens["narrow"]) as client:
        assert [entry["id"] for entry in client.get("/v1/models").json()["data"]] == ["second"]
        allowed = client.post("/v1/chat/completions", json={"model": "second", "messages": MESSAGES})
        refused = client.post("/v1/chat/completions", json={"model": "first", "messages": MESSAGES})
    assert (allowed.status_code, refused.status_code) == (200, 404)
    system.stop()
    assert [worker.returncode for worker in system.workers] == [0, 0], system.logs()
