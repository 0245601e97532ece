"""Where this process's waiting requests stand: asked of Redis for all of a model together, told to their clients.

A request that no free slot takes at once is a `Waiting` while its answer lasts. Each model is asked for at most once a
second, in one call, whatever waits; whom a call leaves out is asked for by the next. What a client is told between two
calls is what is left of the last estimate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Final

from api.pace import Experience, Pace, size_of
from shared.holds import Hold
from shared.redis import RedisRefused, RedisUnavailable
from shared.room.admission import Admission, Admissions, Line

TELL_SECONDS: Final = 0.8
"""A stream that waits is told where it stands after so long: within a second."""
END_SECONDS: Final = 0.5
"""So long before its longest wait a request is told nothing more, so that its refusal has its status."""
UNSURE_SECONDS: Final = 0.2
"""Whose turn must have come since the last answer is looked at again so soon."""
ASK_SECONDS: Final = 1.0
GATHER_SECONDS: Final = 0.03
"""A first call waits so long for others, and for slots that are being taken."""
MOST_ASKED: Final = 1000
"""Jobs in one call: a thousand cost Redis about a millisecond, in which it does nothing else."""

TellHeaders = Callable[[Iterable[tuple[bytes, bytes]]], None]
"""Takes headers of an answer that may not have begun."""


class Waiting:
    """A request of this process that waits, and what is known of its turn."""

    __slots__ = (
        "_ends_at", "_is_told", "_said", "_tell", "before", "expected_at", "held", "id", "lane", "model", "since",
        "tenant", "to_ask", "waits",
    )  # fmt: skip

    def __init__(self, job: Admission, before: int, since: float, ends_at: float, tell: TellHeaders) -> None:
        self.id = job.id
        self.model = job.model
        self.lane = job.lane
        self.tenant = job.token.name
        self.since = since
        self._ends_at = ends_at
        self.before = before
        """Jobs that go before it."""
        self.expected_at: float | None = None
        """When its turn is to come; None: nothing is known yet."""
        self.held = ""
        """What holds the whole model; empty where it moves."""
        self.waits = True
        """Whether it waited when it was last asked for."""
        self.to_ask: Callable[[], None] | None = None
        """Has it asked for again though it runs: it may come back, where no backend is there."""
        self._tell = tell
        self._is_told = False
        self._said: list[tuple[float, int, float]] = []

    def is_unsure(self, now: float) -> bool:
        """Whether its turn may have come since it was last asked for, or its wait is about to end in a refusal."""
        expected = float("inf") if self.held else self.expected_at
        return self.waits and (expected is None or expected <= now or self._ends_at <= now + END_SECONDS)

    def look_again(self) -> bool:
        """Have it asked for again if it runs, as far as anybody knows, and may wait again."""
        if self.waits or self.to_ask is None:
            return False
        self.to_ask()
        return True

    def comment(self, now: float) -> bytes:
        """Return what a stream's reader is told meanwhile."""
        if not self.waits:
            return b": keep-alive\n\n"
        if self.held:
            return b": queued, position %d, held: %b\n\n" % (self.before, self.held.encode())
        if self.expected_at is None:
            return b": queued, position %d\n\n" % self.before
        return b": queued, position %d, wait %d ms\n\n" % (self.before, max(0, (self.expected_at - now) * 1000))

    def note(self, before: int, wait_ms: float, now: float) -> None:
        """Take note where it stands; the first time this goes to its answer's headers."""
        self.before, self.held = before, ""
        self.expected_at = now + wait_ms / 1000
        if not self._is_told:
            self._is_told = True
            whole = (now - self.since) * 1000 + wait_ms
            self._tell(
                [
                    (b"x-aqueduct-queue-position", b"%d" % before),
                    (b"x-aqueduct-estimated-wait-ms", b"%d" % whole),
                ]
            )

    def hold(self, before: int, held: str) -> None:
        """Take note that it stands there, and that nothing moves: what was said of its wait holds no more."""
        self.before, self.held, self.expected_at = before, held, None
        self._said.clear()
        if not self._is_told:
            self._is_told = True
            self._tell([(b"x-aqueduct-queue-position", b"%d" % before), (b"x-aqueduct-held", held.encode())])

    def remember(self, said_ms: float, now: float) -> None:
        """Remember what `Pace` said, once for each size of the line before it."""
        size = size_of(self.before)
        if not self._said or self._said[-1][1] != size:
            self._said.append((now, size, said_ms))

    def teach(self, experience: Experience, queue_ms: int) -> None:
        """Let others learn from how long it waited."""
        said, self._said = self._said, []
        for at, size, said_ms in said:
            experience.learn(self.lane, self.tenant, size, said_ms, (self.since - at) * 1000 + queue_ms)


class _Room:
    """One model's waiting requests of this process."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.waiting: dict[str, Waiting] = {}
        """By job; those that were asked for longest ago come first."""
        self.asked_at = float("-inf")
        self.pace: Pace | None = None
        self.held = ""
        self.experience = Experience()

    def take_note(self, waiting: Waiting, before: int, now: float) -> None:
        if self.held:
            waiting.hold(before, self.held)
            return
        if self.pace is None:
            return
        said_ms = self.pace.wait_ms(before, now)
        waiting.note(before, self.experience.expected_ms(waiting.lane, waiting.tenant, before, said_ms), now)
        if self.pace.is_known:
            waiting.remember(said_ms, now)


class Standing:
    """All waiting requests of this process."""

    def __init__(self, admissions: Admissions) -> None:
        self._admissions = admissions
        self._rooms: dict[str, _Room] = {}
        self._wake = asyncio.Event()

    def enter(self, job: Admission, before: int, line: Line | None, tell: TellHeaders) -> Waiting:
        """Take in a request that must wait; `leave` when its answer is over."""
        now = asyncio.get_running_loop().time()
        room = self._rooms.setdefault(job.model, _Room(job.model))
        waiting = room.waiting[job.id] = Waiting(job, before, now, now + self._admissions.longest_wait(job), tell)
        if line is not None:
            room.pace, room.held = Pace(line, now), line.held
        if line is not None or now - room.asked_at < ASK_SECONDS:
            room.take_note(waiting, before, now)
        self._wake.set()
        return waiting

    def expect(self, job: Admission, tell: TellHeaders) -> Waiting:
        """Take in a request that a free slot takes at once, and that waits all the same if no backend is there."""
        now = asyncio.get_running_loop().time()
        room = self._rooms.setdefault(job.model, _Room(job.model))
        waiting = Waiting(job, 0, now, now + self._admissions.longest_wait(job), tell)
        waiting.waits, waiting.to_ask = False, partial(self._ask_for, room, waiting)
        return waiting

    def _ask_for(self, room: _Room, waiting: Waiting) -> None:
        room.waiting.setdefault(waiting.id, waiting)
        self._wake.set()

    def leave(self, waiting: Waiting, queue_ms: int | None) -> None:
        """Take a request out, with how long it waited if its turn has come."""
        room = self._rooms[waiting.model]
        room.waiting.pop(waiting.id, None)
        if queue_ms is not None:
            waiting.teach(room.experience, queue_ms)

    async def ask_forever(self) -> None:
        """Ask for the models with waiting requests, each once a second at most."""
        loop = asyncio.get_running_loop()
        while True:
            rooms = [room for room in self._rooms.values() if room.waiting]
            self._wake.clear()
            due_in = min((room.asked_at for room in rooms), default=float("inf")) + ASK_SECONDS - loop.time()
            if due_in > 0:
                await self._sleep(due_in)
                continue
            for room in rooms:
                if room.asked_at + ASK_SECONDS <= loop.time():
                    await self._ask(room)

    async def _sleep(self, seconds: float) -> None:
        """Sleep so long, or until a request comes that must wait."""
        with suppress(TimeoutError):
            async with asyncio.timeout(None if seconds == float("inf") else seconds):
                await self._wake.wait()
                await asyncio.sleep(GATHER_SECONDS)

    async def _ask(self, room: _Room) -> None:
        loop = asyncio.get_running_loop()
        room.asked_at = loop.time()
        asked = [*islice(room.waiting.values(), MOST_ASKED)]
        try:
            line, places = await self._admissions.stand(room.model, [(one.id, one.lane) for one in asked])
        except (RedisUnavailable, RedisRefused):
            return  # asked again in a second
        now = loop.time()
        room.pace, room.held = Pace(line, now), line.held
        for one, before in zip(asked, places, strict=True):
            if room.waiting.pop(one.id, None) is None:
                continue  # it has left meanwhile
            if before < 0:
                one.waits = False
            else:
                one.waits = True
                room.waiting[one.id] = one
                room.take_note(one, before, now)

    async def place_of(self, model: str, lane: str, tenant: str, job_id: str) -> tuple[int, int | None, str] | None:
        """Return how many go before any waiting job, how many ms it waits yet, and what holds it; None if it runs.

        Nobody knows for how long a held model's jobs wait.

        Raises RedisUnavailable or RedisRefused.
        """
        line, (before,) = await self._admissions.stand(model, [(job_id, lane)])
        if before < 0:
            return None
        if line.held:
            return before, None, line.held
        now = asyncio.get_running_loop().time()
        said_ms = Pace(line, now).wait_ms(before, now)
        room = self._rooms.get(model)
        expected = room.experience.expected_ms(lane, tenant, before, said_ms) if room else said_ms
        return before, int(expected), str(Hold.ROOM)
