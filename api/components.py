"""The schemas as OpenAPI 3.1 sees them: JSON Schema 2020-12 with references under `#/components/schemas`."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from api.batches.schemas import CREATE
from api.schemas import ErrorResponse, ModelList
from shared.kinds import KINDS

_REFERENCE = "#/components/schemas/{model}"


def openapi_components() -> dict[str, Any]:
    """Return `components.schemas`: requests, answers, errors and all they refer to, each by its name."""
    described = [kind.description for kind in KINDS.values()]
    jobs = [(one.request, one.schema) for one in described]
    requests = _described([(name, "validation", schema) for name, schema in (*jobs, ("CreateBatchRequest", CREATE))])
    types: list[Any] = [*(answer for one in described for answer in one.answers()), ErrorResponse, ModelList]
    answers = _described([(kind.__name__, "serialization", TypeAdapter(kind)) for kind in dict.fromkeys(types)])
    clashes = requests.keys() & answers.keys()
    if clashes:
        raise ValueError(f"rename one of each: {sorted(clashes)} name both a request's and an answer's schema")
    return {**requests, **answers}


def reference(name: str) -> dict[str, Any]:
    """Return a reference to one of the components."""
    return {"$ref": _REFERENCE.format(model=name)}


def _described(inputs: list[tuple[str, Any, TypeAdapter[Any]]]) -> dict[str, Any]:
    _, document = TypeAdapter.json_schemas(inputs, ref_template=_REFERENCE)
    definitions: dict[str, Any] = document["$defs"]
    return definitions
