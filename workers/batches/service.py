"""The batches that this process carries: how it hears of them, how many, and what Flower shows."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import orjson

from shared.background import Background
from shared.batches import keys
from shared.batches.record import BatchRecord, Status
from shared.batches.record import Counts as Done
from shared.catalogue import Catalogue
from shared.files import Files, tenant_folder
from shared.metrics.counts import Counts
from shared.redis import RedisClient, RedisRefused, RedisUnavailable
from shared.redis.bulk import Bulk
from shared.room.lease import LEASE_MS, Lease, LeaseLost
from shared.room.lines import Lines
from shared.room.scripts import ALL
from shared.scripting import Scripts
from shared.store import Store, StoreError, open_store
from workers.batches.feeder import Feeder, Site
from workers.batches.metrics import BatchMetrics
from workers.batches.notifier import Notifier
from workers.batches.tokens import Tokens
from workers.batches.traces import BatchTrace
from workers.job_events import JobEvents

if TYPE_CHECKING:
    from shared.tracing.sdk import Tracing

log = logging.getLogger("aqueduct.worker.batches")

MAX_FEEDERS: Final = 8
SCAN_SECONDS: Final = 30.0
"""Between two looks for batches that nobody carries; jittered."""
SHOW_SECONDS: Final = 3.0
"""Between two words to Flower about a batch."""


class BatchService:
    """All feeders of one process. Made and used on one event loop, `ring` apart."""

    def __init__(
        self,
        catalogue: Catalogue,
        name: str,
        url: str,
        *,
        hostname: str,
        clock: Callable[[], int],
        counts: Counts | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        """Take the file store's URL, a name that no other process has, what job events need, what counts and traces."""
        self._catalogue = catalogue
        settings = catalogue.settings
        self._url = url
        self._counts = counts
        self._tracing = tracing
        self._metrics = BatchMetrics(counts, catalogue) if counts is not None else None
        self._feeders: dict[str, Feeder] = {}
        """Of the batches that are carried."""
        self._open_batches: int | None = None
        """As the last look into the store has shown."""
        self._loop = asyncio.get_running_loop()
        self._background = Background()
        self._client = RedisClient(settings.redis, "batches")
        self._bulk = Bulk(settings.redis, "batch-bodies")
        self._lines = Lines(self._client, self._bulk, catalogue, name)
        self._job_events = JobEvents(self._client, settings, hostname, clock)
        self._carried: dict[str, asyncio.Task[None]] = {}
        self._watched: set[str] = set()
        """Batches that other processes carry."""
        self._is_full = False
        """Batches were left to others, or for later."""
        self._ends: dict[str, int | None] = {}
        """When the windows end of batches that are open and not carried here."""
        self._closing = False
        self._store: Store
        self._site: Site
        self._notifier: Notifier

    async def open(self) -> None:
        """Connect, and look for work. Raises RedisUnavailable or StoreError."""
        await self._client.open()
        await Scripts(self._client).load(*ALL)
        self._store = open_store(self._url)
        tokens = Tokens(self._client, self._catalogue)
        self._notifier = Notifier(self._store, self._lines, self._catalogue, self._background)
        self._site = Site(
            self._catalogue,
            self._store,
            self._lines,
            tokens,
            self._create_file,
            self._notifier.announce,
            self._metrics,
            partial(BatchTrace, self._tracing) if self._tracing is not None else None,
        )
        if self._counts is not None and self._metrics is not None:
            metrics = self._metrics
            self._counts.before_telling.append(lambda: metrics.standing(self._stand(), self._open_batches))
        self._background.forever(self._scan_forever(), "scan for batches")
        self._background.forever(self._job_events.run_forever(), "job events of batches")

    def _stand(self) -> list[tuple[BatchRecord, Done]]:
        return [(one.record, one.counts) for one in self._feeders.values() if one.record is not None]

    def ring(self, batch_id: str) -> None:
        """Carry a batch: its ticket came. Safe to call from another thread."""
        self._loop.call_soon_threadsafe(self._heard, batch_id)

    def _heard(self, batch_id: str) -> None:
        if keys.BATCH_ID.fullmatch(batch_id):
            self._background.step(self._offer(batch_id), "offer of a batch")

    async def _scan_forever(self) -> None:
        while True:
            await self._scan()
            await asyncio.sleep(SCAN_SECONDS * random.uniform(0.7, 1.3))

    async def _scan(self) -> None:
        self._is_full = False
        try:
            found = [key.removeprefix(keys.OPEN) for key in await self._store.list(keys.OPEN)]
            self._open_batches = len(found)
            for batch_id in await self._in_order([one for one in found if one not in self._carried]):
                await self._offer(batch_id)
        except StoreError as error:
            log.warning("no batches looked for: %s", error)

    async def _in_order(self, batch_ids: list[str]) -> list[str]:
        """Return batches in the order in which they are taken: where not all can be, whose window ends first."""
        if len(batch_ids) <= MAX_FEEDERS - len(self._carried):
            return batch_ids
        ends = {batch_id: self._ends.get(batch_id) for batch_id in batch_ids}
        for batch_id, end in ends.items():
            if end is None:
                ends[batch_id] = _end_of(await self._store.get(keys.open_marker(batch_id)))
        self._ends = ends
        return sorted(batch_ids, key=lambda batch_id: ends[batch_id] or 0)

    async def _offer(self, batch_id: str) -> None:
        """Carry a batch unless it is carried, here or elsewhere."""
        if batch_id in self._carried or self._closing:
            return
        if len(self._carried) >= MAX_FEEDERS:
            self._is_full = True
            return
        try:
            marker = await self._store.get(keys.open_marker(batch_id))
            if marker is None:
                return
            tenant = orjson.loads(marker)["tenant"]
            asked_at = self._loop.time()
            if not await self._lines.hold(batch_id):
                self._look_again(batch_id)
                return
            if batch_id in self._carried:
                return
        except (StoreError, RedisUnavailable, RedisRefused, ValueError, KeyError, TypeError) as error:
            log.warning("batch %s not taken: %s", batch_id, type(error).__name__)
            return
        lease = Lease(partial(self._lines.hold, batch_id), asked_at)
        feeder = Feeder(self._site, tenant, batch_id, lease)
        self._carried[batch_id] = self._background.step(self._carry(feeder, batch_id, lease), f"batch {batch_id}")

    def _look_again(self, batch_id: str) -> None:
        """See once its lease could be over whether another process still carries a batch."""
        if batch_id not in self._watched:
            self._watched.add(batch_id)
            self._loop.call_later(LEASE_MS / 1000 + 1, self._watch, batch_id)

    def _watch(self, batch_id: str) -> None:
        self._watched.discard(batch_id)
        if not self._closing:
            self._heard(batch_id)

    async def _carry(self, feeder: Feeder, batch_id: str, lease: Lease) -> None:
        self._feeders[batch_id] = feeder
        renewals = self._background.step(lease.renew_forever(), "renewals of a batch")
        shows = self._background.step(self._show_forever(feeder, batch_id), "progress of a batch")
        try:
            await feeder.run()
            self._show("task-succeeded", feeder, batch_id)
        except LeaseLost:
            log.warning("batch %s is carried by another process", batch_id)
        except Exception:
            # Not for ever in a circle: the next scan tries again.
            log.exception("batch %s: its feeder failed; it is tried again", batch_id)
        finally:
            renewals.cancel()
            shows.cancel()
            del self._carried[batch_id], self._feeders[batch_id]
            with suppress(RedisUnavailable, RedisRefused):
                await self._lines.let_go(batch_id)
            if self._is_full and not self._closing:
                self._background.step(self._scan(), "scan for batches")

    async def _create_file(self, record: BatchRecord, name: str, parts: AsyncIterator[bytes]) -> str:
        made = await Files(self._store).create(
            tenant_folder(record.token),
            name,
            "batch_output",
            parts,
            expires_seconds=record.output_expires_seconds,
            file_id=record.file_id(name),
            created_us=record.files_us,
        )
        return made.id

    async def _show_forever(self, feeder: Feeder, batch_id: str) -> None:
        self._show("task-received", feeder, batch_id)
        while True:
            self._show("task-started", feeder, batch_id)
            await asyncio.sleep(SHOW_SECONDS)

    def _show(self, kind: str, feeder: Feeder, batch_id: str) -> None:
        counts, record = feeder.counts, feeder.record
        told = f"{counts.completed} completed, {counts.failed} failed of {counts.total}"
        more: dict[str, Any] = {}
        if kind == "task-succeeded":
            status = record.status if record else Status.FAILED
            more = {"result": f"{status}: {told}", "runtime": time.time() - feeder.began_at}
        self._job_events.batch(kind, batch_id, told, feeder.began_at, **more)

    async def close(self) -> None:
        """Let every batch go to another process, and close the connections."""
        self._closing = True
        carried = dict(self._carried)
        for task in carried.values():
            task.cancel()
        await asyncio.gather(*carried.values(), return_exceptions=True)
        for batch_id in carried:
            with suppress(RedisUnavailable, RedisRefused):
                await self._lines.let_go(batch_id)
                await self._lines.ring(batch_id)
        await self._job_events.flush()
        await self._background.close()
        self._notifier.close()
        await self._bulk.close()
        await self._client.close()


def _end_of(marker: bytes | None) -> int:
    """Return when a batch's window ends; 0 where an older release made it, or it is gone."""
    try:
        return int(orjson.loads(marker or b"{}")["expires_at"])
    except (ValueError, KeyError, TypeError):
        return 0
