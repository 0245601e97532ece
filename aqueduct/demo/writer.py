"""One request being answered: writes bytes to the client as the options want them written, and counts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aqueduct.demo.options import Options
from aqueduct.demo.presence import Presence
from aqueduct.demo.state import Record

Send = Callable[[dict[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

DRIP_SECONDS = 0.2


class Writer:
    """The response of one request. Whoever awaits here checks `connection.lost` afterwards."""

    def __init__(self, send: Send, connection: Presence, options: Options, record: Record) -> None:
        self.connection = connection
        self.options = options
        self.record = record
        self._send = send
        self._in_pieces = options.split is not None or options.drip

    async def start(self, status: int, content_type: bytes, headers: Headers | None = None) -> None:
        """Send status and headers."""
        if self.options.wrong_content_type:
            content_type = b"text/html"
        all_headers = [(b"content-type", content_type), *(headers or ())]
        await self._send({"type": "http.response.start", "status": status, "headers": all_headers})

    async def write(self, data: bytes) -> None:
        """Send a part of the body."""
        if self._in_pieces:
            await self._write_pieces(data)
        else:
            await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        """End the body; the answer is complete."""
        self.connection.on_lost = None
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        if self.options.close_idle:
            self.connection.close_when_idle()
        if self.options.close_on_reuse:
            self.connection.refuse_reuse()

    async def reply(self, status: int, content_type: bytes, body: bytes, headers: Headers | None = None) -> None:
        """Send a whole response."""
        length = (b"content-length", b"%d" % len(body))
        await self.start(status, content_type, [length, *(headers or ())])
        if self._in_pieces:
            await self._write_pieces(body)
            body = b""
        if self.connection.lost:
            return
        if body:
            await self.write(body)
        await self.end()

    async def _write_pieces(self, data: bytes) -> None:
        """Send each piece on its own: the turn of the loop lets it reach the socket before the next."""
        size = 1 if self.options.drip else self.options.split or len(data)
        for start in range(0, len(data), size):
            await self._send({"type": "http.response.body", "body": data[start : start + size], "more_body": True})
            await asyncio.sleep(0)
            if self.connection.lost or (self.options.drip and await self.connection.wait(DRIP_SECONDS)):
                return
