"""HTTP/1.1 to one server by our own hands: the transport of every backend that asks for nothing else.

Made on httptools, uvicorn's parser, because a general client costs more than all else that a worker does for a job
(`docs/adr/0006-own-http-client.md`). It knows what calling a backend needs and no more: kept-alive connections, TLS,
chunked, counted and close-delimited bodies, back-pressure. No redirects, no cookies, no proxies, no compression.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import cast

import httptools

from shared.header_fields import FIELD_BYTES
from workers.transport.base import MAX_HEAD_BYTES, ConnectionLost, InvalidAnswer, LargeBody, Response
from workers.transport.dialer import Dialer
from workers.transport.pool import Pool
from workers.transport.server import server_at

LARGE_BODY_BYTES = 64 * 1024
"""A request's body from here on is sent beside its head instead of copied behind it."""
PIECE_BYTES = 256 * 1024
"""Of a `LargeBody`, sent at once."""
_INTERIM = {100, 102, 103}
"""Answers that another one follows: Continue, Processing, Early Hints. For any other below 200 none may ever come."""


class OwnTransport(Pool):
    """One server and the kept-alive connections to it (`base.Transport`)."""

    def __init__(
        self, url: str, headers: Mapping[str, str], *, connect_timeout_seconds: float, tls: ssl.SSLContext | None = None
    ) -> None:
        """Take the base URL, the headers of every request (ASCII, sent as they are) and, for https, the context."""
        super().__init__()
        server = server_at(url, headers)
        self._dialer = Dialer(server.host, server.port, tls=tls, timeout_seconds=connect_timeout_seconds)
        self._start = f"POST {server.path}".encode()
        self._standing = "".join(f"{name}: {value}\r\n" for name, value in server.headers).encode()

    def head(self, path: bytes, headers: bytes) -> bytes:
        """Return a request's head; its length and its end are missing."""
        return b"%b%b HTTP/1.1\r\n%b%b" % (self._start, path, self._standing, headers)

    async def _connect(self) -> _Connection:
        return await self._dialer.dial(lambda: _Connection(self))


class _Connection(asyncio.Protocol):
    """One kept-alive connection (`pool.Connection`)."""

    def __init__(self, owner: OwnTransport) -> None:
        self.loop = owner.loop
        self.idle_since = 0.0
        self.heard = False
        self._owner = owner
        self._parser = httptools.HttpResponseParser(self)
        # What small servers do wrong and every client takes: bare line feeds, padded chunk sizes, odd header bytes, a
        # length beside chunks.
        self._parser.set_dangerous_leniencies(
            lenient_headers=True,
            lenient_optional_cr_before_lf=True,
            lenient_spaces_after_chunk_size=True,
            lenient_chunked_length=True,
        )
        self._transport: asyncio.Transport | None = None
        self._response: Response | None = None
        self._headers: dict[bytes, bytes] = {}
        self._bodiless_bytes = 0
        """Bytes that have come since the request, or since the last piece of a body."""
        self._field_bytes = 0
        """Of the headers and trailers since the request. Many may be told of before `_bodiless_bytes` is judged."""
        self._is_paused = False
        self._is_large = False
        self._is_full = False
        """What was written waits for the server to read."""
        self._sending: LargeBody | None = None
        """A large body of which more is to be sent."""
        self._sent_bytes = 0

    @property
    def is_open(self) -> bool:
        # Not one that closes: in some asyncio since 3.12 `writelines` to it harms whose socket comes next (gh-136234).
        return self._transport is not None and not self._transport.is_closing()

    def send(self, path: bytes, headers: bytes, body: bytes | LargeBody) -> Response:
        response = self._response = Response(self)
        self._headers, self._bodiless_bytes, self._field_bytes, self.heard = {}, 0, 0, False
        transport = self._transport
        self._is_large = len(body) > LARGE_BODY_BYTES
        head = self._owner.head(path, headers)
        if transport is None:
            response.fail(ConnectionLost())
        elif isinstance(body, LargeBody):
            transport.write(b"%bcontent-length: %d\r\n\r\n" % (head, len(body)))
            self._sending, self._sent_bytes = body, 0
            self._send_on()
        elif not self._is_large:
            transport.write(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))
        else:  # both leave together all the same
            transport.writelines((b"%bcontent-length: %d\r\n\r\n" % (head, len(body)), body))
        return response

    def _send_on(self) -> None:
        """Send more of a large body. In pieces, or TLS would hold all of it again, enciphered."""
        sending, transport = self._sending, self._transport
        while sending is not None and transport is not None and not self._is_full and not transport.is_closing():
            piece = memoryview(sending.data)[self._sent_bytes : self._sent_bytes + PIECE_BYTES]
            self._sent_bytes += len(piece)
            if self._sent_bytes == len(sending):
                self._sending = None
            transport.write(piece)
            if self._sending is None:
                sending.sent()
                return

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        self._send_on()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def resume(self) -> None:
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
        self._bodiless_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._refuse(response)
            return
        response.hand_on()
        # The parser joins what has no end (a header's value, a trailer, a chunk's extension) before it tells of it.
        if self._bodiless_bytes > MAX_HEAD_BYTES:
            self._refuse(response)

    def _refuse(self, response: Response) -> None:
        response.fail(InvalidAnswer())
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = self._sending = None
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
        self._field_bytes += len(name) + len(value) + FIELD_BYTES
        if self._field_bytes > MAX_HEAD_BYTES:
            raise ValueError("headers without end")
        self._headers[name.lower()] = value.rstrip(b" \t")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        response = self._response
        if response is None or response.status:
            raise ValueError("more than one answer")
        headers, self._headers = self._headers, {}  # a trailer's fields must not count as the head's
        if status >= 200:
            response.start(status, headers)
        elif status not in _INTERIM:
            raise ValueError("no answer need follow this one")

    def on_body(self, body: bytes) -> None:
        self._bodiless_bytes = 0
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
        is_early = (
            self._sending is not None
            or transport.get_write_buffer_size()
            or (self._is_large and response.status >= 400)
        )
        if self._parser.should_keep_alive() and not is_early and not response.is_framed_twice:
            self._owner.keep(self)
        else:
            transport.abort()
