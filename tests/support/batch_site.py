"""Workers with a file store, over a Redis and a demo backend; batches are put there by `site.batches`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shared import keys
from shared.broker import batch_ticket
from shared.jobs import new_id
from tests.support.batches import BatchStore
from tests.support.processes import RedisServer
from tests.support.system import DemoBackend, System

MODELS: dict[str, dict[str, Any]] = {
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
    """A Redis, a backend, workers and a store; most need no API."""

    def __init__(self, folder: Path, redis: RedisServer, backend: DemoBackend, **more: Any) -> None:
        """Take what else `System` is to be told, as tokens."""
        self.redis = redis
        self.backend = backend
        self.batches = BatchStore(folder / "store")
        self._settings: dict[str, Any] = {"line_attempts": 3}
        self.system = System(
            folder / "system",
            redis_url=redis.url,
            backend_url=backend.url,
            models=MODELS,
            settings={
                "storage": {"url": self.batches.url},
                "batches": self._settings,
                "worker": {"drain_seconds": 1},
            },
            **more,
        )
        self.system.write_config()

    def set(self, **settings: Any) -> None:
        """Change settings of batches, for workers that start later."""
        self._settings.update(settings)
        self.system.write_config()

    def limit(self, token: str, **settings: Any) -> None:
        """Change what a token may do, for workers that start later."""
        self.system._token_settings[token].update(settings)
        self.system.write_config()

    def ring(self, batch_id: str) -> str:
        """Push a batch's ticket, as the API does, and return its id: otherwise a worker looks each half minute."""
        with self.redis.client() as client:
            client.lpush(keys.BATCH_QUEUE, batch_ticket(batch_id, new_id()))
        return batch_id

    def logs(self) -> str:
        """Return what the workers wrote."""
        return self.system.logs()

    def stop(self) -> None:
        """End all at once."""
        for process in (self.system.api, *self.system.workers):
            if process is not None:
                process.kill()
