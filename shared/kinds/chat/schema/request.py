"""The body of `POST /chat/completions` as one pydantic schema: in goes a parsed body, out comes agreement or errors.

Validation runs on plain dictionaries and its result is thrown away: the client's own dictionary is what travels on,
so that order, falsy values and unknown members survive.
"""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import Discriminator, Field, Tag, TypeAdapter
from typing_extensions import TypedDict

from shared.kinds.chat.schema.messages import Message, TextContent
from shared.kinds.chat.schema.tools import (
    FunctionCallChoice,
    FunctionDefinition,
    ResponseFormat,
    Tool,
    ToolChoice,
    string_or_object,
)
from shared.kinds.common.fields import LogitBias, Penalty, Seed, ServiceTier, Stop, StreamOptions, TokenLimit


class VoiceId(TypedDict):
    """A custom voice."""

    id: str


class AudioOutput(TypedDict):
    """How a spoken answer sounds."""

    voice: Annotated[Annotated[str, Tag("string")] | Annotated[VoiceId, Tag("object")], Discriminator(string_or_object)]
    format: Literal["wav", "aac", "mp3", "flac", "opus", "pcm16"]


class ModerationMode(TypedDict):
    """What to do with flagged text."""

    mode: Literal["score", "block"]


class ModerationPolicy(TypedDict, total=False):
    """What to do with flagged input and output."""

    input: ModerationMode | None
    output: ModerationMode | None


class Moderation(TypedDict):
    """Moderation of input and answer."""

    model: str
    policy: NotRequired[ModerationPolicy | None]


class Prediction(TypedDict):
    """Text that much of the answer will repeat."""

    type: Literal["content"]
    content: TextContent


class PromptCacheOptions(TypedDict, total=False):
    """How the prompt is cached."""

    mode: Literal["implicit", "explicit"] | None
    ttl: Literal["30m"] | None


class ApproximateLocation(TypedDict, total=False):
    """Roughly where the user is."""

    city: str | None
    country: str | None
    region: str | None
    timezone: str | None


class UserLocation(TypedDict):
    """Where the user is."""

    type: Literal["approximate"]
    approximate: ApproximateLocation


class WebSearchOptions(TypedDict, total=False):
    """How to search the web."""

    search_context_size: Literal["low", "medium", "high"] | None
    user_location: UserLocation | None


class CreateChatCompletionRequest(TypedDict):
    """A chat completion request.

    Answered 400 besides what the schema says: `stream_options` without `stream: true`; `top_logprobs` without
    `logprobs: true`; `modalities` with `audio` but no `audio` object; a `tool_choice` that demands a tool without
    `tools`; an assistant message with nothing in it; a response schema that is no JSON Schema or, with `strict`,
    outside the strict subset. Unknown members at any depth are passed on, dropped or refused, and unknown roles,
    content parts, tools, audio and response formats passed on or refused: a setting of the model. Another one leaves
    to its backend limits that not all servers have: 4 stop strings, `max_tokens` from 1, empty lists, `top_logprobs`
    without `logprobs`, images for system and tools, calls without `arguments`.
    """

    model: str
    messages: Annotated[list[Message], Field(fail_fast=True, min_length=1)]
    audio: NotRequired[AudioOutput | None]
    frequency_penalty: NotRequired[Penalty | None]
    function_call: NotRequired[FunctionCallChoice | None]
    functions: NotRequired[
        Annotated[list[FunctionDefinition], Field(fail_fast=True, min_length=1, max_length=128)] | None
    ]
    logit_bias: NotRequired[LogitBias | None]
    logprobs: NotRequired[bool | None]
    max_completion_tokens: NotRequired[TokenLimit | None]
    max_tokens: NotRequired[TokenLimit | None]
    metadata: NotRequired[
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
            Field(fail_fast=True, max_length=16),
        ]
        | None
    ]
    modalities: NotRequired[Annotated[list[Literal["text", "audio"]], Field(fail_fast=True, min_length=1)] | None]
    moderation: NotRequired[Moderation | None]
    n: NotRequired[Annotated[int, Field(ge=1, le=128)] | None]
    parallel_tool_calls: NotRequired[bool | None]
    prediction: NotRequired[Prediction | None]
    presence_penalty: NotRequired[Penalty | None]
    prompt_cache_key: NotRequired[str | None]
    prompt_cache_options: NotRequired[PromptCacheOptions | None]
    prompt_cache_retention: NotRequired[Literal["in_memory", "24h"] | None]
    reasoning_effort: NotRequired[Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None]
    response_format: NotRequired[ResponseFormat | None]
    safety_identifier: NotRequired[Annotated[str, Field(max_length=128)] | None]
    seed: NotRequired[Seed | None]
    service_tier: NotRequired[ServiceTier | None]
    stop: NotRequired[Stop | None]
    store: NotRequired[bool | None]
    stream: NotRequired[bool | None]
    stream_options: NotRequired[StreamOptions | None]
    temperature: NotRequired[Annotated[float, Field(ge=0, le=2)] | None]
    tool_choice: NotRequired[ToolChoice | None]
    tools: NotRequired[Annotated[list[Tool], Field(fail_fast=True)] | None]
    top_logprobs: NotRequired[Annotated[int, Field(ge=0, le=20)] | None]
    top_p: NotRequired[Annotated[float, Field(ge=0, le=1)] | None]
    user: NotRequired[str | None]
    verbosity: NotRequired[Literal["low", "medium", "high"] | None]
    web_search_options: NotRequired[WebSearchOptions | None]


CHAT_REQUEST: TypeAdapter[CreateChatCompletionRequest] = TypeAdapter(CreateChatCompletionRequest)
"""Built once, at import; use `validate_python(body, strict=True)`."""

PARAMETERS: frozenset[str] = frozenset(CreateChatCompletionRequest.__annotations__)
"""Every top-level name that the OpenAI schema knows."""

_BRANCH_TAGS = {
    "messages[]": 1,
    "messages[].content": 1,
    "messages[].tool_calls[]": 1,
    "prediction.content": 1,
    "tools[]": 1,
    "tools[].custom.format": 1,
    "tool_choice": 2,
    "function_call": 1,
    "response_format": 1,
    "stop": 1,
    "audio.voice": 1,
}
_ROLES_WITH_PART_UNIONS = frozenset({"user", "assistant"})


def without_branch_tags(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Remove from a pydantic error's location the names of union branches, so that it is a path into the body."""
    path: list[int | str] = []
    pattern = ""
    tags = 0
    for element in location:
        if tags:
            tags -= 1
            continue
        path.append(element)
        pattern += "[]" if isinstance(element, int) else f".{element}" if pattern else element
        tags = _BRANCH_TAGS.get(pattern, 0)
        if pattern == "messages[].content[]":
            tags = int(location[2] in _ROLES_WITH_PART_UNIONS)
    return tuple(path)
