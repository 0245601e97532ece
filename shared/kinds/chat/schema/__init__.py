"""The body of a chat request as pydantic reads it."""

from shared.kinds.chat.schema.request import (
    CHAT_REQUEST,
    PARAMETERS,
    CreateChatCompletionRequest,
    without_branch_tags,
)
from shared.kinds.chat.schema.structured import schema_problem

__all__ = ["CHAT_REQUEST", "PARAMETERS", "CreateChatCompletionRequest", "schema_problem", "without_branch_tags"]
