"""A request's body, from the connection to whatever is made of its JSON: read within limits, bounded before parsing.

Small bodies are parsed where they are read. Large ones are parsed beside the event loop, and few at a time: JSON grows
to several times its size as objects, and a parse holds the interpreter for most of its time. Of the largest
(`large_body_bytes`) few are here at all: the others wait at their clients, whose bytes are not read meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

from api.exchange import ClientGone, Exchange
from shared.errors import CapacityError, InvalidRequest, RequestTooLarge
from shared.places import Place, Places
from shared.settings import Settings

PARSE_IN_THREAD_BYTES: Final = 512 * 1024
"""Larger bodies are parsed beside the event loop, in pieces of the interpreter's time: 10 MB take tens of ms."""
LARGE_AT_ONCE: Final = 2
PLACE_SECONDS: Final = 120.0
"""How long a body may wait to be read."""
MAX_WAITING: Final = 256
"""Bodies that wait; of each some 300 KB are here."""
MAX_VALUES: Final = 1_000_000
"""JSON values in one body: 15 million empty objects are 46 MB as text and a gigabyte in memory."""

T = TypeVar("T")


class Bodies:
    """Reads and parses the bodies of a process's requests."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings.api
        self._large_bytes = settings.large_body_bytes
        self._places = Places(settings.large_bodies)
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)

    async def read(self, exchange: Exchange, owner: str) -> tuple[bytes, Place | None]:
        """Return the body, and the place it takes if it is large; the owner is whose bodies share.

        Raises RequestTooLarge without reading the rest, InvalidRequest when it comes too slowly, CapacityError when
        it had to wait too long, and ClientGone.
        """
        length = exchange.header(b"content-length")
        size = int(length) if length is not None and length.isdigit() else 0
        if size > self._settings.max_body_bytes:
            raise self._too_large()
        if exchange.body_is_complete:  # as nearly always: nothing to wait for, no timer to set
            message = await exchange.receive()
            body: bytes = message.get("body", b"")
            if message["type"] == "http.request" and not message.get("more_body", False):
                if len(body) > self._settings.max_body_bytes:
                    raise self._too_large()
                return body, await self._place(owner) if len(body) > self._large_bytes else None
            raise ClientGone
        place = await self._place(owner) if size > self._large_bytes else None
        try:
            async with asyncio.timeout(self._settings.body_timeout_seconds) as limit:
                return await self._collect(exchange, limit, owner, place)
        except TimeoutError as error:
            silence, rate = self._settings.body_timeout_seconds, self._settings.body_bytes_per_second
            raise InvalidRequest(
                f"The request body did not arrive in time: no more of it came for {silence:g} s, or in all fewer than "
                f"{rate} bytes a second. Send the whole body, faster.",
                code="request_timeout",
            ) from error

    async def _place(self, owner: str) -> Place:
        """Wait until there is room for one large body more. Nothing is read from its client meanwhile."""
        busy = "The gateway has as many large requests in hand as it takes. Retry shortly."
        if self._places.waiting >= MAX_WAITING:
            raise CapacityError(busy, code="too_many_large_bodies", retry_after=10)
        try:
            async with asyncio.timeout(PLACE_SECONDS):
                return await self._places.take(owner)
        except TimeoutError:
            raise CapacityError(busy, code="too_many_large_bodies", retry_after=10) from None

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

    async def _collect(
        self, exchange: Exchange, limit: asyncio.Timeout, owner: str, place: Place | None
    ) -> tuple[bytes, Place | None]:
        clock = asyncio.get_running_loop().time
        began_at = clock()
        silence, rate = self._settings.body_timeout_seconds, self._settings.body_bytes_per_second
        parts: list[bytes] = []
        size = 0
        try:
            while True:
                message = await exchange.receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                part: bytes = message.get("body", b"")
                size += len(part)
                if size > self._settings.max_body_bytes:
                    raise self._too_large()
                parts.append(part)
                if place is None and size > self._large_bytes:  # nobody had said how long it would be
                    limit.reschedule(None)
                    asked_at = clock()
                    place = await self._place(owner)
                    began_at += clock() - asked_at
                if not message.get("more_body", False):
                    # The usual body arrives in one piece, which is then not copied.
                    return (b"".join(parts) if len(parts) > 1 else part), place
                limit.reschedule(min(clock() + silence, began_at + silence + size / rate))
        except BaseException:
            if place is not None:
                place.give_back()
            raise

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
