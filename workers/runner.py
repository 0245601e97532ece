"""A worker process's jobs: taken, run, renewed, cancelled and drained on one event loop.

The loop has a thread of its own beside Celery's consumer, which only calls `wake` when a ticket came.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from shared import events, keys
from shared.errors import AqueductError, JobLost
from shared.jobs import End, TakenJob, request_id
from shared.redis import RedisClient, RedisRefused, RedisUnavailable, Subscriber
from shared.room import Rooms
from shared.settings import Settings
from workers.backends import Backends
from workers.completion import Run
from workers.job_events import JobEvents
from workers.outbox import JobOutput, Outbox
from workers.slots import Slots

log = logging.getLogger("aqueduct.worker")

CANCEL_MEMORY_SECONDS = 10.0
"""A cancel may overtake the reply of the take that it concerns."""
SILENT_CONSUMER_SECONDS = 15.0
RESCUES_TO_EXIT = 4
LAST_TAKE_SECONDS = 2.0
"""How long a drain waits for a take under way; a call to Redis is given up sooner."""
LAST_WORDS_SECONDS = 1.5
"""After the grace, for Redis to store the errors of what was cut off."""
LONG_JOB_SECONDS = 1.0
"""Jobs that run longer show as started in Flower; shorter ones only by their end."""


@dataclass(eq=False, slots=True)
class RunningJob:
    """A job that this process runs."""

    job: TakenJob
    output: JobOutput
    began_at: float = field(default_factory=time.time)
    task: asyncio.Task[None] | None = None
    gave_up: str = ""
    """Why it was stopped: cancelled, stale, gap, unknown, back (handed back), shutdown."""
    begun: bool = False
    ended: bool = False
    """Its run is over; only its last words may still be on their way to Redis."""
    announced: bool = False


class Runner:
    """All jobs of this process. Made and used on its event loop, `wake` apart."""

    def __init__(
        self, settings: Settings, models: Sequence[str], name: str, *, hostname: str, clock: Callable[[], int]
    ) -> None:
        """Take the models to serve, a name that no other worker has, and what its job events need."""
        self._settings = settings
        self._models = tuple(models)
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._client = RedisClient(settings.redis, "worker")
        self._job_events = JobEvents(self._client, settings, hostname, clock)
        self._control = Subscriber(settings.redis, [keys.CONTROL], self._on_control, name="control")
        self._rooms = Rooms(self._client, settings)
        self._outbox = Outbox(self._rooms)
        self._jobs: dict[str, RunningJob] = {}
        self._cancelled: dict[str, float] = {}
        """Jobs whose cancel came before they were known here, oldest first, with the time."""
        self._backends = {m: Backends(m, settings.models[m], settings.worker) for m in models}
        self._slots = {m: self._make_slots(m) for m in models}
        self._background: list[asyncio.Task[None]] = []
        self._all_ended = asyncio.Event()
        self._draining = False
        self._rescues: list[float] = []
        """When jobs were found that no ticket told of, since the last ticket."""
        self.on_slot_freed: Callable[[], None] = lambda: None
        """Called on the loop whenever a slot became free."""

    def _make_slots(self, model: str) -> Slots:
        concurrency = self._settings.models[model].concurrency
        limit = partial(self._backends[model].health.capacity, concurrency)
        return Slots(
            self._rooms,
            model,
            limit=limit,
            free_in_process=self.free_slots,
            start=self._start,
            rescued=self._count_rescue,
        )

    def _count_rescue(self) -> None:
        """Jobs were found that no ticket told of; when that goes on, Celery's consumer is dead."""
        now = self._loop.time()
        self._rescues.append(now)
        if len(self._rescues) >= RESCUES_TO_EXIT and now - self._rescues[0] >= SILENT_CONSUMER_SECONDS:
            log.critical("no ticket came for %g s though jobs waited; exiting", SILENT_CONSUMER_SECONDS)
            self._rescues.clear()
            self._background.append(self._loop.create_task(self._exit()))

    async def _exit(self) -> None:
        await self.drain(self._settings.worker.drain_seconds)
        os._exit(1)

    def free_slots(self) -> int:
        """Return how many more jobs this process may run. Safe to ask from another thread."""
        return self._settings.worker.slots - len(self._jobs)

    async def open(self) -> None:
        """Connect and say that this worker lives. Raises RedisUnavailable after 10 s."""
        await self._client.open()
        await self._control.open()
        await self._rooms.load()
        await self._renew()
        self._client.on_connected.append(self._renew_quietly)
        forever = (
            self._renew_forever(), self._sweep_forever(), self._announce_forever(), self._job_events.run_forever(),
        )  # fmt: skip
        for loop in forever:
            task = self._loop.create_task(loop)
            task.add_done_callback(_exit_on_fault)
            self._background.append(task)
        for slots in self._slots.values():
            slots.wake()

    def wake(self, model: str) -> None:
        """Take jobs of a model: its ticket came. Safe to call from another thread."""
        self._rescues.clear()
        slots = self._slots.get(model)
        if slots is not None:
            self._loop.call_soon_threadsafe(slots.wake)

    # --- one job ----------------------------------------------------------------------------------------------

    def _start(self, job: TakenJob) -> None:
        running = RunningJob(job, self._outbox.open(job, partial(self._refused, job.id)))
        self._jobs[job.id] = running
        if job.id in self._cancelled:
            running.gave_up = "cancelled"
        running.task = self._loop.create_task(self._run(running))
        running.task.add_done_callback(_exit_on_fault)

    async def _run(self, running: RunningJob) -> None:
        job = running.job
        outcome: End | None = None
        model = self._settings.models[job.model]
        run = Run(job, model, self._backends[job.model], running.output, estimate=len(job.body or b"") / 4)
        running.begun = True
        try:
            if job.body is None:
                outcome = self._fail(running, JobLost("The queue lost this request's body. Retry."))
            elif not running.gave_up:  # given up before the first step, when cancelling would have skipped all of this
                outcome = await run.complete()
        except asyncio.CancelledError:
            if not running.gave_up:
                raise
        except Exception:
            log.exception("a job failed unexpectedly", extra={"request_id": request_id(job.id)})
            outcome = self._fail(running, AqueductError())
        finally:
            self._settle(running, outcome)

    @staticmethod
    def _fail(running: RunningJob, error: AqueductError) -> End:
        end = End(status=error.status, code=error.code)
        running.output.finish(events.failed(error), end=end)
        return end

    def _settle(self, running: RunningJob, outcome: End | None) -> None:
        """Free the slot at once; its end is on its way, and the next take travels behind it on the same connection."""
        job = running.job
        running.ended = True
        self._log_end(running, outcome)
        if outcome is None and running.gave_up in ("cancelled", "shutdown", "back"):
            self._loop.create_task(self._release(running, "back" if running.gave_up == "back" else "end"))
        elif outcome is None and running.output.end is None:
            # Redis wants no more of it, and nothing of it is on its way.
            self._loop.call_soon(self._forget, job.id)
        else:
            # The lease is kept until Redis has stored the end, however long that takes.
            running.output.ended.add_done_callback(lambda _: self._stored(running))
        self._slots[job.model].freed()
        self.on_slot_freed()
        if running.gave_up != "back":
            self._job_events.ended(job, running.began_at, outcome)

    def _stored(self, running: RunningJob) -> None:
        if running.output.refused == "cancelled":
            # The cancel overtook the end, so the job still holds its slot in Redis.
            self._loop.create_task(self._release(running, "end"))
            return
        self._forget(running.job.id)
        if running.output.others_wait:
            self._slots[running.job.model].wake()

    async def _release(self, running: RunningJob, how: str) -> None:
        job = running.job
        try:
            await self._rooms.release(job.model, [(job.id, job.attempt, how)])
        except (RedisUnavailable, RedisRefused):
            log.info("not released; its lease runs out", extra={"request_id": request_id(job.id)})
        finally:
            self._forget(job.id)

    def _give_up(self, running: RunningJob, why: str) -> None:
        """Stop a job here: its backend call is closed."""
        if not running.gave_up and not running.ended:
            running.gave_up = why
            if running.begun and running.task is not None:
                running.task.cancel()

    def _refused(self, job_id: str, why: str) -> None:
        running = self._jobs.get(job_id)
        if running is not None:
            self._give_up(running, why)

    def _log_end(self, running: RunningJob, outcome: End | None) -> None:
        fields = {
            "request_id": request_id(running.job.id), "model": running.job.model, "tenant": running.job.spec.tenant,
            "queue_ms": running.job.queue_ms, "ms": int((time.time() - running.began_at) * 1000),
        }  # fmt: skip
        if outcome is None:
            log.info("job stopped: %s", running.gave_up, extra=fields)
        elif outcome.status == 200:
            log.debug("job completed", extra=fields)  # the API's line tells the same and more
        else:
            log.warning("job failed: %s", outcome.code, extra={**fields, "status": outcome.status})

    # --- the process ------------------------------------------------------------------------------------------

    def _on_control(self, message: bytes) -> None:
        now = self._loop.time()
        while self._cancelled and next(iter(self._cancelled.values())) < now - CANCEL_MEMORY_SECONDS:
            del self._cancelled[next(iter(self._cancelled))]
        for job_id in message.decode().split():
            running = self._jobs.get(job_id)
            if running is not None:
                self._give_up(running, "cancelled")
            else:
                self._cancelled[job_id] = now

    async def _renew(self) -> None:
        held = [(r.job.id, r.job.attempt) for r in self._jobs.values()]
        # A draining worker keeps its leases, but must not be taken for one that takes.
        models = () if self._draining else self._models
        renewal = await self._rooms.renew(self._name, models, held)
        reasons = {"c": "cancelled", "o": "cancelled", "s": "stale", "u": "unknown"}
        for job_id, letter in renewal.lost.items():
            self._refused(job_id, reasons[letter])
        for model in renewal.waiting:
            self._slots[model].rescue()

    async def _renew_quietly(self) -> None:
        try:
            await self._renew()
        except (RedisUnavailable, RedisRefused) as error:
            log.warning("leases not renewed: %s", type(error).__name__)

    async def _renew_forever(self) -> None:
        while True:
            await asyncio.sleep(self._settings.testing.renew_seconds)
            await self._renew_quietly()

    async def _sweep_forever(self) -> None:
        """Take part in the election for the recovery clock, and look for work that no ticket told of."""
        while True:
            await asyncio.sleep(self._settings.testing.sweep_seconds)
            try:
                await self._rooms.sweep(self._name)
            except (RedisUnavailable, RedisRefused):
                continue

    async def _announce_forever(self) -> None:
        while True:
            await asyncio.sleep(LONG_JOB_SECONDS)
            limit = time.time() - LONG_JOB_SECONDS
            for running in self._jobs.values():
                if not running.announced and not running.ended and running.began_at < limit:
                    running.announced = True
                    self._job_events.started(running.job, running.began_at)

    async def drain(self, grace_seconds: float) -> None:
        """Stop taking; hand back what published nothing; let streams end within the grace, then cut them off."""
        self._draining = True
        # A take under way may still bring jobs, which are then handed back as all others.
        await asyncio.gather(self._leave(), *(slots.close(LAST_TAKE_SECONDS) for slots in self._slots.values()))
        for running in list(self._jobs.values()):
            if not running.output.has_published:
                self._give_up(running, "back")
        await self._wait_for_jobs(grace_seconds)
        for running in list(self._jobs.values()):
            if running.output.end is None:
                cut = JobLost("The worker was shut down before the answer was complete. Retry.")
                self._fail(running, cut)
                self._give_up(running, "cut off")
        await self._wait_for_jobs(LAST_WORDS_SECONDS)

    async def _leave(self) -> None:
        try:
            await self._rooms.leave(self._name, self._models)
        except (RedisUnavailable, RedisRefused):
            log.warning("left without telling Redis")

    async def _wait_for_jobs(self, seconds: float) -> None:
        if self._jobs:
            self._all_ended.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._all_ended.wait()

    def _forget(self, job_id: str) -> None:
        was_full = self.free_slots() <= 0
        self._jobs.pop(job_id, None)
        if not self._jobs:
            self._all_ended.set()
        if was_full:  # when its slot became free the process still counted it
            for slots in self._slots.values():
                slots.wake()
            self.on_slot_freed()

    async def close(self) -> None:
        """Close every connection."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._job_events.flush()
        for backends in self._backends.values():
            backends.close()
        await self._control.close()
        await self._client.close()


def _exit_on_fault(task: asyncio.Task[None]) -> None:
    """A job's task must never fail, nor the loops that renew: what they see to would be lost in silence, so the process
    gives way to a fresh one.
    """
    if not task.cancelled() and task.exception() is not None:
        log.critical("a task failed; exiting so that a supervisor restarts", exc_info=task.exception())
        os._exit(1)


def worker_name() -> str:
    """Return a name that no other worker process has."""
    return f"{os.uname().nodename}-{os.getpid()}-{os.urandom(3).hex()}"
