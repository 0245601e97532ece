"""One HTTP exchange on the bare ASGI interface: headers and body in, one response out.

The endpoints of jobs speak ASGI directly because it needs what response classes hide: headers held back until the first
event, the client's disconnect from the moment the body is read, and bytes that go out as they came.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import suppress
from typing import Any, Protocol

from api.record import RequestRecord
from shared.errors import AqueductError, UnsupportedMediaType

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]


def standing(record: RequestRecord) -> Iterable[tuple[bytes, bytes]]:
    """Return the headers that are on every answer."""
    return (b"x-request-id", record.request_id.encode()), (b"openai-version", b"2020-10-01")


class ClientGone(Exception):
    """The client has closed the connection; there is nobody to answer."""


class Connection(Protocol):
    """What an exchange can ask of its client's connection, where our server runs it (`api/connection.py`)."""

    on_disconnect: Callable[[], None] | None
    """Called when the client has closed the connection."""

    @property
    def is_connected(self) -> bool:
        """Whether the client is still there to take the answer."""

    @property
    def body_is_complete(self) -> bool:
        """Whether the whole request is here."""

    def write_whole(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> bool:
        """Write a whole answer at once; False where it must be sent in parts."""

    def join_next(self) -> None:
        """Let the head and the first part of an answer go out as one; whoever asks has both."""

    def write_part(self, data: bytes) -> bool:
        """Write a part of a body that has begun, at once; False where `Exchange.write` must do it."""


class Exchange:
    """One request and its response."""

    __slots__ = (
        "_connection",
        "_given",
        "_headers",
        "_send",
        "receive",
        "record",
        "scope",
        "started",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self._send = send
        self.record: RequestRecord = scope["state"]["record"]
        self.started = False
        """The response's headers are out: its status is fixed."""
        self._headers: Headers = []
        # A request is asked for some ten headers, and an SDK sends twenty.
        self._given: dict[bytes, bytes] = dict(reversed(scope["headers"]))
        self._connection: Connection | None = scope.get("extensions", {}).get("aqueduct.connection")

    def header(self, name: bytes) -> bytes | None:
        """Return the first header of that (lower-case) name."""
        return self._given.get(name)

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

    @property
    def body_is_complete(self) -> bool:
        """Whether the whole request is known to be here."""
        return self._connection is not None and self._connection.body_is_complete

    def watch(self, on_disconnect: Callable[[], None]) -> Callable[[], None]:
        """Call `on_disconnect` as soon as the client closes the connection; returns what ends the watch."""
        connection = self._connection
        if connection is None:
            watcher = asyncio.ensure_future(self._receive_disconnect(on_disconnect))
            return watcher.cancel  # type: ignore[return-value]
        # Our server tells by a plain call; a task that waits in `receive` would cost every request a task switch.
        connection.on_disconnect = on_disconnect
        if not connection.is_connected:
            on_disconnect()

        def stop() -> None:
            if connection.on_disconnect is on_disconnect:  # not yet that of the next request
                connection.on_disconnect = None

        return stop

    async def _receive_disconnect(self, on_disconnect: Callable[[], None]) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass
        on_disconnect()

    async def start(
        self, status: int, content_type: bytes, headers: Iterable[tuple[bytes, bytes]] = (), *, is_joined: bool = False
    ) -> None:
        """Send status and headers; with `is_joined` they leave with the first part of the body, which must be there."""
        if is_joined and self._connection is not None:
            self._connection.join_next()
        self.started = True
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [*self._head(content_type), *headers],
            }
        )

    def _head(self, content_type: bytes) -> Headers:
        return [
            (b"content-type", content_type),
            (b"openai-processing-ms", b"%d" % self.record.elapsed_ms()),
            *self._headers,
        ]

    async def write(self, data: bytes, *, more: bool = True) -> None:
        """Send a part of the body, the last one with `more=False`; waits for a slow reader, or raises ClientGone."""
        await self._send({"type": "http.response.body", "body": data, "more_body": more})
        if self._connection is not None and not self._connection.is_connected:
            raise ClientGone

    def direct_writer(self) -> Callable[[bytes], bool] | None:
        """Return what writes a part of a started body at once, or says False where `write` must do it."""
        return self._connection.write_part if self._connection is not None else None

    async def answer(self, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Send a whole JSON response: in one piece, where nothing is in its way."""
        # What has been put around the envelope's `send`, such as the rules of CORS, has a word in each answer.
        if self._connection is not None and self._send is self.scope["state"].get("send"):
            whole = [*self._head(b"application/json"), *headers, *standing(self.record)]
            if self._connection.write_whole(status, whole, body):
                self.started, self.record.answered = True, status
                return
        await self.start(status, b"application/json", [(b"content-length", b"%d" % len(body)), *headers])
        await self.write(body, more=False)

    async def fail(self, error: AqueductError) -> None:
        """Send an error as a whole response, if anybody is there to hear it."""
        headers = [(key.encode(), value.encode()) for key, value in error.response_headers().items()]
        with suppress(ClientGone):
            await self.answer(error.status, error.json(), headers)
