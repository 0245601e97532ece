"""A connection that is made again, with jittered back-off, for as long as it is open; its children say what for."""

from __future__ import annotations

import asyncio
import logging
import random
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Final

from redis.exceptions import RedisError

from shared.background import Background
from shared.redis.connector import Connector, NotServing
from shared.redis.errors import RedisUnavailable, Reply
from shared.redis.wire import Wire

log = logging.getLogger("aqueduct.redis")

MAX_BACKOFF_SECONDS: Final = 1.0
STEADY_SECONDS: Final = 1.0
"""A connection that is lost sooner counts as one that could not be made."""
_EXPECTED: Final = (RedisError, OSError, TimeoutError, asyncio.IncompleteReadError, RuntimeError)
"""What connecting raises when nothing is wrong with us. RuntimeError is uvloop's for a reset in mid-handshake."""


class Link(ABC):
    """Keeps one wire to Redis."""

    def __init__(self, url: str, name: str) -> None:
        self._name = name
        self._connector = Connector(url)
        self._wire: Wire | None = None
        self._background = Background()
        self._lost = asyncio.Event()
        self._closed = False
        self.connected = asyncio.Event()
        self.run_id = ""
        """Which Redis server process answered last; changes with a restart or a failover."""
        self.on_connected: list[Callable[[], Awaitable[None]]] = []

    def start(self) -> None:
        """Begin to connect, without waiting for it. Stays open until `close`."""
        self._background.forever(self._keep(), name=f"redis {self._name}")

    async def open(self, timeout_seconds: float = 10.0) -> None:
        """Connect, waiting at most `timeout_seconds`; raises RedisUnavailable. Stays open until `close`."""
        self.start()
        try:
            async with asyncio.timeout(timeout_seconds):
                await self.connected.wait()
        except asyncio.CancelledError:
            await self.close()
            raise
        except TimeoutError as error:
            await self.close()
            raise RedisUnavailable("Redis did not answer: check redis_url and that the server runs") from error

    async def close(self) -> None:
        """Close for good; callers that still wait get RedisUnavailable."""
        self._closed = True
        await self._background.close()
        self._drop()
        await self._connector.close()

    def reconnect(self) -> None:
        """Leave the server, as when another has taken its place: names are looked up and Sentinels asked again."""
        self._drop()

    async def _keep(self) -> None:
        clock = asyncio.get_running_loop().time
        failures = 0
        while not self._closed:
            try:
                await self._connect()
            except Exception as error:
                self._tell_failure(error, failures)
            else:
                if failures:
                    log.info("redis %s: connected again", self._name)
                connected_at = clock()
                await self._until_lost()
                if clock() - connected_at > STEADY_SECONDS:
                    failures = 0
                    continue
            failures += 1
            await asyncio.sleep(min(0.05 * 2 ** min(failures - 1, 6), MAX_BACKOFF_SECONDS) * random.uniform(0.5, 1))

    def _tell_failure(self, error: Exception, failures: int) -> None:
        expected = isinstance(error, (*_EXPECTED, NotServing))
        if failures in (0, 20) or not expected:
            what = str(error) if isinstance(error, NotServing) else type(error).__name__
            log.warning("redis %s: cannot connect (%s)", self._name, what, exc_info=None if expected else error)

    async def _connect(self) -> None:
        made = await self._connector.connect()
        self.run_id = made.run_id
        self._lost.clear()
        self._wire = Wire(self._on_reply, self._on_lost)
        self._wire.take_over(made.writer)
        self._started()

    async def _until_lost(self) -> None:
        self.connected.set()
        for callback in self.on_connected:
            self._background.step(_call(callback), name=f"redis {self._name}: on_connected")
        await self._lost.wait()
        self.connected.clear()

    @abstractmethod
    def _started(self) -> None:
        """Hook: the socket is connected, nothing was sent yet."""

    @abstractmethod
    def _on_reply(self, reply: Reply) -> None:
        """Take one reply."""

    def _on_lost(self) -> None:
        self._wire = None
        self.connected.clear()
        self._lost.set()

    def _drop(self) -> None:
        if self._wire is not None:
            self._wire.close()


async def _call(callback: Callable[[], Awaitable[None]]) -> None:
    await callback()
