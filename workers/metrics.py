"""What a worker process counts of its runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from shared.catalogue import Catalogue
from shared.metrics import names
from shared.metrics.counts import Counts, Observations, Tally
from shared.metrics.publisher import Publisher
from shared.metrics.states import State
from shared.redis import RedisClient
from workers.backends import Backends
from workers.record import RunRecord
from workers.served import ServedModel

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


class BackendMetrics:
    """How the backends stand in this process, looked at before each telling: a call costs nothing for it."""

    def __init__(self, counts: Counts, served: Mapping[str, ServedModel]) -> None:
        """Take what is served, which may change."""
        self._counts = counts
        self._served = served
        self._known: dict[str, tuple[Backends, list[int]]] = {}
        """Of each model the ejections that were counted."""

    def look(self) -> Iterator[State]:
        """Count the ejections that are new; yield how each backend stands."""
        for model, one in self._served.items():
            views, addresses = one.backends.health.view(), [backend.address for backend in one.settings.backends]
            known, counted = self._known.get(model, (None, []))
            if known is not one.backends:  # they were exchanged
                counted = [0] * len(views)
            for view, address, before in zip(views, addresses, counted, strict=True):
                if view.ejections > before:
                    self._counts.add(names.BACKEND_EJECTIONS, model, (address,), view.ejections - before)
            self._known[model] = one.backends, [view.ejections for view in views]
            for address in dict.fromkeys(addresses):  # several entries may be one server, with other names of models
                same = [view for view, other in zip(views, addresses, strict=True) if other == address]
                yield State(names.BACKEND_UP, (model, address), sum(view.is_well for view in same) / len(same))
                yield State(names.BACKEND_RUNNING, (model, address), sum(view.running for view in same))


class WorkerMetrics:
    """All of it in one worker process: counting and telling."""

    def __init__(
        self,
        counts: Counts,
        client: RedisClient,
        catalogue: Catalogue,
        process: str,
        served: Mapping[str, ServedModel],
    ) -> None:
        self.counts = counts
        self.runs = RunMetrics(counts, catalogue)
        counts.before_telling.append(BackendMetrics(counts, served).look)
        self.publisher = Publisher(counts, client, process)
