"""A client that is killed frees what it held, in each state of its job. Every part is a process of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from shared import keys
from tests.support.caller import Caller
from tests.support.models import model
from tests.support.processes import RedisServer
from tests.support.system import DemoBackend, System
from tests.support.waiting import wait_until

WITHIN_SECONDS = 1.0
MODELS = {
    "busy": model("tokens=1200&token_seconds=0.05", concurrency=1),
    "thinks": model("first_token_seconds=60&answer_seconds=60", concurrency=1),
    "talks": model("tokens=1200&token_seconds=0.05", concurrency=1),
    "other": model("tokens=2"),
}


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, module_redis: RedisServer, backend: DemoBackend
) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("system")
    with System(folder, redis_url=module_redis.url, backend_url=backend.url, models=MODELS) as running:
        yield running


def kill_and_see(caller: Caller, backend: DemoBackend, rooms: redis.Redis, model_name: str) -> None:
    """Kill the caller; the backend's connection must close and the slot must be free within a second."""
    left_at, began = time.time(), time.monotonic()
    caller.kill()
    wait_until(lambda: rooms.zcard(keys.running(model_name)) == 0, WITHIN_SECONDS, "the slot to be free")
    remaining = max(0.05, WITHIN_SECONDS - (time.monotonic() - began))

    def closed() -> float | None:
        return next((one["closed_at"] for one in backend.seen(caller.prompt) if one["closed_by_client"]), None)

    closed_at = wait_until(closed, remaining, "the backend's connection to close")
    assert closed_at is not None
    assert closed_at - left_at < WITHIN_SECONDS


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
def test_a_waiting_job_of_a_killed_client_never_reaches_the_backend(
    served: System, backend: DemoBackend, rooms: redis.Redis, tmp_path: Path, stream: bool
) -> None:
    blocker = Caller(served, tmp_path, "busy", f"blocker-{stream}", stream=True)
    try:
        wait_until(blocker.received, 10, "the blocker to run")
        waiting = Caller(served, tmp_path, "busy", f"waiting-{stream}", stream=stream)
        lane = keys.lane("default", "busy")
        wait_until(lambda: rooms.zcard(lane) == 1, 10, "the job to wait")
        waiting.kill()
        wait_until(lambda: rooms.zcard(lane) == 0, WITHIN_SECONDS, "the job to leave the room")
    finally:
        blocker.kill()
    wait_until(lambda: rooms.zcard(keys.running("busy")) == 0, 5, "the slot to be free")
    follower = Caller(served, tmp_path, "busy", f"follower-{stream}", stream=True)
    wait_until(follower.received, 10, "the next job to run")
    follower.kill()
    assert backend.seen(f"follower-{stream}")
    assert not backend.seen(waiting.prompt)


def test_a_job_that_runs_without_a_token_stops_with_its_client(
    served: System, backend: DemoBackend, rooms: redis.Redis, tmp_path: Path
) -> None:
    caller = Caller(served, tmp_path, "thinks", "before-the-first-token", stream=True)
    wait_until(lambda: backend.seen(caller.prompt), 10, "the backend to be called")
    assert caller.received() == ""
    kill_and_see(caller, backend, rooms, "thinks")


def test_a_stream_stops_with_its_client(
    served: System, backend: DemoBackend, rooms: redis.Redis, tmp_path: Path
) -> None:
    caller = Caller(served, tmp_path, "talks", "mid-stream", stream=True)
    wait_until(lambda: caller.received().count("data:") > 5, 10, "the stream to run")
    kill_and_see(caller, backend, rooms, "talks")


def test_a_plain_request_that_runs_stops_with_its_client(
    served: System, backend: DemoBackend, rooms: redis.Redis, tmp_path: Path
) -> None:
    caller = Caller(served, tmp_path, "thinks", "plain", stream=False)
    wait_until(lambda: backend.seen(caller.prompt), 10, "the backend to be called")
    kill_and_see(caller, backend, rooms, "thinks")


def test_killed_clients_leave_nothing_in_redis(
    served: System, backend: DemoBackend, rooms: redis.Redis, tmp_path: Path
) -> None:
    callers = [Caller(served, tmp_path, "talks", f"one-of-many-{number}", stream=True) for number in range(4)]
    waits = keys.PREFIXES["waits"] + "talks"
    wait_until(
        lambda: rooms.zcard(waits) == 3 and any(x.received() for x in callers), 10, "one to run and three to wait"
    )
    for caller in sorted(callers, key=lambda one: bool(one.received())):  # a freed slot would take the next
        caller.kill()
    wait_until(lambda: not rooms.exists(waits, keys.running("talks")), WITHIN_SECONDS, "room and slots to be empty")
    wait_until(
        lambda: not rooms.keys("aq2:owned:*") and not rooms.keys("aq2:body:*"), 5, "what the jobs held to be freed"
    )
    assert sum(bool(backend.seen(caller.prompt)) for caller in callers) == 1
