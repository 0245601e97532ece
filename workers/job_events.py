"""What Flower shows: one set of Celery task events a job, buffered, in the messages of Celery's event dispatcher.

The ticket task sends none. The request id is the task id; kind and model stand in the task's name; arguments say lane
and tenant, never a prompt. They travel on the worker's own connection: Celery's would need two more, and a thread as it
blocks while Redis is frozen (measured: 4.9 s). Flower is a view, not a record: what does not fit into the buffer is
counted and dropped.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from typing import Any

import orjson

from shared import keys
from shared.broker import BATCH_TASK, event_batch, event_topic
from shared.jobs import TakenJob, request_id
from shared.redis import RedisClient, RedisRefused, RedisUnavailable
from shared.room.leases import Why
from shared.settings import Settings
from workers.record import RunRecord

log = logging.getLogger("aqueduct.worker.job_events")

FLUSH_SECONDS = 0.5
_STOPPED = {Why.CANCELLED: "client left", Why.OPERATOR: "ended by an operator", None: "client left"}
"""What Flower says of a job that was stopped; of the others what the log says."""
BATCH_EVENTS = 200
"""In one message: encoding them takes half a millisecond, in which no job moves on."""
MAX_BUFFERED = 20_000


class JobEvents:
    """Buffers events and publishes them twice a second; does nothing where `worker.job_events` is off."""

    def __init__(self, client: RedisClient, settings: Settings, hostname: str, clock: Callable[[], int]) -> None:
        """Take the worker's Celery name, and what gives the next time of its logical clock."""
        self._enabled = settings.worker.job_events
        self._client = client
        self._topic = event_topic(settings.redis)
        self._hostname = hostname
        self._clock = clock
        self._events: list[dict[str, Any]] = []
        self._pid = os.getpid()
        self.dropped = 0

    def started(self, record: RunRecord) -> None:
        """Tell of a job that is still running; its end tells everything again, so a lost event does no harm."""
        self._add("task-received", record.job, record.began_at)
        self._add("task-started", record.job, record.began_at)

    def ended(self, record: RunRecord) -> None:
        """Tell how a job ended; no end: it was stopped. Of one that runs on elsewhere that worker tells."""
        if not self._enabled or record.goes_on:
            return
        job, began_at, outcome = record.job, record.began_at, record.end
        runtime = time.time() - began_at
        if outcome is None:
            why = _STOPPED.get(record.why, str(record.why))
            self._add(
                "task-revoked", job, began_at, terminated=True, signum=why, result=why, expired=False, runtime=runtime
            )
        elif outcome.status == 200:
            usage = outcome.usage
            if usage is None:
                self._add("task-succeeded", job, began_at, result="200", runtime=runtime)
                return
            tokens = usage.prompt_tokens, usage.completion_tokens
            self._add("task-succeeded", job, began_at, result=f"200 {tokens[1]} tokens", tokens=tokens, runtime=runtime)
        else:
            what = f"{outcome.status} {outcome.code or ''}".strip()
            self._add("task-failed", job, began_at, exception=what, traceback="", runtime=runtime)

    def batch(self, kind: str, batch_id: str, progress: str, began_at: float, **fields: Any) -> None:
        """Tell of a batch: one task, whatever the number of its lines; told again, it shows how far it is."""
        told = {
            "uuid": batch_id,
            "name": BATCH_TASK,
            "args": f"({batch_id!r},)",
            "kwargs": f"{{'progress': {progress!r}}}",
            "routing_key": keys.BATCH_QUEUE,
            "retries": 0,
        }
        self._put(kind, told, began_at, fields)

    def _add(self, kind: str, job: TakenJob, began_at: float, **fields: Any) -> None:
        if not self._enabled:
            return
        told = {
            "uuid": request_id(job.id),
            "name": f"{job.spec.kind}:{job.model}",
            "args": f"({job.model!r},)",
            "kwargs": f"{{'lane': {job.spec.lane!r}, 'tenant': {job.spec.tenant!r}{_group(job)}}}",
            "routing_key": keys.queue(job.model),
            "retries": job.tries - 1,
            "waited": job.queue_ms,
        }
        self._put(kind, told, began_at, fields)

    def _put(self, kind: str, told: dict[str, Any], began_at: float, fields: dict[str, Any]) -> None:
        if not self._enabled:
            return
        if len(self._events) >= MAX_BUFFERED:
            self.dropped += 1
            return
        # Only what Flower shows: what is left out costs neither us nor Flower anything, and reads as None there.
        self._events.append(
            {
                "type": kind,
                **told,
                "received": began_at,
                "started": began_at,
                "hostname": self._hostname,
                "utcoffset": 0,
                "pid": self._pid,
                "timestamp": time.time(),
                **fields,
            }
        )

    async def run_forever(self) -> None:
        """Publish what comes."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Publish what there is; what Redis does not take now is kept for the next time."""
        while self._events:
            batch = self._events[:BATCH_EVENTS]
            for event in batch:
                event["clock"] = self._clock()
            try:
                events = orjson.dumps(batch)
            except TypeError:
                log.exception("events that cannot be encoded are dropped")
                del self._events[: len(batch)]
                continue
            try:
                await self._client.call("PUBLISH", self._topic, event_batch(events, self._hostname))
            except (RedisUnavailable, RedisRefused) as error:
                log.debug("events not published: %s", type(error).__name__)
                return
            del self._events[: len(batch)]


def _group(job: TakenJob) -> str:
    return f", 'group': {job.spec.group!r}" if job.spec.group else ""
