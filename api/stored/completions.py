"""The stored completions of all tenants in one store: kept, found, listed, changed and forgotten.

Whoever keeps, changes or forgets holds the lease on the stored answers, so that each key has one writer at a time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from api.stored import keys
from api.stored.making import Made
from api.stored.record import StoredRecord
from shared.errors import AqueductError
from shared.kinds.common.answers import loads
from shared.store import Store

log = logging.getLogger("aqueduct.api.stored")

REMAINS_SECONDS: Final = 86_400
PAGE_BYTES: Final = 16 * 1024 * 1024
"""A page ends early where its completions are so large together: a hundred answers may be of gigabytes."""
_READ_AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True)
class Page:
    """Some completions, and whether more follow."""

    records: list[StoredRecord]
    has_more: bool


def _read(raw: bytes) -> StoredRecord | None:
    """Return a record; None for what is none, as a disk's fault or a power cut may leave it."""
    try:
        return StoredRecord.from_json(raw)
    except (AqueductError, ValueError, TypeError, AttributeError):
        log.error("a stored completion's record cannot be read", extra={"bytes": len(raw)})
        return None


class StoredCompletions:
    """What lies there past its end counts as gone. `tenant` is its folder. All raise StoreError."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def keep(self, tenant: str, made: Made) -> None:
        """Keep what is not there yet: what is may have been changed since."""
        record = made.record
        if await self._store.size(keys.record(tenant, record.id)):  # an empty one is what a power cut leaves
            return
        if made.events is not None:
            await self._store.put(keys.events(tenant, record.id), made.events)
        await self._store.put(keys.messages(tenant, record.id), made.messages)
        if record.completion is not None:
            await self._store.put(record.marker(tenant), b"")
        await self._store.put(keys.record(tenant, record.id), made.json)

    async def get(self, tenant: str, completion_id: str) -> StoredRecord | None:
        """Return a record, None where the tenant has no such completion."""
        found = await self._find(tenant, completion_id)
        return None if found is None else found[0]

    async def _find(self, tenant: str, completion_id: str) -> tuple[StoredRecord, int] | None:
        """Return a record, and of how many bytes it is."""
        raw = await self._store.get(keys.record(tenant, completion_id))
        if raw is None or (record := _read(raw)) is None:
            return None
        return (record, len(raw)) if record.expires_at > time.time() else None

    async def messages(self, tenant: str, completion_id: str) -> list[dict[str, Any]]:
        """Return what was asked."""
        found: list[dict[str, Any]] = loads(await self._store.get(keys.messages(tenant, completion_id)) or b"[]")
        return found

    def events(self, tenant: str, completion_id: str) -> AsyncIterator[bytes]:
        """Yield the bytes of a stream; KeyError where there are none."""
        return self._store.stream(keys.events(tenant, completion_id))

    async def page(
        self, tenant: str, *, after: str | None, limit: int, newest_first: bool, model: str | None,
        metadata: Mapping[str, str],
    ) -> Page:  # fmt: skip
        """Return completions behind `after`, which need not be there any more."""
        listed = self._behind(await self._listed(tenant), after, newest_first=newest_first)
        wanted = [one for one in listed if one.may_match(model, metadata)]
        found: dict[str, StoredRecord] = {}
        at = size = 0
        while at < len(wanted) and len(found) <= limit and size < PAGE_BYTES:
            some = wanted[at : at + min(_READ_AT_ONCE, limit + 1 - len(found))]
            at += len(some)
            for one in await asyncio.gather(*(self._find(tenant, one.id) for one in some)):
                if one is not None and one[0].matches(model, metadata):
                    found[one[0].id] = one[0]  # a change that was cut short leaves two markers of one
                    size += one[1]
        records_found = list(found.values())
        return Page(records_found[:limit], len(records_found) > limit or at < len(wanted))

    async def _listed(self, tenant: str) -> list[keys.Listed]:
        now = time.time()
        return [one for one in await self._markers(tenant) if one.expires_at > now]

    async def _markers(self, tenant: str = "") -> list[keys.Listed]:
        return [one for key in await self._store.list(keys.listed(tenant)) if (one := keys.Listed.of(key)) is not None]

    @staticmethod
    def _behind(listed: list[keys.Listed], after: str | None, *, newest_first: bool) -> list[keys.Listed]:
        if after is not None:  # ids sort by time, and so do the keys
            if newest_first:
                listed = listed[: bisect_left(listed, after, key=lambda one: one.id)]
            else:
                listed = listed[bisect_right(listed, after, key=lambda one: one.id) :]
        return listed[::-1] if newest_first else listed

    async def change(self, tenant: str, record: StoredRecord, metadata: dict[str, str]) -> StoredRecord:
        """Give a completion other metadata."""
        changed = replace(record, metadata=metadata)
        if record.completion is not None and changed.marker(tenant) != record.marker(tenant):
            await self._store.put(changed.marker(tenant), b"")
        await self._store.put(keys.record(tenant, record.id), changed.to_json())
        if record.completion is not None and changed.marker(tenant) != record.marker(tenant):
            await self._store.delete(record.marker(tenant))
        return changed

    async def delete(self, tenant: str, record: StoredRecord) -> None:
        """Forget a completion."""
        await self._remove(tenant, record.id, record.marker(tenant))

    async def _remove(self, tenant: str, completion_id: str, *markers: str) -> None:
        # The record first: without it there is no completion, whatever ends in the middle.
        for key in (
            keys.record(tenant, completion_id),
            *markers,
            keys.messages(tenant, completion_id),
            keys.events(tenant, completion_id),
        ):
            await self._store.delete(key)

    async def sweep(self) -> int:
        """Delete what is past its end, of all tenants; returns how many completions that were."""
        now = time.time()
        listed = await self._markers()
        ended = [one for one in listed if one.expires_at <= now]
        for one in ended:
            await self._remove(one.tenant, one.id, one.key)
        await self._sweep_remains({one.id for one in listed})
        return len(ended)

    async def _sweep_remains(self, listed: set[str]) -> None:
        """Delete what no marker leads to: of writes that were cut short, and of requests that have failed."""
        for key in await self._store.untouched("completions", REMAINS_SECONDS):
            part = keys.parts(key)
            if part is None or part[1] in listed:
                continue
            tenant, completion_id, name = part
            if name == "record.json":
                record = _read(await self._store.get(key) or b"")
                if record is not None and record.expires_at <= time.time():
                    await self._remove(tenant, completion_id)
            elif await self._store.size(keys.record(tenant, completion_id)) is None:
                await self._store.delete(key)
