"""One whole answer of a backend in; the `chat.completion` body for our client and its usage out. No I/O."""

from __future__ import annotations

from typing import Any

from shared.errors import BadBackendResponse
from shared.jobs import JobSpec, Usage
from shared.kinds.common.answers import dumps, find_member, loads, public_finish_reason, read_usage
from shared.kinds.common.backend_errors import error_in_answer, is_error

_OBJECT = "chat.completion"


def rewrite_completion(
    body: bytes, *, job_id: str, public_model: str, created: int | None = None
) -> tuple[bytes, Usage | None]:
    """Return the body with our id and the public model name, all else as the backend wrote it, and the usage.

    Args:
        body: The backend's JSON.
        job_id: The id becomes `chatcmpl-<job_id>`.
        public_model: The name that the client knows.
        created: Unix seconds, for a backend that gives none.

    Raises:
        BadBackendResponse: The body is not a completion, or the answer was aborted.
        BackendError: The body is an error despite its status.
    """
    completion = _parse(body)
    wanted: dict[str, Any] = {"id": f"chatcmpl-{job_id}", "model": public_model}
    is_changed = _fix(completion, created)
    rewritten = None if is_changed else _replace(body, completion, wanted)
    if rewritten is None:
        rewritten = dumps({**dict.fromkeys(wanted), **completion, **wanted})
    return rewritten, read_usage(completion.get("usage"))


def rewrite(body: bytes, spec: JobSpec, job_id: str) -> tuple[bytes, Usage | None]:
    """Return the body for a job's client and its usage; raises what `rewrite_completion` raises."""
    return rewrite_completion(body, job_id=job_id, public_model=spec.public_model, created=spec.created)


def _parse(body: bytes) -> dict[str, Any]:
    try:
        body.decode()
    except UnicodeDecodeError:
        raise BadBackendResponse("The model's backend sent text that is not UTF-8.") from None
    completion = loads(body)
    if isinstance(completion, dict) and is_error(completion):
        raise error_in_answer(completion)
    choices = completion.get("choices") if isinstance(completion, dict) else None
    if not isinstance(choices, list) or not choices or not all(isinstance(choice, dict) for choice in choices):
        raise BadBackendResponse("The model's backend sent an answer without choices.")
    return dict(completion)


def _fix(completion: dict[str, Any], created: int | None) -> bool:
    """Mend what OpenAI's contract does not allow; tell whether anything was."""
    is_changed = False
    for choice in completion["choices"]:
        given = choice.get("finish_reason")
        reason = public_finish_reason(given)
        if reason != given:
            choice["finish_reason"] = reason
            is_changed = True
    if completion.get("object") != _OBJECT:
        completion["object"] = _OBJECT
        is_changed = True
    if completion.get("created") is None and created is not None:
        completion["created"] = created
        is_changed = True
    return is_changed


def _replace(body: bytes, completion: dict[str, Any], wanted: dict[str, Any]) -> bytes | None:
    """Replace members in the bytes; None where they cannot be told apart from others."""
    edits = []
    for key, value in wanted.items():
        span = find_member(body, key, completion.get(key))
        if span is None:
            return None
        edits.append((span, key, value))
    for (start, end), key, value in sorted(edits, reverse=True):
        body = b'%b"%b":%b%b' % (body[:start], key.encode(), dumps(value), body[end:])
    return body
