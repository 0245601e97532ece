"""The whole gateway in real processes: `System` (API and workers over a Redis and a backend) and `DemoBackend`."""

from __future__ import annotations

import copy
import re
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import yaml

from shared.tokens import hash_token, new_token
from tests.support.chat import prompt_of
from tests.support.models import MODELS
from tests.support.processes import Process, free_port
from tests.support.startable import Startable
from tests.support.waiting import wait_until

READY = re.compile(r"demo backend ready on (http://127\.0\.0\.1:\d+)/v1")


class DemoBackend(Startable):
    """The scripted model server as a process, with a record of what it was asked."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self._process = Process.python(
            "-m", "aqueduct.demo", "--port", str(port), "--record", log_file=folder / "demo-backend.log"
        )
        self.root = ""

    def start(self) -> DemoBackend:
        """Start it on a free port and wait until it listens."""
        self._process.start()
        wait_until(
            lambda: READY.search(self._process.log()) or not self._process.running, 20, "the demo backend to listen"
        )
        match = READY.search(self._process.log())
        assert match, f"the demo backend does not start:\n{self._process.log()}"
        self.root = match.group(1)
        return self

    @property
    def url(self) -> str:
        """Its base URL, as a model's backend `url`."""
        return f"{self.root}/v1"

    @property
    def process(self) -> Process:
        """The process, to kill or freeze."""
        return self._process

    def state(self) -> dict[str, int]:
        """Return its counters: `open_requests`, `total_requests`, `closed_by_client`, …"""
        answer: dict[str, int] = httpx.get(f"{self.root}/debug/state", timeout=10).raise_for_status().json()
        return answer

    def requests(self) -> list[dict[str, Any]]:
        """Return the requests it got since the last `clear`, oldest first."""
        answer: list[dict[str, Any]] = httpx.get(f"{self.root}/debug/requests", timeout=10).raise_for_status().json()
        return answer

    def seen(self, prompt: str) -> list[dict[str, Any]]:
        """Return the requests whose last message is the prompt, oldest first."""
        return [record for record in self.requests() if prompt_of(record) == prompt]

    def clear(self) -> None:
        """Forget the requests and zero the counters."""
        httpx.delete(f"{self.root}/debug/requests", timeout=10).raise_for_status()

    def stop(self) -> None:
        """End it; safe to call twice."""
        self._process.stop()


class System(Startable):
    """An API and workers, started from a YAML file in `folder`, over a Redis and a backend that the caller owns."""

    def __init__(
        self,
        folder: Path,
        *,
        redis_url: str,
        backend_url: str,
        models: Mapping[str, Mapping[str, Any]] | None = None,
        tokens: Mapping[str, Mapping[str, Any]] | None = None,
        settings: Mapping[str, Any] | None = None,
        workers: Sequence[Sequence[str]] = ((),),
        environment: Mapping[str, str] | None = None,
        worker_environment: Mapping[str, str] | None = None,
    ) -> None:
        """Describe the system; `start()` starts it.

        Args:
            folder: For its files and logs.
            redis_url: Where its Redis is.
            backend_url: Used for every backend that names no `url`.
            models: As in the file; default: `MODELS`.
            tokens: Further tokens by name, each with its settings; their secrets are in `tokens`.
            settings: Further sections of the file, such as `{"api": {"drain_seconds": 1}}`.
            workers: One entry a worker process, with the models it serves; none means all.
            environment: Further variables of the processes.
            worker_environment: Further variables that only the workers get.
        """
        self.folder = folder
        self.redis_url = redis_url
        self.tokens = {name: new_token() for name in ("test", *(tokens or {}))}
        self._token_settings = {"test": {}, **{name: dict(given) for name, given in (tokens or {}).items()}}
        self._backend_url = backend_url
        self._models = self._with_backend(models if models is not None else MODELS, backend_url)
        self._settings = dict(settings or {})
        self._worker_models = [list(served) for served in workers]
        self._environment = dict(environment or {})
        self._worker_environment = dict(worker_environment or {})
        self._port = 0
        self.api: Process | None = None
        self.workers: list[Process] = []
        self._started = 0
        self._served: set[str] = set()

    @staticmethod
    def _with_backend(models: Mapping[str, Mapping[str, Any]], url: str) -> dict[str, dict[str, Any]]:
        filled = {name: copy.deepcopy(dict(given)) for name, given in models.items()}
        for given in filled.values():
            given["backends"] = [{"url": url, **backend} for backend in given.get("backends", [{}])]
        return filled

    @property
    def base_url(self) -> str:
        """The API's root, without `/v1`."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def address(self) -> tuple[str, int]:
        """The API's host and port, for sockets."""
        return "127.0.0.1", self._port

    @property
    def token(self) -> str:
        """The bearer token that may use every model."""
        return self.tokens["test"]

    @property
    def config_file(self) -> Path:
        """The YAML file it runs from."""
        return self.folder / "aqueduct.yaml"

    def client(self, token: str | None = None, **options: Any) -> httpx.Client:
        """Return a client with the base URL and the token; the caller closes it."""
        headers = {"authorization": f"Bearer {token or self.token}"}
        return httpx.Client(base_url=self.base_url, headers=headers, timeout=options.pop("timeout", 30), **options)

    def async_client(self, token: str | None = None, **options: Any) -> httpx.AsyncClient:
        """As `client`, asynchronous."""
        headers = {"authorization": f"Bearer {token or self.token}"}
        return httpx.AsyncClient(base_url=self.base_url, headers=headers, timeout=options.pop("timeout", 30), **options)

    def write_config(
        self, *, without: Container[str] = (), tokens: Mapping[str, Mapping[str, Any]] | None = None
    ) -> None:
        """Write the YAML file from what the system was made with, less these models, and with further tokens."""
        self.folder.mkdir(parents=True, exist_ok=True)
        entries = [
            {"name": name, "sha256": hash_token(self.tokens[name]), **given}
            for name, given in self._token_settings.items()
        ]
        entries += [
            {"name": name, "sha256": hash_token(new_token()), **given} for name, given in (tokens or {}).items()
        ]
        content = {
            "redis_url": self.redis_url,
            "data_dir": str(self.folder / "data"),
            **self._settings,
            "models": {name: given for name, given in self._models.items() if name not in without},
            "tokens": entries,
        }
        self.config_file.write_text(yaml.safe_dump(content, sort_keys=False))

    def rewrite(
        self,
        *,
        models: Mapping[str, Mapping[str, Any]] | None = None,
        tokens: Mapping[str, Mapping[str, Any]] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the file anew with other models, settings of tokens, or sections; what is not given stays."""
        if models is not None:
            self._models = self._with_backend(models, self._backend_url)
        self._token_settings |= {name: dict(given) for name, given in (tokens or {}).items()}
        for name in self._token_settings:
            self.tokens.setdefault(name, new_token())
        self._settings |= settings or {}
        self.write_config()

    def start(self) -> System:
        """Start all processes and wait until the API says that it is ready."""
        self.write_config()
        self.start_api()
        for models in self._worker_models:
            self.add_worker(*models)
        self.wait_ready()
        return self

    def start_api(self) -> Process:
        """Start the API, on its former port if it had one."""
        self._port = self._port or free_port()
        self.api = self.command("api", "--port", str(self._port)).start()
        return self.api

    def add_worker(self, *models: str) -> Process:
        """Start one more worker process, for these models or for all."""
        self._started += 1
        self._served.update(models or self._models)
        worker = self.command("worker", *models, name=f"worker-{self._started}").start()
        self.workers.append(worker)
        return worker

    def command(self, command: str, *arguments: str, name: str = "") -> Process:
        """Return `aqueduct <command>` with the system's file as an unstarted process, whose log is among `logs()`."""
        words: tuple[str | Path, ...] = ("-m", "aqueduct", command, *arguments, "--config", self.config_file)
        environment = {"NO_PROXY": "*", **self._environment}
        if command == "worker":
            environment |= self._worker_environment
        return Process.python(*words, log_file=self.folder / f"{name or command}.log", environment=environment)

    def wait_ready(self, timeout_seconds: float = 30) -> None:
        """Wait until the API says that every started worker's models are served; fails at once when a process ended."""
        seen: list[str] = []

        def ready() -> bool:
            ended = [process for process in (self.api, *self.workers) if process and not process.running]
            assert not ended, f"a process ended at the start:\n{self.logs()}"
            try:
                answer = httpx.get(f"{self.base_url}/readyz", timeout=2)
            except httpx.TransportError as error:
                seen[:] = [repr(error)]
                return False
            seen[:] = [f"{answer.status_code} {answer.text}"]
            return answer.status_code == 200 and not self._served.intersection(answer.json()["unserved"])

        try:
            wait_until(ready, timeout_seconds, "the API to be ready", poll_seconds=0.05)
        except AssertionError as error:
            raise AssertionError(f"{error}; /readyz: {seen}\n{self.logs()}") from None

    def logs(self) -> str:
        """Return what every process wrote, under its name."""
        return "\n".join(
            f"--- {path.stem}\n{path.read_text(errors='replace')}" for path in sorted(self.folder.glob("*.log"))
        )

    def stop(self) -> None:
        """End API and workers, all at once; safe to call twice."""
        processes = [process for process in (self.api, *self.workers) if process is not None]
        for process in processes:
            if process.running:
                process.terminate()
        for process in processes:
            process.stop()
