"""The client's connection as a handler sees it: it can be waited on, cut, and tells at once when the client leaves.

`DemoProtocol` is uvicorn's HTTP protocol with that ability, and costs no task. Under any other ASGI server
`WatchedPresence` does the same with a task that reads `http.disconnect`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

Receive = Callable[[], Awaitable[dict[str, Any]]]

SCOPE_KEY = "aqueduct.demo.connection"


class Presence(Protocol):
    """What a handler needs of a connection."""

    lost: bool
    on_lost: Callable[[], None] | None

    async def wait(self, seconds: float | None) -> bool:
        """Wait that long, None for ever; return at once when the client leaves. True if it has left."""

    def cut(self) -> None:
        """Deliver what was written, then close without ending the response."""

    def close_when_idle(self) -> None:
        """Close after the answer, which announced nothing of the kind."""

    def refuse_reuse(self) -> None:
        """Close as soon as the client sends its next request."""

    def count_as_open(self, counted: set[object]) -> None:
        """Be a member of `counted` until closed."""

    def done(self) -> None:
        """The response is over: stop watching."""


class _Waiting:
    """Waiting that ends early when the client leaves."""

    lost = False
    on_lost: Callable[[], None] | None = None
    _waiter: asyncio.Future[None] | None = None

    async def wait(self, seconds: float | None) -> bool:
        if self.lost or (seconds is not None and seconds <= 0):
            return self.lost
        loop = asyncio.get_running_loop()
        self._waiter = waiter = loop.create_future()
        timer = None if seconds is None else loop.call_later(seconds, _wake, waiter)
        try:
            await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()
        return self.lost

    def _lose(self) -> None:
        self.lost = True
        on_lost, self.on_lost = self.on_lost, None
        if on_lost is not None:
            on_lost()
        if self._waiter is not None:
            _wake(self._waiter)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class DemoProtocol(_Waiting, HttpToolsProtocol):
    """uvicorn's protocol; each request finds it in its scope under `SCOPE_KEY`."""

    _reuse_refused = False
    _counted: set[object] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Send each write at once."""
        super().connection_made(transport)
        peer = transport.get_extra_info("socket")
        if peer is not None:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wake who waits."""
        if self._counted is not None:
            self._counted.discard(self)
        super().connection_lost(exc)
        self._lose()

    def data_received(self, data: bytes) -> None:
        """Parse the data, unless the connection was not to be used again."""
        if self._reuse_refused and self.cycle.response_complete:
            self.transport.abort()
            return
        super().data_received(data)

    def on_message_begin(self) -> None:
        """Show this connection to the request."""
        super().on_message_begin()
        cast(dict[str, Any], self.scope)[SCOPE_KEY] = self

    def resume_reading(self) -> None:
        """Read on after a large body, during which uvicorn pauses: a paused socket hides that its client has left."""
        self.flow.resume_reading()

    def cut(self) -> None:
        """See `Presence.cut`; uvicorn must not add its own 500."""
        self.on_lost = None
        self.cycle.disconnected = True
        self.transport.close()

    def close_when_idle(self) -> None:
        """See `Presence.close_when_idle`."""
        self.on_lost = None
        self.transport.close()

    def refuse_reuse(self) -> None:
        """See `Presence.refuse_reuse`."""
        self._reuse_refused = True

    def count_as_open(self, counted: set[object]) -> None:
        """See `Presence.count_as_open`."""
        self._counted = counted
        counted.add(self)

    def done(self) -> None:
        """See `Presence.done`."""
        self.on_lost = None


class WatchedPresence(_Waiting):
    """The same for one request under another ASGI server; a cut is then an exception, which servers answer so."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._counted: set[object] | None = None
        self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._lose()

    def cut(self) -> None:
        """See `Presence.cut`."""
        self.on_lost = None
        raise ConnectionAbortedError("the demo backend was asked to cut this answer")

    def close_when_idle(self) -> None:
        """Not possible through ASGI."""

    def refuse_reuse(self) -> None:
        """Not possible through ASGI."""

    def count_as_open(self, counted: set[object]) -> None:
        """See `Presence.count_as_open`."""
        self._counted = counted
        counted.add(self)

    def done(self) -> None:
        """See `Presence.done`."""
        self.on_lost = None
        self._task.cancel()
        if self._counted is not None:
            self._counted.discard(self)


def presence_of(scope: dict[str, Any], receive: Receive) -> Presence:
    """Return the connection of a request whose body has been read."""
    connection = scope.get(SCOPE_KEY)
    if isinstance(connection, DemoProtocol):
        connection.resume_reading()
        return connection
    return WatchedPresence(receive)
