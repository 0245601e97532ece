"""Clients that leave at random moments, thousands of them: each answer after that must belong to its own request."""

from __future__ import annotations

import time
from pathlib import Path

from shared import keys
from tests.chaos.crowd import MODEL, Crowd, Site
from tests.support.waiting import wait_until

CALLERS = 60


def run_cancels(folder: Path, count: int) -> list[str]:
    """Have `count` requests left by their callers among others that are not; returns what was wrong."""
    with Site(folder, token_seconds=0.01, concurrency=24) as site, site.redis.client() as client:
        # More callers than slots: some leave while they wait, some while they run, some in the midst of their answer.
        crowd = Crowd(site, callers=CALLERS, leaving_share=0.7, leave_within_seconds=0.3)
        began = time.monotonic()
        with crowd.in_background():
            wait_until(lambda: crowd.counts["cancelled"] >= count, 30 + count / 10, "the cancels", poll_seconds=0.2)
        seconds = time.monotonic() - began
        # Well before a lease could have run out: every slot was given back, none was left to the sweep.
        wait_until(lambda: not client.exists(keys.running(MODEL), keys.lane("default", MODEL)), 3, "the slots")
        wait_until(lambda: not site.backend.state()["open_requests"], 15, "the backend's calls to be closed")
        backend = site.backend.state()
    counts = crowd.counts
    print(
        f"cancels: {counts['cancelled']} requests left by their callers and {counts['completed']} answered, "
        f"{crowd.ended / seconds:.0f} a second; {len(crowd.wrong)} wrong answers; "
        f"{backend['total_requests']} backend calls, {backend['closed_by_client']} of them closed early"
    )
    return [f"{len(crowd.wrong)} answers were wrong, such as {crowd.wrong[:5]}"] if crowd.wrong else []
