"""The tests' own tools: a wait that shows what it saw, a Redis that can be hurt, a backend that remembers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest
import redis

from tests.support.keys import keys_without_lifetime
from tests.support.processes import ROOT, Process, RedisServer
from tests.support.system import DemoBackend
from tests.support.waiting import wait_until, wait_until_async

pytestmark = pytest.mark.timeout(60)


def test_wait_returns_the_first_truthy_answer() -> None:
    answers = iter([0, None, "", 7, 8])
    assert wait_until(lambda: next(answers), 5, "a number") == 7


def test_wait_that_fails_shows_what_was_last_seen() -> None:
    with pytest.raises(AssertionError, match=r"waited 0\.05 s for three jobs; last seen: \[\]"):
        wait_until(list, 0.05, "three jobs")


def test_async_wait_takes_awaitables() -> None:
    import asyncio  # noqa: PLC0415 - only here

    async def condition() -> int:
        return 3

    assert asyncio.run(wait_until_async(condition)) == 3


def test_killed_redis_restarts_with_its_data_on_the_same_url(own_redis: RedisServer) -> None:
    with own_redis.client() as client:
        client.set("kept", "yes")
        wait_until(lambda: client.info("persistence")["aof_pending_bio_fsync"] == 0, 5, "the file to be synced")
    url = own_redis.url
    own_redis.kill()
    with own_redis.client() as client, pytest.raises(redis.ConnectionError):
        client.ping()
    own_redis.restart()
    assert own_redis.url == url
    with own_redis.client() as client:
        assert client.get("kept") == b"yes"


def test_redis_restarted_empty_has_nothing(own_redis: RedisServer) -> None:
    with own_redis.client() as client:
        client.set("lost", "yes")
    own_redis.restart_empty()
    with own_redis.client() as client:
        assert client.dbsize() == 0


def test_frozen_redis_answers_nothing_until_thawed(own_redis: RedisServer) -> None:
    with redis.Redis.from_url(own_redis.url, socket_timeout=0.2, retry=None) as client:
        client.ping()
        own_redis.freeze()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        own_redis.thaw()
        assert wait_until(client.ping, 5, "an answer")


def test_dropped_connections_are_noticed_by_their_clients(own_redis: RedisServer) -> None:
    with own_redis.client() as client, client.pubsub() as listener:
        listener.subscribe("somewhere")
        assert listener.get_message(timeout=5)
        before = client.client_id()
        own_redis.drop_connections()
        assert client.client_id() != before
        with pytest.raises(redis.ConnectionError):
            listener.connection.read_response(timeout=5)


def test_what_fails_while_it_starts_is_stopped(tmp_path: Path) -> None:
    class NeverReady(Process):
        def start(self, *, stdin: bytes | None = None) -> Process:
            super().start(stdin=stdin)
            raise AssertionError("it is not ready")

    process = NeverReady([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "log")
    with pytest.raises(AssertionError, match="not ready"), process:
        pass
    assert not psutil.pid_exists(process.pid)


def test_process_is_stopped_by_force_when_it_ignores_signals(tmp_path: Path) -> None:
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"
    )
    process = Process.python("-c", stubborn, log_file=tmp_path / "log").start()
    wait_until(lambda: "on" in process.log(), 10, "its first line")
    assert process.stop(timeout_seconds=0.2) == -signal.SIGKILL
    assert not psutil.pid_exists(process.pid)


def test_process_shows_its_log_when_it_does_not_end(tmp_path: Path) -> None:
    process = Process.python(
        "-c", "import time; print('here', flush=True); time.sleep(60)", log_file=tmp_path / "log"
    ).start()
    wait_until(lambda: "here" in process.log(), 10, "its first line")
    try:
        with pytest.raises(AssertionError, match="here"):
            process.wait(0.05)
    finally:
        process.stop()


def test_demo_backend_remembers_requests_until_cleared(tmp_path: Path) -> None:
    backend = DemoBackend(tmp_path).start()
    try:
        body = {"model": "demo", "messages": [{"role": "user", "content": "remember me"}]}
        httpx.post(f"{backend.url}/chat/completions", json=body).raise_for_status()
        assert "remember me" in str(backend.requests())
        assert backend.state()["total_requests"] == 1
        backend.clear()
        assert backend.requests() == []
    finally:
        backend.stop()
    assert backend.process.returncode == 0
    assert not psutil.pid_exists(backend.process.pid)


def test_key_check_finds_what_would_stay_for_ever(own_redis: RedisServer) -> None:
    with own_redis.client() as client:
        client.set("with-lifetime", 1, ex=60)
        client.set("job:1", 1)
        client.set("allowed:1", 1)
        assert keys_without_lifetime(client, [r"allowed:\d+"]) == ["job:1"]


def test_children_can_be_interrupted(tmp_path: Path) -> None:
    code = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    process = Process.python("-c", code, log_file=tmp_path / "log").start()
    assert process.wait() == 0
    assert process.log() == "True\n"


def test_children_can_be_interrupted_also_when_the_run_was_started_in_the_background() -> None:
    test = f"{Path(__file__).relative_to(ROOT)}::test_children_can_be_interrupted"
    pytest_alone = [sys.executable, "-m", "pytest", "-p", "no:schemathesis", "-p", "no:hypothesispytest", test]
    command = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *pytest_alone]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stdout


def test_environment_of_children_has_the_project_on_its_path(tmp_path: Path) -> None:
    process = Process.python("-c", "import shared.errors; print('found')", log_file=tmp_path / "log").start()
    assert process.wait() == 0, process.log()
    assert os.getpgid(0) != process.pid
