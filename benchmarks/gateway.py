"""The gateway's processes during a benchmark: `aqueduct up`, or each by itself; metered under their parts' names.

`api`, `worker` and `flower` stand for all processes of that part; `up` for the supervisor alone.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from benchmarks.meters import Meter
from benchmarks.processes import BenchmarkError, Child, fetch, wait_for

PARTS = ("api", "worker", "flower")
START_SECONDS = 60


class Gateway:
    """One gateway; `stop` ends it."""

    def __init__(self, folder: Path, meter: Meter, config: Path, port: int) -> None:
        self._folder = folder
        self._meter = meter
        self._config = config
        self._port = port
        self._children: list[Child] = []
        self._workers: list[Child] = []

    def start_up(self, *, api_processes: int, more_workers: int, flower_port: int | None) -> None:
        """Start `aqueduct up`, and wait until it serves every model; without a port Flower does not run."""
        options = ["--port", str(self._port), "--api-processes", str(api_processes)]
        options += [] if flower_port else ["--no-flower"]
        up = self._start("up", *options)
        self._wait_until_served()
        if flower_port:
            wait_for([up], f"http://127.0.0.1:{flower_port}/healthcheck", seconds=START_SECONDS)
        self._meter.add("up", up.pid, alone=True)
        for child in psutil.Process(up.pid).children():
            words = child.cmdline()
            part = words[words.index("aqueduct") + 1] if "aqueduct" in words else ""
            if part in PARTS:
                self._meter.add(part, child.pid)
        for number in range(more_workers):
            self._add_worker((), f"more-worker-{number + 1}")
        self._wait_for_workers()

    def start_parts(self, worker_models: Sequence[Sequence[str]], *, flower_port: int | None) -> None:
        """Start an API, a worker for each set of models (an empty one: for all), and Flower."""
        self._meter.add("api", self._start("api", "--port", str(self._port)).pid)
        for index, models in enumerate(worker_models):
            self._add_worker(models, "worker" if not index else f"worker-{index + 1}")
        if flower_port:
            flower = self._start("flower", "--port", str(flower_port))
            self._meter.add("flower", flower.pid)
            wait_for([flower], f"http://127.0.0.1:{flower_port}/healthcheck", seconds=START_SECONDS)
        self._wait_until_served()
        self._wait_for_workers()

    def stop(self) -> None:
        """End all of it."""
        for name in (*PARTS, "up"):
            self._meter.remove(name)
        for child in reversed(self._children):
            child.stop(timeout_seconds=15)
        self._children.clear()
        self._workers.clear()

    def _add_worker(self, models: Sequence[str], name: str) -> None:
        worker = self._start("worker", *models, name=name)
        self._meter.add("worker", worker.pid)
        self._workers.append(worker)

    def _wait_for_workers(self) -> None:
        """Wait until those that were started by themselves say that they are ready: `/readyz` looks at models only."""
        deadline = time.monotonic() + START_SECONDS
        for worker in self._workers:
            while not re.search(rf"aqueduct\.worker ready .*pid={worker.pid}\b", worker.log_file.read_text()):
                if not worker.running or time.monotonic() > deadline:
                    raise BenchmarkError(f"a worker is not ready:\n{worker.log_tail()}")
                time.sleep(0.05)

    def _start(self, command: str, *arguments: str, name: str = "") -> Child:
        log_file = self._folder / f"{name or command}.log"
        child = Child.python("aqueduct", command, *arguments, "--config", self._config, log_file=log_file)
        self._children.append(child)
        return child

    def _wait_until_served(self) -> None:
        url = f"http://127.0.0.1:{self._port}/readyz"
        wait_for(self._children, url, seconds=START_SECONDS)
        deadline = time.monotonic() + START_SECONDS
        while json.loads(fetch(url)[1] or b'{"unserved": true}')["unserved"]:  # ready with one model that is served
            if time.monotonic() > deadline:
                raise BenchmarkError(f"{url}: a model has no worker:\n{self._children[0].log_tail()}")
            time.sleep(0.05)
