"""A worker process's jobs on its event loop, over a real Redis (`workers/runner.py`)."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from itertools import count

import pytest

from shared import keys
from tests.support.asynchronous import asynchronous
from tests.support.processes import RedisServer
from tests.support.rooms import Bench, open_bench
from tests.support.system import DemoBackend
from tests.support.waiting import wait_until_async
from workers.runner import Runner

QUIET = {"sweep_seconds": 60, "renew_seconds": 60}
"""Nothing but what the test asks for goes to Redis."""
LIVELY = {"sweep_seconds": 60, "renew_seconds": 0.05}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    running = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield running
    running.stop()


@pytest.fixture
def silent_url() -> Iterator[str]:
    """A backend that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as backend:
        yield f"http://127.0.0.1:{backend.getsockname()[1]}/v1"


@asynccontextmanager
async def open_runner(
    server: RedisServer, url: str, testing: Mapping[str, float], model: str = "demo"
) -> AsyncIterator[tuple[Bench, Runner]]:
    models = {"m": {"backends": [{"url": url, "model": model}]}}
    async with open_bench(server.url, models, served=False, testing=testing) as bench, running(bench) as runner:
        yield bench, runner


@asynccontextmanager
async def running(bench: Bench) -> AsyncIterator[Runner]:
    """Open a runner, which looks for jobs at once."""
    runner = Runner(bench.catalogue, ["m"], "w1", hostname="w1@host", clock=count(1).__next__)
    await runner.open()
    try:
        yield runner
    finally:
        await runner.close()


@asynchronous
async def test_a_drain_hands_back_what_a_take_under_way_still_brings(server: RedisServer, silent_url: str) -> None:
    async with open_runner(server, silent_url, QUIET) as (bench, runner):

        async def take_is_under_way() -> bool:
            return b" flags=b " in await bench.redis("CLIENT", "LIST")

        await bench.serve("another")
        job_id = await bench.admit(body=b"x" * 100_000)  # a large body is fetched after the take itself
        await bench.redis("CLIENT", "PAUSE", 5000, "WRITE")
        runner.wake("m")
        await wait_until_async(take_is_under_way)
        drain = asyncio.create_task(runner.drain(0.1))
        await asyncio.sleep(0)
        await bench.redis("CLIENT", "UNPAUSE")
        await drain
        record = await bench.record(job_id)
        assert (record["state"], record["tries"]) == ("waiting", "0")
        (job,) = await bench.take()
        assert job.id == job_id


@pytest.mark.parametrize("why", ["stale", "unknown"])
def test_a_job_that_redis_wants_no_more_gives_its_slot_back(server: RedisServer, silent_url: str, why: str) -> None:
    async def scenario() -> None:
        async with open_runner(server, silent_url, LIVELY) as (bench, runner):
            slots = runner.free_slots()
            job_id = await bench.admit()
            runner.wake("m")
            await wait_until_async(lambda: runner.free_slots() == slots - 1)
            if why == "stale":
                await bench.redis("HSET", keys.job(job_id), "attempt", "2.another")
            else:
                await bench.redis("FLUSHALL")
            await wait_until_async(lambda: runner.free_slots() == slots)

    asyncio.run(scenario())


@asynchronous
async def test_a_draining_worker_keeps_its_leases_but_is_no_live_worker(
    server: RedisServer, demo_backend: DemoBackend
) -> None:
    streams = "demo?tokens=2000&token_seconds=0.02"
    async with open_runner(server, demo_backend.url, LIVELY, streams) as (bench, runner):

        async def score(key: str, member: str) -> float:
            return float(await bench.redis("ZSCORE", key, member) or 0)

        async def published() -> bool:
            return bool(await bench.redis("EXISTS", keys.log(job_id)))

        async def left() -> bool:
            return not await score(keys.workers("m"), "w1")

        async def renewed() -> bool:
            return await score(keys.running("m"), job_id) > lease

        job_id = await bench.admit(body=b'{"messages":[{"role":"user","content":"x"}]}')
        runner.wake("m")
        await wait_until_async(published)
        drain = asyncio.create_task(runner.drain(1))
        await wait_until_async(left)
        lease = await score(keys.running("m"), job_id)
        await wait_until_async(renewed)
        assert await left()
        await drain


@asynchronous
async def test_a_cancel_that_overtakes_the_end_frees_the_slot_at_once(
    server: RedisServer, demo_backend: DemoBackend
) -> None:
    async with open_runner(server, demo_backend.url, QUIET, "demo?tokens=2&first_token_seconds=0.3") as (bench, runner):

        async def is_running() -> bool:
            return (await bench.record(job_id))["state"] == "running"

        async def is_gone() -> bool:
            return not await bench.redis("EXISTS", keys.job(job_id), keys.running("m"))

        job_id = await bench.admit(body=b'{"messages":[{"role":"user","content":"x"}]}')
        runner.wake("m")
        await wait_until_async(is_running)
        await bench.redis("HSET", keys.job(job_id), "cancelled", "1")  # its message is still on its way
        await wait_until_async(is_gone)  # with no sweep to wait for


@asynchronous
async def test_an_attempt_whose_lease_ran_out_does_not_stop_the_next_one(
    server: RedisServer, demo_backend: DemoBackend
) -> None:
    async with open_runner(server, demo_backend.url, QUIET, "demo?tokens=2&first_token_seconds=0.6") as (bench, runner):

        async def has_ended() -> bool:
            return (await bench.record(job_id))["state"] == "ended"

        async def attempts() -> int:
            return int((await bench.record(job_id))["tries"])

        job_id = await bench.admit(body=b'{"messages":[{"role":"user","content":"twice"}]}')
        for number in (1, 2):
            runner.wake("m")

            async def is_taken(number: int = number) -> bool:
                return await attempts() == number

            await wait_until_async(is_taken)
            if number == 1:
                await bench.expire_lease(job_id)
                await bench.sweep()
        await wait_until_async(has_ended)
        assert await attempts() == 2
        assert (await bench.log(job_id))[-1].startswith(b"D")


@asynchronous
async def test_a_record_that_cannot_be_read_harms_no_other_job(server: RedisServer, demo_backend: DemoBackend) -> None:
    models = {"m": {"backends": [{"url": demo_backend.url, "model": "demo?tokens=2"}]}}
    async with open_bench(server.url, models, served=False, testing=QUIET) as bench:
        await bench.serve("another")
        body = b'{"messages":[{"role":"user","content":"x"}]}'
        first, newer, garbled, last = [await bench.admit(body=body) for _ in range(4)]
        spec = json.loads((await bench.record(newer))["spec"])
        await bench.redis("HSET", keys.job(newer), "spec", json.dumps({**spec, "of_a_newer_version": [1]}))
        await bench.redis("HSET", keys.job(garbled), "spec", "[true, 1]")

        async def all_have_ended() -> bool:
            return all([(await bench.record(one))["state"] == "ended" for one in (first, newer, garbled, last)])

        async with running(bench):
            await wait_until_async(all_have_ended)
        ends = [(await bench.log(one))[-1] for one in (first, newer, garbled, last)]
        assert [end[:1] for end in ends] == [b"D", b"D", b"E", b"D"]
        assert b"job_lost" in ends[2]
