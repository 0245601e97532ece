"""`python -m tests.attack`: hostile inputs from clients and backends, a table at the end. A failure: exit status 1."""

from __future__ import annotations

import argparse
import json
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import httpx
import psutil

from tests.attack.hostile import KEY, SCRIPTS, HostileBackend
from tests.attack.requests import AUTHORIZATIONS, BODIES, CROWDS, ENDLESS, FRAMING, HEAD, PATHS
from tests.support.chat import CHAT, chat_body
from tests.support.models import model
from tests.support.processes import RedisServer
from tests.support.system import DemoBackend, System

MIB = 1 << 20
HEADER_SECONDS = 6.0
CALM_SECONDS = 2.0
"""A good request is answered within, whatever has just been sent."""
GROWN_BYTES = 150 * MIB
"""What the API and the worker may have grown by in all."""
ENDLESS_BYTES = 1 * MIB
ENDLESS_CPU_SECONDS = 0.05
SMALLEST_STEP = 0.011
"""The system counts a process's time in hundredths of a second."""


class Attack:
    """A running stack, and what every attack on it came to."""

    def __init__(self, system: System, *, short: bool) -> None:
        assert system.api is not None
        self.system = system
        self.most_bytes = (6 if short else 60) * MIB
        self.crowd = 200 if short else 2000
        self.failures: list[str] = []
        self.rows: list[tuple[str, int, int, float]] = []
        self._processes = [psutil.Process(process.pid) for process in (system.api, *system.workers)]
        self._size = 0

    def memory(self) -> int:
        """Return what API and worker hold; fails where one has ended."""
        return sum(process.memory_info().rss for process in self._processes)

    def group(self, name: str, checks: Mapping[str, Callable[[], None]]) -> None:
        """Run checks one after the other, and then see that nobody else is disturbed."""
        before, began = len(self.failures), time.monotonic()
        for what, check in {**checks, "the stack is undisturbed": self.undisturbed}.items():
            try:
                check()
            except (AssertionError, OSError, httpx.HTTPError, psutil.Error, ValueError, IndexError) as error:
                self.failures.append(f"{name}: {what}: {type(error).__name__} {str(error)[:300]}")
        self.rows.append((name, len(checks) + 1, len(self.failures) - before, time.monotonic() - began))

    def undisturbed(self) -> None:
        """See that a good request is answered soon, by processes of their usual size."""
        began = time.monotonic()
        with self.system.client() as client:
            assert client.post(CHAT, json=chat_body("good")).status_code == 200
        assert time.monotonic() - began < CALM_SECONDS
        self._size = self._size or self.memory()
        assert self.memory() - self._size < GROWN_BYTES

    def send(self, data: bytes, seconds: float = 1.0) -> bytes:
        """Send bytes on a connection of their own; return all that comes until it closes or is silent."""
        received = b""
        with socket.create_connection(self.system.address, timeout=seconds) as connection, suppress(OSError):
            connection.sendall(data)
            while part := connection.recv(65536):
                received += part
        return received

    # --- what clients send ---------------------------------------------------------------------------------------

    def framing(self, data: bytes) -> None:
        """Never more than one answer, and no good one."""
        answer = self.send(data)
        assert answer.count(b"HTTP/1.1 ") <= 1, answer
        assert not answer or 400 <= int(answer.split()[1]) < 502, answer

    def path(self, target: bytes) -> None:
        """An error or a page of ours, with nothing of the machine in it."""
        answer = self.send(b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % target)
        assert answer.split()[1] in (b"400", b"401", b"404", b"405", b"431"), answer[:300]
        assert b"root:" not in answer and b"Traceback" not in answer

    def authorization(self, header: bytes) -> None:
        """No entry, told in OpenAI's words."""
        header = header.replace(b"@TOKEN@", self.system.token.encode())
        # An unknown token is looked for in Redis, at most once a second.
        answer = self.send(HEAD + header + b"Content-Length: 2\r\nConnection: close\r\n\r\n{}", 5.0)
        assert answer.split()[1] == b"401", answer[:300]
        assert self.system.token.encode() not in answer

    def body(self, body: bytes) -> None:
        """Refused at once as an OpenAI error."""
        began = time.monotonic()
        headers = {"content-type": "application/json"}
        with self.system.client() as client:
            answer = client.post(CHAT, content=body, headers=headers)
        assert 400 <= answer.status_code < 500, answer.text[:300]
        assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
        assert time.monotonic() - began < CALM_SECONDS

    def endless(self, start: bytes, piece: bytes) -> None:
        """Costs next to nothing, and is refused or cut."""
        api = self._processes[0]
        self._flood(start, piece)  # what a process takes at the first time, it keeps
        before, cpu = api.memory_info().rss, _seconds(api)
        answer = self._flood(start, piece)
        assert not answer or answer.startswith(b"HTTP/1.1 4"), answer[:200]
        assert api.memory_info().rss - before < ENDLESS_BYTES, f"{(api.memory_info().rss - before) / MIB:.1f} MiB"
        assert _seconds(api) - cpu < ENDLESS_CPU_SECONDS + SMALLEST_STEP, f"{_seconds(api) - cpu:.2f} s"

    def _flood(self, start: bytes, piece: bytes) -> bytes:
        """Send until no more is taken; returns the beginning of what was answered."""
        data = piece * (65536 // len(piece))
        sent, answer = 0, b""
        with socket.create_connection(self.system.address, timeout=4) as connection, suppress(OSError):
            try:
                connection.sendall(start)
                while sent < self.most_bytes:
                    sent += connection.send(data)
            except OSError:
                pass
            connection.settimeout(5)
            answer = connection.recv(65536)
            while connection.recv(65536):
                pass
        return answer

    def crowd_of(self, begin: bytes) -> None:
        """Others are served meanwhile, and the connections are gone in their time."""
        with ExitStack() as held:
            for _ in range(self.crowd):
                connection = held.enter_context(socket.create_connection(self.system.address, timeout=5))
                if begin:
                    connection.sendall(begin)
            for _ in range(10):
                self.undisturbed()
            deadline = time.monotonic() + HEADER_SECONDS + 6
            while (left := self._open()) > self.crowd // 10:
                assert time.monotonic() < deadline, f"{left} connections stay"
                time.sleep(0.2)

    def _open(self) -> int:
        return sum(one.status == "ESTABLISHED" for one in self._processes[0].net_connections("tcp"))

    # --- what backends send --------------------------------------------------------------------------------------

    def backend(self, name: str, *, stream: bool) -> None:
        """The client gets one well-formed answer, in which nothing is that it must not see."""
        worker = self._processes[1]
        before = worker.memory_info().rss
        with self.system.client() as client:
            answer = client.post(CHAT, json=chat_body(name, stream=stream))
        for secret in (KEY, "dmVyeXNlY3JldGJhY2tlbmRrZXk0NzEx"):
            assert secret not in answer.text and secret not in str(answer.headers), answer.text[:300]
        if answer.headers["content-type"].startswith("text/event-stream"):
            assert answer.text.endswith("data: [DONE]\n\n") and '"error"' in answer.text, answer.text[-300:]
        else:
            assert answer.status_code >= 400 and answer.json()["error"]["message"], answer.text[:300]
        assert worker.memory_info().rss - before < GROWN_BYTES

    def logs(self) -> None:
        """No key, no token and nothing that tells a terminal to do something is in any log."""
        written = self.system.logs()
        for secret in (KEY, self.system.token):
            assert secret not in written
        assert not any(mark in written for mark in "\x1b\x07\x9b\u202e")
        assert not [line for line in written.splitlines() if line.startswith("FORGED")]


def _seconds(process: psutil.Process) -> float:
    spent = process.cpu_times()
    return float(spent.user + spent.system)


def attack(folder: Path, *, short: bool) -> Attack:
    """Start a stack, attack it, stop it; returns what came of it."""
    limits = {"header_timeout_seconds": HEADER_SECONDS, "body_timeout_seconds": 3, "idle_timeout_seconds": 3}
    times = {"timeout_seconds": 8, "first_token_timeout_seconds": 4, "stall_timeout_seconds": 4, "max_attempts": 1}
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer(folder / "redis"))
        demo = stack.enter_context(DemoBackend(folder / "demo"))
        hostile = stack.enter_context(HostileBackend(SCRIPTS, (6 if short else 60) * MIB).running())
        models = {"good": model("tokens=3")}
        models |= {
            name: {**times, "backends": [{"url": hostile.url, "model": name, "api_key": "${HOSTILE_KEY}"}]}
            for name in SCRIPTS
        }
        system = System(
            folder / "system", redis_url=redis.url, backend_url=demo.url, models=models, settings={"api": limits},
            worker_environment={"HOSTILE_KEY": KEY},
        )  # fmt: skip
        stack.enter_context(system)
        found = Attack(system, short=short)
        _run(found)
    return found


def _run(found: Attack) -> None:
    found.undisturbed()
    found.group("framing", {name: partial(found.framing, data) for name, data in FRAMING.items()})
    found.group("paths", {name: partial(found.path, data) for name, data in PATHS.items()})
    found.group("tokens", {name: partial(found.authorization, data) for name, data in AUTHORIZATIONS.items()})
    found.group("bodies", {name: partial(found.body, data) for name, data in BODIES.items()})
    found.group("endless", {name: partial(found.endless, *pair) for name, pair in ENDLESS.items()})
    found.group("crowds", {name: partial(found.crowd_of, begin) for name, begin in CROWDS.items()})
    for stream in (False, True):
        checks = {name: partial(found.backend, name, stream=stream) for name in SCRIPTS}
        found.group(f"backends, {'streamed' if stream else 'plain'}", checks)
    found.group("logs", {"nothing secret, nothing forged": found.logs})


def main() -> int:
    """Run, print the table, return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
    parser.add_argument("--short", action="store_true", help="6 MB of endless things in place of 60, 200 connections")
    with tempfile.TemporaryDirectory(prefix="aqueduct-attack-") as made:
        found = attack(Path(made), short=parser.parse_args().short)
    print("| attacks | checks | failed | seconds |\n| --- | --- | --- | --- |")
    for name, checks, failed, seconds in found.rows:
        print(f"| {name} | {checks} | {failed} | {seconds:.1f} |")
    for failure in found.failures:
        print(json.dumps(failure)[1:-1])  # what an attack said is no word to this terminal
    print(f"{sum(row[1] for row in found.rows)} checks, {len(found.failures)} failed")
    return 1 if found.failures else 0


if __name__ == "__main__":
    sys.exit(main())
