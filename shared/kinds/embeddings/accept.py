"""A parsed body becomes a request, or one 400 that names the parameter; then what of it becomes a job."""

from __future__ import annotations

from typing import Any

from shared.kinds.common.body import PlainRequest, without_extras, without_nulls
from shared.kinds.common.parameters import text_for_job
from shared.kinds.common.refusals import check
from shared.kinds.embeddings.schema import EMBEDDING_REQUEST, PARAMETERS
from shared.kinds.kind import Accepted
from shared.settings import ModelSettings

_NOT_FOR_BACKENDS = frozenset({"model", "service_tier", "stream", "stream_options"})


def validate(body: dict[str, Any]) -> PlainRequest:
    """Check a parsed body; raises InvalidRequest with the `param` and `code` that OpenAI uses."""
    check(EMBEDDING_REQUEST, body, unions={"input"})
    body = without_nulls(body, PARAMETERS)
    return PlainRequest(model=body["model"], service_tier=body.get("service_tier"), body=body)


def accept(request: PlainRequest, model: ModelSettings) -> Accepted:
    """Return what becomes a job; raises InvalidRequest for parameters that the model refuses."""
    given = without_extras(request.body, PARAMETERS, model.extra_parameters)
    body, front = text_for_job(given, _NOT_FOR_BACKENDS, model.changed_names)
    asked = request.body.get("encoding_format", "float")
    return Accepted(body=body, cost=len(body) / 4, options={**front, "encoding_format": asked})
