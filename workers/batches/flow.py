"""The lines of one batch through Redis: begun from the input as the window has room, ended by what the sink tells."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from shared import events
from shared.batches.lines import CheckedLine
from shared.batches.record import BatchRecord, Counts
from shared.batches.results import Result as Ended
from shared.batches.results import answered, refused
from shared.errors import AqueductError, from_wire
from shared.estimates import Estimates
from shared.jobs import JobSpec, Usage
from shared.kinds import Kind
from shared.redis import RedisRefused, RedisUnavailable
from shared.room.lines import LineJob, Result, line_id, line_number
from shared.settings import ModelSettings
from shared.token_settings import TokenSettings
from workers.batches.order import Order
from workers.batches.prefixes import grouped
from workers.batches.segments import AGAIN_SECONDS, Segments
from workers.batches.source import make_job, may_help
from workers.batches.traces import BatchTrace
from workers.batches.twins import MAX_TWINS, Twins
from workers.batches.window import Flight, Window

if TYPE_CHECKING:
    from workers.batches.feeder import Site

log = logging.getLogger("aqueduct.worker.batches")

LEAST_WINDOW: Final = 4
SHORTEST_PAUSE: Final = 0.005
LONGEST_PAUSE: Final = 0.1
"""Between two looks at the sink: short while results come, longer while none do."""
CHECK_SECONDS: Final = 2.0
"""Between two questions whether Redis still knows what is under way."""
READ_BYTES: Final = 4 * 1024 * 1024


class Flow:
    """Runs lines of one batch; `step` is called until `is_over`."""

    def __init__(
        self,
        site: Site,
        record: BatchRecord,
        kind: Kind,
        segments: Segments,
        open_source: Callable[[], AsyncIterator[CheckedLine]],
        told: Mapping[str, str],
        trace: BatchTrace | None = None,
    ) -> None:
        """Take what Redis remembers of the lines' tries in `told`."""
        self._trace = trace
        self._site = site
        self._lines = site.lines
        self._record = record
        self._kind = kind
        self._segments = segments
        self._open_source = open_source
        self._source: AsyncIterator[CheckedLine] | None = self._read()
        self._twins = Twins(MAX_TWINS if site.catalogue.settings.batches.merge_identical else 0)
        self._alike: deque[tuple[int, str, Callable[[int, str, str], Ended]]] = deque()
        """Lines that get the answer of one that has just ended, and what makes it theirs."""
        self._tries = {name[4:]: int(value) for name, value in told.items() if name.startswith("try:")}
        self._model_name, self._model = self._look_up()
        self._window = Window(_limit(self._model))
        self._order = Order(site.lines, record)
        self._estimates = Estimates()
        self._loop = asyncio.get_running_loop()
        self._read_rows = 0
        """Rows of the sink that are read and not acknowledged: the next reading begins behind them."""
        self._waiting: set[int] | None = None
        """Lines that ended before this feeder began and are not in the window yet, for whose results it makes room."""
        self._pause = SHORTEST_PAUSE
        self._checked_at = self._loop.time()
        self._was_away = False
        self._is_stopping = False
        self._told_of_model = False
        self._began = (self._loop.time(), len(segments.tally.lines))
        self.token = TokenSettings(name=record.token, sha256="0" * 64)

    @property
    def is_over(self) -> bool:
        """Whether every line of the input has ended."""
        if self.is_without_model:
            return len(self._segments.tally.lines) >= self._record.counts.total
        return self._source is None and not len(self._window)

    @property
    def _may_begin(self) -> bool:
        return self._model is not None and not self._is_stopping

    @property
    def is_without_model(self) -> bool:
        """Whether the configuration has the model no more: no line begins, and what has ended counts."""
        return self._model is None

    @property
    def _is_busy(self) -> bool:
        """Whether there are lines enough for all slots."""
        return self._source is not None and not self._window.is_slack

    def _read(self) -> AsyncIterator[CheckedLine]:
        source = self._open_source()
        return grouped(source) if self._site.catalogue.settings.batches.group_prefix else source

    def _look_up(self) -> tuple[str | None, ModelSettings | None]:
        """Return the model's own name and what is set for it now; None where the configuration has it no more."""
        catalogue = self._site.catalogue
        name = catalogue.names.get(self._record.model or "")
        return name, catalogue.settings.models.get(name or "")

    def _follow_model(self) -> None:
        """See whether the model has changed, was taken from the configuration, or has come back."""
        was = self._model
        self._model_name, self._model = self._look_up()
        if self._model is not was:
            self._window.limit = _limit(self._model)
        if self.is_without_model and not self._told_of_model:
            text = "batch %s waits: its model %r is not in the configuration; what has not run expires with the window"
            log.warning(text, self._record.id, self._record.model)
        elif self._told_of_model and not self.is_without_model:
            log.warning("batch %s goes on: its model is back", self._record.id)
            self._read_again()
        self._told_of_model = self.is_without_model

    def _read_again(self) -> None:
        """Begin with what was passed over while there was no model."""
        self._source = self._read()
        for flight in self._window.all():
            if not flight.job.body:
                self._window.end(flight)

    async def step(self, seconds_left: float) -> None:
        """Begin what there is room for, take what has ended, and wait a little. Raises LeaseLost."""
        self._follow_model()
        moved = 0
        try:
            if self._model_name is None or await self._order.is_next(self._model_name, is_busy=self._is_busy):
                await self._fill()
            await self._admit(seconds_left)
            moved = await self._collect()
            await self._check()
            if self._segments.is_due or (self.is_over and moved):
                await self._segments.write()
                await self._segments.acknowledge()
                self._read_rows = 0
            self._was_away = False
        except (RedisUnavailable, RedisRefused) as error:
            await self._away(error)
        if not moved and self.is_without_model:
            await asyncio.sleep(min(AGAIN_SECONDS, max(0.05, seconds_left)))
        elif not moved:
            await asyncio.sleep(self._pause)
        else:
            await asyncio.sleep(SHORTEST_PAUSE)
        self._pause = SHORTEST_PAUSE if moved else min(LONGEST_PAUSE, self._pause * 1.5)

    async def _away(self, error: Exception) -> None:
        if not self._was_away:
            log.warning("batch %s waits for Redis: %s", self._record.id, type(error).__name__)
        self._was_away = True
        self._read_rows = 0  # what was read is known by its id
        self._checked_at = 0.0
        await asyncio.sleep(0.25)

    # --- lines begin --------------------------------------------------------------------------------------------

    async def _fill(self) -> None:
        if self._waiting is None:
            known = await self._lines.ended_lines(self._record.id)
            self._waiting = known - self._segments.tally.lines
        while self._source is not None and (self._waiting or (self._may_begin and self._window.has_room)):
            try:
                line = await anext(self._source)
            except StopAsyncIteration:
                self._waiting = set()
                self._source = None if self._model is not None else self._source
                return
            has_ended = line.number in self._waiting
            self._waiting.discard(line.number)
            if line.number not in self._segments.tally.lines and self._window.find(line.number) is None:
                self._begin(line, has_ended=has_ended)

    def _begin(self, line: CheckedLine, *, has_ended: bool) -> None:
        job_id = self._job_id(line.number)
        if self._model is not None and self._may_begin:
            if not has_ended and self._twins.follows(line):
                return
            try:
                job = make_job(line, self._record, self._kind, self._model, self._estimates.factor(None))
            except AqueductError as error:
                self._segments.add(refused(line.number, line.custom_id, job_id, error), None)
                self._twins.ended(line.number)
                return
        elif has_ended:
            job = LineJob(id=job_id, body=b"", spec=JobSpec(), cost=0)  # only its result is taken
        else:
            return
        flight = Flight(line.number, line.custom_id, job, 1 + self._tries.get(str(line.number), 0))
        if self._trace is not None and job.body and self._model_name is not None:
            self._trace.line(flight, self._model_name)
        self._window.begin(flight)

    async def _admit(self, seconds_left: float) -> None:
        if self._model_name is None:
            return
        due = self._window.due(self._loop.time())
        if not due:
            return
        try:
            await self._lines.admit(
                self._record.id, self._model_name, self.token, [one.job for one in due], life_seconds=seconds_left
            )
        except BaseException:
            for flight in due:
                self._window.lost(flight)
            raise

    # --- lines end ----------------------------------------------------------------------------------------------

    async def _collect(self) -> int:
        """Take what the sink holds; returns how many lines it told of."""
        rows = await self._lines.results(self._record.id, self._read_rows, READ_BYTES)
        again: list[tuple[Flight, AqueductError]] = []
        for result in rows:
            if result.job_id in self._segments.unacknowledged:
                self._read_rows += 1
                continue
            self._take(result, again)
            await self._answer_alike()
        if again:
            await self._try_again(again)
        return len(rows)

    async def _answer_alike(self) -> None:
        """Give the lines that are the same as one that has ended its answer: of a large one a segment a time."""
        while self._alike:
            number, custom_id, twin = self._alike.popleft()
            self._segments.add(twin(number, custom_id, self._job_id(number)), None)
            if self._segments.is_due:
                await self._segments.write()

    def _take(self, result: Result, again: list[tuple[Flight, AqueductError]]) -> None:
        flight = self._window.find(line_number(result.job_id))
        if flight is None:
            self._read_rows += 1
            if line_number(result.job_id) in self._segments.tally.lines:
                self._segments.unacknowledged[result.job_id] = None
            return
        if not result.events or result.events[-1][0] not in events.ENDINGS:
            again.append((flight, AqueductError("Its record went.")))
            return
        error_code: str | None = None
        if result.events[-1][0] == events.FAILED:
            error = from_wire(result.events[-1][1:])
            error_code = error.code or "error"
            if may_help(error) and flight.tries < self._site.catalogue.settings.batches.line_attempts:
                again.append((flight, error))
                return
            ended = refused(flight.number, flight.custom_id, result.job_id, error)
            twin = partial(refused, error=error)
        else:
            body, usage = _answer(result.events)
            if usage is not None and flight.job.estimate:
                self._estimates.learn(None, flight.job.estimate, usage.total_tokens)
            ended = answered(flight.number, flight.custom_id, result.job_id, body, usage)
            twin = partial(answered, body=body, usage=None)
        self._read_rows += 1
        if self._trace is not None:
            self._trace.line_ended(flight, error_code)
        self._segments.add(ended, result.job_id)
        self._alike.extend((number, custom_id, twin) for number, custom_id in self._twins.ended(flight.number))
        self._window.end(flight)

    def _job_id(self, number: int) -> str:
        return line_id(self._record.created_us, number, self._record.id)

    async def _try_again(self, failed: list[tuple[Flight, AqueductError]]) -> None:
        """Drop failures from the sink, and have their lines tried again."""
        await self._lines.acknowledge(self._record.id, [flight.job.id for flight, _ in failed])
        now = self._loop.time()
        for flight, error in failed:
            if self._trace is not None:
                self._trace.again(flight, error.code)
            self._window.again(flight, now, error.retry_after)
        told = {f"try:{flight.number}": flight.tries - 1 for flight, _ in failed}
        await self._lines.say(self._record.id, told)

    async def _check(self) -> None:
        """Find lines that Redis has lost, as when it was emptied, and ends of which the sink did not tell."""
        if self._loop.time() - self._checked_at < CHECK_SECONDS:
            return
        flights = self._window.admitted()
        for at in range(0, len(flights), 500):
            part = flights[at : at + 500]
            states = await self._lines.states([flight.job.id for flight in part])
            for flight in part:
                state = states.get(flight.job.id, "")
                if not state:
                    self._window.lost(flight)
                elif state == "ended" and flight.is_missed:
                    await self._take_missed(flight)
                flight.is_missed = state == "ended"
        self._checked_at = self._loop.time()

    async def _take_missed(self, flight: Flight) -> None:
        again: list[tuple[Flight, AqueductError]] = []
        rows = self._read_rows
        self._take(await self._lines.ended(flight.job.id), again)
        await self._answer_alike()
        self._read_rows = rows  # the sink has no row of it
        if again:
            await self._try_again(again)

    # --- the end ------------------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Take back what has not ended, however long Redis is away; what has ended counts. Raises LeaseLost."""
        self._is_stopping = True
        while True:
            try:
                await self._fill()  # with what ended before this feeder began
                await self._lines.cancel([flight.job.id for flight in self._window.all()])
                while await self._collect():
                    pass
                await self._segments.write()
                await self._segments.acknowledge()
                self._source = None
                return
            except (RedisUnavailable, RedisRefused) as error:
                await self._segments.write()
                await self._away(error)

    def finish_at(self, counts: Counts) -> int | None:
        """Return when the last line should have ended at the rate so far (Unix seconds); None while there is none."""
        began_at, had = self._began
        ended = counts.completed + counts.failed - had
        seconds = self._loop.time() - began_at
        if ended < 1 or seconds < 1:
            return None
        return round(time.time() + (counts.total - counts.completed - counts.failed) * seconds / ended)


def _limit(model: ModelSettings | None) -> int:
    if model is None:
        return LEAST_WINDOW
    return max(LEAST_WINDOW, 2 * (model.places - model.kept_from_batch(model.places)))


def _answer(told: Any) -> tuple[bytes, Usage | None]:
    """Return the body that a job's events make, and what it has cost."""
    done = events.read_completed(told[-1])
    body = b"".join([*(event[1:] for event in told[:-1] if event[0] == events.PART), done.body])
    if done.prompt_tokens < 0:
        return body, None
    return body, Usage(done.prompt_tokens, done.completion_tokens, done.prompt_tokens + done.completion_tokens)
