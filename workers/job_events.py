"""What Flower shows: one set of Celery task events a job, sent by us, buffered, through Celery's event dispatcher.

The ticket task sends none. The request id is the task id and the model stands in the task's name; arguments say lane
and tenant, never a prompt. A thread publishes: a frozen Redis must not stand the event loop still (measured: 4.9 s).
Flower is a view, not a record: what does not fit into the buffer is counted and dropped.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Any

import orjson
from celery import Celery

from shared import keys
from shared.jobs import TakenJob, request_id
from workers.completion import Outcome

log = logging.getLogger("aqueduct.worker.job_events")

FLUSH_SECONDS = 0.5
BATCH_EVENTS = 500
MAX_BUFFERED = 20_000
TASK_NAME = "chat.completions"


class JobEvents:
    """Buffers events on the event loop and publishes them from a thread of its own; does nothing unless `enabled`."""

    def __init__(self, app: Celery, hostname: str, *, enabled: bool) -> None:
        self._enabled = enabled
        self._app = app
        self._hostname = hostname
        self._events: list[dict[str, Any]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="job-events", daemon=True)
        self._dispatcher: Any = None
        self._pid = os.getpid()
        self.dropped = 0

    def start(self) -> None:
        """Begin to publish."""
        if self._enabled:
            self._thread.start()

    def stop(self) -> None:
        """Publish what is left, for at most two seconds."""
        self._stop.set()
        if self._enabled:
            self._thread.join(2)

    def started(self, job: TakenJob, began_at: float) -> None:
        """Tell of a job that is still running; its end tells everything again, so a lost event does no harm."""
        self._add("task-received", job, began_at)
        self._add("task-started", job, began_at)

    def ended(self, job: TakenJob, began_at: float, outcome: Outcome | None) -> None:
        """Tell how a job ended; no outcome: its client left."""
        runtime = time.time() - began_at
        if outcome is None:
            self._add(
                "task-revoked", job, began_at, terminated=True, signum="client gone", expired=False, runtime=runtime
            )
        elif outcome.status == 200:
            tokens = f" {outcome.usage.completion_tokens} tokens" if outcome.usage else ""
            self._add("task-succeeded", job, began_at, result=f"200{tokens}", runtime=runtime)
        else:
            what = f"{outcome.status} {outcome.code or ''}".strip()
            self._add("task-failed", job, began_at, exception=what, traceback="", runtime=runtime)

    def _add(self, kind: str, job: TakenJob, began_at: float, **fields: Any) -> None:
        if not self._enabled:
            return
        if len(self._events) >= MAX_BUFFERED:
            self.dropped += 1
            return
        # Only what Flower shows: what is left out costs neither us nor Flower anything, and reads as None there.
        self._events.append(
            {
                "type": kind,
                "uuid": request_id(job.id),
                "name": f"{TASK_NAME}:{job.model}",
                "args": f"({job.model!r},)",
                "kwargs": f"{{'lane': {job.call.lane!r}, 'tenant': {job.call.tenant!r}}}",
                "routing_key": keys.queue(job.model),
                "retries": job.tries - 1,
                "received": began_at,
                "started": began_at,
                "hostname": self._hostname,
                "utcoffset": 0,
                "pid": self._pid,
                "timestamp": time.time(),
                **fields,
            }
        )

    def _run(self) -> None:
        while not self._stop.wait(FLUSH_SECONDS):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        """Publish in batches; on failure keep the rest for the next time."""
        while self._events:
            batch = self._events[:BATCH_EVENTS]
            try:
                dispatcher = self._dispatcher or self._connect()
                for event in batch:
                    event["clock"] = dispatcher.clock.forward()
                with dispatcher.mutex:
                    # The dispatcher's own `publish` takes one event a message, and encodes in Python.
                    dispatcher.producer.publish(
                        orjson.dumps(batch),
                        routing_key="task.multi",
                        exchange=dispatcher.exchange.name,
                        declare=[dispatcher.exchange],
                        headers=dispatcher.headers,
                        delivery_mode=dispatcher.delivery_mode,
                        content_type="application/json",
                        content_encoding="utf-8",
                    )
            except Exception as error:  # the broker client's failures are of many kinds; none may end the thread
                log.debug("events not published: %s", type(error).__name__)
                self._disconnect()
                return
            del self._events[: len(batch)]

    def _connect(self) -> Any:
        connection = self._app.connection_for_write()
        connection.transport_options = {
            **(connection.transport_options or {}),
            "socket_timeout": 2,
            "socket_connect_timeout": 1,
        }
        self._dispatcher = self._app.events.Dispatcher(
            connection, hostname=self._hostname, enabled=True, buffer_while_offline=False
        )
        return self._dispatcher

    def _disconnect(self) -> None:
        dispatcher, self._dispatcher = self._dispatcher, None
        if dispatcher is not None:
            try:
                dispatcher.connection.collect()
            except Exception as error:  # as above: closing a broken connection
                log.debug("connection not closed: %s", type(error).__name__)
