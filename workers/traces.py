"""The spans of a worker: how long a job waited, its run, and each call of a backend; of jobs that belong to a trace.

Calls are told as they begin and end, as a backend is handed their context; the rest is made of the run's record, at its
end, as a listener among others. Imports nothing of OpenTelemetry: without traces none of it is there.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from shared.catalogue import Catalogue
from shared.jobs import TakenJob, Usage, request_id
from shared.room.leases import Why
from shared.tracing import names
from workers.backends import Answer
from workers.record import RunRecord

if TYPE_CHECKING:
    from shared.tracing.sdk import Span, Tracing

MAX_LOOK_BYTES: Final = 8192
"""Of an answer's beginning: where backends name the model."""
_PORTS: Final = {"http": 80, "https": 443}
_MODEL: Final = re.compile(rb'"model"\s*:\s*"([^"\\]{1,128})"')


class RunTrace:
    """The spans of one run."""

    __slots__ = ("_call", "_called_at", "_catalogue", "_job", "_number", "_run", "_tracing")

    def __init__(self, tracing: Tracing, catalogue: Catalogue, job: TakenJob, parent: str) -> None:
        """Take a job that was just taken, and the context of whoever waits for it."""
        self._tracing, self._catalogue, self._job = tracing, catalogue, job
        spec, now = job.spec, time.time_ns()
        told = {
            names.REQUEST_ID: request_id(job.id), names.MODEL: job.model, names.TENANT: spec.tenant,
            names.GROUP: spec.group or None, names.LANE: spec.lane, names.ATTEMPT: job.tries,
        }  # fmt: skip
        began = now - max(0, job.queue_ms) * 1_000_000
        self._run: Span = tracing.start("run", "consumer", parent=parent, at_ns=now, attributes=told)
        if self._run.is_recorded:
            tracing.start("wait", "internal", parent=parent, at_ns=began, attributes=told).end(now)
        self._call: Span | None = None
        self._called_at = 0.0
        self._number = 0

    @property
    def id(self) -> str:
        """The trace's id, 32 hex digits."""
        return self._run.trace_id

    def call(self, place: int, *, stream: bool) -> bytes:
        """Take note that a backend is called; returns what its request's head has besides."""
        self._number += 1
        if not self._run.is_recorded:  # the backend is told so, and that is all
            return self._tracing.header_lines(self._run.context)
        job, backends = self._job, self._catalogue.models[self._job.model].backends
        backend = backends[place] if place < len(backends) else None  # it may be gone meanwhile
        model = (backend.model if backend is not None else None) or job.model
        server = urlsplit(backend.url if backend is not None else "")
        self._called_at = time.monotonic()
        self._call = self._tracing.start(
            names.span_name(job.spec.kind, model),
            "client",
            parent=self._run,
            attributes={
                names.OPERATION: names.operation(job.spec.kind), names.PROVIDER_NAME: names.PROVIDER,
                names.REQUEST_MODEL: model, names.REQUEST_STREAM: stream, names.REQUEST_ID: request_id(job.id),
                names.SERVER_ADDRESS: server.hostname, names.SERVER_PORT: server.port or _PORTS.get(server.scheme),
                names.ATTEMPT: self._number,
            },
        )  # fmt: skip
        return self._tracing.header_lines(self._call.context)

    def listened(self, answer: Answer) -> Answer:
        """Return an answer whose beginning is heard beside its reader."""
        return _HeardAnswer(answer, self._began) if self._call is not None and self._call.is_recorded else answer

    def _began(self, status: int, data: bytes, *, is_stream: bool) -> None:
        if self._call is None:
            return
        found = _MODEL.search(data[:MAX_LOOK_BYTES])
        first = time.monotonic() - self._called_at if is_stream else None
        model = found[1].decode("utf-8", "replace") if found else None
        self._call.tell({names.STATUS: status, names.RESPONSE_MODEL: model, names.FIRST_CHUNK_SECONDS: first})

    def called(self, status: int, code: str | None, usage: Usage | None) -> None:
        """Take note that the call has ended, with a status as callers are told; 0: by no failure of its own."""
        call, self._call = self._call, None
        if call is None:
            return
        if usage is not None:
            call.tell({names.INPUT_TOKENS: usage.prompt_tokens, names.OUTPUT_TOKENS: usage.completion_tokens})
        call.end(error=None if status == 200 else code or str(status or "stopped"))

    def ended(self, record: RunRecord) -> None:
        """Take a run that has ended."""
        self.called(0, None, None)  # one that was cut
        run, end = self._run, record.end
        run.tell({names.ATTEMPTS: self._number, names.RETRIES: record.retries, names.FAILOVERS: record.failovers})
        if end is not None and end.usage is not None:
            run.tell({names.INPUT_TOKENS: end.usage.prompt_tokens, names.OUTPUT_TOKENS: end.usage.completion_tokens})
        if record.why is not None:
            run.tell({names.STOPPED: record.why.value})
            run.end(error=None if record.goes_on or record.why is Why.CANCELLED else record.why.value)
        else:
            run.end(error=None if end is not None and end.status == 200 else (end and end.code) or "internal_error")


class _HeardAnswer(Answer):
    """An answer that tells what came first."""

    __slots__ = ("_hear",)

    def __init__(self, answer: Answer, hear: Callable[..., None]) -> None:
        super().__init__(answer._response, answer._max_bytes)
        self._hear: Callable[..., None] | None = hear

    def _first(self, data: bytes) -> None:
        hear, self._hear = self._hear, None
        if hear is not None:
            hear(self._response.status, data, is_stream=self.is_stream)

    def read(self) -> Coroutine[Any, Any, bytes]:
        return self._read()

    async def _read(self) -> bytes:
        data = await self._response.read()
        if self._hear is not None:
            self._first(data)
        return data

    def follow(self, take: Callable[[bytes], bool]) -> Coroutine[Any, Any, bool]:
        def heard(data: bytes) -> bool:
            if self._hear is not None:
                self._first(data)
            return take(data)

        return self._response.follow(heard)


class RunTraces:
    """Begins and ends the spans of a process's runs."""

    def __init__(self, tracing: Tracing, catalogue: Catalogue) -> None:
        self._tracing = tracing
        self._catalogue = catalogue

    def begin(self, job: TakenJob) -> RunTrace | None:
        """Return what makes a job's spans; None for one that belongs to no trace."""
        parent = job.spec.trace
        return RunTrace(self._tracing, self._catalogue, job, parent) if parent is not None else None

    def heard(self, record: RunRecord) -> None:
        """Take a run that has ended."""
        if record.trace is not None:
            record.trace.ended(record)
