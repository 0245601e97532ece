"""Many callers' small commands in, one write a loop turn out, replies matched in order.

A caller that is cancelled or times out never disturbs the order of replies: its reply is read and dropped. How long
Redis is silent is told by a timer's ticks, not by the clock: what lies unread while this process is busy or stopped is
no silence.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from typing import Final

import hiredis

from shared.redis.errors import Argument, RedisRefused, RedisUnavailable, Reply
from shared.redis.link import Link

log = logging.getLogger("aqueduct.redis")

STALE_SECONDS: Final = 5.0
"""A connection whose oldest command waits longer is given up: half-open connections never answer."""
TICK_SECONDS: Final = 0.1


class RedisClient(Link):
    """Commands and scripts over one connection; everything said in one loop turn leaves in one write."""

    def __init__(self, url: str, name: str = "commands", timeout_seconds: float = 1.7) -> None:
        super().__init__(url, name)
        # The first tick may come at once after a command, so that it alone tells of no time at all.
        self._most_ticks = math.ceil(timeout_seconds / TICK_SECONDS) + 1
        self._stale_ticks = math.ceil(STALE_SECONDS / TICK_SECONDS) + 1
        self._ticks = 0
        self._pending: deque[tuple[asyncio.Future[Reply], int]] = deque()
        """In order of sending, with the tick at which that was."""
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
        self._pending.append((future, self._ticks))
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)
        return future

    def _flush(self) -> None:
        self._flush_scheduled = False
        out, self._out = self._out, []
        if self._wire is not None:
            self._wire.write(out[0] if len(out) == 1 else b"".join(out))

    def _started(self) -> None:
        if self._watchdog is None:
            self._watchdog = self._loop.call_later(TICK_SECONDS, self._watch)

    def _watch(self) -> None:
        """Time out the oldest callers; one timer a connection instead of one a command."""
        self._watchdog = None if self._closed else self._loop.call_later(TICK_SECONDS, self._watch)
        self._ticks += 1
        if not self._pending:
            return
        for future, sent_at in self._pending:
            if self._ticks - sent_at < self._most_ticks:
                break
            if not future.done():
                future.set_exception(RedisUnavailable("Redis did not answer in time"))
        if self._ticks - self._pending[0][1] >= self._stale_ticks:
            self._drop()

    def _on_reply(self, reply: Reply) -> None:
        if not self._pending:
            self._drop()  # a reply nobody asked for: the stream is out of step
            return
        future, _ = self._pending.popleft()
        if isinstance(reply, hiredis.ReplyError):
            self._on_refusal(future, RedisRefused(str(reply)))
        elif not future.done():
            future.set_result(reply)

    def _on_refusal(self, future: asyncio.Future[Reply], refused: RedisRefused) -> None:
        if refused.by_replica:
            log.warning("redis %s: the server is a replica now; looking for the master", self._name)
            self._drop()  # a demoted server keeps its connections, and would refuse for ever
        if not future.done():
            future.set_exception(refused)

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
