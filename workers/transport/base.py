"""What every transport promises: `post` a request to one server, read its `Response` as it arrives, let go of it.

The promises, kept by all of them (`tests/workers/transport/test_promises.py`): cancelling `post` or closing an answer
closes its connection, so that the server stops; parts are handed on as they come, and a reader who stops holds the
server back; a failure is one of the three exceptions below; nothing a server sends is held without limit; only the
configured proxy is used; a request goes out twice only after a stale kept-alive connection (`pool`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

TRAILING_SECONDS = 1.0
"""For the end of a body whose reader has all it wants; later the connection is closed instead of used again."""
MAX_HEAD_BYTES = 64 * 1024
"""Of what a server sends without a byte of a body: heads, interim answers, trailers, chunk extensions."""
MAX_BUFFERED_BYTES = 256 * 1024
"""Of an answer that nobody reads; then the server has to wait."""


class ConnectFailed(Exception):
    """No connection to the server could be made: nothing was sent."""


class ConnectionLost(Exception):
    """The server closed the connection before its answer was complete."""


class InvalidAnswer(Exception):
    """The server does not speak HTTP."""


class LargeBody:
    """A request's body that is let go of once the server has it, long before the answer comes.

    `on_sent` is called then. Such a request goes out once: not even a stale connection has it sent again.
    """

    __slots__ = ("_on_sent", "data")

    def __init__(self, data: bytes, on_sent: Callable[[], None]) -> None:
        self.data = data
        self._on_sent = on_sent

    def __len__(self) -> int:
        return len(self.data)

    def sent(self) -> None:
        """Let go of it; for whoever sends it, who holds nothing else of it. Safe to call twice."""
        if self.data:
            self.data = b""
            self._on_sent()


class Transport(Protocol):
    """One server, by its base URL, and the connections to it. Made and used on one event loop; `close` it."""

    async def post(self, path: bytes, headers: bytes, body: bytes | LargeBody) -> Response:
        r"""Send a request and return its answer once the head is here. Cancelling closes the connection.

        `path` is put behind the base URL's; `headers` are further ones, as `b"name: value\r\n"`. Raises ConnectFailed,
        ConnectionLost or InvalidAnswer.
        """
        ...

    def close(self) -> None:
        """Close the idle connections; those in use end with their answers."""
        ...


class Carrier(Protocol):
    """The connection as an answer that arrives on it sees it."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop it lives on."""
        ...

    def abort(self) -> None:
        """Close at once."""
        ...

    def resume(self) -> None:
        """Read on after a pause for want of room."""
        ...


class Response:
    """One answer. Read it to its end, or `release` or `close` it."""

    __slots__ = (
        "_carrier",
        "_error",
        "_is_released",
        "_parts",
        "_size",
        "_take",
        "_take_error",
        "_waiter",
        "headers",
        "is_complete",
        "status",
    )

    def __init__(self, carrier: Carrier) -> None:
        self.status = 0
        """0 until the head has come."""
        self.headers: dict[bytes, bytes] = {}
        """By lower-case name."""
        self.is_complete = False
        """All of it has come, though perhaps not been read."""
        self._carrier = carrier
        self._parts: list[bytes] = []
        self._size = 0
        self._is_released = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._take: Callable[[bytes], bool] | None = None
        """A follower that waits for what comes next."""
        self._take_error: Exception | None = None

    @property
    def is_over(self) -> bool:
        """No more will come."""
        return self.is_complete or self._error is not None

    @property
    def is_framed_twice(self) -> bool:
        """Its head has a length beside chunks, which go first. No other answer may come on its connection.

        Whoever stands between may have gone by the length: then more comes, which is no answer to the next request.
        """
        return b"transfer-encoding" in self.headers and b"content-length" in self.headers

    async def head(self) -> None:
        """Wait for status and headers; raises ConnectFailed, ConnectionLost or InvalidAnswer."""
        while not self.status:
            if self._error is not None:
                raise self._error
            self._waiter = self._carrier.loop.create_future()
            await self._waiter

    async def read(self) -> bytes:
        """Return what has come since the last call, waiting for some; empty at the end.

        Raises ConnectionLost or InvalidAnswer once everything before the failure was read.
        """
        while not self._parts:
            if self.is_complete:
                return b""
            if self._error is not None:
                raise self._error
            self._waiter = self._carrier.loop.create_future()
            await self._waiter
        return self._joined()

    async def follow(self, take: Callable[[bytes], bool]) -> bool:
        """Hand what comes to `take`, as it comes: True once `take` has said False, False at the end.

        What one read of the socket brought is one plain call: a task's turn costs as much as all else that is done
        with a chunk. Raises as `read`, and what `take` raises.
        """
        while True:
            if self._parts:
                if not take(self._joined()):
                    return True
                continue
            if self.is_complete:
                return False
            if self._error is not None:
                raise self._error
            self._take, self._waiter = take, self._carrier.loop.create_future()
            try:
                await self._waiter
            finally:
                is_stopped, self._take = self._take is None, None
            error, self._take_error = self._take_error, None
            if error is not None:
                raise error
            if is_stopped:
                return True

    def _joined(self) -> bytes:
        parts = self._parts
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        if self._size > MAX_BUFFERED_BYTES:
            self._carrier.resume()
        self._size = 0
        return data

    def release(self) -> None:
        """Read no more. The connection is used again if the end comes soon."""
        if not self.is_complete:
            self._is_released = True
            self._carrier.resume()
            self._carrier.loop.call_later(TRAILING_SECONDS, self.close)

    def close(self) -> None:
        """Read no more; an answer that is not complete ends with its connection, which tells the server at once."""
        if not self.is_complete:
            self.fail(ConnectionLost())  # first, lest our own closing pass for the end of a close-delimited body
            self._carrier.abort()

    # --- the connection's side ----------------------------------------------------------------------------------

    def start(self, status: int, headers: dict[bytes, bytes]) -> None:
        """Take the head."""
        self.status, self.headers = status, headers
        self._wake()

    def feed(self, data: bytes) -> bool:
        """Take a piece of the body; returns whether there is room for more."""
        if self._is_released:
            return True
        self._parts.append(data)
        self._size += len(data)
        return self._size <= MAX_BUFFERED_BYTES

    def hand_on(self) -> None:
        """Let the reader have what one read of the socket has fed."""
        waiter, take = self._waiter, self._take
        if waiter is None or not self._parts:
            return
        if take is not None and not waiter.done():  # one that was cancelled wants nothing more
            try:
                if take(self._joined()):
                    return
            except Exception as error:  # the follower's, not the connection's
                self._take_error = error
            self._take = None
        self._wake()

    def end(self) -> None:
        """Take note that the answer is complete."""
        if self._error is None:
            self.is_complete = True
            self._wake()

    def fail(self, error: Exception) -> None:
        """Take note that no more will come."""
        if not self.is_over:
            self._error = error
            self._wake()

    def _wake(self) -> None:
        """Let the reader look again."""
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)
