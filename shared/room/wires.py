"""The errors that scripts themselves tell, as they travel."""

from __future__ import annotations

from typing import Final

from shared.errors import BackendUnreachable, JobLost, JobStopped, NoWorker, QueueTimeout

TIMEOUT_WIRE: Final = QueueTimeout(
    "The request waited longer than the model's max_wait_seconds and was not sent. Retry, or raise the limit."
).to_wire()
NOT_STARTED_WIRE: Final = QueueTimeout(
    "The model did not start within its max_wait_seconds; the request was not sent. Retry, or tell the operator."
).to_wire()
ABSENT_WIRE: Final = BackendUnreachable().to_wire()
LOST_WIRE: Final = JobLost().to_wire()
EXHAUSTED_WIRE: Final = JobLost(
    "Every worker that ran this request was lost; it is not tried again.", should_retry=False
).to_wire()
NO_WORKER_WIRE: Final = NoWorker("No worker serves this model at the moment. Retry shortly.", retry_after=5).to_wire()
STOPPED_WIRE: Final = JobStopped(should_retry=False).to_wire()
UNREADABLE_WIRE: Final = JobLost(
    "The request's record in the queue could not be read by its worker. Report the request id if it persists.",
    should_retry=False,
).to_wire()
FELL_BACK_WIRE: Final = JobLost("The queue lost a part of this answer. Retry.").to_wire()
BROKEN_WIRE: Final = JobLost("The queue could not store this answer. Report the request id if it persists.").to_wire()
UNFETCHED_WIRE: Final = JobLost("The request's body could not be fetched from the queue. Retry.").to_wire()
