"""What Redis is told of jobs afterwards (`api/reports.py`)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from api.reports import Reports
from shared.redis import RedisUnavailable
from tests.support.asynchronous import asynchronous
from tests.support.waiting import wait_until_async


@asynchronous
async def test_a_cancel_that_waited_for_redis_spares_a_job_that_is_heard_again() -> None:
    heard: set[str] = set()
    told: list[str] = []
    is_away = True

    async def send(job_ids: Sequence[str]) -> None:
        if is_away:
            raise RedisUnavailable("away")
        told.extend(job_ids)

    reports = Reports(send, give_up_seconds=60, unless=heard.__contains__)
    sending = asyncio.create_task(reports.run_forever())
    reports.add("joined")
    reports.add("left")
    await asyncio.sleep(0)
    heard.add("joined")
    is_away = False
    await wait_until_async(lambda: bool(told))
    assert told == ["left"]
    sending.cancel()
