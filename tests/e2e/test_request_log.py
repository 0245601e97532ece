"""The API's line on a request: the same fields whatever became of it, and what they say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.chat import CHAT, chat_body
from tests.support.models import model
from tests.support.processes import RedisServer
from tests.support.system import DemoBackend, System
from tests.support.waiting import wait_until

Line = dict[str, Any]
STANDING = {"time", "level", "logger", "message"}
FIELDS = {
    "request_id", "kind", "model", "tenant", "lane", "stream", "status", "error_code", "held", "queue_ms", "first_ms",
    "run_ms", "ms", "prompt_tokens", "completion_tokens", "attempts", "backend", "client",
}  # fmt: skip
MODELS = {
    "good": model("tokens=3&first_token_seconds=0.2&answer_seconds=0.2"),
    "fails-once": model("tokens=3&status=503&fail_times=1", max_attempts=2),
    "fails": model("status=503", max_attempts=2),
    "refuses": model("status=400&code=bad_thing"),
    "breaks": model("tokens=8&error_after=4"),
    "forever": model("tokens=1000&token_seconds=0.1"),
    "expires": model("tokens=1000&token_seconds=0.1", concurrency=1, max_wait_seconds=0.3),
    "full": model("tokens=1000&token_seconds=0.1", concurrency=1, max_queue=0),
}
NOT_RUN = {"queue_ms": None, "first_ms": None, "run_ms": None, "attempts": None, "backend": None}


@pytest.fixture(scope="module")
def system(
    tmp_path_factory: pytest.TempPathFactory, module_redis: RedisServer, demo_backend: DemoBackend
) -> Iterator[System]:
    folder: Path = tmp_path_factory.mktemp("system")
    with System(
        folder,
        redis_url=module_redis.url,
        backend_url=demo_backend.url,
        models=MODELS,
        tokens={"flex": {"lane": "flex"}, "member": {"group": "team", "lane": "priority"}},
        settings={"log_format": "json", "groups": [{"name": "team", "models": ["good"], "lane": "default"}]},
    ) as running:
        yield running


def line_of(system: System, answer: httpx.Response) -> Line:
    """Return the line of an answered request."""

    def found() -> list[Line]:
        assert system.api is not None
        lines = [json.loads(line) for line in system.api.log().splitlines()]
        return [line for line in lines if line.get("request_id") == answer.headers["x-request-id"]]

    (line,) = wait_until(found, 5, "the request's line")
    return line


def ask(system: System, name: str, *, stream: bool = False, token: str | None = None, **more: Any) -> Line:
    with system.client(token) as client:
        line = line_of(system, client.post(CHAT, json={**chat_body(name, stream=stream), **more}))
    assert set(line) - STANDING == FIELDS
    assert line["ms"] >= 0
    return line


def has(line: Line, **wanted: Any) -> bool:
    """Whether a line says this; shows the whole line where not."""
    assert line == {**line, **wanted}
    return True


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_an_answer_tells_lane_times_tokens_and_backend(system: System, stream: bool, demo_backend: DemoBackend) -> None:
    line = ask(system, "good", stream=stream, token=system.tokens["flex"])
    assert has(line, kind="chat.completions", model="good", tenant="flex", lane="flex", stream=stream, status=200)
    assert has(line, error_code=None, held=None, attempts=1, backend=httpx.URL(demo_backend.url).netloc.decode())
    assert has(line, prompt_tokens=1, completion_tokens=3)
    assert 0 <= line["queue_ms"] <= line["ms"]
    assert 200 <= line["run_ms"] <= line["ms"]
    assert 200 <= line["first_ms"] <= line["ms"] if stream else line["first_ms"] is None


def test_a_line_names_the_group_where_there_is_one_which_narrows_model_and_lane(system: System) -> None:
    with system.client(system.tokens["member"]) as client:
        line = line_of(system, client.post(CHAT, json=chat_body("good")))
        assert set(line) - STANDING == FIELDS | {"group"}
        assert has(line, tenant="member", group="team", lane="default", status=200)
        refused = client.post(CHAT, json=chat_body("fails"))
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
        above = client.post(CHAT, json={**chat_body("good"), "service_tier": "priority"})
        assert (above.status_code, above.json()["error"]["code"]) == (403, "insufficient_permissions")


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_an_answer_at_the_second_try_says_so(system: System, stream: bool) -> None:
    line = ask(system, "fails-once", stream=stream, user=f"second-try-{stream}")
    assert has(line, status=200, error_code=None, attempts=2)
    assert line["backend"] is not None
    assert line["run_ms"] >= 50  # it waits between the two


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize(
    ("name", "status", "code", "attempts"), [("fails", 503, "backend_unavailable", 2), ("refuses", 400, "bad_thing", 1)]
)
def test_a_failed_one_tells_how_long_it_waited_and_how_often_it_was_tried(
    system: System, name: str, status: int, code: str, attempts: int, stream: bool
) -> None:
    line = ask(system, name, stream=stream)
    assert has(line, status=status, error_code=code, attempts=attempts, lane="default", first_ms=None)
    assert 0 <= line["queue_ms"] <= line["ms"]
    assert 0 <= line["run_ms"] <= line["ms"]
    assert line["backend"] is not None


def test_a_stream_that_breaks_tells_its_first_token_and_its_error(system: System) -> None:
    line = ask(system, "breaks", stream=True)
    assert has(line, status=200, attempts=1)
    assert line["error_code"] is not None
    assert line["first_ms"] <= line["ms"]


def test_one_that_is_refused_tells_as_much_as_was_known(system: System) -> None:
    nothing = {"model": None, "tenant": None, "lane": None, "stream": None, **NOT_RUN}
    assert has(ask(system, "good", token="sk-wrong"), **{**nothing, "status": 401, "error_code": "invalid_api_key"})
    wanted = {**nothing, "tenant": "test", "model": "none", "status": 404, "error_code": "model_not_found"}
    assert has(ask(system, "none"), **wanted)
    assert has(ask(system, "good", messages=[]), **{**nothing, "tenant": "test", "model": "good", "status": 400})
    assert has(ask(system, "good", model=5), **{**nothing, "tenant": "test", "status": 400})
    long_name = ask(system, "x" * 500)
    assert has(long_name, model="x" * 128, status=404)


def test_one_that_found_no_room_or_waited_too_long_says_so(system: System) -> None:
    with system.client() as client:
        for name, status, code in (("full", 429, "queue_full"), ("expires", 504, "queue_timeout")):
            with client.stream("POST", CHAT, json=chat_body(name, stream=True)) as running:
                parts = running.iter_raw()  # kept: its end would be the stream's
                next(parts)
                line = ask(system, name)
            assert has(line, status=status, error_code=code, model=name, lane="default", run_ms=None, attempts=None)
            assert line["queue_ms"] is None if status == 429 else 300 <= line["queue_ms"] <= line["ms"]
            assert line["held"] == (None if status == 429 else "room")


def test_one_whose_client_left_tells_what_it_had_by_then(system: System) -> None:
    with (
        system.client() as client,
        client.stream("POST", CHAT, json=chat_body("forever", stream=True)) as answer,
    ):
        next(answer.iter_raw())
    line = line_of(system, answer)
    assert set(line) - STANDING == FIELDS
    assert has(line, status=499, model="forever", error_code=None, run_ms=None, completion_tokens=None)
    assert 0 <= line["queue_ms"] <= line["first_ms"] <= line["ms"]


def test_other_endpoints_tell_their_token_and_error(system: System) -> None:
    with system.client() as client:
        lines = [line_of(system, client.get(path)) for path in ("/v1/models", "/v1/files", "/v1/nothing")]
    seen = [(line["tenant"], line["status"], line["error_code"]) for line in lines]
    assert seen == [("test", 200, None), ("test", 404, "storage_not_set_up"), (None, 404, "unknown_url")]


def test_no_line_is_lost_with_a_process_that_is_told_to_end(system: System) -> None:
    with system.client() as client:
        ids = [client.get("/v1/models").headers["x-request-id"] for _ in range(50)]
    assert system.api is not None
    system.api.terminate()
    assert system.api.wait(20) == 0
    lines = [json.loads(line) for line in system.api.log().splitlines()]
    assert [line["request_id"] for line in lines if line.get("request_id") in ids] == ids
    assert lines[-1]["message"] == "ended"
    system.start_api()
    system.wait_ready()
