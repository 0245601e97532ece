"""The stack that is attacked, as `aqueduct up` runs it: two API processes on one port, Flower, Redis; two backends."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from shared.redis_sync import connect
from shared.tokens import hash_token, new_token
from tests.attack.hostile import HostileBackend
from tests.attack.scripts import KEY, SCRIPTS
from tests.support.models import model
from tests.support.processes import Process, free_port
from tests.support.system import DemoBackend
from tests.support.waiting import wait_until

HEADER_SECONDS = 4.0
BODY_SECONDS = 3.0
STALLED_SECONDS = 2.0
ANSWER_BYTES = 4 << 20
SOCKETS = Path("/proc/net/tcp")
"""Every socket of the machine, a line each; `psutil` takes a hundred times as long over it."""
LOGIN = ("aqueduct", "correct-horse-canary")
TENANTS: dict[str, dict[str, Any]] = {
    "test": {}, "other": {}, "cheap": {"requests_per_minute": 1}, "narrow": {"models": ["good"]},
}  # fmt: skip
_TIMES = {"timeout_seconds": 8, "first_token_timeout_seconds": 4, "stall_timeout_seconds": 4, "max_attempts": 1}
_GOOD = {
    "good": model("tokens=3"),
    "slow": model("tokens=4&answer_seconds=1"),
    "unserved-secret": model("tokens=3"),
}
_TORRENT = model("tokens=90000&batch=50", concurrency=300)


class Stack:
    """What is running, and ways to reach it."""

    def __init__(
        self, folder: Path, port: int, flower_port: int, up: Process, tokens: dict[str, str], held: ExitStack
    ) -> None:
        self.folder = folder
        self.address = ("127.0.0.1", port)
        self.base_url = f"http://127.0.0.1:{port}"
        self.flower_url = f"http://127.0.0.1:{flower_port}"
        self.tokens = tokens
        self.token = tokens["test"]
        self._up = up
        self._held = held
        children = psutil.Process(up.pid).children(recursive=True)
        self.all = children
        self.apis = _named("aqueduct api", children)
        self.workers = _named("aqueduct worker", children)
        (self.flower,) = _named("aqueduct flower", children)
        (self.redis,) = _named("redis-server", children) or _named("valkey-server", children)

    def worker_of(self, name: str) -> psutil.Process:
        """Return the worker process that serves a model."""
        (found,) = [worker for worker in self.workers if name in worker.cmdline()]
        return found

    def client(self, tenant: str = "test", **options: Any) -> httpx.Client:
        """Return a client with a tenant's token; the caller closes it."""
        headers = {"authorization": f"Bearer {self.tokens[tenant]}"}
        return httpx.Client(base_url=self.base_url, headers=headers, timeout=30, **options)

    def lasting_client(self, tenant: str = "test") -> httpx.Client:
        """As `client`, which is closed when the stack stops."""
        return self._held.enter_context(self.client(tenant))

    def connect(self, process: psutil.Process | None = None, seconds: float = 5) -> socket.socket:
        """Return a connection to this API process or to any; the caller closes it."""
        for _ in range(100):
            connection = socket.create_connection(self.address, timeout=seconds)
            if process is None or self.holder(connection) == process:
                return connection
            connection.close()
        raise AssertionError("one of the API processes takes no connection")

    def holder(self, connection: socket.socket) -> psutil.Process:
        """Return the API process that has taken a connection."""
        client = b"%04X" % connection.getsockname()[1]
        pattern = re.compile(
            b":%04X [0-9A-F]+:%b 01 [^ ]+ [^ ]+ [^ ]+ +[0-9]+ +[0-9]+ ([1-9][0-9]*) " % (self.address[1], client)
        )

        def taken() -> list[psutil.Process]:
            found = pattern.search(SOCKETS.read_bytes())
            return [api for api in self.apis if found and _has_open(api.pid, int(found[1]))]

        return wait_until(taken, 5, "the connection to be taken", poll_seconds=0.001)[0]

    def open_connections(self) -> int:
        """Return how many clients' connections the API processes hold."""
        return len(re.findall(b": [0-9A-F]+:%04X [0-9A-F]+:[0-9A-F]{4} 01 " % self.address[1], SOCKETS.read_bytes()))

    def redis_client(self) -> Any:
        """Return a client of the stack's own Redis; the caller closes it."""
        return connect((self.folder / "data" / "redis" / "url").read_text())

    def logs(self) -> str:
        """Return what every process wrote."""
        return self._up.log()


def _named(words: str, processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if words in " ".join(process.cmdline())]


def _has_open(pid: int, inode: int) -> bool:
    wanted = f"socket:[{inode}]"
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # just closed
            if os.readlink(file) == wanted:
                return True
    return False


def _settings(folder: Path, urls: dict[str, str], tokens: dict[str, str]) -> dict[str, Any]:
    backend = {"url": urls["hostile"], "api_key": "${HOSTILE_KEY}"}
    models = {name: {**_TIMES, "backends": [{**backend, "model": name}]} for name in SCRIPTS}
    for name, given in _GOOD.items():
        models[name] = {**given, "backends": [{"url": urls["demo"], **one} for one in given["backends"]]}
    models["torrent"] = {**_TORRENT, "backends": [{"url": urls["torrents"], **_TORRENT["backends"][0]}]}
    return {
        "api": {
            "header_timeout_seconds": HEADER_SECONDS, "body_timeout_seconds": BODY_SECONDS, "idle_timeout_seconds": 3,
            "stalled_reader_seconds": STALLED_SECONDS,
        },
        "worker": {"max_answer_bytes": ANSWER_BYTES},
        "storage": {"url": (folder / "store").as_uri()},
        "models": models,
        "tokens": [{"name": name, "sha256": hash_token(tokens[name]), **given} for name, given in TENANTS.items()],
    }  # fmt: skip


@contextmanager
def running(folder: Path, *, most_bytes: int) -> Iterator[Stack]:
    """Start it all, and stop it all."""
    tokens = {name: new_token() for name in TENANTS}
    port, flower_port = free_port(), free_port()
    with ExitStack() as held:
        demo = held.enter_context(DemoBackend(folder / "demo"))
        torrents = held.enter_context(DemoBackend(folder / "torrents"))  # of its own: they fill a process
        hostile = held.enter_context(HostileBackend(SCRIPTS, most_bytes).running())
        urls = {"demo": demo.url, "torrents": torrents.url, "hostile": hostile.url}
        config = folder / "aqueduct.yaml"
        config.write_text(yaml.safe_dump(_settings(folder, urls, tokens)))
        up = Process.python(
            "-m", "aqueduct", "up", "--config", config, "--data-dir", folder / "data", "--port", str(port),
            "--api-processes", "2", log_file=folder / "up.log",
            environment={
                "NO_PROXY": "*", "HOSTILE_KEY": KEY, "AQUEDUCT_FLOWER__PORT": str(flower_port),
                "AQUEDUCT_FLOWER__USER": LOGIN[0], "AQUEDUCT_FLOWER__PASSWORD": LOGIN[1],
            },
        )  # fmt: skip
        held.enter_context(up)
        wait_until(lambda: "Ctrl-C ends it." in up.log() or not up.running, 60, "the stack to be ready")
        assert up.running, up.log()
        yield Stack(folder, port, flower_port, up, tokens, held)
