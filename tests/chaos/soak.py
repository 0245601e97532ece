"""A long run of small requests with leaving callers and a Redis outage: memory must stay where it was."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import psutil
import redis

from tests.chaos.crowd import Crowd, Site
from tests.support.waiting import wait_until

WARM_REQUESTS = 5_000
CALLERS = 48
# Nearly half of those who mean to leave have their answer before: 5 % really leave.
GROWTH = 1.1
REDIS_SLACK_BYTES = 256 * 1024
"""Redis's own buffers come and go by about this much."""
OUTAGE_SECONDS = 2
LIFETIMES_SECONDS = 120
"""Longer than the records of ended jobs stay."""


def run_soak(folder: Path, count: int) -> list[str]:
    """Send `count` requests; returns what was wrong."""
    with Site(folder, token_seconds=0, concurrency=32) as site:
        api, worker = site.system.api, site.system.workers[0]
        assert api is not None
        measured = {"API": psutil.Process(api.pid), "worker": psutil.Process(worker.pid)}
        redis_before = _used_memory(site)
        crowd = Crowd(site, callers=CALLERS, leaving_share=0.095, leave_within_seconds=0.1)
        began = time.monotonic()
        with crowd.in_background():
            _wait_for(crowd, min(WARM_REQUESTS, count // 4))
            early = {name: one.memory_info().rss for name, one in measured.items()}
            _wait_for(crowd, count // 2)
            site.redis.kill()
            time.sleep(OUTAGE_SECONDS)
            site.redis.restart()
            _wait_for(crowd, count)
            late = {name: one.memory_info().rss for name, one in measured.items()}
        seconds = time.monotonic() - began
        problems = _memory_problems(early, late)
        problems += _redis_problems(site, redis_before)
    if crowd.wrong:
        problems.append(f"{len(crowd.wrong)} answers were wrong, such as {crowd.wrong[:5]}")
    counts = crowd.counts
    print(
        f"soak: {crowd.ended} requests in {seconds:.0f} s ({crowd.ended / seconds:.0f} a second): "
        f"{counts['completed']} completed, {counts['cancelled']} left by their callers, {len(crowd.wrong)} wrong, "
        f"{counts['refused']} refused during the outage"
    )
    return problems


def _wait_for(crowd: Crowd, ended: int) -> None:
    wait_until(lambda: crowd.ended >= ended, 120 + ended / 20, f"{ended} answers", poll_seconds=0.2)


def _memory_problems(early: dict[str, int], late: dict[str, int]) -> list[str]:
    problems = []
    for name, before in early.items():
        after = late[name]
        print(f"soak: {name} {before / 1e6:.1f} MB when warm, {after / 1e6:.1f} MB at the end ({after / before:.3f})")
        if after > before * GROWTH:
            problems.append(f"the {name} grew from {before / 1e6:.1f} to {after / 1e6:.1f} MB")
    return problems


def _used_memory(site: Site) -> int:
    with site.redis.client() as client:
        info: dict[str, int] = client.info("memory")
        return info["used_memory"]


def _redis_problems(site: Site, before: int) -> list[str]:
    """Wait for the lifetimes of what the jobs left, then compare."""
    allowed = before * GROWTH + REDIS_SLACK_BYTES
    began = time.monotonic()
    with contextlib.suppress(AssertionError, redis.RedisError):
        wait_until(lambda: _used_memory(site) <= allowed, LIFETIMES_SECONDS, "Redis's memory", poll_seconds=1)
    after = _used_memory(site)
    print(
        f"soak: Redis {before / 1e6:.2f} MB at the start, {after / 1e6:.2f} MB "
        f"{time.monotonic() - began:.0f} s after the last request"
    )
    return [] if after <= allowed else [f"Redis's memory grew from {before} to {after} bytes"]
