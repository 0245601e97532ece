"""Flower over the running system: what operators see of requests, and what nobody may see or do there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import redis

from tests.conftest import MakeSystem
from tests.support.chat import CHAT, chat_body
from tests.support.models import model
from tests.support.processes import RedisServer, free_port
from tests.support.system import DemoBackend, System
from tests.support.waiting import wait_until

LOGIN = ("aqueduct", "correct-horse")
PROMPT = "a-prompt-that-must-stay-hidden"
MODELS = {
    "good": model("tokens=3"),
    "refuses": model("status=400&code=bad_thing&message=no"),
    "long": model("tokens=400&token_seconds=0.05"),
}


class View:
    """A running system and the Flower that looks at it."""

    def __init__(self, system: System, url: str) -> None:
        self.system = system
        self.url = url

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", auth=LOGIN, follow_redirects=True, timeout=10)

    def workers(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.get("/workers?json=1").json()["data"]
        return [row for row in rows if row["status"]]

    def task(self, request_id: str) -> dict[str, Any] | None:
        """Return one request as Flower's JSON API lists it."""
        found: dict[str, Any] | None = self.get("/api/tasks").json().get(request_id)
        return found

    def ended(self, request_id: str, state: str) -> dict[str, Any]:
        seen: list[Any] = [None]

        def reached() -> bool:
            seen[0] = self.task(request_id)
            return seen[0] is not None and seen[0]["state"] == state

        try:
            wait_until(reached, 10, f"Flower to show {state}", poll_seconds=0.1)
        except AssertionError as error:
            raise AssertionError(f"{error}; the task: {seen[0]}") from None
        task: dict[str, Any] = seen[0]
        return task


@pytest.fixture(scope="module")
def view(
    tmp_path_factory: pytest.TempPathFactory, module_redis: RedisServer, demo_backend: DemoBackend
) -> Iterator[View]:
    port = free_port()
    flower_settings = {"port": port, "user": LOGIN[0], "password": LOGIN[1]}
    system = System(
        tmp_path_factory.mktemp("flower-e2e"), redis_url=module_redis.url, backend_url=demo_backend.url, models=MODELS,
        settings={"flower": flower_settings}, workers=[["good", "refuses"], ["long"]],
    )  # fmt: skip
    system.write_config()
    with system.command("flower") as flower, system:
        wait_until(lambda: "aqueduct.flower ready" in flower.log() or not flower.running, 30, "Flower to listen")
        assert flower.running, flower.log()
        view = View(system, f"http://127.0.0.1:{port}")
        wait_until(lambda: len(view.workers()) == 2, 20, "Flower to see both workers", poll_seconds=0.1)
        yield view


def ask(view: View, name: str, *, stream: bool = False) -> httpx.Response:
    with view.system.client() as client:
        return client.post(CHAT, json=chat_body(name, PROMPT, stream=stream))


def leave_early(view: View, name: str) -> str:
    """Read the first chunk of a stream, close the connection, and return the request id."""
    body = chat_body(name, PROMPT, stream=True)
    with view.system.client() as client, client.stream("POST", CHAT, json=body) as answer:
        next(answer.iter_lines())
        return answer.headers["x-request-id"]


@pytest.mark.parametrize("stream", [False, True])
def test_answered_request_is_a_succeeded_task_under_its_request_id(view: View, stream: bool) -> None:
    answer = ask(view, "good", stream=stream)
    assert answer.status_code == 200
    task = view.ended(answer.headers["x-request-id"], "SUCCESS")
    assert task["name"] == "chat.completions:good"
    assert task["routing_key"] == "aqueduct.good"
    assert task["result"] == "200 3 tokens"
    assert 0 < task["runtime"] < 10
    assert task["worker"].startswith("good+refuses-")


def test_every_kind_has_its_name_in_flower(view: View) -> None:
    with view.system.client() as client:
        answer = client.post("/v1/embeddings", json={"model": "good", "input": "a b"})
    assert answer.status_code == 200
    task = view.ended(answer.headers["x-request-id"], "SUCCESS")
    assert (task["name"], task["result"]) == ("embeddings:good", "200 0 tokens")


def test_refused_request_is_a_failed_task_with_status_and_code(view: View) -> None:
    answer = ask(view, "refuses")
    assert answer.status_code == 400
    task = view.ended(answer.headers["x-request-id"], "FAILURE")
    assert task["name"] == "chat.completions:refuses"
    assert task["exception"] == "400 bad_thing"


def test_request_whose_client_left_is_a_revoked_task(view: View) -> None:
    task = view.ended(leave_early(view, "long"), "REVOKED")
    assert task["name"] == "chat.completions:long"
    assert task["routing_key"] == "aqueduct.long"


def test_both_workers_are_online_under_the_names_of_their_models(view: View) -> None:
    names = sorted(row["hostname"] for row in view.workers())
    assert names[0].startswith("good+refuses-")
    assert names[1].startswith("long-")


def test_arguments_say_model_lane_and_tenant_and_never_a_prompt(view: View) -> None:
    request_id = ask(view, "good").headers["x-request-id"]
    task = view.ended(request_id, "SUCCESS")
    assert task["args"] == "('good',)"
    assert task["kwargs"] == "{'lane': 'default', 'tenant': 'test'}"
    for path in ("/api/tasks", f"/api/task/info/{request_id}", f"/task/{request_id}", "/tasks", "/workers", "/broker"):
        page = view.get(path)
        assert page.status_code == 200, path
        assert PROMPT not in page.text, path


def test_job_events_can_be_turned_off(make_system: MakeSystem) -> None:
    system = make_system(models={"demo": model("tokens=2")}, settings={"worker": {"job_events": False}})
    with redis.Redis.from_url(system.redis_url) as client, client.pubsub() as heard, system.client() as caller:
        heard.psubscribe("/0.celeryev/*")
        assert caller.post(CHAT, json=chat_body("demo")).status_code == 200
        topics = set()
        ends_at = time.monotonic() + 2.5  # a heartbeat comes every two seconds, job events twice a second
        while time.monotonic() < ends_at:
            message = heard.get_message(timeout=0.2)
            if message and message["type"] == "pmessage":
                topics.add(message["channel"])
    assert topics == {b"/0.celeryev/worker.heartbeat"}


def test_tickets_are_no_tasks(view: View) -> None:
    view.ended(ask(view, "good").headers["x-request-id"], "SUCCESS")
    names = {task["name"] for task in view.get("/api/tasks").json().values()}
    assert names
    assert all(name.startswith(("chat.completions:", "embeddings:")) for name in names), names


def test_nothing_is_shown_without_the_login(view: View) -> None:
    request_id = ask(view, "good").headers["x-request-id"]
    for path in ("/", "/tasks", f"/task/{request_id}", "/workers", "/api/tasks", "/api/workers"):
        assert httpx.get(f"{view.url}{path}").status_code == 401, path


@pytest.mark.parametrize(
    "path",
    [
        "/api/task/apply/aqueduct.ticket",
        "/api/task/async-apply/aqueduct.ticket",
        "/api/task/send-task/aqueduct.ticket",
        "/api/task/abort/some-id",
        "/api/task/revoke/some-id",
        "/api/task/rate-limit/some-worker",
        "/api/task/timeout/some-worker",
        "/api/worker/shutdown/{worker}",
        "/api/worker/pool/restart/{worker}",
        "/api/worker/pool/grow/{worker}",
        "/api/worker/pool/shrink/{worker}",
        "/api/worker/pool/autoscale/{worker}",
        "/api/worker/queue/add-consumer/{worker}",
        "/api/worker/queue/cancel-consumer/{worker}",
    ],
)
def test_whoever_is_logged_in_can_look_and_not_touch(view: View, path: str) -> None:
    worker = view.workers()[0]["hostname"]
    answer = httpx.post(f"{view.url}{path.format(worker=worker)}", auth=LOGIN, json={"args": ["good"]}, timeout=10)
    assert answer.status_code == 403, answer.text
    assert len(view.workers()) == 2
