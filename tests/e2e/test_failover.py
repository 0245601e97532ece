"""Retries and fail-over: by the worker alone, bounded, and only while the caller has seen nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest

from tests.support.calls import Call
from tests.support.chat import CHAT, chat_body
from tests.support.models import model
from tests.support.processes import RedisServer, free_port
from tests.support.system import DemoBackend, System
from tests.support.waiting import wait_until
from workers.completion import RETRY_BACKOFF_SECONDS
from workers.health import FAILURES_TO_EJECT, FIRST_EJECTION_SECONDS

DOWN, UP = "demo?status=503&tokens=4", "demo?tokens=4"


def two(first: dict[str, Any], second: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """Return a model with two backends; the names that they call it tell them apart in the demo backend's record."""
    return {"max_wait_seconds": 30, "timeout_seconds": 30, **settings, "backends": [first, second]}


MODELS: dict[str, dict[str, Any]] = {
    "fails-twice": model("status=503&fail_times=2&tokens=4"),
    "always-fails": model("status=503", max_attempts=3),
    "asks-for-a-second": model("status=429&retry_after=1&fail_times=1&tokens=4"),
    "asks-for-six": model("status=503&retry_after=6&tokens=4"),
    "refuses": model("status=400"),
    "fails-late": model("tokens=6&cut_after=3"),
    "no-time-left": model("status=503&retry_after=3", timeout_seconds=2),
    "one-down": two({"model": DOWN + "&prefix=1"}, {"model": UP}),
    "one-dead": two({"url": f"http://127.0.0.1:{free_port()}/v1"}, {"model": UP}),
    "one-cuts": two({"model": "demo?tokens=4&cut_after=0"}, {"model": UP}),
    "recovers": two({"model": f"{DOWN}&fail_times={FAILURES_TO_EJECT}"}, {"model": "demo?tokens=4&comments=1"}),
    "survivor": two(
        {"model": DOWN + "&comments=1", "concurrency": 8},
        {"model": "demo?tokens=4&token_seconds=0.1&answer_seconds=0.3", "concurrency": 2},
        concurrency=10,
    ),
}


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, module_redis: RedisServer, backend: DemoBackend
) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("system")
    with System(folder, redis_url=module_redis.url, backend_url=backend.url, models=MODELS) as running:
        yield running


def pauses(records: list[dict[str, Any]]) -> list[float]:
    return [later["started_at"] - earlier["ended_at"] for earlier, later in pairwise(records)]


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
def test_a_failed_call_is_repeated_after_a_growing_pause(served: System, backend: DemoBackend, stream: bool) -> None:
    backend.clear()
    prompt = f"fails-twice-{stream}"
    Call(served, "fails-twice", prompt, stream=stream).wait(10).assert_complete(4)
    first, second = pauses(backend.seen(prompt))
    assert first >= RETRY_BACKOFF_SECONDS * 0.5
    assert second >= RETRY_BACKOFF_SECONDS * 1.0
    assert first + second < 2.5


def test_the_pauses_are_jittered(served: System, backend: DemoBackend) -> None:
    prompts = [f"jitter-{number}" for number in range(6)]
    for call in [Call(served, "always-fails", prompt) for prompt in prompts]:
        call.wait(15)
    firsts = [pauses(backend.seen(prompt))[0] for prompt in prompts]
    assert max(firsts) - min(firsts) > 0.005


def test_attempts_are_bounded_and_the_last_error_is_told(served: System, backend: DemoBackend) -> None:
    call = Call(served, "always-fails", "bounded", stream=False).wait(15)
    assert call.status == 503
    call.assert_one_error()
    assert len(backend.seen("bounded")) == 3


def test_a_short_retry_after_is_waited_for(served: System, backend: DemoBackend) -> None:
    Call(served, "asks-for-a-second", "a-second").wait(10).assert_complete(4)
    (pause,) = pauses(backend.seen("a-second"))
    assert 1 <= pause < 3


def test_a_long_retry_after_is_told_to_the_client_instead(served: System, backend: DemoBackend) -> None:
    with served.client() as client:
        began = time.monotonic()
        answer = client.post(CHAT, json=chat_body("asks-for-six", "six"))
        assert time.monotonic() - began < 3
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "6"
    assert len(backend.seen("six")) == 1


def test_no_retry_goes_past_the_runs_limit(served: System, backend: DemoBackend) -> None:
    call = Call(served, "no-time-left", "no-time", stream=False).wait(10)
    assert call.status == 503
    assert call.seconds < 2
    assert len(backend.seen("no-time")) == 1


@pytest.mark.parametrize("name", ["refuses", "fails-late"])
def test_what_a_retry_cannot_mend_is_called_once(served: System, backend: DemoBackend, name: str) -> None:
    call = Call(served, name, f"once-{name}").wait(10)
    call.assert_one_error()
    assert len(backend.seen(f"once-{name}")) == 1
    if name == "fails-late":
        assert call.content().split() == ["0", "1", "2"]


@pytest.mark.parametrize("name", ["one-down", "one-dead", "one-cuts"])
def test_callers_never_see_the_backend_that_fails(served: System, backend: DemoBackend, name: str) -> None:
    calls = [Call(served, name, f"{name}-{number}", stream=number % 2 == 0) for number in range(16)]
    for call in calls:
        call.wait(15).assert_complete(4)
    for number in range(4):  # by now it is ejected, or has not been chosen yet
        Call(served, name, f"{name}-later-{number}").wait(15).assert_complete(4)
    if name == "one-down":
        tries = [len(backend.seen(f"{name}-later-{number}")) for number in range(4)]
        assert sum(tries) <= 4 + 1  # one may have been the trial


def test_an_ejected_backend_is_tried_again_and_taken_back(served: System, backend: DemoBackend) -> None:
    first = MODELS["recovers"]["backends"][0]["model"]

    def calls_of_first() -> int:
        return sum(one["model"] == first for one in backend.requests())

    def one_more() -> bool:
        Call(served, "recovers", "recovers", stream=False).wait(15).assert_complete(4)
        return calls_of_first() >= FAILURES_TO_EJECT

    wait_until(one_more, 15, "the first backend to be ejected")
    ejected_at = time.monotonic()
    while time.monotonic() < ejected_at + FIRST_EJECTION_SECONDS - 1.5:
        one_more()
    assert calls_of_first() == FAILURES_TO_EJECT

    def is_back() -> bool:
        one_more()
        return calls_of_first() > FAILURES_TO_EJECT + 3

    wait_until(is_back, 15, "the first backend to be called again")


def test_the_survivor_of_an_ejection_is_not_flooded(served: System, backend: DemoBackend) -> None:
    survivor = MODELS["survivor"]["backends"][1]["model"]
    first = MODELS["survivor"]["backends"][0]["model"]
    for number in range(30):
        Call(served, "survivor", f"eject-{number}", stream=False).wait(15).assert_complete(4)
        if sum(one["model"] == first for one in backend.requests()) >= FAILURES_TO_EJECT:
            break
    began = time.time()
    with ThreadPoolExecutor(10) as pool:
        calls = list(pool.map(lambda n: Call(served, "survivor", f"crowd-{n}", stream=False).wait(20), range(10)))
    for call in calls:
        call.assert_complete(4)
    runs = [one for one in backend.requests() if one["model"] == survivor and one["started_at"] >= began]
    moments = sorted([(one["started_at"], 1) for one in runs] + [(one["ended_at"], -1) for one in runs])
    at_once = most = 0
    for _, change in moments:
        at_once += change
        most = max(most, at_once)
    assert len(runs) == 10
    assert most <= 3  # its own limit, and at most the one job that was sent on when the trial failed
