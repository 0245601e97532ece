"""Prompts and answers in the log, of the tokens that an operator has switched on for a while; of no other one.

Nothing is asked of Redis for a request: which tokens these are is read every few seconds.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from typing import Final

from api.record import RequestRecord
from api.tokens import RedisCall
from shared.debugging import MOST_SECONDS, Switched, parsed
from shared.keys import DEBUG

log = logging.getLogger("aqueduct.debug")

LOOK_SECONDS: Final = 5.0
_KEY: Final = re.compile(rb"sk-[A-Za-z0-9_-]{8,}")
"""What looks like one of the keys of ours, of OpenAI, or of those who do as they do."""
_KEY_BYTES: Final = 256
"""A text that is cut is looked at so much further, so that no part of a key stays."""


class DebugTable:
    """Which tokens are logged, as far as this process knows."""

    def __init__(self, redis_now_ms: Callable[[], float]) -> None:
        """Take Redis's clock, by which it ends."""
        self._now_ms = redis_now_ms
        self.switched: dict[str, tuple[Switched, float]] = {}
        """By name. With the end by our own monotonic clock: should Redis's be set back, it comes no later."""

    def find(self, token: str) -> Switched | None:
        """Return what is to be logged of a token at this moment."""
        found = self.switched.get(token)
        return found[0] if found is not None and time.monotonic() < found[1] else None

    def begin(self, record: RequestRecord, token: str, body: bytes) -> None:
        """Write the line of a prompt, and have the answer's written, if they are to be."""
        found = self.find(token)
        if found is not None:
            record.debug = DebugLine(self, found.max_bytes)
            log.warning("prompt", extra=_told(record, body[: found.max_bytes + _KEY_BYTES], len(body), found.max_bytes))

    async def refresh(self, call: RedisCall) -> None:
        """Read which ones they are; says in the log which ones have become so, and which ones are no more."""
        now_ms = self._now_ms()
        found: dict[str, tuple[Switched, float]] = {}
        for one in parsed(await call("HGETALL", DEBUG), now_ms):
            known = self.switched.get(one.token)
            if known is not None and known[0] == one:
                if self.find(one.token) is not None:
                    found[one.token] = known
                continue
            seconds = min(MOST_SECONDS, (one.until_ms - now_ms) / 1000)
            found[one.token] = one, time.monotonic() + seconds
            told = {"tenant": one.token, "seconds": round(seconds), "bytes": one.max_bytes, "by": one.by}
            log.warning("prompts and answers of a token are logged", extra=told)
        for name in self.switched.keys() - found.keys():
            log.warning("prompts and answers of a token are logged no more", extra={"tenant": name})
        self.switched = found

    async def refresh_forever(self, call: RedisCall) -> None:
        """Refresh now and every few seconds until cancelled. While Redis is away the last ones stay until their end."""
        while True:
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self.refresh(call)
            except Exception as error:  # the outermost edge of this task
                log.debug("not known which tokens are to be logged: %s", type(error).__name__)
            await asyncio.sleep(LOOK_SECONDS)


class DebugLine:
    """The answer to one request, as far as it fits into a line."""

    __slots__ = ("_kept", "_max_bytes", "_size", "_table")

    def __init__(self, table: DebugTable, max_bytes: int) -> None:
        self._table = table
        self._max_bytes = max_bytes
        self._kept = bytearray()
        self._size = 0

    def add(self, data: bytes) -> None:
        """Take a part of the answer."""
        self._size += len(data)
        if (room := self._max_bytes + _KEY_BYTES - len(self._kept)) > 0:
            self._kept += data[:room]

    def write(self, record: RequestRecord) -> None:
        """Write the answer's line, unless it was switched off meanwhile."""
        if record.tenant is not None and self._table.find(record.tenant) is not None:
            status = record.status or record.answered
            log.warning("answer", extra={**_told(record, self._kept, self._size, self._max_bytes), "status": status})


def _told(record: RequestRecord, text: bytes | bytearray, size: int, max_bytes: int) -> dict[str, object]:
    shown = _KEY.sub(b"sk-***", bytes(text))[:max_bytes].decode("utf-8", "replace")
    return {"request_id": record.request_id, "tenant": record.tenant, "bytes": size, "text": shown}
