"""Adds what a process has counted to what all have, in Redis, each once: whatever is lost of the way there or back."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from shared import keys
from shared.metrics.counts import Counts, Taken
from shared.metrics.names import REDIS_SECONDS
from shared.metrics.states import GONE, STATES_MS, packed
from shared.redis import Argument, RedisClient, RedisRefused, RedisUnavailable
from shared.room.scripts import COUNT, CountArguments, CountRow
from shared.scripting import Scripts

log = logging.getLogger("aqueduct.metrics")

PUBLISH_SECONDS: Final = 2.0
"""So much of its counts dies with a process that is killed."""
RUN_FIELD: Final = b"run"
"""In each hash: under which Redis server it was begun."""


class Publisher:
    """Tells of one process's counts."""

    def __init__(self, counts: Counts, client: RedisClient, process: str) -> None:
        """Take a name that no other process has, nor ever had."""
        self._counts = counts
        self._client = client
        self._scripts = Scripts(client)
        self._process = process
        self._number = 0
        """Of the last telling."""
        self._untold: Taken = {}
        """What it told of, as long as Redis has not said that it heard."""
        self._states: bytes | str = ""
        """What stands now, or GONE; empty where nothing ever was said."""
        self._redis_seconds = counts.observations(REDIS_SECONDS)
        self._one_at_a_time = asyncio.Lock()

    async def flush(self) -> None:
        """Tell of everything that is new; raises RedisUnavailable or RedisRefused, and then nothing is lost."""
        async with self._one_at_a_time:
            if self._counts.before_telling:
                self._states = packed(state for look in self._counts.before_telling for state in look())
            if self._untold:
                await self._tell()
            self._untold = self._counts.take()
            if self._untold or self._states:
                self._number += 1
                await self._tell()

    async def _tell(self) -> None:
        told = CountArguments(self._process, self._number, self._client.run_id, self._states, STATES_MS)
        rows = [CountRow(model, _flat(fields)) for model, fields in self._untold.items()]
        began = time.monotonic()
        await self._scripts.run(COUNT, told, rows)
        self._redis_seconds.observe(time.monotonic() - began)
        self._untold = {}

    async def end(self) -> None:
        """Tell for the last time: nothing stands here any more."""
        if self._counts.before_telling:
            self._counts.before_telling.clear()
            self._states = GONE
        await self.flush_quietly()

    async def publish_forever(self) -> None:
        """Tell every two seconds until cancelled; what Redis does not take now is told later."""
        while True:
            await asyncio.sleep(PUBLISH_SECONDS)
            await self.flush_quietly()

    async def flush_quietly(self) -> None:
        """As `flush`, where nobody waits for it."""
        try:
            await self.flush()
        except (RedisUnavailable, RedisRefused) as error:
            log.debug("counts not told: %s", type(error).__name__)


def _flat(fields: dict[str, int]) -> tuple[Argument, ...]:
    return tuple(part for pair in fields.items() for part in pair)


async def read_counts(client: RedisClient, models: list[str]) -> Taken:
    """Return what all processes have counted, by model and field; raises RedisUnavailable or RedisRefused.

    What stands there from before Redis was restarted or another took its place is left out: some of it may be lost, and
    numbers that fall back a little would be taken for a start at nothing.
    """
    replies = await asyncio.gather(*(client.call("HGETALL", keys.metrics(model)) for model in models))
    run = client.run_id.encode()
    found: Taken = {}
    for model, reply in zip(models, replies, strict=True):
        fields = dict(zip(reply[::2], reply[1::2], strict=True)) if isinstance(reply, list) else dict(reply)
        if fields.pop(RUN_FIELD, None) == run:
            found[model] = {name.decode(): int(number) for name, number in fields.items()}
    return found


async def read_memory(client: RedisClient) -> tuple[int, int] | None:
    """Return the bytes that Redis uses and may use (0: any number); None where it does not say.

    Raises RedisUnavailable.
    """
    try:
        text: bytes = await client.call("INFO", "memory")
    except RedisRefused:
        return None
    told = dict(line.split(b":", 1) for line in text.split(b"\r\n") if b":" in line)
    try:
        return int(told[b"used_memory"]), int(told[b"maxmemory"])
    except (KeyError, ValueError):
        return None
