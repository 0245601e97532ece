"""The gateway on hosts of its own: Redis, a backend, two API processes, two workers, and a client, an address each."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import httpx

from tests.support.namespaces import Network
from tests.support.processes import Process, RedisServer
from tests.support.startable import Startable
from tests.support.system import DemoBackend, System
from tests.support.waiting import wait_until

HOSTS: Final = ("redis", "backend", "api-1", "api-2", "worker-1", "worker-2", "client")
PORT: Final = 8000
BACKEND_PORT: Final = 9000


class _Redis(RedisServer):
    """Listens on every address, with its password."""

    def __init__(self, folder: Path, network: Network) -> None:
        super().__init__(folder, settings=("bind 0.0.0.0",))
        self.port = 6379
        self._network = network

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@{self._network.addresses['redis']}:{self.port}/0"

    def start(self) -> _Redis:
        with self._network.inside("redis"):
            super().start()
        return self


class _Backend(DemoBackend):
    """Listens on its host's address."""

    def __init__(self, folder: Path, network: Network) -> None:
        address = network.addresses["backend"]
        self._network = network
        self.root = f"http://{address}:{BACKEND_PORT}"
        self._process = Process.python(
            "-m", "aqueduct.demo", "--host", address, "--port", str(BACKEND_PORT), "--record",
            log_file=folder / "backend.log",
        )  # fmt: skip

    def start(self) -> _Backend:
        """Start it and wait until it answers; call it on the client's host."""
        with self._network.inside("backend"):
            self._process.start()
        wait_until(self._answers, 30, "the backend to listen")
        return self

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.root}/v1/health", timeout=2).status_code == 200
        except httpx.TransportError:
            return False


class _Gateway(System):
    """Its processes on their hosts, the API listening on every address; asked on the client's host."""

    def __init__(self, folder: Path, network: Network, **given: Any) -> None:
        super().__init__(folder, workers=[(), ()], **given)
        self._network = network
        self.second_api: Process | None = None

    @property
    def urls(self) -> list[str]:
        """Where the two API processes are."""
        return [f"http://{self._network.addresses[host]}:{PORT}" for host in ("api-1", "api-2")]

    @property
    def base_url(self) -> str:
        return self.urls[0]

    def start_api(self) -> Process:
        made = []
        for host in ("api-1", "api-2"):
            with self._network.inside(host):
                made.append(self.command("api", "--host", "0.0.0.0", "--port", str(PORT), name=host).start())
        self.api, self.second_api = made
        return self.api

    def add_worker(self, *models: str) -> Process:
        with self._network.inside(f"worker-{self._started + 1}"):
            return super().add_worker(*models)

    def wait_ready(self, timeout_seconds: float = 60) -> None:
        def ready() -> bool:
            try:
                answers = [httpx.get(f"{url}/readyz", timeout=5) for url in self.urls]
            except httpx.TransportError:
                return False
            return all(answer.status_code == 200 and answer.json()["unserved"] == 0 for answer in answers)

        wait_until(ready, timeout_seconds, f"both API processes to be ready:\n{self.logs()}")

    def stop(self) -> None:
        if self.second_api is not None:
            self.second_api.stop()
        super().stop()


class Spread(Startable):
    """All of it. Use it on the client's host: `with spread.network.inside("client")`."""

    def __init__(self, folder: Path, **given: Any) -> None:
        """Take what `System` is to be told."""
        self.network = Network(HOSTS)
        self.redis = _Redis(folder / "redis", self.network)
        self.backend = _Backend(folder, self.network)
        self.system = _Gateway(
            folder / "system", self.network, redis_url=self.redis.url, backend_url=self.backend.url, **given
        )

    def start(self) -> Spread:
        """Start all; raises NotPermitted where there may be no such hosts."""
        self.network.start()
        with self.network.inside("client"):
            self.redis.start()
            self.backend.start()
            self.system.start()
        return self

    def stop(self) -> None:
        """End all, the hosts too."""
        self.system.stop()
        self.backend.stop()
        self.redis.stop()
        self.network.stop()
