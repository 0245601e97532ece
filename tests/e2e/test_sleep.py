"""Models whose backends may be away: what waits, who wakes them, how they are fed, and how they are put to sleep."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.calls import Call
from tests.support.models import model
from tests.support.processes import RedisServer, free_port
from tests.support.receiver import Receiver
from tests.support.system import DemoBackend, System

AWAY_SECONDS = 6.0
REQUESTS = 60
CONCURRENCY = 8
FAST = {"testing": {"renew_seconds": 0.5, "sweep_seconds": 0.5}}


class Site:
    """A gateway whose backend is not there until `wake`, and a receiver of hooks."""

    def __init__(self, folder: Path, redis_url: str, **settings: Any) -> None:
        self.folder = folder
        self.port = free_port()
        self.hooks = Receiver().open()
        self.backend = DemoBackend(folder, self.port)
        made = {"when_absent": "hold", "concurrency": CONCURRENCY, "max_wait_seconds": 60, **settings}
        if made.pop("is_woken", True):
            made["wake"] = {"url": self.hooks.url, "headers": {"x-key": "${HOOK_KEY}"}, "body": '{"replicas": 1}'}
        self.system = System(
            folder,
            redis_url=redis_url,
            backend_url=f"http://127.0.0.1:{self.port}/v1",
            models={"sleepy": model("tokens=4&token_seconds=0.02", **made)},
            workers=[(), ()],
            worker_environment={"HOOK_KEY": "only-of-workers"},
            settings={**FAST, "api": {"keep_alive_seconds": 0.4}},
        )

    def __enter__(self) -> Site:
        self.system.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.system.stop()
        self.backend.stop()
        self.hooks.close()

    def status(self, call: Call) -> dict[str, Any]:
        """Return what `GET /requests/{id}` says of a call."""
        with self.system.client() as client:
            answer: dict[str, Any] = client.get(f"/requests/{call.request_id}").raise_for_status().json()
        return answer


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as server:
        yield server


def test_what_comes_while_no_backend_is_there_waits_for_it_and_one_hook_wakes_it(
    tmp_path: Path, module_redis: RedisServer
) -> None:
    with Site(tmp_path, module_redis.url) as site:
        calls = [Call(site.system, "sleepy", f"c{number}", stream=number % 2 == 0) for number in range(REQUESTS)]
        (hook,) = site.hooks.wait(1, 10)
        assert (hook.headers["x-key"], hook.body) == ("only-of-workers", b'{"replicas": 1}')
        time.sleep(AWAY_SECONDS)
        assert not any(call.has_ended for call in calls)
        site.backend.start()
        for call in calls:
            call.wait(30).assert_complete(4)
        assert len(site.hooks.deliveries) == 1
        state = site.backend.state()
        assert state["total_requests"] == REQUESTS
        assert state["max_open_requests"] <= CONCURRENCY
