"""A parsed body becomes a request, or one 400 that names the parameter; then what of it becomes a job."""

from __future__ import annotations

from typing import Any

from shared.errors import InvalidRequest
from shared.kinds.common.body import (
    PlainRequest,
    read_stream_options,
    stream_options_for_job,
    without_extras,
    without_nulls,
)
from shared.kinds.common.members import without_unknown_members
from shared.kinds.common.parameters import text_for_job
from shared.kinds.common.refusals import check
from shared.kinds.completions.schema import COMPLETION_REQUEST, PARAMETERS, UNIONS, CreateCompletionRequest
from shared.kinds.kind import Accepted
from shared.settings import ModelSettings

_WORKER_ADDS = frozenset({"model", "stream", "stream_options", "service_tier"})
_NULL_IS_NOTHING = PARAMETERS - {"prompt"}
"""A null prompt is one: the model begins a new document."""


def validate(body: dict[str, Any]) -> PlainRequest:
    """Check a parsed body; raises InvalidRequest with the `param` and `code` that OpenAI uses."""
    check(COMPLETION_REQUEST, body, UNIONS)
    body = without_nulls(body, _NULL_IS_NOTHING)
    if "best_of" in body and body["best_of"] < body.get("n", 1):
        raise InvalidRequest(
            "Invalid 'best_of': send at least as many as 'n' asks for.", param="best_of", code="invalid_value"
        )
    read_stream_options(body)
    return PlainRequest(
        model=body["model"], stream=body.get("stream", False), service_tier=body.get("service_tier"), body=body
    )


def accept(request: PlainRequest, model: ModelSettings) -> Accepted:
    """Return what becomes a job; raises InvalidRequest for parameters that the model refuses."""
    given = without_extras(request.body, PARAMETERS, model.extra_parameters)
    given = without_unknown_members(given, CreateCompletionRequest, model.extra_parameters)
    body, front = text_for_job(given, _WORKER_ADDS, model.changed_names)
    prompt = given["prompt"]
    prompts = len(prompt) if isinstance(prompt, list) and not isinstance(prompt[0], int) else 1
    answers = prompts * max(given.get("n", 1), given.get("best_of", 1))
    return Accepted(
        body=body,
        cost=len(body) / 4 + given.get("max_tokens", model.default_max_tokens) * answers,
        options={**front, **stream_options_for_job(given)},
    )
