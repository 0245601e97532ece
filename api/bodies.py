"""A request's body, from the connection to whatever is made of its JSON: read within limits, bounded before parsing.

Small bodies are parsed where they are read. Large ones are parsed beside the event loop, and few at a time: JSON grows
to several times its size as objects, and a parse holds the interpreter for most of its time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

from api.exchange import ClientGone, Exchange
from shared.errors import InvalidRequest, RequestTooLarge
from shared.settings import ApiSettings

PARSE_IN_THREAD_BYTES: Final = 512 * 1024
"""Larger bodies are parsed beside the event loop, in pieces of the interpreter's time: 10 MB take tens of ms."""
LARGE_AT_ONCE: Final = 2
MAX_VALUES: Final = 1_000_000
"""JSON values in one body: 15 million empty objects are 46 MB as text and a gigabyte in memory."""

T = TypeVar("T")


class Bodies:
    """Reads and parses the bodies of a process's requests."""

    def __init__(self, settings: ApiSettings) -> None:
        self._settings = settings
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)

    async def read(self, exchange: Exchange) -> bytes:
        """Return the body.

        Raises RequestTooLarge without reading the rest, InvalidRequest when it comes too slowly, and ClientGone.
        """
        length = exchange.header(b"content-length")
        if length is not None and length.isdigit() and int(length) > self._settings.max_body_bytes:
            raise self._too_large()
        if exchange.body_is_complete:  # as nearly always: nothing to wait for, no timer to set
            message = await exchange.receive()
            body: bytes = message.get("body", b"")
            if message["type"] == "http.request" and not message.get("more_body", False):
                if len(body) > self._settings.max_body_bytes:
                    raise self._too_large()
                return body
            raise ClientGone
        try:
            async with asyncio.timeout(self._settings.body_timeout_seconds) as limit:
                return await self._collect(exchange, limit)
        except TimeoutError as error:
            silence, rate = self._settings.body_timeout_seconds, self._settings.body_bytes_per_second
            raise InvalidRequest(
                f"The request body did not arrive in time: no more of it came for {silence:g} s, or in all fewer than "
                f"{rate} bytes a second. Send the whole body, faster.",
                code="request_timeout",
            ) from error

    async def parse(self, raw: bytes, work: Callable[[bytes], T]) -> T:
        """Return what `work` makes of the body; raises InvalidRequest for one of too many values, and what it raises.

        The work of a large body runs in a thread.
        """
        if len(raw) <= PARSE_IN_THREAD_BYTES:
            return work(raw)

        def bounded() -> T:
            check_values(raw)
            return work(raw)

        async with self._large:
            return await asyncio.to_thread(bounded)

    async def _collect(self, exchange: Exchange, limit: asyncio.Timeout) -> bytes:
        clock = asyncio.get_running_loop().time
        began_at = clock()
        silence, rate = self._settings.body_timeout_seconds, self._settings.body_bytes_per_second
        parts: list[bytes] = []
        size = 0
        while True:
            message = await exchange.receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            part: bytes = message.get("body", b"")
            size += len(part)
            if size > self._settings.max_body_bytes:
                raise self._too_large()
            if not message.get("more_body", False):
                # The usual body arrives in one piece, which is then not copied.
                return b"".join([*parts, part]) if parts else part
            parts.append(part)
            limit.reschedule(min(clock() + silence, began_at + silence + size / rate))

    def _too_large(self) -> RequestTooLarge:
        return RequestTooLarge(
            f"The request body is larger than {self._settings.max_body_bytes} bytes. Send a smaller one."
        )


def check_values(raw: bytes) -> None:
    """Raise InvalidRequest for JSON of more than MAX_VALUES values, judged by what stands between them."""
    if _separators(raw) <= MAX_VALUES:
        return
    # Text may hold any number of them: look at what is outside of the strings, if those are not too many themselves.
    plain = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    if plain.count(b'"') // 2 <= MAX_VALUES and _separators(b"".join(plain.split(b'"')[::2])) <= MAX_VALUES:
        return
    raise InvalidRequest(
        f"The request body holds more than {MAX_VALUES} JSON values. Send fewer of them.", code="too_many_values"
    )


def _separators(raw: bytes) -> int:
    return len(raw) - len(raw.translate(None, b",[{"))
