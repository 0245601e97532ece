"""The library's side of a socket: an asyncio connection as httpcore2 wants to read and write it, under our limits.

Its own streams cannot be closed at once, and do not tell what lies unread in them; both are promises of ours.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from typing import Any, cast

import httpcore2

from workers.transport.base import MAX_BUFFERED_BYTES, MAX_HEAD_BYTES, InvalidAnswer
from workers.transport.dialer import Dialer


class Wire(asyncio.Protocol, httpcore2.AsyncNetworkStream):
    """One connection; TLS may be laid over it, twice where a proxy is itself called over TLS."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.heard = False
        """Whether anything has come since the last request."""
        self.may_be_told_between = False
        """Whether the server may speak while nothing is asked, as in HTTP/2."""
        self.is_asking = True
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._fruitless_bytes = 0
        """Bytes that were read since the request, or since the last piece of a body."""
        self._has_ended = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._is_paused = False

    @property
    def is_open(self) -> bool:
        """Whether the server still listens and speaks."""
        return self._transport is not None and not self._has_ended and not self._transport.is_closing()

    @property
    def has_ended(self) -> bool:
        """Whether no more will come."""
        return self._has_ended

    @property
    def unread(self) -> int:
        """Bytes that nobody has read yet."""
        return len(self._buffer)

    def ask(self) -> None:
        """Count anew: a request begins."""
        self.heard, self.is_asking, self._fruitless_bytes = False, True, 0

    def bear_fruit(self) -> None:
        """Count anew: a piece of a body has come."""
        self._fruitless_bytes = 0

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio's side -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if not self.is_asking and not self.may_be_told_between:
            self.abort()  # nothing was asked: whatever it is, the next answer could not be told from it
            return
        self.heard = True
        self._buffer += data
        if len(self._buffer) > MAX_BUFFERED_BYTES and not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        self._has_ended = True
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._has_ended, self._error, self._transport = True, exc, None
        self._may_write.set()
        self._wake()

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # --- the library's side -------------------------------------------------------------------------------------

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - the library's name
        """Return what has come; empty at the end. Raises InvalidAnswer when all that came made no piece of a body."""
        if self._fruitless_bytes > MAX_HEAD_BYTES:
            raise InvalidAnswer
        while not self._buffer:
            if self._error is not None:
                raise httpcore2.ReadError
            if self._has_ended:
                return b""
            self._waiter = self._loop.create_future()
            await self._waiter
        data = bytes(self._buffer[:max_bytes])
        del self._buffer[:max_bytes]
        if self._is_paused and len(self._buffer) <= MAX_BUFFERED_BYTES and self._transport is not None:
            self._is_paused = False
            self._transport.resume_reading()
        self._fruitless_bytes += len(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as above
        """Send; waits while the server takes too little."""
        if self._transport is None or self._transport.is_closing():
            raise httpcore2.WriteError
        self._transport.write(buffer)
        await self._may_write.wait()
        if self._transport is None:
            raise httpcore2.WriteError

    async def aclose(self) -> None:
        """Close at once."""
        self.abort()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - as above
    ) -> httpcore2.AsyncNetworkStream:
        """Lay TLS over the connection; returns it."""
        if self._transport is None or self._buffer:
            raise httpcore2.ConnectError  # a proxy that speaks before it is asked would be taken for the server
        self._transport = await self._loop.start_tls(
            self._transport, self, ssl_context, server_hostname=server_hostname
        )
        return self

    def get_extra_info(self, info: str) -> Any:
        """Answer what httpcore2 asks: the TLS object, and whether an idle connection has something to read."""
        if info == "is_readable":
            return not self.is_open or (bool(self._buffer) and not self.may_be_told_between)
        if info == "ssl_object" and self._transport is not None:
            return self._transport.get_extra_info("ssl_object")
        return None


class Wires(httpcore2.AsyncNetworkBackend):
    """Makes the one connection of a call; to whom, the dialer knows."""

    def __init__(self, dialer: Dialer, loop: asyncio.AbstractEventLoop) -> None:
        self.wire = Wire(loop)
        self._dialer = dialer

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the library's name
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Return the connection; raises ConnectFailed."""
        return await self._dialer.dial(lambda: self.wire)
