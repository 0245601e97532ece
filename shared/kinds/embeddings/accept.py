"""A parsed body becomes a request, or one 400 that names the parameter; then what of it becomes a job."""

from __future__ import annotations

from typing import Any

from shared.kinds.common.body import PlainRequest, without_extras, without_nulls
from shared.kinds.common.parameters import text_for_job
from shared.kinds.common.refusals import check_within
from shared.kinds.common.replaced import Object, each, replaced
from shared.kinds.embeddings.schema import EMBEDDING_REQUEST, MAX_INPUTS, PARAMETERS
from shared.kinds.kind import Accepted
from shared.settings import ModelSettings

_NOT_FOR_BACKENDS = frozenset({"model", "service_tier", "stream", "stream_options"})

_FILLED: dict[type, Any] = {str: "x", list: [0]}


def validate(body: dict[str, Any]) -> PlainRequest:
    """Check a parsed body; raises InvalidRequest with the `param` and `code` that OpenAI uses."""
    past_limits = check_within(EMBEDDING_REQUEST, body, {"input"}, _within_limits)
    body = without_nulls(body, PARAMETERS)
    return PlainRequest(model=body["model"], service_tier=body.get("service_tier"), body=body, past_limits=past_limits)


def accept(request: PlainRequest, model: ModelSettings) -> Accepted:
    """Return what becomes a job; raises InvalidRequest for parameters that the model refuses."""
    if request.past_limits is not None and model.parameter_limits == "openai":
        raise request.past_limits
    given = without_extras(request.body, PARAMETERS, model.extra_parameters)
    body, front = text_for_job(given, _NOT_FOR_BACKENDS, model.changed_names)
    asked = request.body.get("encoding_format", "float")
    return Accepted(body=body, cost=len(body) / 4, options={**front, "encoding_format": asked})


def _within_limits(body: Object) -> Object:
    """Return the body with a legal value in the place of each that only OpenAI's limits refuse."""
    limited: Object = replaced(body, input=_within_inputs)
    return limited


def _within_inputs(given: Any) -> Any:
    if given in ("", []):
        return "x"
    if type(given) is not list or type(given[0]) is int:
        return given
    made = each(given, lambda one: _FILLED.get(type(one)) if one in ("", []) else one)
    return made if len(made) <= MAX_INPUTS else made[:MAX_INPUTS]
