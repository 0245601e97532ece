"""Results on their way to the store: gathered, written as a numbered segment, then acknowledged in Redis."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeVar

from shared.batches import keys
from shared.batches.results import Result, Tally
from shared.room.lease import Lease
from shared.room.lines import Lines
from shared.store import StoreError
from workers.batches.metrics import LineEnd

if TYPE_CHECKING:
    from shared.store import Store

log = logging.getLogger("aqueduct.worker.batches")

SEGMENT_BYTES: Final = 1024 * 1024
SEGMENT_SECONDS: Final = 1.0
MAX_RESULTS: Final = 2000
AGAIN_SECONDS: Final = 2.0

T = TypeVar("T")


async def persist(batch_id: str, lease: Lease, write: Callable[[], Awaitable[T]]) -> T:
    """Write to the store, however long it is away or full, as long as the batch is ours; raises LeaseLost."""
    told = False
    while True:
        await lease.certain()
        try:
            result = await write()
        except StoreError as error:
            if not told:
                log.error("batch %s pauses, the store takes nothing: %s", batch_id, error)
                told = True
            await asyncio.sleep(AGAIN_SECONDS)
            continue
        if told:
            log.warning("batch %s goes on", batch_id)
        return result


class Segments:
    """Writes one batch's results and counts them."""

    def __init__(self, store: Store, lines: Lines, tenant: str, batch_id: str, lease: Lease, tally: Tally) -> None:
        self._store = store
        self._lines = lines
        self._tenant = tenant
        self._batch_id = batch_id
        self._lease = lease
        self._loop = asyncio.get_running_loop()
        self._parts: list[bytes] = []
        self._bytes = 0
        self._began_at = 0.0
        self._written = len(tally.lines)
        self._writer = secrets.token_hex(4)
        self.tally = tally
        self.on_written: Callable[[list[LineEnd]], None] | None = None
        """Called with the ends of lines that are safely in the store."""
        self._ends: list[LineEnd] = []
        self.unacknowledged: dict[str, None] = {}
        """Job ids of which Redis still holds a result that is here, or is not wanted."""

    def add(self, result: Result, job_id: str | None) -> None:
        """Take a line's end; `job_id` where the sink told of it."""
        if self.tally.add(result):
            if not self._parts:
                self._began_at = self._loop.time()
            line = result.to_line()
            self._parts.append(line)
            self._bytes += len(line)
            if self.on_written is not None:
                self._ends.append(LineEnd(result.ok, result.usage))
        if job_id is not None:
            self.unacknowledged[job_id] = None

    @property
    def is_due(self) -> bool:
        """Whether there is enough, or it has waited long enough."""
        if not self._parts:
            return len(self.unacknowledged) >= MAX_RESULTS
        is_full = self._bytes >= SEGMENT_BYTES or len(self.unacknowledged) >= MAX_RESULTS
        return is_full or self._loop.time() - self._began_at >= SEGMENT_SECONDS

    async def write(self) -> None:
        """Write what there is; raises LeaseLost."""
        if not self._parts:
            return
        data, count = b"".join(self._parts), len(self._parts)
        ends, self._ends = self._ends, []
        self._parts, self._bytes = [], 0
        number = self.tally.next_segment
        key = keys.segment(self._tenant, self._batch_id, number, before=self._written, count=count, writer=self._writer)
        await persist(self._batch_id, self._lease, lambda: self._store.put(key, data))
        self._written += count
        if self.on_written is not None:
            self.on_written(ends)
        self.tally.next_segment += 1

    async def acknowledge(self) -> None:
        """Tell Redis of what was written. Raises RedisUnavailable or RedisRefused."""
        ids = list(self.unacknowledged)
        if ids:
            await self._lines.acknowledge(self._batch_id, ids)
            for job_id in ids:
                del self.unacknowledged[job_id]
