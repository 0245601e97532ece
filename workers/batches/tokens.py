"""Whose batches these are: the token's settings now, or that it was revoked."""

from __future__ import annotations

import time
from typing import Final

from shared import keys
from shared.catalogue import Catalogue
from shared.redis import RedisClient, RedisRefused, RedisUnavailable
from shared.settings import TokenSettings
from shared.tokens import MARKER, parse_records

FRESH_SECONDS: Final = 5.0
NOBODY: Final = "0" * 64


class Tokens:
    """The configured tokens and those in Redis, by name."""

    def __init__(self, client: RedisClient, catalogue: Catalogue) -> None:
        self._client = client
        self._catalogue = catalogue
        self._created: dict[str, TokenSettings] = {}
        self._is_whole = False
        """The hash of created tokens was there, so that a token which is not in it was revoked."""
        self._read_at = -FRESH_SECONDS

    async def find(self, name: str) -> TokenSettings | None:
        """Return a token's settings, or None when it was revoked. Where Redis has lost its tokens nobody is judged."""
        for token in self._catalogue.settings.tokens:
            if token.name == name:
                return token
        await self._refresh()
        if name in self._created:
            return self._created[name]
        return None if self._is_whole else TokenSettings(name=name, sha256=NOBODY)

    async def _refresh(self) -> None:
        if time.monotonic() - self._read_at < FRESH_SECONDS:
            return
        try:
            flat = await self._client.call("HGETALL", keys.TOKENS)
        except (RedisUnavailable, RedisRefused):
            self._is_whole = False
            return
        self._is_whole = MARKER.encode() in flat[::2]
        self._created = {record.name: record for record in parse_records(flat)}
        self._read_at = time.monotonic()
