"""HTTP/1.1 to one server: a POST out, its answer's head and then its bytes as they arrive.

Made on httptools, uvicorn's parser, because a general client costs more than all else that a worker does for a job
(`docs/adr/0006-own-http-client.md`). It knows what calling a backend needs and no more: kept-alive connections, TLS,
chunked, counted and close-delimited bodies, back-pressure. No redirects, no cookies, no proxies, no compression.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections import deque
from typing import cast
from urllib.parse import unquote, urlsplit

import httptools

from workers.dialer import Dialer

KEEP_ALIVE_SECONDS = 30.0
STALE_SECONDS = 1.0
"""A kept-alive connection that is lost this soon after a request, without a byte, had been closed before it."""
TRAILING_SECONDS = 1.0
"""For the end of a body whose reader has all it wants; later the connection is closed instead of used again."""
MAX_HEAD_BYTES = 64 * 1024
LARGE_BODY_BYTES = 64 * 1024
"""A request's body from here on is sent beside its head instead of copied behind it."""
MAX_BUFFERED_BYTES = 256 * 1024
"""Of an answer that nobody reads; then the server has to wait."""


class ConnectionLost(Exception):
    """The server closed the connection before its answer was complete."""


class InvalidAnswer(Exception):
    """The server does not speak HTTP/1.1."""


class Response:
    """One answer. Read it to its end, or `release` or `close` it."""

    __slots__ = (
        "_connection",
        "_error",
        "_is_released",
        "_parts",
        "_size",
        "_waiter",
        "headers",
        "is_complete",
        "status",
    )

    def __init__(self, connection: _Connection) -> None:
        self.status = 0
        """0 until the head has come."""
        self.headers: dict[bytes, bytes] = {}
        """By lower-case name."""
        self.is_complete = False
        """All of it has come, though perhaps not been read."""
        self._connection = connection
        self._parts: list[bytes] = []
        self._size = 0
        self._is_released = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def is_over(self) -> bool:
        """No more will come."""
        return self.is_complete or self._error is not None

    async def head(self) -> None:
        """Wait for status and headers; raises ConnectionLost or InvalidAnswer."""
        while not self.status:
            if self._error is not None:
                raise self._error
            self._waiter = self._connection.loop.create_future()
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
            self._waiter = self._connection.loop.create_future()
            await self._waiter
        parts = self._parts
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        if self._size > MAX_BUFFERED_BYTES:
            self._connection.resume()
        self._size = 0
        return data

    def release(self) -> None:
        """Read no more. The connection is used again if the end comes soon."""
        if not self.is_complete:
            self._is_released = True
            self._connection.resume()
            self._connection.loop.call_later(TRAILING_SECONDS, self.close)

    def close(self) -> None:
        """Read no more; an answer that is not complete ends with its connection, which tells the server at once."""
        if not self.is_complete:
            self.fail(ConnectionLost())  # first, lest our own closing pass for the end of a close-delimited body
            self._connection.abort()

    def wake(self) -> None:
        """Let the reader look again."""
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def feed(self, data: bytes) -> bool:
        """Take a piece of the body; returns whether there is room for more."""
        if self._is_released:
            return True
        self._parts.append(data)
        self._size += len(data)
        if self._waiter is not None:
            self.wake()
        return self._size <= MAX_BUFFERED_BYTES

    def end(self) -> None:
        """Take note that the answer is complete."""
        if self._error is None:
            self.is_complete = True
            self.wake()

    def fail(self, error: Exception) -> None:
        """Take note that no more will come."""
        if not self.is_over:
            self._error = error
            self.wake()


class _Connection(asyncio.Protocol):
    """One kept-alive connection: carries one request at a time, and returns itself to its server's idle ones."""

    def __init__(self, origin: Origin) -> None:
        self.loop = origin.loop
        self.idle_since = 0.0
        self.heard = False
        """Whether anything has come since the last request was sent."""
        self._origin = origin
        self._parser = httptools.HttpResponseParser(self)
        # What small servers do wrong and every client takes: bare line feeds, padded chunk sizes, odd header bytes.
        self._parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        self._transport: asyncio.Transport | None = None
        self._response: Response | None = None
        self._headers: dict[bytes, bytes] = {}
        self._head_bytes = 0
        self._is_paused = False
        self._is_large = False

    @property
    def is_open(self) -> bool:
        # Not one that closes: in some asyncio since 3.12 `writelines` to it harms whose socket comes next (gh-136234).
        return self._transport is not None and not self._transport.is_closing()

    def send(self, head: bytes, body: bytes) -> Response:
        """Send a request whose head lacks only its end."""
        response = self._response = Response(self)
        self._headers, self._head_bytes, self.heard = {}, 0, False
        transport = self._transport
        self._is_large = len(body) > LARGE_BODY_BYTES
        if transport is None:
            response.fail(ConnectionLost())
        elif not self._is_large:
            transport.write(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))
        else:  # both leave together all the same
            transport.writelines((b"%bcontent-length: %d\r\n\r\n" % (head, len(body)), body))
        return response

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def resume(self) -> None:
        """Read on after a pause for want of room."""
        if self._is_paused:
            self._is_paused = False
            if self._transport is not None:
                self._transport.resume_reading()

    # --- asyncio's side -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        response = self._response
        if response is None:
            self.abort()  # nothing was asked: whatever it is, the next answer could not be told from it
            return
        self.heard = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            response.fail(InvalidAnswer())
            self.abort()
            return
        if not response.status:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                response.fail(InvalidAnswer())
                self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        response, self._response = self._response, None
        if response is None or response.is_over:
            return
        headers = response.headers
        is_chunked = b"chunked" in headers.get(b"transfer-encoding", b"").lower()
        if exc is None and response.status and b"content-length" not in headers and not is_chunked:
            response.end()  # such a body ends with its connection
        else:
            response.fail(ConnectionLost())

    # --- the parser's side --------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._response is None:
            raise ValueError("more than one answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value.rstrip(b" \t")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        response = self._response
        if response is None or response.status:
            raise ValueError("more than one answer")
        headers, self._headers = self._headers, {}  # a trailer's fields must not count as the head's
        if status >= 200:  # else an interim answer: the real one follows
            response.status, response.headers = status, headers
            response.wake()

    def on_body(self, body: bytes) -> None:
        response = self._response
        if response is not None and not response.feed(body) and not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        response, transport = self._response, self._transport
        if response is None or not response.status or transport is None:
            return
        self._response = None
        self.resume()
        response.end()
        # Some servers answer before they have read the whole request: its rest would spoil the next one.
        is_early = transport.get_write_buffer_size() or (self._is_large and response.status >= 400)
        if self._parser.should_keep_alive() and not is_early:
            self._origin.keep(self)
        else:
            transport.abort()


class Origin:
    """One server, by its URL, and the idle connections to it. Made and used on one event loop; `close` it."""

    def __init__(self, url: str, headers: dict[str, str], *, connect_timeout_seconds: float) -> None:
        """Take the base URL, and the headers of every request (ASCII; names and values are sent as they are)."""
        parts = urlsplit(url)
        self.loop = asyncio.get_running_loop()
        is_tls = parts.scheme == "https"
        self._dialer = Dialer(
            parts.hostname or "",
            parts.port or (443 if is_tls else 80),
            tls=is_tls,
            timeout_seconds=connect_timeout_seconds,
        )
        self._idle: deque[_Connection] = deque()
        """The longest idle first."""
        self._expiry: asyncio.TimerHandle | None = None
        self._is_closed = False
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers = {"authorization": "Basic " + b64encode(pair.encode()).decode(), **headers}
        host = f"[{self._dialer.host}]" if ":" in self._dialer.host else self._dialer.host
        standing = {
            "host": host if parts.port is None else f"{host}:{parts.port}",
            "accept-encoding": "identity",
            **headers,
        }
        self._path = parts.path.encode()
        self._standing = "".join(f"{name}: {value}\r\n" for name, value in standing.items()).encode()

    async def post(self, path: bytes, headers: bytes, body: bytes) -> Response:
        r"""Send a request and return its answer once the head is here. Cancelling closes the connection.

        `path` goes behind the base URL's own; `headers` are further ones, as `b"name: value\r\n"`. Raises
        ConnectFailed, ConnectionLost or InvalidAnswer.
        """
        head = b"POST %b%b HTTP/1.1\r\n%b%b" % (self._path, path, self._standing, headers)
        connection = self._idle_connection()
        if connection is not None:
            sent_at = self.loop.time()
            try:
                return await self._exchange(connection, head, body)
            except ConnectionLost:
                # Servers close kept-alive connections without a word. Lost at once and without a byte: nothing ran, so
                # the request goes out again, on a fresh connection.
                if connection.heard or self.loop.time() - sent_at > STALE_SECONDS:
                    raise
        return await self._exchange(await self._dialer.dial(lambda: _Connection(self)), head, body)

    @staticmethod
    async def _exchange(connection: _Connection, head: bytes, body: bytes) -> Response:
        response = connection.send(head, body)
        try:
            await response.head()
        except BaseException:
            response.close()
            raise
        return response

    def _idle_connection(self) -> _Connection | None:
        """Return the connection that was used last, which is the least likely to be closed by now."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        return None

    def keep(self, connection: _Connection) -> None:
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
