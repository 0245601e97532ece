"""The kept-alive connections to one server, whoever speaks on them: a request out, on an idle one or a new one.

One rule for sending a request twice: servers close kept-alive connections without a word, so a request on one that is
lost at once and without a byte had not run, and goes out again, once, on a fresh connection.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from typing import Protocol

from workers.transport.base import Carrier, ConnectionLost, LargeBody, Response

KEEP_ALIVE_SECONDS = 30.0
STALE_SECONDS = 1.0
"""A kept-alive connection that is lost this soon after a request, without a byte, had been closed before it."""


class Connection(Carrier, Protocol):
    """One connection: carries one request at a time, and hands itself to `Pool.keep` after a whole answer."""

    idle_since: float

    @property
    def heard(self) -> bool:
        """Whether anything has come since the last request was sent."""
        ...

    @property
    def is_open(self) -> bool:
        """Whether a request may go out on it."""
        ...

    def send(self, path: bytes, headers: bytes, body: bytes | LargeBody) -> Response:
        """Send a request."""
        ...


class Pool(ABC):
    """A transport over connections that `_connect` makes."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._idle: deque[Connection] = deque()
        """The longest idle first."""
        self._expiry: asyncio.TimerHandle | None = None
        self._is_closed = False

    @abstractmethod
    async def _connect(self) -> Connection:
        """Return a new connection; raises ConnectFailed."""

    async def post(self, path: bytes, headers: bytes, body: bytes | LargeBody) -> Response:
        """Send a request and return its answer once the head is here (`base.Transport`)."""
        connection = self._idle_connection()
        if connection is not None:
            sent_at = self.loop.time()
            try:
                return await _exchange(connection, path, headers, body)
            except ConnectionLost:
                if connection.heard or not body or self.loop.time() - sent_at > STALE_SECONDS:
                    raise
        return await _exchange(await self._connect(), path, headers, body)

    def _idle_connection(self) -> Connection | None:
        """Return the connection that was used last, which is the least likely to be closed by now."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        return None

    def keep(self, connection: Connection) -> None:
        """Take a connection back whose answer is complete."""
        if self._is_closed:
            connection.abort()
            return
        connection.idle_since = self.loop.time()
        self._idle.append(connection)
        if self._expiry is None:
            self._expiry = self.loop.call_later(KEEP_ALIVE_SECONDS, self._expire)

    def _expire(self) -> None:
        self._expiry = None
        limit = self.loop.time() - KEEP_ALIVE_SECONDS
        while self._idle and (self._idle[0].idle_since <= limit or not self._idle[0].is_open):
            self._idle.popleft().abort()
        if self._idle:
            self._expiry = self.loop.call_at(self._idle[0].idle_since + KEEP_ALIVE_SECONDS, self._expire)

    def close(self) -> None:
        """Close the idle connections; those in use end with their answers."""
        self._is_closed = True
        if self._expiry is not None:
            self._expiry.cancel()
        while self._idle:
            self._idle.pop().abort()


async def _exchange(connection: Connection, path: bytes, headers: bytes, body: bytes | LargeBody) -> Response:
    response = connection.send(path, headers, body)
    try:
        await response.head()
    except BaseException:
        response.close()
        raise
    return response
