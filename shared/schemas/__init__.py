"""The OpenAI request and response shapes."""

from shared.schemas.openapi import chat_request_schema, openapi_components
from shared.schemas.request import CHAT_REQUEST, PARAMETERS, CreateChatCompletionRequest, without_branch_tags
from shared.schemas.responses import (
    ErrorObject,
    ErrorResponse,
    Model,
    ModelList,
)
from shared.schemas.structured import schema_problem

__all__ = [
    "CHAT_REQUEST",
    "PARAMETERS",
    "CreateChatCompletionRequest",
    "ErrorObject",
    "ErrorResponse",
    "Model",
    "ModelList",
    "chat_request_schema",
    "openapi_components",
    "schema_problem",
    "without_branch_tags",
]
