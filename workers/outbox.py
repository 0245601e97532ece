"""What running jobs say, on its way to Redis: many jobs' events in one script call, kept until acknowledged.

One call is under way at a time; what becomes ready meanwhile leaves together with the next, and a busy worker waits a
little for more. So nothing waits while few jobs speak, and many make few round trips. Events carry their number, so
a call that timed out is simply sent again: the script stores only what is new.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from shared import events
from shared.jobs import End, TakenJob, request_id
from shared.redis import Argument, RedisRefused, RedisUnavailable
from shared.room import Rooms

log = logging.getLogger("aqueduct.worker.outbox")

MAX_UNACKNOWLEDGED_BYTES = 1024 * 1024
"""While Redis is away a job buffers this much, then stops reading from its backend."""
MAX_CHUNKS_BYTES = 32 * 1024
"""Chunks that become one event; larger events do not travel live."""
MAX_CALL_BYTES = 4 * 1024 * 1024
"""One script call stays short: it blocks Redis for everybody."""

GATHER_JOBS = 8
GATHER_SECONDS = 0.003
"""After a call for so many jobs the next one waits so long: each event costs Redis, the API and the client's socket a
step of its own, and chunks of a stream that leave together are one event."""

STORED, STORED_OTHERS_WAIT, GAP, STALE, CANCELLED, UNKNOWN = b"owgscu"


class JobOutput:
    """One job's events. `put` never blocks; `drained` waits while too much is unacknowledged."""

    __slots__ = (
        "_acknowledged",
        "_chunk_bytes",
        "_chunks",
        "_drained",
        "_events",
        "_unacknowledged_bytes",
        "end",
        "ended",
        "job",
        "on_refused",
        "others_wait",
        "outbox",
        "refused",
        "total_bytes",
    )

    def __init__(self, outbox: Outbox, job: TakenJob, on_refused: Callable[[str], None]) -> None:
        self.outbox = outbox
        self.job = job
        self.on_refused = on_refused
        self.others_wait = False
        """Said with the end: jobs of the same model wait."""
        self.refused = ""
        """Why Redis takes no more of this job: gap, stale, cancelled or unknown."""
        self.end: End | None = None
        """Set with the last event, which ends the job."""
        self.ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        """Done when the last event is stored (True) or refused (False)."""
        self.total_bytes = 0
        self._events: deque[bytes] = deque()
        self._chunks: list[bytes] = []
        """Put since the last event; they become one."""
        self._chunk_bytes = 0
        self._acknowledged = 0
        self._unacknowledged_bytes = 0
        self._drained: asyncio.Future[None] | None = None

    @property
    def has_published(self) -> bool:
        """Whether anything was handed over, so that the job may not run again."""
        return self.total_bytes > 0

    def put(self, *new: bytes) -> None:
        """Hand over events."""
        self._seal()
        for event in new:
            self._events.append(event)
            size = len(event)
            self.total_bytes += size
            self._unacknowledged_bytes += size
        self.outbox.notify(self)

    def put_chunks(self, data: bytes) -> None:
        """Hand over whole SSE events; those that leave together become one event of the log."""
        self._chunks.append(data)
        self.total_bytes += len(data)
        self._chunk_bytes += len(data)
        if self._chunk_bytes > MAX_CHUNKS_BYTES:
            self._seal()
        self.outbox.notify(self)

    def _seal(self) -> None:
        """Make one event of the chunks that were put one after another."""
        if self._chunks:
            event = events.chunks(b"".join(self._chunks))
            self._events.append(event)
            self._unacknowledged_bytes += len(event)
            self._chunks.clear()
            self._chunk_bytes = 0

    def finish(self, *last: bytes, end: End) -> asyncio.Future[bool]:
        """Hand over the last events; the future tells whether the end was stored."""
        self.end = end
        self.put(*last)
        return self.ended

    @property
    def is_full(self) -> bool:
        """Whether more than 1 MB is unacknowledged."""
        return self._unacknowledged_bytes > MAX_UNACKNOWLEDGED_BYTES and not self.refused

    async def drained(self) -> None:
        """Wait while it is full."""
        while self.is_full:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained

    def part(self) -> tuple[list[Argument], int, int]:
        """Return the arguments for `append.lua`, how many events and bytes they hold; not all if they are many."""
        self._seal()
        taken: list[bytes] = []
        size = 0
        for event in self._events:
            if taken and size + len(event) > MAX_CALL_BYTES:
                break
            taken.append(event)
            size += len(event)
        last = f"{self.end.cost:.0f}" if self.end is not None and len(taken) == len(self._events) else ""
        job = self.job
        return [job.id, job.attempt, self._acknowledged, last, len(taken), *taken], len(taken), size

    def acknowledge(self, count: int, is_end: bool) -> None:
        """Forget events that Redis has stored."""
        for _ in range(count):
            self._unacknowledged_bytes -= len(self._events.popleft())
        self._acknowledged += count
        self._let_on()
        if is_end and not self.ended.done():
            self.ended.set_result(True)
        elif self._events or self._chunks:
            self.outbox.notify(self)

    def refuse(self, why: str) -> None:
        """Take note that Redis wants no more of this job."""
        self.refused = why
        self._events.clear()
        self._chunks.clear()
        self._chunk_bytes = self._unacknowledged_bytes = 0
        self._let_on()
        if not self.ended.done():
            self.ended.set_result(False)
        self.on_refused(why)

    def _let_on(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)


class Outbox:
    """Sends what jobs have put, in batches, one call at a time."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._ready: dict[JobOutput, None] = {}
        self._sender: asyncio.Task[None] | None = None

    def open(self, job: TakenJob, on_refused: Callable[[str], None]) -> JobOutput:
        """Return the output of a job that was just taken."""
        return JobOutput(self, job, on_refused)

    def notify(self, output: JobOutput) -> None:
        """Send this job's events with the next call."""
        self._ready[output] = None
        if self._sender is None or self._sender.done():
            self._sender = asyncio.ensure_future(self._send())

    async def _send(self) -> None:
        delay = 0.05
        while self._ready:
            batch = self._batch()
            try:
                verdicts = await self._rooms.append([x for _, part, _, _ in batch for x in part])
            except (RedisUnavailable, RedisRefused) as error:
                # Unknown or refused as a whole: the same numbers go out again, the script knows repeats.
                if isinstance(error, RedisRefused):
                    log.warning("events not stored, trying again: %s", error.kind)
                # Ends first: they free memory, which lets a full Redis take the rest.
                for output in sorted((b[0] for b in batch), key=lambda o: o.end is None):
                    if not output.refused:
                        self._ready[output] = None
                await asyncio.sleep(delay)
                delay = min(delay * 2, 1.0)
                continue
            delay = 0.05
            for (output, _, count, is_end), verdict in zip(batch, verdicts, strict=True):
                if output.refused:
                    continue
                if verdict in (STORED, STORED_OTHERS_WAIT):
                    output.others_wait = verdict == STORED_OTHERS_WAIT
                    output.acknowledge(count, is_end)
                else:
                    why = {GAP: "gap", STALE: "stale", CANCELLED: "cancelled"}.get(verdict, "unknown")
                    if why != "cancelled":
                        log.warning("events refused: %s", why, extra={"request_id": request_id(output.job.id)})
                    output.refuse(why)
            if len(batch) >= GATHER_JOBS:
                await asyncio.sleep(GATHER_SECONDS)

    def _batch(self) -> list[tuple[JobOutput, list[Argument], int, bool]]:
        batch = []
        total = 0
        while self._ready and total < MAX_CALL_BYTES:
            output = next(iter(self._ready))
            del self._ready[output]
            if output.refused:
                continue
            part, count, size = output.part()
            total += size
            batch.append((output, part, count, part[3] != ""))
        return batch

    async def flushed(self) -> None:
        """Wait until everything that was put is stored or refused."""
        while self._sender is not None and not self._sender.done():
            await asyncio.wait({self._sender})
