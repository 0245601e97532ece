"""The body of `POST /completions` as one pydantic schema."""

from __future__ import annotations

from typing import Annotated, NotRequired

from pydantic import Discriminator, Field, Tag, TypeAdapter
from typing_extensions import TypedDict

from shared.kinds.common.fields import (
    INT64_MAX,
    LogitBias,
    Penalty,
    Seed,
    ServiceTier,
    Stop,
    StreamOptions,
    Tokens,
    text_or_tokens,
)

Prompt = Annotated[
    Annotated[str, Tag("string")]
    | Annotated[list[str], Field(fail_fast=True, min_length=1), Tag("strings")]
    | Annotated[Tokens, Tag("tokens")]
    | Annotated[list[Tokens], Field(fail_fast=True, min_length=1), Tag("token_arrays")],
    Discriminator(text_or_tokens),
]


class CreateCompletionRequest(TypedDict):
    """A completion request.

    Answered 400 besides what the schema says: `stream_options` without `stream: true`; `best_of` below `n`. A setting
    of the model leaves to its backend 4 stop strings, `max_tokens` from 0, 5 `logprobs` and empty lists. Unknown
    top-level parameters are passed on, dropped or refused: a setting of the model. `service_tier` is the gateway's own
    here: it chooses the lane and goes no further.
    """

    model: str
    prompt: Prompt | None
    best_of: NotRequired[Annotated[int, Field(ge=0, le=20)] | None]
    echo: NotRequired[bool | None]
    frequency_penalty: NotRequired[Penalty | None]
    logit_bias: NotRequired[LogitBias | None]
    logprobs: NotRequired[Annotated[int, Field(ge=0, le=5)] | None]
    max_tokens: NotRequired[Annotated[int, Field(ge=0, le=INT64_MAX)] | None]
    n: NotRequired[Annotated[int, Field(ge=1, le=128)] | None]
    presence_penalty: NotRequired[Penalty | None]
    seed: NotRequired[Seed | None]
    service_tier: NotRequired[ServiceTier | None]
    stop: NotRequired[Stop | None]
    stream: NotRequired[bool | None]
    stream_options: NotRequired[StreamOptions | None]
    suffix: NotRequired[str | None]
    temperature: NotRequired[Annotated[float, Field(ge=0, le=2)] | None]
    top_p: NotRequired[Annotated[float, Field(ge=0, le=1)] | None]
    user: NotRequired[str | None]


COMPLETION_REQUEST: TypeAdapter[CreateCompletionRequest] = TypeAdapter(CreateCompletionRequest)
PARAMETERS: frozenset[str] = frozenset(CreateCompletionRequest.__annotations__)
UNIONS = frozenset({"prompt", "stop"})
"""Members whose branches pydantic names in an error's place."""
