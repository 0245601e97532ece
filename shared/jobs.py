"""A job: one accepted completion request, as the API admits it and a worker takes it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

import orjson

ID_LENGTH = 32


def new_id() -> str:
    """Return 32 hex digits that sort by time, so that equal tags in a lane are served in order of arrival."""
    return f"{time.time_ns() // 1000:014x}{os.urandom(9).hex()}"


def request_id(job_id: str) -> str:
    """Return the id that callers, logs and Flower show."""
    return "req_" + job_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What a worker must know beside the body; travels as the record's `meta`."""

    stream: bool
    include_usage: bool
    max_tokens: int | None
    max_tokens_field: str
    """Under which of the two names the client gave `max_tokens`."""
    created: int
    """Unix seconds of acceptance; `created` of the answer when the backend gives none."""
    tenant: str
    lane: str
    stream_options: dict[str, Any]
    """Members of `stream_options` beyond `include_usage`."""
    client_seconds: float | None
    """A plain request's own read timeout: past it nobody listens."""
    public_model: str
    """The name or alias the client used; the answer shows it."""

    def pack(self) -> bytes:
        """Return the call as one line of JSON."""
        return orjson.dumps(
            [self.stream, self.include_usage, self.max_tokens, self.max_tokens_field, self.created, self.tenant,
             self.lane, self.stream_options, self.client_seconds, self.public_model]
        )  # fmt: skip

    @classmethod
    def unpack(cls, data: bytes) -> Call:
        """Read what `pack` wrote."""
        stream, usage, max_tokens, field, created, tenant, lane, options, seconds, public = orjson.loads(data)
        return cls(
            stream=stream, include_usage=usage, max_tokens=max_tokens, max_tokens_field=field, created=created,
            tenant=tenant, lane=lane, stream_options=options, client_seconds=seconds, public_model=public,
        )  # fmt: skip


@dataclass(slots=True, kw_only=True)
class TakenJob:
    """A job in a worker's hands, under a lease."""

    id: str
    model: str
    attempt: bytes
    """`<counter>.<nonce>`, compared whole: a write with another is refused."""
    call: Call
    body: bytes | None
    """JSON object text without `model`, `stream`, `stream_options`, `max_tokens` and `max_completion_tokens`.

    None when Redis had it no more.
    """
    queue_ms: int
    """From admission to this attempt."""

    @property
    def tries(self) -> int:
        """How many workers have held this job, this one included."""
        return int(self.attempt.partition(b".")[0])
