"""Whose batches these are: the token's settings now, or that it was revoked."""

from __future__ import annotations

import time
from typing import Final

from shared import keys
from shared.batches.record import BatchRecord
from shared.catalogue import Catalogue
from shared.groups import parse_groups
from shared.redis import RedisClient, RedisRefused, RedisUnavailable
from shared.token_settings import GroupSettings, TokenSettings
from shared.tokens import MARKER, parse_records

FRESH_SECONDS: Final = 5.0
NOBODY: Final = "0" * 64


class Tokens:
    """The configured tokens and those in Redis, by name."""

    def __init__(self, client: RedisClient, catalogue: Catalogue) -> None:
        self._client = client
        self._catalogue = catalogue
        catalogue.follow(self._follow)
        self._created_groups: dict[str, GroupSettings] = {}
        self._follow()
        self._created: dict[str, TokenSettings] = {}
        self._is_whole = False
        """The hash of created tokens was there, so that a token which is not in it was revoked."""
        self._read_at = -FRESH_SECONDS

    def _follow(self) -> None:
        settings = self._catalogue.settings
        self._groups = self._created_groups | {group.name: group for group in settings.groups}
        self._configured = {token.name: token.within(self._groups) for token in settings.tokens}
        self._configured_at = time.time()

    async def find(self, record: BatchRecord) -> TokenSettings | None:
        """Return the settings of a batch's token, or None when it was revoked.

        Nobody is judged where Redis has lost its tokens, nor by a process whose configuration may be older than the
        batch, or has no tokens at all.
        """
        name = record.token
        if name in self._configured:
            return self._configured[name]
        await self._refresh()
        if name in self._created:
            return self._created[name].within(self._groups)
        if record.is_configured:
            is_gone = bool(self._configured) and record.created_at < self._configured_at
        else:
            is_gone = self._is_whole
        return None if is_gone else TokenSettings(name=name, sha256=NOBODY)

    async def _refresh(self) -> None:
        if time.monotonic() - self._read_at < FRESH_SECONDS:
            return
        try:
            flat = await self._client.call("HGETALL", keys.TOKENS)
            created = parse_records(flat)
            is_grouped = any(record.group is not None for record in created)
            groups = await self._client.call("HGETALL", keys.GROUPS) if is_grouped else ()
        except (RedisUnavailable, RedisRefused):
            self._is_whole = False
            return
        self._is_whole = MARKER.encode() in flat[::2]
        if flat:  # else they were lost: the last known ones stay, as at the API
            self._created = {record.name: record for record in created}
        if groups:
            self._created_groups = {group.name: group for group in parse_groups(groups)}
            self._groups = self._created_groups | {group.name: group for group in self._catalogue.settings.groups}
        self._read_at = time.monotonic()
