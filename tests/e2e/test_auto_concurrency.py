"""`concurrency: auto` over real processes: two workers find one backend's number together, and keep it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from shared import keys
from tests.support.chat import CHAT, chat_body
from tests.support.processes import ROOT, RedisServer
from tests.support.system import System
from tests.support.waiting import wait_until

KNEE = 4


class Curve:
    """A backend whose capacity has a knee, as a process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.url = f"http://127.0.0.1:{self._line()['port']}/v1"

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line: dict[str, Any] = json.loads(self._process.stdout.readline())
        return line

    def take(self) -> dict[str, Any]:
        """Return what it has done since the last time."""
        assert self._process.stdin is not None
        self._process.stdin.write(b'{"take": true}\n')
        self._process.stdin.flush()
        return self._line()


@contextmanager
def curve(**settings: float) -> Iterator[Curve]:
    command = [sys.executable, "-m", "benchmarks.curve_backend", json.dumps(settings)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield Curve(process)
        finally:
            process.terminate()


@contextmanager
def callers(system: System, count: int) -> Iterator[list[int]]:
    """Ask on and on; yields the statuses."""
    over, statuses = threading.Event(), list[int]()

    def ask() -> None:
        with httpx.Client(base_url=system.base_url, headers={"authorization": f"Bearer {system.token}"}) as client:
            while not over.is_set():
                answer = client.post(CHAT, json=chat_body("m", stream=True), timeout=60)
                statuses.append(answer.status_code if answer.text.rstrip().endswith("[DONE]") else 0)

    threads = [threading.Thread(target=ask) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_two_workers_find_one_number_and_a_restart_keeps_it(tmp_path: Path, own_redis: RedisServer) -> None:
    with (
        curve(knee=KNEE, tokens=6, first_seconds=0.05, speed=30) as backend,
        System(
            tmp_path, redis_url=own_redis.url, backend_url=backend.url, workers=((), ()),
            models={"m": {"concurrency": {"min": 1, "max": 16}, "backends": [{}]}},
        ) as system,
    ):  # fmt: skip

        def places() -> int:
            return int(own_redis.client().hget(keys.capacity("m"), "places") or 0)

        wait_until(lambda: places() == 1, 20, "a first number, though nobody asks for anything")
        with callers(system, 20) as statuses:
            wait_until(lambda: places() > 2 * KNEE - 1, 60, "growth past the knee")
            wait_until(lambda: 3 <= places() <= KNEE + 1, 60, "the way back to the knee")
        assert set(statuses) == {200}
        assert backend.take()["most"] <= 16, "never more than the range allows, over both workers"
        found = json.loads(own_redis.client().hget(keys.capacity("m"), "state") or b"{}")
        (one,) = found.values()
        assert one["counts"]["throughput still rises"] >= 2 and one["reason"], one
        kept = one["held"]
        for worker in system.workers:
            worker.stop()
        system.add_worker()
        wait_until(lambda: "ready" in system.workers[-1].log(), 30, "another worker")
        assert places() >= min(kept, 3), "what was found stays"
