"""A batch while its feeder, every process or Redis is killed: one record a line, the right text, no hand needed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

import pytest

from shared.batches.record import Status
from tests.support.batches import chat_line
from tests.support.chat import prompt_of
from tests.support.waiting import wait_until
from tests.workers.batches.conftest import Site

LINES = 200
SLOTS = 8


def kill_feeder(site: Site) -> None:
    """Kill the worker that carries the batch; another one lives."""
    with site.redis.client() as client:
        (key,) = client.keys("aq2:feeder:*")
        pid = int(client.get(key).decode().rsplit("-", 2)[1])
    (worker,) = [worker for worker in site.system.workers if worker.pid == pid]
    worker.kill()
    site.system.workers.remove(worker)


def kill_all(site: Site) -> None:
    """Kill every worker, and start another."""
    for worker in site.system.workers:
        worker.kill()
    site.system.workers.clear()
    site.system.add_worker()


def restart_redis(site: Site) -> None:
    """Kill Redis; it comes back with its file."""
    site.redis.kill()
    site.redis.restart()


def empty_redis(site: Site) -> None:
    """Kill Redis; it comes back with nothing."""
    site.redis.restart_empty()


def empty_and_kill_all(site: Site) -> None:
    """Nothing is left but the store."""
    site.redis.restart_empty()
    kill_all(site)


@pytest.mark.parametrize("harm", [kill_feeder, kill_all, restart_redis, empty_redis, empty_and_kill_all])
def test_whatever_dies_each_line_has_one_record_and_few_run_again(site: Site, harm: Callable[[Site], None]) -> None:
    names = [f"line-{number:03d}" for number in range(LINES)]
    batch = site.batches.put([chat_line(name, f"say {name}", "slow") for name in names])
    site.system.add_worker()
    site.system.add_worker()
    wait_until(lambda: site.backend.state()["total_requests"] > LINES // 3, 30, "a third of the lines to run")
    harm(site)
    ended = site.batches.wait(batch, 60, site.logs)
    assert ended.record.status is Status.COMPLETED, site.logs()
    assert ended.ids() == names
    assert not ended.errors
    for name, text in ended.texts().items():
        assert re.match(rf"say {name}\b", text), text
    calls = Counter(prompt_of(record) for record in site.backend.requests())
    again = sum(count - 1 for count in calls.values())
    # In flight are those that run, and those of the last second, which no segment holds when Redis forgets them.
    per_second = SLOTS / 0.15
    assert again <= 2 * SLOTS + (1.5 * per_second if harm in (empty_redis, empty_and_kill_all, restart_redis) else 0)
