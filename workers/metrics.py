"""What a worker process counts of its runs."""

from __future__ import annotations

from shared.catalogue import Catalogue
from shared.metrics import names
from shared.metrics.counts import Counts, Observations, Tally
from shared.metrics.publisher import Publisher
from shared.redis import RedisClient
from workers.record import RunRecord

STOPPED = "stopped"
"""In the place of a status: the run was cancelled, or the job given to another."""


class RunMetrics:
    """Counts each run at its end, which costs it some microseconds."""

    def __init__(self, counts: Counts, catalogue: Catalogue) -> None:
        self._counts = counts
        self._catalogue = catalogue
        self._runs: dict[tuple[str, str, str, int], Tally] = {}
        self._calls: dict[tuple[str, str, int, int], tuple[str, Observations]] = {}

    def heard(self, record: RunRecord) -> None:
        """Take a run that has ended."""
        job, spec = record.job, record.job.spec
        key = (job.model, spec.kind, spec.lane, record.end.status if record.end is not None else 0)
        tally = self._runs.get(key)
        if tally is None:
            code = str(record.end.status) if record.end is not None else STOPPED
            tally = self._runs[key] = self._counts.tally(names.RUNS, job.model, (spec.kind, spec.lane, code))
        tally.number += 1
        if record.retries:
            self._counts.add(names.RETRIES, job.model, (spec.kind, spec.lane), record.retries)
        if record.failovers:
            self._counts.add(names.FAILOVERS, job.model, (spec.kind, spec.lane), record.failovers)
        for place, seconds, status, *_ in record.calls:
            self._observations(job.model, spec.kind, place, status).observe(seconds)

    def _observations(self, model: str, kind: str, place: int, status: int) -> Observations:
        backends = self._catalogue.models[model].backends
        address = backends[place].address if place < len(backends) else ""  # it may be gone meanwhile
        known = self._calls.get((model, kind, place, status))
        if known is not None and known[0] == address:
            return known[1]
        made = self._counts.observations(names.BACKEND_SECONDS, model, (kind, address, str(status)))
        self._calls[model, kind, place, status] = address, made
        return made


class WorkerMetrics:
    """All of it in one worker process: counting and telling."""

    def __init__(self, counts: Counts, client: RedisClient, catalogue: Catalogue, process: str) -> None:
        self.counts = counts
        self.runs = RunMetrics(counts, catalogue)
        self.publisher = Publisher(counts, client, process)
