"""Models do not wait for each other: one whose slots and queue are full does not slow another down."""

from __future__ import annotations

import asyncio
import time

import httpx

from shared import keys
from tests.conftest import MakeSystem
from tests.support.asynchronous import asynchronous
from tests.support.chat import CHAT, chat_body
from tests.support.models import model
from tests.support.processes import RedisServer
from tests.support.system import System
from tests.support.waiting import wait_until_async

SERVICE_SECONDS = 1.0
ROUNDS, CALLERS = 3, 10
MODELS = {
    "full": model("tokens=2000&token_seconds=0.5", concurrency=4, max_wait_seconds=60),
    "other": model(f"tokens=1&answer_seconds={SERVICE_SECONDS}", concurrency=CALLERS),
}
WAITING = 36


async def slowest_seconds(system: System) -> float:
    """Return the slowest of some answers of the other model; of so few it is their p99."""

    async def one(client: httpx.AsyncClient) -> float:
        began = time.perf_counter()
        assert (await client.post(CHAT, json=chat_body("other"))).status_code == 200
        return time.perf_counter() - began

    async with system.async_client() as client:
        taken = [await asyncio.gather(*(one(client) for _ in range(CALLERS))) for _ in range(ROUNDS)]
    return max(max(one_round) for one_round in taken)


@asynchronous
async def test_a_model_whose_slots_are_full_does_not_slow_another_down(
    make_system: MakeSystem, own_redis: RedisServer
) -> None:
    system = make_system(models=MODELS)
    await slowest_seconds(system)  # connections are made and the code is warm
    alone = await slowest_seconds(system)
    async with system.async_client(timeout=60) as client:
        full = chat_body("full", stream=True)
        calls = [asyncio.create_task(client.post(CHAT, json=full)) for _ in range(4 + WAITING)]
        with own_redis.client() as redis:
            await wait_until_async(lambda: redis.zcard(keys.lane("default", "full")) == WAITING, 20, "a full model")
        beside = await slowest_seconds(system)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    assert beside < alone * 1.1, f"{beside:.3f} s beside a full model, {alone:.3f} s alone"
