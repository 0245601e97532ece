"""Everything an operator may do while it runs, by command, over HTTP and with Celery's own tools: real processes."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from celery import Celery

from tests.support.chat import CHAT, chat_body
from tests.support.models import model
from tests.support.processes import RedisServer
from tests.support.system import DemoBackend, System
from tests.support.waiting import wait_until

PROMPT = "a-prompt-that-no-operator-may-see"
QUICK = model("tokens=2")
LONG = model("tokens=2000&token_seconds=0.02")
TWO = {"backends": [*QUICK["backends"], *model("tokens=3")["backends"]]}
TOKENS = {"op": {"role": "operator"}, "look": {"role": "viewer"}}


@pytest.fixture(scope="module")
def system(
    tmp_path_factory: pytest.TempPathFactory, module_redis: RedisServer, demo_backend: DemoBackend
) -> Iterator[System]:
    models = {"m": QUICK, "long": {**LONG, "concurrency": 1}, "two": TWO, "org/name": QUICK}
    with System(
        tmp_path_factory.mktemp("control"), redis_url=module_redis.url, backend_url=demo_backend.url, models=models,
        tokens=TOKENS, workers=((), ("m", "long")),
    ) as running:  # fmt: skip
        yield running


def command(system: System, *words: str, status: int = 0) -> Any:
    """Run a command with --json; returns what it printed, or the text where it failed."""
    process = system.command(*words, "--json")
    process.start()
    assert process.wait(30) == status, process.log()
    text = process.log()
    process.log_file.unlink()
    return json.loads(text) if status == 0 else text


def asked(system: System, method: str, path: str, body: Any = None, *, name: str = "op") -> httpx.Response:
    with system.client(system.tokens[name]) as client:
        return client.request(method, f"/admin/v1{path}", json=body, timeout=30)


def told(system: System, method: str, path: str, body: Any = None) -> Any:
    answer = asked(system, method, path, body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def audited(system: System, count: int = 1) -> list[tuple[str, str, str]]:
    rows = told(system, "GET", f"/audit?limit={count}")["data"]
    return [(row["via"], row["action"], row["outcome"]) for row in rows]


class Asking:
    """A request in a thread, and what came of it."""

    def __init__(self, system: System, name: str, *, stream: bool = False) -> None:
        self.status, self.text, self.id = 0, "", ""
        self._system, self._name, self._stream = system, name, stream
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        body = chat_body(self._name, PROMPT, stream=self._stream)
        with self._system.client() as client, client.stream("POST", CHAT, json=body, timeout=60) as answer:
            self.status, self.id = answer.status_code, answer.headers["x-request-id"]
            for part in answer.iter_text():
                self.text += part

    def ended(self) -> int:
        self._thread.join(40)
        assert not self._thread.is_alive()
        return self.status


def jobs(system: System, query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = told(system, "GET", f"/jobs?{query}")["data"]
    return found


def one_job(system: System, query: str) -> str:
    wait_until(lambda: len(jobs(system, query)) == 1, 20, f"one job of {query}")
    return str(jobs(system, query)[0]["id"])


@pytest.mark.parametrize("way", ["command", "http"])
@pytest.mark.parametrize("action", ["pause", "drain", "retire"])
def test_a_model_is_held_and_let_go(system: System, way: str, action: str) -> None:
    def act(what: str) -> dict[str, Any]:
        by_command = way == "command"
        done: dict[str, Any] = (
            command(system, "model", what, "org/name")
            if by_command
            else told(system, "POST", f"/models/org/name/{what}")
        )
        assert audited(system)[0][:2] == (way, f"model.{what}")
        return done

    state = {"pause": "paused", "drain": "draining", "retire": "retired"}[action]
    assert (act(action)["now"], act(action)["before"]) == (state, state)
    shown = told(system, "GET", "/models/org/name")
    assert (shown["state"], shown["held"]) == (state, "paused")
    with system.client() as client:
        assert client.get("/readyz").json()["held"] == {"org/name": "drained" if action == "drain" else state}
    if action == "retire":
        with system.client() as client:
            refused = client.post(CHAT, json=chat_body("org/name"))
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_retired")
        assert refused.headers["x-should-retry"] == "false"
        assert act("resume")["now"] == "active"
        return
    asking = Asking(system, "org/name", stream=True)
    job_id = one_job(system, "model=org/name&state=waiting")
    with system.client() as client:
        wait_until(lambda: client.get(f"/requests/{job_id}").json()["held"] == "paused", 5, "the reason to be told")
    wait_until(lambda: "held: paused" in asking.text, 20, "the comment that tells why it waits")
    assert act("resume")["now"] == "active"
    assert asking.ended() == 200
    assert asking.text.endswith("data: [DONE]\n\n")


def test_a_held_backend_is_called_no_more(system: System, demo_backend: DemoBackend) -> None:
    def lengths(count: int = 12) -> set[int]:
        with system.client() as client:
            answers = [client.post(CHAT, json=chat_body("two")).json() for _ in range(count)]
        return {answer["usage"]["completion_tokens"] for answer in answers}

    held = command(system, "model", "pause", "two", "--backend", "0")
    assert (held["backend"], held["now"]) == (0, "held")
    assert lengths() == {3}
    told(system, "POST", "/models/two/drain", {"backend": "1"})
    assert told(system, "GET", "/models/two")["held"] == "backend"
    assert [one["state"] for one in told(system, "GET", "/backends")["data"] if one["model"] == "two"] == ["held"] * 2
    asking = Asking(system, "two")
    one_job(system, "model=two&state=waiting")
    told(system, "POST", "/models/two/resume", {"backend": "0"})
    assert asking.ended() == 200
    assert lengths() == {2}
    command(system, "model", "resume", "two", "--backend", "1")
    assert [action for _, action, _ in audited(system, 4)] == [
        "backend.resume", "backend.resume", "backend.drain", "backend.pause",
    ]  # fmt: skip
    assert lengths(40) == {2, 3}


@pytest.mark.parametrize("way", ["command", "http", "celery"])
def test_what_runs_is_ended_and_its_caller_told(system: System, way: str) -> None:
    asking = Asking(system, "long", stream=way != "http")
    job_id = one_job(system, "model=long&state=running")
    if way == "command":
        assert command(system, "job", "show", job_id)["state"] == "running"
        assert command(system, "job", "cancel", job_id)["outcomes"] == {"cancelled": 1}
    elif way == "http":
        assert told(system, "GET", f"/jobs/{job_id}")["timeline"]["taken"]
        assert told(system, "POST", f"/jobs/{job_id}/cancel")["outcome"] == "cancelled"
    else:
        with Celery(broker=system.redis_url) as app:
            active = app.control.inspect(timeout=5, limit=2).active() or {}
            tasks = [task for found in active.values() for task in found]
            assert [(task["id"], task["name"]) for task in tasks] == [(job_id, "chat.completions:long")]
            stats: dict[str, Any] = {**(app.control.inspect(timeout=5, limit=2).stats() or {})}
            assert sum(one["slots"]["running"] for one in stats.values()) == 1
            assert {one["pool"]["max-concurrency"] for one in stats.values()} == {512}
            reserved = app.control.inspect(timeout=5, limit=2).reserved() or {}
            assert PROMPT not in str((active, stats, reserved))
            replies = app.control.revoke(job_id, reply=True, timeout=5, limit=2)
            assert str(replies).count("1 cancelled") == 1, replies
    status = asking.ended()
    assert "cancelled_by_operator" in asking.text
    assert status == (410 if way == "http" else 200)
    assert audited(system)[0] == (way, "job.cancel", "0 waiting and 1 running ended, 0 had ended, 0 unknown")
    wait_until(lambda: told(system, "GET", f"/jobs/{job_id}")["state"] == "ended", 5, "its end")
    if way == "http":
        assert told(system, "POST", f"/jobs/{job_id}/cancel")["outcome"] == "had ended"


@pytest.mark.parametrize("way", ["command", "http"])
def test_all_that_match_are_counted_moved_and_ended(system: System, way: str) -> None:
    def act(what: str, **more: Any) -> dict[str, Any]:
        if way == "http":
            done: dict[str, Any] = told(system, "POST", f"/jobs/{what}", {"model": "m", "token": "test", **more})
            return done
        words = [word for name, value in more.items()
                 for word in ([f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)]))]  # fmt: skip
        done = command(system, "job", what, "--model", "m", "--token", "test", *words)
        return done

    command(system, "model", "pause", "m")
    asking = [Asking(system, "m") for _ in range(5)]
    wait_until(lambda: len(jobs(system, "model=m&state=waiting")) == 5, 20, "five to wait")
    assert act("cancel", dry_run=True)["matched"] == 5
    assert act("move", to="priority")["outcomes"] == {"moved": 5}
    assert {job["lane"] for job in command(system, "job", "list", "--model", "m")["jobs"]} == {"priority"}
    page = told(system, "GET", "/jobs?model=m&limit=2")
    assert page["has_more"]
    rest = jobs(system, f"model=m&limit=100&after={page['data'][-1]['id']}")
    assert len({job["id"] for job in [*page["data"], *rest]}) == 5
    first = page["data"][0]["id"]
    assert told(system, "POST", f"/jobs/{first}/move", {"to": "flex"})["outcome"] == "moved"
    assert act("cancel", lane="priority")["outcomes"] == {"cancelled": 4}
    assert audited(system)[0] == (way, "job.cancel", "4 waiting and 0 running ended, 0 had ended, 0 unknown")
    command(system, "model", "resume", "m")
    assert sorted(one.ended() for one in asking) == [200, 410, 410, 410, 410]
    assert PROMPT not in json.dumps(told(system, "GET", "/audit?limit=1000"))


def test_tokens_groups_and_reload(system: System) -> None:
    made = told(system, "POST", "/tokens", {"name": "made", "models": ["m"], "role": "viewer"})
    with system.client(made["token"]) as client:
        assert client.get("/admin/v1/models").status_code == 200
        assert client.post("/admin/v1/models/m/pause").status_code == 403
    assert told(system, "POST", "/tokens/made", {"requests_per_minute": 5})["requests_per_minute"] == 5
    assert "made" in {one["name"] for one in told(system, "GET", "/tokens")["data"]}
    assert command(system, "token", "revoke", "made") == {"name": "made", "revoked": True}
    assert told(system, "GET", "/groups")["data"] == []
    answers = told(system, "POST", "/reload")
    assert (answers["asked"], [one["error"] for one in answers["answers"]]) == (3, ["", "", ""])
    assert [row[:2] for row in audited(system, 4)] == [
        ("http", "reload"), ("command", "token.revoke"), ("http", "token.set"), ("http", "token.create"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("POST", "/models/nope/pause", None, 404, "there are: m, long, two, org/name"),
        ("POST", "/models/m/explode", None, 404, "pause, resume, drain, retire"),
        ("POST", "/models/two/pause", {"backend": "7"}, 404, "it has: 0 ("),
        ("POST", "/models/two/retire", {"backend": "0"}, 404, "of a backend: pause"),
        ("GET", "/jobs/req_" + "0" * 32, None, 404, "ended too long ago to be kept"),
        ("GET", "/jobs?lane=fast", None, 400, "'lane'"),
        ("POST", "/jobs/cancel", {}, 400, "Name a filter"),
        ("POST", "/jobs/cancel", {"modle": "m"}, 400, "modle"),
        ("POST", "/jobs/move", {"model": "nope", "to": "flex"}, 404, "there are: m"),
        ("POST", "/tokens", {"name": "x", "models": ["nope"]}, 400, "no model is called 'nope'"),
        ("POST", "/tokens", {"name": "op"}, 409, "stands in the configuration file"),
        ("POST", "/tokens", {"name": "x", "role": "king"}, 400, "'role'"),
        ("POST", "/tokens", [], 400, "Invalid body: Input should be a valid dictionary"),
        ("POST", "/tokens", {"name": "x", "models": None}, 400, "'models'"),
        ("POST", "/tokens", {"name": "x", "models": [{}]}, 400, "'models'"),
        ("POST", "/tokens", {"name": "x", "group": []}, 400, "'group'"),
        ("POST", "/tokens/nobody", {"models": 5}, 400, "'models'"),
        ("POST", "/tokens/x", {"sha256": "0"}, 400, "Unknown member 'sha256'"),
        ("POST", "/jobs/cancel", {"token": "x" * 201}, 400, "'token'"),
        ("GET", f"/audit?start={10**20}", None, 400, "'start'"),
        ("DELETE", "/tokens/nobody", None, 404, "no token is called 'nobody'"),
        ("GET", "/batches", None, 404, "storage.url"),
    ],
)  # fmt: skip
def test_mistakes_are_told_and_change_nothing(
    system: System, method: str, path: str, body: Any, status: int, words: str
) -> None:
    before = told(system, "GET", "/audit?limit=1000")
    answer = asked(system, method, path, body)
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, "invalid_request_error"), answer.text
    assert words.lower() in answer.json()["error"]["message"].lower()
    assert told(system, "GET", "/audit?limit=1000") == before


def test_a_body_that_is_no_json_is_told_so(system: System) -> None:
    headers = {"authorization": f"Bearer {system.tokens['op']}", "content-type": "application/json"}
    answer = httpx.post(f"{system.base_url}/admin/v1/tokens", content=b'{"a":', headers=headers)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["message"], error["param"], error["code"]) == (
        "Invalid body: JSON decode error.", None, "invalid_json",
    )  # fmt: skip


def test_who_may_not_is_refused(system: System) -> None:
    for path in ("/models", "/jobs", "/tokens", "/audit", "/groups", "/backends"):
        assert asked(system, "GET", path, name="test").status_code == 403
        assert asked(system, "GET", path, name="look").status_code == 200
    for path in ("/models/m/pause", "/jobs/cancel", "/jobs/move", "/tokens", "/reload"):
        refused = asked(system, "POST", path, {"model": "m", "to": "flex", "all": True}, name="look")
        assert (refused.status_code, refused.json()["error"]["code"]) in (
            (403, "insufficient_permissions"),
            (400, None),
        ), path
    assert httpx.get(f"{system.base_url}/admin/v1/models").status_code == 401
    assert "no model is called 'nope'" in command(system, "model", "pause", "nope", status=1)
    assert "name requests or a filter" in command(system, "job", "cancel", status=2)


def test_two_operators_at_once_end_each_job_once(system: System) -> None:
    command(system, "model", "pause", "m")
    asking = [Asking(system, "m") for _ in range(6)]
    wait_until(lambda: len(jobs(system, "model=m&state=waiting")) == 6, 20, "six to wait")
    counts: Counter[str] = Counter()
    threads = [
        threading.Thread(target=lambda: counts.update(told(system, "POST", "/jobs/cancel", {"model": "m"})["outcomes"]))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert counts["cancelled"] == 6
    assert {one.ended() for one in asking} == {410}
    command(system, "model", "resume", "m")


def test_drain_and_resume_under_load_with_no_error(system: System) -> None:
    over, outcomes = threading.Event(), Counter[str]()

    def ask(at: int) -> None:
        with system.client() as client:
            while not over.is_set():
                answer = client.post(CHAT, json=chat_body("m", stream=at % 2 == 0), timeout=60)
                whole = answer.text.endswith("data: [DONE]\n\n" if at % 2 == 0 else "}")
                outcomes[f"{answer.status_code} {'whole' if whole else answer.text}"] += 1

    def has_done(count: int) -> bool:
        return sum(outcomes.values()) > count

    threads = [threading.Thread(target=ask, args=(at,)) for at in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(4):
        assert command(system, "model", "drain", "m", "--wait", "20")["running"] == 0
        before = sum(outcomes.values())
        time.sleep(0.3)
        assert sum(outcomes.values()) - before <= 8  # answers on their way; nothing new is started
        assert told(system, "GET", "/models/m")["running"] == 0
        told(system, "POST", "/models/m/resume")
        wait_until(partial(has_done, before + 16), 20, "it to go on")
    over.set()
    for thread in threads:
        thread.join(60)
    assert set(outcomes) == {"200 whole"}, outcomes


def test_a_held_model_is_held_after_every_process_was_restarted(
    tmp_path: Path, own_redis: RedisServer, demo_backend: DemoBackend
) -> None:
    parts: dict[str, Any] = {
        "redis_url": own_redis.url,
        "backend_url": demo_backend.url,
        "models": {"m": QUICK},
        "tokens": TOKENS,
    }
    with System(tmp_path / "one", **parts) as system:
        told(system, "POST", "/models/m/drain")
    with System(tmp_path / "two", **parts) as system:
        assert told(system, "GET", "/models/m")["state"] == "draining"
        asking = Asking(system, "m")
        one_job(system, "model=m&state=waiting")
        told(system, "POST", "/models/m/resume")
        assert asking.ended() == 200


def test_demand_is_what_could_run_with_workers_enough(system: System) -> None:
    def demand(name: str) -> int:
        return int(told(system, "GET", f"/demand?model={quote(name, safe='')}")["jobs"])

    assert demand("org/name") == demand("long") == 0
    told(system, "POST", "/models/org/name/pause")
    held = Asking(system, "org/name", stream=True)
    one_job(system, "model=org/name&state=waiting")
    assert demand("org/name") == 0, "nothing of a paused model is to be started"
    told(system, "POST", "/models/org/name/resume")
    assert held.ended() == 200
    running, waiting = Asking(system, "long", stream=True), Asking(system, "long", stream=True)
    one_job(system, "model=long&state=running")
    one_job(system, "model=long&state=waiting")
    assert demand("long") == 1, "a second one may not run beside the first, however many workers there are"
    assert told(system, "POST", "/jobs/cancel", {"model": "long"})["matched"] == 2
    assert {running.ended(), waiting.ended()} <= {200, 410}  # 200: its stream had begun
    assert demand("long") == 0
    assert asked(system, "GET", "/demand?model=long", name="look").status_code == 200
    assert asked(system, "GET", "/demand?model=long", name="test").status_code == 403
    assert asked(system, "GET", "/demand?model=lang").status_code == 404
