"""Which tokens were used lately, told to Redis for operators: beside the requests, at most once a minute each."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from shared.redis import RedisRefused, RedisUnavailable
from shared.tokens import USES_KEPT_MS

log = logging.getLogger("aqueduct.tokens")

LOOK_SECONDS = 5.0
"""So long a first use is not seen yet."""
TELL_SECONDS = 60.0


class TokenUses:
    """The uses of one process. Noting one is a set's `add`: every request does it."""

    def __init__(self, key: str, tell_seconds: float = TELL_SECONDS) -> None:
        """Take the name of the hash in Redis, and the least time between two words of one token."""
        self._key = key
        self._tell_seconds = tell_seconds
        self._seen: set[str] = set()
        self._told: dict[str, float] = {}
        """When each was told last."""
        self.note = self._seen.add
        """Take note that the token of this hash was used."""

    async def tell(self, call: Callable[..., Awaitable[Any]]) -> None:
        """Tell of those that were used since they were told, a minute ago or longer; raises what `call` raises."""
        now = time.monotonic()
        due = [digest for digest in self._seen if now - self._told.get(digest, float("-inf")) >= self._tell_seconds]
        if not due:
            return
        at = int(time.time())
        await call("HSET", self._key, *(part for digest in due for part in (digest, at)))
        await call("PEXPIRE", self._key, USES_KEPT_MS)
        self._told.update(dict.fromkeys(due, now))
        self._seen.difference_update(due)

    async def tell_forever(self, call: Callable[..., Awaitable[Any]]) -> None:
        """Tell of them until cancelled; what Redis does not take now is told later."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.tell(call)
            except (RedisUnavailable, RedisRefused) as error:
                log.debug("uses of tokens not told: %s", type(error).__name__)
