"""Makes the Celery app of a worker process: the ticket task, and the boot steps that hold the jobs' event loop.

The pool is Celery's `solo`: a ticket's task only wakes the event loop of the jobs (`workers/runner.py`), which takes
microseconds, so neither a pool of threads nor of processes would have anything to do (`docs/adr/0002-pool.md`).
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Callable, Coroutine, Sequence
from types import MethodType
from typing import TYPE_CHECKING, Any, cast

import uvloop
from celery import Celery, bootsteps
from celery.signals import setup_logging
from kombu.asynchronous import get_event_loop

from shared import keys
from shared.background import exit_process
from shared.broker import celery_app, ticket_queue
from shared.catalogue import Catalogue
from shared.heap import settle_heap
from shared.logging import configure_logging
from shared.metrics.counts import Counts
from shared.tracing.switch import open_tracing
from workers.batches.service import BatchService
from workers.remote_control import JobsView, ask_on, bind_remote_control
from workers.runner import Runner, worker_name
from workers.tasks import bind_batch, bind_ticket

if TYPE_CHECKING:
    from shared.tracing.sdk import Tracing

log = logging.getLogger("aqueduct.worker")

STOP_MARGIN_SECONDS = 10.0
"""Beyond the grace: the last take, the last words, and closing. A loop that hangs must not keep a process alive."""


class Engine:
    """The event loop of the jobs, in a thread beside Celery's consumer."""

    def __init__(self, catalogue: Catalogue, models: Sequence[str], app: Celery) -> None:
        self._catalogue = catalogue
        self._settings = catalogue.settings
        self._models = tuple(models)
        self._app = app
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="jobs", daemon=True)
        self._runner: Runner | None = None
        self._batches: BatchService | None = None
        self._tracing: Tracing | None = None
        self._was_full = False
        self.consumer: Any = None
        """Celery's, while it runs."""

    def start(self, hostname: str) -> None:
        """Start the loop and connect; raises what `Runner.open` raises."""
        self._thread.start()
        self._run(self._open(hostname))

    async def _open(self, hostname: str) -> None:
        clock = cast(Any, self._app).clock  # its type stubs do not know it
        counts = Counts() if self._settings.metrics else None
        name = worker_name()
        self._tracing = tracing = open_tracing("worker", name)
        runner = Runner(
            self._catalogue,
            self._models,
            name,
            hostname=hostname,
            clock=clock.forward,
            counts=counts,
            tracing=tracing,
        )
        runner.on_slot_freed = self._slot_freed
        runner.on_served = self._consume
        await runner.open()
        self._runner = runner
        if (url := self._settings.storage.url) is not None:
            self._batches = BatchService(
                self._catalogue,
                worker_name(),
                url,
                hostname=hostname,
                clock=clock.forward,
                counts=counts,
                tracing=tracing,
            )
            await self._batches.open()
        settle_heap()

    def wake(self, model: str) -> None:
        """Take jobs of a model. Called by the ticket's task, on Celery's thread."""
        if self._runner is not None:
            self._runner.wake(model)

    def ring(self, batch_id: str) -> None:
        """Carry a batch. Called by its ticket's task, on Celery's thread."""
        if self._batches is not None:
            self._batches.ring(batch_id)

    def has_free_slot(self) -> bool:
        """Whether a ticket could be of use; asked by Celery's consumer before it fetches one."""
        free = self._runner is None or self._runner.free_slots() > 0
        self._was_full = not free
        return free

    def _slot_freed(self) -> None:
        """Wake Celery's consumer if it had stopped fetching tickets; else it would notice up to a second later."""
        if self._was_full:
            hub = get_event_loop()
            if hub is not None:
                hub.call_soon(lambda: None)

    def _consume(self, model: str) -> None:
        """Fetch the tickets of one more model; called on the jobs' loop, done on Celery's thread."""
        queue, hub = ticket_queue(keys.queue(model)), get_event_loop()
        cast(Any, self._app.amqp.queues).select_add(queue)  # for the consumer of each later connection
        if hub is not None and self.consumer is not None:
            hub.call_soon(self.consumer.add_task_queue, queue.name)

    def ask(self, question: Callable[[JobsView], Coroutine[Any, Any, Any]]) -> Any:
        """Ask the jobs' loop. Called by remote control, on Celery's thread; raises TimeoutError or RuntimeError."""
        if self._runner is None:
            raise RuntimeError("no jobs run here yet")
        return ask_on(self._loop, question(self._runner))

    def hang_up(self) -> None:
        """Read the configuration again. Called by a signal, on Celery's thread."""
        if self._runner is not None:
            self._loop.call_soon_threadsafe(self._runner.reloading.hang_up)

    def stop(self) -> None:
        """Drain the jobs, then stop the loop."""
        if self._runner is not None:
            held, seconds = self._runner.held, self._settings.worker.drain_seconds
            log.info("draining", extra={"jobs": held, "seconds": seconds})
            try:
                self._run(self._drain(self._runner), self._settings.worker.drain_seconds + STOP_MARGIN_SECONDS)
            except TimeoutError:
                log.critical("the jobs' event loop hangs and cannot be drained; exiting")
                exit_process()
            log.info("drained", extra={"jobs_left": self._runner.held})
            self._runner = None
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(2)

    async def _drain(self, runner: Runner) -> None:
        if self._batches is not None:  # first: its lines that run here are another's to wait for
            await self._batches.close()
        await runner.drain(self._settings.worker.drain_seconds)
        await runner.close()
        if self._tracing is not None:
            await self._tracing.close()

    def _run(self, job: Coroutine[Any, Any, None], timeout_seconds: float | None = None) -> None:
        asyncio.run_coroutine_threadsafe(job, self._loop).result(timeout_seconds)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        except BaseException:
            log.critical("the jobs' event loop failed; exiting so that a supervisor restarts", exc_info=True)
            exit_process()


def create_worker(catalogue: Catalogue, models: Sequence[str] = ()) -> Celery:
    """Return the Celery app that serves these models (default: all). Opens nothing until the worker starts."""
    settings = catalogue.settings
    served = tuple(models) or tuple(settings.models)
    app = celery_app(settings, served, batches=settings.storage.url is not None)
    engine = Engine(catalogue, models, app)
    bind_ticket(app, engine.wake)
    bind_batch(app, engine.ring)
    bind_remote_control(engine.ask)

    class JobsStep(bootsteps.StartStopStep):
        """Starts the jobs' loop before the consumer, and drains it after the consumer has stopped."""

        requires = ("celery.worker.components:Pool",)

        def start(self, parent: Any) -> None:
            engine.start(parent.hostname)

        def stop(self, parent: Any) -> None:
            engine.stop()

        def terminate(self, parent: Any) -> None:
            engine.stop()

    class SlotGate(bootsteps.StartStopStep):
        """Lets the consumer fetch tickets only while a slot is free; others then get them."""

        requires = ("celery.worker.consumer.tasks:Tasks",)

        def start(self, parent: Any) -> None:
            engine.consumer = parent
            for name in tuple(parent.app.amqp.queues.consume_from):  # one that came since its consumer was made
                parent.add_task_queue(name)
            qos = parent.task_consumer.channel.qos
            qos.can_consume = MethodType(lambda _: engine.has_free_slot(), qos)

    signal.signal(signal.SIGHUP, lambda *_: engine.hang_up())
    app.steps["worker"].add(JobsStep)
    app.steps["consumer"].add(SlotGate)

    @setup_logging.connect(weak=False)
    def _logging(**_: Any) -> None:
        configure_logging(settings.log_format, settings.log_level)

    return app
