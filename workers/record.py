"""What happened to one run of a job, filled on the way; Flower's events, the log line and the metrics are made of it.

It holds no prompt and no answer.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, NamedTuple

from shared.jobs import End, TakenJob, request_id
from shared.logging import write_line
from shared.room.leases import Why

if TYPE_CHECKING:
    from workers.traces import RunTrace

log = logging.getLogger("aqueduct.worker")


_GOES_ON = (Why.HANDED_OVER, Why.UNFETCHED, Why.ABSENT, Why.STALE)


class BackendCall(NamedTuple):
    """One call of a backend that has ended."""

    place: int
    """Of the backend in the model's list."""
    seconds: float
    status: int
    """As the caller was told of it, or would have been."""
    code: str | None = None
    """Why it failed: the error's code, or `connect_failed` or `connection_lost`."""
    at: float = 0.0
    """Seconds from the run's begin to the call's."""


class RunRecord:
    """One attempt of a job in this process's hands."""

    __slots__ = ("began_at", "calls", "end", "failovers", "job", "retries", "trace", "why")

    def __init__(self, job: TakenJob) -> None:
        self.job = job
        self.began_at = time.time()
        self.calls: list[BackendCall] = []
        self.retries = 0
        """Calls made again, fail-overs included."""
        self.failovers = 0
        """Calls made again at another backend."""
        self.end: End | None = None
        """How it ended; None where it has no end here."""
        self.why: Why | None = None
        """Why it was stopped."""
        self.trace: RunTrace | None = None
        """Its spans, where this process is traced and the job belongs to a trace."""

    @property
    def goes_on(self) -> bool:
        """Whether the job runs on elsewhere: this was not its end."""
        return self.why in _GOES_ON


def write_log(record: RunRecord) -> None:
    """Write the line of a run that has ended; of one that went well only on request, as the API's tells more."""
    job, end = record.job, record.end
    went_well = record.why is None and end is not None and end.status == 200
    if went_well and not log.isEnabledFor(logging.DEBUG):
        return
    fields = {
        "request_id": request_id(job.id), "kind": job.spec.kind, "model": job.model, "tenant": job.spec.tenant,
        **({"group": job.spec.group} if job.spec.group else {}),
        **({"trace": record.trace.id} if record.trace is not None else {}),
        "queue_ms": job.queue_ms, "ms": int((time.time() - record.began_at) * 1000),
    }  # fmt: skip
    if record.why is not None or end is None:
        write_line(log, logging.INFO, fields, "job stopped: %s", record.why)
    elif went_well:
        write_line(log, logging.DEBUG, fields, "job completed")
    else:
        write_line(log, logging.WARNING, {**fields, "status": end.status}, "job failed: %s", end.code)
