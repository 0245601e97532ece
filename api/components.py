"""The schemas as OpenAPI 3.1 sees them: JSON Schema 2020-12 with references under `#/components/schemas`."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from api.schemas import ErrorResponse, ModelList
from shared.kinds.chat.schema.request import CHAT_REQUEST

REFERENCE = "#/components/schemas/{model}"


def openapi_components() -> dict[str, Any]:
    """Return `components.schemas`: request, answers, errors and all they refer to, each by its name."""
    # Importing the SDK takes most of a second; a process pays for it when its first description is asked for.
    from openai.types.chat import ChatCompletion, ChatCompletionChunk  # noqa: PLC0415

    request_schema = _described([("CreateChatCompletionRequest", "validation", CHAT_REQUEST)])
    answers: list[Any] = [ChatCompletion, ChatCompletionChunk, ErrorResponse, ModelList]
    answer_schemas = _described([(kind.__name__, "serialization", TypeAdapter(kind)) for kind in answers])
    clashes = request_schema.keys() & answer_schemas.keys()
    if clashes:
        raise ValueError(f"rename one of each: {sorted(clashes)} name both a request's and an answer's schema")
    return {**request_schema, **answer_schemas}


def chat_request_schema() -> dict[str, Any]:
    """Return the request's schema for a route's `requestBody`: a reference into `openapi_components`."""
    return {"$ref": REFERENCE.format(model="CreateChatCompletionRequest")}


def _described(inputs: list[tuple[str, Any, TypeAdapter[Any]]]) -> dict[str, Any]:
    _, document = TypeAdapter.json_schemas(inputs, ref_template=REFERENCE)
    definitions: dict[str, Any] = document["$defs"]
    return definitions
