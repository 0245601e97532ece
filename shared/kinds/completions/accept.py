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
from shared.kinds.common.fields import INT64_MAX
from shared.kinds.common.members import without_unknown_members
from shared.kinds.common.parameters import text_for_job
from shared.kinds.common.refusals import check_within
from shared.kinds.common.replaced import Object, replaced, within_stops
from shared.kinds.completions.schema import COMPLETION_REQUEST, PARAMETERS, UNIONS, CreateCompletionRequest
from shared.kinds.kind import Accepted
from shared.settings import ModelSettings

_WORKER_ADDS = frozenset({"model", "stream", "stream_options", "service_tier"})
_NULL_IS_NOTHING = PARAMETERS - {"prompt"}
"""A null prompt is one: the model begins a new document."""

_MOST_LOGPROBS = 100_000
"""Past OpenAI's 5 where a server gives more; -1 is all of them, to some."""


def validate(body: dict[str, Any]) -> PlainRequest:
    """Check a parsed body; raises InvalidRequest with the `param` and `code` that OpenAI uses."""
    past_limits = check_within(COMPLETION_REQUEST, body, UNIONS, _within_limits)
    body = without_nulls(body, _NULL_IS_NOTHING)
    if "best_of" in body and body["best_of"] < body.get("n", 1):
        raise InvalidRequest(
            "Invalid 'best_of': send at least as many as 'n' asks for.", param="best_of", code="invalid_value"
        )
    read_stream_options(body)
    return PlainRequest(
        model=body["model"],
        stream=body.get("stream", False),
        service_tier=body.get("service_tier"),
        body=body,
        past_limits=past_limits,
    )


def accept(request: PlainRequest, model: ModelSettings) -> Accepted:
    """Return what becomes a job; raises InvalidRequest for parameters that the model refuses."""
    if request.past_limits is not None and model.parameter_limits == "openai":
        raise request.past_limits
    given = without_extras(request.body, PARAMETERS, model.extra_parameters)
    given = without_unknown_members(given, CreateCompletionRequest, model.extra_parameters)
    body, front = text_for_job(given, _WORKER_ADDS, model.changed_names)
    prompt = given["prompt"]
    prompts = len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1
    answers = prompts * max(given.get("n", 1), given.get("best_of", 1))
    limit = given.get("max_tokens", model.default_max_tokens)
    if limit < 0:  # endless, to some servers
        limit = model.default_max_tokens
    return Accepted(
        body=body,
        cost=len(body) / 4 + limit * answers,
        options={**front, **stream_options_for_job(given)},
    )


def _within_limits(body: Object) -> Object:
    """Return the body with a legal value in the place of each that only OpenAI's limits refuse."""
    limited: Object = replaced(
        body,
        stop=within_stops,
        prompt=lambda prompt: None if prompt == [] else prompt,
        max_tokens=lambda limit: None if type(limit) is int and -INT64_MAX <= limit < 0 else limit,
        logprobs=lambda count: None if type(count) is int and -1 <= count <= _MOST_LOGPROBS else count,
    )
    return limited
