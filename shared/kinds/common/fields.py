"""The parameters that several kinds have, as pydantic reads them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag
from typing_extensions import TypedDict

INT64_MAX = 2**63 - 1

ServiceTier = Literal["auto", "default", "flex", "scale", "priority", "fast"]
Penalty = Annotated[float, Field(ge=-2, le=2)]
TokenLimit = Annotated[int, Field(ge=1, le=INT64_MAX)]
Seed = Annotated[int, Field(ge=-INT64_MAX - 1, le=INT64_MAX)]
TokenId = Annotated[str, Field(pattern=r"^[0-9]{1,20}$")]
LogitBias = Annotated[
    dict[TokenId, Annotated[int, Field(ge=-100, le=100)]],
    Field(fail_fast=True, json_schema_extra={"additionalProperties": False}),
]


def string_or_list(value: Any) -> str | None:
    """Choose the branch of a `string or array` field; the tags name the branches."""
    if type(value) is str:
        return "string"
    return "array" if type(value) is list else None


def text_or_tokens(value: Any) -> str | None:
    """Choose the branch of a prompt: text, tokens, or a list of either; the first item tells."""
    if type(value) is not list:
        return "string" if type(value) is str else None
    first = type(value[0]) if value else str
    return {str: "strings", int: "tokens", list: "token_arrays"}.get(first)


class StreamOptions(TypedDict, total=False):
    """Options of a streamed answer; 400 when those other than `include_usage` take more than 1,024 bytes."""

    include_usage: bool | None
    include_obfuscation: bool | None


# fail_fast everywhere: without it a 40 MB list of wrong items makes millions of error records, seconds and gigabytes.
StopList = Annotated[list[str], Field(fail_fast=True, min_length=1, max_length=4)]
Stop = Annotated[Annotated[str, Tag("string")] | Annotated[StopList, Tag("array")], Discriminator(string_or_list)]

Token = Annotated[int, Field(ge=0, le=INT64_MAX)]
Tokens = Annotated[list[Token], Field(fail_fast=True, min_length=1)]
