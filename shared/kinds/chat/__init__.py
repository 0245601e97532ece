"""`POST /chat/completions`: messages in, an assistant's message out, whole or in chunks."""

from __future__ import annotations

from shared.kinds.chat.accept import accept, validate
from shared.kinds.chat.fold import open_fold
from shared.kinds.chat.plain import rewrite
from shared.kinds.chat.request import request_body
from shared.kinds.chat.schema import CHAT_REQUEST
from shared.kinds.chat.stream import open_stream
from shared.kinds.chat.structured import Checker, asked_again
from shared.kinds.common.sse import error_event
from shared.kinds.kind import Description, Kind


def _answers() -> tuple[type, ...]:
    from openai.types.chat import ChatCompletion, ChatCompletionChunk  # noqa: PLC0415 - most of a second

    return ChatCompletion, ChatCompletionChunk


CHAT = Kind(
    name="chat.completions",
    path="/chat/completions",
    validate=validate,
    accept=accept,
    request=request_body,
    stream=open_stream,
    fold=open_fold,
    plain=rewrite,
    check=Checker,
    asked_again=asked_again,
    error_event=error_event,
    description=Description(
        operation_id="createChatCompletion",
        tag="Chat",
        summary="Create a chat completion, streamed as server-sent events when `stream` is true.",
        request="CreateChatCompletionRequest",
        schema=CHAT_REQUEST,
        answers=_answers,
    ),
)
