"""The asynchronous Redis connections: many callers' commands in, one write a loop tick out, replies matched in order.

redis-py makes the connection (authentication, TLS, unix sockets, Sentinel, protocol); from then on `_Wire` reads and
writes the socket itself, because redis-py's per-command cost (about 0.1 ms) is more than the whole budget of a chunk.
A caller that is cancelled or times out never disturbs the order of replies: its reply is read and dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

import hiredis
import redis.asyncio as aioredis
from redis.asyncio.sentinel import Sentinel
from redis.exceptions import RedisError

from shared.redis_url import certificate_check, parse_sentinel_url

log = logging.getLogger("aqueduct.redis")

Reply = Any
Argument = str | bytes | int | float


class RedisUnavailable(Exception):
    """Redis is away, or did not answer in time. The command may or may not have run."""


class RedisRefused(Exception):
    """Redis answered with an error; the command did not run. `kind` is its first word, such as OOM or NOSCRIPT."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.kind = message.partition(" ")[0]


CONNECT_TIMEOUT_SECONDS: Final = 2.0
STALE_SECONDS: Final = 5.0
"""A connection whose oldest command waits longer is given up: half-open connections never answer."""
TICK_SECONDS: Final = 0.25
MAX_BACKOFF_SECONDS: Final = 1.0


class _Wire(asyncio.Protocol):
    """One connected socket: bytes to replies."""

    def __init__(self, on_reply: Callable[[Reply], None], on_lost: Callable[[], None]) -> None:
        self._reader = hiredis.Reader(notEnoughData=NotImplemented)
        self._on_reply = on_reply
        self._on_lost = on_lost
        self.transport: asyncio.Transport | None = None
        self.writer: asyncio.StreamWriter | None = None
        """Held only because a collected writer closes its transport."""

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        reader.feed(data)
        try:
            while (reply := reader.gets()) is not NotImplemented:
                self._on_reply(reply)
        except hiredis.ProtocolError:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._on_lost()

    def pause_writing(self) -> None:
        """Nothing: callers bound what they send (a worker's unacknowledged bytes, an API's admissions)."""

    def resume_writing(self) -> None:
        """Nothing, as above."""

    def close(self) -> None:
        if self.transport is not None:
            self.transport.abort()


def _connection_pool(url: str) -> aioredis.ConnectionPool:
    """Return a pool used only as a factory of connections; `sentinel://h:p,h:p/master/db?options` is understood."""
    options: dict[str, Any] = {
        "protocol": 2,
        "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "socket_timeout": CONNECT_TIMEOUT_SECONDS,
        "retry_on_error": [],
    }
    if not url.startswith("unix://"):
        options["socket_keepalive"] = True
    if url.startswith("sentinel://"):
        found = parse_sentinel_url(url)
        sentinel = Sentinel(  # type: ignore[no-untyped-call]
            found.hosts,
            sentinel_kwargs={
                "username": found.sentinel_username,
                "password": found.sentinel_password,
                "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS,
                "socket_timeout": CONNECT_TIMEOUT_SECONDS,
            },
        )
        options.update(username=found.username, password=found.password, db=found.db)
        return cast("aioredis.ConnectionPool", sentinel.master_for(found.master_name, **options).connection_pool)
    if url.startswith("rediss://"):
        options["ssl_cert_reqs"] = certificate_check(url)
    return aioredis.ConnectionPool.from_url(url, **options)


class _Link(ABC):
    """A connection that is made again, with jittered back-off, for as long as it is open."""

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self._name = name
        self._pool: aioredis.ConnectionPool | None = None
        self._wire: _Wire | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._lost = asyncio.Event()
        self._closed = False
        self.connected = asyncio.Event()
        self.run_id = ""
        """Which Redis server process answered last; changes with a restart or a failover."""
        self.on_connected: list[Callable[[], Awaitable[None]]] = []
        self._callbacks: list[asyncio.Future[None]] = []

    async def open(self, timeout_seconds: float = 10.0) -> None:
        """Connect, waiting at most `timeout_seconds`; raises RedisUnavailable. Stays open until `close`."""
        self._keeper = asyncio.create_task(self._keep(), name=f"redis-{self._name}")
        try:
            async with asyncio.timeout(timeout_seconds):
                await self.connected.wait()
        except TimeoutError as error:
            await self.close()
            raise RedisUnavailable("Redis did not answer: check redis_url and that the server runs") from error

    async def close(self) -> None:
        """Close for good; callers that still wait get RedisUnavailable."""
        self._closed = True
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        self._drop()
        if self._pool is not None:
            await self._pool.disconnect()

    async def _keep(self) -> None:
        failures = 0
        while not self._closed:
            try:
                await self._connect()
            except (RedisError, OSError, TimeoutError, asyncio.IncompleteReadError) as error:
                if failures in (0, 20):
                    log.warning("redis %s: cannot connect (%s)", self._name, type(error).__name__)
                failures += 1
                await asyncio.sleep(min(0.05 * 2 ** min(failures, 6), MAX_BACKOFF_SECONDS) * random.uniform(0.5, 1))
                continue
            if failures:
                log.info("redis %s: connected again", self._name)
            failures = 0
            self.connected.set()
            for callback in self.on_connected:
                self._callbacks.append(asyncio.ensure_future(callback()))
            self._callbacks = [task for task in self._callbacks if not task.done()]
            await self._lost.wait()
            self.connected.clear()

    async def _connect(self) -> None:
        if self._pool is None:
            self._pool = _connection_pool(self._url)
        connection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS * 2):
                await connection.connect()
                await connection.send_command("INFO", "server")
                info = await connection.read_response()
        except BaseException:
            connection._close()
            raise
        text = info.decode() if isinstance(info, bytes) else str(info)
        self.run_id = next((x[7:] for x in text.split("\r\n") if x.startswith("run_id:")), "")
        self._lost.clear()
        wire = _Wire(self._on_reply, self._on_lost)
        writer = connection._writer
        if writer is None:
            raise OSError("redis-py closed the connection it had just made")
        if writer.transport.is_closing():
            raise OSError("Redis closed the connection at once")  # its end was told to redis-py, not to us
        wire.transport = cast(asyncio.Transport, writer.transport)
        wire.transport.set_protocol(wire)
        # The socket is ours now: redis-py must not close it, nor the writer when it is collected.
        connection._reader = connection._writer = None
        wire.writer = writer
        self._wire = wire
        self._started()

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


class RedisClient(_Link):
    """Commands and scripts over one connection; everything said in one loop tick leaves in one write."""

    def __init__(self, url: str, name: str = "commands", timeout_seconds: float = 1.7) -> None:
        super().__init__(url, name)
        self._timeout_seconds = timeout_seconds
        self._pending: deque[tuple[asyncio.Future[Reply], float]] = deque()
        self._out: list[bytes] = []
        self._flush_scheduled = False
        self._watchdog: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def call(self, *command: Argument) -> asyncio.Future[Reply]:
        """Send a command; the future gives the reply, RedisRefused, or RedisUnavailable after the time limit.

        Bytes come back as bytes. The caller may drop or cancel the future; the reply is then read and thrown away.
        """
        future: asyncio.Future[Reply] = self._loop.create_future()
        if self._wire is None:
            future.set_exception(RedisUnavailable("Redis is not connected"))
            return future
        self._out.append(hiredis.pack_command(command))  # type: ignore[arg-type]
        self._pending.append((future, time.monotonic()))
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)
        return future

    def _flush(self) -> None:
        self._flush_scheduled = False
        out, self._out = self._out, []
        wire = self._wire
        if wire is not None and wire.transport is not None:
            wire.transport.write(out[0] if len(out) == 1 else b"".join(out))

    def _started(self) -> None:
        if self._watchdog is None:
            self._watchdog = self._loop.call_later(TICK_SECONDS, self._watch)

    def _watch(self) -> None:
        """Time out the oldest callers; one timer a connection instead of one a command."""
        self._watchdog = None if self._closed else self._loop.call_later(TICK_SECONDS, self._watch)
        if not self._pending:
            return
        now = time.monotonic()
        for future, sent_at in self._pending:
            age = now - sent_at
            if age < self._timeout_seconds:
                break
            if not future.done():
                future.set_exception(RedisUnavailable("Redis did not answer in time"))
        if now - self._pending[0][1] > STALE_SECONDS:
            self._drop()

    def _on_reply(self, reply: Reply) -> None:
        if not self._pending:
            self._drop()  # a reply nobody asked for: the stream is out of step
            return
        future, _ = self._pending.popleft()
        if future.done():
            return
        if isinstance(reply, hiredis.ReplyError):
            future.set_exception(RedisRefused(str(reply)))
        else:
            future.set_result(reply)

    def _on_lost(self) -> None:
        super()._on_lost()
        pending, self._pending = self._pending, deque()
        self._out.clear()
        for future, _ in pending:
            if not future.done():
                future.set_exception(RedisUnavailable("the connection to Redis was lost"))
                future.exception()  # marks it as seen: a caller that left must not leave a warning behind

    async def close(self) -> None:
        """Close for good."""
        await super().close()
        if self._watchdog is not None:
            self._watchdog.cancel()


class Subscriber(_Link):
    """One pub/sub connection on fixed channels; messages go to a plain function on the loop."""

    PING_SECONDS: Final = 5.0

    def __init__(
        self,
        url: str,
        channels: list[str],
        on_message: Callable[[bytes], None],
        on_subscribed: Callable[[], None] | None = None,
        name: str = "events",
    ) -> None:
        super().__init__(url, name)
        self._on_subscribed = on_subscribed
        self._channels = channels
        self._on_message = on_message
        self._subscribed = 0
        self._heard_at = 0.0
        self._ping: asyncio.TimerHandle | None = None
        self.subscribed = asyncio.Event()

    async def open(self, timeout_seconds: float = 10.0) -> None:
        """Connect and subscribe; returns when Redis has confirmed every channel."""
        await super().open(timeout_seconds)
        try:
            async with asyncio.timeout(timeout_seconds):
                await self.subscribed.wait()
        except TimeoutError as error:
            await self.close()
            raise RedisUnavailable("Redis did not confirm the subscription") from error

    def _started(self) -> None:
        self._subscribed = 0
        self.subscribed.clear()
        self._heard_at = time.monotonic()
        self._write("SUBSCRIBE", *self._channels)
        if self._ping is None:
            self._ping = asyncio.get_running_loop().call_later(self.PING_SECONDS, self._watch)

    def _write(self, *command: Argument) -> None:
        if self._wire is not None and self._wire.transport is not None:
            self._wire.transport.write(hiredis.pack_command(command))  # type: ignore[arg-type]

    def _watch(self) -> None:
        """Ping, and give up a connection that has been silent for two pings: it is half-open."""
        self._ping = None if self._closed else asyncio.get_running_loop().call_later(self.PING_SECONDS, self._watch)
        if self._wire is None:
            return
        if time.monotonic() - self._heard_at > 2.5 * self.PING_SECONDS:
            self._drop()
        else:
            self._write("PING")

    def _on_reply(self, reply: Reply) -> None:
        self._heard_at = time.monotonic()
        if not isinstance(reply, list) or not reply:
            return
        if reply[0] == b"message":
            self._on_message(reply[2])
        elif reply[0] == b"subscribe":
            self._subscribed += 1
            if self._subscribed == len(self._channels):
                self.subscribed.set()
                if self._on_subscribed is not None:
                    self._on_subscribed()  # messages may have been missed while it was away

    def _on_lost(self) -> None:
        super()._on_lost()
        self.subscribed.clear()

    async def close(self) -> None:
        """Close for good."""
        await super().close()
        if self._ping is not None:
            self._ping.cancel()
