"""What operators are told of a request afterwards: how it ended, why, and who had it in hand; by real processes."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.chat import CHAT, chat_body
from tests.support.models import model
from tests.support.processes import RedisServer
from tests.support.system import DemoBackend, System
from tests.support.waiting import wait_until

PROMPT = "a-prompt-that-no-operator-may-see"
NOBODY = "http://127.0.0.1:1/v1"
TWICE = {"max_attempts": 2, "backends": [{"url": NOBODY}, *model("status=503")["backends"]]}
TESTING = {"lease_seconds": 1.5, "renew_seconds": 0.4, "sweep_seconds": 0.3, "tell_seconds": 0.2}


@pytest.fixture(scope="module")
def system(
    tmp_path_factory: pytest.TempPathFactory, module_redis: RedisServer, demo_backend: DemoBackend
) -> Iterator[System]:
    models = {
        "m": model("tokens=2"),
        "refuses": model("status=400&code=bad_thing&message=no"),
        "twice": TWICE,
        "long": model("tokens=2000&token_seconds=0.02", concurrency=1, max_attempts=3),
        "slow": model("tokens=2&first_token_seconds=2", max_attempts=3),
    }
    tokens: dict[str, dict[str, Any]] = {
        "op": {"role": "operator"},
        "one": {"requests_per_minute": 1},
        "look": {"role": "viewer"},
    }
    with System(
        tmp_path_factory.mktemp("timelines"), redis_url=module_redis.url, backend_url=demo_backend.url,
        models=models, tokens=tokens, workers=((), ("slow",)), settings={"testing": TESTING},
    ) as running:  # fmt: skip
        yield running


def asked(system: System, path: str, name: str = "look") -> Any:
    with system.client(system.tokens[name]) as client:
        answer = client.get(f"/admin/v1{path}", timeout=30)
    return answer.json() if answer.status_code == 200 else answer.status_code


def ended(system: System, given_id: str, runs: int = 1) -> dict[str, Any]:
    """Return a job once its end, and those of so many runs, were told."""

    def is_told() -> bool:
        story = asked(system, f"/jobs/{given_id}")
        if type(story) is not dict or len(story["runs"]) < runs:
            return False
        return story["outcome"] is not None and bool(story["outcome"]["answered"])

    wait_until(is_told, 20, "the end to be told")
    story: dict[str, Any] = asked(system, f"/jobs/{given_id}")
    return story


def printed(system: System, *words: str) -> str:
    process = system.command(*words)
    process.start()
    assert process.wait(30) == 0, process.log()
    text = process.log()
    process.log_file.unlink()
    return text


def command(system: System, *words: str) -> Any:
    return json.loads(printed(system, *words, "--json"))


def sent(system: System, name: str, *, token: str | None = None, stream: bool = False) -> tuple[str, str]:
    """Send a request; returns its id, and what came."""
    with system.client(token and system.tokens[token]) as client:
        answer = client.post(CHAT, json=chat_body(name, PROMPT, stream=stream), timeout=60)
    return answer.headers["x-request-id"], answer.text


@pytest.mark.parametrize("stream", [False, True])
def test_a_good_request_is_found_by_its_id_and_its_answers(
    system: System, demo_backend: DemoBackend, stream: bool
) -> None:
    request_id, text = sent(system, "m", stream=stream)
    answer_id = json.loads(text.splitlines()[0].removeprefix("data: "))["id"]
    assert answer_id.startswith("chatcmpl-")
    story = ended(system, answer_id)
    assert story["id"] == request_id
    assert (story["model"], story["token"], story["kind"]) == ("m", "test", "chat.completions")
    assert (story["outcome"]["status"], story["outcome"]["code"]) == (200, None)
    assert stream or story["outcome"]["output_tokens"] == 2
    (run,) = story["runs"]
    (call,) = run["calls"]
    assert (run["attempt"], run["status"], run["output_tokens"]) == (1, 200, 2)
    assert (call["backend"], call["status"]) == (demo_backend.root.split("/")[2], 200)
    times = story["timeline"]
    assert times["accepted"] <= times["taken"] <= times["ended"]
    assert story["runs"][0]["began"] <= call["began"] <= times["ended"] + 1
    assert command(system, "job", "show", request_id)["runs"] == story["runs"]


def test_each_call_of_a_failed_request_says_why(system: System, demo_backend: DemoBackend) -> None:
    story = ended(system, sent(system, "twice")[0])
    assert (story["outcome"]["status"], story["outcome"]["attempts"]) == (503, 2)
    (run,) = story["runs"]
    calls = {(call["backend"], call["status"], call["code"]) for call in run["calls"]}
    assert calls == {
        ("127.0.0.1:1", 503, "connect_failed"),
        (demo_backend.root.split("/")[2], 503, "backend_unavailable"),
    }
    shown = printed(system, "job", "show", story["id"])
    for words in ("503 connect_failed", "run 1: ", f"by {run['worker']}", "status              503"):
        assert words in shown, words
    story = ended(system, sent(system, "refuses", stream=True)[0])
    assert (story["outcome"]["status"], story["outcome"]["code"]) == (400, "bad_thing")
    assert [call["code"] for call in story["runs"][0]["calls"]] == ["bad_thing"]
    listed = printed(system, "job", "list", "--state", "ended", "--outcome", "failed", "--model", "twice")
    assert "503 backend_unavailable" in listed and listed.count("req_") == 1
    failed = asked(system, "/jobs?state=ended&outcome=failed&model=twice")["data"]
    assert [job["outcome"]["status"] for job in failed] == [503]
    refused = asked(system, "/jobs?state=ended&outcome=refused&model=refuses")["data"]
    assert [job["outcome"]["code"] for job in refused] == ["bad_thing"]
    assert asked(system, "/jobs?outcome=failed") == 400


def test_a_request_that_was_never_accepted_is_found_with_its_reason(system: System) -> None:
    sent(system, "m", token="one")
    request_id, _ = sent(system, "m", token="one")
    story = ended(system, request_id, 0)
    assert (story["outcome"]["status"], story["outcome"]["code"]) == (429, "rate_limit_exceeded")
    assert (story["runs"], story["timeline"]["taken"]) == ([], None)
    request_id, _ = sent(system, "nope")
    assert ended(system, request_id, 0)["outcome"]["code"] == "model_not_found"


def test_who_runs_a_job_is_told_and_that_a_lost_worker_ran_it_before(system: System) -> None:
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.extend(sent(system, "slow")))
    thread.start()
    wait_until(lambda: len(asked(system, "/jobs?model=slow&state=running")["data"]) == 1, 20, "it to run")
    job_id = asked(system, "/jobs?model=slow")["data"][0]["id"]
    first = asked(system, f"/jobs/{job_id}")["worker"]
    pid = int(first.split("-")[-2])
    assert pid in {worker.pid for worker in system.workers}
    os.kill(pid, signal.SIGKILL)
    thread.join(60)
    assert '"usage"' in found[1]
    story = ended(system, job_id)
    assert (story["outcome"]["status"], story["attempts"]) == (200, 2)
    (run,) = story["runs"]
    assert run["attempt"] == 2
    assert run["worker"] not in (None, first)
    (lost,) = (worker for worker in system.workers if worker.pid == pid)
    lost.stop()
    system.workers.remove(lost)
    system.add_worker()
    system.wait_ready()


def test_who_left_and_who_was_stopped_is_told_apart(system: System) -> None:
    with system.client() as client, client.stream("POST", CHAT, json=chat_body("long", PROMPT, stream=True)) as answer:
        left = answer.headers["x-request-id"]
        next(answer.iter_lines())
    story = ended(system, left)
    assert story["outcome"]["status"] == 499
    assert [run["stopped"] for run in story["runs"]] == ["cancelled"]
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.extend(sent(system, "long")))
    thread.start()
    wait_until(lambda: len(asked(system, "/jobs?model=long&state=running")["data"]) == 1, 20, "it to run")
    stopped = asked(system, "/jobs?model=long")["data"][0]["id"]
    for outcome in ("cancelled", "had ended"):
        with system.client(system.tokens["op"]) as client:
            assert client.post(f"/admin/v1/jobs/{stopped}/cancel").json()["outcome"] == outcome
    thread.join(30)
    assert ended(system, stopped)["outcome"]["code"] == "cancelled_by_operator"


def test_no_prompt_is_kept_and_nothing_is_without_a_lifetime(system: System, rooms: Any) -> None:
    ended(system, sent(system, "m")[0])
    names = [*rooms.scan_iter("aq2:ended*")]
    assert len(names) >= 4
    for name in names:
        assert rooms.pttl(name) > 0
        if name.startswith(b"aq2:ended_told:"):
            assert PROMPT.encode() not in b"".join(rooms.hvals(name))
