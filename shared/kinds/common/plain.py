"""One whole answer of a backend in; the body for our client and its usage out. No I/O."""

from __future__ import annotations

from typing import Any

from shared.errors import BadBackendResponse
from shared.jobs import JobSpec, Usage
from shared.kinds.common.answers import dumps, loads, read_usage
from shared.kinds.common.backend_errors import error_in_answer, is_error
from shared.kinds.common.mend import mend_choice, mend_role, usage_beside, whole_created, whole_usage
from shared.kinds.common.shape import Shape
from shared.kinds.common.sse import without_end
from shared.kinds.common.tool_calls import calls_of, mend_whole_calls


def rewrite(body: bytes, shape: Shape, spec: JobSpec, job_id: str) -> tuple[bytes, Usage | None]:
    """Return the body with our id and the public model name, and with choices as OpenAI's contract allows them.

    Raises:
        BadBackendResponse: The body is no such answer, or the answer was aborted.
        BackendError: The body is an error despite its status.
    """
    answer = read_answer(body)
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices or not all(isinstance(choice, dict) for choice in choices):
        raise BadBackendResponse("The model's backend sent an answer without choices.")
    for place, choice in enumerate(choices):
        mend_choice(choice, place, shape)
        mend_role(choice.get("message"), shape)
        calls = calls_of(choice.get("message"))
        if choice.get("finish_reason") is None:
            choice["finish_reason"] = _implied_end(choice, shape)
        if calls:
            mend_whole_calls(calls, job_id, end=choice["finish_reason"])
    answer["created"] = whole_created(answer.get("created"), spec.created)
    answer.update(id=shape.id_prefix + job_id, object=shape.answer, model=spec.public_model)
    if spec.tier is not None:
        answer["service_tier"] = spec.tier
    else:
        answer.pop("service_tier", None)  # the backend's own, which says nothing of this queue
    if answer.get("usage") is None and (usage := usage_beside(choices[0], answer)) is not None:
        answer["usage"] = usage
    counted = read_usage(answer.get("usage"))
    if counted is not None:
        answer["usage"] = whole_usage(answer["usage"])
    return dumps(answer), counted


def _implied_end(choice: dict[str, Any], shape: Shape) -> str:
    """Return the finish reason of a whole choice that was given none."""
    message = choice.get("message")
    if isinstance(message, dict) and message.get("tool_calls"):
        return "tool_calls"
    if shape.has_text(choice):
        return "stop"
    raise BadBackendResponse("The model's backend sent a choice without text and without a finish reason.")


def read_answer(body: bytes) -> dict[str, Any]:
    """Return the JSON object in a whole answer; raises BadBackendResponse for none, and the error that it may be."""
    answer = loads(without_end(body))
    if not isinstance(answer, dict):
        raise BadBackendResponse("The model's backend sent an answer that is no JSON object.")
    if is_error(answer):
        raise error_in_answer(answer)
    return answer
