"""Counts what a worker process sees of one backend whose limit is found: its calls in, `Counts` out once a second."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import cast

from workers.capacity.measure import Counts
from workers.transport.base import LargeBody, Response, Transport

REFUSALS = (429, 503)

_TOKENS = re.compile(rb'"completion_tokens"\s*:\s*(\d{1,9})')
BYTES_A_UNIT = 4.0
"""Of whole answers: about a token."""


class Meter:
    """One backend's, made on the loop that calls it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at = clock()
        self._changed_at = self._at
        self._counts = Counts()
        self._in_flight = self._silent = self._speaking = 0
        """Calls; of streams those before and after their first chunk."""

    def _pass(self) -> float:
        now = self._clock()
        passed, counts = now - self._at, self._counts
        self._at = now
        counts.seconds += passed
        counts.slot_seconds += passed * self._in_flight
        counts.first_seconds += passed * self._silent
        counts.stream_seconds += passed * self._speaking
        return now

    def changed(self) -> None:
        """The limit has changed: of whole answers only those count that are asked for from now on."""
        self._changed_at = self._clock()

    def take(self) -> Counts:
        """Return what has happened since the last time."""
        self._pass()
        counts, self._counts = self._counts, Counts()
        return counts

    def began(self, is_stream: bool) -> _Call:
        """Count a call; returns what is to hear of it."""
        now = self._pass()
        self._in_flight += 1
        self._silent += is_stream
        return _Call(self, now, is_stream)

    def spoke(self) -> None:
        """Count the first chunk of a stream."""
        self._pass()
        self._silent -= 1
        self._speaking += 1
        self._counts.firsts += 1

    def chunks(self, number: int) -> None:
        """Count chunks of a stream."""
        self._counts.chunks += number

    def ended(self, one: _Call, *, failed: bool, refused: bool) -> None:
        """Count the end of a call."""
        now, counts = self._pass(), self._counts
        self._in_flight -= 1
        counts.refused += refused
        if one.is_stream:
            self._silent -= not one.chunks
            self._speaking -= bool(one.chunks)
            if one.chunks:
                counts.ends += 1
                counts.end_chunks += one.chunks
                counts.end_tokens += one.tokens or one.chunks
        elif not failed and one.began_at >= self._changed_at:
            counts.plain_ends += 1
            counts.plain_seconds += now - one.began_at
            counts.plain_units += max(1.0, one.size / BYTES_A_UNIT)


class _Call:
    """One call's numbers."""

    __slots__ = ("_meter", "began_at", "chunks", "is_stream", "size", "tokens")

    def __init__(self, meter: Meter, began_at: float, is_stream: bool) -> None:
        self._meter = meter
        self.began_at = began_at
        self.is_stream = is_stream
        self.chunks = self.tokens = self.size = 0

    def heard(self, part: bytes) -> None:
        """Count a part of the answer."""
        self.size += len(part)
        if not self.is_stream:
            return
        number = part.count(b"data:")
        if not number:
            return
        if not self.chunks:
            self._meter.spoke()
        self.chunks += number
        self._meter.chunks(number)
        if b"completion_tokens" in part and (found := _TOKENS.findall(part)):
            self.tokens = int(found[-1])

    def ended(self, *, failed: bool, refused: bool) -> None:
        """Count the end."""
        self._meter.ended(self, failed=failed, refused=refused)


class MeteredTransport:
    """A transport whose calls are counted."""

    def __init__(self, transport: Transport, meter: Meter) -> None:
        self._transport = transport
        self._meter = meter

    async def post(self, path: bytes, headers: bytes, body: bytes | LargeBody) -> Response:
        """Send a request, as the transport does."""
        one = self._meter.began(b"text/event-stream" in headers)
        try:
            response = await self._transport.post(path, headers, body)
        except BaseException:
            one.ended(failed=True, refused=False)
            raise
        return cast(Response, _MeteredResponse(response, one))

    def close(self) -> None:
        """Close the idle connections."""
        self._transport.close()


class _MeteredResponse:
    """What is read of an answer, as far as it is asked for here."""

    __slots__ = ("_is_over", "_one", "_response", "headers", "status")

    def __init__(self, response: Response, one: _Call) -> None:
        self._response = response
        self._one = one
        self._is_over = False
        self.status = response.status
        self.headers = response.headers

    @property
    def is_complete(self) -> bool:
        return self._response.is_complete

    async def read(self) -> bytes:
        part = await self._response.read()
        self._one.heard(part)
        return part

    async def follow(self, take: Callable[[bytes], bool]) -> bool:
        def heard(part: bytes) -> bool:
            self._one.heard(part)
            return take(part)

        return await self._response.follow(heard)

    def release(self) -> None:
        self._over(failed=False)
        self._response.release()

    def close(self) -> None:
        self._over(failed=True)
        self._response.close()

    def _over(self, *, failed: bool) -> None:
        if not self._is_over:
            self._is_over = True
            self._one.ended(failed=failed, refused=self.status in REFUSALS)
