"""What running jobs say, on its way to Redis: many jobs' events in one script call, kept until acknowledged.

One call is under way at a time; what becomes ready meanwhile leaves together with the next, and a busy worker waits a
little for more (`gathering`). So nothing waits while few jobs speak, and many make few round trips. A call carries so
many jobs at most: what somebody waits for, first words and ends, goes before the chunks of all others, and while more
than a call's worth is ready a second call is on the way, so that worker, Redis and API work at the same time instead of
in turn. A job is in one call at a time. Events carry their number, so a call that timed out is simply sent again: the
script stores only what is new.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from shared import events
from shared.background import Background
from shared.jobs import End, TakenJob, request_id
from shared.redis import Argument, RedisRefused, RedisUnavailable
from shared.room.leases import REFUSALS, STORED, STORED_OTHERS_WAIT, Leases, Why
from workers.gathering import Gathering
from workers.tuning import MAX_CALL_JOBS, MAX_CALLS

log = logging.getLogger("aqueduct.worker.outbox")

MAX_UNACKNOWLEDGED_BYTES = 1024 * 1024
"""While Redis is away a job buffers this much, then stops reading from its backend."""
MAX_CHUNKS_BYTES = 32 * 1024
"""Chunks that become one event; larger events do not travel live."""
MAX_CALL_BYTES = 1024 * 1024
"""One script call stays short: it blocks Redis for everybody."""
REFUSALS_TO_SPLIT = 3
"""After so many refusals of whole calls jobs go out one by one: one of them may be what Redis cannot take."""
REFUSALS_TO_END = 8
"""A job refused so often by itself is given up; longer than any start of Redis that still refuses."""


class Part(NamedTuple):
    """What one call carries of one job."""

    output: JobOutput
    arguments: list[Argument]
    events: int
    size: int
    is_end: bool


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
        "refusals",
        "refused",
        "total_bytes",
    )

    def __init__(self, outbox: Outbox, job: TakenJob, on_refused: Callable[[Why], None]) -> None:
        self.outbox = outbox
        self.job = job
        self.on_refused = on_refused
        self.others_wait = False
        """Said with the end: jobs of the same model wait."""
        self.refused: Why | None = None
        """Why Redis takes no more of this job."""
        self.refusals = 0
        """How often a call for this job alone was refused, one after another."""
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

    @property
    def is_urgent(self) -> bool:
        """Whether somebody waits for just this: its first words, or its end."""
        return self._acknowledged == 0 or self.end is not None

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
        return self._unacknowledged_bytes > MAX_UNACKNOWLEDGED_BYTES and self.refused is None

    async def drained(self) -> None:
        """Wait while it is full."""
        while self.is_full:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained

    def part(self) -> Part:
        """Return what `append` is told of this job now; not all if there is much."""
        self._seal()
        taken: list[bytes] = []
        size = 0
        for event in self._events:
            if taken and size + len(event) > MAX_CALL_BYTES:
                break
            taken.append(event)
            size += len(event)
        is_end = self.end is not None and len(taken) == len(self._events)
        ending = self.end.to_json() if self.end is not None and is_end else b""
        job, count = self.job, len(taken)
        # An `AppendRow`, laid out in one go: this is done for each chunk.
        return Part(self, [job.id, job.attempt, self._acknowledged, ending, count, *taken], count, size, is_end)

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

    def refuse(self, why: Why) -> None:
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
    """Sends what jobs have put, in batches: one call at a time, two in a crowd."""

    def __init__(self, leases: Leases, background: Background) -> None:
        self._leases = leases
        self._background = background
        self._urgent: dict[JobOutput, None] = {}
        self._ready: dict[JobOutput, None] = {}
        """What is to be sent, in order; what is urgent goes first."""
        self._under_way: set[JobOutput] = set()
        """In a call that Redis has not answered."""
        self._senders = 0
        self._gathering = Gathering()
        self._refusals = 0
        """Of whole calls, one after another."""

    def open(self, job: TakenJob, on_refused: Callable[[Why], None]) -> JobOutput:
        """Return the output of a job that was just taken."""
        return JobOutput(self, job, on_refused)

    @property
    def is_busy(self) -> bool:
        """Whether anything is on its way."""
        return self._senders > 0

    def notify(self, output: JobOutput) -> None:
        """Send this job's events with the next call."""
        if output in self._under_way:
            return  # the answer to that call finds that there are more
        if not output.is_urgent:
            self._ready[output] = None
        elif output not in self._urgent:
            self._ready.pop(output, None)
            self._urgent[output] = None
            self._gathering.urge()
        if not self._senders:
            self._begin()
        elif len(self._ready) == MAX_CALL_JOBS:
            self._gathering.fill()

    def _begin(self) -> None:
        self._senders += 1
        # Its failing would keep every job's end from Redis for ever, so it is supervised.
        self._background.essential(self._send(), "outbox")

    @property
    def _is_crowded(self) -> bool:
        """Whether more is ready than a call carries."""
        return len(self._urgent) + len(self._ready) >= MAX_CALL_JOBS

    async def _send(self) -> None:
        try:
            await self._send_all()
        finally:
            self._senders -= 1  # in the same step as the last look, so that nothing becomes ready unseen

    async def _send_all(self) -> None:
        delay = 0.05
        while parts := self._parts():
            self._under_way.update(part.output for part in parts)
            if self._is_crowded and self._senders < MAX_CALLS and not self._refusals:
                self._begin()
            self._gathering.began(len(parts))
            try:
                verdicts = await self._leases.append([x for part in parts for x in part.arguments])
            except (RedisUnavailable, RedisRefused) as error:
                self._under_way.difference_update(part.output for part in parts)
                self._send_again(parts, error)
                await asyncio.sleep(delay)
                delay = min(delay * 2, 1.0)
                continue
            delay, self._refusals = 0.05, 0
            self._under_way.difference_update(part.output for part in parts)
            for part, verdict in zip(parts, verdicts, strict=True):
                self._told(part, verdict)
            if not self._is_crowded:
                if self._senders > 1:
                    return  # the other one goes on
                await self._gathering.pause()

    def _send_again(self, parts: list[Part], error: RedisUnavailable | RedisRefused) -> None:
        """Keep what was unknown or refused as a whole: the same numbers go out again, the script knows repeats."""
        if isinstance(error, RedisRefused):
            log.warning("events not stored, trying again: %s", error.kind)
            self._refusals += 1
            if len(parts) == 1 and error.kind == "ERR":
                parts[0].output.refusals += 1
                if parts[0].output.refusals >= REFUSALS_TO_END:
                    self._refuse(parts[0].output, Why.BROKEN)
        # Ends first: they free memory, which lets a full Redis take the rest.
        for output in sorted((part.output for part in parts), key=lambda output: output.end is None):
            if output.refused is None:
                (self._urgent if output.is_urgent else self._ready)[output] = None

    def _told(self, part: Part, verdict: int) -> None:
        output = part.output
        if output.refused is not None:
            return
        if verdict in (STORED, STORED_OTHERS_WAIT):
            output.refusals = 0
            output.others_wait = verdict == STORED_OTHERS_WAIT
            output.acknowledge(part.events, part.is_end)
        else:
            self._refuse(output, REFUSALS.get(verdict, Why.BROKEN))

    @staticmethod
    def _refuse(output: JobOutput, why: Why) -> None:
        if why not in (Why.CANCELLED, Why.OPERATOR):
            log.warning("events refused: %s", why, extra={"request_id": request_id(output.job.id)})
        output.refuse(why)

    def _parts(self) -> list[Part]:
        """Take what the next call carries; nothing where nothing is ready."""
        parts: list[Part] = []
        total = 0
        limit = 1 if self._refusals >= REFUSALS_TO_SPLIT else MAX_CALL_JOBS
        while (ready := self._urgent or self._ready) and total < MAX_CALL_BYTES and len(parts) < limit:
            output = next(iter(ready))
            del ready[output]
            if output.refused is not None:
                continue
            part = output.part()
            total += part.size
            parts.append(part)
        return parts
