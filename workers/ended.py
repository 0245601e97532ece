"""What a worker process remembers of the runs that have ended in its hands, for operators who look at them later."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from shared.catalogue import Catalogue
from shared.ended.outcomes import RUNS, UNENDED, outcome_of
from shared.ended.teller import Teller, Told
from shared.jobs import End, JobSpec
from shared.redis import RedisClient
from shared.room.leases import Why
from workers.record import BackendCall, RunRecord

MOST_CALLS: Final = 20


class _Run(NamedTuple):
    """What is held of a run until it is told: not its body, which may be large."""

    name: str
    model: str
    spec: JobSpec
    queue_ms: int
    ms: int
    end: End | None
    why: Why | None
    calls: Sequence[BackendCall]


class RunEnds:
    """Hears of each run and tells of it with others."""

    def __init__(self, client: RedisClient, catalogue: Catalogue, worker: str) -> None:
        self._catalogue = catalogue
        self._worker = worker
        self.teller = Teller(client, catalogue.settings.recent_jobs, RUNS, self._told)

    def heard(self, record: RunRecord) -> None:
        """Take a run that has ended."""
        job, end = record.job, record.end
        outcome = UNENDED if record.why is not None or end is None else outcome_of(end.status, end.code)
        ms = max(0, int((time.time() - record.began_at) * 1000))
        name = f"{job.id}/{job.tries}"
        run = _Run(name, job.model, job.spec, job.queue_ms, ms, end, record.why, record.calls)
        self.teller.add(outcome, job.spec.tenant, run)

    def _told(self, run: _Run) -> Told:
        """Return what is kept of a run; times in ms, of its calls from its begin on."""
        end, spec = run.end, run.spec
        usage = end.usage if end is not None else None
        return Told(
            run.name,
            {
                "kind": spec.kind,
                "model": run.model,
                "token": spec.tenant,
                "group": spec.group or None,
                "lane": spec.lane,
                "worker": self._worker,
                "queue_ms": run.queue_ms,
                "ms": run.ms,
                "status": end.status if end is not None else None,
                "code": end.code if end is not None else None,
                "why": str(run.why) if run.why is not None else None,
                "input_tokens": usage.prompt_tokens if usage is not None else None,
                "output_tokens": usage.completion_tokens if usage is not None else None,
                "calls": [self._call(run.model, call) for call in run.calls[-MOST_CALLS:]],
            },
        )

    def _call(self, model: str, call: BackendCall) -> dict[str, Any]:
        backends = self._catalogue.models[model].backends
        address = backends[call.place].address if call.place < len(backends) else None  # it may be gone meanwhile
        code = call.code[:64] if call.code is not None else None
        return {"backend": address, "at_ms": int(call.at * 1000), "ms": int(call.seconds * 1000), "status": call.status,
                "code": code}  # fmt: skip
