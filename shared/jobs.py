"""A job: one accepted request, as the API admits it and a worker takes it, and how it ended.

What travels is JSON objects whose unknown members are ignored and whose missing ones have defaults, so that a newer
process may say more than an older one understands.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Final

import orjson

CLIENT_LEFT_STATUS: Final = 499
"""Of a job that was stopped because nobody waited for it any more."""


def new_id() -> str:
    """Return 32 hex digits that sort by time, so that equal tags in a lane are served in order of arrival."""
    return f"{time.time_ns() // 1000:014x}{os.urandom(9).hex()}"


def request_id(job_id: str) -> str:
    """Return the id that callers, logs and Flower show."""
    return "req_" + job_id


@dataclass(slots=True, kw_only=True)  # not frozen: that would take a microsecond more, twice a request
class JobSpec:
    """What a worker must know beside the body, whatever the kind of job; travels as the record's `spec`."""

    kind: str = "chat.completions"
    stream: bool = False
    tenant: str = ""
    lane: str = "default"
    created: int = 0
    """Unix seconds of acceptance; `created` of the answer when the backend gives none."""
    public_model: str = ""
    """The name or alias the client used; the answer shows it."""
    client_seconds: float | None = None
    """A plain request's own read timeout: past it nobody listens."""
    options: dict[str, Any] = field(default_factory=dict)
    """What only the kind understands."""
    tier: str | None = None
    """The `service_tier` that the answer names: the one used, where the request named any."""

    group: ClassVar[str] = ""
    """Of the token that asked; only a `MemberSpec` has one."""
    trace: ClassVar[str | None] = None
    """The context of the span that it belongs to (`shared/tracing`); only a `TracedSpec` has one."""

    def within(self, group: str) -> MemberSpec:
        """Return the same as the job of a group's token."""
        return MemberSpec(**{one.name: getattr(self, one.name) for one in fields(JobSpec)}, group=group)

    def traced(self, trace: str) -> TracedSpec:
        """Return the same as a job that belongs to a span."""
        common = {one.name: getattr(self, one.name) for one in fields(JobSpec)}
        return TracedSpec(**common, group=self.group, trace=trace)

    def to_json(self) -> bytes:
        """Return the spec as one line of JSON; raises TypeError for integers over 64 bits in `options`."""
        return orjson.dumps(self)

    @classmethod
    def from_json(cls, data: bytes) -> JobSpec:
        """Read what `to_json` wrote, here or in another version; raises ValueError when it is no job."""
        given = orjson.loads(data)
        if type(given) is not dict:
            raise ValueError("a job's spec is a JSON object")
        get = given.get
        spec = cls(
            kind=get("kind", "chat.completions"),
            stream=get("stream", False),
            tenant=get("tenant", ""),
            lane=get("lane", "default"),
            created=get("created", 0),
            public_model=get("public_model", ""),
            client_seconds=get("client_seconds"),
            options=get("options", {}),
            tier=get("tier"),
        )
        texts = type(spec.kind) is type(spec.tenant) is type(spec.lane) is type(spec.public_model) is str
        kinds = (type(spec.stream), type(spec.created), type(spec.options))
        may_be_none = type(spec.client_seconds) in _SECONDS and type(spec.tier) in _TEXT
        if not texts or kinds != (bool, int, dict) or not may_be_none:
            raise ValueError("a job's spec has a member of another type than expected")
        group, trace = get("group"), get("trace")
        if group and type(group) is str:
            spec = spec.within(group)
        return spec.traced(trace) if trace and type(trace) is str else spec


@dataclass(slots=True, kw_only=True)
class MemberSpec(JobSpec):
    """The spec of a job whose token is in a group: only there is one written."""

    group: str = ""  # type: ignore[misc]  # a field here alone, so that others do not write it


@dataclass(slots=True, kw_only=True)
class TracedSpec(MemberSpec):
    """The spec of a job that belongs to a span: only there is one written. It may have a group."""

    trace: str | None = None  # type: ignore[misc]  # as above

    def within(self, group: str) -> TracedSpec:
        """Return the same as the job of a group's token."""
        return replace(self, group=group)


_SECONDS = (type(None), int, float)
_TEXT = (type(None), str)


@dataclass(slots=True, kw_only=True)
class TakenJob:
    """A job in a worker's hands, under a lease."""

    id: str
    model: str
    attempt: bytes
    """`<counter>.<nonce>`, compared whole: a write with another is refused."""
    spec: JobSpec
    body: bytes | None
    """JSON object text without the members that the worker adds for each backend.

    None where it is large and must be fetched, or when Redis had it no more.
    """
    queue_ms: int
    """From admission to this attempt."""
    size: int = 0
    """Bytes of body and spec."""

    @property
    def tries(self) -> int:
        """How many workers have held this job, this one included."""
        return int(self.attempt.partition(b".")[0])


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer, as the backend counted them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How a job ended: one group, told to Redis with its last event, to the log and to Flower."""

    status: int
    code: str | None = None
    cost: float = 0
    """Tokens to settle the tenant's share with: the real ones, or the estimate when nobody told."""
    usage: Usage | None = None
    run_ms: int = 0
    cut: bool = False
    """Only in part what the job has used: its last call of a backend was cut before its usage was told."""

    def to_json(self) -> bytes:
        """Return it as one line of JSON, for `append`."""
        return orjson.dumps(self)
