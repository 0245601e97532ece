"""The files of all tenants in one store: made, found, listed, read and forgotten, each below its tenant's folder."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Final

from shared.files.record import (
    FILE_ID,
    LIFETIMES,
    FileRecord,
    Listed,
    data_key,
    listed,
    marker,
    new_file_id,
    record_key,
)
from shared.store import Store

REMAINS_SECONDS: Final = 86_400
PART_SECONDS: Final = 2 * 3600
"""Of parts: their upload ended at most an hour after them."""


class Files:
    """What lies there past its end counts as gone, and is deleted by whoever meets it. All raise StoreError."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def create(
        self,
        tenant: str,
        filename: str,
        purpose: str,
        parts: AsyncIterator[bytes],
        *,
        expires_seconds: int | None = None,
        file_id: str | None = None,
        created_us: int | None = None,
    ) -> FileRecord:
        """Keep a file of any size. What `parts` raises, or no room, leaves nothing of it.

        Made again with the `file_id` and `created_us` of the first time, a file takes its own place.
        """
        pending = await self.begin(tenant, parts, file_id)
        return await pending.finish(filename, purpose, expires_seconds=expires_seconds, created_us=created_us)

    async def begin(self, tenant: str, parts: AsyncIterator[bytes], file_id: str | None = None) -> PendingFile:
        """Keep a file's bytes before it is known what it is."""
        file_id = file_id or new_file_id()
        size = await self._store.put_stream(data_key(tenant, file_id), parts)
        return PendingFile(self._store, tenant, file_id, size)

    async def enter(self, tenant: str, record: FileRecord) -> None:
        """Make a file of bytes that are there; once more changes nothing."""
        await self._store.put(marker(tenant, record), b"")
        await self._store.put(record_key(tenant, record.id), record.to_json())

    async def get(self, tenant: str, file_id: str) -> FileRecord | None:
        """Return a file's record, None where the tenant has no such file."""
        if not FILE_ID.fullmatch(file_id):
            return None
        raw = await self._store.get(record_key(tenant, file_id))
        if raw is None:
            return None
        record = FileRecord.from_json(raw)
        if record.expires_at is not None and record.expires_at <= time.time():
            await self._remove(tenant, file_id, marker(tenant, record))
            return None
        return record

    def content(self, tenant: str, file_id: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Yield a file's bytes, or some of them; KeyError where there are none."""
        return self._store.stream(data_key(tenant, file_id), start, end)

    async def _markers(self, tenant: str = "") -> list[Listed]:
        keys = await self._store.list(listed(tenant).rstrip("/"))
        return [one for key in keys if (one := Listed.of(key)) is not None]

    async def list(self, tenant: str, purpose: str | None = None) -> list[Listed]:
        """Return the tenant's files, the newest first."""
        now = time.time()
        return [
            one
            for one in await self._markers(tenant)
            if (not one.expires_at or one.expires_at > now) and (purpose is None or one.purpose == purpose)
        ]

    async def delete(self, tenant: str, file_id: str) -> bool:
        """Forget a file; False where there is none."""
        record = await self.get(tenant, file_id)
        if record is None:
            return False
        await self._remove(tenant, file_id, marker(tenant, record))
        return True

    async def sweep(self) -> int:
        """Delete what is past its end, of all tenants; returns how many files that were."""
        now = time.time()
        ended = [one for one in await self._markers() if 0 < one.expires_at <= now]
        for one in ended:
            await self._remove(one.tenant, one.id, one.key)
        await self._sweep_remains()
        return len(ended)

    async def _sweep_remains(self) -> None:
        """Delete bytes that never became a file, as their process died, and what uploads left behind."""
        kept = await self._store.untouched("files", REMAINS_SECONDS)
        whole = {key.rpartition("/")[0] for key in kept if key.endswith("/record.json")}
        for key in kept:
            folder, _, name = key.rpartition("/")
            if name == "data" and folder not in whole and await self._store.size(f"{folder}/record.json") is None:
                await self._store.delete(key)
        for key in await self._store.untouched("uploads", PART_SECONDS):
            if "/parts/" in key:
                await self._store.delete(key)
        for key in await self._store.untouched("uploads", REMAINS_SECONDS):
            await self._store.delete(key)

    async def _remove(self, tenant: str, file_id: str, listed_as: str) -> None:
        # The record first: without it there is no file, whatever ends in the middle.
        for key in (record_key(tenant, file_id), listed_as, data_key(tenant, file_id)):
            await self._store.delete(key)


class PendingFile:
    """Bytes that are in the store and no file yet: `finish` or `drop`."""

    def __init__(self, store: Store, tenant: str, file_id: str, size: int) -> None:
        self._store = store
        self._tenant = tenant
        self._id = file_id
        self.bytes = size

    def record(
        self, filename: str, purpose: str, *, expires_seconds: int | None = None, created_us: int | None = None
    ) -> FileRecord:
        """Return the record that makes it a file."""
        now_us = time.time_ns() // 1000 if created_us is None else created_us
        now = now_us // 1_000_000
        lifetime = LIFETIMES.get(purpose) if expires_seconds is None else expires_seconds
        return FileRecord(
            id=self._id,
            filename=filename,
            purpose=purpose,
            bytes=self.bytes,
            created_at=now,
            created_us=now_us,
            expires_at=None if lifetime is None else now + lifetime,
        )

    async def finish(
        self, filename: str, purpose: str, *, expires_seconds: int | None = None, created_us: int | None = None
    ) -> FileRecord:
        """Make it a file."""
        record = self.record(filename, purpose, expires_seconds=expires_seconds, created_us=created_us)
        try:
            await Files(self._store).enter(self._tenant, record)
        except BaseException:
            await self._store.delete(marker(self._tenant, record))
            await self.drop()
            raise
        return record

    async def drop(self) -> None:
        """Forget it."""
        await self._store.delete(data_key(self._tenant, self._id))
