"""`aqueduct flower`: a login, nothing that changes anything, and no secret where others can read it."""

from __future__ import annotations

import base64
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from aqueduct.flower_view.door import is_login
from tests.support.processes import Process, RedisServer, free_port
from tests.support.waiting import wait_until

PASSWORD = "correct-horse"


@pytest.fixture(scope="module")
def flower(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer) -> Iterator[tuple[Process, str]]:
    folder = tmp_path_factory.mktemp("flower")
    port = free_port()
    config = {
        "redis_url": redis_server.url,
        "models": {"demo": {"backends": [{"url": "http://127.0.0.1:1/v1"}]}},
        "flower": {"port": port, "password": "${FLOWER_SECRET}"},
    }
    (folder / "aqueduct.yaml").write_text(yaml.safe_dump(config))
    process = Process.python(
        "-m", "aqueduct", "flower", "--config", folder / "aqueduct.yaml",
        log_file=folder / "flower.log", environment={"FLOWER_SECRET": PASSWORD},
    ).start()  # fmt: skip
    wait_until(lambda: "aqueduct.flower ready" in process.log() or not process.running, 30, "Flower to listen")
    assert process.running, process.log()
    yield process, f"http://127.0.0.1:{port}"
    process.stop()


@pytest.mark.parametrize("path", ["/", "/workers", "/tasks", "/broker", "/api/workers", "/api/tasks"])
def test_nothing_is_shown_without_the_login(flower: tuple[Process, str], path: str) -> None:
    _, url = flower
    assert httpx.get(f"{url}{path}").status_code == 401
    assert httpx.get(f"{url}{path}", auth=("aqueduct", "wrong")).status_code == 401


def basic(login: str) -> str:
    return f"Basic {base64.b64encode(login.encode()).decode()}"


@pytest.mark.parametrize(
    "header",
    [basic("ü:ü"), basic("aqueduct:correct-horsé"), "Basic ü", "Basic", "Basic =", basic(":"), "Bearer x", "x" * 8000],
)
def test_an_odd_login_is_401_without_a_traceback(flower: tuple[Process, str], header: str) -> None:
    process, url = flower
    assert httpx.get(f"{url}/api/workers", headers=[(b"authorization", header.encode("latin-1"))]).status_code == 401
    assert "Traceback" not in process.log()


def test_a_login_may_hold_any_character() -> None:
    assert is_login(basic("jörg:pässwörd:☃"), "jörg:pässwörd:☃")
    assert not is_login(basic("jörg:pässwörd:x"), "jörg:pässwörd:☃")
    assert not is_login(basic("jörg:pässwörd:☃").replace("Basic", "Bearer"), "jörg:pässwörd:☃")


def test_login_shows_the_workers_page(flower: tuple[Process, str]) -> None:
    _, url = flower
    answer = httpx.get(f"{url}/workers", auth=("aqueduct", PASSWORD), follow_redirects=True)
    assert answer.status_code == 200
    assert "Flower" in answer.text


def test_operations_are_refused(flower: tuple[Process, str]) -> None:
    _, url = flower
    answer = httpx.post(f"{url}/api/task/revoke/some-id", auth=("aqueduct", PASSWORD))
    assert answer.status_code == 403


def test_secrets_are_neither_on_the_command_line_nor_in_the_log(
    flower: tuple[Process, str], redis_server: RedisServer
) -> None:
    process, url = flower
    seen = " ".join(psutil.Process(process.pid).cmdline()) + process.log()
    seen += httpx.get(f"{url}/broker", auth=("aqueduct", PASSWORD)).text
    assert PASSWORD not in seen
    assert redis_server.password not in seen


def test_sigterm_ends_it_without_a_traceback(tmp_path: Path, flower: tuple[Process, str]) -> None:
    process, _ = flower
    assert process.stop() == 0
    assert "Traceback" not in process.log()


def test_its_log_is_json_alone_and_a_hangup_ends_nothing(tmp_path: Path, redis_server: RedisServer) -> None:
    port = free_port()
    config = {
        "redis_url": redis_server.url,
        "log_format": "json",
        "models": {"demo": {"backends": [{"url": "http://127.0.0.1:1/v1"}]}},
        "flower": {"port": port, "password": PASSWORD},
    }
    (tmp_path / "aqueduct.yaml").write_text(yaml.safe_dump(config))
    process = Process.python(
        "-m", "aqueduct", "flower", "--config", tmp_path / "aqueduct.yaml", log_file=tmp_path / "flower.log"
    ).start()
    try:
        wait_until(lambda: '"ready"' in process.log() or not process.running, 30, "Flower to listen")
        process.signal(signal.SIGHUP)
        wait_until(
            lambda: "SIGHUP: Flower reads its settings at its start only" in process.log(), 10, "the word on SIGHUP"
        )
        assert httpx.get(f"http://127.0.0.1:{port}/workers", auth=("aqueduct", PASSWORD)).status_code == 200
        process.terminate()
        process.wait(20)
    finally:
        process.stop()
    entries = [json.loads(line) for line in process.log().splitlines()]
    (ready,) = [entry for entry in entries if entry["message"] == "ready"]
    assert (ready["url"], "redis" in ready, "version" in ready) == (f"http://127.0.0.1:{port}", True, True)
    assert process.returncode == 0
