"""A batch while what carries it is killed: one record a line, the right text, no hand needed, few calls more."""

from __future__ import annotations

import json
import re
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from openai import OpenAI

from shared.batches.record import Status
from tests.support.batch_site import MODELS, Site
from tests.support.batches import Ended, chat_line
from tests.support.chat import prompt_of
from tests.support.processes import RedisServer
from tests.support.system import DemoBackend
from tests.support.waiting import wait_until

MODEL: Final = "slow"
SLOTS: Final = MODELS[MODEL]["concurrency"]
IN_FLIGHT: Final = 2 * SLOTS
A_SECOND: Final = 1.5 * SLOTS / 0.15
"""Lines that end in a second, and half as many: each is three tokens of 50 ms."""
FULL_SECONDS: Final = 5


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


def kill_each_in_turn(site: Site) -> None:
    """Kill the API, then each worker, then Redis with its file; whoever watches starts each again."""
    kill_api(site)
    for worker in list(site.system.workers):
        worker.kill()
        site.system.workers.remove(worker)
        site.system.add_worker()
        time.sleep(1)
    restart_redis(site)


def kill_api(site: Site) -> None:
    """Kill the process that took the batch."""
    assert site.system.api is not None
    site.system.api.kill()
    site.system.start_api()


def kill_everything(site: Site) -> None:
    """Kill all processes at once, as when the machine dies; all come back, Redis with its file."""
    assert site.system.api is not None
    site.system.api.kill()
    for worker in site.system.workers:
        worker.kill()
    site.system.workers.clear()
    restart_redis(site)
    site.system.start_api()
    site.system.add_worker()


def fill_the_disk(site: Site) -> None:
    """Let no worker write more than 512 bytes into a file, for some seconds."""
    limits = {worker.pid: resource.prlimit(worker.pid, resource.RLIMIT_FSIZE) for worker in site.system.workers}
    for pid, (_, hard) in limits.items():
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (512, hard))
    time.sleep(FULL_SECONDS)
    for pid, before in limits.items():
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


HARMS: Final[dict[Callable[[Site], None], float]] = {
    kill_feeder: IN_FLIGHT,
    kill_all: IN_FLIGHT,
    restart_redis: IN_FLIGHT + A_SECOND,
    empty_redis: IN_FLIGHT + A_SECOND,
    empty_and_kill_all: IN_FLIGHT + A_SECOND,
    kill_each_in_turn: 3 * IN_FLIGHT + A_SECOND,
    kill_everything: IN_FLIGHT + A_SECOND,
    fill_the_disk: 0,
}
"""Each with how many lines may be called again: those in flight, and, where Redis forgets or loses the end of its file,
the last second's, which no segment holds yet."""


TESTED: Final = (kill_feeder, empty_and_kill_all)
"""Those that the tests do."""
SHORT_HARMS: Final = tuple(harm for harm in HARMS if harm not in TESTED and harm is not kill_all)
"""Those of the short run: CI does the tests before it, and `kill_everything` kills all workers too."""


def run_harm(folder: Path, harm: Callable[[Site], None], lines: int) -> list[str]:
    """Run a batch, do harm in the middle of it; returns what was wrong."""
    names = [f"line-{number:05d}" for number in range(lines)]
    with RedisServer(folder / "redis") as redis, DemoBackend(folder) as backend:
        site = Site(folder, redis, backend)
        try:
            site.system.start_api()
            site.system.add_worker()
            site.system.add_worker()
            site.system.wait_ready()
            batch = _create(site, [chat_line(name, f"say {name}", MODEL) for name in names])
            wait_until(lambda: backend.state()["total_requests"] > lines // 3, 30 + lines / 20, "a third to run")
            harm(site)
            ended = site.batches.wait(batch, 60 + lines / 20, site.logs)
            calls = Counter(prompt_of(record) for record in backend.requests())
        finally:
            site.stop()
    again = sum(count - 1 for count in calls.values())
    allowed = HARMS[harm]
    problems = _wrong(ended, names)
    if again > allowed:
        problems.append(f"{again} lines were called again, more than {allowed:.0f}")
    return problems


def _create(site: Site, lines: list[dict[str, object]]) -> str:
    """Hand the lines over as a client does."""
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    with OpenAI(base_url=site.system.base_url, api_key=site.system.token) as client:
        file = client.files.create(file=("lines.jsonl", data), purpose="batch")
        made = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    return made.id


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


def run_batches(folder: Path, lines: int, harms: Iterable[Callable[[Site], None]] = HARMS) -> list[str]:
    """Do each harm to a batch of its own."""
    problems = []
    for harm in harms:
        began = time.monotonic()
        (folder / harm.__name__).mkdir(parents=True, exist_ok=True)
        found = run_harm(folder / harm.__name__, harm, lines)
        print(f"batch, {harm.__name__}: {'BROKEN' if found else 'held'} ({time.monotonic() - began:.0f} s)", flush=True)
        problems += found
    return problems
