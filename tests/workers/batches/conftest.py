"""Workers with a file store, over a Redis and a demo backend of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.batches import BatchStore
from tests.support.processes import RedisServer
from tests.support.system import DemoBackend, System

MODELS = {
    "m": {"concurrency": 16, "timeout_seconds": 20, "backends": [{"model": "demo?prefix=1&tokens=3"}]},
    "slow": {
        "concurrency": 8,
        "timeout_seconds": 20,
        "backends": [{"model": "demo?prefix=1&tokens=3&token_seconds=0.05&call_marks=1"}],
    },
    "flaky": {
        "concurrency": 8,
        "max_attempts": 1,
        "backends": [{"model": "demo?prefix=1&tokens=2&status=503&fail_times=2"}],
    },
    "broken": {"concurrency": 8, "max_attempts": 1, "backends": [{"model": "demo?status=500"}]},
    "refuses": {"concurrency": 8, "backends": [{"model": "demo?status=400&code=bad_thing"}]},
    "hangs": {"concurrency": 2, "timeout_seconds": 60, "backends": [{"model": "demo?first_token_seconds=30"}]},
}


class Site:
    """A Redis, a backend, workers and a store; the API is not needed."""

    def __init__(self, folder: Path, redis: RedisServer, backend: DemoBackend) -> None:
        self.redis = redis
        self.backend = backend
        self.batches = BatchStore(folder / "store")
        self.system = System(
            folder / "system",
            redis_url=redis.url,
            backend_url=backend.url,
            models=MODELS,
            settings={
                "storage": {"url": self.batches.url},
                "batches": {"line_attempts": 3},
                "worker": {"drain_seconds": 1},
            },
        )
        self.system.write_config()

    def logs(self) -> str:
        """Return what the workers wrote."""
        return self.system.logs()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Everything but workers, which the test starts."""
    with RedisServer(tmp_path / "redis") as redis, DemoBackend(tmp_path) as backend:
        made = Site(tmp_path, redis, backend)
        try:
            yield made
        finally:
            for worker in made.system.workers:
                worker.kill()
