"""The messages of a chat request: six roles and their content parts, as pydantic reads them.

Members that OpenAI does not name (`reasoning_content`, `cache_control`, …) are accepted anywhere in here and travel on.
"""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import Discriminator, Field, Tag
from typing_extensions import TypedDict

from shared.kinds.common.fields import string_or_list


class PromptCacheBreakpoint(TypedDict):
    """Marks the end of a prompt prefix worth caching."""

    mode: Literal["explicit"]
    ttl: NotRequired[Literal["30m", "12h"] | None]


class TextPart(TypedDict):
    """A piece of text."""

    type: Literal["text"]
    text: str
    prompt_cache_breakpoint: NotRequired[PromptCacheBreakpoint | None]


class RefusalPart(TypedDict):
    """The assistant's refusal."""

    type: Literal["refusal"]
    refusal: str


class ImageUrl(TypedDict):
    """An image by address, or inline as a data URL."""

    url: str
    detail: NotRequired[Literal["auto", "low", "high", "original"] | None]


class ImagePart(TypedDict):
    """An image."""

    type: Literal["image_url"]
    image_url: ImageUrl
    prompt_cache_breakpoint: NotRequired[PromptCacheBreakpoint | None]


class InputAudio(TypedDict):
    """Base64-encoded sound."""

    data: str
    format: Literal["wav", "mp3"]


class InputAudioPart(TypedDict):
    """A sound clip."""

    type: Literal["input_audio"]
    input_audio: InputAudio
    prompt_cache_breakpoint: NotRequired[PromptCacheBreakpoint | None]


class InputFile(TypedDict, total=False):
    """A file, by id or inline as base64."""

    file_id: str | None
    file_data: str | None
    filename: str | None


class FilePart(TypedDict):
    """A file."""

    type: Literal["file"]
    file: InputFile
    prompt_cache_breakpoint: NotRequired[PromptCacheBreakpoint | None]


# fail_fast everywhere: without it a 40 MB list of wrong items makes millions of error records, seconds and gigabytes.
UserPart = Annotated[TextPart | ImagePart | InputAudioPart | FilePart, Field(discriminator="type")]
AssistantPart = Annotated[TextPart | RefusalPart, Field(discriminator="type")]
TextParts = Annotated[list[TextPart], Field(fail_fast=True, min_length=1)]
UserParts = Annotated[list[UserPart], Field(fail_fast=True, min_length=1)]
AssistantParts = Annotated[list[AssistantPart], Field(fail_fast=True, min_length=1)]

TextContent = Annotated[
    Annotated[str, Tag("string")] | Annotated[TextParts, Tag("array")], Discriminator(string_or_list)
]
UserContent = Annotated[
    Annotated[str, Tag("string")] | Annotated[UserParts, Tag("array")], Discriminator(string_or_list)
]
AssistantContent = Annotated[
    Annotated[str, Tag("string")] | Annotated[AssistantParts, Tag("array")], Discriminator(string_or_list)
]


class PastFunctionCall(TypedDict):
    """A function call made by the model; `arguments` is JSON as text, not always valid."""

    name: str
    arguments: str


class FunctionToolCall(TypedDict):
    """A call of a function tool."""

    id: str
    type: Literal["function"]
    function: PastFunctionCall


class CustomCall(TypedDict):
    """The name and input of a custom tool's call."""

    name: str
    input: str


class CustomToolCall(TypedDict):
    """A call of a custom tool."""

    id: str
    type: Literal["custom"]
    custom: CustomCall


ToolCall = Annotated[FunctionToolCall | CustomToolCall, Field(discriminator="type")]


class PastAudio(TypedDict):
    """An earlier audio answer, by its id."""

    id: str


class DeveloperMessage(TypedDict):
    """Instructions from the developer."""

    role: Literal["developer"]
    content: TextContent
    name: NotRequired[str | None]


class SystemMessage(TypedDict):
    """Instructions from the developer, under the older name."""

    role: Literal["system"]
    content: TextContent
    name: NotRequired[str | None]


class UserMessage(TypedDict):
    """What the user says, shows or attaches."""

    role: Literal["user"]
    content: UserContent
    name: NotRequired[str | None]


class AssistantMessage(TypedDict):
    """An earlier answer.

    Content is required unless there are tool calls, a function call, a refusal or audio: otherwise 400. Its parts are
    one or more `text`, or exactly one `refusal`.
    """

    role: Literal["assistant"]
    content: NotRequired[AssistantContent | None]
    name: NotRequired[str | None]
    refusal: NotRequired[str | None]
    # Null is taken: it is what `message.model_dump()` of the OpenAI SDK gives back.
    tool_calls: NotRequired[Annotated[list[ToolCall], Field(fail_fast=True)] | None]
    audio: NotRequired[PastAudio | None]
    function_call: NotRequired[PastFunctionCall | None]


class ToolMessage(TypedDict):
    """What a tool answered."""

    role: Literal["tool"]
    content: TextContent
    tool_call_id: str


class FunctionMessage(TypedDict):
    """What a function answered (deprecated: use `tool`)."""

    role: Literal["function"]
    content: str | None
    name: str


Message = Annotated[
    DeveloperMessage | SystemMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage,
    Field(discriminator="role"),
]
