"""Large bodies in and out of Redis, over a connection of their own, so that a slow line holds up nothing small.

A body is sent in pieces, no faster than the socket takes them. Its time limit grows with its size and counts from when
the line is its own; a line that moves bytes is never given up as stale. The connection is opened at the first use.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import hiredis

from shared.redis.errors import RedisRefused, RedisUnavailable, Reply
from shared.redis.link import Link
from shared.redis.wire import Wire

BASE_SECONDS: Final = 1.7
"""The time limit of a transfer without a body, and of waiting for a connection."""
LEAST_BYTES_PER_SECOND: Final = 2_000_000
"""A body may take the base and what it needs at this rate."""
TURN_SECONDS: Final = 30.0
"""How long a transfer may wait for those before it."""
STALE_SECONDS: Final = 5.0
"""A connection that should move bytes and moves none for so long is given up."""
TICK_SECONDS: Final = 0.25

MAX_BYTES: Final = 32 * 1024 * 1024
"""Of all transfers under way together; a larger body goes alone."""
MAX_TRANSFERS: Final = 16
PIECE_BYTES: Final = 256 * 1024
PIECES_A_TICK: Final = 8
"""More would hold up the loop, with TLS above all."""
UNSENT_BYTES: Final = 1024 * 1024
"""What the loop may hold for the socket; the kernel holds less, so that progress is seen as it is made."""


@dataclass(slots=True, eq=False)
class _Transfer:
    """A command, its body's size in either direction, and its caller's future."""

    pieces: tuple[bytes, ...]
    size: int
    since: float
    """When it began to wait for its turn, then when the line became its own."""
    reply: asyncio.Future[Reply] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def limit_seconds(self) -> float:
        return BASE_SECONDS + self.size / LEAST_BYTES_PER_SECOND

    def fail(self, why: str) -> None:
        if not self.reply.done():
            self.reply.set_exception(RedisUnavailable(why))
            self.reply.exception()  # marks it as seen: a caller that left must not leave a warning behind


class Bulk(Link):
    """Stores and fetches bodies. Made on the loop; costs nothing until it is used."""

    def __init__(self, url: str, name: str = "bulk") -> None:
        super().__init__(url, name)
        self._loop = asyncio.get_running_loop()
        self._is_started = False
        self._waiting: deque[_Transfer] = deque()
        self._under_way: deque[_Transfer] = deque()
        self._bytes_under_way = 0
        self._out: deque[bytes | memoryview] = deque()
        self._pump_is_due = False
        self._watchdog: asyncio.TimerHandle | None = None
        self._away_since = 0.0
        self._sent_bytes = 0
        self._moved_bytes = 0
        self._moved_at = 0.0

    async def store(self, key: str, body: bytes, px_ms: int) -> None:
        """Store a body for so many milliseconds. Raises RedisUnavailable (it may be stored) or RedisRefused."""
        # Packed by hand: hiredis would copy the body.
        head = b"*5\r\n" + _words(b"SET", key.encode()) + b"$%d\r\n" % len(body)
        await self._transfer(len(body), head, body, b"\r\n" + _words(b"PX", b"%d" % px_ms))

    async def fetch(self, key: str) -> bytes | None:
        """Return a body, or None if there is none. Raises RedisUnavailable or RedisRefused."""
        size: int = await self._transfer(0, _named(b"STRLEN", key))
        body: bytes | None = await self._transfer(size, _named(b"GET", key))
        return body

    async def close(self) -> None:
        """Close for good; callers that still wait get RedisUnavailable."""
        await super().close()
        if self._watchdog is not None:
            self._watchdog.cancel()
        self._fail(self._waiting, "the connection to Redis was closed")
        if self._wire is not None:
            await self._lost.wait()

    async def _transfer(self, size: int, *pieces: bytes) -> Reply:
        if self._closed:
            raise RedisUnavailable("the connection to Redis was closed")
        if not self._is_started:
            self._is_started = True
            self._away_since = self._loop.time()
            self._start()
        transfer = _Transfer(pieces, size, since=self._loop.time())
        self._waiting.append(transfer)
        self._admit()
        if self._watchdog is None:
            self._watchdog = self._loop.call_later(TICK_SECONDS, self._watch)
        return await transfer.reply

    # --- whose turn it is -------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Put transfers on their way, in order, while there is room for them."""
        while self._waiting and self._wire is not None:
            transfer = self._waiting[0]
            if not transfer.reply.done() and not self._has_room(transfer):
                break
            self._waiting.popleft()
            if transfer.reply.done():
                continue  # its caller has left
            if not self._under_way:
                transfer.since = self._moved_at = self._loop.time()
            self._under_way.append(transfer)
            self._bytes_under_way += transfer.size
            for piece in transfer.pieces:
                self._out.extend(_cut(piece))
        self._pump()

    def _has_room(self, transfer: _Transfer) -> bool:
        if not self._under_way:
            return True
        return len(self._under_way) < MAX_TRANSFERS and self._bytes_under_way + transfer.size <= MAX_BYTES

    def _on_reply(self, reply: Reply) -> None:
        if not self._under_way:
            self._drop()  # a reply nobody asked for: the stream is out of step
            return
        transfer = self._under_way.popleft()
        self._bytes_under_way -= transfer.size
        if self._under_way:
            self._under_way[0].since = self._loop.time()
        if isinstance(reply, hiredis.ReplyError):
            refused = RedisRefused(str(reply))
            if refused.by_replica:
                self._drop()
            if not transfer.reply.done():
                transfer.reply.set_exception(refused)
        elif not transfer.reply.done():
            transfer.reply.set_result(reply)
        self._admit()

    # --- the line ---------------------------------------------------------------------------------------------

    def _started(self, wire: Wire) -> None:
        if wire.transport is not None:
            wire.transport.set_write_buffer_limits(high=UNSENT_BYTES)
            _hold_little_in_kernel(wire.transport)
        self._sent_bytes = self._moved_bytes = 0
        self._admit()

    def _pump(self) -> None:
        """Send while the socket takes it, some pieces at a time."""
        wire = self._wire
        if wire is None or self._pump_is_due:
            return
        for _ in range(PIECES_A_TICK):
            if not self._out or wire.is_paused:
                return
            piece = self._out.popleft()
            self._sent_bytes += len(piece)
            wire.write(piece)
        self._pump_is_due = True
        self._loop.call_soon(self._pump_on)

    def _pump_on(self) -> None:
        self._pump_is_due = False
        self._pump()

    def _on_writable(self) -> None:
        self._pump()

    def _on_lost(self) -> None:
        super()._on_lost()
        self._away_since = self._loop.time()
        self._out.clear()
        self._bytes_under_way = 0
        self._fail(self._under_way, "the connection to Redis was lost")

    def _watch(self) -> None:
        """Fail who has waited too long, and give up a line that moves nothing."""
        self._watchdog = None
        if self._closed or not (self._waiting or self._under_way):
            return
        self._watchdog = self._loop.call_later(TICK_SECONDS, self._watch)
        now = self._loop.time()
        if self._wire is None:
            if now - self._away_since > BASE_SECONDS:
                self._fail(self._waiting, "Redis is not connected")
            return
        self._fail((one for one in self._waiting if now - one.since > TURN_SECONDS), "Redis takes bodies too slowly")
        if self._under_way:
            self._watch_line(self._wire, now)

    def _watch_line(self, wire: Wire, now: float) -> None:
        moved = self._sent_bytes - wire.unsent_bytes + wire.received_bytes
        if moved != self._moved_bytes:
            self._moved_bytes, self._moved_at = moved, now
        elif now - self._moved_at > STALE_SECONDS:
            self._drop()
            return
        first = self._under_way[0]
        if now - first.since > first.limit_seconds:
            first.fail("Redis did not take or give a body in time")

    def _fail(self, transfers: Iterable[_Transfer], why: str) -> None:
        for transfer in transfers:
            transfer.fail(why)
        if isinstance(transfers, deque):
            transfers.clear()


def _named(command: bytes, key: str) -> bytes:
    return b"*2\r\n" + _words(command, key.encode())


def _words(*words: bytes) -> bytes:
    return b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def _cut(piece: bytes) -> Iterable[bytes | memoryview]:
    if len(piece) <= PIECE_BYTES:
        return (piece,)
    whole = memoryview(piece)
    return (whole[at : at + PIECE_BYTES] for at in range(0, len(piece), PIECE_BYTES))


def _hold_little_in_kernel(transport: asyncio.Transport) -> None:
    """Let the kernel keep no megabytes unsent, which would look like progress first and like none afterwards."""
    end = transport.get_extra_info("socket")
    option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
    if option is not None and end is not None and end.family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            end.setsockopt(socket.IPPROTO_TCP, option, PIECE_BYTES)
