"""What an operator does each day: look at logs, send signals, open the page of endpoints, start things in any order."""

from __future__ import annotations

import json
import re
import signal
import threading
from functools import partial
from pathlib import Path

import httpx
import pytest

from aqueduct.cli import main
from shared.tokens import new_token
from tests.conftest import MakeSystem
from tests.support.chat import CHAT, chat_body
from tests.support.models import model
from tests.support.processes import Process, free_port
from tests.support.system import System
from tests.support.waiting import wait_until


@pytest.fixture
def logged(make_system: MakeSystem) -> System:
    """A system with JSON logs and one model that takes its time."""
    slow = model("tokens=20&token_seconds=0.05")
    return make_system(models={"slow": slow}, settings={"log_format": "json", "worker": {"drain_seconds": 1}})


def says(process: Process, words: str) -> bool:
    return words in process.log()


def entries(process: Process) -> list[dict[str, object]]:
    """Return a log's lines, each of which must be a JSON object."""
    return [json.loads(line) for line in process.log().splitlines()]


@pytest.mark.parametrize("accept", ["text/html", "*/*"])
def test_the_page_of_endpoints_asks_nobody_else(make_system: MakeSystem, accept: str) -> None:
    system = make_system(models={"m": model()})
    with system.client() as client:
        page = client.get("/docs", headers={"accept": accept})
        assert page.status_code == 200
        for path in ("/chat/completions", "/completions", "/embeddings", "/models/{model}", "/readyz"):
            assert f"<code>{path}</code>" in page.text
        assert "max_completion_tokens" in page.text
        assert f"curl -N {system.base_url}/v1/chat/completions" in page.text
        others = {link for link in re.findall(r"""(?:href|src)=["']?([^"' >]+)""", page.text) if link[0] not in "#/"}
        assert others == {"data:,"}
        assert "<script" not in page.text
        assert "default-src 'none'" in page.headers["content-security-policy"]
        named = set(re.findall(r'<details id="(\w+)"', page.text))
        assert set(re.findall(r'href="#(\w+)"', page.text)) <= named
        assert client.get("/redoc", follow_redirects=False).headers["location"] == "/docs"
        assert client.get("/favicon.ico").status_code == 204
        described = client.get("/openapi.json").json()
        assert described["servers"][0]["url"] == "/"
        assert f"`{new_token()[:6]}" in described["components"]["securitySchemes"]["bearer"]["description"]


def test_each_process_says_in_one_line_that_it_is_ready_and_with_what(logged: System) -> None:
    assert logged.api is not None
    (api,) = [entry for entry in entries(logged.api) if entry["message"] == "ready"]
    (worker,) = [entry for entry in entries(logged.workers[0]) if entry["message"] == "ready"]
    for entry in (api, worker):
        assert (entry["models"], entry["pid"] is not None, entry["version"]) == ("slow", True, api["version"])
        assert re.fullmatch(r"(redis|unix)://[^@]+", str(entry["redis"]))
    assert api["url"] == logged.base_url
    assert worker["slots"]
    assert httpx.get(f"{logged.base_url}/healthz").json()["version"] == api["version"]


def test_a_hangup_ends_nothing_and_reloads(logged: System) -> None:
    assert logged.api is not None
    processes = [logged.api, logged.workers[0]]
    with logged.client() as client:
        answer: list[str] = []

        def stream() -> None:
            answer.append(client.post(CHAT, json=chat_body("slow", stream=True)).text)

        caller = threading.Thread(target=stream)
        caller.start()
        for process in processes:
            process.signal(signal.SIGHUP)
            wait_until(partial(says, process, "reloaded"), 10)
        caller.join(20)
        assert answer[0].endswith("data: [DONE]\n\n")
        assert client.post(CHAT, json=chat_body("slow")).status_code == 200
    assert all(process.running for process in processes)


def test_a_log_in_json_holds_nothing_else_from_start_to_end(logged: System) -> None:
    assert logged.api is not None
    processes = [logged.api, logged.workers[0]]
    for process in reversed(processes):
        process.terminate()
    for process in processes:
        process.wait(20)
        last = entries(process)
        assert "draining" in [entry["message"] for entry in last]
        assert {"level", "logger", "time"} <= last[-1].keys()
        assert not [entry for entry in last if not str(entry["logger"]).startswith("aqueduct")]  # uvicorn's, Celery's


def test_a_redis_that_is_away_is_told_in_one_line(tmp_path: Path) -> None:
    url = f"redis://user:secret-word@127.0.0.1:{free_port()}/0"
    config = tmp_path / "aqueduct.yaml"
    config.write_text(f"redis_url: {url}\nmodels: {{m: {{backends: [{{url: 'http://127.0.0.1:9/v1'}}]}}}}\n")
    processes = [
        Process.python("-m", "aqueduct", name, "--config", config, *more, log_file=tmp_path / f"{name}.log").start()
        for name, more in (("api", ("--port", str(free_port()))), ("worker", ()))
    ]
    for process in processes:
        process.wait(25)
        lines = process.log().splitlines()
        assert lines[-1].startswith("error: Redis does not answer at redis://127.0.0.1:")
        assert lines[-1].endswith("Start it, or set redis_url (AQUEDUCT_REDIS_URL).")
        assert len(lines) == 2  # and before it, that it waits
        assert "secret-word" not in process.log()
        assert process.returncode == 1


def test_a_tokens_last_use_is_told_to_operators(make_system: MakeSystem, capsys: pytest.CaptureFixture[str]) -> None:
    system = make_system(models={"m": model("tokens=1")}, tokens={"idle": {}})

    def last_used() -> dict[str, str | None]:
        assert main(["token", "list", "--json", "--config", str(system.config_file)]) == 0
        return {one["name"]: one["last_used_at"] for one in json.loads(capsys.readouterr().out)}

    assert last_used() == {"test": None, "idle": None}
    with system.client() as client:
        client.get("/v1/models")
    wait_until(lambda: last_used()["test"], 15, "the use to be told")
    assert last_used()["idle"] is None
    assert main(["token", "list", "--config", str(system.config_file)]) == 0
    names, used, idle = (re.split(r"  +", line) for line in capsys.readouterr().out.splitlines())
    place = names.index("LAST USED")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", used[place])
    assert idle[place] == "-"
