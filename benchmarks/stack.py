"""What runs during a benchmark: the backend, the gateway (`aqueduct up`), the peers, the load generator.

The gateway is what users get: `aqueduct up` with its request log into a file, job events, metrics and Flower. Only
where a measure needs another number of processes than that gives, they are started one by one.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
import yaml

from aqueduct.embedded_redis import EmbeddedRedis
from benchmarks.gateway import Gateway
from benchmarks.meters import Meter
from benchmarks.processes import Child, LoadGenerator, free_port
from shared.tokens import hash_token, new_token

MODELS = {
    "bench": "bench",
    "bench-20": "bench?token_seconds=0.05",  # 20 chunks a second
    "bench-2": "bench?token_seconds=0.5",
    "bench-100": "bench?token_seconds=0.01",
}
"""The public names, and what the backend is asked for."""


@dataclass(frozen=True, slots=True)
class Target:
    """Somewhere to send chat requests to."""

    name: str
    port: int
    token: str
    models: Mapping[str, str]
    """What this target calls each of `MODELS`."""
    processes: tuple[str, ...]
    """Names in the meter of the processes that serve it, without Flower and `aqueduct up` itself."""
    many_streams: bool = True
    """Whether it is worth asking for a thousand streams at a time."""

    def address(self) -> dict[str, Any]:
        """Return it as the load generator wants it."""
        return {"host": "127.0.0.1", "port": self.port, "path": "/v1", "token": self.token}


class Stack:
    """All processes of a run, as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stopping = contextlib.ExitStack()
        self._embedded = EmbeddedRedis(folder / "data")
        self._gateway: Gateway | None = None
        self.targets: list[Target] = []

    def __enter__(self) -> Stack:
        """Start the backend, Redis and the load generator."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for old in self.folder.glob("*.log"):
            old.unlink()
        with contextlib.ExitStack() as stopping:
            self.backend = Child.python("benchmarks.backend", log_file=self.folder / "backend.log", talks=True)
            stopping.callback(self.backend.stop)
            self.backend_port = int(self.backend.read_line()["port"])
            self._embedded.start()
            stopping.callback(self._embedded.stop)
            self.redis = redis.Redis.from_url(self.redis_url)
            stopping.callback(self.redis.close)
            self.load = LoadGenerator(self.folder / "load.log")
            stopping.callback(self.load.stop)
            server: dict[str, Any] = self.redis.info("server")
            self.redis_version = str(server["redis_version"])
            self.meter = Meter(
                {"redis": server["process_id"], "backend": self.backend.pid, "load": self.load.pid}, self.redis_url
            )
            self.targets.append(Target("direct", self.backend_port, "none", MODELS, ()))
            stopping.callback(self.stop_gateway)
            self._stopping = stopping.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop everything, by process id."""
        self._stopping.close()

    @property
    def redis_url(self) -> str:
        """Where Redis is."""
        return self._embedded.url

    def on_exit(self, stop: Any) -> None:
        """Call `stop` at the end, before what is there already is stopped."""
        self._stopping.callback(stop)

    def target(self, name: str) -> Target | None:
        """Return a target by name."""
        return next((target for target in self.targets if target.name == name), None)

    def start_gateway(
        self,
        *,
        further_models: int = 0,
        worker_models: Sequence[Sequence[str]] | None = None,
        api_processes: int = 1,
        more_workers: int = 0,
        flower: bool = True,
        job_events: bool = True,
        changes: Mapping[str, Any] | None = None,
    ) -> None:
        """Start the gateway with an empty Redis; a running one is stopped first.

        `worker_models` are the models of each worker, where they are not to be as `aqueduct up` has them; beside that
        `more_workers` are started, each for all models. `changes` are sections of the settings that stand in the place
        of the usual ones.
        """
        self.stop_gateway()
        self.redis.flushall()
        token, port, flower_port = new_token(), free_port(), free_port()
        config = self.folder / "aqueduct.yaml"
        settings = {**self._settings(token, further_models, job_events, flower_port), **(changes or {})}
        config.write_text(yaml.safe_dump(settings, sort_keys=False))
        self._gateway = gateway = Gateway(self.folder, self.meter, config, port)
        given = flower_port if flower else None
        if worker_models is None:
            gateway.start_up(api_processes=api_processes, more_workers=more_workers, flower_port=given)
        else:
            gateway.start_parts(worker_models, flower_port=given)
        models = {name: name for name in MODELS}
        self.targets.insert(1, Target("aqueduct", port, token, models, ("api", "worker", "redis")))

    def stop_gateway(self) -> None:
        """Stop the gateway's processes if they run."""
        if self._gateway is not None:
            self._gateway.stop()
            self._gateway = None
        self.targets = [target for target in self.targets if target.name != "aqueduct"]

    def _settings(self, token: str, further_models: int, job_events: bool, flower_port: int) -> dict[str, Any]:
        names = {**MODELS, **{f"idle-{number}": "bench" for number in range(further_models)}}
        url = f"http://127.0.0.1:{self.backend_port}/v1"
        room = {"concurrency": 8192, "max_queue": 200_000}
        return {
            "redis_url": self.redis_url,
            "data_dir": str(self.folder / "data"),
            "tenant_share": 1,
            "worker": {"slots": 8192, "drain_seconds": 1, "job_events": job_events},
            "api": {"drain_seconds": 1},
            "flower": {"port": flower_port, "password": secrets.token_urlsafe(12)},
            "models": {name: {**room, "backends": [{"url": url, "model": inner}]} for name, inner in names.items()},
            # Limits are on, they are only never met.
            "tokens": [
                {
                    "name": "bench",
                    "sha256": hash_token(token),
                    "requests_per_minute": 100_000_000,
                    "concurrent_jobs": 1_000_000,
                }
            ],
        }
