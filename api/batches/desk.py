"""What callers do with their batches: create, look, list, cancel, read results, run the failed lines again.

Only what lies below the caller's own folder is ever looked at: another tenant's batch is not found.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import orjson

from api.batches.creation import Key, in_progress, new_record, once, write_batch
from api.batches.schemas import CreateBatchRequest
from shared.batches import keys
from shared.batches.lines import read_lines
from shared.batches.progress import Progress
from shared.batches.record import BatchRecord, Status, ask_cancel, cancel_asked, load
from shared.batches.results import records_after, results
from shared.batches.window import window_problem
from shared.errors import Conflict, InvalidRequest, NotFound, RateLimited
from shared.files import FileRecord, Files, tenant_folder
from shared.redis import RedisClient, RedisRefused, RedisUnavailable
from shared.room.admission import broker_error
from shared.room.limits import limits_of, spent_budget
from shared.room.lines import Lines
from shared.settings import BatchSettings
from shared.store import Store
from shared.token_settings import TokenSettings

log = logging.getLogger("aqueduct.api.batches")


@dataclass(frozen=True, slots=True)
class Shown:
    """A batch as far as it has come."""

    record: BatchRecord
    cancel_since: int | None = None
    progress: Progress | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Some batches, the newest first, and whether more follow."""

    batches: list[Shown]
    has_more: bool


class BatchDesk:
    """The batches of all tenants, each caller's own at hand. Every method may raise StoreError."""

    def __init__(self, store: Store, files: Files, client: RedisClient, lines: Lines, settings: BatchSettings) -> None:
        self._store = store
        self._files = files
        self._client = client
        self._lines = lines
        self._settings = settings

    async def create(
        self,
        token: TokenSettings,
        request: CreateBatchRequest,
        idempotency_key: bytes | None,
        raw: bytes,
        trace: str | None = None,
    ) -> Shown:
        """Make a batch; raises InvalidRequest or NotFound that names the member, RateLimited, Unprocessable."""
        window = request["completion_window"]
        if problem := window_problem(window, self._settings.shortest_window):
            message = f"Invalid 'completion_window'. {problem}."
            raise InvalidRequest(message, param="completion_window", code="invalid_value")
        tenant = tenant_folder(token.name)
        key = Key(tenant, idempotency_key, raw) if idempotency_key is not None else None

        async def make() -> BatchRecord:
            file = await self._input_file(tenant, request["input_file_id"])
            await self._check_open(token, tenant)
            expiry = request.get("output_expires_after")
            record = new_record(
                token=token,
                endpoint=request["endpoint"],
                input_file_id=file.id,
                window=window,
                metadata=request.get("metadata"),
                output_expires_seconds=expiry["seconds"] if expiry else None,
                key=key,
                trace=trace,
            )
            await write_batch(self._store, tenant, record, self._files.content(tenant, file.id))
            await self._ring(record.id)
            return record

        if key is None:
            return Shown(await make())
        try:
            return Shown(await once(self._client, self._store, tenant, key, make))
        except TimeoutError:
            raise in_progress() from None

    async def show(self, token: TokenSettings, batch_id: str) -> Shown:
        """Return a batch with its newest counts; raises NotFound."""
        tenant = tenant_folder(token.name)
        record = await self._load(tenant, batch_id)
        if record.has_ended:
            return Shown(record)
        cancel_since, progress = await asyncio.gather(
            cancel_asked(self._store, tenant, batch_id), self._progress(batch_id)
        )
        return Shown(record, cancel_since, progress)

    async def page(self, token: TokenSettings, after: str | None, limit: int) -> Page:
        """Return the batches behind `after`, the newest first; raises NotFound for an `after` that is none."""
        tenant = tenant_folder(token.name)
        listed = await self._listed(tenant)
        if after is not None:
            if after not in listed:
                raise NotFound(f"No batch '{after[:64]}' to list from. Send the last id of a page.", param="after")
            listed = listed[listed.index(after) + 1 :]
        shown = [self.show(token, batch_id) for batch_id in listed[:limit]]
        found = await asyncio.gather(*shown, return_exceptions=True)
        for one in found:
            if isinstance(one, BaseException) and not isinstance(one, NotFound):  # that one is just being made
                raise one
        return Page([one for one in found if isinstance(one, Shown)], len(listed) > limit)

    async def cancel(self, token: TokenSettings, batch_id: str) -> Shown:
        """Leave word that a batch is to be cancelled; raises NotFound, or Conflict for one that has ended."""
        tenant = tenant_folder(token.name)
        record = await self._load(tenant, batch_id)
        if record.status is Status.CANCELLED:
            return Shown(record)
        if record.has_ended:
            message = f"The batch cannot be cancelled: it is {record.status} already."
            raise Conflict(message, code="invalid_batch_status")
        since = await ask_cancel(self._store, tenant, batch_id, time.time())
        await self._ring(batch_id)
        return Shown(record, since, await self._progress(batch_id))

    async def results(
        self, token: TokenSettings, batch_id: str, after: int
    ) -> tuple[BatchRecord, AsyncIterator[bytes]]:
        """Return the batch, and behind its first `after` results those that are there, as JSON lines; raises NotFound.

        A batch that had ended has no further ones.
        """
        tenant = tenant_folder(token.name)
        record = await self._load(tenant, batch_id)
        return record, records_after(self._store, tenant, batch_id, after)

    async def retry_once(self, token: TokenSettings, batch_id: str) -> tuple[Shown, bool]:
        """As `retry`, but all who ask get the same new batch; returns it, and whether it was there already."""
        tenant = tenant_folder(token.name)
        key = Key(tenant, b"retry once of " + batch_id.encode(), b"")
        if (known := await load(self._store, tenant, key.batch_id)) is not None:
            return Shown(known), True
        made: list[BatchRecord] = []

        async def make() -> BatchRecord:
            made.append((await self.retry(token, batch_id, key=key)).record)
            return made[0]

        try:
            return Shown(await once(self._client, self._store, tenant, key, make)), not made
        except TimeoutError:
            raise in_progress() from None

    async def retry(
        self, token: TokenSettings, batch_id: str, trace: str | None = None, *, key: Key | None = None
    ) -> Shown:
        """Make a new batch of the lines that did not succeed; raises NotFound, Conflict, RateLimited."""
        tenant = tenant_folder(token.name)
        old = await self._load(tenant, batch_id)
        if not old.has_ended or old.status is Status.FAILED:
            message = f"Only a batch that ran and has ended can be run again; this one is {old.status}."
            raise Conflict(message, code="invalid_batch_status")
        wanted = {one.line async for one in results(self._store, tenant, batch_id) if not one.ok}
        if not wanted:
            raise Conflict("Every line of the batch succeeded: nothing is left to retry.", code="nothing_to_retry")
        await self._check_open(token, tenant)
        file = await self._files.create(tenant, f"{batch_id}_retry.jsonl", "batch", self._chosen(old, tenant, wanted))
        record = new_record(
            token=token,
            endpoint=old.endpoint,
            input_file_id=file.id,
            window=old.completion_window,
            metadata=old.metadata,
            output_expires_seconds=old.output_expires_seconds,
            key=key,
            retry_of=old.id,
            trace=trace,
        )
        await write_batch(self._store, tenant, record, self._files.content(tenant, file.id))
        await self._ring(record.id)
        return Shown(record)

    async def _chosen(self, old: BatchRecord, tenant: str, wanted: set[int]) -> AsyncIterator[bytes]:
        async for number, raw in read_lines(self._store.stream(keys.input_copy(tenant, old.id))):
            if number in wanted:
                yield raw + b"\n"

    async def _load(self, tenant: str, batch_id: str) -> BatchRecord:
        record = await load(self._store, tenant, batch_id)
        if record is None:
            raise NotFound(f"No batch found with id '{batch_id[:64]}'.", param="batch_id")
        return record

    async def _input_file(self, tenant: str, file_id: str) -> FileRecord:
        file = await self._files.get(tenant, file_id)
        if file is None:
            raise NotFound(f"No file found with id '{file_id[:64]}'. Upload it first.", param="input_file_id")
        if file.purpose != "batch":
            message = f"The file was uploaded for '{file.purpose}'. Upload it with the purpose 'batch'."
            raise InvalidRequest(message, param="input_file_id", code="invalid_value")
        if file.bytes > self._settings.max_file_bytes:
            message = f"The file has {file.bytes} bytes; a batch takes {self._settings.max_file_bytes}. Divide it."
            raise InvalidRequest(message, param="input_file_id", code="file_too_large")
        return file

    async def _check_open(self, token: TokenSettings, tenant: str) -> None:
        """Raise RateLimited where the token has as many open batches as it may, InsufficientQuota past a budget."""
        try:
            spent = await spent_budget(self._client, limits_of(token).rows)
        except (RedisUnavailable, RedisRefused) as error:
            raise broker_error(error) from error
        if spent is not None:
            raise spent
        if token.max_open_batches is None:
            return
        marks = await asyncio.gather(*map(self._store.get, await self._store.list(keys.OPEN)))
        count = sum(1 for mark in marks if mark and orjson.loads(mark).get("tenant") == tenant)
        if count >= token.max_open_batches:
            message = f"This token may have {token.max_open_batches} open batches. Wait until one has ended."
            raise RateLimited(message, code="too_many_open_batches", retry_after=60)

    async def _listed(self, tenant: str) -> list[str]:
        prefix = keys.listed(tenant)
        return [key.removeprefix(prefix).partition("-")[2] for key in await self._store.list(prefix)]

    async def _progress(self, batch_id: str) -> Progress | None:
        try:
            return Progress.from_fields(await self._lines.progress(batch_id))
        except (RedisUnavailable, RedisRefused):
            return None  # the record's own counts are older, and true

    async def _ring(self, batch_id: str) -> None:
        """Wake a feeder; without Redis the next look into the store does."""
        try:
            await self._lines.ring(batch_id)
        except (RedisUnavailable, RedisRefused):
            log.warning("a batch waits for Redis", extra={"batch": batch_id})
