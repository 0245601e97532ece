"""What an API process remembers of the requests that it has answered, for operators who look at them later."""

from __future__ import annotations

from api.record import RequestRecord
from shared.ended.outcomes import REQUESTS, outcome_of
from shared.ended.teller import Teller, Told
from shared.redis import RedisClient


class RequestEnds:
    """Hears of each request for a job, of a known token, and tells of it with others."""

    def __init__(self, client: RedisClient, most: int) -> None:
        self.teller = Teller(client, most, REQUESTS, told)

    def heard(self, record: RequestRecord) -> None:
        """Take a request that has ended."""
        if record.kind is not None and record.tenant is not None:
            self.teller.add(outcome_of(record.status, record.error_code), record.tenant, record)


def told(record: RequestRecord) -> Told:
    """Return what is kept of a request; times in ms, from its arrival on."""
    return Told(
        record.job_id,
        {
            "kind": record.kind,
            "model": record.model,
            "token": record.tenant,
            "group": record.group,
            "lane": record.lane,
            "stream": record.stream,
            "status": record.status,
            "code": record.error_code,
            "joined": record.joined,
            "held": record.held,
            "ms": int(record.seconds * 1000),
            "queue_ms": record.queue_ms,
            "first_ms": record.first_ms,
            "run_ms": record.run_ms,
            "input_tokens": record.prompt_tokens,
            "output_tokens": record.completion_tokens,
            "attempts": record.attempts,
            "backend": record.backend,
            "trace": record.trace.id if record.trace is not None else None,
        },
    )
