"""A job's events, in order, once each, from one attempt only: what the handler reads that waits for them.

    state      is left by                                                  for
    LISTENING  asked: its admission is on the way                          ASKED
    ASKED      accepted, refused                                           FOLLOWING, LISTENING
    FOLLOWING  a gap, a reconnection, a full buffer                        BEHIND
    BEHIND     the log was read                                            FOLLOWING
    FOLLOWING, BEHIND
               the job's last event; an error of its attempt, wherever     COMPLETE
               the job is unknown, or another attempt of it speaks         LOST

Nothing is taken after COMPLETE or LOST. What was LOST may still run, and must be cancelled.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum, auto

from api.exchange import ClientGone
from shared import events
from shared.deadline import Deadline
from shared.errors import AqueductError, JobLost
from shared.room.admission import Missed

MAX_BUFFERED_BYTES = 1024 * 1024
"""A reader that falls behind by more drops what it holds and reads the log again when it is ready."""
MAX_SILENCE_FACTOR = 4
"""A silent job's log is read after 1, 2, then every 4 silence periods."""


class State(Enum):
    """Where a relay stands."""

    LISTENING = auto()
    ASKED = auto()
    FOLLOWING = auto()
    BEHIND = auto()
    COMPLETE = auto()
    LOST = auto()


class Relay:
    """The events of one job for one reader. Made by `RelayHub.open`, closed by `RelayHub.close`."""

    __slots__ = (
        "_buffer", "_buffered_bytes", "_cut", "_deadline", "_has_left", "_highest", "_may_have_missed", "_nonce",
        "_sink", "_timeout_seconds", "_waiter", "_wants_log", "check_at", "has_delivered", "id", "next_number",
        "silence_factor", "state",
    )  # fmt: skip

    def __init__(self, job_id: str, wants_log: asyncio.Event) -> None:
        self.id = job_id
        self.state = State.LISTENING
        self.next_number = 0
        self.has_delivered = False
        """Whether the reader has been given anything: then no other attempt's events may follow."""
        self.check_at = 0.0
        """When a silent job's log is read."""
        self.silence_factor = 1
        self._nonce: bytes | None = None
        """Of the attempt whose events these are."""
        self._highest = -1
        """The highest event known to have happened."""
        self._may_have_missed = False
        """Something may have been missed before the admission was answered."""
        self._wants_log = wants_log
        self._buffer: deque[bytes] = deque()
        self._buffered_bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._deadline: Deadline | None = None
        self._timeout_seconds: float | None = None
        self._sink: Callable[[bytes], bool] | None = None
        self._has_left = False
        self._cut: AqueductError | None = None

    # --- the job's side ---------------------------------------------------------------------------------------

    def asked(self) -> None:
        """Take note that the job's admission is on the way: from now on it may exist."""
        self.state = State.ASKED

    def refused(self) -> None:
        """Take note that there is no job."""
        self.state = State.LISTENING

    def accepted(self) -> None:
        """Take note that there is a job. Its events may have come before the answer to its admission."""
        if self.state is State.ASKED:
            self.state = State.FOLLOWING
            if self._may_have_missed or self._highest >= self.next_number:
                self.fall_behind()
                self._wants_log.set()

    def fall_behind(self) -> None:
        """Take note that something may have been missed; the log must be read."""
        if self.state is State.FOLLOWING:
            self.state = State.BEHIND
        elif self.state is State.ASKED:
            self._may_have_missed = True

    def feed(self, nonce: bytes, number: int, event: bytes | None) -> None:
        """Take one event; repeats are ignored, a gap marks the relay as behind, None stands in the log alone."""
        # As nearly all are: the next chunk for a reader who waits, which none does any more once the end is here.
        if number == self.next_number and nonce == self._nonce and self._pass_on(event):
            self.next_number = number + 1
            return
        if self.is_closed:
            return
        if nonce != self._nonce and not self._may_change_to(nonce):
            return
        if number != self.next_number or event is None or self._buffered_bytes > MAX_BUFFERED_BYTES:
            if number >= self.next_number:
                self._highest = max(self._highest, number)
                self.fall_behind()
                return
            # A repeat; but an attempt has one end, so an error in the place of an event that was handed on says that
            # Redis fell back by a moment, and that the answer ends here.
            if event is None or event[0] != events.FAILED:
                return
        self.next_number = number + 1
        if self._pass_on(event):
            return
        if event[0] in events.ENDINGS:
            self.state = State.COMPLETE
        self._buffered_bytes += len(event)
        self._buffer.append(event)
        self.wake()

    def _may_change_to(self, nonce: bytes) -> bool:
        """Begin with an attempt, or again with another; what was handed on is never joined with another's."""
        if self._nonce is not None:
            if self.has_delivered:
                self.lose("The answer was begun by a run of this request that the queue has lost. Retry.")
                return False
            self._buffer.clear()
            self._buffered_bytes = self.next_number = 0
            self._highest = -1
        self._nonce = nonce
        return True

    def lose(self, message: str) -> None:
        """End the reading with an error of our own, unless the job's own end is here already."""
        if not self.is_closed:
            self.state = State.LOST
            self._buffer.append(events.failed(JobLost(message)))
            self.wake()

    @property
    def is_closed(self) -> bool:
        """Whether its last event is here, read or not."""
        return self.state is State.COMPLETE or self.state is State.LOST

    @property
    def is_under_way(self) -> bool:
        """Whether there is a job, and its last event is not here yet."""
        return self.state is State.FOLLOWING or self.state is State.BEHIND

    @property
    def may_run(self) -> bool:
        """Whether the job may wait or run for this reader, so that leaving must cancel it."""
        return self.state not in (State.LISTENING, State.COMPLETE)

    # --- the log ----------------------------------------------------------------------------------------------

    def wants_log(self, now: float) -> bool:
        """Whether the log should be read for it: it missed something, or has heard nothing for a while."""
        if self._buffered_bytes > MAX_BUFFERED_BYTES:
            return False
        return self.state is State.BEHIND or (self.state is State.FOLLOWING and self.check_at <= now)

    def question(self) -> Question:
        """Return what is to be asked of the log, with what was known then: live events may overtake the answer."""
        return Question(self, self.next_number, self._nonce if self.has_delivered else None)

    def take_missed(self, asked: Question, missed: Missed) -> None:
        """Take the log's answer."""
        if not missed.state and not missed.events:
            self.lose("The queue lost this request's record. Retry.")
            return
        if asked.nonce is not None and missed.nonce != asked.nonce:
            # It waits again, or another attempt runs, though this one's words were handed on: Redis fell back.
            self.lose("The answer was begun by a run of this request that the queue has lost. Retry.")
            return
        if missed.state == b"ended" and missed.length <= asked.number and not self.is_closed:
            # Its end stands where the reader has had other words, or is gone with the log: it will not come any more.
            self.lose("The queue lost a part of this answer. Retry.")
            return
        before = self.next_number
        for offset, event in enumerate(missed.events):
            self.feed(missed.nonce, asked.number + offset, event)
        if missed.events and missed.nonce == self._nonce:
            self._highest = max(self._highest, missed.length - 1)
        if self.is_under_way:
            self.state = State.BEHIND if self._highest >= self.next_number else State.FOLLOWING
        progressed = self.next_number > before
        self.silence_factor = 1 if progressed else min(self.silence_factor * 2, MAX_SILENCE_FACTOR)

    # --- the reader's side ------------------------------------------------------------------------------------

    def pass_on_to(self, sink: Callable[[bytes], bool] | None) -> None:
        """Hand chunks to `sink` as they come, while the reader waits in `next` for anything; it may refuse.

        A chunk then costs a write instead of a task's turn, which costs as much again.
        """
        self._sink = sink

    def _pass_on(self, event: bytes | None) -> bool:
        # A reader that waits has taken all that came before, so nothing is overtaken.
        waiter = self._waiter
        if self._sink is None or waiter is None or waiter.done() or event is None or event[0] != events.CHUNKS:
            return False
        if not self._sink(event[1:]):
            return False
        if self._deadline is not None and self._timeout_seconds is not None:
            self._deadline.extend(self._timeout_seconds)
        return True

    def hang_up(self) -> None:
        """Say that the client has closed the connection."""
        self._has_left = True
        self.wake()

    def cut_off(self, error: AqueductError) -> None:
        """End the reading: `next` raises this once what is ready was read."""
        self._cut = error
        self.wake()

    def wake(self) -> None:
        """Let a waiting reader look again."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def next(self, timeout_seconds: float | None) -> Sequence[bytes]:
        """Return every event that is ready, waiting for the first; empty at the time limit.

        Raises ClientGone when the client left, and what `cut_off` was told.
        """
        if not self._buffer and not self._has_left and self._cut is None:
            waiter = self._waiter = asyncio.get_running_loop().create_future()
            self._timeout_seconds = timeout_seconds
            if timeout_seconds is not None:
                if self._deadline is None:
                    self._deadline = Deadline(self.wake)
                self._deadline.extend(timeout_seconds)
            try:
                await waiter
            finally:
                self._waiter = None
                if self._deadline is not None:
                    self._deadline.pause()
        if self._has_left:
            raise ClientGone
        if self._cut is not None and not self._buffer:
            raise self._cut
        ready = tuple(self._buffer)
        if ready:
            self._buffer.clear()
            self._buffered_bytes = 0
            self.has_delivered = True
        if self.state is State.BEHIND:
            self._wants_log.set()  # there is room again for what was dropped
        return ready

    @property
    def is_over(self) -> bool:
        """Whether the last event was handed out."""
        return self.is_closed and not self._buffer

    def stop(self) -> None:
        """Read no more."""
        if self._deadline is not None:
            self._deadline.stop()


class Question:
    """What the log is asked for one relay."""

    __slots__ = ("nonce", "number", "relay")

    def __init__(self, relay: Relay, number: int, nonce: bytes | None) -> None:
        self.relay = relay
        self.number = number
        self.nonce = nonce
        """The attempt whose words the reader has been given, if any."""
