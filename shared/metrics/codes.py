"""Error codes as a label: those of our own, as a backend's may be anything, and as many as it likes."""

from __future__ import annotations

from functools import cache
from typing import Final

from shared.errors import AqueductError

OTHER: Final = "other"

_GIVEN: Final = frozenset(
    {
        "array_above_max_length", "backend_error", "completion_in_progress", "context_length_exceeded",
        "empty_array", "file_too_large", "group_exists", "idempotency_key_in_use", "idempotency_key_reused",
        "insufficient_quota", "invalid_api_key", "invalid_batch_status", "invalid_form", "invalid_http",
        "invalid_json", "invalid_type", "invalid_upload_status", "invalid_value",
        "missing_required_parameter", "not_a_stream", "nothing_to_retry", "object_above_max_properties",
        "range_not_satisfiable", "request_timeout", "storage_full", "storage_not_set_up",
        "storage_unavailable", "string_above_max_length", "token_exists", "too_many_connections",
        "too_many_large_bodies",
        "too_many_open_batches", "too_many_values", "unknown_parameter", "unsupported_parameter",
        "unsupported_value",
    }
)  # fmt: skip
"""What is given where an error is raised, and what backends say that clients decide by."""


@cache
def _known() -> frozenset[str]:
    found: set[str] = set(_GIVEN)
    classes = [AqueductError]
    while classes:
        one = classes.pop()
        classes += one.__subclasses__()
        if one.code is not None:
            found.add(one.code)
    return frozenset(found)


def code_label(code: str | None) -> str:
    """Return an error's code as a label: empty for none, `other` for one that is not of ours."""
    if code is None:
        return ""
    return code if code in _known() else OTHER
