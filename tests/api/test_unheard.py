"""A job that Redis holds for an API process in which nobody listens to it does not run for ever."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from api.relay_hub import RelayHub
from api.reports import Reports
from api.unheard import Unheard
from tests.support.asynchronous import asynchronous
from tests.support.processes import RedisServer
from tests.support.rooms import Bench, open_bench
from tests.support.waiting import wait_until_async


@dataclass
class Process:
    """The parts of an API process that know who listens."""

    bench: Bench
    hub: RelayHub
    unheard: Unheard

    async def state(self, job_id: str) -> str:
        record = await self.bench.record(job_id)
        return "cancelled" if record.get("cancelled") == "1" else record.get("state", "gone")


@asynccontextmanager
async def open_process(server: RedisServer) -> AsyncIterator[Process]:
    async with open_bench(server.url) as bench:
        hub = RelayHub(bench.admissions, silence_seconds=1)
        cancels = Reports(bench.admissions.cancel, give_up_seconds=5)
        cancelling = asyncio.create_task(cancels.run_forever())
        yield Process(bench, hub, Unheard(bench.client, "api", hub, cancels))
        cancelling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await cancelling


@asynchronous
async def test_what_nobody_listens_to_at_two_looks_is_cancelled(module_redis: RedisServer) -> None:
    async with open_process(module_redis) as process:
        running, waiting, heard = [await process.bench.admit() for _ in range(3)]
        assert await process.bench.take_ids(1) == [running]
        process.hub.open(heard)
        await process.unheard.look()
        assert [await process.state(job_id) for job_id in (running, waiting)] == ["running", "waiting"]
        await process.unheard.look()

        async def is_cancelled() -> bool:
            return [await process.state(job_id) for job_id in (running, waiting)] == ["cancelled", "gone"]

        await wait_until_async(is_cancelled)
        assert await process.state(heard) == "waiting"


@asynchronous
async def test_what_is_listened_to_again_goes_on(module_redis: RedisServer) -> None:
    async with open_process(module_redis) as process:
        job_id, witness = [await process.bench.admit() for _ in range(2)]
        await process.unheard.look()
        process.hub.open(job_id)
        await process.unheard.look()

        async def witness_is_gone() -> bool:
            return await process.state(witness) == "gone"

        await wait_until_async(witness_is_gone)
        assert await process.state(job_id) == "waiting"
