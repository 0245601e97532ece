"""The body of `POST /embeddings` and its answer, as pydantic reads and describes them."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import Discriminator, Field, Tag, TypeAdapter
from typing_extensions import TypedDict

from shared.kinds.common.fields import INT64_MAX, ServiceTier, Tokens, text_or_tokens

MAX_INPUTS = 2048
Text = Annotated[str, Field(min_length=1)]
Input = Annotated[
    Annotated[Text, Tag("string")]
    | Annotated[list[Text], Field(fail_fast=True, min_length=1, max_length=MAX_INPUTS), Tag("strings")]
    | Annotated[Tokens, Tag("tokens")]
    | Annotated[list[Tokens], Field(fail_fast=True, min_length=1, max_length=MAX_INPUTS), Tag("token_arrays")],
    Discriminator(text_or_tokens),
]


class CreateEmbeddingRequest(TypedDict):
    """An embeddings request. `service_tier` is the gateway's own here: it chooses the lane and goes no further.

    A setting of the model leaves to its backend how many inputs there may be, and whether one may be empty.
    """

    model: str
    input: Input
    dimensions: NotRequired[Annotated[int, Field(ge=1, le=INT64_MAX)] | None]
    encoding_format: NotRequired[Literal["float", "base64"] | None]
    service_tier: NotRequired[ServiceTier | None]
    user: NotRequired[str | None]


class Embedding(TypedDict):
    """One input's vector: numbers, or 32-bit floats (little-endian) in Base64, as `encoding_format` asks."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class CreateEmbeddingResponse(TypedDict):
    """The vectors, in the order of the inputs."""

    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: NotRequired[dict[str, int]]


EMBEDDING_REQUEST: TypeAdapter[CreateEmbeddingRequest] = TypeAdapter(CreateEmbeddingRequest)
PARAMETERS: frozenset[str] = frozenset(CreateEmbeddingRequest.__annotations__)
