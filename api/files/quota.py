"""How many bytes a token may store, those included that are on their way: of many at once none has all the room."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shared.errors import StorageLimit
from shared.files import tenant_folder
from shared.store import Store
from shared.token_settings import TokenSettings


class Quota:
    """What all tokens have stored, as far as any has a limit. Every method may raise StoreError."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._coming: Counter[str] = Counter()
        """Bytes that this process takes at the moment, by tenant; other processes know nothing of them."""
        self._landed: Counter[str] = Counter()
        """Bytes that it has ever taken: what a look at the store has missed."""

    async def room(self, token: TokenSettings) -> int | None:
        """Return how many bytes the token may still store; None where nobody counts."""
        if token.max_stored_bytes is None:
            return None
        tenant = tenant_folder(token.name)
        used = sum(await asyncio.gather(*(self._store.weigh(f"{kind}/{tenant}") for kind in ("files", "uploads"))))
        return max(0, token.max_stored_bytes - used)

    @asynccontextmanager
    async def within(self, token: TokenSettings, parts: AsyncIterator[bytes]) -> AsyncIterator[AsyncIterator[bytes]]:
        """Give the parts, which end with StorageLimit once they are more than the token may store.

        They are to be stored when the context ends.
        """
        tenant = tenant_folder(token.name)
        before = self._landed[tenant]
        room = await self.room(token)
        if room is None:
            yield parts
            return
        mine = 0

        async def counted() -> AsyncIterator[bytes]:
            nonlocal mine
            async for part in parts:
                mine += len(part)
                self._coming[tenant] += len(part)
                if self._coming[tenant] + self._landed[tenant] - before > room:
                    raise over_limit(token)
                yield part

        try:
            yield counted()
            self._landed[tenant] += mine
        finally:
            self._coming[tenant] -= mine


def over_limit(token: TokenSettings) -> StorageLimit:
    """Return what a token is told that has no room for more."""
    return StorageLimit(
        f"This token may store {token.max_stored_bytes} bytes in its files. Delete some of them first.", param="file"
    )
