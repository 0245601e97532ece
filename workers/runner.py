"""A worker process's jobs: taken, run, renewed, cancelled and drained on one event loop.

The loop has a thread of its own beside Celery's consumer, which only calls `wake` when a ticket came. What a single job
goes through stands in `workers/held.py`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from shared import keys
from shared.background import Background, exit_process
from shared.catalogue import Catalogue
from shared.control.actor import CELERY, Actor
from shared.control.jobs import JobControl, counted, job_id_of
from shared.errors import AqueductError
from shared.jobs import End, TakenJob, request_id
from shared.metrics.counts import Counts
from shared.metrics.upkeep import count_sweep
from shared.protocol import BY_OPERATOR, INLINE_BYTES
from shared.redis import RedisClient, RedisRefused, RedisUnavailable, Subscriber
from shared.redis.bulk import Bulk
from shared.reloading import Reloading
from shared.room.absences import Absences
from shared.room.leases import How, Leases, Why
from shared.room.upkeep import OtherProtocol, Upkeep
from shared.room.wires import ABSENT_WIRE, BROKEN_WIRE, FELL_BACK_WIRE, UNFETCHED_WIRE
from workers.absence.presence import ModelAbsent
from workers.capacity.service import Capacity
from workers.completion import Run
from workers.crowd import Crowd
from workers.drain import Drain
from workers.ended import RunEnds
from workers.held import HeldJob, State
from workers.job_events import JobEvents
from workers.large_bodies import LargeBodies
from workers.metrics import WorkerMetrics
from workers.outbox import Outbox
from workers.record import RunRecord, write_log
from workers.remote_control import ServedView
from workers.served import ServedModel
from workers.slots import Slots
from workers.traces import RunTraces

if TYPE_CHECKING:
    from shared.tracing.sdk import Tracing

log = logging.getLogger("aqueduct.worker")

CANCEL_MEMORY_SECONDS = 10.0
"""A cancel may overtake the reply of the take that it concerns."""
SILENT_CONSUMER_SECONDS = 15.0
"""Tickets that lie for so long beside free slots have no consumer."""
LAST_TAKE_SECONDS = 2.0
"""How long a drain waits for a take under way; a call to Redis is given up sooner."""
LONG_JOB_SECONDS = 1.0
"""Jobs that run longer show as started in Flower; shorter ones only by their end."""
HELD_BODY_BYTES = 256 * 1024 * 1024
"""Large bodies that a process holds at once; what would exceed it is left to others, or for later."""

_LAST_WORDS: dict[Why, tuple[How, bytes]] = {
    Why.CANCELLED: (How.END, b""),
    Why.OPERATOR: (How.END, b""),
    Why.GAP: (How.FAIL, FELL_BACK_WIRE),
    Why.BROKEN: (How.FAIL, BROKEN_WIRE),
    Why.UNFETCHED: (How.AGAIN, UNFETCHED_WIRE),
    Why.ABSENT: (How.HOLD, ABSENT_WIRE),
}
"""What Redis is told of a job that was stopped. Of all others it knows already."""


class Runner:
    """All jobs of this process. Made and used on its event loop, `wake` apart."""

    def __init__(
        self,
        catalogue: Catalogue,
        models: Sequence[str],
        name: str,
        *,
        hostname: str,
        clock: Callable[[], int],
        counts: Counts | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        """Take the models to serve (none: all, new ones too), a name that no other worker has, and what events need.

        With `counts` it counts there what happens, and tells of them; with `tracing` it makes spans.
        """
        self._catalogue = catalogue
        self._settings = settings = catalogue.settings
        self._serves_all = not models
        self._loop = asyncio.get_running_loop()
        self._background = Background()
        self._client = RedisClient(settings.redis, "worker")
        self._bulk = Bulk(settings.redis, "worker-bodies")
        self._job_events = JobEvents(self._client, settings, hostname, clock)
        self.served: dict[str, ServedModel] = {}
        self._metrics = (
            WorkerMetrics(counts, self._client, catalogue, name, self.served) if counts is not None else None
        )
        self._listeners: list[Callable[[RunRecord], None]] = [write_log, self._job_events.ended]
        if self._metrics is not None:
            self._listeners.append(self._metrics.runs.heard)
        self._ends = RunEnds(self._client, catalogue, name) if settings.recent_jobs else None
        if self._ends is not None:
            self._listeners.append(self._ends.heard)
        self._traces = RunTraces(tracing, catalogue) if tracing is not None else None
        if self._traces is not None:
            self._listeners.append(self._traces.heard)
        self._control = Subscriber(settings.redis, [keys.CONTROL], self._on_control, name="control")
        self._leases = Leases(self._client, self._bulk, catalogue, name)
        self._upkeep = Upkeep(self._client, catalogue, name)
        self._job_control = JobControl(self._client, catalogue)
        self._outbox = Outbox(self._leases, self._background)
        self._held: dict[tuple[str, bytes], HeldJob] = {}
        self._newest: dict[str, HeldJob] = {}
        """By job id alone, for cancels: the last attempt that was taken here."""
        self._cancelled: dict[str, tuple[float, Why]] = {}
        """Jobs whose cancel came before they were known here, oldest first, with the time."""
        self._crowd = Crowd(
            self._leases,
            catalogue,
            slots=lambda model: self.served[model].slots if model in self.served else None,
            stop=self._stop_handed_back,
            background=self._background,
        )
        self.served |= {model: self._serve(model) for model in models or catalogue.models}
        self.reloading = Reloading(catalogue, self._client, "worker", name, lambda: list(self.served))
        self._capacity = Capacity(self._client, catalogue, name, self.served)
        self._bodies = LargeBodies(self._leases.fetch, settings)
        self._large_bytes = 0
        """Of the large bodies that are held."""
        self._is_empty = asyncio.Event()
        """Set while no job is held."""
        self._is_empty.set()
        self._is_draining = False
        self._unheard_since: float | None = None
        """Since when tickets lie beside free slots."""
        self.on_slot_freed: Callable[[], None] = lambda: None
        """Called on the loop whenever a slot became free."""
        self.on_served: Callable[[str], None] = lambda model: None
        """Called on the loop with each model that is served from then on."""
        catalogue.follow(self._changed)

    def _serve(self, model: str) -> ServedModel:
        make_slots = partial(
            Slots,
            self._leases,
            model,
            free_in_process=self.free_slots,
            bulk_bytes=self._bulk_bytes,
            start=self._start,
            on_crowd=partial(self._crowd.waits, model),
            on_held=partial(self._held_elsewhere, model),
            background=self._background,
        )
        return ServedModel(
            model,
            self._catalogue.models[model],
            self._settings.worker,
            lambda served: make_slots(
                limit=served.limit, held_backends=served.held_backends, hold_backends=served.hold_backends
            ),
            Absences(self._client, model),
            self._background,
        )

    def _held_elsewhere(self, model: str) -> None:
        self.served[model].held()

    def _changed(self) -> None:
        """Serve what the catalogue says now, and say so in Redis at once."""
        for name, served in self.served.items():
            served.change(self._catalogue.models[name])
        if not self._serves_all or self._is_draining:
            return
        for name in self._catalogue.models.keys() - self.served.keys():
            self.served[name] = self._serve(name)
            self.on_served(name)
            self._background.step(self._renew_quietly(), "first word for a model")

    @property
    def held(self) -> int:
        """How many jobs this process holds."""
        return len(self._held)

    def held_jobs(self) -> Sequence[HeldJob]:
        """Return the jobs that this process holds."""
        return [*self._held.values()]

    def slots(self) -> tuple[int, dict[str, ServedView]]:
        """Return how many jobs this process runs at most, and what runs of each model."""
        models = {name: ServedView(one.slots.running, one.slots.limit) for name, one in self.served.items()}
        return self._settings.worker.slots, models

    async def revoke(self, request_ids: Sequence[str]) -> dict[str, int]:
        """End jobs, as Celery's remote control asks of every worker; raises RedisUnavailable or RedisRefused."""
        ids = [job_id_of(one) for one in request_ids]
        target = request_ids[0] if len(ids) == 1 else f"{len(ids)} by id"
        return counted(await self._job_control.cancel(ids, Actor("celery", CELERY), target, quiet=True))

    def free_slots(self) -> int:
        """Return how many more jobs this process may run. Safe to ask from another thread."""
        return self._settings.worker.slots - len(self._held)

    def _bulk_bytes(self) -> int:
        """Return how much in large bodies may be taken now; with none held, one of any size."""
        return max(HELD_BODY_BYTES, self._settings.api.max_body_bytes + INLINE_BYTES) - self._large_bytes

    async def open(self) -> None:
        """Connect and say that this worker lives. Raises RedisUnavailable after 10 s, or OtherProtocol."""
        await self._client.open()
        await self._control.open()
        await self._crowd.open()
        await self._upkeep.open()
        await self._renew()
        self._client.on_connected.append(self._greet)
        self._background.forever(self._renew_forever(), "renewals")
        self._background.forever(self._sweep_forever(), "sweep")
        self._background.forever(self._announce_forever(), "announcements")
        self._background.forever(self._job_events.run_forever(), "job events")
        if self._metrics is not None:
            self._background.forever(self._metrics.publisher.publish_forever(), "counts")
        if self._ends is not None:
            self._background.forever(self._ends.teller.tell_forever(self._settings.testing.tell_seconds), "ends")
        await self.reloading.open()
        self._capacity.open()
        self._wake_all()

    def wake(self, model: str) -> None:
        """Take jobs of a model: its ticket came. Safe to call from another thread."""
        self._unheard_since = None
        served = self.served.get(model)
        if served is not None:
            self._loop.call_soon_threadsafe(served.wake)

    # --- one job ----------------------------------------------------------------------------------------------

    def _start(self, job: TakenJob) -> None:
        held = HeldJob(job, self._outbox)
        if self._traces is not None:
            held.record.trace = self._traces.begin(job)
        self._held[held.key] = self._newest[job.id] = held
        held.large_bytes = job.size if job.size > INLINE_BYTES else 0
        self._large_bytes += held.large_bytes
        self._is_empty.clear()
        if job.id in self._cancelled:
            held.stop(self._cancelled[job.id][1])
        held.task = self._background.essential(self._run(held), "job")

    async def _run(self, held: HeldJob) -> None:
        end: End | None = None
        try:
            if held.begin():
                end = await self._complete(held)
        except asyncio.CancelledError:
            if held.why is None:
                raise
        except Exception:
            log.exception("a job failed unexpectedly", extra={"request_id": request_id(held.job.id)})
            end = held.fail(AqueductError())
        finally:
            self._settle(held, end)

    async def _complete(self, held: HeldJob) -> End | None:
        """Run a job to its end; None where its body or a backend was not to be had, and it waits again."""
        job = held.job
        served = self.served[job.model]
        try:
            with served.backends as backends:
                run = Run(
                    job,
                    served.settings,
                    backends,
                    held.output,
                    self._bodies,
                    partial(self._uncount, held),
                    held.record,
                    served.presence,
                )
                try:
                    return await run.complete()
                except asyncio.CancelledError:
                    held.cut = run.cut_short()
                    raise
        except ModelAbsent:
            if served.presence is not None:
                served.presence.lost()
            held.stop(Why.ABSENT)
            return None
        except (RedisUnavailable, RedisRefused) as error:
            log.warning("body not fetched: %s", type(error).__name__, extra={"request_id": request_id(job.id)})
            held.stop(Why.UNFETCHED)
            return None

    def _settle(self, held: HeldJob, end: End | None) -> None:
        """Free the slot at once; its end is on its way, and the next take travels behind it on the same connection."""
        held.run_ended()
        record = held.record
        record.end, record.why = end or held.output.end, held.why
        if held.output.end is not None:
            # The lease is kept until Redis has stored the end, however long that takes.
            held.output.ended.add_done_callback(lambda _: self._stored(held))
        else:
            self._let_go(held, held.why or held.output.refused)
        self.served[held.job.model].slots.freed()
        self.on_slot_freed()
        for heard in self._listeners:
            heard(record)

    def _stored(self, held: HeldJob) -> None:
        if held.output.refused is not None:
            # Such as by a cancel that overtook the end, so that the job still holds its slot in Redis.
            self._let_go(held, held.output.refused)
            return
        self._forget(held)
        if held.output.others_wait:
            self.served[held.job.model].slots.wake()

    def _let_go(self, held: HeldJob, why: Why | None) -> None:
        """Tell Redis of what it does not know yet, and hold the job no longer."""
        words = _LAST_WORDS.get(why) if why is not None else None
        if words is not None:
            self._background.step(self._release(held, *words), "release")
        else:
            self._loop.call_soon(self._forget, held)

    async def _release(self, held: HeldJob, how: How, wire: bytes) -> None:
        job = held.job
        ending = (held.output.end or held.cut).to_json() if how is How.END else b""
        try:
            await self._leases.release(job.model, [(job.id, job.attempt, how, wire, ending)])
        except (RedisUnavailable, RedisRefused):
            log.info("not released; its lease runs out", extra={"request_id": request_id(job.id)})
        finally:
            self._forget(held)

    def _forget(self, held: HeldJob) -> None:
        if not held.gone():
            return
        was_full = self.free_slots() <= 0
        self._held.pop(held.key, None)
        was_large = held.large_bytes > 0
        self._large_bytes -= held.large_bytes
        if self._newest.get(held.job.id) is held:
            del self._newest[held.job.id]
        if not self._held:
            self._is_empty.set()
        if was_full or was_large:  # when its slot became free the process still counted it
            self._wake_all()
            self.on_slot_freed()

    def _uncount(self, held: HeldJob) -> None:
        """Make room for others: a job's large body is here no more."""
        if held.large_bytes:
            self._large_bytes -= held.large_bytes
            held.large_bytes = 0
            self._wake_all()

    def _wake_all(self) -> None:
        for served in self.served.values():
            served.slots.wake()

    # --- the process ------------------------------------------------------------------------------------------

    def _on_control(self, message: bytes) -> None:
        now = self._loop.time()
        while self._cancelled and next(iter(self._cancelled.values()))[0] < now - CANCEL_MEMORY_SECONDS:
            del self._cancelled[next(iter(self._cancelled))]
        job_ids = message.decode().split()
        why = Why.OPERATOR if BY_OPERATOR in job_ids[:1] else Why.CANCELLED
        for job_id in job_ids:
            held = self._newest.get(job_id)
            if held is not None:
                held.stop(why)
            else:
                self._cancelled[job_id] = now, why

    def _stop_handed_back(self, job_id: str, attempt: bytes) -> None:
        held = self._held.get((job_id, attempt))
        if held is not None:
            held.stop(Why.HANDED_OVER)

    async def _greet(self) -> None:
        """After a reconnection: Redis may be another server, and must hear at once what is held here."""
        self._control.follow(self._client)
        self._crowd.follow(self._client)
        await self._renew_quietly()

    async def _say_hello(self) -> None:
        try:
            await self._upkeep.hello()
        except OtherProtocol as error:
            log.critical("%s", error)
            exit_process()

    async def _renew(self) -> None:
        # A draining worker keeps its leases, but must not be taken for one that takes.
        models = () if self._is_draining else tuple(self.served)
        renewal = await self._leases.renew(models, self._held)
        for job_id, attempt, why in renewal.lost:
            held = self._held.get((job_id, attempt))
            if held is not None:
                held.stop(why)
        for model in renewal.waiting:
            self.served[model].rescue()
            self._crowd.waits(model)
        self._watch_consumer(renewal.lying)

    def _watch_consumer(self, lying: Sequence[str]) -> None:
        """Give way to a fresh process when tickets lie there for long though slots are free: nobody fetches them."""
        now = self._loop.time()
        if not any(self.served[model].slots.free > 0 for model in lying) or self._is_draining:
            self._unheard_since = None
        elif self._unheard_since is None:
            self._unheard_since = now
        elif now - self._unheard_since >= SILENT_CONSUMER_SECONDS:
            log.critical("tickets lie unfetched for %g s though slots are free; exiting", SILENT_CONSUMER_SECONDS)
            self._background.step(self._exit(), "exit")

    async def _exit(self) -> None:
        await self.drain(self._settings.worker.drain_seconds)
        exit_process()

    async def _renew_quietly(self) -> None:
        try:
            if not self._upkeep.is_greeted:
                await self._say_hello()
            await self._renew()
        except (RedisUnavailable, RedisRefused) as error:
            log.warning("leases not renewed: %s", type(error).__name__)

    async def _renew_forever(self) -> None:
        while True:
            await asyncio.sleep(self._settings.testing.renew_seconds)
            await self._renew_quietly()

    async def _sweep_forever(self) -> None:
        """Take part in the election for the recovery clock."""
        while True:
            await asyncio.sleep(self._settings.testing.sweep_seconds)
            try:
                swept = await self._upkeep.sweep()
            except (RedisUnavailable, RedisRefused):
                continue
            if swept is not None and self._metrics is not None:
                count_sweep(self._metrics.counts, swept)

    async def _announce_forever(self) -> None:
        while True:
            await asyncio.sleep(LONG_JOB_SECONDS)
            limit = time.time() - LONG_JOB_SECONDS
            for held in self._held.values():
                if not held.announced and held.state is State.RUNNING and held.record.began_at < limit:
                    held.announced = True
                    self._job_events.started(held.record)

    async def drain(self, grace_seconds: float) -> None:
        """Take nothing more, and end what runs: see `workers/drain.py`."""
        self._is_draining = True
        # A take under way may still bring jobs, which end as all others.
        await asyncio.gather(self._leave(), *(served.slots.close(LAST_TAKE_SECONDS) for served in self.served.values()))
        await Drain(self._leases, self._held.values, self._is_empty).run(grace_seconds)

    async def _leave(self) -> None:
        try:
            await self._leases.leave(tuple(self.served))
        except (RedisUnavailable, RedisRefused):
            log.warning("left without telling Redis")

    async def close(self) -> None:
        """Close every connection."""
        await self._background.close()
        await self._capacity.close()
        await self._job_events.flush()
        if self._metrics is not None:
            await self._metrics.publisher.end()
        if self._ends is not None:
            await self._ends.teller.flush_quietly()
        await self.reloading.close()
        for served in self.served.values():
            await served.close()
        await self._control.close()
        await self._crowd.close()
        await self._bulk.close()
        await self._client.close()


def worker_name() -> str:
    """Return a name that no other worker process has."""
    return f"{os.uname().nodename}-{os.getpid()}-{os.urandom(3).hex()}"
