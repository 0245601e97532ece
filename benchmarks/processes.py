"""Child processes of a run: `Child` (a program and its log), `LoadGenerator` (a child that speaks JSON lines)."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aqueduct.parenthood import die_with_parent

ROOT = Path(__file__).resolve().parents[1]


class BenchmarkError(Exception):
    """A process of the run did not start, ended, or hung; the message holds the end of its log."""


class Child:
    """A program in a process group of its own; it ends with this process even when that is killed (Linux)."""

    def __init__(
        self,
        command: Sequence[str | Path],
        log_file: Path,
        *,
        environment: Mapping[str, str] | None = None,
        talks: bool = False,
    ) -> None:
        self.log_file = log_file
        with log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
                stdout=subprocess.PIPE if talks else log,
                stderr=log,
                env={
                    **os.environ,
                    "PYTHONPATH": str(ROOT),
                    "PYTHONUNBUFFERED": "1",
                    "NO_PROXY": "*",
                    **(environment or {}),
                },
                cwd=ROOT,
                start_new_session=True,
                preexec_fn=die_with_parent(),  # noqa: PLW1509 - calls only prctl and getppid
            )

    @classmethod
    def python(cls, *arguments: str | Path, log_file: Path, talks: bool = False) -> Child:
        """Start a module of this project with this Python."""
        return cls([sys.executable, "-m", *arguments], log_file, talks=talks)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def read_line(self) -> dict[str, Any]:
        """Return the next JSON line of a talking child."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise BenchmarkError(f"{self.log_file.stem} ended:\n{self.log_tail()}")
        message: dict[str, Any] = json.loads(line)
        return message

    def write_line(self, message: Mapping[str, Any]) -> None:
        """Send a JSON line to a talking child."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        self._process.stdin.flush()

    def log_tail(self) -> str:
        """Return the last lines of its log."""
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-15:])

    def stop(self, timeout_seconds: float = 5) -> None:
        """End its whole process group; safe to call twice."""
        if self.running:
            self._process.terminate()
            try:
                self._process.wait(timeout_seconds)
            except subprocess.TimeoutExpired:
                os.killpg(self.pid, signal.SIGKILL)
                self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


class LoadGenerator:
    """The load generator's process."""

    def __init__(self, log_file: Path) -> None:
        self._child = Child.python("benchmarks.load", log_file=log_file, talks=True)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    def run(self, command: Mapping[str, Any], at_window: Callable[[], None]) -> dict[str, Any]:
        """Run one operation; `at_window` is called at the begin and at the end of the time that counts."""
        self._child.write_line(command)
        while (message := self._child.read_line())["event"] != "result":
            at_window()
        return message

    def stop(self) -> None:
        """End it."""
        self._child.stop()


def free_port() -> int:
    """Return a loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fetch(url: str, *, token: str = "") -> tuple[int, bytes]:
    """GET a loopback URL past any proxy; status 0 when nobody listens."""
    request = urllib.request.Request(url, headers={"authorization": f"Bearer {token}"})  # noqa: S310 - loopback
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=5) as answer:
            return int(answer.status), bytes(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, b""
    except OSError:
        return 0, b""


def wait_for(children: Sequence[Child], url: str, *, seconds: float, token: str = "") -> None:
    """Wait until a URL answers 200; fails at once when a child ends."""
    deadline = time.monotonic() + seconds
    while fetch(url, token=token)[0] != 200:
        ended = [child for child in children if not child.running]
        if ended or time.monotonic() > deadline:
            logs = "\n".join(f"--- {child.log_file.stem}\n{child.log_tail()}" for child in ended or children)
            raise BenchmarkError(f"{url} does not answer:\n{logs}")
        time.sleep(0.05)
