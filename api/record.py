"""What happened to one request, filled on the way; the log line and the metrics are made of it at its end.

It holds no prompt, no answer (but in `debug`, where an operator has asked for it) and no token: `tenant` is its name.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Final, cast

from shared.logging import write_line
from shared.token_settings import TokenSettings

if TYPE_CHECKING:
    from api.debugging import DebugLine
    from api.traces import RequestTrace

log = logging.getLogger("aqueduct.api.requests")


class RequestRecord:
    """One request from its first byte to its last. None: not known, or not come to."""

    # Defaults of the class, not of the instance: a record is made for every request, and most of it is set later.
    kind: str | None = None
    """Of jobs; all other requests have none."""
    model: str | None = None
    """The model's own name; as long as it is not found the name that was asked for."""
    tenant: str | None = None
    """The token's name."""
    group: str | None = None
    """The token's group."""
    lane: str | None = None
    stream: bool | None = None
    status: int = 0
    """What became of it, as an HTTP status; 499: the client has left. 0: nothing was sent."""
    answered: int = 0
    """The HTTP status that was sent."""
    error_code: str | None = None
    joined: str | None = None
    """The job of another request whose answer this one was given, by an Idempotency-Key or as its retry."""
    held: str | None = None
    """Why it had to wait; None where it did not."""
    queue_ms: int | None = None
    first_ms: int | None = None
    """From its arrival to its first token, of streams."""
    run_ms: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    attempts: int | None = None
    """Backend calls, those of workers that were lost included."""
    place: int | None = None
    """Of the backend that was called last, in the model's list."""
    backend: str | None = None
    """Its host and port."""
    seconds: float = 0.0
    """From its arrival to its end."""
    trace: RequestTrace | None = None
    """Its span, where this process is traced."""
    debug: DebugLine | None = None
    """Its answer, where an operator has those of its token logged."""

    def __init__(self, job_id: str, request_id: str, *, method: str, path: bytes, client: str) -> None:
        """Take the path as it was sent, and the address of the client."""
        self.job_id = job_id
        self.request_id = request_id
        self.method = method
        self.path = path
        self.client = client
        self.started_at = time.monotonic()

    def is_of(self, token: TokenSettings) -> None:
        """Take note of whose request it is."""
        self.tenant = token.name
        if token.in_group is not None:
            self.group = token.in_group.name

    def elapsed_ms(self) -> int:
        """Return how long ago the request began."""
        return int((time.monotonic() - self.started_at) * 1000)

    def ended(self) -> None:
        """Take note of the end; what is known of the status here goes before what was sent."""
        self.status = self.status or self.answered
        self.seconds = time.monotonic() - self.started_at


def record_of(scope: MutableMapping[str, Any]) -> RequestRecord:
    """Return the record of the request with this scope."""
    return cast(RequestRecord, scope["state"]["record"])


def context_of(scope: MutableMapping[str, Any]) -> str | None:
    """Return what names the span of the request with this scope, for what comes of it; None where it has none."""
    trace = record_of(scope).trace
    return trace.context() if trace is not None else None


Listener = Callable[[RequestRecord], None]
"""Hears of each request once, at its end."""

MAX_PATH: Final = 200
OF_OTHERS: Final = ("tenant", "error_code")
OF_JOBS: Final = (
    "kind", "model", "tenant", "lane", "stream", "error_code", "held", "queue_ms", "first_ms", "run_ms",
    "prompt_tokens", "completion_tokens", "attempts", "backend",
)  # fmt: skip
"""The same on every outcome."""


def write_log(record: RequestRecord) -> None:
    """Write the request's line."""
    if not log.isEnabledFor(logging.INFO):
        return
    fields: dict[str, Any] = {
        "request_id": record.request_id, "status": record.status, "ms": int(record.seconds * 1000),
        "client": record.client,
    }  # fmt: skip
    for name in OF_JOBS if record.kind is not None else OF_OTHERS:
        fields[name] = getattr(record, name)
    if record.group is not None:
        fields["group"] = record.group
    if record.trace is not None:
        fields["trace"] = record.trace.id
    path = record.path[:MAX_PATH].decode("ascii", "replace")
    write_line(log, logging.INFO, fields, "%s %s", record.method, path)
