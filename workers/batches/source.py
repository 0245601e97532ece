"""A batch's input as jobs: the stored lines in, jobs or the results of lines that the schema refuses out."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from shared.batches import keys
from shared.batches.lines import CheckedLine, check_line, read_lines
from shared.batches.record import BatchRecord
from shared.errors import AqueductError
from shared.estimates import corrected
from shared.jobs import JobSpec
from shared.kinds import KINDS, Kind
from shared.lanes import tier_of
from shared.room.lines import LineJob, line_id
from shared.settings import ModelSettings
from shared.store import StoreError

if TYPE_CHECKING:
    from shared.store import Store

log = logging.getLogger("aqueduct.worker.batches")

AWAY_SECONDS: Final = 2.0
BLOCK_BYTES: Final = 1024 * 1024
"""Read by itself, so that no connection to a store stays open for as long as a batch runs."""


def kind_of(endpoint: str) -> Kind | None:
    """Return the kind of job that an endpoint such as /v1/embeddings makes."""
    path = endpoint.removeprefix("/v1")
    return next((kind for kind in KINDS.values() if kind.path == path), None)


async def blocks(store: Store, key: str, size: int) -> AsyncIterator[bytes]:
    """Yield an object in blocks, each fetched when it is wanted, however long the store is away."""
    at, told = 0, False
    while at < size:
        try:
            async for part in store.stream(key, at, min(size, at + BLOCK_BYTES)):
                at += len(part)
                yield part
        except StoreError as error:
            if not told:
                log.error("a batch's input cannot be read: %s", error)
            told = True
            await asyncio.sleep(AWAY_SECONDS)


async def stored_lines(store: Store, tenant: str, record: BatchRecord) -> AsyncIterator[CheckedLine]:
    """Yield the lines of a batch that was validated, in order. Raises KeyError where the copy is gone."""
    key = keys.input_copy(tenant, record.id)
    size = await store.size(key)
    if size is None:
        raise KeyError(key)
    async for number, raw in read_lines(blocks(store, key, size)):
        line = check_line(number, raw, record.endpoint, {})
        if isinstance(line, CheckedLine):
            yield line


def make_job(line: CheckedLine, record: BatchRecord, kind: Kind, model: ModelSettings, factor: float) -> LineJob:
    """Return a line as a job; raises AqueductError for what the kind's schema or the model's settings refuse."""
    request = kind.validate(line.body)
    accepted = kind.accept(request, model)
    spec = JobSpec(
        kind=kind.name,
        tenant=record.token,
        lane="batch",
        created=int(time.time()),
        public_model=line.model,
        options=accepted.options,
        tier=tier_of("batch", request.service_tier),
    )
    job_id = line_id(record.created_us, line.number, record.id)
    cost = corrected(accepted.cost, factor)
    return LineJob(id=job_id, body=accepted.body, spec=spec, cost=cost, estimate=accepted.cost)


def may_help(error: AqueductError) -> bool:
    """Whether a line that failed so is tried again."""
    return error.status in (408, 409, 425, 429) or error.status >= 500
