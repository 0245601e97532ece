"""What an API process counts of its requests, and the whole of all processes, which it tells."""

from __future__ import annotations

import asyncio
import logging
import time

from api.record import RequestRecord
from api.tokens import TokenTable
from shared.catalogue import Catalogue
from shared.metrics import names
from shared.metrics.budgets import BudgetLook
from shared.metrics.codes import code_label
from shared.metrics.counts import Counts, Observations, Tally
from shared.metrics.exposition import encoded
from shared.metrics.gauges import Whole
from shared.metrics.publisher import Publisher, read_counts, read_memory
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

    def __init__(
        self, client: RedisClient, upkeep: Upkeep, catalogue: Catalogue, process: str, tokens: TokenTable
    ) -> None:
        self.counts = Counts()
        self.requests = RequestMetrics(self.counts, catalogue)
        self.publisher = Publisher(self.counts, client, process)
        self._budgets = BudgetLook(client)
        self._client = client
        self._upkeep = upkeep
        self._catalogue = catalogue
        self._tokens = tokens

    async def scrape(self, accept: str) -> tuple[bytes, str]:
        """Return the whole of all processes as text, and its content type; what others count takes up to 2 s."""
        return encoded(await self._whole(), accept)

    async def _whole(self) -> Whole:
        models = self._catalogue.settings.models
        try:
            await self.publisher.flush_quietly()  # a Redis that is full takes no counts, and can be read
            counted, depths, (states, observed), memory, budgets = await asyncio.gather(
                read_counts(self._client, ["", *self._catalogue.models]),
                self._upkeep.depth(),
                self._upkeep.observe(),
                read_memory(self._client),
                self._budgets.look(self._tokens.limits),
            )
        except (RedisUnavailable, RedisRefused):
            return Whole(VERSION, is_up=False)
        return Whole(
            VERSION, is_up=True, counted=counted, depths=depths, states=states, observed=observed, models=models,
            memory=memory, budgets=budgets, now=time.time(),
        )  # fmt: skip
