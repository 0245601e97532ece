"""A job in this process's hands, one attempt of it: where it stands, and what moves it on.

state        is left by                                                   for
TAKEN        begin: its task's first step                                 RUNNING
RUNNING      run_ended: its last event is on its way to Redis             ENDING
TAKEN …      stop: Redis, its client or a shutdown wants no more of it    STOPPING
ENDING       gone: the end is stored, or refused and told                 GONE
STOPPING     gone: its run has ended, and Redis knows                     GONE
"""

from __future__ import annotations

import asyncio
from enum import Enum, auto

from shared import events
from shared.errors import AqueductError
from shared.jobs import CLIENT_LEFT_STATUS, End, TakenJob, Usage
from shared.room.leases import Why
from workers.outbox import JobOutput, Outbox
from workers.record import RunRecord


class State(Enum):
    """Where a held job stands."""

    TAKEN = auto()
    RUNNING = auto()
    ENDING = auto()
    STOPPING = auto()
    GONE = auto()


class HeldJob:
    """One attempt of a job that this process holds under a lease."""

    __slots__ = ("announced", "cut", "job", "large_bytes", "output", "record", "state", "task", "why")

    def __init__(self, job: TakenJob, outbox: Outbox) -> None:
        self.job = job
        self.record = RunRecord(job)
        self.output: JobOutput = outbox.open(job, self.stop)
        self.state = State.TAKEN
        self.why: Why | None = None
        """Set with STOPPING."""
        self.task: asyncio.Task[None] | None = None
        self.announced = False
        """Flower shows it as started."""

        self.cut = End(status=CLIENT_LEFT_STATUS, usage=Usage(0, 0, 0))
        """What a run that was stopped has used, as far as it is known."""
        self.large_bytes = 0
        """Of its body, as long as it takes room in this process."""

    @property
    def key(self) -> tuple[str, bytes]:
        """Job and attempt: a worker may hold two of one job, of which the older has lost its lease."""
        return self.job.id, self.job.attempt

    @property
    def is_under_way(self) -> bool:
        """Whether its run has still to end."""
        return self.state in (State.TAKEN, State.RUNNING)

    def begin(self) -> bool:
        """Start the run; False when it was stopped before its first step."""
        if self.state is not State.TAKEN:
            return False
        self.state = State.RUNNING
        return True

    def stop(self, why: Why) -> None:
        """Run no more of it: its backend call is closed. Once its run has ended there is nothing to stop."""
        if not self.is_under_way:
            return
        was_running = self.state is State.RUNNING
        self.state, self.why = State.STOPPING, why
        if was_running and self.task is not None:  # else its first step finds it stopped, and nothing is skipped
            self.task.cancel()

    def fail(self, error: AqueductError) -> End:
        """Hand over an error as its last event."""
        end = End(status=error.status, code=error.code)
        self.output.finish(events.failed(error), end=end)
        return end

    def run_ended(self) -> None:
        """Take note that its run is over."""
        if self.state is State.RUNNING:
            self.state = State.ENDING

    def gone(self) -> bool:
        """Take note that Redis knows all of it; False if that was known already."""
        was, self.state = self.state, State.GONE
        self.output.on_refused = _nobody  # else job and output are a ring, which only a garbage collection would free
        return was is not State.GONE


def _nobody(_: Why) -> None:
    """Hear that Redis takes no more of a job that is gone."""
