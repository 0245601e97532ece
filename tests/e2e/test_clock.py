"""Redis's clock is set on or back under running work: nothing running is lost, the dead are noticed, deadlines end."""

from __future__ import annotations

import time
from typing import Any

import pytest

from shared import keys
from tests.conftest import MakeSystem
from tests.support.calls import Call, wait_for_content
from tests.support.chat import CHAT, chat_body
from tests.support.clock import set_clock
from tests.support.models import model
from tests.support.processes import RedisServer
from tests.support.system import DemoBackend, System
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.chaos, pytest.mark.alone]

TOKENS = 60
MAX_WAIT_SECONDS = 8
MODELS: dict[str, dict[str, Any]] = {
    "steady": model(f"tokens={TOKENS}&token_seconds=0.1&answer_seconds=6", concurrency=4),
    "thinks": model("tokens=3&first_token_seconds=4&answer_seconds=4"),
    "busy": model(
        "tokens=600&token_seconds=0.05", concurrency=1, max_wait_seconds=MAX_WAIT_SECONDS, timeout_seconds=60
    ),
    "short": model("tokens=3"),
}
SHIFTS = pytest.mark.parametrize("seconds", [-120, 10, 600], ids=["2-min-back", "10-s-on", "10-min-on"])
FAR_SHIFTS = pytest.mark.parametrize("seconds", [-120, 600], ids=["2-min-back", "10-min-on"])
RECOVERED_SECONDS = 10
"""A job of a killed worker runs elsewhere within this time."""


def shift(server: RedisServer, seconds: float) -> None:
    with server.client() as client:
        wait_until(lambda: client.exists(keys.SWEPT), 10, "the first sweep, from which a jump is seen")
        assert set_clock(client, seconds) > 0


def assert_serves(system: System, within_seconds: float = 5) -> None:
    with system.client() as client:
        wait_until(
            lambda: client.post(CHAT, json=chat_body("short")).status_code == 200, within_seconds, "a new request"
        )


@SHIFTS
def test_nothing_that_runs_is_lost_when_the_clock_is_set(
    make_system: MakeSystem, own_redis: RedisServer, demo_backend: DemoBackend, seconds: float
) -> None:
    demo_backend.clear()
    system = make_system(models=MODELS)
    streams = [Call(system, "steady", f"stream-{number}") for number in range(2)]
    plain = Call(system, "steady", "plain", stream=False)
    wait_for_content(*streams)
    wait_until(lambda: demo_backend.seen("plain"), 10, "the plain request to run")
    shift(own_redis, seconds)
    for call in (*streams, plain):
        call.wait(30).assert_complete(TOKENS)
        assert len(demo_backend.seen(call.prompt)) == 1
    assert_serves(system)
    assert all(process is not None and process.running for process in (system.api, *system.workers))


@FAR_SHIFTS
def test_jobs_of_a_killed_worker_are_recovered_in_time_though_the_clock_was_set(
    make_system: MakeSystem, own_redis: RedisServer, demo_backend: DemoBackend, seconds: float
) -> None:
    demo_backend.clear()
    system = make_system(models=MODELS)
    calls = [Call(system, "thinks", f"thinks-{number}", stream=number > 0) for number in range(3)]
    wait_until(lambda: all(demo_backend.seen(call.prompt) for call in calls), 10, "the jobs to run")
    doomed = system.workers[0]
    system.add_worker()
    with own_redis.client() as client:
        wait_until(lambda: client.zcard(keys.workers("thinks")) == 2, 20, "the second worker")
    shift(own_redis, seconds)
    doomed.kill()
    killed_at = time.monotonic()
    wait_until(
        lambda: all(len(demo_backend.seen(call.prompt)) == 2 for call in calls), RECOVERED_SECONDS + 1, "the recovery"
    )
    assert time.monotonic() - killed_at < RECOVERED_SECONDS
    for call in calls:
        call.wait(15).assert_complete(3)


@FAR_SHIFTS
def test_what_waits_ends_by_its_deadline_though_the_clock_was_set(
    make_system: MakeSystem, own_redis: RedisServer, seconds: float
) -> None:
    system = make_system(models=MODELS)
    running = Call(system, "busy", "running")
    wait_for_content(running)
    waiting = [Call(system, "busy", f"waiting-{stream}", stream=stream) for stream in (True, False)]
    with own_redis.client() as client:
        wait_until(lambda: client.zcard(keys.lane("default", "busy")) == 2, 10, "the jobs to wait")
    shift(own_redis, seconds)
    since = time.monotonic()
    for call in waiting:
        assert call.wait(20).assert_one_error()["code"] == "queue_timeout"
        assert call.ended_at - since < MAX_WAIT_SECONDS + 3  # counted anew at worst, from the next sweep on
    running.leave()
    assert_serves(system)


def test_a_token_is_not_locked_out_when_the_clock_is_set_back(make_system: MakeSystem, own_redis: RedisServer) -> None:
    system = make_system(models=MODELS, tokens={"ten": {"requests_per_minute": 600, "concurrent_jobs": 4}})
    call = Call(system, "short", "before", stream=False, token=system.tokens["ten"]).wait()
    assert call.status == 200
    shift(own_redis, -120)
    with system.client(system.tokens["ten"]) as client:
        wait_until(lambda: client.post(CHAT, json=chat_body("short")).status_code == 200, 5, "the token's next request")
