"""A worker process's jobs on its event loop, over a real Redis (`workers/runner.py`)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from shared.broker import celery_app
from tests.support.asynchronous import asynchronous
from tests.support.processes import RedisServer
from tests.support.rooms import Bench, open_bench
from tests.support.waiting import wait_until_async
from workers.job_events import JobEvents
from workers.runner import Runner

QUIET = {"sweep_seconds": 60, "renew_seconds": 60}
"""Nothing but what the test asks for goes to Redis."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    running = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield running
    running.stop()


@asynccontextmanager
async def open_runner(server: RedisServer) -> AsyncIterator[tuple[Bench, Runner]]:
    """Open a runner whose backend accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as backend:
        models = {"m": {"backends": [{"url": f"http://127.0.0.1:{backend.getsockname()[1]}/v1"}]}}
        async with open_bench(server.url, models, served=False, testing=QUIET) as bench:
            runner = Runner(bench.settings, ["m"], "w1", JobEvents(celery_app(bench.settings, ("m",)), "w1@host"))
            await runner.open()
            try:
                yield bench, runner
            finally:
                await runner.close()


@asynchronous
async def test_a_drain_hands_back_what_a_take_under_way_still_brings(server: RedisServer) -> None:
    async with open_runner(server) as (bench, runner):

        async def take_is_under_way() -> bool:
            return b" flags=b " in await bench.redis("CLIENT", "LIST")

        await bench.rooms.leave("another", ["m"])  # Redis knows the script, so that leaving takes one round trip
        job_id = await bench.admit(body=b"x" * 100_000)  # a large body is fetched after the take itself
        await bench.redis("CLIENT", "PAUSE", 5000, "WRITE")
        runner.wake("m")
        await wait_until_async(take_is_under_way)
        drain = asyncio.create_task(runner.drain(5))
        await asyncio.sleep(0)
        await bench.redis("CLIENT", "UNPAUSE")
        await drain
        record = await bench.record(job_id)
        assert (record["state"], record["tries"]) == ("waiting", "0")
        (job,) = await bench.take()
        assert job.id == job_id
