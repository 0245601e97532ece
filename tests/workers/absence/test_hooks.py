"""Hooks: a command or a request of the configuration, within a time limit, and what is told when it fails."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from shared.absence_settings import HookSettings
from tests.support.asynchronous import asynchronous
from tests.support.processes import free_port
from tests.support.receiver import Receiver
from tests.support.waiting import wait_until_async
from workers.absence.hooks import MOST_SHOWN_CHARACTERS, call_hook


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as opened:
        yield opened


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@asynchronous
async def test_a_command_runs_without_a_shell_and_knows_its_model(tmp_path: Path) -> None:
    script = f"import os, sys; open({str(tmp_path / 'said')!r}, 'w').write(os.environ['AQUEDUCT_MODEL'] + sys.argv[1])"
    assert await call_hook(HookSettings(command=(sys.executable, "-c", script, " $HOME; rm *")), "a b") is None
    assert (tmp_path / "said").read_text() == "a b $HOME; rm *"


@asynchronous
@pytest.mark.parametrize(
    ("command", "problem"),
    [
        (("sh", "-c", "echo first; echo not there; exit 3"), "sh ended with 3: not there"),
        (("/no/such/program",), "/no/such/program cannot be run: No such file or directory"),
        (("sh", "-c", "printf '\\033[31mred'; exit 1"), "sh ended with 1: \\x1b[31mred"),
    ],
)
async def test_a_command_that_fails_is_told_in_one_line(command: tuple[str, ...], problem: str) -> None:
    assert await call_hook(HookSettings(command=command), "m") == problem


@asynchronous
async def test_a_command_that_hangs_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    hook = HookSettings(command=("sh", "-c", f"sleep 300 & echo $$ $! > {pids}; wait"), timeout_seconds=1)
    assert await call_hook(hook, "m") == "sh was killed after 1 s"
    both = [int(pid) for pid in pids.read_text().split()]
    assert len(both) == 2
    await wait_until_async(lambda: not any(map(is_running, both)), 5, "the command's group to be gone")


@asynchronous
async def test_a_command_dies_with_its_worker(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    calling = asyncio.create_task(
        call_hook(HookSettings(command=("sh", "-c", f"sleep 300 & echo $! > {pids}; wait")), "m")
    )
    await wait_until_async(lambda: pids.exists() and pids.read_text(), 5, "the command to run")
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    await wait_until_async(lambda: not is_running(int(pids.read_text())), 5, "what it started to be gone")


@asynchronous
async def test_a_commands_endless_output_neither_blocks_it_nor_is_kept() -> None:
    script = "head -c 10000000 /dev/zero | tr '\\0' x; exit 1"
    problem = await call_hook(HookSettings(command=("sh", "-c", script)), "m")
    assert problem is not None
    assert problem == "sh ended with 1: " + "x" * MOST_SHOWN_CHARACTERS


@asynchronous
async def test_a_server_that_a_command_leaves_behind_does_not_hold_it_up() -> None:
    began = time.monotonic()
    hook = HookSettings(command=("sh", "-c", "sleep 5 & exit 0"), timeout_seconds=30)
    assert await call_hook(hook, "m") is None
    assert time.monotonic() - began < 4


@asynchronous
async def test_a_request_is_sent_as_it_is_configured(receiver: Receiver) -> None:
    hook = HookSettings.model_validate(
        {"url": receiver.url, "headers": {"Authorization": "Bearer secret"}, "body": '{"replicas": 1}'}
    )
    assert await call_hook(hook, "m") is None
    (sent,) = receiver.deliveries
    assert (sent.path, sent.body) == ("/hooks?key=in-the-url", b'{"replicas": 1}')
    assert sent.headers["authorization"] == "Bearer secret"
    assert sent.headers["content-type"] == "application/json"
    assert sent.headers["host"] == f"127.0.0.1:{receiver.port}"


@asynchronous
async def test_a_request_that_fails_is_told_without_what_may_be_secret(receiver: Receiver) -> None:
    hook = HookSettings.model_validate({"url": receiver.url, "headers": {"x-key": "secret"}, "timeout_seconds": 1})
    receiver.status = 500
    assert await call_hook(hook, "m") == "127.0.0.1 answered 500"
    receiver.status, receiver.location = 302, "http://127.0.0.1:1/elsewhere"
    assert await call_hook(hook, "m") == "127.0.0.1 answered 302"
    receiver.hangs = True
    assert await call_hook(hook, "m") == "no answer within 1 s"
    nobody = HookSettings(url=f"http://127.0.0.1:{free_port()}/secret")
    assert await call_hook(nobody, "m") == "ConnectError at 127.0.0.1"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({}, "url: Value error, is needed, or command in its place"),
        ({"url": "http://h/", "command": ["a"]}, "url: Value error, cannot stand beside command"),
        ({"command": []}, "command: Value error, must be a list of a program"),
        ({"command": "systemctl start x"}, "command"),
        ({"url": "ftp://h/"}, "url: Value error, must be an http:// or https:// URL"),
        ({"url": "http://user:word@h/"}, "without name, password"),
        ({"url": "http://h/", "headers": {"Host": "x"}}, "must not hold host"),
        ({"url": "http://h/", "headers": {"a": "b\nc: d"}}, "must give a one line"),
        ({"url": "http://h/", "timeout_seconds": 9, "cooldown_seconds": 5}, "shorter than timeout_seconds (9)"),
        ({"url": "http://h/", "retries": 3}, "retries"),
    ],
)
def test_a_hook_that_cannot_be_is_refused_by_name(given: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError) as failure:
        HookSettings.model_validate(given)
    told = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in failure.value.errors()]
    assert any(reason in line for line in told), told
    assert not any("word" in line and "user" in line for line in told)
