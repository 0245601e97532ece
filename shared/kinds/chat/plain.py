"""One whole chat completion of a backend in; the body for our client and its usage out."""

from __future__ import annotations

from shared.jobs import JobSpec, Usage
from shared.kinds.chat.stream import SHAPE
from shared.kinds.common import plain


def rewrite(body: bytes, spec: JobSpec, job_id: str) -> tuple[bytes, Usage | None]:
    """Return the body for a job's client and its usage; raises what is raised for an answer that is none."""
    return plain.rewrite(body, SHAPE, spec, job_id)
