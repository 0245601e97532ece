"""Tools, the choice between them, and response formats: what a chat request may ask the model to produce."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Discriminator, Field, Tag
from typing_extensions import TypedDict


def string_or_object(value: Any) -> str | None:
    """Choose the branch of a `string or object` field; the tags name the branches."""
    if type(value) is str:
        return "string"
    return "object" if type(value) is dict else None


JsonObject = dict[str, Any]


class FunctionDefinition(TypedDict):
    """A function the model may call; `parameters` is a JSON Schema."""

    name: str
    description: NotRequired[str | None]
    parameters: NotRequired[JsonObject | None]
    strict: NotRequired[bool | None]


class FunctionTool(TypedDict):
    """A function tool."""

    type: Literal["function"]
    function: FunctionDefinition


class TextFormat(TypedDict):
    """Free text."""

    type: Literal["text"]


class Grammar(TypedDict):
    """A grammar and its syntax."""

    syntax: Literal["lark", "regex"]
    definition: str


class GrammarFormat(TypedDict):
    """Text bound to a grammar."""

    type: Literal["grammar"]
    grammar: Grammar


class CustomDefinition(TypedDict):
    """A custom tool's name and input format."""

    name: str
    description: NotRequired[str | None]
    format: NotRequired[Annotated[TextFormat | GrammarFormat, Field(discriminator="type")] | None]


class CustomTool(TypedDict):
    """A custom tool."""

    type: Literal["custom"]
    custom: CustomDefinition


Tool = Annotated[FunctionTool | CustomTool, Field(discriminator="type")]


class Named(TypedDict):
    """The name of a tool or function."""

    name: str


class NamedFunctionChoice(TypedDict):
    """Call this function."""

    type: Literal["function"]
    function: Named


class NamedCustomChoice(TypedDict):
    """Call this custom tool."""

    type: Literal["custom"]
    custom: Named


class AllowedTools(TypedDict):
    """The tools the model may choose from."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[JsonObject], Field(fail_fast=True)]


class AllowedToolsChoice(TypedDict):
    """Choose among these tools."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


ToolChoiceObject = Annotated[NamedFunctionChoice | NamedCustomChoice | AllowedToolsChoice, Field(discriminator="type")]
ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("string")] | Annotated[ToolChoiceObject, Tag("object")],
    Discriminator(string_or_object),
]
FunctionCallChoice = Annotated[
    Annotated[Literal["none", "auto"], Tag("string")] | Annotated[Named, Tag("object")],
    Discriminator(string_or_object),
]


class JsonObjectFormat(TypedDict):
    """Any valid JSON object."""

    type: Literal["json_object"]


class JsonSchema(TypedDict):
    """A JSON Schema (draft 2020-12) for the answer; with `strict` only the strict subset is legal, else 400."""

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_-]+$")]
    description: NotRequired[str | None]
    schema: NotRequired[JsonObject | None]
    strict: NotRequired[bool | None]


class JsonSchemaFormat(TypedDict):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]
