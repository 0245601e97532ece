"""A batch while what carries it is killed: one record a line, the right text, no hand needed, few calls more."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

from shared.batches.record import Status
from tests.support.batch_site import MODELS, Site
from tests.support.batches import Ended, chat_line
from tests.support.chat import prompt_of
from tests.support.processes import RedisServer
from tests.support.system import DemoBackend
from tests.support.waiting import wait_until

MODEL: Final = "slow"
SLOTS: Final = MODELS[MODEL]["concurrency"]
PER_SECOND: Final = SLOTS / 0.15
"""Lines that end in a second: each is three tokens of 50 ms."""


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


HARMS: Final[dict[Callable[[Site], None], bool]] = {
    kill_feeder: False, kill_all: False, restart_redis: True, empty_redis: True, empty_and_kill_all: True,
}  # fmt: skip
"""Each with whether Redis forgets; then the last second's lines, which no segment holds yet, run again too."""


def run_harm(folder: Path, harm: Callable[[Site], None], lines: int) -> list[str]:
    """Run a batch, do harm in the middle of it; returns what was wrong."""
    names = [f"line-{number:05d}" for number in range(lines)]
    with RedisServer(folder / "redis") as redis, DemoBackend(folder) as backend:
        site = Site(folder, redis, backend)
        try:
            batch = site.batches.put([chat_line(name, f"say {name}", MODEL) for name in names])
            site.system.add_worker()
            site.system.add_worker()
            wait_until(lambda: backend.state()["total_requests"] > lines // 3, 30 + lines / 20, "a third to run")
            harm(site)
            ended = site.batches.wait(batch, 60 + lines / 20, site.logs)
            calls = Counter(prompt_of(record) for record in backend.requests())
        finally:
            site.stop()
    again = sum(count - 1 for count in calls.values())
    allowed = 2 * SLOTS + (1.5 * PER_SECOND if HARMS[harm] else 0)
    problems = _wrong(ended, names)
    if again > allowed:
        problems.append(f"{again} lines were called again, more than {allowed:.0f}")
    return problems


def _wrong(ended: Ended, names: list[str]) -> list[str]:
    problems = []
    if ended.record.status is not Status.COMPLETED:
        problems.append(f"the batch is {ended.record.status}")
    if ended.ids() != names:
        problems.append(f"{len(ended.ids())} records of {len(names)} lines")
    if ended.errors:
        problems.append(f"{len(ended.errors)} lines failed, such as {ended.errors[0]}")
    texts = ended.texts()
    problems += [f"{name} was told {text!r}" for name, text in texts.items() if not re.match(rf"say {name}\b", text)]
    return problems


def run_batches(folder: Path, lines: int) -> list[str]:
    """Do every harm to a batch of its own."""
    problems = []
    for harm in HARMS:
        began = time.monotonic()
        (folder / harm.__name__).mkdir(parents=True, exist_ok=True)
        found = run_harm(folder / harm.__name__, harm, lines)
        print(f"batch, {harm.__name__}: {'BROKEN' if found else 'held'} ({time.monotonic() - began:.0f} s)", flush=True)
        problems += found
    return problems
