"""What callers see when processes are killed, stopped or cut off: the promises' times are asserted here."""

from __future__ import annotations

import time
from typing import Any

import pytest

from shared import keys
from shared.errors import BrokerUnavailable
from tests.conftest import MakeSystem
from tests.support.calls import Call, wait_for_content
from tests.support.models import model
from tests.support.processes import RedisServer
from tests.support.system import DemoBackend, System
from tests.support.waiting import wait_until

pytestmark = pytest.mark.chaos

THINKS_SECONDS = 5
TOKENS = 70
MODELS: dict[str, dict[str, Any]] = {
    "thinks": model(f"tokens=3&first_token_seconds={THINKS_SECONDS}&answer_seconds={THINKS_SECONDS}"),
    "talks": model("tokens=2000&token_seconds=0.05", timeout_seconds=120),
    "steady": model(f"tokens={TOKENS}&token_seconds=0.1&answer_seconds=7", concurrency=6, timeout_seconds=60),
    "short": model("tokens=3"),
}


def live_workers(server: RedisServer, model_name: str) -> int:
    with server.client() as client:
        return int(client.zcard(keys.workers(model_name)))


def wait_for_backend(backend: DemoBackend, *calls: Call) -> None:
    wait_until(lambda: all(backend.seen(call.prompt) for call in calls), 20, "the backend to be called")


def add_second_worker(system: System, server: RedisServer) -> None:
    """Start another worker; what ran before runs on the first."""
    system.add_worker()
    wait_until(lambda: live_workers(server, "short") == 2, 20, "the second worker to live")


def assert_serves(system: System, within_seconds: float = 10) -> None:
    """Wait until a plain request is answered again."""
    wait_until(
        lambda: Call(system, "short", "again", stream=False).wait(30).status == 200, within_seconds, "an answer again"
    )


# --- workers ----------------------------------------------------------------------------------------------------------


def test_jobs_of_a_killed_worker_run_elsewhere_or_end_in_one_error(
    make_system: MakeSystem, own_redis: RedisServer, demo_backend: DemoBackend
) -> None:
    system = make_system(models=MODELS)
    stream, plain = Call(system, "thinks", "killed-stream"), Call(system, "thinks", "killed-plain", stream=False)
    begun = Call(system, "talks", "killed-mid-stream")
    wait_for_content(begun)
    wait_for_backend(demo_backend, stream, plain)
    add_second_worker(system, own_redis)
    assert stream.text == ""
    killed_at = time.time()
    system.workers[0].kill()
    begun.wait(12)
    assert begun.assert_one_error()["code"] == "job_lost"
    for call in (stream, plain):
        call.wait(10 + THINKS_SECONDS + 2).assert_complete(3)
        first, second = demo_backend.seen(call.prompt)
        assert first["closed_by_client"]
        assert second["started_at"] - killed_at < 10
    assert len(demo_backend.seen(begun.prompt)) == 1


def test_a_stopped_worker_lets_answers_end_and_then_hands_over_what_published_nothing(
    make_system: MakeSystem, own_redis: RedisServer, demo_backend: DemoBackend
) -> None:
    grace = 5.0
    models = {**MODELS, "thinks": model("tokens=3&first_token_seconds=9&answer_seconds=9")}
    system = make_system(models=models, settings={"worker": {"drain_seconds": grace}})
    long = Call(system, "talks", "stopped-long")
    ending = [Call(system, "steady", f"stopped-ending-{number}") for number in range(4)]
    wait_for_content(long, *ending)
    stream, plain = Call(system, "thinks", "stopped-stream"), Call(system, "thinks", "stopped-plain", stream=False)
    wait_for_backend(demo_backend, stream, plain)
    add_second_worker(system, own_redis)
    wait_until(lambda: all("29 " in call.text for call in ending), 20, "half of the streams")
    stopped_at, began = time.time(), time.monotonic()
    system.workers[0].terminate()
    assert system.workers[0].wait(grace + 2) == 0
    assert time.monotonic() - began < grace + 2
    assert long.wait(2).assert_one_error()["code"] == "job_lost"
    for call in (stream, plain):
        call.wait(9 + 5).assert_complete(3)
        # A hand-over costs all that the run has done, so it comes at the end of the grace.
        assert demo_backend.seen(call.prompt)[1]["started_at"] - stopped_at < grace + 2
    for call in ending:
        call.wait(10).assert_complete(TOKENS)
        assert len(demo_backend.seen(call.prompt)) == 1
    assert_serves(system)


def test_what_a_models_only_worker_runs_ends_well_within_its_grace(
    make_system: MakeSystem, demo_backend: DemoBackend
) -> None:
    demo_backend.clear()
    system = make_system(models=MODELS, settings={"worker": {"drain_seconds": 20}})
    calls = [Call(system, "thinks", f"only-{stream}", stream=stream) for stream in (True, False)]
    begun = Call(system, "steady", "only-begun")
    wait_for_content(begun)
    wait_for_backend(demo_backend, *calls)
    (worker,) = system.workers
    worker.terminate()
    assert worker.wait(20) == 0
    for call in calls:
        call.wait(2).assert_complete(3)
    begun.wait(2).assert_complete(TOKENS)
    assert [len(demo_backend.seen(call.prompt)) for call in (*calls, begun)] == [1, 1, 1]


# --- the API ----------------------------------------------------------------------------------------------------------


def test_jobs_of_a_killed_api_process_are_cancelled(
    make_system: MakeSystem, own_redis: RedisServer, demo_backend: DemoBackend
) -> None:
    one_slot = {"talks": {**MODELS["talks"], "concurrency": 1}}
    system = make_system(models=one_slot)
    running = Call(system, "talks", "orphan-runs")
    wait_for_content(running)
    waiting = Call(system, "talks", "orphan-waits")
    with own_redis.client() as client:
        wait_until(lambda: client.zcard(keys.lane("default", "talks")) == 1, 10, "the second job to wait")
        assert system.api is not None
        system.api.kill()
        wait_until(
            lambda: not client.exists(keys.lane("default", "talks"), keys.running("talks")), 15, "its jobs to end"
        )
    (record,) = demo_backend.seen(running.prompt)
    assert record["closed_by_client"]
    assert demo_backend.seen(waiting.prompt) == []


def test_a_stopped_api_process_lets_streams_end_and_refuses_new_requests(
    make_system: MakeSystem, demo_backend: DemoBackend
) -> None:
    grace = 3.0
    system = make_system(models=MODELS, settings={"api": {"drain_seconds": grace}})
    assert system.api is not None
    long, thinking = Call(system, "talks", "draining-long"), Call(system, "thinks", "draining-plain", stream=False)
    ending = Call(system, "steady", "draining-ending")
    wait_until(lambda: "49 " in ending.text, 20, "the stream to come near its end")
    late = Call(system, "thinks", "draining-late", stream=False)
    wait_for_content(long)
    wait_for_backend(demo_backend, late)
    began = time.monotonic()
    system.api.terminate()
    assert system.api.wait(grace + 2) == 0
    assert time.monotonic() - began < grace + 2
    ending.wait(1).assert_complete(TOKENS)
    assert long.wait(1).assert_one_error()["code"] == "draining"
    assert late.wait(1).assert_one_error()["code"] == "draining"
    assert late.status == 503
    thinking.wait(1).assert_complete(3)
    wait_until(lambda: demo_backend.seen(long.prompt)[0]["closed_by_client"], 2, "the backend's call to be closed")


# --- Redis ------------------------------------------------------------------------------------------------------------


def accepted_jobs(system: System, own_redis: RedisServer) -> list[Call]:
    """Start streams and plain requests, some that run and some that wait."""
    calls = [Call(system, "steady", f"accepted-{number}", stream=number % 3 != 0) for number in range(9)]
    with own_redis.client() as client:
        wait_until(lambda: client.zcard(keys.PREFIXES["waits"] + "steady") == 3, 20, "three to wait")
    wait_until(lambda: sum("4 " in call.text for call in calls) >= 2, 20, "streams to run")
    return calls


def assert_refused_soon(system: System) -> None:
    """A request while Redis is away gets 503 within 2 s."""
    call = Call(system, "short", "refused", stream=False).wait(10)
    assert call.status == 503, call.text
    assert call.assert_one_error()["code"] == BrokerUnavailable.code
    assert call.seconds < 2.4  # 2 s, and what a busy machine needs to send and read it


def assert_unharmed(system: System, calls: list[Call], backend: DemoBackend) -> None:
    for call in calls:
        call.wait(45).assert_complete(TOKENS)
        assert len(backend.seen(call.prompt)) == 1
    assert_serves(system)
    assert all(worker.running for worker in system.workers)
    assert system.api is not None
    assert system.api.running


def test_accepted_jobs_complete_when_redis_drops_every_connection(
    make_system: MakeSystem, own_redis: RedisServer, demo_backend: DemoBackend
) -> None:
    demo_backend.clear()
    system = make_system(models=MODELS)
    calls = accepted_jobs(system, own_redis)
    own_redis.drop_connections()
    wait_until(lambda: sum("20 " in call.text for call in calls) >= 2, 20, "the streams to go on")
    own_redis.drop_connections()
    assert_unharmed(system, calls, demo_backend)


def test_accepted_jobs_complete_when_redis_freezes_for_five_seconds(
    make_system: MakeSystem, own_redis: RedisServer, demo_backend: DemoBackend
) -> None:
    demo_backend.clear()
    system = make_system(models=MODELS)
    calls = accepted_jobs(system, own_redis)
    own_redis.freeze()
    thaw_at = time.monotonic() + 5
    try:
        for _ in range(2):
            assert_refused_soon(system)
        with system.client() as client:
            began = time.monotonic()
            assert client.get("/healthz").status_code == 200
            assert time.monotonic() - began < 0.5  # the event loop is not blocked
        wait_until(lambda: time.monotonic() >= thaw_at, 5, "5 s to pass")
    finally:
        own_redis.thaw()
    assert_unharmed(system, calls, demo_backend)


def test_accepted_jobs_complete_when_redis_is_killed_and_comes_back_with_its_file(
    make_system: MakeSystem, own_redis: RedisServer, demo_backend: DemoBackend
) -> None:
    demo_backend.clear()
    system = make_system(models=MODELS)
    calls = accepted_jobs(system, own_redis)
    own_redis.kill()
    for _ in range(2):
        assert_refused_soon(system)
    own_redis.restart()
    assert_unharmed(system, calls, demo_backend)


def test_jobs_end_in_an_answer_or_one_error_when_redis_comes_back_empty(
    make_system: MakeSystem, own_redis: RedisServer, demo_backend: DemoBackend
) -> None:
    demo_backend.clear()
    system = make_system(models=MODELS)
    calls = accepted_jobs(system, own_redis)
    own_redis.restart_empty()
    emptied_at = time.monotonic()
    for call in calls:
        call.wait(30)
        assert call.ended_at - emptied_at < 30
        if call.status == 200 and not call.errors():
            call.assert_complete(TOKENS)
        else:
            assert call.assert_one_error()["code"] == "job_lost"
    assert all(len(demo_backend.seen(call.prompt)) <= 1 for call in calls)
    wait_until(lambda: demo_backend.state()["open_requests"] == 0, 10, "the backend's calls to be closed")
    assert_serves(system, 15)
    assert all(worker.running for worker in system.workers)


def test_answers_are_whole_when_every_live_event_is_lost(make_system: MakeSystem, demo_backend: DemoBackend) -> None:
    models = {"steady": MODELS["steady"], "fast": model("tokens=2000"), "short": MODELS["short"]}
    system = make_system(models=models, settings={"testing": {"drop_live_events": True}})
    slow, fast = Call(system, "steady", "lost-slow"), Call(system, "fast", "lost-fast")
    plain = Call(system, "short", "lost-plain", stream=False)
    plain.wait(10).assert_complete(3)
    fast.wait(15).assert_complete(2000)
    slow.wait(30).assert_complete(TOKENS)
