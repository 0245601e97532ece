"""One batch in this process's hands, from wherever it stands to its end.

    validating    the input is checked          in_progress, failed
    in_progress   lines run                     finalizing; expired at the window's end; cancelling when asked
    finalizing    the files are made            completed
    cancelling    what has ended is kept        cancelled

Each status is saved before what follows it is begun: a feeder that takes a batch over begins where the record stands.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from shared.batches import keys
from shared.batches.lines import CheckedLine, InputCheck
from shared.batches.progress import Progress
from shared.batches.record import BatchRecord, Counts, Status, cancel_asked, load, moved, save, seeded
from shared.batches.results import NotRun, join, not_run, tally
from shared.catalogue import Catalogue
from shared.redis import RedisRefused, RedisUnavailable
from shared.room.lease import Lease
from shared.room.lines import Lines, line_id
from shared.store import StoreError
from shared.token_settings import TokenSettings
from workers.batches.enqueued import token_limit_problem
from workers.batches.flow import Flow
from workers.batches.metrics import BatchMetrics
from workers.batches.segments import Segments, persist
from workers.batches.source import blocks, kind_of, stored_lines
from workers.batches.tokens import Tokens
from workers.batches.traces import BatchTrace

if TYPE_CHECKING:
    from shared.store import Store

log = logging.getLogger("aqueduct.worker.batches")

T = TypeVar("T")

LOOK_SECONDS: Final = 2.0
"""Between two looks at what may end a batch early, and two words about its progress."""
_CANCELLED_AT_ONCE: Final = 200
_REVOKED: Final = {
    "code": "token_revoked", "message": "The token that made this batch was revoked.", "param": None, "line": None,
}  # fmt: skip
_LOST: Final = {
    "code": "input_lost", "message": "The batch's input is gone from the file store.", "param": None, "line": None,
}  # fmt: skip


def _without_model(model: str | None) -> dict[str, Any]:
    message = f"The model '{model}' was taken from the configuration: the lines that had not run waited, and expired."
    return {"code": "model_not_found", "message": message, "param": "model", "line": None}


@dataclass(frozen=True, slots=True)
class Site:
    """What all feeders of a process share."""

    catalogue: Catalogue
    store: Store
    lines: Lines
    tokens: Tokens
    create_file: Callable[[BatchRecord, str, AsyncIterator[bytes]], Awaitable[str]]
    announce: Callable[[BatchRecord], Awaitable[None]]
    """Has it told, before the batch is taken from the open ones, that it has ended."""
    metrics: BatchMetrics | None = None
    trace: Callable[[BatchRecord], BatchTrace] | None = None
    """Begins the spans of a batch, where this process is traced."""


class Feeder:
    """Carries one batch."""

    def __init__(self, site: Site, tenant: str, batch_id: str, lease: Lease) -> None:
        self._site = site
        self._store = site.store
        self._tenant = tenant
        self._id = batch_id
        self._lease = lease
        self.record: BatchRecord | None = None
        """None until it was read."""
        self.counts = Counts()
        self.reasons: dict[str, int] = {}
        """How many lines failed with which code."""
        self._took_over = False
        """Redis may hold lines that another feeder began."""
        self.began_at = time.time()
        self._trace: BatchTrace | None = None

    async def run(self) -> None:
        """Carry the batch to its end; raises LeaseLost, or KeyError where its files are gone."""
        record = await self._read(lambda: load(self._store, self._tenant, self._id))
        if record is None:
            await self._read(lambda: self._store.delete(keys.open_marker(self._id)))
            return
        self.record, self.counts = record, record.counts
        self._trace = self._site.trace(record) if self._site.trace is not None else None
        try:
            await self._carry(record)
        finally:
            if self._trace is not None:
                self._trace.end(self.record)

    async def _carry(self, record: BatchRecord) -> None:
        self._took_over = record.status is not Status.VALIDATING
        if record.status is Status.VALIDATING:
            record = await self._validate(record)
        while not record.has_ended:
            try:
                record = await self._step(record)
            except KeyError:
                record = await self._without_input(record)
        await self._close(record)

    async def _step(self, record: BatchRecord) -> BatchRecord:
        """Take a batch whose input is good one status further."""
        found = await self._read(lambda: tally(self._store, self._tenant, self._id))
        segments = Segments(self._store, self._site.lines, self._tenant, self._id, self._lease, found)
        if self._site.metrics is not None:
            segments.on_written = partial(self._site.metrics.written, record)
        stop: NotRun | None = "batch_cancelled" if record.status is Status.CANCELLING else None
        if len(found.lines) < record.counts.total:
            if record.status is Status.FINALIZING:  # segments went, against all rules: what is missing runs again
                log.error("batch %s misses results, its lines run again", self._id)
            record, stop = await self._run_lines(record, segments, stop)
        elif stop is None and record.status is not Status.FINALIZING and self._was_expired(record):
            stop = "batch_expired"
        if stop is None and record.status is Status.IN_PROGRESS:
            record = await self._move(record, Status.FINALIZING)
        return await self._finalize(record, stop)

    @staticmethod
    def _was_expired(record: BatchRecord) -> bool:
        return time.time() >= record.expires_at

    # --- validating ---------------------------------------------------------------------------------------------

    async def _validate(self, record: BatchRecord) -> BatchRecord:
        token = await self._site.tokens.find(record)
        names = self._site.catalogue.names

        def own_name(name: str) -> str | None:
            return names.get(name) if token is None or token.may_use(name, names) else None

        key = keys.input_copy(self._tenant, self._id)
        size = await self._read(lambda: self._store.size(key))
        check = InputCheck(record.endpoint, own_name, max_lines=self._site.catalogue.settings.batches.max_lines)
        found = await self._read(lambda: check.run(blocks(self._store, key, size or 0)))
        record = replace(record, model=found.model, counts=Counts(total=found.count))
        if found.faults:
            errors = tuple(fault.public() for fault in found.faults)
            return await self._move(replace(record, errors=errors, counts=Counts()), Status.FAILED)
        if token is not None and (most := token.max_enqueued_batch_tokens) is not None:
            problem = await self._read(lambda: token_limit_problem(self._store, self._tenant, record, size or 0, most))
            if problem is not None:
                return await self._move(replace(record, errors=(problem,), counts=Counts()), Status.FAILED)
        if await self._read(lambda: cancel_asked(self._store, self._tenant, self._id)) is not None:
            return await self._move(record, Status.CANCELLING)
        record = await self._move(record, Status.IN_PROGRESS)
        if self._site.metrics is not None:
            self._site.metrics.began(record)
        return record

    async def _without_input(self, record: BatchRecord) -> BatchRecord:
        """End a batch whose input was taken from the store by hand: what has ended is kept."""
        log.error("batch %s: its input is gone from the store", self._id)
        found = await self._read(lambda: tally(self._store, self._tenant, self._id))
        record = replace(record, errors=(_LOST,), counts=Counts(total=len(found.lines)))
        if record.status is not Status.CANCELLING:
            record = await self._move(record, Status.CANCELLING)
        return await self._finalize(record, "batch_cancelled")

    # --- in progress --------------------------------------------------------------------------------------------

    async def _run_lines(
        self, record: BatchRecord, segments: Segments, stop: NotRun | None
    ) -> tuple[BatchRecord, NotRun | None]:
        """Run what is left; returns why the rest was not run, if so."""
        kind = kind_of(record.endpoint)
        if kind is None:
            raise KeyError(record.endpoint)
        told = await self._progress()
        source = partial(stored_lines, self._store, self._tenant, record)
        flow = Flow(self._site, record, kind, segments, source, told, self._trace)
        looked_at = 0.0
        while stop is None and not flow.is_over:
            now = time.monotonic()
            if now - looked_at >= LOOK_SECONDS:
                looked_at = now
                record, stop, flow.token = await self._look(record)
                self.counts, self.reasons = segments.tally.counts(record.counts.total), segments.tally.reasons
                await self._tell(flow)
            if stop is None:
                await flow.step(record.expires_at - time.time())
            if self._was_expired(record) and stop is None:
                stop = "batch_expired"
        if stop == "batch_expired" and flow.is_without_model:
            record = replace(record, errors=(_without_model(record.model),))
        if stop is not None and record.status is not Status.CANCELLING and stop == "batch_cancelled":
            record = await self._move(record, Status.CANCELLING)
        if stop is not None:
            await flow.stop()
            await self._leave_out(record, segments, stop)
        await segments.write()
        with suppress(RedisUnavailable, RedisRefused):
            await segments.acknowledge()
        self.counts = segments.tally.counts(record.counts.total)
        return record, stop

    async def _look(self, record: BatchRecord) -> tuple[BatchRecord, NotRun | None, TokenSettings]:
        """See whether the batch was cancelled or its token revoked."""
        plain = TokenSettings(name=record.token, sha256="0" * 64)
        try:
            asked = await cancel_asked(self._store, self._tenant, self._id)
        except StoreError:
            asked = None
        if asked is not None:
            return record, "batch_cancelled", plain
        token = await self._site.tokens.find(record)
        if token is None:
            return replace(record, errors=(_REVOKED,)), "batch_cancelled", plain
        return record, None, token

    async def _leave_out(self, record: BatchRecord, segments: Segments, code: NotRun) -> None:
        """Write that the lines which have not ended were not run."""
        begun: list[str] = []
        async for line in self._lines_left(record, segments):
            job_id = line_id(record.created_us, line.number, record.id)
            segments.add(not_run(line.number, line.custom_id, job_id, code), None)
            if self._took_over:
                begun.append(job_id)
            if segments.is_due:
                await segments.write()
        for at in range(0, len(begun), _CANCELLED_AT_ONCE):
            with suppress(RedisUnavailable, RedisRefused):
                await self._site.lines.cancel(begun[at : at + _CANCELLED_AT_ONCE])

    async def _lines_left(self, record: BatchRecord, segments: Segments) -> AsyncIterator[CheckedLine]:
        async for line in stored_lines(self._store, self._tenant, record):
            if line.number not in segments.tally.lines:
                yield line

    # --- the end ------------------------------------------------------------------------------------------------

    async def _finalize(self, record: BatchRecord, stop: NotRun | None) -> BatchRecord:
        if not record.files_seed:
            record = await self._save(seeded(record, time.time_ns() // 1000))

        async def create(name: str, parts: AsyncIterator[bytes]) -> str:
            return await self._site.create_file(record, name, parts)

        made = await persist(self._id, self._lease, lambda: join(self._store, self._tenant, self._id, create))
        if len(made.tally.lines) < record.counts.total:
            await asyncio.sleep(1)
            return record  # the step begins anew
        counts, usage = made.tally.counts(record.counts.total), made.tally.usage
        record = replace(
            record,
            counts=counts,
            usage=usage,
            reasons=made.tally.reasons,
            output_file_id=made.output_file_id,
            error_file_id=made.error_file_id,
        )
        self.counts = counts
        ends: dict[NotRun | None, Status] = {"batch_expired": Status.EXPIRED, "batch_cancelled": Status.CANCELLED}
        return await self._move(record, ends.get(stop, Status.COMPLETED))

    async def _close(self, record: BatchRecord) -> None:
        """Have the end told, and let Redis and the store forget what only a running batch needs."""
        await self._read(lambda: self._site.announce(record))
        await self._read(lambda: self._store.delete(keys.open_marker(self._id)))
        if self._site.metrics is not None:
            self._site.metrics.ended(record, time.time())
        with suppress(RedisUnavailable, RedisRefused):
            await self._site.lines.clear(self._id)
        log.info("batch %s: %s, %d of %d completed", self._id, record.status, self.counts.completed, self.counts.total)

    # --- helpers ------------------------------------------------------------------------------------------------

    async def _move(self, record: BatchRecord, status: Status) -> BatchRecord:
        return await self._save(moved(record, status, time.time()))

    async def _save(self, record: BatchRecord) -> BatchRecord:
        await persist(self._id, self._lease, lambda: save(self._store, self._tenant, record))
        self.record = record
        return record

    async def _read(self, read: Callable[[], Awaitable[T]]) -> T:
        """Read from the store as long as it takes."""
        return await persist(self._id, self._lease, read)

    async def _progress(self) -> dict[str, str]:
        try:
            return await self._site.lines.progress(self._id)
        except (RedisUnavailable, RedisRefused):
            return {}

    async def _tell(self, flow: Flow) -> None:
        with suppress(RedisUnavailable, RedisRefused):
            progress = Progress(self.counts, flow.finish_at(self.counts), self.reasons)
            await self._site.lines.say(self._id, progress.fields())
