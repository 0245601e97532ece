"""The spans of a batch and of its lines: each line is a trace of its own, linked to its batch's spans."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.batches.record import BatchRecord, Status
from shared.jobs import request_id
from shared.tracing import names
from workers.batches.window import Flight

if TYPE_CHECKING:
    from shared.tracing.sdk import Span, Tracing


class BatchTrace:
    """The spans of one batch as its feeder has it in hand."""

    def __init__(self, tracing: Tracing, record: BatchRecord) -> None:
        """Take a batch; where the request for it was traced its span is below that one's."""
        self._tracing = tracing
        self._batch_id = record.id
        told = {names.BATCH_ID: record.id, names.TENANT: record.token, names.REQUEST_MODEL: record.model}
        self._span: Span = tracing.start("batch", "consumer", parent=record.trace, attributes=told)
        self._links = [self._span.context, *([record.trace] if record.trace is not None else [])]
        self._lines: dict[int, Span] = {}

    def line(self, flight: Flight, model: str) -> None:
        """Begin the trace of a line that is about to wait. Lines of a batch that is not recorded are not either."""
        if not self._span.is_recorded:
            return
        job = flight.job
        self._lines[flight.number] = line = self._tracing.start(
            f"batch line {model}",
            "internal",
            links=self._links,
            attributes={
                names.OPERATION: names.operation(job.spec.kind), names.PROVIDER_NAME: names.PROVIDER,
                names.REQUEST_MODEL: model, names.REQUEST_ID: request_id(job.id), names.TENANT: job.spec.tenant,
                names.LANE: job.spec.lane, names.BATCH_LINE: flight.number,
                names.BATCH_ID: self._batch_id,
            },
        )  # fmt: skip
        job.spec = job.spec.traced(line.context)

    def again(self, flight: Flight, error: str | None) -> None:
        """Take note that a line failed and is tried again."""
        if (line := self._lines.get(flight.number)) is not None:
            line.event("try again", attributes={"error.type": error or "error", names.ATTEMPT: flight.tries})

    def line_ended(self, flight: Flight, error: str | None) -> None:
        """End the trace of a line."""
        if (line := self._lines.pop(flight.number, None)) is not None:
            line.tell({names.ATTEMPTS: flight.tries})
            line.end(error=error)

    def end(self, record: BatchRecord | None) -> None:
        """End the batch's span, and those of lines that have not ended."""
        for line in self._lines.values():
            line.end(error="not_run")
        self._lines.clear()
        if record is not None:
            self._span.tell(
                {
                    names.BATCH_STATUS: record.status.value, "aqueduct.batch_total": record.counts.total,
                    "aqueduct.batch_completed": record.counts.completed, "aqueduct.batch_failed": record.counts.failed,
                }
            )  # fmt: skip
        if record is None or not record.has_ended:
            self._span.end(error="handed_on")
        else:
            self._span.end(error="failed" if record.status is Status.FAILED else None)
