"""A job in a worker's hands and one of its backends in; the body of the call out."""

from __future__ import annotations

from shared.backend_parameters import TOKEN_LIMITS
from shared.backend_settings import BackendSettings
from shared.jobs import TakenJob
from shared.kinds.common.ask import body_for


def request_body(job: TakenJob, name: str, backend: BackendSettings, as_stream: bool) -> bytes:
    """Return the body, with the limit of tokens under the one of its two names that the backend knows."""
    options = job.spec.options
    limit = options.get("max_tokens")
    given_as = options.get("max_tokens_field", TOKEN_LIMITS[0])
    changes = backend.changes(job.spec.lane)
    if changes is not None:
        if changes.drops_limit:
            limit = None
        if changes.forced_limit is not None:
            given_as, limit = changes.forced_limit
        elif limit is None and changes.default_limit is not None:
            given_as, limit = changes.default_limit
    if limit is None:
        return body_for(job, name, backend, as_stream, changes, apart=TOKEN_LIMITS)
    field = backend.max_tokens_field or given_as
    return body_for(job, name, backend, as_stream, changes, b'"%b":%d' % (field.encode(), limit), TOKEN_LIMITS)
