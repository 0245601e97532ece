"""What a worker process remembers of the runs that have ended in its hands, for operators who look at them later."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

from shared.catalogue import Catalogue
from shared.ended.outcomes import RUNS, UNENDED, outcome_of
from shared.ended.teller import Teller, Told
from shared.jobs import End, JobSpec
from shared.redis import RedisClient
from shared.room.leases import Why
from workers.record import BackendCall, RunRecord

MOST_CALLS: Final = 20


_Run = tuple[str, bytes, str, JobSpec, int, float, float, End | None, Why | None, Sequence[BackendCall]]
"""What is held of a run until it is told, not its body, which may be large; plain, as one is made for every run."""


class RunEnds:
    """Hears of each run and tells of it with others."""

    def __init__(self, client: RedisClient, catalogue: Catalogue, worker: str) -> None:
        self._catalogue = catalogue
        self._worker = worker
        self.teller = Teller(client, catalogue.settings.recent_jobs, RUNS, self._told)

    def heard(self, record: RunRecord) -> None:
        """Take a run that has ended."""
        job, end, why = record.job, record.end, record.why
        spec = job.spec
        run = job.id, job.attempt, job.model, spec, job.queue_ms, record.began_at, time.time(), end, why, record.calls
        outcome = UNENDED if why is not None or end is None else outcome_of(end.status, end.code)
        self.teller.add(outcome, spec.tenant, run)

    def _told(self, run: _Run) -> Told:
        """Return what is kept of a run; times in ms, of its calls from its begin on."""
        job_id, attempt, model, spec, queue_ms, began_at, ended_at, end, why, calls = run
        usage = end.usage if end is not None else None
        return Told(
            f"{job_id}/{int(attempt.partition(b'.')[0])}",
            {
                "kind": spec.kind,
                "model": model,
                "token": spec.tenant,
                "group": spec.group or None,
                "lane": spec.lane,
                "worker": self._worker,
                "queue_ms": queue_ms,
                "ms": max(0, int((ended_at - began_at) * 1000)),
                "status": end.status if end is not None else None,
                "code": end.code if end is not None else None,
                "why": str(why) if why is not None else None,
                "input_tokens": usage.prompt_tokens if usage is not None else None,
                "output_tokens": usage.completion_tokens if usage is not None else None,
                "calls": [self._call(model, call) for call in calls[-MOST_CALLS:]],
            },
        )

    def _call(self, model: str, call: BackendCall) -> dict[str, Any]:
        backends = self._catalogue.models[model].backends
        address = backends[call.place].address if call.place < len(backends) else None  # it may be gone meanwhile
        code = call.code[:64] if call.code is not None else None
        return {"backend": address, "at_ms": int(call.at * 1000), "ms": int(call.seconds * 1000), "status": call.status,
                "code": code}  # fmt: skip
