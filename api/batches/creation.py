"""How a batch comes to be: everything of it lies in the store before the record does, and the record before the ticket.

A process may die between any two steps. Without a record there is no batch; with one, the marker in `open/` brings
somebody to carry it, whether the ticket was pushed or not.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from shared.batches import keys
from shared.batches.record import BatchRecord, load, save
from shared.batches.window import seconds_of
from shared.errors import CapacityError, Unprocessable
from shared.redis import RedisClient
from shared.store import Store
from shared.token_settings import ConfiguredToken, TokenSettings

CLAIM_MS = 30_000
"""One of several equal requests makes the batch; the others wait for its record, at most so long."""


class Key:
    """An Idempotency-Key: its batch's id follows from it, so that the store alone knows whether there is one."""

    def __init__(self, tenant: str, key: bytes, body: bytes) -> None:
        digest = hashlib.sha256(b"batch\n" + tenant.encode() + b"\n" + key).hexdigest()
        self.batch_id = f"batch_{digest[:32]}"
        self.claim = f"aq2:idempotency:{digest}"
        self.request_hash = hashlib.sha256(body).hexdigest()


def new_record(
    *,
    token: TokenSettings,
    endpoint: str,
    input_file_id: str,
    window: str,
    metadata: dict[str, str] | None,
    output_expires_seconds: int | None,
    key: Key | None = None,
    retry_of: str | None = None,
    trace: str | None = None,
) -> BatchRecord:
    """Return a batch that begins now."""
    now_us = time.time_ns() // 1000
    now = now_us // 1_000_000
    return BatchRecord(
        id=key.batch_id if key is not None else keys.new_batch_id(),
        endpoint=endpoint,
        input_file_id=input_file_id,
        completion_window=window,
        created_at=now,
        expires_at=now + (seconds_of(window) or 0),
        token=token.name,
        is_configured=isinstance(token, ConfiguredToken),
        metadata=metadata,
        output_expires_seconds=output_expires_seconds,
        created_us=now_us,
        request_hash=key.request_hash if key is not None else None,
        retry_of=retry_of,
        trace=trace,
    )


async def write_batch(store: Store, tenant: str, record: BatchRecord, lines: AsyncIterator[bytes]) -> None:
    """Write everything of a new batch; what a failure leaves is taken away again."""
    listed = keys.listed_marker(tenant, record.created_us, record.id)
    marker = keys.open_mark(tenant, record.expires_at)
    try:
        await store.put_stream(keys.input_copy(tenant, record.id), lines)
        await store.put(listed, b"")
        await store.put(keys.open_marker(record.id), marker)
        await save(store, tenant, record)
        await store.put(keys.open_marker(record.id), marker)  # who met it without the record has taken it away
    except BaseException:
        await asyncio.gather(
            *map(store.delete, (listed, keys.open_marker(record.id), keys.input_copy(tenant, record.id))),
            return_exceptions=True,
        )
        raise


async def once(
    client: RedisClient, store: Store, tenant: str, key: Key, make: Callable[[], Awaitable[BatchRecord]]
) -> BatchRecord:
    """Return the batch that this key stands for, made by whoever comes first; raises Unprocessable for another body."""
    async with asyncio.timeout(CLAIM_MS / 1000):
        while True:
            found = await load(store, tenant, key.batch_id)
            if found is not None:
                if found.request_hash != key.request_hash:
                    message = "This Idempotency-Key was used with another body. Use a new key for a new request."
                    raise Unprocessable(message, code="idempotency_key_reused")
                return found
            if await client.call("SET", key.claim, b"", "NX", "PX", CLAIM_MS):
                break
            await asyncio.sleep(0.05)
    try:
        return await load(store, tenant, key.batch_id) or await make()
    finally:
        await client.call("DEL", key.claim)


def in_progress() -> CapacityError:
    """Return what is said when an equal request did not end in time."""
    message = "A request with this Idempotency-Key is still under way. Retry shortly."
    return CapacityError(message, code="idempotency_key_in_use", retry_after=2)
