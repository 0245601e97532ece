"""The load generator's HTTP client: `Connection.request(bytes)` gives an `Exchange` with its times and its bytes.

Hand-made on asyncio's protocols and httptools: a general client would cost more than what is measured.
"""

from __future__ import annotations

import asyncio
import functools
import re
import socket
import time
from typing import Any, cast

import httptools
import orjson

from benchmarks.backend import text

_FIRST = re.compile(rb'"content": ?"0')
_CONTENT = re.compile(rb'"content": ?"([^"]*)"')
_ID = re.compile(rb'"id": ?"([^"]*)"')
CONTENT_KEY = b'"content":'


@functools.cache
def _expected(tokens: int) -> bytes:
    return text(tokens).encode()


class Exchange:
    """A request's fate; times are of `time.monotonic`, 0 means never."""

    __slots__ = ("begun_at", "ended_at", "failure", "first_at", "last_at", "longest_gap", "pieces", "status", "tokens")

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.begun_at = time.monotonic()
        self.first_at = 0.0
        self.last_at = 0.0
        self.ended_at = 0.0
        self.longest_gap = 0.0
        self.status = 0
        self.pieces: list[bytes] = []
        self.failure = ""

    @property
    def longest_silence(self) -> float:
        """Between two reads of a stream's content; one that came in a single piece was silent until then."""
        return self.longest_gap if self.last_at > self.first_at else self.ended_at - self.begun_at

    def verify_plain(self) -> str:
        """Return what is wrong with a plain answer, or nothing."""
        if problem := self._problem():
            return problem
        found = _CONTENT.search(b"".join(self.pieces))
        return "" if found and found.group(1) == _expected(self.tokens) else "altered content"

    def verify_stream(self) -> str:
        """Return what is wrong with a stream: contents out of order, missing, another id, no end."""
        if problem := self._problem():
            return problem
        whole = b"".join(self.pieces)
        if not whole.rstrip().endswith(b"data: [DONE]"):
            return "no [DONE]: " + whole[-200:].decode(errors="replace")
        if b"".join(_CONTENT.findall(whole)) != _expected(self.tokens):
            return "altered content"
        return "" if len(set(_ID.findall(whole))) == 1 else "more than one id"

    def _problem(self) -> str:
        if self.failure:
            return self.failure
        if self.status != 200:
            return f"status {self.status}: {b''.join(self.pieces)[:200].decode(errors='replace')}"
        return ""


class Counter:
    """Chunks seen so far by all its connections, and the pauses between them while somebody wants to know."""

    __slots__ = ("chunks", "gaps")

    def __init__(self) -> None:
        self.chunks = 0
        self.gaps: list[tuple[float, float]] | None = None
        """When each ended, and how long it was."""


class Connection(asyncio.Protocol):
    """One keep-alive connection that carries one request at a time."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._parser: Any = None
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._done: asyncio.Future[Exchange] | None = None
        self._first: asyncio.Future[None] | None = None
        self._now = 0.0

    @property
    def usable(self) -> bool:
        """Whether it is open."""
        return self._transport is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._parser = httptools.HttpResponseParser(self)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def request(
        self, data: bytes, tokens: int, *, first: asyncio.Future[None] | None = None
    ) -> asyncio.Future[Exchange]:
        """Send a request for so many tokens; the future never raises. `first` is resolved by the first content."""
        self._exchange = Exchange(tokens)
        self._done = asyncio.get_running_loop().create_future()
        self._first = first
        if self._transport is None:
            self._end("not connected")
            raise ConnectionError("not connected")
        self._transport.write(data)
        return self._done

    def close(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._now = time.monotonic()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._end(f"not HTTP: {error}")
            self.close()

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        exchange = self._exchange
        if exchange is None:
            return
        exchange.pieces.append(body)
        if exchange.first_at:
            gap = self._now - exchange.last_at
            exchange.longest_gap = max(exchange.longest_gap, gap)
            exchange.last_at = self._now
            self._counter.chunks += body.count(CONTENT_KEY)
            if self._counter.gaps is not None:
                self._counter.gaps.append((self._now, gap))
        elif CONTENT_KEY in body and _FIRST.search(body):
            exchange.first_at = exchange.last_at = self._now
            self._counter.chunks += body.count(CONTENT_KEY)
            if self._first is not None and not self._first.done():
                self._first.set_result(None)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self._end("")
        if self._transport is not None and not self._parser.should_keep_alive():
            self._transport.close()
            self._transport = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._end("connection lost")

    def _end(self, failure: str) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is None or self._done is None:
            return
        exchange.status = self._parser.get_status_code() if self._parser is not None and not failure else 0
        exchange.failure = failure
        exchange.ended_at = time.monotonic()
        if not self._done.done():
            self._done.set_result(exchange)


def chat_request(
    target: dict[str, Any], model: str, *, tokens: int, stream: bool, body_bytes: int = 0, tag: str = ""
) -> bytes:
    """Return a whole HTTP request; `body_bytes` pads the prompt."""
    prompt = f"tag:{tag} count" if tag else "count"
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": prompt + " x" * max(0, (body_bytes - 100) // 2)}],
        "max_tokens": tokens,
        "temperature": 0,
    }
    if stream:
        body["stream"] = True
    data = orjson.dumps(body)
    head = (
        f"POST {target['path']}/chat/completions HTTP/1.1\r\nhost: {target['host']}:{target['port']}\r\n"
        f"authorization: Bearer {target['token']}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data
