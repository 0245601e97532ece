"""A Redis that forgets its last second: each caller still gets one run of its request whole, or one error, and soon."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.load import TOKENS_OF, Load
from tests.chaos.stand import Episode
from tests.chaos.table import recovery_seconds
from tests.conftest import MakeSystem
from tests.support.fallback import Failover, lose_the_last
from tests.support.models import model
from tests.support.processes import RedisServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.chaos

SILENCE_SECONDS = 30
LOST_SECONDS = 0.8
CALLERS = 30
"""More than there are slots, so that jobs are taken, begun and ended in whatever moment is forgotten."""
MODELS: dict[str, dict[str, Any]] = {
    name: model(
        f"prefix=1&call_marks=1&tokens={tokens}&token_seconds={seconds}", concurrency=10,
        max_wait_seconds=60, timeout_seconds=60,
    )
    for (name, tokens), seconds in zip(TOKENS_OF.items(), (0.06, 0.03), strict=True)
}  # fmt: skip


@contextmanager
def under_load(make_system: MakeSystem, redis_url: str) -> Iterator[tuple[Load, Callable[[int], None]]]:
    """Send streams and plain requests to two workers; at the end each answer is judged."""
    system = make_system(redis_url=redis_url, models=MODELS, workers=[(), ()])
    load = Load([system.base_url], system.token, callers=CALLERS)

    def wait_for(more: int) -> None:
        wanted = load.accepted + more
        wait_until(lambda: load.accepted >= wanted, 60, "the load", poll_seconds=0.05)

    with load.in_background():
        wait_for(30)
        yield load, wait_for
        wait_for(60)
    assert all(worker.running for worker in system.workers), system.logs()


def assert_one_run_or_one_error(load: Load, episode: Episode) -> None:
    wrong = [
        (answer.marker, answer.verdict, answer.code, answer.content[-20:], sorted(answer.calls))
        for answer in load.answers
        if answer.verdict not in ("completed", "errored")
        or answer.is_altered
        or answer.is_spliced
        or answer.is_doubled
        or (answer.verdict == "errored" and answer.code != "job_lost")
    ]
    assert not wrong
    harmed = [answer for answer in load.answers if answer.sent_at < episode.began_at < answer.ended_at]
    assert len(harmed) >= 10
    assert any(answer.stream for answer in harmed)
    assert recovery_seconds(load.answers, [episode]) < SILENCE_SECONDS
    assert any(answer.verdict == "completed" and answer.sent_at > episode.healed_at for answer in load.answers)


def test_nobody_gets_a_splice_when_a_lagging_replica_takes_over(make_system: MakeSystem, tmp_path: Path) -> None:
    with Failover(tmp_path / "failover") as servers:
        with under_load(make_system, servers.url) as (load, _):
            began_at = time.monotonic()
            servers.fall_back(LOST_SECONDS)
            episode = Episode(began_at, time.monotonic())
        assert_one_run_or_one_error(load, episode)


def test_nobody_gets_a_splice_when_the_append_only_file_lost_its_end(
    make_system: MakeSystem, own_redis: RedisServer
) -> None:
    with under_load(make_system, own_redis.url) as (load, _):
        began_at = time.monotonic()
        lose_the_last(own_redis, LOST_SECONDS)
        episode = Episode(began_at, time.monotonic())
    assert_one_run_or_one_error(load, episode)
