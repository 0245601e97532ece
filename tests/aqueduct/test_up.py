"""`aqueduct up`, whole: a newcomer's first answer, children that come back, and nothing left when it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from tests.support.processes import Process, free_port
from tests.support.waiting import wait_until

BODY = {"model": "demo", "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
READY_SECONDS = 60


class Up:
    """One `aqueduct up` with a port and a data folder of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self.folder = folder
        self.process = Process.python(
            "-m", "aqueduct", "up", "--data-dir", folder / "data", "--port", str(self.port), *options,
            log_file=folder / "up.log", environment={"AQUEDUCT_FLOWER__PORT": str(free_port())},
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

    def stream(self) -> str:
        headers = {"authorization": f"Bearer {self.token}"}
        url = f"http://127.0.0.1:{self.port}/v1/chat/completions"
        answer = httpx.post(url, json=BODY, headers=headers, timeout=20)
        assert answer.status_code == 200, answer.text
        return answer.text


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


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [child for child in processes if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


def test_banner_is_all_a_newcomer_needs(up: Up) -> None:
    assert f"http://127.0.0.1:{up.port}/v1" in up.log
    assert up.token in up.log
    assert "data: [DONE]" in up.stream()
    flower = re.search(r"Flower  (\S+)\n\s+user (\w+), password (\S+)", up.log)
    assert flower
    address, user, password = flower.groups()
    assert httpx.get(f"{address}/workers", auth=(user, password), timeout=10).status_code == 200
    assert httpx.get(f"{address}/workers", timeout=10).status_code == 401


def test_sigterm_ends_everything_in_order(up: Up) -> None:
    children = up.children()
    assert len(children) >= 5
    up.process.terminate()
    assert up.process.wait(30) == 0
    assert alive(children) == []
    assert "Traceback" not in up.log


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


def test_file_without_tokens_gets_the_printed_one(tmp_path: Path) -> None:
    config = {"models": {"demo": {"backends": [{"url": f"http://127.0.0.1:{free_port()}/v1"}]}}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(config))
    up = Up(tmp_path, "--config", str(tmp_path / "own.yaml"), "--no-flower")
    try:
        up.wait_ready()
        headers = {"authorization": f"Bearer {up.token}"}
        url = f"http://127.0.0.1:{up.port}/v1/models"
        wait_until(lambda: httpx.get(url, headers=headers, timeout=5).status_code == 200, 10, "the token to be known")
    finally:
        up.process.stop(20)


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
