"""`Relay`: a TCP relay in a thread of its own that slows, delays, stalls, cuts, resets and redirects what it carries.

Put it between clients and a server (Redis, a backend, an API) on the loopback. Its switches may be used from any
thread, at any time. All connections share one line, in both directions: chunks take turns, as on a real link.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tests.support.startable import Startable

T = TypeVar("T")

CHUNK_BYTES = 32 * 1024
BUFFER_BYTES = 128 * 1024
"""Of each socket in the kernel: what a sender believes to be sent must not hide how slow the line is."""
PIPE_CHUNKS = 64
"""Chunks of one direction that may be on their way at once: enough for a delayed line to stay full."""
SLACK_SECONDS = 0.01
STEP_SECONDS = 10.0


class _CutHere(Exception):
    """The bytes until a connection's own cut were carried."""


@dataclass(eq=False)
class _Pair:
    """One relayed connection."""

    client: socket.socket
    server: socket.socket
    task: asyncio.Task[None] | None = None
    resets: bool = False
    """How it ends when it does not end by itself."""
    is_ending: bool = False
    """Its task is at its last steps, and must not be cancelled out of them."""
    bytes_left: int | None = None
    """How many may pass until it is cut; None: no limit."""

    def close(self) -> None:
        for end in (self.client, self.server):
            if self.resets:
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.close()


_Pipe = asyncio.Queue[tuple[float, bytes]]
"""One direction's chunks, each with the time when it is to come out."""


class Relay(Startable):
    """Carries bytes between `port` and the target's port until told otherwise."""

    def __init__(
        self, target_port: int, *, bytes_per_second: float | None = None, latency_seconds: float = 0.0
    ) -> None:
        """Take where to connect to; the line is without limits unless given."""
        self.bytes_per_second = bytes_per_second
        """Of all connections and both directions together; None: no limit."""
        self.latency_seconds = latency_seconds
        """Of each direction; the line stays as wide as it was."""
        self.refuses = False
        """Whether new connections are reset at once."""
        self.handshake_resets = 0.0
        """The chance of a new connection to be cut at a random place within its first few hundred bytes."""
        self.port = 0
        self.accepted = 0
        self.carried_bytes = 0
        self._target_port = target_port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relay", daemon=True)
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._pairs: set[_Pair] = set()
        self._flows = asyncio.Event()
        self._line_free_at = 0.0
        self._chance = random.Random(11)

    def start(self) -> Relay:
        """Listen on a free loopback port."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        listener.setblocking(False)
        _shrink(listener)
        self._listener = listener
        self.port = listener.getsockname()[1]
        self._flows.set()
        self._thread.start()
        self._accepting = self._on_loop(lambda: self._loop.create_task(self._accept(listener)))
        return self

    def stop(self) -> None:
        """Cut everything and end the thread; safe to call twice, and before `start`."""
        if self._thread.is_alive():
            self._run(self._end())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(STEP_SECONDS)
        if self._listener is not None:
            self._listener.close()
        if not self._loop.is_closed():
            self._loop.close()

    def through(self, url: str) -> str:
        """Return a URL of the target that leads through here."""
        parts = urlsplit(url)
        user = parts.netloc.rpartition("@")[0]
        return parts._replace(netloc=f"{user}@127.0.0.1:{self.port}" if user else f"127.0.0.1:{self.port}").geturl()

    # --- switches ---------------------------------------------------------------------------------------------

    def stall(self) -> None:
        """Carry nothing; connections stay open, and the kernel goes on accepting what senders send."""
        self._on_loop(self._flows.clear)

    def resume(self) -> None:
        """Carry on after `stall`."""
        self._on_loop(self._flows.set)

    def cut(self, *, reset: bool = True) -> int:
        """Cut every connection now, by a TCP reset or (else) politely; returns how many there were."""
        return self._run(self._cut(reset))

    def retarget(self, port: int, *, cut: bool = True) -> None:
        """Lead new connections to another port, as a changed DNS name does; without `cut` the old ones stay."""
        self._target_port = port
        if cut:
            self.cut()

    @property
    def open_connections(self) -> int:
        """How many connections are relayed at this moment."""
        return len(self._pairs)

    # --- in the relay's thread --------------------------------------------------------------------------------

    def _on_loop(self, call: Callable[[], T]) -> T:
        async def run() -> T:
            return call()

        return self._run(run())

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(STEP_SECONDS)

    async def _end(self) -> None:
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
        await self._cut(reset=True)

    async def _cut(self, reset: bool) -> int:
        tasks = []
        for pair in self._pairs:
            pair.resets = reset
            if pair.task is not None:
                if not pair.is_ending:
                    pair.task.cancel()
                tasks.append(pair.task)
        await asyncio.gather(*tasks, return_exceptions=True)
        return len(tasks)

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            client, _ = await self._loop.sock_accept(listener)
            self.accepted += 1
            pair = _Pair(client, socket.socket(), resets=self.refuses)
            if self.refuses:
                pair.close()
                continue
            if self._chance.random() < self.handshake_resets:
                # Some end before a byte was carried, some in the middle of a word, some after the last one.
                pair.bytes_left = self._chance.choice((0, self._chance.randrange(400), self._chance.randrange(4000)))
                pair.resets = self._chance.random() < 0.8
            self._pairs.add(pair)
            pair.task = self._loop.create_task(self._relay(pair))
            pair.task.add_done_callback(functools.partial(self._ended, pair))

    async def _relay(self, pair: _Pair) -> None:
        """Carry a connection until both directions have ended, one end is lost, or it is cut."""
        tasks: list[asyncio.Task[None]] = []
        try:
            _prepare(pair.client)
            _prepare(pair.server)
            await self._loop.sock_connect(pair.server, ("127.0.0.1", self._target_port))
            for source, sink in ((pair.client, pair.server), (pair.server, pair.client)):
                pipe = _Pipe(PIPE_CHUNKS)
                tasks.append(self._loop.create_task(self._collect(pair, source, pipe)))
                tasks.append(self._loop.create_task(self._deliver(pair, pipe, sink)))
            await asyncio.gather(*tasks)
        except _CutHere:
            pass
        except OSError:
            pair.resets = True  # one end was reset, or nobody listens there: the other end hears of it
        finally:
            pair.is_ending = True
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, pair: _Pair, _task: asyncio.Task[None]) -> None:
        """Close a pair's ends: only now, as the loop must not watch a socket that is closed, and in each case, as a
        task that is cancelled before its first step ends without any of it.
        """
        self._pairs.discard(pair)
        pair.close()

    async def _collect(self, pair: _Pair, source: socket.socket, pipe: _Pipe) -> None:
        while True:
            if pair.bytes_left == 0:
                raise _CutHere
            data = await self._loop.sock_recv(source, CHUNK_BYTES)
            await self._flows.wait()
            await self._take_turn(len(data))
            await pipe.put((self._loop.time() + self.latency_seconds, data))
            if not data:
                return

    async def _deliver(self, pair: _Pair, pipe: _Pipe, sink: socket.socket) -> None:
        while True:
            due, data = await pipe.get()
            if (wait := due - self._loop.time()) > 0:
                await asyncio.sleep(wait)
            await self._flows.wait()
            if not data:
                sink.shutdown(socket.SHUT_WR)
                return
            if pair.bytes_left is not None:
                data = data[: pair.bytes_left]
                pair.bytes_left -= len(data)
            # Counted first: who has read all of it may look at the count at once.
            self.carried_bytes += len(data)
            await self._loop.sock_sendall(sink, data)
            if pair.bytes_left == 0:
                raise _CutHere

    async def _take_turn(self, size: int) -> None:
        if self.bytes_per_second is None:
            return
        now = self._loop.time()
        # A sleep that lasts a little too long is made up for, or the line would be slower than it was said to be.
        self._line_free_at = max(now - SLACK_SECONDS, self._line_free_at) + size / self.bytes_per_second
        if (wait := self._line_free_at - now) > 0:
            await asyncio.sleep(wait)


def _shrink(end: socket.socket) -> None:
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        end.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)


def _prepare(end: socket.socket) -> None:
    _shrink(end)
    end.setblocking(False)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
