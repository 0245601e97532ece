"""The store and Redis in, how far batches are out; for operators, who see those of every token."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from shared.batches import keys
from shared.batches.progress import Progress
from shared.batches.record import BatchRecord, load
from shared.redis import RedisClient
from shared.room.lines import progress_of
from shared.store import Store

READ_SECONDS = 5.0
"""Between two looks into the store, which may be far away; counts come from Redis each time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenBatch:
    """A batch, as operators see it: most have not ended."""

    id: str
    token: str
    model: str | None
    status: str
    completed: int
    failed: int
    total: int
    created_at: int
    expires_at: int
    finish_at: int | None
    """When the last line should have ended, in Unix seconds, at the rate so far."""
    ended_at: int | None = None
    failures: Mapping[str, int] | None = None
    """How many lines failed with which code; None where an older version has run it."""
    retry_of: str | None = None
    """The batch whose unfinished lines this one runs again."""

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return asdict(self)


class OpenBatches:
    """The open batches of a store."""

    def __init__(self, store: Store, client: RedisClient) -> None:
        self._store = store
        self._client = client
        self._records: list[BatchRecord] = []
        self._read_at = float("-inf")

    async def rows(self) -> list[OpenBatch]:
        """Return them, the oldest first; raises StoreError, RedisUnavailable or RedisRefused."""
        if time.monotonic() - self._read_at >= READ_SECONDS:
            self._records = await self._read()
            self._read_at = time.monotonic()
        told = await asyncio.gather(*(progress_of(self._client, record.id) for record in self._records))
        return [
            row_of(record, Progress.from_fields(fields)) for record, fields in zip(self._records, told, strict=True)
        ]

    async def _read(self) -> list[BatchRecord]:
        ids = [key.removeprefix(keys.OPEN) for key in await self._store.list(keys.OPEN)]
        found = await asyncio.gather(*map(self._load, ids))
        # Its mark is taken away a moment after a batch has ended.
        records = [record for record in found if record is not None and not record.has_ended]
        return sorted(records, key=lambda record: record.created_us)

    async def _load(self, batch_id: str) -> BatchRecord | None:
        mark = await self._store.get(keys.open_marker(batch_id))
        return await load(self._store, orjson.loads(mark)["tenant"], batch_id) if mark is not None else None


def row_of(record: BatchRecord, progress: Progress | None) -> OpenBatch:
    """Return what is shown of a batch, with what its feeder told last."""
    ends = (record.completed_at, record.failed_at, record.expired_at, record.cancelled_at)
    counts = progress.counts if progress is not None else record.counts
    return OpenBatch(
        id=record.id,
        token=record.token,
        model=record.model,
        status=record.status.value,
        completed=counts.completed,
        failed=counts.failed,
        total=counts.total,
        created_at=record.created_at,
        expires_at=record.expires_at,
        finish_at=progress.finish_at if progress is not None and not record.has_ended else None,
        ended_at=next((at for at in ends if at is not None), None),
        failures=record.reasons if record.has_ended or progress is None else progress.reasons,
        retry_of=record.retry_of,
    )
