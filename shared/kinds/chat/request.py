"""A job in a worker's hands and one of its backends in; the body of the call out."""

from __future__ import annotations

from shared.backend_settings import BackendSettings
from shared.jobs import TakenJob
from shared.kinds.common.body import for_backend


def request_body(job: TakenJob, name: str, backend: BackendSettings, as_stream: bool) -> bytes:
    """Return the body, with the limit of tokens under the one of its two names that the backend knows."""
    options = job.spec.options
    limit = options.get("max_tokens")
    if limit is None:
        return for_backend(job, name, backend, as_stream)
    field = backend.max_tokens_field or options.get("max_tokens_field", "max_tokens")
    return for_backend(job, name, backend, as_stream, member=b'"%b":%d' % (field.encode(), limit))
