"""The span of each HTTP request: begun with the context that came with it, ended with what its record tells.

It is made of the record at the request's end, a listener among others; sooner where something must name it: a job that
goes to a worker, or a batch. Imports nothing of OpenTelemetry: without traces none of it is there.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from api.record import MAX_PATH, RequestRecord
from shared.errors import QueueTimeout
from shared.jobs import request_id
from shared.tracing import names

if TYPE_CHECKING:
    from shared.tracing.sdk import Span, Tracing

_WORD: Final = re.compile(r"[a-z_]{1,24}")
_NOT_FOUND: Final = 404
_FAILED: Final = 500
"""From here on a status is the server's failure, and an error of its span."""


class RequestTrace:
    """What one request has of traces."""

    __slots__ = ("_began_ns", "_links", "_parent", "_record", "_tracing", "span")

    def __init__(self, tracing: Tracing, record: RequestRecord, parent: str | None) -> None:
        self._tracing = tracing
        self._record = record
        self._parent = parent
        self._links: list[str] = []
        self._began_ns = time.time_ns()
        self.span: Span | None = None
        """None until it must be named."""

    @property
    def id(self) -> str:
        """The trace's id, 32 hex digits."""
        return self.started().trace_id

    def follows(self, first: str) -> None:
        """Take the context of the request whose stream is read on; without a trace of its own it is in that one's."""
        self._links.append(first)
        self._parent = self._parent or first

    def context(self, kind: str | None = None, model: str | None = None) -> str:
        """Return what names its span, for a job of this kind and model or for something else that comes of it."""
        return self.started(kind, model).context

    def started(self, kind: str | None = None, model: str | None = None) -> Span:
        """Return its span."""
        if self.span is None:
            record = self._record
            kind, model = kind or record.kind, model or record.model
            attributes: dict[str, str | int | None] = {
                names.METHOD: record.method,
                names.PATH: record.path[:MAX_PATH].decode("ascii", "replace"),
                names.REQUEST_ID: record.request_id,
            }
            if kind is not None:
                attributes |= {
                    names.OPERATION: names.operation(kind),
                    names.PROVIDER_NAME: names.PROVIDER,
                    names.REQUEST_MODEL: model,
                }
            self.span = self._tracing.start(
                names.span_name(kind, model) if kind is not None else _name(record),
                "server",
                parent=self._parent,
                links=self._links,
                at_ns=self._began_ns,
                attributes=attributes,
            )
        return self.span

    def end(self) -> None:
        """End its span with what is known of the request."""
        record, span = self._record, self.started()
        ended_ns = self._began_ns + int(record.seconds * 1e9)
        if not span.is_recorded:
            return
        span.tell(
            {
                names.STATUS: record.answered or None, names.MODEL: record.model, names.TENANT: record.tenant,
                names.GROUP: record.group, names.LANE: record.lane, names.REQUEST_STREAM: record.stream,
                names.HELD: record.held, names.QUEUE_MS: record.queue_ms, names.RUN_MS: record.run_ms,
                names.INPUT_TOKENS: record.prompt_tokens, names.OUTPUT_TOKENS: record.completion_tokens,
                names.ATTEMPTS: record.attempts, names.BACKEND: record.backend,
                names.JOINED: request_id(record.joined) if record.joined is not None else None,
            }
        )  # fmt: skip
        if record.first_ms is not None:
            span.event("first token", self._began_ns + record.first_ms * 1_000_000)
            span.tell({names.FIRST_CHUNK_SECONDS: record.first_ms / 1000})
        if record.error_code == QueueTimeout.code and record.queue_ms is not None:
            # Its only hop: no worker came to have it, and so none tells of its wait.
            wait = self._tracing.start("wait", "internal", parent=span.context, at_ns=self._began_ns)
            wait.end(ended_ns, error=record.error_code)
        # By the conventions of HTTP the client's own errors are none of a server's span; a broken stream is one.
        is_error = record.status >= _FAILED or (record.answered < 400 and record.error_code is not None)
        span.end(ended_ns, error=(record.error_code or str(record.status)) if is_error else None)


def _name(record: RequestRecord) -> str:
    """Return the method and the path without ids, of which there may be any number."""
    if record.status == _NOT_FOUND:
        return record.method
    parts = record.path[:MAX_PATH].decode("ascii", "replace").partition("?")[0].split("/")
    return f"{record.method} " + "/".join(
        part if _WORD.fullmatch(part) or part in ("", "v1") else "{id}" for part in parts
    )


class RequestTraces:
    """Begins and ends the spans of a process's requests."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    def begin(self, record: RequestRecord, headers: Iterable[tuple[bytes, bytes]]) -> RequestTrace:
        """Take a request that has come."""
        return RequestTrace(self._tracing, record, self._tracing.read_context(headers))

    def heard(self, record: RequestRecord) -> None:
        """Take a request that has ended."""
        if record.trace is not None:
            record.trace.end()


def traces_of(tracing: Tracing | None) -> RequestTraces | None:
    """Return what makes the spans of requests, if any are made."""
    return RequestTraces(tracing) if tracing is not None else None
