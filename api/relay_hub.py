"""All relays of an API process, fed by its one subscription.

Pub/sub is only the fast path: events are numbered by their place in the job's log, so a gap, a reconnect or silence is
noticed and mended by reading the log (`peek`), many jobs in one bounded call. Losing every pub/sub message costs time,
never bytes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from api.relay import Relay, State
from shared import events
from shared.errors import AqueductError
from shared.metrics.counts import Counts
from shared.metrics.names import RELAY_GAPS
from shared.redis import RedisRefused, RedisUnavailable
from shared.room.admission import Admissions

log = logging.getLogger("aqueduct.api.relay")

PEEK_BYTES = 1024 * 1024
"""More in one reply would hold up the small ones behind it."""
PEEK_JOBS = 500
_BEHIND = State.BEHIND
"""Looked at with each chunk, and an enum's member takes longer to find."""


class RelayHub:
    """The relays by job; nearly always one a job, more where clients have joined it."""

    def __init__(self, admissions: Admissions, *, silence_seconds: float, drop_live_events: bool = False) -> None:
        self._admissions = admissions
        self._relays: dict[bytes, tuple[Relay, ...]] = {}
        self._silence_seconds = silence_seconds
        self._drop_live_events = drop_live_events
        self._behind = asyncio.Event()
        self._cut: Callable[[], AqueductError] | None = None
        self.counts: Counts | None = None
        """Where readings of what was missed are counted."""

    def __len__(self) -> int:
        return len(self._relays)

    def open(self, job_id: str) -> Relay:
        """Listen for a job's events; call before admitting it, so that not even the first can be missed."""
        relay = Relay(job_id, self._behind)
        relay.check_at = asyncio.get_running_loop().time() + self._silence_seconds
        self._add(relay)
        if self._cut is not None:
            relay.cut_off(self._cut())
        return relay

    def join(self, relay: Relay, job_id: str) -> None:
        """Listen to another job that is already under way, from its first event on."""
        self._remove(relay)
        relay.id = job_id
        relay.asked()
        relay.accepted()
        relay.fall_behind()
        self._add(relay)
        self._behind.set()

    def close(self, relay: Relay) -> None:
        """Stop listening."""
        relay.stop()
        self._remove(relay)

    def is_heard(self, job_id: str) -> bool:
        """Whether anybody here listens to the job."""
        return job_id.encode() in self._relays

    def _add(self, relay: Relay) -> None:
        key = relay.id.encode()
        self._relays[key] = (*self._relays.get(key, ()), relay)

    def _remove(self, relay: Relay) -> None:
        key = relay.id.encode()
        left = tuple(other for other in self._relays.get(key, ()) if other is not relay)
        if left:
            self._relays[key] = left
        else:
            self._relays.pop(key, None)

    def _all(self) -> list[Relay]:
        return [relay for relays in self._relays.values() for relay in relays]

    def cut_off(self, make_error: Callable[[], AqueductError]) -> None:
        """End every reading with an error, those that begin from now on too."""
        self._cut = make_error
        for relay in self._all():
            relay.cut_off(make_error())  # each its own: a raised error collects the places it passed

    def on_message(self, message: bytes) -> None:
        """Hand the frames of one pub/sub message to their relays."""
        if self._drop_live_events:
            return
        relays = self._relays
        next_check = asyncio.get_running_loop().time() + self._silence_seconds
        is_behind = False
        for job_id, nonce, number, event in events.frames(message):
            for relay in relays.get(job_id, ()):
                relay.feed(nonce, number, event)
                relay.check_at = next_check
                if relay.state is _BEHIND:
                    is_behind = is_behind or relay.wants_log(0)
        if is_behind:
            self._behind.set()

    def on_subscribed(self) -> None:
        """After a (re)connection anything may have been missed."""
        for relay in self._all():
            relay.fall_behind()
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
        if self.counts is not None and (behind := sum(relay.state is _BEHIND for relay in relays)):
            self.counts.add(RELAY_GAPS, number=behind)
        asked = [relay.question() for relay in relays]
        answers = await self._admissions.peek([(one.relay.id, one.number) for one in asked], PEEK_BYTES)
        now = asyncio.get_running_loop().time()
        for one, missed in zip(asked, answers, strict=False):
            if not missed.state and not missed.events:
                log.warning("job record lost", extra={"request_id": "req_" + one.relay.id})
            one.relay.take_missed(one, missed)
            one.relay.check_at = now + self._silence_seconds * one.relay.silence_factor
            if one.relay.wants_log(0):
                self._behind.set()
        return max(1, len(answers))
