"""The faults: each harms a stand under load, and says what callers may then see."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from shared import keys
from tests.chaos.load import Load
from tests.chaos.stand import Stand
from tests.support.clock import set_clock
from tests.support.processes import Process
from tests.support.waiting import wait_until

Errors = Literal["none", "published", "told"]

FORGOTTEN_SECONDS = 0.7
SLOW_BYTES_PER_SECOND = 5e6
SLOW_SECONDS = 12
ORPHAN_SECONDS = 15.0
"""Jobs of a dead API process are cancelled within this time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One row of the table."""

    name: str
    harm: Callable[[Stand, Load], None]
    errors: Errors = "none"
    """`published`: only a stream that had begun may end in an error; `told`: any job may, once."""
    cuts: bool = False
    """Callers of a killed API process lose their connection."""
    recovery_seconds: float = 20.0
    """Longest that a request which was under way may hear nothing once the harm is over."""
    times: int = 1
    replicated: bool = False
    """Redis has a replica, and is reached through a line of the harness."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    model_settings: Mapping[str, Any] = field(default_factory=dict)


def wait_for_load(load: Load, more: int = 30) -> None:
    """Wait until callers are busy and a few more answers have ended."""
    wanted = load.accepted + more
    wait_until(lambda: load.accepted >= wanted and load.open >= 40, 60, "the load", poll_seconds=0.05)


def kill_worker(stand: Stand, load: Load) -> None:
    """SIGKILL one of two workers; another starts when its leases have run out, so that recovery is the survivor's."""
    worker = stand.system.workers[0]
    began_at = time.monotonic()
    worker.kill()
    stand.note(began_at)
    time.sleep(8)
    stand.replace_worker(worker)
    stand.system.wait_ready()


def kill_all_workers(stand: Stand, load: Load) -> None:
    """SIGKILL both workers at once; a supervisor starts others."""
    began_at = time.monotonic()
    workers = list(stand.system.workers)
    for worker in workers:
        worker.signal(signal.SIGKILL)
    for worker in workers:
        worker.kill()
        stand.replace_worker(worker)
    stand.system.wait_ready()
    stand.note(began_at, time.monotonic())


def kill_api(stand: Stand, load: Load) -> None:
    """SIGKILL one of two API processes; its jobs must go, and its callers are served by the other."""
    with stand.redis.client() as client:
        before: set[bytes] = set(client.smembers(keys.OWNERS))
        began_at = time.monotonic()
        stand.system.second_api.kill()
        stand.note(began_at)
        wait_until(lambda: before - set(client.smembers(keys.OWNERS)), 30, "the jobs to be cancelled")
        stand.slowest_orphan_seconds = max(stand.slowest_orphan_seconds, time.monotonic() - began_at)
    stand.system.start_second_api()
    stand.system.wait_second_ready()


def freeze_redis(seconds: float) -> Callable[[Stand, Load], None]:
    """SIGSTOP of Redis for so long."""

    def harm(stand: Stand, load: Load) -> None:
        began_at = time.monotonic()
        stand.redis.freeze()
        time.sleep(seconds)
        stand.redis.thaw()
        stand.note(began_at, time.monotonic())

    return harm


def restart_redis(stand: Stand, load: Load) -> None:
    """SIGKILL of Redis; it comes back with its append-only file."""
    began_at = time.monotonic()
    stand.redis.kill()
    time.sleep(1)
    stand.redis.restart()
    stand.note(began_at, time.monotonic())


def empty_redis(stand: Stand, load: Load) -> None:
    """SIGKILL of Redis; it comes back with nothing."""
    began_at = time.monotonic()
    stand.redis.restart_empty()
    stand.note(began_at, time.monotonic())


def drop_connections(stand: Stand, load: Load) -> None:
    """CLIENT KILL of every connection, five times."""
    for _ in range(5):
        began_at = time.monotonic()
        stand.redis.drop_connections()
        stand.note(began_at)
        wait_for_load(load, 10)


def kill_backend(stand: Stand, load: Load) -> None:
    """SIGKILL of one of two backends; it comes back after a second."""
    backend = stand.backends[0]
    stand.keep_calls(backend)
    began_at = time.monotonic()
    backend.process.kill()
    time.sleep(1)
    backend.start()
    stand.note(began_at, time.monotonic())


def freeze_backend(seconds: float) -> Callable[[Stand, Load], None]:
    """SIGSTOP of one of two backends for so long: connections stay open and nothing comes."""

    def harm(stand: Stand, load: Load) -> None:
        process = stand.backends[0].process
        began_at = time.monotonic()
        process.signal(signal.SIGSTOP)
        time.sleep(seconds)
        process.signal(signal.SIGCONT)
        stand.note(began_at, time.monotonic())

    return harm


def restart_everything(stand: Stand, load: Load) -> None:
    """SIGTERM to each worker and API process, one after the other, each replaced when it has ended."""
    system = stand.system
    for worker in list(system.workers):
        began_at = time.monotonic()
        _end(stand, worker, "worker")
        stand.replace_worker(worker)
        system.wait_ready()
        stand.note(began_at)
        wait_for_load(load, 10)
    assert system.api is not None
    began_at = time.monotonic()
    _end(stand, system.api, "api-1")
    system.start_api()
    system.wait_ready()
    stand.note(began_at)
    wait_for_load(load, 10)
    began_at = time.monotonic()
    _end(stand, system.second_api, "api-2")
    system.start_second_api()
    system.wait_second_ready()
    stand.note(began_at)


def _end(stand: Stand, process: Process, name: str) -> None:
    process.terminate()
    status = process.wait(40)
    if status:
        stand.exits.append(f"{name} exited {status} on SIGTERM")


def fail_over(stand: Stand, load: Load) -> None:
    """A replica misses most of a second, then the master dies and the replica takes its place: Redis falls back."""
    assert stand.servers is not None
    began_at = time.monotonic()
    stand.servers.fall_back(FORGOTTEN_SECONDS)
    stand.note(began_at, time.monotonic())
    wait_for_load(load, 60)
    stand.servers.add_replica()


def slow_line(stand: Stand, load: Load) -> None:
    """The line to Redis is slow for a while, and every twentieth request brings three megabytes."""
    assert stand.servers is not None
    line = stand.servers.front
    began_at = time.monotonic()
    line.bytes_per_second, line.latency_seconds, load.large_bytes = SLOW_BYTES_PER_SECOND, 0.01, 3_000_000
    time.sleep(SLOW_SECONDS)
    line.bytes_per_second, line.latency_seconds, load.large_bytes = None, 0.0, 0
    stand.note(began_at, time.monotonic())


def set_clock_back(stand: Stand, load: Load) -> None:
    """Redis's clock is set back by two minutes."""
    began_at = time.monotonic()
    with stand.redis.client() as client:
        set_clock(client, -120)
    stand.note(began_at)
    wait_for_load(load, 60)


def nothing(stand: Stand, load: Load) -> None:
    """No fault of a moment: the system runs with a standing one."""


FAULTS = (
    Fault(name="worker SIGKILL", harm=kill_worker, errors="published", times=2),
    Fault(name="all workers SIGKILL", harm=kill_all_workers, errors="published", times=2, recovery_seconds=30),
    Fault(name="API SIGKILL", harm=kill_api, cuts=True, times=2),
    Fault(name="Redis SIGSTOP 5 s", harm=freeze_redis(5), times=2),
    Fault(name="Redis SIGSTOP 30 s", harm=freeze_redis(30), errors="published", recovery_seconds=30),
    Fault(name="Redis restart, file", harm=restart_redis, times=3, recovery_seconds=30),
    Fault(name="Redis restart, empty", harm=empty_redis, errors="told", times=2, recovery_seconds=30),
    Fault(name="CLIENT KILL of all x5", harm=drop_connections),
    Fault(name="clock back by 2 min", harm=set_clock_back, times=2),
    Fault(name="backend SIGKILL", harm=kill_backend, errors="published", times=3),
    Fault(name="backend SIGSTOP 5 s", harm=freeze_backend(5), times=2),
    Fault(
        name="backend stalls for good",
        harm=freeze_backend(8),
        errors="told",
        model_settings={"timeout_seconds": 6, "first_token_timeout_seconds": 3, "stall_timeout_seconds": 3},
    ),
    Fault(name="rolling restart", harm=restart_everything),
    Fault(name="all pub/sub dropped", harm=nothing, settings={"testing": {"drop_live_events": True}}),
    Fault(name="slow line to Redis", harm=slow_line, replicated=True, times=2),
    Fault(name="failover, lagging", harm=fail_over, errors="told", replicated=True, times=4, recovery_seconds=30),
)
"""In the order of the table."""
