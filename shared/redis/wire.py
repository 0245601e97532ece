"""One connected socket: bytes in, replies out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import hiredis

from shared.redis.errors import Reply


class Wire(asyncio.Protocol):
    """Reads replies until the socket ends; made by a link for each connection."""

    def __init__(self, on_reply: Callable[[Reply], None], on_lost: Callable[[], None]) -> None:
        self._reader = hiredis.Reader(notEnoughData=NotImplemented)
        self._on_reply = on_reply
        self._on_lost = on_lost
        self._writer: asyncio.StreamWriter | None = None
        """Held only because a collected writer closes its transport."""
        self.transport: asyncio.Transport | None = None

    def take_over(self, writer: asyncio.StreamWriter) -> None:
        """Read and write this socket from now on."""
        self._writer = writer
        self.transport = cast(asyncio.Transport, writer.transport)
        self.transport.set_protocol(self)

    def write(self, data: bytes) -> None:
        """Send, unless the socket is about to end; `on_lost` then tells."""
        transport = self.transport
        if transport is not None and not transport.is_closing():  # uvloop raises when a closed one is written to
            transport.write(data)

    def close(self) -> None:
        """Close at once; `on_lost` is called soon after."""
        if self.transport is not None:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        reader.feed(data)
        try:
            while (reply := reader.gets()) is not NotImplemented:
                self._on_reply(reply)
        except hiredis.ProtocolError:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._on_lost()

    def pause_writing(self) -> None:
        """Nothing: callers bound what they send (unacknowledged bytes, admissions, parts of bodies on their way)."""

    def resume_writing(self) -> None:
        """Nothing, as above."""
