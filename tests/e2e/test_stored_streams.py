"""Stored streams: left, read on from every place, on another API process, while things break."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

from tests.support.models import model
from tests.support.processes import ROOT, Process, RedisServer, free_port
from tests.support.streams import DONE, Event, completion_id, resumed, stored_stream
from tests.support.system import DemoBackend, System
from tests.support.waiting import wait_until

MODELS = {
    "quick": model("tokens=12"),
    "slow": model("tokens=16&token_seconds=0.1", max_attempts=1),
    "long": model("tokens=60&token_seconds=0.1", max_attempts=1),
    "pauses": model("tokens=3&token_seconds=0.7"),
    "breaks": model("tokens=8&error_after=4"),
    "refuses": model("status=400&code=bad_thing&message=no"),
}
SETTINGS = {"api": {"keep_alive_seconds": 0.2, "hold_headers_seconds": 0.2, "drain_seconds": 1}}


class Two:
    """Two API processes over one Redis, one store and one worker."""

    def __init__(self, folder: Path, redis: RedisServer, backend: DemoBackend, **more: object) -> None:
        settings = {**SETTINGS, "storage": {"url": f"file://{folder}/store"}, **more}
        self.redis = redis
        self.system = System(
            folder / "system", redis_url=redis.url, backend_url=backend.url, models=MODELS,
            tokens={"other": {}}, settings=settings,
        ).start()  # fmt: skip
        port = free_port()
        self.second: Process = self.system.command("api", "--port", str(port), name="api-2").start()
        self.second_url = f"http://127.0.0.1:{port}"
        wait_until(self._is_ready, 20, "the second API process")
        self.here = self.system.client()
        self.there = httpx.Client(base_url=self.second_url, headers=self.here.headers, timeout=30)

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.second_url}/readyz", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    def is_written(self, made: str) -> bool:
        """Whether the store has it and Redis keeps it no more than for late readers."""
        with self.redis.client() as client:
            return bool(client.llen("aq2:results:stored") == 0 and client.pttl(_log(made)) <= 60_000)

    def forget_in_redis(self, made: str) -> None:
        """Have only the store know it."""
        wait_until(lambda: self.is_written(made), 20, "the stream to be written")
        with self.redis.client() as client:
            assert client.delete(_log(made), "aq2:job:" + made.removeprefix("chatcmpl-")) == 2

    def stop(self) -> None:
        self.here.close()
        self.there.close()
        self.second.stop()
        self.system.stop()


def _log(made: str) -> str:
    return "aq2:log:" + made.removeprefix("chatcmpl-")


@pytest.fixture(scope="module")
def two(
    tmp_path_factory: pytest.TempPathFactory, module_redis: RedisServer, demo_backend: DemoBackend
) -> Iterator[Two]:
    made = Two(tmp_path_factory.mktemp("two"), module_redis, demo_backend)
    yield made
    made.stop()


def text_of(events: list[Event]) -> str:
    """Return what a client joins of a stream's events."""
    choices = [json.loads(event.data)["choices"] for event in events if event.data.startswith(b'{"id"')]
    return "".join(one[0]["delta"].get("content") or "" for one in choices if one)


def error_of(events: list[Event]) -> dict[str, object]:
    """Return the one error in which a stream ends; nothing that has a number comes behind it."""
    numbers = [event.number for event in events]
    assert None not in numbers[:-2] and numbers[-2:] == [None, None] and events[-1] == DONE
    error: dict[str, object] = json.loads(events[-2].data)["error"]
    return error


def test_events_are_numbered_and_else_as_in_any_stream(two: Two) -> None:
    with stored_stream(two.here, "quick") as (_, events):
        stored = [*events]
    assert [event.number for event in stored] == [*range(len(stored) - 1), None]
    assert stored[-1] == DONE
    with stored_stream(two.here, "quick", store=False) as (_, events):
        plain = [*events]
    assert [event.number for event in plain] == [None] * len(plain)
    same = [json.loads(event.data)["choices"] for event in stored[:-1]]
    assert same == [json.loads(event.data)["choices"] for event in plain[:-1]]


def test_the_sdk_reads_a_stored_stream_that_is_silent_now_and_then(two: Two) -> None:
    with OpenAI(base_url=two.system.base_url + "/v1", api_key=two.system.token, max_retries=0, timeout=20) as sdk:
        chunks = [*sdk.chat.completions.create(
            model="pauses", messages=[{"role": "user", "content": "x"}], stream=True, store=True
        )]  # fmt: skip
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "0 1 2 "


def test_a_stream_cut_at_every_event_reads_on_elsewhere_while_it_runs_and_after_its_end(two: Two) -> None:
    lives: list[list[Event]] = []

    def follow(after: int | None) -> None:
        lives.append(resumed(two.there, made, after))

    with ThreadPoolExecutor(40) as readers, stored_stream(two.here, "slow") as (answer, events):
        made = completion_id(answer)
        first: list[Event] = []
        under_way = [readers.submit(follow, None)]
        for event in events:
            first.append(event)
            if event.number is not None:
                under_way.append(readers.submit(follow, event.number))
        for one in under_way:
            one.result(20)
    cursors = [None, *(event.number for event in first if event.number is not None)]
    assert len(first) > 16 and len(lives) == len(cursors)
    for rest in lives:
        assert rest == first[len(first) - len(rest) :]
    assert {len(rest) for rest in lives} == {*range(1, len(first) + 1)}
    for after in cursors:  # out of Redis, here and there
        expected = first if after is None else first[after + 1 :]
        assert resumed(two.there, made, after) == expected
        assert resumed(two.here, made, header=after) == expected
    two.forget_in_redis(made)
    for after in cursors:
        assert resumed(two.there, made, after) == (first if after is None else first[after + 1 :])
    assert resumed(two.here, made, after=10_000) == [DONE]


def test_a_stream_goes_on_without_its_client(two: Two) -> None:
    with stored_stream(two.here, "slow", metadata={"left": "yes"}) as (answer, events):
        made, first = completion_id(answer), [next(events) for _ in range(3)]
    assert two.there.get(f"/v1/chat/completions/{made}").json()["error"]["code"] == "completion_in_progress"
    rest = resumed(two.there, made, first[-1].number)
    assert text_of([*first, *rest]) == "".join(f"{n} " for n in range(16))
    found = two.there.get(f"/v1/chat/completions/{made}").raise_for_status().json()
    assert found["choices"][0]["message"]["content"] == "".join(f"{n} " for n in range(16))
    assert (found["choices"][0]["finish_reason"], found["usage"]["completion_tokens"] > 0) == ("stop", True)
    listed = two.here.get("/v1/chat/completions", params={"metadata[left]": "yes"}).json()["data"]
    assert [one["id"] for one in listed] == [made]


def test_a_plain_request_goes_on_without_its_client(two: Two) -> None:
    body = {"model": "slow", "messages": [{"role": "user", "content": "x"}], "store": True, "metadata": {"plain": "1"}}
    with pytest.raises(httpx.ReadTimeout):
        two.here.post("/v1/chat/completions", json=body, timeout=0.5)

    def found() -> list[str]:
        listed = two.there.get("/v1/chat/completions", params={"metadata[plain]": "1"}).json()["data"]
        return [one["choices"][0]["message"]["content"] for one in listed]

    wait_until(found, 10, "the answer")
    assert found() == ["".join(f"{n} " for n in range(16))]


def test_what_a_failed_stream_has_sent_is_kept_with_its_error(two: Two) -> None:
    with stored_stream(two.here, "breaks") as (answer, events):
        made, first = completion_id(answer), [*events]
    error = error_of(first)
    for _ in ("Redis", "the store"):
        for after in range(len(first) - 2):
            assert resumed(two.there, made, after) == first[after + 1 :]
        found = two.there.get(f"/chat/completions/{made}").raise_for_status().json()
        assert found["choices"][0]["message"]["content"] == text_of(first)
        assert (found["error"], found["choices"][0]["finish_reason"]) == (error, None)
        if _ == "Redis":
            two.forget_in_redis(made)


def test_a_request_that_failed_before_anything_was_sent_tells_why_and_is_not_listed(two: Two) -> None:
    with stored_stream(two.here, "refuses", metadata={"case": "refused"}) as (answer, _):
        assert answer.status_code == 400
        made, error = completion_id(answer), json.loads(answer.read())["error"]
    for _ in ("Redis", "the store"):
        found = two.there.get(f"/v1/chat/completions/{made}")
        assert (found.status_code, found.json()["error"], found.headers["x-should-retry"]) == (400, error, "false")
        only = resumed(two.there, made)
        assert (len(only), error_of(only)) == (2, error)
        if _ == "Redis":
            two.forget_in_redis(made)
    listed = two.here.get("/v1/chat/completions", params={"metadata[case]": "refused"}).json()
    assert listed == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


@pytest.mark.parametrize(
    ("query", "headers", "param"),
    [("after=-1", {}, "after"), ("after=x", {}, "after"), ("after=", {}, "after"), ("after=" + "9" * 13, {}, "after"),
     ("", {"last-event-id": "x"}, "Last-Event-ID")],
)  # fmt: skip
def test_a_cursor_that_is_none_is_refused(two: Two, query: str, headers: dict[str, str], param: str) -> None:
    url = f"/v1/chat/completions/chatcmpl-{'0' * 32}/events?{query}"
    answer = two.here.get(url, headers=headers)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_others_and_nobody_have_no_such_stream(two: Two) -> None:
    with stored_stream(two.here, "slow") as (answer, events):
        made = completion_id(answer)
        next(events)
        with two.system.client(two.system.tokens["other"]) as other:
            for path in ("", "/messages", "/events"):
                assert other.get(f"/v1/chat/completions/{made}{path}").status_code == 404
            assert other.delete(f"/v1/chat/completions/{made}").status_code == 404
        bad = httpx.get(f"{two.second_url}/v1/chat/completions/{made}/events")
        assert bad.status_code == 401
        assert len([*events]) > 10  # nobody cancelled it
    two.forget_in_redis(made)
    with two.system.client(two.system.tokens["other"]) as other:
        assert other.get(f"/v1/chat/completions/{made}/events").status_code == 404
    for wrong in (f"chatcmpl-{'0' * 32}", "chatcmpl-..", "batch_1"):
        assert two.here.get(f"/v1/chat/completions/{wrong}/events").status_code == 404


def test_a_plain_answer_has_no_events(two: Two) -> None:
    made = two.here.post(
        "/v1/chat/completions", json={"model": "quick", "messages": [{"role": "user", "content": "x"}], "store": True}
    ).json()["id"]
    for _ in ("Redis", "the store"):
        answer = two.there.get(f"/v1/chat/completions/{made}/events")
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "not_a_stream")
        if _ == "Redis":
            two.forget_in_redis(made)


@pytest.mark.parametrize("size", [10, 200_000])
def test_once_it_is_written_redis_holds_the_question_no_more(two: Two, size: int) -> None:
    question = "canary-in-the-store " * (size // 10)
    with stored_stream(two.here, "quick", question) as (answer, events):
        made = completion_id(answer)
        assert [*events][-1] == DONE
    wait_until(lambda: two.is_written(made), 10, "the stream to be written")
    digits = made.removeprefix("chatcmpl-")
    with two.redis.client() as redis:
        record = redis.hgetall("aq2:job:" + digits)
        assert b"spec" in record and b"canary" not in b"".join(record.values())
        assert not redis.exists("aq2:body:" + digits)
        assert 0 < redis.pttl("aq2:job:" + digits) <= 60_000
    (message,) = two.there.get(f"/v1/chat/completions/{made}/messages").json()["data"]
    assert message["content"] == question
    assert "canary" not in two.system.logs()


def test_deleting_a_stream_that_runs_cancels_it(two: Two, demo_backend: DemoBackend) -> None:
    before = demo_backend.state()["closed_by_client"]
    with stored_stream(two.here, "slow") as (answer, events):
        made = completion_id(answer)
        next(events)
        assert two.there.delete(f"/v1/chat/completions/{made}").json()["deleted"] is True
        assert error_of([*events])["code"] == "job_lost"
    wait_until(lambda: demo_backend.state()["closed_by_client"] > before, 5, "the backend's call to be closed")
    assert two.there.get(f"/v1/chat/completions/{made}").status_code == 404


def test_a_reader_who_comes_as_another_leaves_hears_every_word_at_once(two: Two) -> None:
    with ThreadPoolExecutor(1) as readers, two.redis.client() as redis:
        with stored_stream(two.here, "long") as (answer, events):
            made = completion_id(answer)
            next(events)
            redis.client_pause(800)
            reader = readers.submit(resumed, two.here, made)
            time.sleep(0.4)  # it has been asked for, and not answered yet
        time.sleep(1)
        job = "aq2:job:" + made.removeprefix("chatcmpl-")
        assert redis.hget(job, "state") == b"running"
        assert redis.hget(job, "owners"), "nobody is told of the words as they come"
        assert text_of(reader.result(30)) == "".join(f"{n} " for n in range(60))


def test_a_worker_that_dies_gives_every_reader_one_error(
    tmp_path: Path, own_redis: RedisServer, demo_backend: DemoBackend
) -> None:
    two = Two(tmp_path, own_redis, demo_backend)
    try:
        with ThreadPoolExecutor(2) as readers, stored_stream(two.here, "slow") as (answer, events):
            made, first = completion_id(answer), [next(events) for _ in range(4)]
            reader = readers.submit(resumed, two.there, made)
            two.system.workers[0].kill()
            first += events
            assert reader.result(30) == first
        assert error_of(first)["code"] == "job_lost"
        for after in range(len(first) - 2):
            assert resumed(two.there, made, after) == first[after + 1 :]
        two.forget_in_redis(made)
        for after in range(len(first) - 2):
            assert resumed(two.there, made, after) == first[after + 1 :]
        found = two.here.get(f"/v1/chat/completions/{made}").json()
        assert found["choices"][0]["message"]["content"] == text_of(first)
        assert found["error"]["code"] == "job_lost"
    finally:
        two.stop()


def test_an_api_process_that_dies_loses_nothing_of_what_it_took(
    tmp_path: Path, own_redis: RedisServer, demo_backend: DemoBackend
) -> None:
    two = Two(tmp_path, own_redis, demo_backend)
    try:
        with stored_stream(two.here, "slow") as (answer, events):
            made, first = completion_id(answer), [next(events) for _ in range(3)]
            assert two.system.api is not None
            two.system.api.kill()
        rest = resumed(two.there, made, first[-1].number)
        assert text_of([*first, *rest]) == "".join(f"{n} " for n in range(16))
        assert rest[-1] == DONE
        two.forget_in_redis(made)
        assert two.there.get(f"/v1/chat/completions/{made}").json()["choices"][0]["finish_reason"] == "stop"
    finally:
        two.stop()


@pytest.mark.alone
def test_a_redis_that_is_killed_and_started_again_costs_no_words(
    tmp_path: Path, own_redis: RedisServer, demo_backend: DemoBackend
) -> None:
    two = Two(tmp_path, own_redis, demo_backend)
    try:
        with stored_stream(two.here, "long") as (answer, events):
            made, first = completion_id(answer), [next(events) for _ in range(10)]
            own_redis.kill()
            own_redis.start()
            first += events
        if first[-2].number is None:  # its file lacked the last second: the client was told, and nothing is stored
            assert error_of(first)["code"] == "job_lost"
            wait_until(lambda: two.there.get(f"/v1/chat/completions/{made}").status_code == 404, 10, "it to be dropped")
        else:
            assert text_of(first) == "".join(f"{n} " for n in range(60))
            for after in range(0, len(first) - 1, 7):
                assert resumed(two.there, made, after) == first[after + 1 :]
            two.forget_in_redis(made)
            assert resumed(two.there, made) == first
    finally:
        two.stop()


def test_without_live_events_everything_comes_out_of_the_log(
    tmp_path: Path, own_redis: RedisServer, demo_backend: DemoBackend
) -> None:
    two = Two(tmp_path, own_redis, demo_backend, testing={"drop_live_events": True, "silence_seconds": 0.2})
    try:
        with ThreadPoolExecutor(2) as readers, stored_stream(two.here, "slow") as (answer, events):
            first = [next(events)]
            reader = readers.submit(resumed, two.there, completion_id(answer))
            first += events
            assert reader.result(20) == first
        assert text_of(first) == "".join(f"{n} " for n in range(16))
    finally:
        two.stop()


@pytest.mark.parametrize("end", [Process.kill, Process.stop], ids=["killed", "stopped"])
def test_the_loop_of_the_how_to_loses_nothing_when_its_api_process_ends(
    tmp_path: Path, own_redis: RedisServer, demo_backend: DemoBackend, end: Callable[[Process], object]
) -> None:
    page = (ROOT / "docs" / "how-to" / "leave-and-come-back.md").read_text()
    (loop,) = [block for block in page.split("```python\n")[1:] if block.startswith("import httpx")]
    names: dict[str, Any] = {}
    exec(loop.split("```")[0], names)  # noqa: S102 - our own page
    two = Two(tmp_path, own_redis, demo_backend)
    try:
        with stored_stream(two.there, "long") as (answer, _):
            made = completion_id(answer)
            pieces = names["text_of"](two.system.base_url, two.system.token, made)
            with own_redis.client() as redis:
                redis.client_pause(2500)  # at first it is told 503
            got = [next(pieces) for _ in range(4)]
            assert two.system.api is not None
            end(two.system.api)
            two.system.start_api()
            got += pieces
        assert "".join(got) == "".join(f"{n} " for n in range(60))
    finally:
        two.stop()
