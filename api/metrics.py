"""What an API process counts of its requests, and the whole of all processes, which it tells."""

from __future__ import annotations

import asyncio
import logging

from api.record import RequestRecord
from shared import keys
from shared.catalogue import Catalogue
from shared.metrics import names
from shared.metrics.codes import code_label
from shared.metrics.counts import Counts, Observations, Tally
from shared.metrics.exposition import Whole, encoded
from shared.metrics.publisher import Publisher, read_counts
from shared.redis import RedisClient, RedisRefused, RedisUnavailable
from shared.room.upkeep import Upkeep
from shared.version import VERSION

log = logging.getLogger("aqueduct.api.metrics")

OF_NO_JOB = "other"
"""The kind of requests that ask for no job."""


class _Series:
    """The counts of one model, kind and lane."""

    __slots__ = ("first", "input", "labels", "model", "outcomes", "output", "per_token", "wait")

    def __init__(self, counts: Counts, model: str, kind: str, lane: str) -> None:
        self.model, self.labels = model, (kind, lane)
        self.outcomes: dict[tuple[int, str | None], tuple[Tally, Observations]] = {}
        self.wait = counts.observations(names.WAIT_SECONDS, model, self.labels)
        self.first = counts.observations(names.FIRST_TOKEN_SECONDS, model, self.labels)
        self.per_token = counts.observations(names.OUTPUT_TOKEN_SECONDS, model, self.labels)
        self.input = counts.observations(names.REQUEST_TOKENS, model, (*self.labels, "input"))
        self.output = counts.observations(names.REQUEST_TOKENS, model, (*self.labels, "output"))


class RequestMetrics:
    """Counts each request at its end, which costs it some microseconds."""

    def __init__(self, counts: Counts, catalogue: Catalogue) -> None:
        self._counts = counts
        self._catalogue = catalogue
        self._series: dict[tuple[str | None, str | None, str | None], _Series] = {}

    def heard(self, record: RequestRecord) -> None:
        """Take a request that has ended."""
        model = record.model if record.model in self._catalogue.models else ""  # never what a client made up
        series = self._series.get((model, record.kind, record.lane))
        if series is None:
            made = _Series(self._counts, model or "", record.kind or OF_NO_JOB, record.lane or "")
            series = self._series[model, record.kind, record.lane] = made
        outcome = series.outcomes.get((record.status, record.error_code))
        if outcome is None:
            outcome = self._outcome(series, record.status, record.error_code)
        outcome[0].number += 1
        outcome[1].observe(record.seconds)
        if record.queue_ms is not None:
            series.wait.observe(record.queue_ms / 1000)
        if record.held is not None:
            self._counts.add(names.HELD, series.model, (*series.labels, record.held))
        if record.prompt_tokens is not None and record.completion_tokens is not None:
            series.input.observe(record.prompt_tokens)
            series.output.observe(record.completion_tokens)
        if record.first_ms is not None:
            series.first.observe(record.first_ms / 1000)
            if record.completion_tokens is not None and record.completion_tokens > 1:
                rest = record.seconds - record.first_ms / 1000
                series.per_token.observe(max(0.0, rest) / (record.completion_tokens - 1))

    def _outcome(self, series: _Series, status: int, error_code: str | None) -> tuple[Tally, Observations]:
        code, label = str(status), code_label(error_code)
        made = (
            self._counts.tally(names.REQUESTS, series.model, (*series.labels, code, label)),
            self._counts.observations(names.REQUEST_SECONDS, series.model, (*series.labels, code)),
        )
        if label == (error_code or ""):  # else there may be any number of them
            series.outcomes[status, error_code] = made
        return made


class Metrics:
    """All of it in one API process: counting, telling, and answering a scrape."""

    def __init__(self, client: RedisClient, upkeep: Upkeep, catalogue: Catalogue, process: str) -> None:
        self.counts = Counts()
        self.requests = RequestMetrics(self.counts, catalogue)
        self.publisher = Publisher(self.counts, client, process)
        self._client = client
        self._upkeep = upkeep
        self._catalogue = catalogue

    async def scrape(self, accept: str) -> tuple[bytes, str]:
        """Return the whole of all processes as text, and its content type; what others count takes up to 2 s."""
        try:
            await self.publisher.flush()
            counted, depths, slots = await asyncio.gather(
                read_counts(self._client, ["", *self._catalogue.models]), self._upkeep.depth(), self._slots()
            )
        except (RedisUnavailable, RedisRefused):
            return encoded(Whole(VERSION, is_up=False), accept)
        return encoded(Whole(VERSION, is_up=True, counted=counted, depths=depths, slots=slots), accept)

    async def _slots(self) -> dict[str, int]:
        """Return how many jobs of each model may run: of `concurrency: auto` as found by now, 1 at first."""
        models = self._catalogue.settings.models
        measured = [name for name, model in models.items() if model.is_auto]
        calls = (self._client.call("HGET", keys.PREFIXES["capacity"] + name, "places") for name in measured)
        found = zip(measured, await asyncio.gather(*calls), strict=True)
        known = {name: min(models[name].places, int(number or 1)) for name, number in found}
        return {name: known.get(name, model.places) for name, model in models.items()}
