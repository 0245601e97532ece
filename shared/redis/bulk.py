"""Large bodies in and out of Redis, in parts, over a connection of their own, so that they hold up nothing small.

Parts, because Redis and our own loop stand still while they handle a whole one: a SET of 40 MB with an append-only
file stopped Redis for 0.2 s. They are a list: a string that grows would be copied again and again. A caller who leaves
ends the transfer at the next part.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from shared.redis.commands import RedisClient
from shared.redis.errors import Argument, RedisUnavailable, Reply
from shared.redis.turns import Turns

PART_BYTES: Final = 512 * 1024
PART_SECONDS: Final = 4.5
"""Longer than for a small command: a line is not stale while parts come through it at all."""
BASE_SECONDS: Final = 1.7
"""The time limit of a transfer without its bytes, and of waiting for a connection."""
LEAST_BYTES_PER_SECOND: Final = 1_000_000
"""The time a transfer may take grows by its own bytes at this rate, and by those of others on the line meanwhile.
Those of other processes are not seen: of a line of 5 MB/s each of four has a fourth."""
TURN_SECONDS: Final = 30.0
"""How long a transfer may wait for those before it."""
MAX_TRANSFERS: Final = 4
"""At once; each has one part on its way, which bounds what waits to be sent."""
MAX_BYTES: Final = 32 * 1024 * 1024
"""Of all bodies under way together; a larger one goes alone."""


class Bulk:
    """Stores and fetches bodies. Made on the loop; connects at the first use, closed by `close`."""

    def __init__(self, url: str, name: str = "bulk") -> None:
        self._url = url
        self._name = name
        self._client: RedisClient | None = None
        self._turns = Turns(MAX_TRANSFERS, MAX_BYTES)
        self._moved_bytes = 0
        self._clock = asyncio.get_running_loop().time

    async def store(self, key: str, body: bytes, px_ms: int) -> None:
        """Store a body for so many milliseconds. Raises RedisUnavailable or RedisRefused; some may be there then."""
        async with self._transfer(len(body)) as transfer:
            whole = memoryview(body)
            parts = [whole[at : at + PART_BYTES] for at in range(0, len(body), PART_BYTES)]
            # At once or not at all: no part is ever without a life, nor behind those of an earlier try.
            begin = (("MULTI",), ("DEL", key), ("RPUSH", key, parts[0]), ("PEXPIRE", key, px_ms), ("EXEC",))
            await self._move(transfer, *begin)
            for part in parts[1:]:
                await self._move(transfer, ("RPUSHX", key, part))

    async def fetch(self, key: str) -> bytes | None:
        """Return a body, or None if there is none (any more). Raises RedisUnavailable or RedisRefused."""
        client = await self._connected()
        count: int = await client.call("LLEN", key)
        async with self._transfer(count * PART_BYTES) as transfer:
            parts: list[bytes | None] = [await self._move(transfer, ("LINDEX", key, at)) for at in range(count)]
        whole = [part for part in parts if part is not None]
        if not whole or len(whole) < count:  # fewer: its life ended meanwhile
            return None
        return await asyncio.to_thread(b"".join, whole)  # 30 ms for 40 MB, which the loop need not wait for

    async def close(self) -> None:
        """Close for good; callers that still wait get RedisUnavailable."""
        if self._client is not None:
            await self._client.close()

    async def _connected(self) -> RedisClient:
        if self._client is None:
            self._client = RedisClient(self._url, self._name, timeout_seconds=PART_SECONDS)
            self._client.start()
        if not self._client.connected.is_set():
            try:
                async with asyncio.timeout(BASE_SECONDS):
                    await self._client.connected.wait()
            except TimeoutError as error:
                raise RedisUnavailable("Redis is not connected") from error
        return self._client

    @asynccontextmanager
    async def _transfer(self, size: int) -> AsyncIterator[_Transfer]:
        await self._connected()  # first: who waits for a turn while Redis is away would wait for nothing
        try:
            async with asyncio.timeout(TURN_SECONDS):
                await self._turns.take(size)
        except TimeoutError as error:
            raise RedisUnavailable("too many bodies are on their way to or from Redis") from error
        try:
            yield _Transfer(size, began_at=self._clock(), line_began_at=self._moved_bytes)
        finally:
            self._turns.give_back(size)

    async def _move(self, transfer: _Transfer, *commands: tuple[Argument, ...]) -> Reply:
        """Say what moves one part; returns the last reply."""
        client = await self._connected()
        reply = (await asyncio.gather(*(client.call(*command) for command in commands)))[-1]
        moved = min(PART_BYTES, transfer.bytes_left)
        transfer.bytes_left -= moved
        self._moved_bytes += moved
        if not transfer.bytes_left:
            return reply  # it is there, however late
        # Whoever shares the line has the time of all that passes over it, so that only a slow line fails anybody.
        passed = self._moved_bytes - transfer.line_began_at + transfer.bytes_left
        if self._clock() - transfer.began_at > BASE_SECONDS + passed / LEAST_BYTES_PER_SECOND:
            raise RedisUnavailable("a body did not reach Redis, or come from it, in time")
        return reply


@dataclass(slots=True)
class _Transfer:
    """One body under way."""

    bytes_left: int
    began_at: float
    line_began_at: int
    """How many bytes had passed over the line by then."""
