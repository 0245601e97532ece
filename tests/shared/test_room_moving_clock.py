"""Redis's clock goes on while a script runs, as before 7.2: what the scripts tell is of one moment all the same."""

from __future__ import annotations

from shared.room.scripts import DESCRIBE, LOOK, IdRow, LookArguments, NoArguments
from tests.shared.room_probe import Probe
from tests.support.asynchronous import asynchronous
from tests.support.processes import RedisServer
from tests.support.rooms import Bench, open_bench

MOVES_MS = 1_000
"""So long takes each command of a script."""
LOOK_ENDED, DESCRIBE_ENDED = 8, 10
"""The place in their replies."""


async def redis_ms(bench: Bench) -> float:
    seconds, micros = await bench.redis("TIME")
    return int(seconds) * 1000 + int(micros) / 1000


@asynchronous
async def test_when_jobs_ended_is_told_rightly_however_long_the_telling_takes(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        ids = [await bench.admit() for _ in range(3)]
        taken = await bench.take(3)
        began = await redis_ms(bench)
        for job in taken:
            await bench.end(job)
        over = await redis_ms(bench)
        with room_redis.client() as client:
            probe = Probe(client, moves_ms=MOVES_MS)
            look = probe.run(LOOK, LookArguments(ids[0]))
            described = probe.run(DESCRIBE, NoArguments(), [IdRow(one) for one in ids])
        assert described.ttl_now - described.now > 2 * MOVES_MS
        told = [look.reply[LOOK_ENDED], *(row[DESCRIBE_ENDED] for row in described.reply)]
        assert [int(began) <= ended <= over + MOVES_MS for ended in told] == [True] * 4, (began, told, over)
