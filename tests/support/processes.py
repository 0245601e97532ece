"""Child processes for tests: `Process` (any program, its log in a file) and `RedisServer` (kill, freeze, restart)."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from aqueduct.embedded_redis import find_server
from aqueduct.parenthood import die_with_parent
from tests.support.startable import Startable
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]


class Process(Startable):
    """A child process with its output in a file. It ends with the test run even when that is killed (Linux)."""

    def __init__(
        self, command: Sequence[str | Path], log_file: Path, *, environment: Mapping[str, str] | None = None
    ) -> None:
        self.command = [str(part) for part in command]
        self.log_file = log_file
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **(environment or {})}
        self._child: subprocess.Popen[bytes] | None = None
        self._asked_to_end = False

    @classmethod
    def python(cls, *arguments: str | Path, log_file: Path, environment: Mapping[str, str] | None = None) -> Process:
        """Return an unstarted child of this test run's own Python."""
        return cls([sys.executable, *arguments], log_file, environment=environment)

    def start(self, *, stdin: bytes | None = None) -> Process:
        """Start it, in a process group of its own; the log is appended to."""
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        self._asked_to_end = False
        with self.log_file.open("ab") as log:
            self._child = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd=ROOT,
                start_new_session=True,
                preexec_fn=die_with_parent(),  # noqa: PLW1509 - calls only prctl and getppid
            )
        if stdin is not None and self._child.stdin is not None:
            self._child.stdin.write(stdin)
            self._child.stdin.close()
        return self

    @property
    def pid(self) -> int:
        """The child's process id; it must have been started."""
        assert self._child is not None, "not started"
        return self._child.pid

    @property
    def returncode(self) -> int | None:
        """Its exit status, or None while it runs (or before it was started)."""
        return None if self._child is None else self._child.poll()

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._child is not None and self._child.poll() is None

    def log(self) -> str:
        """Return all it wrote so far, standard output and error together."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the child alone."""
        os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end (SIGTERM) without waiting."""
        self._asked_to_end = True
        self.signal(signal.SIGTERM)

    def wait(self, timeout_seconds: float = 10) -> int:
        """Wait for its end and return its exit status; AssertionError with its log when it does not end."""
        assert self._child is not None, "not started"
        try:
            return self._child.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.command} did not end within {timeout_seconds:g} s:\n{self.log()}") from None

    def kill(self) -> None:
        """End it and its children at once, as `kill -9` does, and wait until it is gone."""
        if self._child is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()

    def stop(self, timeout_seconds: float = 10) -> int | None:
        """End it politely, then by force; returns its exit status. Safe to call twice."""
        if self._child is None:
            return None
        if self._child.poll() is None:
            self.signal(signal.SIGCONT)
            if not self._asked_to_end:  # a second SIGTERM cuts a drain short
                self.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(timeout_seconds)
        self.kill()
        return self._child.returncode


class RedisServer(Startable):
    """A real Redis of the test's own: `.url`, `.client()`, and every misfortune a Redis can have."""

    def __init__(self, folder: Path, *, settings: Sequence[str] = (), password: str | None = None) -> None:
        self.folder = folder
        self.password = password or secrets.token_urlsafe(12)
        self.port = 0
        self._settings = tuple(settings)
        self._process: Process | None = None

    @property
    def url(self) -> str:
        """The same over restarts."""
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """The server's process id."""
        assert self._process is not None, "not started"
        return self._process.pid

    def client(self) -> redis.Redis:
        """Return a client that answers bytes and never retries; the caller closes it."""
        return redis.Redis.from_url(self.url, socket_timeout=5, socket_connect_timeout=5, retry=Retry(NoBackoff(), 0))

    def start(self) -> RedisServer:
        """Start it on a free port, or again on its former one, and wait until it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for _ in range(5):
            port = self.port or free_port()
            self._process = Process(
                [find_server().path, "-"], self.folder / "redis.log", environment={"LC_ALL": "C"}
            ).start(stdin=self._configuration(port).encode())
            self.port = port
            if wait_until(self._settled, 30, "Redis to answer") == "ready":
                return self
            self.port = 0  # another process took the port first
        raise AssertionError(f"Redis does not start:\n{self._process.log() if self._process else ''}")

    def _settled(self) -> str | None:
        if self._process is None or not self._process.running:
            return "ended"
        try:
            with self.client() as client:
                client.ping()
        except redis.RedisError:
            return None
        return "ready"

    def _configuration(self, port: int) -> str:
        lines = [
            "bind 127.0.0.1",
            f"port {port}",
            f"requirepass {self.password}",
            f'dir "{self.folder}"',
            'save ""',
            "appendonly yes",
            "appendfsync everysec",
            "maxmemory-policy noeviction",
            "slowlog-max-len 0",
            *self._settings,
        ]
        return "\n".join(lines) + "\n"

    def kill(self) -> None:
        """End it at once, as `kill -9` does; its append-only file stays."""
        assert self._process is not None, "not started"
        self._process.kill()

    def freeze(self) -> None:
        """Stop it where it is: connections stay open and nothing answers."""
        assert self._process is not None, "not started"
        self._process.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on after `freeze`."""
        assert self._process is not None, "not started"
        self._process.signal(signal.SIGCONT)

    def restart(self) -> None:
        """Start it again after `kill` or `stop` with what its append-only file holds."""
        self.start()

    def restart_empty(self) -> None:
        """Kill it if it runs, throw its data away, and start it again on the same port."""
        self.kill()
        shutil.rmtree(self.folder / "appendonlydir", ignore_errors=True)
        self.folder.joinpath("appendonly.aof").unlink(missing_ok=True)
        self.start()

    def drop_connections(self) -> None:
        """Cut every connection of every client but this one."""
        with self.client() as client:
            for kind in ("normal", "pubsub"):
                client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")

    def stop(self) -> None:
        """End it; safe to call twice."""
        if self._process is not None:
            self._process.stop()


def free_port() -> int:
    """Return a loopback port that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
