"""A slow line to Redis: large bodies take their time, and nobody else's request waits for them or is lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.conftest import MakeSystem
from tests.support.calls import Call
from tests.support.models import model
from tests.support.processes import RedisServer
from tests.support.relay import Relay
from tests.support.system import System
from tests.support.waiting import wait_until

pytestmark = pytest.mark.chaos

LARGE_BYTES = 15 * 1024 * 1024
MODELS: dict[str, dict[str, Any]] = {
    "large": model("tokens=3", concurrency=2, max_wait_seconds=120, timeout_seconds=60),
    "small": model("tokens=3", concurrency=8),
    "huge": model(f"huge={12 * 1024 * 1024}"),
}


@contextmanager
def behind_a_line(make_system: MakeSystem, server: RedisServer, bytes_per_second: float) -> Iterator[System]:
    """Yield a system whose processes share one line of this width to Redis."""
    with Relay(server.port) as line:
        system = make_system(redis_url=line.through(server.url), models=MODELS)
        line.bytes_per_second = bytes_per_second
        yield system


def small_ones_beside(system: System, large: list[Call], within_seconds: float) -> list[Call]:
    """Send small requests one after another until the large ones have ended."""
    small: list[Call] = []

    def all_ended() -> bool:
        small.append(Call(system, "small", f"small-{len(small)}", stream=len(small) % 2 > 0))
        small[-1].wait(20)
        return all(call.has_ended for call in large)

    wait_until(all_ended, within_seconds, "the large requests to end", poll_seconds=0.1)
    return small


@pytest.mark.parametrize("megabytes_per_second", [30, 5])
def test_six_large_bodies_at_once_are_lost_by_nobody_and_keep_nobody_waiting(
    make_system: MakeSystem, own_redis: RedisServer, megabytes_per_second: int
) -> None:
    with behind_a_line(make_system, own_redis, megabytes_per_second * 1e6) as system:
        began = time.monotonic()
        large = [Call(system, "large", str(number) * LARGE_BYTES, stream=number % 2 > 0) for number in range(6)]
        small = small_ones_beside(system, large, 110)
        assert len(small) >= 5
        for call in small:
            call.assert_complete(3)
            assert call.seconds < 5
        codes = [call.errors()[0]["code"] for call in large if call.status != 200 or call.errors()]
        if megabytes_per_second == 30:
            assert not codes, f"after {time.monotonic() - began:.0f} s"
        # A line that is too slow for all of them is said so before anything was accepted; nothing accepted is lost.
        assert set(codes) <= {"server_is_overloaded"}
        for call in large:
            if call.status == 200:
                call.assert_complete(3)
        assert all(process is not None and process.running for process in (system.api, *system.workers))


def test_large_jobs_that_wait_are_taken_as_slots_become_free(make_system: MakeSystem, own_redis: RedisServer) -> None:
    with behind_a_line(make_system, own_redis, 30e6) as system:
        large = [Call(system, "large", str(number) * LARGE_BYTES, stream=number % 2 > 0) for number in range(8)]
        for call in large:
            call.wait(60).assert_complete(3)


def test_a_large_answer_arrives_whole_and_keeps_nobody_waiting(make_system: MakeSystem, own_redis: RedisServer) -> None:
    with behind_a_line(make_system, own_redis, 5e6) as system:
        large = Call(system, "huge", "tell me all", stream=False)
        for call in small_ones_beside(system, [large], 60):
            call.assert_complete(3)
            assert call.seconds < 5
        assert large.status == 200
        assert len(large.text) > 12 * 1024 * 1024
        assert "leases not renewed" not in system.logs()
