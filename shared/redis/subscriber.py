"""Channels in, their messages out to a plain function; says so whenever some may have been missed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

import hiredis

from shared.redis.errors import Argument, RedisUnavailable, Reply
from shared.redis.link import Link


class Subscriber(Link):
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
        if self._wire is not None:
            self._wire.write(hiredis.pack_command(command))  # type: ignore[arg-type]

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
