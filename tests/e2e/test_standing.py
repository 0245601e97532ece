"""Callers know where they stand: headers, comments, `GET /requests/{id}`, and the tier that was used."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import httpx
import pytest

from tests.e2e.wire import MESSAGES, Json, chat, envelope, events, running
from tests.support.chat import CHAT
from tests.support.models import model
from tests.support.processes import RedisServer
from tests.support.system import DemoBackend, System
from tests.support.waiting import wait_until

SERVICE_SECONDS = 0.5
LONG_HELD_SECONDS = 5.0
MODELS = {
    "line": model(f"tokens=2&first_token_seconds={SERVICE_SECONDS}", concurrency=1),
    "held": model("tokens=400&token_seconds=0.05", concurrency=1),
    "late-failure": model(
        "stall=1", concurrency=1, first_token_timeout_seconds=SERVICE_SECONDS, timeout_seconds=20, max_attempts=1
    ),
    "free": model("tokens=3"),
    "says-tier": model("tokens=3"),
}
TOKENS: dict[str, dict[str, Any]] = {
    "urgent": {"lane": "priority"},
    "heavy": {"weight": 3},
    "light": {},
    "patient": {"lane": "flex"},
    "background": {"lane": "batch"},
}
POSITION, WAIT = "x-aqueduct-queue-position", "x-aqueduct-estimated-wait-ms"


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, module_redis: RedisServer, demo_backend: DemoBackend
) -> Iterator[System]:
    """A gateway whose models run one request at a time."""
    with System(
        tmp_path_factory.mktemp("standing"),
        redis_url=module_redis.url,
        backend_url=demo_backend.url,
        models=MODELS,
        tokens=TOKENS,
        settings={"api": {"hold_headers_seconds": LONG_HELD_SECONDS, "keep_alive_seconds": 0.4}},
    ) as made:
        yield made


@pytest.fixture
def client(site: System) -> Iterator[httpx.Client]:
    with site.client() as opened:
        yield opened


class Stream(NamedTuple):
    """A stream that waits; its headers came with its first comment."""

    token: str
    answer: httpx.Response
    lines: Iterator[str]
    first: str
    after_seconds: float

    @property
    def id(self) -> str:
        request_id: str = self.answer.headers["x-request-id"]
        return request_id


@contextlib.contextmanager
def streaming(site: System, who: str = "test", model_name: str = "held", *, is_soon: bool = True) -> Iterator[Stream]:
    """Open a stream; the block begins with its first line. `is_soon`: its client is told three times a second."""
    body = {"model": model_name, "messages": MESSAGES, "stream": True}
    headers = {"x-stainless-read-timeout": "1"} if is_soon else {}
    begin = time.monotonic()
    with site.client(site.tokens[who]) as opened, opened.stream("POST", CHAT, json=body, headers=headers) as answer:
        lines = answer.iter_lines()
        first = next(lines)
        yield Stream(who, answer, lines, first, time.monotonic() - begin)


def read_comment(line: str) -> tuple[int, int]:
    """Return the position and the wait that a comment tells."""
    words = line.replace(",", "").split()
    assert [words[at] for at in (0, 1, 2, 4, 6)] == [":", "queued", "position", "wait", "ms"], line
    return int(words[3]), int(words[5])


def look(site: System, request_id: str, who: str = "test") -> Json:
    """Ask where a request stands."""
    with site.client(site.tokens[who]) as opened:
        answer = opened.get(f"/v1/requests/{request_id}")
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


def test_whole_answers_that_were_held_tell_where_they_stood(site: System, client: httpx.Client) -> None:
    free = chat(client, "line")
    assert POSITION not in free.headers and WAIT not in free.headers
    with ThreadPoolExecutor(5) as pool:
        asked = []
        for _ in range(5):
            asked.append(pool.submit(chat, client, "line"))
            time.sleep(0.05)  # so that they come in this order
        answers = [one.result() for one in asked]
    assert POSITION not in answers[0].headers
    held = answers[1:]
    assert [int(answer.headers[POSITION]) for answer in held] == [0, 1, 2, 3]
    for answer in held:
        told, waited = int(answer.headers[WAIT]), int(answer.headers["x-aqueduct-queue-ms"])
        assert abs(told - waited) <= 0.2 * waited + 100, (told, waited)


def test_a_held_stream_is_told_within_a_second_and_again_with_each_comment(site: System, client: httpx.Client) -> None:
    with running(client, "held"), ExitStack() as stack:
        streams = [stack.enter_context(streaming(site, is_soon=False)) for _ in range(3)]
        for number, one in enumerate(streams):
            assert one.after_seconds < 1.5
            assert read_comment(one.first)[0] == number
            assert int(one.answer.headers[POSITION]) == number
            assert int(one.answer.headers[WAIT]) > 0
            assert "x-aqueduct-queue-ms" not in one.answer.headers  # it is not known yet
        lines = [line for line, _ in zip(streams[2].lines, range(6), strict=False) if line]
        assert len(lines) == 3
        assert {read_comment(line)[0] for line in lines} == {2}


def test_positions_count_down_to_the_front_in_the_order_that_is_served(site: System) -> None:
    tokens = ["light", "light", "heavy", "heavy", "heavy", "urgent", "urgent", "patient"]
    with ExitStack() as stack:
        with site.client() as first, running(first, "held"):
            streams = [stack.enter_context(streaming(site, token)) for token in tokens]
            places = [look(site, one.id, one.token)["position"] for one in streams]
        assert sorted(places) == list(range(len(tokens)))
        assert max(place for place, token in zip(places, tokens, strict=True) if token == "urgent") < 4
        line = [one for _, one in sorted(zip(places, streams, strict=True), key=lambda pair: pair[0])]
        while line:
            served = line.pop(0)
            wait_until(partial(is_in, site, served, "running"), 10)
            found = [look(site, one.id, one.token) for one in line]
            assert [(one["state"], one["position"]) for one in found] == [
                ("waiting", place) for place in range(len(line))
            ]
            served.answer.close()


def is_in(site: System, one: Stream, state: str) -> bool:
    return bool(look(site, one.id, one.token)["state"] == state)


def test_a_request_can_be_looked_at_from_its_waiting_to_its_end(site: System, client: httpx.Client) -> None:
    before = time.time()
    with running(client, "held"), streaming(site) as one:
        found = look(site, one.id)
        assert {name: found[name] for name in ("id", "object", "model", "state", "lane", "position", "attempts")} == {
            "id": one.id, "object": "request", "model": "held", "state": "waiting", "lane": "default", "position": 0,
            "attempts": 0,
        }  # fmt: skip
        assert found["estimated_wait_ms"] >= 0
        assert found["timeline"]["accepted"] >= int(before)
        assert [found["timeline"][name] for name in ("taken", "first_token", "ended")] == [None] * 3
    with streaming(site, model_name="free") as one:
        list(one.lines)
    found = look(site, one.id)
    assert (found["state"], found["attempts"]) == ("ended", 1)
    assert found["position"] is found["estimated_wait_ms"] is None
    times = [found["timeline"][name] for name in ("accepted", "taken", "first_token", "ended")]
    assert times == sorted(times)


def test_whole_answers_can_be_looked_at_by_either_id(site: System, client: httpx.Client) -> None:
    answer = chat(client, "free")
    by_header, by_id = look(site, answer.headers["x-request-id"]), look(site, answer.json()["id"])
    assert by_header == by_id
    assert (by_header["state"], by_header["timeline"]["first_token"]) == ("ended", None)
    assert client.get(f"/requests/{answer.headers['x-request-id']}").json() == by_header


def test_what_is_another_tokens_or_nobodys_is_not_found(site: System, client: httpx.Client) -> None:
    with running(client, "held"), streaming(site) as one, site.client(site.tokens["light"]) as other:
        for path in (f"/requests/{one.id}", f"/v1/requests/{one.id}"):
            envelope(other.get(path), 404, code="not_found", param="request_id")
        for unknown in ("req_" + "0" * 32, "x", "req_" + "0" * 31, "%00", "req_" + "A" * 32):
            envelope(client.get(f"/v1/requests/{unknown}"), 404, code="not_found")
        with httpx.Client(base_url=site.base_url) as nobody:
            envelope(nobody.get(f"/v1/requests/{one.id}"), 401)


def test_who_was_held_but_has_begun_still_fails_with_a_status(site: System) -> None:
    def ask() -> httpx.Response:
        with site.client() as opened:
            return chat(opened, "late-failure", stream=True)

    ask()  # how long one takes is known from now on
    with ThreadPoolExecutor(2) as pool:
        answers = [one.result() for one in [pool.submit(ask) for _ in range(2)]]
    assert [answer.status_code for answer in answers] == [504, 504]
    assert sum(POSITION in answer.headers for answer in answers) == 1


TIERS = [
    ("urgent", "priority", "priority"),
    ("urgent", "fast", "priority"),
    ("urgent", "auto", "priority"),
    ("urgent", "flex", "flex"),
    ("test", "auto", "default"),
    ("test", "default", "default"),
    ("test", "flex", "flex"),
    ("background", "auto", "flex"),
    ("urgent", None, None),
]


@pytest.mark.parametrize(("token", "asked", "used"), TIERS)
def test_answers_name_the_tier_that_was_used_where_one_was_asked_for(
    site: System, token: str, asked: str | None, used: str | None
) -> None:
    with site.client(site.tokens[token]) as opened:
        whole = chat(opened, "free", service_tier=asked).json()
        chunks = events(chat(opened, "free", service_tier=asked, stream=True, stream_options={"include_usage": True}))
        text = opened.post("/v1/completions", json={"model": "free", "prompt": "x", "service_tier": asked}).json()
    assert whole.get("service_tier") == text.get("service_tier") == used
    assert {chunk.get("service_tier") for chunk in chunks} == {used}
    if used is None:
        assert not any("service_tier" in one for one in (whole, text, *chunks))
