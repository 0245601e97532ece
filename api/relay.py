"""A job's events, from Redis to the handler that waits for them.

One subscriber connection serves every stream of this process. Pub/sub is only the fast path: events are numbered by
their place in the job's log, so a gap, a reconnect or silence is noticed and mended by reading the log (`peek`), many
jobs in one bounded call. Losing every pub/sub message costs time, never bytes.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence

from shared import events
from shared.errors import AqueductError, JobLost
from shared.redis import RedisRefused, RedisUnavailable
from shared.room import Rooms

log = logging.getLogger("aqueduct.api.relay")

MAX_BUFFERED_BYTES = 1024 * 1024
"""A reader that falls behind by more drops what it holds and reads the log again when it is ready."""
PEEK_BYTES = 4 * 1024 * 1024
PEEK_JOBS = 500
MAX_SILENCE_FACTOR = 4
"""A silent job's log is read after 1, 2, then every 4 silence periods."""


class Relay:
    """The events of one job, in order, once each. Made by `RelayHub.open`, closed by `RelayHub.close`."""

    __slots__ = (
        "_buffer", "_buffered_bytes", "_checks_at", "_cut", "_deadline", "_sink", "_timeout_seconds", "_timer",
        "_waiter", "_wants_log", "admitted", "behind", "check_at", "client_gone", "ended", "id", "may_run",
        "next_number", "opened_at", "replaced", "silence_factor",
    )  # fmt: skip

    def __init__(self, job_id: str, wants_log: asyncio.Event) -> None:
        self.id = job_id
        self.next_number = 0
        self.admitted = False
        """Before admission an unknown job is no reason for alarm."""
        self.behind = False
        """Events were missed or dropped; the log must be read."""
        self.ended = False
        """The last event was handed out."""
        self.opened_at = 0.0
        self.client_gone = False
        self.may_run = False
        """Its job may be waiting or running, so that leaving must cancel it."""
        self.replaced = False
        """A retry of the same request has taken the job over."""
        self.check_at = 0.0
        self.silence_factor = 1
        self._wants_log = wants_log
        self._buffer: deque[bytes] = deque()
        self._buffered_bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = self._checks_at = 0.0
        self._timeout_seconds: float | None = None
        self._sink: Callable[[bytes], bool] | None = None
        self._cut: AqueductError | None = None

    def feed(self, number: int, event: bytes | None) -> None:
        """Take one event; repeats are ignored, a gap marks the relay as behind."""
        if number < self.next_number:
            return
        if number > self.next_number or event is None or self._buffered_bytes > MAX_BUFFERED_BYTES:
            self.behind = True
            return
        self.next_number += 1
        if event[0] == events.CHUNKS and self._pass_on(event):
            return
        self._buffered_bytes += len(event)
        self._buffer.append(event)
        self.wake()

    def pass_on_to(self, sink: Callable[[bytes], bool] | None) -> None:
        """Hand chunks to `sink` as they come, while the reader waits in `next` for anything; it may refuse.

        A chunk then costs a write instead of a task's turn, which costs as much again.
        """
        self._sink = sink

    def _pass_on(self, event: bytes) -> bool:
        # A reader that waits has taken all that came before, so nothing is overtaken.
        waiter = self._waiter
        if self._sink is None or waiter is None or waiter.done() or not self._sink(event[1:]):
            return False
        if self._timeout_seconds is not None:
            self._deadline = asyncio.get_running_loop().time() + self._timeout_seconds
        return True

    def hang_up(self) -> None:
        """Say that the client has closed the connection."""
        self.client_gone = True
        self.wake()

    def cut_off(self, error: AqueductError) -> None:
        """End the reading: `next` raises this once what is ready was read."""
        self._cut = error
        self.wake()

    def wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    @property
    def has_room(self) -> bool:
        return self._buffered_bytes <= MAX_BUFFERED_BYTES

    def wants_log(self, now: float) -> bool:
        """Whether the log should be read for it: it missed something, or has heard nothing for a while."""
        return self.admitted and not self.ended and self.has_room and (self.behind or self.check_at <= now)

    async def next(self, timeout_seconds: float | None) -> Sequence[bytes]:
        """Return every event that is ready, waiting for the first; empty at the time limit or when the client left."""
        if not self._buffer and not self.client_gone and self._cut is None:
            waiter = self._waiter = asyncio.get_running_loop().create_future()
            self._timeout_seconds = timeout_seconds
            if timeout_seconds is not None:
                self._set_deadline(timeout_seconds)
            try:
                await waiter
            finally:
                self._waiter = None
        if self.client_gone:
            return ()
        if self._cut is not None and not self._buffer:
            raise self._cut
        ready = tuple(self._buffer)
        self._buffer.clear()
        self._buffered_bytes = 0
        if self.behind:
            self._wants_log.set()  # there is room again for what was dropped
        if ready and ready[-1][0] in events.ENDINGS:
            self.ended = True
        return ready

    def _set_deadline(self, seconds: float) -> None:
        """Wake a waiting reader after so long; a timer is set for many waits, as one for each chunk would cost more."""
        now = asyncio.get_running_loop().time()
        self._deadline = now + seconds
        if self._timer is not None and self._checks_at > self._deadline:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._arm(now)

    def _arm(self, now: float) -> None:
        # The loop's clock counts whole milliseconds: a shorter delay would only spin.
        self._checks_at = max(self._deadline, now + 0.001)
        self._timer = asyncio.get_running_loop().call_later(self._checks_at - now, self._check_deadline)

    def _check_deadline(self) -> None:
        self._timer = None
        if self._waiter is None:
            return
        now = asyncio.get_running_loop().time()
        if now < self._deadline:
            self._arm(now)
        else:
            self.wake()

    def stop(self) -> None:
        """Read no more."""
        if self._timer is not None:
            self._timer.cancel()


class RelayHub:
    """All relays of an API process, fed by its one subscription."""

    def __init__(self, rooms: Rooms, *, silence_seconds: float, drop_live_events: bool = False) -> None:
        self._rooms = rooms
        self._relays: dict[bytes, Relay] = {}
        self._twins: dict[bytes, list[Relay]] = {}
        """Further relays of the same job: clients that joined it by their Idempotency-Key."""
        self._silence_seconds = silence_seconds
        self._drop_live_events = drop_live_events
        self._behind = asyncio.Event()

    def __len__(self) -> int:
        return len(self._relays)

    def open(self, job_id: str) -> Relay:
        """Listen for a job's events; call before admitting it, so that not even the first can be missed."""
        relay = Relay(job_id, self._behind)
        relay.opened_at = asyncio.get_running_loop().time()
        relay.check_at = relay.opened_at + self._silence_seconds
        self._add(relay)
        return relay

    def join(self, relay: Relay, job_id: str) -> None:
        """Listen to another job that is already under way, from its first event on."""
        self._remove(relay)
        relay.id = job_id
        relay.admitted = relay.behind = True
        self._add(relay)
        self._behind.set()

    def close(self, relay: Relay) -> None:
        """Stop listening."""
        relay.stop()
        self._remove(relay)

    def _remove(self, relay: Relay) -> None:
        key = relay.id.encode()
        twins = self._twins.get(key, [])
        if self._relays.get(key) is relay:
            del self._relays[key]
            if twins:
                self._relays[key] = twins.pop()
        elif relay in twins:
            twins.remove(relay)
        if not twins:
            self._twins.pop(key, None)

    def is_heard(self, job_id: str) -> bool:
        """Whether anybody here listens to the job."""
        return job_id.encode() in self._relays

    def _add(self, relay: Relay) -> None:
        key = relay.id.encode()
        if key in self._relays:
            self._twins.setdefault(key, []).append(relay)
        else:
            self._relays[key] = relay

    def _all(self) -> list[Relay]:
        return [*self._relays.values(), *(relay for twins in self._twins.values() for relay in twins)]

    def cut_off(self, error: AqueductError) -> None:
        """End every reading with this error."""
        for relay in self._all():
            relay.cut_off(error)

    def on_message(self, message: bytes) -> None:
        """Hand the frames of one pub/sub message to their relays."""
        if self._drop_live_events:
            return
        relays = self._relays
        behind = False
        next_check = asyncio.get_running_loop().time() + self._silence_seconds
        for job_id, number, event in events.frames(message):
            relay = relays.get(job_id)
            if relay is not None:
                relay.feed(number, event)
                relay.check_at = next_check
                behind = behind or relay.behind
                for twin in self._twins.get(job_id, ()):
                    twin.feed(number, event)
                    behind = behind or twin.behind
        if behind:
            self._behind.set()

    def on_subscribed(self) -> None:
        """After a (re)connection anything may have been missed."""
        for relay in self._all():
            relay.behind = True
        self._behind.set()

    async def recover_forever(self) -> None:
        """Read the log for relays that are behind, at once, and for silent ones, now and then."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout(self._silence_seconds / 2):
                    await self._behind.wait()
            except TimeoutError:
                pass
            self._behind.clear()
            now = loop.time()
            due = [relay for relay in self._all() if relay.wants_log(now)]
            try:
                while due:
                    due = due[await self._recover(due[:PEEK_JOBS]) :]
            except (RedisUnavailable, RedisRefused):
                await asyncio.sleep(self._silence_seconds / 4)
                self._behind.set()

    async def _recover(self, relays: list[Relay]) -> int:
        """Read the log of these relays; returns how many of them the budget allowed (at least one)."""
        # Live events may come while Redis is asked; its answer begins where the question did.
        asked = [relay.next_number for relay in relays]
        answers = await self._rooms.peek([(r.id, number) for r, number in zip(relays, asked, strict=True)], PEEK_BYTES)
        now = asyncio.get_running_loop().time()
        for relay, number, (state, *missed) in zip(relays, asked, answers, strict=False):
            relay.behind = False
            before = relay.next_number
            for offset, event in enumerate(missed):
                relay.feed(number + offset, event)
            if relay.next_number > before:
                relay.silence_factor = 1
            else:
                relay.silence_factor = min(relay.silence_factor * 2, MAX_SILENCE_FACTOR)
            relay.check_at = now + self._silence_seconds * relay.silence_factor
            if state == b"u" and not missed:
                log.warning("job record lost", extra={"request_id": "req_" + relay.id})
                relay.feed(relay.next_number, events.failed(JobLost("The queue lost this request's record. Retry.")))
        return max(1, len(answers))
