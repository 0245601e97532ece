"""What holds a whole model: nothing of it starts, what waits is kept, and nothing of it is forgotten."""

from __future__ import annotations

import asyncio

import pytest

from shared import keys
from shared.holds import Hold, first_hold
from tests.support.processes import RedisServer
from tests.support.rooms import open_bench


def test_a_held_model_starts_nothing_and_the_sweep_pushes_no_tickets(own_redis: RedisServer) -> None:
    async def main() -> None:
        async with open_bench(own_redis.url) as bench:
            job_id = await bench.admit()
            await bench.redis("HSET", keys.room("m"), "held", Hold.STARTING)
            assert await bench.take_ids(5) == []
            await bench.drop_tickets()
            assert (await bench.sweep()).tickets == 0
            assert await bench.redis("PTTL", keys.room("m")) == -1
            await bench.redis("HDEL", keys.room("m"), "held")
            assert (await bench.sweep()).tickets == 1
            assert await bench.redis("PTTL", keys.room("m")) > 0
            assert await bench.take_ids(5) == [job_id]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("held", "told"), [("", ""), ("starting paused", "paused"), ("starting", "starting"), ("newer", "newer")]
)
def test_of_several_reasons_the_most_telling_is_told(held: str, told: str) -> None:
    assert first_hold(held) == told
