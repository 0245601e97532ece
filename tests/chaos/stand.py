"""The system under test: two API processes, two workers, two backends, one Redis; and questions to it afterwards."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from shared import keys
from tests.chaos.load import TOKENS_OF
from tests.support.chat import prompt_of
from tests.support.fallback import Failover
from tests.support.keys import ALLOWED_WITHOUT_LIFETIME, keys_without_lifetime
from tests.support.processes import Process, RedisServer, free_port
from tests.support.system import DemoBackend, System
from tests.support.waiting import wait_until

TOKEN_SECONDS = {"talk": 0.08, "quick": 0.02}
MARKED = "prefix=1&call_marks=1"
"""Answers begin with the request's marker, and each of their numbers bears the mark of its call."""
CONCURRENCY = {"talk": 32, "quick": 8}


class Backend(DemoBackend):
    """A demo backend on a port of its own, to kill and start again."""

    def __init__(self, folder: Path, name: str, *, record: bool = True) -> None:
        self.root = f"http://127.0.0.1:{free_port()}"
        port = self.root.rpartition(":")[2]
        options = ("--record",) if record else ()
        self._process = Process.python(
            "-m", "aqueduct.demo", "--port", port, *options, log_file=folder / f"backend-{name}.log"
        )

    def start(self) -> Backend:
        """Start it and wait until it answers."""
        self._process.start()
        wait_until(self._answers, 20, "the backend to listen")
        return self

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.root}/v1/health", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    def calls(self) -> Counter[str]:
        """Return how often it was asked for each marker."""
        return Counter(prompt_of(record) for record in self.requests())


@dataclass(frozen=True, slots=True)
class Episode:
    """One time that the system was harmed; the harness has undone what it does undo at `healed_at`."""

    began_at: float
    healed_at: float


class Gateway(System):
    """A system with two API processes."""

    second_api: Process
    second_port = 0

    def start(self) -> Gateway:
        """Start all processes and wait until both API processes are ready."""
        self.write_config()
        self.start_api()
        self.start_second_api()
        for models in self._worker_models:
            self.add_worker(*models)
        self.wait_ready()
        self.wait_second_ready()
        return self

    def start_second_api(self) -> None:
        """Start the other API process, on its former port if it had one."""
        self.second_port = self.second_port or free_port()
        self.second_api = self.command("api", "--port", str(self.second_port), name="api-2").start()

    def wait_second_ready(self) -> None:
        """Wait until the other API process serves."""
        wait_until(self._second_is_ready, 30, "the second API process to be ready")

    def _second_is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.urls[1]}/readyz", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    @property
    def urls(self) -> list[str]:
        """Where the two API processes are."""
        return [self.base_url, f"http://127.0.0.1:{self.second_port}"]

    def stop(self) -> None:
        """End everything."""
        if self.second_port:
            self.second_api.stop()
        super().stop()


class Stand:
    """Everything that a fault may harm; whoever starts it stops it."""

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], model_settings: Mapping[str, Any], *, replicated: bool = False
    ) -> None:
        """Take further settings; `replicated` puts a line in front of Redis, and a replica beside it."""
        self.servers = Failover(folder / "redis") if replicated else None
        self._redis = RedisServer(folder / "redis")
        self.backends = [Backend(folder, name) for name in ("one", "two")]
        self.episodes: list[Episode] = []
        self.calls: Counter[str] = Counter()
        """Backend calls a marker that are no longer in a backend's record, as it was killed."""
        self.exits: list[str] = []
        """Processes that ended though nobody had asked them to, or badly."""
        self.slowest_orphan_seconds = 0.0
        self._folder = folder
        self._settings = dict(settings)
        self._model_settings = dict(model_settings)
        self.system: Gateway

    @property
    def redis(self) -> RedisServer:
        """The Redis that is in charge."""
        return self._redis if self.servers is None else self.servers.master

    def start(self) -> None:
        """Start all."""
        (self.servers or self._redis).start()
        for backend in self.backends:
            backend.start()
        models = {
            name: {
                "concurrency": CONCURRENCY[name], "max_wait_seconds": 90, "timeout_seconds": 60, **self._model_settings,
                "backends": [
                    {"url": one.url, "model": f"demo?{MARKED}&tokens={tokens}&token_seconds={TOKEN_SECONDS[name]}"}
                    for one in self.backends
                ],
            }
            for name, tokens in TOKENS_OF.items()
        }  # fmt: skip
        self.system = Gateway(
            self._folder / "system", redis_url=(self.servers or self._redis).url,
            backend_url=self.backends[0].url, models=models,
            settings=self._settings, workers=[(), ()],
        )  # fmt: skip
        self.system.start()

    def forget(self) -> None:
        """Begin a new account, for the next fault."""
        self.episodes.clear()
        self.calls.clear()
        self.exits.clear()
        self.slowest_orphan_seconds = 0.0
        for backend in self.backends:
            backend.clear()

    def stop(self) -> None:
        """Stop all that runs."""
        with suppress(ProcessLookupError):
            self.redis.thaw()
        if hasattr(self, "system"):
            self.system.stop()
        for backend in self.backends:
            backend.stop()
        (self.servers or self._redis).stop()

    # --- harm -------------------------------------------------------------------------------------------------

    def note(self, began_at: float, healed_at: float | None = None) -> None:
        """Remember one harm; without `healed_at` the system is left to itself."""
        self.episodes.append(Episode(began_at, began_at if healed_at is None else healed_at))

    def replace_worker(self, worker: Process) -> None:
        """Start another worker in the place of one that has ended, as a supervisor does."""
        self.system.workers.remove(worker)
        self.system.add_worker()

    def keep_calls(self, backend: Backend) -> None:
        """Copy a backend's record before it is killed; what comes in between is not counted."""
        self.calls.update(backend.calls())

    # --- afterwards -------------------------------------------------------------------------------------------

    def all_calls(self) -> Counter[str]:
        """Return how often the backends were asked for each marker."""
        counted = Counter(self.calls)
        for backend in self.backends:
            counted.update(backend.calls())
        return counted

    def leaked_slots(self, within_seconds: float = 15) -> int:
        """Wait for every slot and place in a queue to be free; returns how many are not."""
        deadline = time.monotonic() + within_seconds
        with self.redis.client() as client:
            while True:
                held = sum(self._held(client, model) for model in TOKENS_OF)
                held += sum(backend.state()["open_requests"] for backend in self.backends)
                if not held or time.monotonic() > deadline:
                    return held
                time.sleep(0.1)

    @staticmethod
    def _held(client: Any, model: str) -> int:
        lanes = (keys.lane(lane, model) for lane in ("priority", "default", "flex", "batch"))
        sets = (keys.running(model), keys.PREFIXES["waits"] + model, *lanes)
        return sum(int(client.zcard(name)) for name in sets) + int(client.hlen(keys.PREFIXES["tenants"] + model))

    def leaked_keys(self) -> list[str]:
        """Return the keys that nobody would ever free."""
        allowed = (*ALLOWED_WITHOUT_LIFETIME, *keys.WITHOUT_LIFETIME, r"_kombu\.binding_.*")
        with self.redis.client() as client:
            return keys_without_lifetime(client, allowed)

    def unexpected_exits(self) -> list[str]:
        """Return the processes that have ended."""
        system = self.system
        alive = {"api-1": system.api, "api-2": system.second_api}
        alive |= {f"worker {worker.pid}": worker for worker in system.workers}
        ended = [
            f"{name} exited {one.returncode}" for name, one in alive.items() if one is not None and not one.running
        ]
        return [*self.exits, *ended]
