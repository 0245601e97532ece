"""`aqueduct up`, whole: a newcomer's first answer, children that come back, and nothing left when it ends."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import psutil
import pytest
import yaml

from tests.support.processes import ROOT, Process, RedisServer, free_port
from tests.support.system import DemoBackend
from tests.support.waiting import wait_until

BODY = {"model": "demo", "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
READY_SECONDS = 60


class Up:
    """One `aqueduct up` with a port and a data folder of its own."""

    def __init__(self, folder: Path, *options: str, environment: Mapping[str, str] = MappingProxyType({})) -> None:
        self.port = free_port()
        flower_port = free_port()
        self.flower = f"http://127.0.0.1:{flower_port}"
        self.folder = folder
        self._config = options[options.index("--config") :][:2] if "--config" in options else ()
        self.process = Process.python(
            "-m", "aqueduct", "up", "--data-dir", folder / "data", "--port", str(self.port), *options,
            log_file=folder / "up.log", environment={"AQUEDUCT_FLOWER__PORT": str(flower_port), **environment},
        ).start()  # fmt: skip

    def wait_ready(self) -> None:
        wait_until(lambda: "Ctrl-C ends it." in self.log or not self.process.running, READY_SECONDS, "the banner")
        assert self.process.running, self.log

    @property
    def log(self) -> str:
        return self.process.log()

    @property
    def token(self) -> str:
        token: str = json.loads((self.folder / "data" / "up.json").read_text())["token"]
        return token

    def children(self, word: str = "") -> list[psutil.Process]:
        """Return the child processes whose command line has the word."""
        found = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in found if word in command_line(child)]

    def has_new(self, word: str, gone: set[int]) -> bool:
        """Tell whether a child with the word runs that is none of those gone."""
        return bool({child.pid for child in self.children(word)} - gone)

    def ask(self, body: dict[str, Any]) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.token}"}
        url = f"http://127.0.0.1:{self.port}/v1/chat/completions"
        return httpx.post(url, json=body, headers=headers, timeout=30)

    def stream(self) -> str:
        answer = self.ask(BODY)
        assert answer.status_code == 200, answer.text
        return answer.text

    def running(self) -> int:
        """Return how many requests run."""
        return sum(int(row["running"]) for row in self.queues())

    def queues(self) -> list[dict[str, Any]]:
        """Return what `aqueduct queues` tells of each model."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "AQUEDUCT_DATA_DIR": str(self.folder / "data")}
        command = [sys.executable, "-m", "aqueduct", "queues", "--once", "--json", *self._config]
        told = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20, check=True)
        rows: list[dict[str, Any]] = json.loads(told.stdout)["models"]
        return rows


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    started = Up(tmp_path)
    started.wait_ready()
    yield started
    started.process.stop(20)


def command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return ""


def has_open(pid: int, path: Path) -> bool:
    return str(path) in {found.path for found in psutil.Process(pid).open_files()}


def secrets_in(processes: list[psutil.Process]) -> set[str]:
    assert processes
    return {value for process in processes for value in process.environ().values() if value.startswith("canary-")}


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [child for child in processes if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


def test_banner_is_all_a_newcomer_needs(up: Up) -> None:
    assert f"http://127.0.0.1:{up.port}/v1" in up.log
    assert up.token in up.log
    assert "data: [DONE]" in up.stream()
    assert "It listens on 127.0.0.1 only, this machine's own (--host 0.0.0.0 for all)" in up.log
    status = re.search(r"Status  (\S+)\n\s+token (\S+)", up.log)
    assert status and status[2] != up.token
    address = status[1].removesuffix("/ui")
    with httpx.Client(base_url=address, headers={"origin": address}, follow_redirects=True, timeout=10) as browser:
        entered = browser.post("/ui/login", data={"token": status[2]})
    assert entered.status_code == 200 and "<h1>Now</h1>" in entered.text and "up-operator" in entered.text
    flower = re.search(r"Flower  (\S+)\n\s+user (\w+), password (\S+)", up.log)
    assert flower
    address, user, password = flower.groups()
    assert httpx.get(f"{address}/workers", auth=(user, password), timeout=10).status_code == 200
    assert httpx.get(f"{address}/workers", timeout=10).status_code == 401
    behind = f"http://127.0.0.1:{up.port}/flower/"
    assert f"or {behind} without" in up.log
    with httpx.Client(follow_redirects=True, timeout=10) as browser:
        assert browser.get(behind).url.path == "/ui/login"
        host = behind.removesuffix("/flower/")
        form = {"token": status[2], "next": "/flower/"}
        assert "Flower" in browser.post(f"{host}/ui/login", data=form, headers={"origin": host}).text


def test_the_demos_faults_can_be_tried_through_it(up: Up) -> None:
    answer = up.ask({**BODY, "model": "demo", "demo": "status=400&code=teapot"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "teapot")
    headers = {"authorization": f"Bearer {up.token}"}
    for path, more in (("completions", {"prompt": "x"}), ("embeddings", {"input": "x"})):
        body = {"model": "demo", "demo": "status=400&code=teapot", **more}
        assert (
            httpx.post(f"http://127.0.0.1:{up.port}/v1/{path}", json=body, headers=headers).json()["error"]["code"]
            == "teapot"
        )


def test_sigterm_ends_everything_in_order(up: Up) -> None:
    children = up.children()
    assert len(children) >= 5
    up.process.terminate()
    assert up.process.wait(30) == 0
    assert alive(children) == []
    assert "Traceback" not in up.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_plain_request_in_flight_is_answered_within_the_grace(tmp_path: Path, number: signal.Signals) -> None:
    up = Up(tmp_path, "--no-flower")
    try:
        up.wait_ready()
        with ThreadPoolExecutor(1) as pool:
            long = [{"role": "user", "content": "word " * 80}]
            asked = pool.submit(up.ask, {"model": "demo-slow", "messages": long, "max_tokens": 80})
            wait_until(up.running, 10, "the request to run")
            up.process.signal(number)
            wait_until(lambda: "ending; open requests" in up.log, 5, "the end to begin")
            assert not asked.done(), "the answer must be slower than that for this test to tell anything"
            answer = asked.result(30)
        assert answer.status_code == 200, answer.text
        assert up.process.wait(30) == 0
        assert "Traceback" not in up.log
    finally:
        up.process.stop(20)


def test_a_request_that_waits_at_the_signal_is_served_within_the_grace(
    tmp_path: Path, demo_backend: DemoBackend
) -> None:
    """Told to end together with the APIs, workers would take nothing more for those who wait there."""
    config = tmp_path / "aqueduct.yaml"
    backend = {"url": demo_backend.url, "model": "demo?tokens=40&token_seconds=0.2"}
    config.write_text(yaml.safe_dump({"models": {"m": {"concurrency": 1, "backends": [backend]}}}))
    up = Up(tmp_path, "--config", str(config), "--no-flower")
    try:
        up.wait_ready()
        with ThreadPoolExecutor(2) as pool:
            body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
            running = pool.submit(up.ask, body)
            wait_until(up.running, 10, "the request to run")
            waiting = pool.submit(up.ask, body)
            wait_until(lambda: sum(up.queues()[0]["waiting"].values()), 10, "the other to wait")
            assert not running.done()
            up.process.signal(signal.SIGTERM)
            assert [asked.result(30).status_code for asked in (running, waiting)] == [200, 200]
        assert up.process.wait(30) == 0
    finally:
        up.process.stop(20)


def test_a_signal_is_heard_while_redis_cannot_start_again(tmp_path: Path) -> None:
    up = Up(tmp_path, "--no-flower")
    try:
        up.wait_ready()
        (server,) = up.children("redis-server")
        # What stands for a left-over server: whoever holds this lock keeps the next one waiting, for 10 s at most.
        with (tmp_path / "data" / "redis" / "alive.lock").open("w") as held:
            server.kill()
            fcntl.flock(held, fcntl.LOCK_EX)
            wait_until(lambda: "redis    | ended; starting it again" in up.log, 5, "the loss to be seen")
            wait_until(partial(has_open, up.process.pid, Path(held.name)), 10, "the new start to wait")
            up.process.terminate()
            wait_until(lambda: "ending; open requests" in up.log, 3, "the signal to be heard")
        up.process.wait(40)
    finally:
        up.process.stop(20)


@pytest.mark.chaos
def test_killed_children_come_back_and_serve_again(up: Up) -> None:
    for word in ("aqueduct worker", "aqueduct api", "redis-server"):
        killed = up.children(word)
        assert killed
        for child in killed:
            child.kill()
        gone = {child.pid for child in killed}
        wait_until(partial(up.has_new, word, gone), 20, f"a new {word}")

    def served() -> bool:
        try:
            return "data: [DONE]" in up.stream()
        except (httpx.TransportError, AssertionError):
            return False

    wait_until(served, 40, "an answer after all were killed", poll_seconds=0.5)


@pytest.mark.chaos
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their killed parent")
def test_killed_up_leaves_no_process(up: Up) -> None:
    children = up.children()
    os.kill(up.process.pid, signal.SIGKILL)
    up.process.wait()
    wait_until(lambda: not alive(children), 15, "the children to end")


@pytest.mark.chaos
def test_second_interrupt_ends_at_once(up: Up) -> None:
    children = up.children()
    up.process.signal(signal.SIGINT)
    wait_until(lambda: "Ctrl-C again" in up.log, 5, "the first interrupt")
    up.process.signal(signal.SIGINT)
    up.process.wait(10)
    assert alive(children) == []


def test_several_api_processes_share_the_port(tmp_path: Path) -> None:
    up = Up(tmp_path, "--api-processes", "2", "--no-flower")
    try:
        up.wait_ready()
        assert len(up.children("aqueduct api")) == 2
        assert up.children("aqueduct flower") == []
        assert "data: [DONE]" in up.stream()
    finally:
        up.process.stop(20)


def test_a_new_model_gets_a_worker_when_the_watched_file_has_changed(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    models = {"demo": {"backends": [{"url": f"http://127.0.0.1:{free_port()}/v1"}]}}
    file.write_text(yaml.safe_dump({"models": models}))
    up = Up(tmp_path, "--config", str(file), "--no-flower", "--watch")
    try:
        up.wait_ready()
        (first,) = up.children("aqueduct worker")
        file.write_text("models: nonsense")
        wait_until(lambda: "up       | the configuration was not reloaded" in up.log, 10, "the refusal")
        file.write_text(yaml.safe_dump({"models": models | {"new": models["demo"]}}))
        wait_until(lambda: len(up.children("aqueduct worker")) == 2, 20, "a worker for the new model")
        assert first in up.children("aqueduct worker")
        # Its backend is not there, and a worker tells so.
        wait_until(lambda: up.ask({**BODY, "model": "new"}).json()["error"]["code"] == "backend_unavailable", 20)
        children = up.children()
    finally:
        up.process.stop(20)
    assert alive(children) == []


def test_a_worker_comes_back_without_the_model_that_a_reload_has_taken(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    backends = [{"url": f"http://127.0.0.1:{free_port()}/v1"}]
    models = {f"m-{n}": {"backends": backends} for n in range((os.cpu_count() or 1) + 1)}  # two of them share a worker
    file.write_text(yaml.safe_dump({"models": models}))
    up = Up(tmp_path, "--config", str(file), "--no-flower")
    try:
        up.wait_ready()
        (shared,) = (child for child in up.children("aqueduct worker") if child.cmdline()[-2] == "m-0")
        left = shared.cmdline()[-1]
        file.write_text(yaml.safe_dump({"models": {name: given for name, given in models.items() if name != "m-0"}}))
        up.process.signal(signal.SIGHUP)
        wait_until(lambda: "removed=m-0" in up.log, 10, "the reload")
        shared.kill()
        wait_until(lambda: up.has_new(f"aqueduct worker -- {left}", {shared.pid}), 20, "a worker for what is left")
        wait_until(lambda: up.ask({**BODY, "model": left}).json()["error"]["code"] == "backend_unavailable", 20)
        file.write_text(yaml.safe_dump({"models": models}))
        up.process.signal(signal.SIGHUP)
        wait_until(lambda: up.has_new("aqueduct worker -- m-0", {shared.pid}), 20, "a worker for what is back")
    finally:
        up.process.stop(20)


def test_a_watched_file_that_changes_while_redis_is_away_ends_nothing_and_is_read_later(
    tmp_path: Path, own_redis: RedisServer
) -> None:
    file = tmp_path / "own.yaml"
    models = {"demo": {"backends": [{"url": f"http://127.0.0.1:{free_port()}/v1"}]}}
    file.write_text(yaml.safe_dump({"redis_url": own_redis.url, "models": models}))
    up = Up(tmp_path, "--config", str(file), "--no-flower", "--watch")
    try:
        wait_until(lambda: len(up.children("aqueduct worker")) == 1, 60, "the worker")
        wait_until(lambda: "aqueduct.worker ready" in up.log or not up.process.running, 60, "it to be ready")
        own_redis.kill()
        file.write_text(yaml.safe_dump({"redis_url": own_redis.url, "models": models | {"new": models["demo"]}}))
        time.sleep(6)  # a look, and what a call waits for Redis at most
        assert up.process.running, up.log
        own_redis.restart()
        wait_until(lambda: len(up.children("aqueduct worker")) == 2, 30, "a worker for the new model")
    finally:
        up.process.stop(20)


def test_file_without_tokens_gets_the_printed_one(tmp_path: Path) -> None:
    config = {"models": {"demo": {"backends": [{"url": f"http://127.0.0.1:{free_port()}/v1"}]}}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(config))
    up = Up(tmp_path, "--config", str(tmp_path / "own.yaml"), "--no-flower")
    try:
        up.wait_ready()
        headers = {"authorization": f"Bearer {up.token}"}
        answer = httpx.get(f"http://127.0.0.1:{up.port}/v1/models", headers=headers, timeout=5)
        assert answer.status_code == 200, "the banner shows a token that is not yet known"
    finally:
        up.process.stop(20)


def test_each_child_is_given_its_own_secrets_and_runs(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    models = {name: {"backends": [{"url": url, "api_key": f"${{KEY_{name}}}"}]} for name in ("a", "b")}
    config = {"models": models, "flower": {"password": "${FLOWER_SECRET}"}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(config))
    secrets = {"KEY_a": "canary-a", "KEY_b": "canary-b", "FLOWER_SECRET": "canary-flower"}
    up = Up(tmp_path, "--config", str(tmp_path / "own.yaml"), environment=secrets)
    try:
        up.wait_ready()
        assert secrets_in(up.children("aqueduct api")) == set()
        assert secrets_in(up.children("redis-server")) == set()
        assert secrets_in(up.children("aqueduct flower")) == {"canary-flower"}
        for worker in up.children("aqueduct worker"):
            served = worker.cmdline()[worker.cmdline().index("--") + 1 :]
            assert secrets_in([worker]) == {f"canary-{name}" for name in served}
        broker = httpx.get(f"{up.flower}/broker", auth=("aqueduct", "canary-flower"), timeout=10)
        assert "aqueduct.a" in broker.text
    finally:
        up.process.stop(20)


def test_a_dead_backend_is_told_and_a_hangup_ends_nothing(tmp_path: Path) -> None:
    config = tmp_path / "aqueduct.yaml"
    config.write_text(f"models: {{m: {{backends: [{{url: 'http://user:secret@127.0.0.1:{free_port()}/v1'}}]}}}}\n")
    started = Up(tmp_path, "--config", str(config), "--no-flower")
    try:
        started.wait_ready()
        wait_until(lambda: "up       | warning: backend http://127.0.0.1:" in started.log, 10, "the warning")
        assert "cannot be reached (ConnectError). Fix: start it, or mend its url" in started.log
        assert "secret" not in started.log
        assert f"export AQUEDUCT_DATA_DIR={tmp_path / 'data'}" in started.log
        started.process.signal(signal.SIGHUP)
        wait_until(lambda: started.log.count("aqueduct.reload reloaded") == 2, 10, "API and worker to reload")
        assert started.process.running
        assert started.ask({**BODY, "model": "m"}).status_code == 503
    finally:
        started.process.stop(20)


def test_a_folder_that_takes_nothing_is_told_in_one_line(tmp_path: Path) -> None:
    """A full disk, as far as it can be had without one: no file may have a byte."""
    code = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); from aqueduct.cli import main; "
    run = subprocess.run(
        [sys.executable, "-c", code + "sys.exit(main(sys.argv[1:]))", "up", "--data-dir", tmp_path / "data"],
        capture_output=True, text=True, timeout=30, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    (line,) = run.stderr.splitlines()
    assert run.returncode == 1
    assert line.startswith(f"error: {tmp_path / 'data'}")
    assert "File too large. Make room" in line
    assert "--data-dir" in line


def test_taken_port_ends_it_with_the_option_to_use(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        process = Process.python(
            "-m", "aqueduct", "up", "--data-dir", tmp_path, "--port", port, log_file=tmp_path / "up.log"
        ).start()
        assert process.wait(30) == 1
    assert f"error: cannot listen on 127.0.0.1:{port}" in process.log()
    assert "--port" in process.log()
    assert "Traceback" not in process.log()


def test_an_unreadable_mirror_of_tokens_ends_it_before_anything_is_started(tmp_path: Path) -> None:
    (tmp_path / "tokens.json").write_text("{")
    process = Process.python(
        "-m", "aqueduct", "up", "--data-dir", tmp_path, "--port", str(free_port()), log_file=tmp_path / "up.log"
    ).start()
    assert process.wait(30) == 1
    (line,) = process.log().splitlines()
    assert line.startswith(f"error: {tmp_path}/tokens.json: is not a mirror of tokens; remove it")
