"""One HTTP exchange on the bare ASGI interface: headers and body in, one response out.

The chat endpoint speaks ASGI directly because it needs what response classes hide: headers held back until the first
event, the client's disconnect from the moment the body is read, and bytes that go out as they came.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import sys
import termios
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import suppress
from typing import Any

from shared.errors import AqueductError, InvalidRequest, RequestTooLarge, UnsupportedMediaType

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]


class ClientGone(Exception):
    """The client has closed the connection; there is nobody to answer."""


def _left_to_take(transport: asyncio.Transport) -> int:
    """Return how many bytes the client has not taken: those in the transport, and in the kernel where it tells.

    The kernel asks for more only when a good part of its own buffer, often megabytes, is free. A slow reader needs
    minutes for that, so that the transport alone would look stalled.
    """
    left = transport.get_write_buffer_size()
    connection: socket.socket = transport.get_extra_info("socket")
    with suppress(OSError, ValueError):  # not on this system; just closed
        left += int.from_bytes(fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    return left


class Exchange:
    """One request and its response."""

    __slots__ = ("_headers", "_send", "receive", "request_id", "scope", "started", "started_at")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self._send = send
        self.request_id: str = scope["state"]["request_id"]
        self.started_at: float = scope["state"]["started_at"]
        self.started = False
        """The response's headers are out: its status is fixed."""
        self._headers: Headers = []

    def header(self, name: bytes) -> bytes | None:
        """Return the first header of that (lower-case) name."""
        for key, value in self.scope["headers"]:
            if key == name:
                return value  # type: ignore[no-any-return]
        return None

    def add_headers(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Add to the response's headers, as long as they are not out."""
        self._headers.extend(headers)

    def require_json(self) -> None:
        """Raise UnsupportedMediaType unless the body says that it is JSON."""
        content_type = self.header(b"content-type") or b""
        media_type = content_type.partition(b";")[0].strip().lower()
        if media_type != b"application/json" and not media_type.endswith(b"+json"):
            raise UnsupportedMediaType
        if self.header(b"content-encoding") not in (None, b"identity"):
            raise UnsupportedMediaType("Send the request body without Content-Encoding.")

    async def body(self, *, max_bytes: int, timeout_seconds: float) -> bytes:
        """Read the body; raises RequestTooLarge without reading the rest, InvalidRequest on a stall, ClientGone."""
        too_large = RequestTooLarge(f"The request body is larger than {max_bytes} bytes. Send a smaller one.")
        length = self.header(b"content-length")
        if length is not None and length.isdigit() and int(length) > max_bytes:
            raise too_large
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self._receive_part(timeout_seconds)
            if message["type"] == "http.disconnect":
                raise ClientGone
            part: bytes = message.get("body", b"")
            size += len(part)
            if size > max_bytes:
                raise too_large
            if not message.get("more_body", False):
                # The usual body arrives in one piece, which is then not copied.
                return b"".join([*parts, part]) if parts else part
            parts.append(part)

    async def _receive_part(self, timeout_seconds: float) -> Message:
        extension = self.scope.get("extensions", {}).get("aqueduct.connection")
        if extension is not None and not extension["protocol"].cycle.more_body:
            return await self.receive()  # all of it is here, as nearly always: nothing to wait for, no timer to set
        try:
            async with asyncio.timeout(timeout_seconds):
                return await self.receive()
        except TimeoutError as error:
            raise InvalidRequest(
                f"No more of the request body arrived for {timeout_seconds:g} s. Send the whole body.",
                code="request_timeout",
            ) from error

    def watch(self, on_disconnect: Callable[[], None]) -> Callable[[], None]:
        """Call `on_disconnect` as soon as the client closes the connection; returns what ends the watch."""
        extension = self.scope.get("extensions", {}).get("aqueduct.connection")
        if extension is None:
            watcher = asyncio.ensure_future(self._receive_disconnect(on_disconnect))
            return watcher.cancel  # type: ignore[return-value]
        # Our server tells by a plain call; a task that waits in `receive` would cost every request a task switch.
        protocol = extension["protocol"]
        protocol.on_disconnect = on_disconnect
        if not protocol.is_connected:
            on_disconnect()

        def stop() -> None:
            protocol.on_disconnect = None

        return stop

    async def _receive_disconnect(self, on_disconnect: Callable[[], None]) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass
        on_disconnect()

    async def start(self, status: int, content_type: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Send status and headers."""
        self.started = True
        elapsed_ms = int((time.monotonic() - self.started_at) * 1000)
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [
                    (b"content-type", content_type),
                    (b"openai-processing-ms", b"%d" % elapsed_ms),
                    *self._headers,
                    *headers,
                ],
            }
        )

    async def write(self, data: bytes, *, more: bool = True) -> None:
        """Send a part of the body, the last one with `more=False`."""
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    def direct_writer(self) -> Callable[[bytes], bool] | None:
        """Return what writes a part of a started body at once, or says False where `write` must do it."""
        extension = self.scope.get("extensions", {}).get("aqueduct.connection")
        return extension["protocol"].write_part if extension is not None else None

    async def write_to_reader(self, data: bytes, *, more: bool, stalled_seconds: float) -> None:
        """As `write`, but close a connection whose client has taken nothing for so long; raises ClientGone."""
        extension = self.scope.get("extensions", {}).get("aqueduct.connection")
        if extension is None or not extension["protocol"].flow.write_paused:
            await self.write(data, more=more)
            return
        transport = extension["protocol"].transport
        loop = asyncio.get_running_loop()
        left, took_at = _left_to_take(transport), loop.time()
        timer: asyncio.TimerHandle

        def look() -> None:
            nonlocal left, took_at, timer
            now, before, left = loop.time(), left, _left_to_take(transport)
            if left < before:
                took_at = now
            if now - took_at >= stalled_seconds:
                limit.reschedule(now)
            else:
                timer = loop.call_later(stalled_seconds / 4, look)

        timer = loop.call_later(stalled_seconds / 4, look)
        try:
            async with asyncio.timeout(None) as limit:
                await self.write(data, more=more)
        except TimeoutError:
            transport.abort()
            raise ClientGone from None
        finally:
            timer.cancel()

    async def answer(self, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Send a whole JSON response."""
        await self.start(status, b"application/json", [(b"content-length", b"%d" % len(body)), *headers])
        await self.write(body, more=False)

    async def fail(self, error: AqueductError) -> None:
        """Send an error as a whole response."""
        headers = [(key.encode(), value.encode()) for key, value in error.response_headers().items()]
        await self.answer(error.status, error.json(), headers)
