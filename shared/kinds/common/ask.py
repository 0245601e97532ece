"""A job in a worker's hands and one of its backends in; the body of the call out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

from shared.backend_parameters import Changes
from shared.backend_settings import BackendSettings
from shared.jobs import TakenJob
from shared.kinds.common.answers import dumps
from shared.kinds.common.parameters import changed_members

_LARGE_BYTES = 64 * 1024
"""From here on a body is not copied needlessly."""


def for_backend(job: TakenJob, name: str, backend: BackendSettings, as_stream: bool) -> bytes:
    """Return the body for one backend; `name` is the model's own name."""
    return body_for(job, name, backend, as_stream, backend.changes(job.spec.lane))


def body_for(
    job: TakenJob,
    name: str,
    backend: BackendSettings,
    as_stream: bool,
    changes: Changes | None,
    member: bytes = b"",
    apart: Collection[str] = (),
) -> bytes:
    """Return the body for one backend: what differs between backends, and the job's ready-made rest behind it.

    `changes` are the operator's, `member` is one more `"name":value`, `apart` what of the changes it stands for. Of the
    rest nothing is encoded again but what the operator changes.
    """
    parts: list[bytes | memoryview] = [b'{"model":' + dumps(backend.model or name)]
    if as_stream:
        parts.append(b'"stream":true')
        if stream_options := _stream_options(job.spec.options, backend.stream_options):
            parts.append(b'"stream_options":' + dumps(stream_options))
    elif job.spec.options.get("stream") is False:  # some servers stream unless they are told
        parts.append(b'"stream":false')
    if member:
        parts.append(member)
    body = job.body or b"{}"
    rest: bytes | memoryview = memoryview(body)[1:] if len(body) > _LARGE_BYTES else body[1:]
    if changes is not None:
        changed, rest = changed_members(body, job.spec.options, changes, apart)
        if changed:
            parts.append(changed)
    if len(rest) > 1:
        parts.append(rest)
        return b",".join(parts)
    return b"".join((b",".join(parts), rest))


def _stream_options(options: Mapping[str, Any], policy: Literal["always", "asked", "never"]) -> dict[str, Any]:
    """Return what to send as `stream_options`; empty for nothing."""
    given: dict[str, Any] = options.get("stream_options", {})
    if policy == "always":  # so that what a stream has cost is known
        return {**given, "include_usage": True}
    if policy == "asked":
        return {**given, "include_usage": True} if options.get("include_usage", False) else given
    return {}
